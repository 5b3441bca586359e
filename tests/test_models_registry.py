"""What a network declares, and what the registry says to wrong words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepen.errors import InputError
from deepen.layers import ImageClassifier
from deepen.models import create_model, get_architecture, list_models, register_model
from deepen.models.architecture import Takes

FAMILIES = ["perceptron", "mlp", "lenet5", "lenet5_relu", "resnet20", "resnet20_b", "plain20"]


def example(name: str, batch: int = 4) -> torch.Tensor:
    takes = get_architecture(name).takes
    return torch.randn(batch, takes.channels, takes.size_px, takes.size_px)


@pytest.mark.parametrize("name", FAMILIES)
def test_serves_in_bf16(name):
    net, x = create_model(name).eval(), example(name)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x).float(), expected, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_exports(name):
    net, x = create_model(name).eval(), example(name, 2)
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("name", list_models())
def test_declares_its_source(name):
    architecture = get_architecture(name)
    assert architecture.paper
    assert architecture.title
    assert 1950 < architecture.year < 2030
    assert (
        any(d.kind == "specified" for d in architecture.details)
        or name == "perceptron"
        or (name == "lenet5_relu")
    )
    assert all(d.field and d.source for d in architecture.details)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 1, 32, 32), "takes 3 input channels, got 1"),
        ((2, 3, 7, 32), "takes pictures of 8 px at least, got 7x32"),
        ((3, 32, 32), "takes a batch"),
    ],
)
def test_wrong_input_is_refused_in_words(shape, words):
    with pytest.raises(InputError, match=words):
        create_model("resnet20")(torch.zeros(shape))


def test_input_of_another_size_than_built_for_is_refused():
    with pytest.raises(InputError, match="takes pictures of 28x28 px, got 32x32"):
        create_model("mlp")(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("size", [8, 9, 31, 40])
def test_free_size_is_free(size):
    assert create_model("resnet20")(torch.zeros(1, 3, size, size + 3)).shape == (1, 10)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"unknown model 'resnet21'; nearest: .*resnet20"):
        create_model("resnet21")


def test_list_models_matches_patterns():
    assert list_models("plain?0") == ["plain20"]
    assert list_models("resnet50*v1*") == ["resnet50_v1_5"]
    assert list_models("nothing*") == []


class Tiny(ImageClassifier):
    num_features = 3

    def __init__(self, num_classes, in_channels, input_size):
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv = nn.Conv2d(in_channels, 3, 3)
        self.fc = nn.Linear(3, num_classes)

    def forward_features(self, x):
        return self.conv(x)


def test_a_users_network_can_be_registered_once(monkeypatch):
    monkeypatch.setattr(
        "deepen.models._REGISTRY", dict(__import__("deepen.models").models._REGISTRY)
    )
    register_model("tiny", Tiny, takes=Takes(16, 3, 4, min_px=3))
    assert create_model("tiny")(torch.zeros(1, 3, 16, 16)).shape == (1, 4)
    with pytest.raises(InputError, match="registered already"):
        register_model("tiny", Tiny, takes=Takes(16, 3, 4))


def test_a_users_factory_is_called_with_what_it_takes():
    net = create_model("torchvision.models:resnet18", num_classes=5, in_channels=3)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    for name in ("no_such_module:f", "torchvision.models:no_such"):
        with pytest.raises(InputError, match=f"--model {name}"):
            create_model(name)
    with pytest.raises(InputError, match="not a torch"):
        create_model("fractions:Fraction")
    with pytest.raises(InputError, match="no function or class"):
        create_model("math:pi")
