"""Weights files: whole, bound to their variant, and one line for every way to be wrong."""

from __future__ import annotations

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import deepen
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError
from deepen.models import create_model
from deepen.weights import Card, load_weights, read_card, save_weights


def card(**changes) -> Card:
    plain = Preprocessing(
        channels=3, size_px=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    fields = {
        "architecture": "resnet20", "num_classes": 10, "in_channels": 3, "input_size": (32, 32),
        "classes": tuple("abcdefghij"), "preprocessing": plain,
    }  # fmt: skip
    return Card(**{**fields, **changes})


@pytest.fixture
def saved(tmp_path):
    net = create_model("resnet20")
    net(torch.randn(8, 3, 32, 32))  # batch norm has seen something
    path = tmp_path / "w.safetensors"
    save_weights(path, net.to(memory_format=torch.channels_last), card())
    return path, net


def test_round_trip_is_exact(saved):
    path, net = saved
    loaded = load_weights(path)
    assert loaded.card == card()
    x = torch.randn(2, 3, 32, 32)
    for key, value in net.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[key])
    torch.testing.assert_close(loaded.model(x), net.eval()(x), rtol=1e-5, atol=1e-5)
    assert not deepen.load(path).training


def test_mean_image_travels_along(tmp_path):
    mean = torch.rand(32, 32, 3)
    with_mean = card().preprocessing.model_copy(update={"mean_image": True})
    path = tmp_path / "w.safetensors"
    save_weights(path, create_model("resnet20"), card(preprocessing=with_mean), mean)
    assert torch.equal(load_weights(path).mean_image, mean)


@given(share=st.floats(0, 0.9999))
def test_a_cut_file_is_refused_in_one_line(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "w.safetensors"
    small = {"architecture": "perceptron", "in_channels": 1, "input_size": (4, 4)}
    save_weights(path, create_model("perceptron", 10, 1, 4), card(**small))
    blob = path.read_bytes()
    path.write_bytes(blob[: int(share * len(blob))])
    with pytest.raises(InputError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewrite(path, change, metadata=True):
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        kept = file.metadata() if metadata else None
    change(tensors)
    safetensors.torch.save_file(tensors, path, kept)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("fc.bias"), "missing fc.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"fc.bias": torch.zeros(3)}), r"fc.bias is \(3,\), not \(10,\)"),
        (lambda t: t["fc.bias"].fill_(float("nan")), "NaN or infinite values in fc.bias"),
    ],
)
def test_wrong_tensors_are_named(saved, change, words):
    rewrite(saved[0], change)
    with pytest.raises(InputError, match=words):
        load_weights(saved[0])


def test_no_card_and_other_variants_are_refused(saved, tmp_path):
    path, _ = saved
    with pytest.raises(InputError, match="holds resnet20, not plain20"):
        load_weights(path, model="plain20")
    rewrite(path, lambda t: None, metadata=False)
    with pytest.raises(InputError, match="has no card"):
        read_card(path)
    with pytest.raises(InputError, match="no such weights file"):
        read_card(tmp_path / "none")


def test_create_model_takes_trained_features(saved):
    path, net = saved
    again = deepen.create_model("resnet20", weights=path)
    assert torch.equal(again.fc.weight, net.fc.weight)
    tuned = deepen.create_model("resnet20", num_classes=4, weights=path)
    assert tuned.fc.weight.shape == (4, 64)
    assert torch.equal(tuned.conv1.weight, net.conv1.weight)
    with pytest.raises(InputError, match="has in_channels 3, asked for 1"):
        deepen.create_model("resnet20", in_channels=1, weights=path)
