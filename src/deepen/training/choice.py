"""What `deepen train PHOTOS` alone does: a network and a recipe by the data, said in words.

Rules, not measurements, so that the same data on the same kind of machine get the same run.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from deepen.analysis.complexity import Complexity, complexity
from deepen.analysis.subject import subject
from deepen.data.sampling import UNEVEN, imbalance
from deepen.data.sources import PictureSet
from deepen.errors import InputError
from deepen.training.prepare import PHOTO_PX
from deepen.training.recipe import Recipe, load_recipe
from deepen.weights import Card

IMAGES_TO_SEE = {"cpu": 20_000, "mps": 200_000, "cuda": 2_000_000}
"""Pictures that a chosen run goes through in all, by the kind of device."""
LONGEST_S = 1800
"""What a chosen run may take by the rule below; a larger network that would take longer is not."""
MACS_PER_S = {"cpu": 30e9, "mps": 500e9, "cuda": 15e12}
"""A rule of thumb for training, a CPU's for each core (ResNet-20 on AVX2: 25 to 33 billion)."""
TRAINING = 3  # a step costs as much as three predictions: forward, and backward twice that
FEWEST_EPOCHS, MOST_EPOCHS = 5, 60


class Candidate(NamedTuple):
    """A network to train from scratch, what it is shown, and with how many pictures at least.

    `size_px` None: the pictures' own size.
    """

    model: str
    size_px: int | None
    pictures: int


# From small to large; the last that fits is taken.
SMALL_PICTURES = (Candidate("resnet20", None, 0), Candidate("resnet56", None, 20_000))
PHOTOGRAPHS = (
    Candidate("resnet20", PHOTO_PX, 0),
    Candidate("resnet18", 128, 20_000),
    Candidate("resnet50", 224, 200_000),
)
PRETRAINED = {"cpu": "resnet18", "mps": "resnet18", "cuda": "resnet50_v1_5"}
"""Whose ImageNet weights are taken where nobody names a network."""


class Choice(NamedTuple):
    """Network and recipe, and a line of reasons for each that was not the user's word."""

    model: str
    recipe: Recipe
    words: tuple[str, ...]


def choose(
    source: PictureSet,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any],
    card: Card | None = None,
    device: str = "cpu",
) -> Choice:
    """Fill in what the user left open.

    Args:
        source: the data.
        model: the user's word, if any.
        recipe: the user's word, if any.
        changes: of the recipe, the user's; they win over what is chosen here.
        card: of the trained weights to go on with, if any.
        device: "cpu", "cuda" or "mps".

    Raises:
        InputError: an unknown recipe or an impossible change.
    """
    words, chosen = [], {}
    if card is not None:
        model = card.architecture
        words.append(f"model: {model}, which the weights belong to")
    elif model is None:
        picked = _candidate(source, changes, device)
        model = picked.model
        if picked.size_px is not None and picked.size_px != PHOTO_PX:
            chosen["input.size_px"] = picked.size_px
        words.append(_why(picked, source, device))
    if recipe is None and model == "lenet5" and card is None:
        recipe = "lenet-1998"
        words.append("recipe: lenet-1998, the paper's for this network")
    elif recipe is None:
        recipe = "quick" if card is None else "finetune"
        chosen |= _fitted(source, changes, device)
        words.append(_explain(recipe, source, chosen, changes))
    complete = load_recipe(recipe, chosen | changes)
    words += _on_uneven_classes(source, complete)
    return Choice(model, complete, tuple(words))


def _on_uneven_classes(source: PictureSet, recipe: Recipe) -> list[str]:
    """A line where one class has many times another's pictures, and nothing evens that out."""
    train, weights = source.splits["train"], getattr(recipe.loss, "class_weights", "none")
    labels = train.labels
    if train.targets is not None:  # labels are no more than the first of several
        return []
    if recipe.sampling == "balanced" or weights != "none" or imbalance(labels) < UNEVEN:
        return []
    found, sizes = np.unique(labels, return_counts=True)
    places = (sizes.argmax(), sizes.argmin())
    most, least = (f"{source.classes[found[i]]} {sizes[i]:,}" for i in places)
    return [
        f"classes: uneven, {imbalance(labels):.0f} to 1 (training pictures: {most}, {least}); "
        "--sampling balanced or --class-weights balanced evens that out, --choose-by balanced has "
        "each class weigh the same in the choice of the epoch"
    ]


