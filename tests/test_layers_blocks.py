"""Activations and upsampling blocks of the lectures, against the same by hand in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepen.byhand import activations, pooling, upsampling
from deepen.byhand.convolution import convolve
from deepen.byhand.transpose_convolution import transpose_convolve
from deepen.errors import InputError
from deepen.layers import ACTIVATIONS, UPSAMPLING, BedOfNails, Maxout

SIDES = st.integers(1, 4)
SHAPES = st.tuples(SIDES, SIDES, SIDES, SIDES)


def drawn(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_both_rooms_name_the_same_activations():
    assert set(ACTIVATIONS) == set(activations.ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(shape=SHAPES)
def test_activation_is_the_one_by_hand(name, shape, assert_autograd):
    x = 3 * drawn((shape[0], 2 * shape[1], *shape[2:])).numpy()
    by_hand = activations.ACTIVATIONS[name]
    assert_autograd(
        ACTIVATIONS[name](), [x], by_hand.forward(x), lambda grad: [by_hand.backward(grad, x)]
    )


def test_maxout_divides_the_channels():
    assert Maxout(3)(torch.zeros(2, 6, 5, 5)).shape == (2, 2, 5, 5)
    assert Maxout(3)(torch.zeros(2, 6)).shape == (2, 2)
    with pytest.raises(InputError, match="maxout of 3 pieces got 4 channels"):
        Maxout(3)(torch.zeros(2, 4))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_serve_a_network(name, assert_serves_block):
    assert_serves_block(ACTIVATIONS[name](), 4)


@given(shape=SHAPES, scale=SIDES)
def test_bed_of_nails_is_the_one_by_hand(shape, scale, assert_autograd):
    x = drawn(shape).numpy()
    assert_autograd(
        BedOfNails(scale),
        [x],
        upsampling.bed_of_nails(x, scale),
        lambda grad: [upsampling.bed_of_nails_backward(grad, scale)],
    )


@given(shape=SHAPES, scale=SIDES)
def test_remembered_bed_of_nails_is_the_one_by_hand(shape, scale, assert_autograd):
    size = scale * shape[2], scale * shape[3]
    before, x = drawn((*shape[:2], *size)), drawn(shape).numpy()
    _, positions = nn.MaxPool2d(scale, return_indices=True)(before)
    _, winners = pooling.max_pool(before.numpy(), scale)
    assert_autograd(
        lambda x: BedOfNails(scale)(x, positions),
        [x],
        upsampling.max_unpool(x, winners, size),
        lambda grad: [upsampling.max_unpool_backward(grad, winners)],
    )


@given(shape=SHAPES, scale=SIDES)
def test_upsampling_is_the_one_by_hand(shape, scale):
    x = drawn(shape)
    blocks = {name: make(shape[1], scale).double() for name, make in UPSAMPLING.items()}
    conv, stamps = blocks["sub_pixel"][0], blocks["transpose"]
    conv_weights = [conv.weight.detach().numpy(), conv.bias.detach().numpy()]
    stamp_weights = [stamps.weight.detach().numpy(), stamps.bias.detach().numpy()]
    expected = {
        "nearest": upsampling.nearest(x.numpy(), scale),
        "bed_of_nails": upsampling.bed_of_nails(x.numpy(), scale),
        "sub_pixel": upsampling.sub_pixel(convolve(x.numpy(), *conv_weights, padding=1), scale),
        "transpose": transpose_convolve(
            x.numpy(), *stamp_weights, stride=scale, padding=1, output_padding=scale - 1
        ),
    }
    for name, block in blocks.items():
        y = block(x).detach().numpy()
        assert y.shape == (*shape[:2], scale * shape[2], scale * shape[3]), name
        np.testing.assert_allclose(y, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("name", UPSAMPLING)
def test_upsampling_serves_a_network(name, assert_serves_block):
    assert_serves_block(UPSAMPLING[name](4, 2), 4)


@pytest.fixture
def assert_serves_block():
    """Exported, in channels_last and in bfloat16 a block does what it does in the plain form."""

    def assert_serves_block(block: nn.Module, channels: int) -> None:
        x = torch.randn(2, channels, 6, 6)
        with torch.no_grad():
            expected = block(x)
            torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), expected)
            turned = block(x.to(memory_format=torch.channels_last))
            torch.testing.assert_close(turned, expected)
            with torch.autocast("cpu", torch.bfloat16):
                half = block(x.bfloat16()).float()
            torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)

    return assert_serves_block
