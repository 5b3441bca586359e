"""Convolution by hand, three ways, and its transpose, against autograd and the lectures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deepen.byhand import convolution, im2col, sparse_matrix
from deepen.byhand.convolution import full_convolve, output_size, rotate
from deepen.byhand.transpose_convolution import transpose_convolve, transpose_convolve_backward
from deepen.errors import InputError

WAYS = [convolution, im2col, sparse_matrix]


class Drawn(NamedTuple):
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]  # x, weight, bias
    window: dict[str, int]


@st.composite
def convolutions(draw: st.DrawFn) -> Drawn:
    small = st.integers(1, 3)
    window = {
        "stride": draw(small),
        "padding": draw(st.integers(0, 3)),
        "dilation": draw(small),
        "groups": draw(small),
    }
    kernel = [draw(small), draw(small)]
    depth, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes = []
    for k in kernel:
        least = window["dilation"] * (k - 1) + 1 - 2 * window["padding"]
        sizes.append(max(1, least) + draw(st.integers(0, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    x = rng.standard_normal((draw(st.integers(1, 2)), window["groups"] * depth, *sizes))
    weight = rng.standard_normal((window["groups"] * filters, depth, *kernel))
    return Drawn((x, weight, rng.standard_normal(len(weight))), window)


@pytest.mark.parametrize("way", WAYS)
@given(drawn=convolutions())
def test_convolution_agrees_with_autograd(way, drawn: Drawn, assert_autograd):
    (x, weight, bias), window = drawn
    assert_autograd(
        lambda *leaves: F.conv2d(*leaves, **window),
        drawn.arrays,
        way.convolve(x, weight, bias, **window),
        lambda grad: way.convolve_backward(grad, x, weight, **window),
    )


@st.composite
def transpose_convolutions(draw: st.DrawFn) -> Drawn:
    small = st.integers(1, 3)
    window = {"stride": draw(small), "dilation": draw(small), "groups": draw(small)}
    window["output_padding"] = draw(
        st.integers(0, max(window["stride"], window["dilation"]) - 1)  # torch takes no larger
    )
    kernel, sizes = [draw(small), draw(small)], [draw(small), draw(small)]
    full = [
        window["stride"] * (size - 1) + window["dilation"] * (k - 1) + 1 + window["output_padding"]
        for size, k in zip(sizes, kernel, strict=True)
    ]
    window["padding"] = draw(st.integers(0, (min(full) - 1) // 2))
    depth, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    x = rng.standard_normal((draw(st.integers(1, 2)), window["groups"] * depth, *sizes))
    weight = rng.standard_normal((x.shape[1], filters, *kernel))
    return Drawn((x, weight, rng.standard_normal(window["groups"] * filters)), window)


@given(drawn=transpose_convolutions())
def test_transpose_convolution_agrees_with_autograd(drawn: Drawn, assert_autograd):
    (x, weight, bias), window = drawn
    back = {name: value for name, value in window.items() if name != "output_padding"}
    assert_autograd(
        lambda *leaves: F.conv_transpose2d(*leaves, **window),
        drawn.arrays,
        transpose_convolve(x, weight, bias, **window),
        lambda grad: transpose_convolve_backward(grad, x, weight, **back),
    )


@given(drawn=convolutions())
def test_matrix_is_linear_map_and_its_transpose_is_transpose_convolution(drawn: Drawn):
    """Lecture 002: y = C x one way, C^T y the other."""
    (x, weight, _), window = drawn
    matrix = sparse_matrix.convolution_matrix(weight, x.shape[2:], **window)
    y = F.conv2d(*map(torch.from_numpy, (x, weight)), **window).numpy()
    flat = y.reshape(len(x), -1)
    np.testing.assert_allclose(x.reshape(len(x), -1) @ matrix.T, flat, rtol=0, atol=1e-10)
    left = [
        (size + 2 * window["padding"] - window["dilation"] * (k - 1) - 1) % window["stride"]
        for size, k in zip(x.shape[2:], weight.shape[2:], strict=True)
    ]
    if left[0] == left[1]:  # one output_padding serves both directions
        back = transpose_convolve(y, weight, **window, output_padding=left[0])
        np.testing.assert_allclose(back, (flat @ matrix).reshape(x.shape), rtol=0, atol=1e-10)


def test_matrix_is_the_lectures():
    """Lecture 002 prints the 16x4 of a 3x3 filter on 4x4 pixels, ab for w_{a,b}."""
    printed = """
        00 -- -- --   01 00 -- --   02 01 -- --   -- 02 -- --
        10 -- 00 --   11 10 01 00   12 11 02 01   -- 12 -- 02
        20 -- 10 --   21 20 11 10   22 21 12 11   -- 22 -- 12
        -- -- 20 --   -- -- 21 20   -- -- 22 21   -- -- -- 22
    """
    weight = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    number = {f"{u}{v}": weight[0, 0, u, v] for u in range(3) for v in range(3)} | {"--": 0}
    lecture = [number[word] for word in printed.split()]
    matrix = sparse_matrix.convolution_matrix(weight, (4, 4))
    assert matrix.tolist() == np.array(lecture).reshape(16, 4).T.tolist()


def test_filter_is_rotated_as_the_lecture_rotates_it():
    """Lecture 003: F11 F12 F21 F22, then F22 F21 F12 F11."""
    assert rotate(np.array([[[[11, 12], [21, 22]]]])).tolist() == [[[[22, 21], [12, 11]]]]


def test_input_gradient_is_the_full_convolution_with_the_rotated_filter():
    """Lecture 003, spelled out for one channel at stride 1."""
    rng = np.random.default_rng(0)
    grad, weight = rng.standard_normal((1, 1, 2, 2)), rng.standard_normal((1, 1, 3, 3))
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    F.conv2d(x, torch.from_numpy(weight)).backward(torch.from_numpy(grad))
    np.testing.assert_allclose(full_convolve(grad, rotate(weight)), x.grad.numpy(), atol=1e-12)


def test_im2col_is_torchs_unfold_and_col2im_its_fold():
    rng = np.random.default_rng(0)
    x, window = rng.standard_normal((2, 3, 7, 6)), {"stride": 2, "padding": 1, "dilation": 2}
    columns = im2col.im2col(x, (3, 2), **window)
    unfolded = F.unfold(torch.from_numpy(x), (3, 2), **window)
    assert np.array_equal(columns, unfolded.numpy())
    folded = F.fold(unfolded, (7, 6), (3, 2), **window).numpy()
    np.testing.assert_allclose(im2col.col2im(columns, x.shape, (3, 2), **window), folded)


@pytest.mark.parametrize("way", WAYS)
def test_window_that_does_not_fit_is_refused(way):
    with pytest.raises(InputError, match="a window of 5 px does not fit 2 px padded by 1"):
        way.convolve(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 3, 3)), padding=1, dilation=2)


def test_output_size_of_known_layers():
    """AlexNet's first layer (227 px, 11x11, stride 4) makes 55 px; VGG's keep theirs."""
    assert output_size(227, 11, 4) == 55
    assert output_size(224, 3, 1, 1) == 224
