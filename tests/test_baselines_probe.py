"""Features of a layer against a forward pass by hand; a probe against scikit-learn on pixels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from typer.testing import CliRunner

from deepen import api
from deepen.baselines.probe import STRENGTHS, probe
from deepen.cli import app
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import open_source
from deepen.errors import InputError
from deepen.evaluation.features import extract_features
from deepen.evaluation.intervals import interval
from deepen.models import create_model
from deepen.weights import Card, Loaded


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    changes = {"length.epochs": 3, "validation": 200}
    folder = tmp_path_factory.mktemp("probe") / "run"
    run = api.train("digits", model="resnet20", recipe="quick", changes=changes, output=folder).run
    return run / "best.safetensors"


@pytest.fixture(scope="module")
def digits_batches() -> Batches:
    plain = Preprocessing(channels=1, size_px=(8, 8), resize="none", mean=(0.5,), std=(0.3,))
    return Batches(open_source("digits").splits["val"], plain, batch_size=50)


def test_features_are_what_the_layer_hands_on(digits_batches):
    net = create_model("resnet20", 10, 1, 8).train()
    images = torch.cat([batch.images for batch in digits_batches.epoch(0)])
    net.eval()
    with torch.no_grad():
        x = torch.relu(net.bn1(net.conv1(images)))
        maps = net.layer2(net.layer1(x))
        logits = net(images)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for layer, expected in (
        ("conv1", x.mean((2, 3))),  # the stage, ReLU and all, not the module of that name
        ("conv3_x", maps.mean((2, 3))),
        ("layer2", maps.mean((2, 3))),
        ("fc", logits),
    ):
        found = extract_features(net, layer, digits_batches.epoch(0), device="cpu")
        torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, torch.from_numpy(digits_batches.split.labels))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_layer_of_a_chain_is_read_before_a_relu_in_place_writes_into_it(digits_batches):
    net = create_model("vgg11_bn", 10, 1).eval()
    images = torch.cat([batch.images for batch in digits_batches.epoch(0)]).repeat(1, 1, 4, 4)
    places = torch.arange(len(images))
    batches = [SimpleNamespace(images=images, labels=0 * places, indices=places, bad=())]
    with torch.no_grad():
        norm = net.features[:2](images)
        assert (norm < 0).any()
        last = net.features(images)
    for layer, expected in (("features.1", norm), ("features", last)):
        found = extract_features(net, layer, batches, device="cpu")
        torch.testing.assert_close(found.values, expected.mean((2, 3)))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.flat = nn.Linear(2, 2), nn.Flatten()

    def forward(self, x):
        return self.flat(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("layer5", "unknown layer 'layer5'; nearest: layer3, layer2, layer1"),
        ("conv5_x", "unknown layer 'conv5_x'; nearest: conv4_x, conv3_x, conv2_x"),
        ("nothing-like-it", "unknown layer 'nothing-like-it'; known: bn1, conv1, conv2_x, .*, fc"),
        ("", "unknown layer ''; known: bn1"),
    ],
)
def test_wrong_layers_are_named(digits_batches, layer, words):
    net = create_model("resnet20", 10, 1, 8)
    with pytest.raises(InputError, match=words):
        extract_features(net, layer, digits_batches.epoch(0), device="cpu")


def test_a_layer_that_is_not_run_is_refused(digits_batches):
    with pytest.raises(InputError, match="layer unused: is not run at evaluation"):
        extract_features(Odd(), "unused", digits_batches.epoch(0), device="cpu")


def test_a_probe_of_the_pixels_is_scikit_learns_logistic_regression():
    source = open_source("digits", validation=200)
    plain = Preprocessing(channels=1, size_px=(8, 8), resize="none", mean=(0.0,), std=(1.0,))
    card = Card(
        architecture="own:Odd", num_classes=10, in_channels=1, input_size=(8, 8),
        classes=source.classes, preprocessing=plain,
    )  # fmt: skip
    found = probe(Loaded(Odd(), card, None), source, "flat")
    pixels = {}
    for name, split in source.splits.items():
        assert split.images is not None
        pixels[name] = (split.images.reshape(len(split), -1) / 255, split.labels)
    scores = {}
    for c in STRENGTHS:
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        theirs.fit(*pixels["train"])
        scores[c] = (theirs.score(*pixels["val"]), theirs.score(*pixels["test"]))
    best = max(validation for validation, _ in scores.values())
    assert found.validation_top1 == pytest.approx(best, abs=0.006)
    assert found.top1 == pytest.approx(scores[found.c][1], abs=0.003)
    assert (found.num_features, found.split, found.num_samples) == (64, "test", 899)


def test_the_command(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = weights.read_bytes()
    words = ["probe", str(weights), "--layer", "layer3"]
    seen = {}
    for kind in ("logistic", "svm"):
        done = CliRunner().invoke(
            app, [*words, "--classifier", kind, "--json"], catch_exceptions=False
        )
        seen[kind] = json.loads(done.stdout)
        assert seen[kind]["num_features"] == 64
        assert seen[kind]["top1"] > 0.7  # of a network that has seen three epochs
        assert f"{kind} on frozen features of layer3" in seen[kind]["protocol"]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    found = interval(seen["logistic"]["top1"], 899)
    assert f"test accuracy {found.in_words}  (digits, test split, 899 pictures" in text
    assert seen["logistic"]["top1_interval"] == [found.low, found.high]
    assert weights.read_bytes() == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="unknown layer 'layr3'; nearest: layer3"):
        CliRunner().invoke(app, [*words[:2], "--layer", "layr3"], catch_exceptions=False)
