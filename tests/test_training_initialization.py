"""Where weights start: layers copied as VGG's stages were, or trained weights gone on with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deepen import api
from deepen.data.sources import open_source
from deepen.errors import InputError, Interrupted
from deepen.models import create_model
from deepen.training.blocks import PaperInit, PerChannel
from deepen.training.initialization import build_network, copy_layers, read_start
from deepen.training.prepare import adopt
from deepen.training.progress import Silent
from deepen.training.recipe import load_recipe
from deepen.weights import load_weights, read_card, save_weights

TINY = {"length.epochs": 1, "batch_size": 128, "validation": 100}


class Told(Silent):
    """Keeps what was said, and stops the run after so many batches."""

    def __init__(self, batches: int = 0) -> None:
        self.lines: list[str] = []
        self.left = batches

    def message(self, text: str) -> None:
        self.lines.append(text)

    def batch(self, images: int, loss: float) -> None:
        import signal

        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A LeNet with ReLU of the digits."""
    folder = tmp_path_factory.mktemp("trained")
    run = api.train(
        "digits", model="lenet5_relu", recipe="quick", changes=TINY, output=folder / "r"
    )
    return run.run / "best.safetensors"


# Section 3.1's layers by hand, from table 1: A's four first convolutions and where B, D and E have
# a layer of that shape and place.
PLACES = {
    "vgg13": {"0": "0", "3": "5", "6": "10", "8": "12"},
    "vgg16": {"0": "0", "3": "5", "6": "10", "8": "12"},
    "vgg19": {"0": "0", "3": "5", "6": "10", "8": "12"},
}


@pytest.mark.parametrize("name", PLACES)
def test_stages_of_vgg_copy_four_convolutions_and_three_layers(name):
    torch.manual_seed(1)
    a, deeper = create_model("vgg11", 4), create_model(name, 4)
    init = load_recipe("vgg-staged").init
    fresh = {key: value.clone() for key, value in deeper.state_dict().items()}
    words = copy_layers(a, deeper, init, "a.safetensors")
    copied = {f"features.{there}": f"features.{here}" for here, there in PLACES[name].items()}
    copied |= {f"classifier.{i}": f"classifier.{i}" for i in (0, 3, 6)}
    theirs = a.state_dict()
    for key, value in deeper.state_dict().items():
        layer, _, kind = key.rpartition(".")
        expected = theirs[f"{copied[layer]}.{kind}"] if layer in copied else fresh[key]
        assert torch.equal(value, expected), key
    assert words.count(", ") == 6
    assert "features.3 -> features.5" in words


def test_layers_without_counterpart_are_refused():
    a = create_model("vgg11", 4)
    for target, init, words in (
        (
            "vgg13",
            PaperInit(first=12, last=3),
            "init.first 12 and init.last 3: w has 11 weight layers",
        ),
        ("resnet18", PaperInit(first=4, last=0), "features.0 fits no layer"),
        ("resnet20", PaperInit(), "no layer of the network has its name and shape"),
    ):
        with pytest.raises(InputError, match=words):
            copy_layers(a, create_model(target, 4), init, "w")
    with pytest.raises(InputError, match=r"classifier.6 does not fit classifier.6"):
        copy_layers(a, create_model("vgg13", 5), PaperInit(first=4, last=3), "w")


def test_the_first_layers_leave_the_last_ones_free():
    """A layer of the first's shape stands among the last: that one has its own counterpart."""
    source = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    target = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match="0 fits no layer"):
        copy_layers(source, target, PaperInit(first=1, last=1), "w")
    target = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
    assert copy_layers(source, target, PaperInit(first=1, last=1), "w") == "0, 2 -> 3"
    assert torch.equal(target[3].weight, source[2].weight)
    assert not torch.equal(target[2].weight, source[2].weight)


def test_without_counts_layers_go_by_name_and_shape():
    torch.manual_seed(0)
    small, large = create_model("resnet20", 10), create_model("resnet32", 10)
    words = copy_layers(small, large, PaperInit(), "w").split(", ")
    theirs = small.state_dict()
    for key, value in large.state_dict().items():
        if key.rpartition(".")[0] in words:
            assert torch.equal(value, theirs[key]), key
    # All of ResNet-20's 3 blocks a stage, by these names: 2 convolutions and 2 batch norms each.
    assert len(words) == 2 + 9 * 4 + 1


def test_init_from_is_said_and_copied(trained, tmp_path):
    told = Told()
    run = api.train(
        "digits",
        model="lenet5_relu",
        recipe="quick",
        init_from=trained,
        changes={**TINY, "optimizer.lr": 1e-12, "optimizer.weight_decay": 0, "seed": 5},
        output=tmp_path / "run",
        reporter=told,
    ).run
    before, after = (
        load_weights(p).model.state_dict() for p in (trained, run / "last.safetensors")
    )
    for key, value in after.items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)
    assert any("copied from" in line and "(lenet5_relu)" in line for line in told.lines)


