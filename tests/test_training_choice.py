"""What is chosen for the user: by pictures, size and machine, and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepen import api
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet, Split
from deepen.errors import InputError
from deepen.models import create_model
from deepen.training import choice, plan
from deepen.training.choice import choose, size_in_words
from deepen.training.initialization import read_start
from deepen.training.prepare import Prepared
from deepen.training.request import Here, Request


def pictures(count: int, size: int | None = 32, channels: int = 3) -> PictureSet:
    """As many pictures in memory of this size, or photographs."""
    labels = np.zeros(count, np.int64)
    if size is None:
        split = Split("train", labels, ("x",) * count, files=(Path("x.jpg"),) * count)
    else:
        view = np.broadcast_to(np.uint8(0), (count, size, size, channels))
        split = Split("train", labels, ("x",) * count, images=view)
    return PictureSet("some", Path("some"), ("a", "b"), channels, {"train": split})


@pytest.mark.parametrize(
    ("source", "device", "model", "size"),
    [
        (pictures(500), "cpu", "resnet20", None),
        (pictures(50_000), "cuda", "resnet56", None),
        (pictures(500, None), "cpu", "resnet20", None),
        (pictures(500, None), "cuda", "resnet20", None),  # too few pictures for more
        (pictures(30_000, None), "cuda", "resnet18", 128),
        (pictures(1_281_167, None), "cpu", "resnet20", None),  # days with more
        (pictures(300_000, None), "cuda", "resnet50", 224),
        (pictures(898, 8, 1), "cpu", "resnet20", None),
    ],
)
def test_networks_grow_with_pictures_and_machine(source, device, model, size):
    chosen = choose(source, None, None, {}, None, device)
    assert (chosen.model, chosen.recipe.input.size_px) == (model, size)
    assert chosen.words[0].startswith(f"model: {model}, from scratch on ")


def test_a_chosen_run_is_within_its_time_by_the_rule(monkeypatch):
    """The rule itself: passes x pictures x three predictions' MACs over the machine's rate."""
    monkeypatch.setattr(choice, "MACS_PER_S", {"cuda": 1e9, "cpu": 1e9})
    assert choose(pictures(50_000), None, None, {}, None, "cuda").model == "resnet20"


def test_the_users_words_win():
    chosen = choose(pictures(300_000, None), None, None, {"input.size_px": 96}, None, "cuda")
    assert chosen.recipe.input.size_px == 96
    chosen = choose(pictures(500), "vgg11", "vgg-he", {"length.epochs": 3})
    assert (chosen.model, chosen.recipe.length.epochs) == ("vgg11", 3)
    assert chosen.words == ()


def test_weights_bring_their_network_and_the_finetune_recipe():
    card = read_start("resnet20:cifar10", None, whole=True).loaded.card
    chosen = choose(pictures(500, None), None, None, {}, card)
    assert chosen.model == "resnet20"
    assert (chosen.recipe.optimizer.lr, chosen.recipe.batch_size) == (0.03, 32)
    assert "which the weights belong to" in chosen.words[0]
    assert chosen.words[1].startswith("recipe: finetune, 40 epochs of 500")


FITTED = Preprocessing(
    channels=3, size_px=(64, 64), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3
)


@pytest.mark.parametrize(
    ("source", "model", "recipe", "download", "fetched"),
    [
        (pictures(500, None), None, None, True, "resnet18"),
        (pictures(500, None), None, None, False, None),
        (pictures(500, None), "resnet34", None, True, "resnet34"),
        (pictures(500, None), "resnet20", None, True, None),  # torchvision has none
        (pictures(500, None), None, "quick", True, None),  # a recipe from scratch was asked for
        (pictures(500), None, None, True, None),  # --download is for the data set
    ],
)
def test_download_consents_to_imagenet_weights_for_photographs(
    monkeypatch, source, model, recipe, download, fetched
):
    asked = []

    def read(path, name, *, whole):
        asked.append((path, name, whole))
        start = read_start("resnet20:cifar10", None, whole=True)
        card = start.loaded.card.model_copy(update={"architecture": name})
        return start._replace(loaded=start.loaded._replace(card=card))

    monkeypatch.setattr(plan, "open_source", lambda *_, **__: source)
    monkeypatch.setattr(plan, "read_start", read)
    monkeypatch.setattr(plan, "_input", lambda *_: Prepared(FITTED, None))
    request = Request("some", model=model, recipe=recipe, download=download)
    settled = plan.settle(request, Here(device="cpu"))
    assert asked == ([("imagenet", fetched, True)] if fetched else [])
    assert settled.model == (fetched or model or "resnet20")


def test_sizes_are_said():
    """He et al. 2015: 0.27 M parameters; a picture of twice the side takes four times the MACs."""
    words = size_in_words(create_model("resnet20"), (3, 64, 64), "cuda")
    assert words.startswith("269,722 parameters, 162.2 million MACs a picture of 3x64x64")
    assert "by rule about 30,82" in words  # 15e12 / (3 * 162.2e6)


@pytest.mark.parametrize("count", [0.3, "some", -1])
def test_a_number_to_hold_out_that_is_none_is_refused(count):
    with pytest.raises(InputError, match="validation"):
        api.train("digits", changes={"validation": count})
