"""Pooling and upsampling by hand, against autograd and the lecture's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deepen.byhand import pooling, upsampling
from deepen.errors import InputError

LECTURE = np.array([[[[1.0, 2], [3, 4]]]])  # lecture 002's 2x2 input


@st.composite
def poolings(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, int | None]]:
    """Maps, of few values in every second case so that maxima tie, and a window."""
    kernel = draw(st.integers(1, 4))
    window = {
        "kernel": kernel,
        "stride": draw(st.none() | st.integers(1, 4)),
        "padding": draw(st.integers(0, kernel // 2)),
    }
    sizes = [kernel + draw(st.integers(0, 5)) for _ in "HW"]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *sizes)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    few = draw(st.booleans())
    return (rng.integers(0, 3, shape) * 1.0 if few else rng.standard_normal(shape)), window


@given(drawn=poolings())
def test_max_pool_agrees_with_autograd_ties_too(drawn, assert_autograd):
    x, window = drawn
    y, winners = pooling.max_pool(x, **window)
    reference = lambda x: F.max_pool2d(x, *window.values(), return_indices=True)  # noqa: E731
    assert np.array_equal(winners, reference(torch.from_numpy(x))[1].numpy())
    assert_autograd(
        lambda x: reference(x)[0],
        [x],
        y,
        lambda grad: [pooling.max_pool_backward(grad, winners, x.shape)],
    )


@given(drawn=poolings())
def test_average_pool_agrees_with_autograd(drawn, assert_autograd):
    x, window = drawn
    assert_autograd(
        lambda x: F.avg_pool2d(x, *window.values()),
        [x],
        pooling.average_pool(x, **window),
        lambda grad: [pooling.average_pool_backward(grad, x.shape, **window)],
    )


@given(shape=st.tuples(*[st.integers(1, 4)] * 4))
def test_global_average_pool_agrees_with_autograd(shape, assert_autograd):
    x = np.random.default_rng(0).standard_normal(shape)
    assert_autograd(
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        [x],
        pooling.global_average_pool(x),
        lambda grad: [pooling.global_average_pool_backward(grad, shape)],
    )


def test_gradient_goes_to_the_winner_as_in_the_lecture():
    """Lecture 003: of a, c, b, d the largest, d, gets 1 and the others 0."""
    y, winners = pooling.max_pool(np.array([[[[1.0, 3], [2, 4]]]]), 2)
    assert y.item() == 4
    back = pooling.max_pool_backward(np.ones((1, 1, 1, 1)), winners, (1, 1, 2, 2))
    assert back.tolist() == [[[[0, 0], [0, 1]]]]


def test_of_equal_ones_the_first_wins():
    _, winners = pooling.max_pool(np.full((1, 1, 4, 4), 7.0), 2)
    assert winners.tolist() == [[[[0, 2], [8, 10]]]]


@pytest.mark.parametrize("pool", [pooling.max_pool, pooling.average_pool])
def test_padding_beyond_half_the_window_is_refused(pool):
    with pytest.raises(InputError, match="padding 2 is more than half of the kernel 3"):
        pool(np.zeros((1, 1, 5, 5)), 3, padding=2)


SHAPES = st.tuples(*[st.integers(1, 3)] * 4)


@given(shape=SHAPES, scale=st.integers(1, 4))
def test_nearest_agrees_with_autograd(shape, scale, assert_autograd):
    x = np.random.default_rng(0).standard_normal(shape)
    assert_autograd(
        lambda x: F.interpolate(x, scale_factor=scale, mode="nearest"),
        [x],
        upsampling.nearest(x, scale),
        lambda grad: [upsampling.nearest_backward(grad, scale)],
    )


@given(shape=SHAPES, scale=st.integers(1, 4))
def test_bed_of_nails_agrees_with_autograd(shape, scale, assert_autograd):
    """Torch's form of it: a transpose convolution whose stamp is one nail."""
    x = np.random.default_rng(0).standard_normal(shape)
    stamp = torch.zeros(shape[1], 1, scale, scale, dtype=torch.float64)
    stamp[:, :, 0, 0] = 1
    assert_autograd(
        lambda x: F.conv_transpose2d(x, stamp, stride=scale, groups=shape[1]),
        [x],
        upsampling.bed_of_nails(x, scale),
        lambda grad: [upsampling.bed_of_nails_backward(grad, scale)],
    )


@given(shape=SHAPES, scale=st.integers(1, 3), rest=st.integers(0, 1))
def test_remembered_bed_of_nails_agrees_with_autograd(shape, scale, rest, assert_autograd):
    """Unpooling after pooling, in maps that the windows need not fill."""
    rng = np.random.default_rng(0)
    size = tuple(scale * side + rest * (scale - 1) for side in shape[2:])
    _, winners = pooling.max_pool(rng.standard_normal((*shape[:2], *size)), scale)
    x = rng.standard_normal(shape)
    assert_autograd(
        lambda x: F.max_unpool2d(x, torch.from_numpy(winners), scale, output_size=size),
        [x],
        upsampling.max_unpool(x, winners, size),
        lambda grad: [upsampling.max_unpool_backward(grad, winners)],
    )


@given(shape=SHAPES, scale=st.integers(1, 3))
def test_sub_pixel_agrees_with_autograd(shape, scale, assert_autograd):
    num, channels, *size = shape
    x = np.random.default_rng(0).standard_normal((num, channels * scale**2, *size))
    assert_autograd(
        lambda x: F.pixel_shuffle(x, scale),
        [x],
        upsampling.sub_pixel(x, scale),
        lambda grad: [upsampling.sub_pixel_backward(grad, scale)],
    )


def test_sub_pixel_is_the_papers_up_to_the_order_of_channels():
    """Shi et al. 2016, eq. 4: PS(T)[x, y, c] = T[x/r, y/r, C r mod(y, r) + C mod(x, r) + c]."""
    r, channels = 3, 2
    t = np.random.default_rng(0).standard_normal((4, 5, channels * r**2))
    paper = np.empty((12, 15, channels))
    for x, y, c in np.ndindex(paper.shape):
        paper[x, y, c] = t[x // r, y // r, channels * r * (y % r) + channels * (x % r) + c]
    order = [channels * r * v + channels * u + c for c, u, v in np.ndindex(channels, r, r)]
    ours = upsampling.sub_pixel(t.transpose(2, 0, 1)[None, order], r)[0]
    assert np.array_equal(ours.transpose(1, 2, 0), paper)


def test_upsampling_draws_the_lectures_figures():
    """Lecture 002, Upsampling Layers."""
    nearest = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    nails = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    assert upsampling.nearest(LECTURE, 2)[0, 0].tolist() == nearest
    assert upsampling.bed_of_nails(LECTURE, 2)[0, 0].tolist() == nails


def test_two_values_for_one_place_are_refused():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1
    y, winners = pooling.max_pool(x, 2, 1)  # all four windows see the one
    with pytest.raises(InputError, match="windows that do not overlap"):
        upsampling.max_unpool(y, winners, (3, 3))
