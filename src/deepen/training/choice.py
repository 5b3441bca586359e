"""What `deepen train PHOTOS` alone does: a network and a recipe by the data, said in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from deepen.data.sources import PictureSet
from deepen.training.inputs import PHOTO_PX
from deepen.training.recipe import Recipe, load_recipe

IMAGES_TO_SEE = 20_000
"""Pictures that a chosen run goes through in all: minutes on two cores with the chosen network."""


class Choice(NamedTuple):
    """Network and recipe, and a line of reasons for each that was not the user's word."""

    model: str
    recipe: Recipe
    words: tuple[str, ...]


def choose(
    source: PictureSet, model: str | None, recipe: str | None, changes: dict[str, Any]
) -> Choice:
    """Fill in what the user left open.

    Args:
        source: the data.
        model: the user's word, if any.
        recipe: the user's word, if any.
        changes: of the recipe, the user's; they win over what is chosen here.

    Raises:
        InputError: an unknown recipe or an impossible change.
    """
    words = []
    if model is None:
        model = "resnet20"
        words.append(
            f"model: {model}, the smallest residual network (He et al. 2015, 270 thousand "
            "parameters), trains from scratch within minutes on a CPU; see: deepen models"
        )
    if recipe is not None:
        return Choice(model, load_recipe(recipe, changes), tuple(words))
    if model == "lenet5":
        words.append("recipe: lenet-1998, the paper's for this network")
        return Choice(model, load_recipe("lenet-1998", changes), tuple(words))
    chosen = _quick(source, changes)
    words.append(_explain(source, chosen, changes))
    return Choice(model, load_recipe("quick", chosen | changes), tuple(words))


def _quick(source: PictureSet, changes: dict[str, Any]) -> dict[str, Any]:
    count = len(source.splits["train"])
    chosen: dict[str, Any] = {}
    if not any(key.startswith("length.") for key in changes):
        chosen["length.epochs"] = min(60, max(5, round(IMAGES_TO_SEE / max(1, count))))
    if source.splits["train"].images is None:
        chosen |= {"augment.crop": "random_resized", "augment.area": [0.25, 1.0]}
    else:
        chosen |= {"augment.crop": "pad", "augment.pad_px": 1 + _height(source) // 16}
    if source.channels == 3:  # a mirrored digit or letter is another one
        chosen["augment.flip"] = True
    if count < 64 * 20:
        chosen["batch_size"] = 32
    return chosen


def _height(source: PictureSet) -> int:
    images = source.splits["train"].images
    return PHOTO_PX if images is None else images.shape[1]


def _explain(source: PictureSet, chosen: dict[str, Any], changes: dict[str, Any]) -> str:
    epochs = (chosen | changes).get("length.epochs", "as asked")
    crop = "random crops" if chosen["augment.crop"] == "random_resized" else "shifts"
    flips = " and flips" if "augment.flip" in chosen else ""
    count = len(source.splits["train"])
    return f"recipe: quick, {epochs} epochs of {count:,} training pictures, with {crop}{flips}"
