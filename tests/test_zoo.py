"""Weights that ship with deepen: small, with their card, and as good as it says."""

from __future__ import annotations

import pytest
import torch

from deepen import api
from deepen.deployment.predictor import Prediction
from deepen.errors import InputError
from deepen.weights import load_weights
from deepen.zoo import list_zoo, zoo_file


@pytest.mark.parametrize("name", list_zoo())
def test_weights_are_small_and_their_card_is_whole(name):
    file = zoo_file(name)
    assert file is not None
    assert file.stat().st_size <= 2 * 2**20
    network, data = name.split(":")
    card = load_weights(name).card
    assert (card.architecture, card.data) == (network, data)
    assert card.recipe
    assert card.protocol
    assert 0.5 < card.score["top1"] < 1


@pytest.mark.parametrize("name", list_zoo())
def test_score_is_the_cards_on_the_true_test_data(name, real_data):
    """The 10,000 test pictures of MNIST and CIFAR-10 as their authors published them."""
    scores = api.evaluate(name, data_dir=real_data)
    assert scores.num_samples == 10_000
    assert abs(scores.top1 - load_weights(name).card.score["top1"]) <= 0.0003  # other kernels


def test_show_says_how_far_the_score_can_be_believed(capsys):
    from deepen.cli.weights import show

    show(zoo_file("resnet20:cifar10"))
    low, high = 0.81417, 0.82918  # Wilson's, of 8,218 in 10,000
    told = f"accuracy    82.18% (95% interval {100 * low:.1f} to {100 * high:.1f}%, n 10,000)\n"
    assert told in capsys.readouterr().out


def test_a_picture_is_predicted_by_name(tmp_path):
    from PIL import Image

    pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    (found,) = api.predict("resnet20:cifar10", [tmp_path / "noise.png"], top_k=10)
    assert isinstance(found, Prediction)
    assert sum(share for _, share in found.top) == pytest.approx(1, abs=1e-5)
    assert {"airplane", "truck"} <= {name for name, _ in found.top}


def test_wrong_names_get_the_nearest_and_paths_are_left_alone():
    with pytest.raises(InputError, match="nearest: resnet20:cifar10"):
        load_weights("resnet21:cifar10")
    assert zoo_file("runs/a-1/best.safetensors") is None
    assert zoo_file(r"C:\weights\best.safetensors") is None