def size_in_words(network: nn.Module, input_shape: tuple[int, ...], device: str) -> str:
    """How large a network is, and how fast it should train here by the rule; "" if uncountable."""
    try:
        costs = complexity(network, input_shape)
    except InputError:  # a network of the user's own that cannot be followed without values
        return ""
    shape = "x".join(map(str, input_shape))
    return (
        f"{costs.parameters:,} parameters, {_macs(costs)} a picture of {shape}; by rule about "
        f"{_rate(costs.macs, device):,.0f} images/s in training here"
    )


def _macs(costs: Complexity) -> str:
    return (
        f"{costs.macs / 1e9:.2f} billion MACs"
        if costs.macs >= 1e9
        else f"{costs.macs / 1e6:.1f} million MACs"
    )


def _rate(macs: int, device: str) -> float:
    """Pictures a second in training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = cores or 1 if device == "cpu" else 1
    return MACS_PER_S.get(device, MACS_PER_S["cpu"]) * workers / (TRAINING * max(1, macs))


def _candidate(source: PictureSet, changes: dict[str, Any], device: str) -> Candidate:
    """The largest network that has pictures enough and time enough."""
    train = source.splits["train"]
    ladder = PHOTOGRAPHS if _height(source) > 40 else SMALL_PICTURES
    best = ladder[0]
    for candidate in ladder[1:]:
        size = changes.get("input.size_px") or candidate.size_px or _height(source)
        if len(train) < candidate.pictures or not isinstance(size, int):
            continue
        counted = subject(candidate.model, (source.channels, size, size))
        rate = _rate(complexity(counted.module, counted.input_shape).macs, device)
        if _epochs(source, device) * len(train) / rate <= LONGEST_S:
            best = candidate
    return best


def _why(picked: Candidate, source: PictureSet, device: str) -> str:
    ladder = PHOTOGRAPHS if picked in PHOTOGRAPHS else SMALL_PICTURES
    larger = ladder[ladder.index(picked) + 1 :]
    count = len(source.splits["train"])
    why = "the largest of the usual ones"
    if larger:
        why = (
            f"{larger[0].model} wants {larger[0].pictures:,} pictures at least"
            if count < larger[0].pictures
            else f"{larger[0].model} would take longer than {LONGEST_S // 60} minutes on this "
            f"{device}"
        )
    return f"model: {picked.model}, from scratch on {count:,} pictures: {why}; see: deepen models"


def _epochs(source: PictureSet, device: str) -> int:
    seen = IMAGES_TO_SEE.get(device, IMAGES_TO_SEE["cpu"])
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(seen / max(1, len(source.splits["train"])))))


def _fitted(source: PictureSet, changes: dict[str, Any], device: str) -> dict[str, Any]:
    """Length, crops, flips and batch size by the data."""
    chosen: dict[str, Any] = {}
    if not any(key.startswith("length.") for key in changes):
        chosen["length.epochs"] = _epochs(source, device)
    if source.splits["train"].images is None:
        chosen |= {"augment.crop": "random_resized", "augment.area": [0.25, 1.0]}
    else:
        chosen |= {"augment.crop": "pad", "augment.pad_px": 1 + _height(source) // 16}
    if source.channels == 3:  # a mirrored digit or letter is another one
        chosen["augment.flip"] = True
    if len(source.splits["train"]) < 64 * 20:
        chosen["batch_size"] = 32
    return chosen


def _height(source: PictureSet) -> int:
    images = source.splits["train"].images
    return PHOTO_PX if images is None else images.shape[1]


def _explain(name: str, source: PictureSet, chosen: dict[str, Any], changes: dict[str, Any]) -> str:
    epochs = (chosen | changes).get("length.epochs", "as asked")
    crop = "random crops" if chosen["augment.crop"] == "random_resized" else "shifts"
    flips = " and flips" if "augment.flip" in chosen else ""
    count = len(source.splits["train"])
    return f"recipe: {name}, {epochs} epochs of {count:,} training pictures, with {crop}{flips}"
