"""First-layer filters against pixels worked out by hand and against real networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from deepen.errors import InputError
from deepen.models import create_model
from deepen.visualization.filters import filter_grid, filter_tiles, first_layer


def test_zero_is_grey_and_the_extreme_is_white_or_black():
    weight = torch.tensor([0.0, 2.0, -1.0, 1.0]).reshape(1, 1, 2, 2)
    assert filter_tiles(weight)[0, ..., 0].tolist() == [[128, 255], [64, 191]]
    assert filter_tiles(-weight)[0, ..., 2].tolist() == [[128, 0], [191, 64]]


def test_each_filter_has_its_own_scale_and_a_dead_one_is_grey():
    weight = torch.stack([torch.full((3, 2, 2), 1e-6), torch.zeros(3, 2, 2)])
    tiles = filter_tiles(weight)
    assert (tiles[0] == 255).all()
    assert (tiles[1] == 128).all()


def test_three_channels_are_colours_and_others_are_planes():
    colour = torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1)
    assert filter_tiles(colour).tolist() == [[[[255, 128, 0]]]]
    planes = filter_tiles(torch.randn(4, 2, 5, 3))
    assert planes.shape == (8, 5, 3, 3)
    assert (planes[..., :1] == planes).all()


@pytest.mark.parametrize(("columns", "in_channels"), [(784, None), (784, 1), (192, None), (192, 3)])
def test_linear_rows_become_pictures(columns, in_channels):
    weight = torch.randn(5, columns)
    side, channels = (28, 1) if columns == 784 else (8, 3)
    expected = filter_tiles(weight.reshape(5, channels, side, side))
    assert (filter_tiles(weight, in_channels) == expected).all()


@pytest.mark.parametrize("shape", [(4, 5), (6,), (2, 3, 4)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(InputError):
        filter_tiles(torch.zeros(shape))


def test_grid_places_tiles_row_by_row():
    weight = torch.tensor([1.0, -1.0, 0.0]).reshape(3, 1, 1, 1)
    grid = filter_grid(weight, tile_px=2, gap_px=1)
    assert grid.dtype == np.uint8
    assert grid.shape == (7, 7, 3)
    plane = grid[..., 0]
    assert (plane[1:3, 1:3] == 255).all()
    assert (plane[1:3, 4:6] == 0).all()
    assert (plane[4:6, 1:3] == 128).all()
    assert (plane[4:6, 4:6] == 255).all()  # no fourth filter: background
    assert (plane[[0, 3, 6]] == 255).all()
    assert filter_grid(weight, tile_px=2, gap_px=1, columns=3).shape == (4, 10, 3)


OURS = [
    "perceptron",
    "mlp",
    "lenet5",
    "lenet5_relu",
    "resnet20",
    "plain20",
    "resnet18",
    "nin_cifar",
]
OURS += ["googlenet", "densenet40_12", "preresnet164", "highway19", "wide_resnet16_8"]


@pytest.mark.parametrize("name", OURS)
def test_first_layer_of_our_networks_in_any_order(name):
    model = create_model(name)
    expected = next(key for key, value in model.named_parameters() if value.ndim > 1)
    state = dict(sorted(model.state_dict().items()))  # as safetensors keeps it
    shapes = {key: value.shape for key, value in state.items()}
    assert first_layer(shapes, model.in_channels) == expected  # type: ignore[arg-type]
    assert filter_grid(state).ndim == 3


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2", "densenet121", "googlenet"])
def test_first_layer_of_torchvisions_networks(name):
    extra = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    with torch.device("meta"):
        state = torchvision.models.get_model(name, **extra).state_dict()
    first = first_layer({key: value.shape for key, value in state.items()}, in_channels=3)
    assert first == next(key for key in state if key.endswith("weight"))


def test_a_net_without_layers_is_refused():
    with pytest.raises(InputError, match="no convolution"):
        filter_grid({"bias": torch.zeros(3)})