def test_weights_are_gone_on_with_and_their_head_replaced(trained, tmp_path):
    card = read_card(trained)
    pictures = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (pictures / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 200, (20, 24), np.uint8)
            pixels[:, : 12 if name == "left" else 24] //= 2
            Image.fromarray(pixels).save(pictures / name / f"{i}.png")
    told = Told()
    done = api.train(
        str(pictures),
        weights=trained,
        changes={"length.epochs": 1, "optimizer.lr": 1e-12, "optimizer.weight_decay": 0},
        output=tmp_path / "run",
        workers=0,
        reporter=told,
    )
    loaded = load_weights(done.run / "best.safetensors")
    assert loaded.card.architecture == "lenet5_relu"
    assert loaded.card.classes == ("left", "right")
    ours = loaded.card.preprocessing
    assert (ours.mean, ours.std) == (card.preprocessing.mean, card.preprocessing.std)
    assert ours.size_px == card.preprocessing.size_px
    before, after = load_weights(trained).model.state_dict(), loaded.model.state_dict()
    changed = [key for key in before if before[key].shape != after[key].shape]
    assert len(changed) == 2  # weight and bias of the last layer
    for key in before.keys() - set(changed):
        torch.testing.assert_close(before[key], after[key], rtol=0, atol=1e-6)
    assert any("recipe: finetune" in line for line in told.lines)
    assert any("starts afresh for 2 classes" in line for line in told.lines)
    recipe = load_recipe(str(done.run / "recipe.yaml"))
    assert recipe.schedule == load_recipe("finetune").schedule


def test_the_same_classes_keep_their_head(trained):
    start = read_start(trained, "lenet5_relu", whole=True)
    classes = start.loaded.card.classes
    size = start.loaded.card.input_size
    kept, _ = build_network("lenet5_relu", classes, 1, size, PaperInit(), start)
    fresh, words = build_network("lenet5_relu", classes[::-1], 1, size, PaperInit(), start)
    theirs = start.loaded.model.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in kept.state_dict().items())
    differ = [k for k, value in fresh.state_dict().items() if not torch.equal(theirs[k], value)]
    assert {key.rpartition(".")[0] for key in differ} == {kept.classifier_name}
    assert kept.classifier_name in words


def test_another_networks_weights_and_both_flags_are_refused(trained):
    with pytest.raises(InputError, match="holds lenet5_relu, not resnet20"):
        api.train("digits", model="resnet20", weights=trained)
    with pytest.raises(InputError, match="give one of them"):
        api.train("digits", weights=trained, init_from=trained)
    with pytest.raises(InputError, match="no such weights file"):
        api.train("digits", weights="gone.safetensors")


@pytest.mark.parametrize("flag", ["weights", "init_from"])
def test_a_resume_wants_the_very_weights(trained, tmp_path, flag):
    """Remembered by SHA-256; others are refused, and the same file elsewhere will do."""
    mine = tmp_path / "start.safetensors"
    mine.write_bytes(trained.read_bytes())
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": {**TINY, "length.epochs": 2}}
    whole = api.train("digits", **words, output=tmp_path / "whole", **{flag: mine})
    with pytest.raises(Interrupted):
        api.train("digits", **words, output=tmp_path / "run", **{flag: mine}, reporter=Told(3))
    about = json.loads((tmp_path / "run" / "data.json").read_text())["start"]
    assert about["sha256"] == hashlib.sha256(mine.read_bytes()).hexdigest()

    loaded = load_weights(mine)
    other = tmp_path / "other.safetensors"
    with torch.no_grad():
        next(loaded.model.parameters()).add_(0.5)
    save_weights(other, loaded.model, loaded.card, loaded.mean_image)
    with pytest.raises(InputError, match=about["sha256"][:16]):
        api.train(resume=str(tmp_path / "run"), **{flag: other})
    swapped = {"weights": "init_from", "init_from": "weights"}[flag]
    with pytest.raises(InputError, match="was begun without"):
        api.train(resume=str(tmp_path / "run"), **{swapped: mine})
    mine.rename(tmp_path / "moved.safetensors")
    with pytest.raises(InputError, match=r"no such weights file.* FILE says where it is"):
        api.train(resume=str(tmp_path / "run"))
    again = api.train(resume=str(tmp_path / "run"), **{flag: tmp_path / "moved.safetensors"})
    ours, theirs = (load_weights(r.run / "last.safetensors").model for r in (again, whole))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def test_the_cards_preprocessing_is_taken_over_and_fitted(trained):
    card = read_card(trained)
    digits = open_source("digits")
    same = adopt(PerChannel(), digits, card, None)
    assert same.preprocessing == card.preprocessing
    larger = adopt(PerChannel(size_px=40), digits, card, None).preprocessing
    assert larger.size_px == (40, 40)
    assert larger.mean == card.preprocessing.mean
    minus = card.preprocessing.model_copy(update={"mean_image": True})
    mean = torch.rand(*card.preprocessing.size_px, 1)
    kept = adopt(PerChannel(), digits, card.model_copy(update={"preprocessing": minus}), mean)
    assert kept.mean_image is mean
    other = adopt(
        PerChannel(size_px=40), digits, card.model_copy(update={"preprocessing": minus}), mean
    )
    assert other.mean_image is None
    assert other.preprocessing.mean == pytest.approx((mean.mean().item(),))
