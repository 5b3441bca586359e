"""Convolution as a sparse matrix; its transpose is the way back.

Lecture 002, "Upsampling Layers: Transpose Convolution": "Convolutions are sparse matrix
multiplications". Pictures are written as one column each, row after row, channel after channel.
Each output is then a row of the matrix C, with the filter's weights where its window lies and zeros
elsewhere: y = C x. For a 3x3 filter on 4x4 pixels C is the lecture's 4x16 (printed there as the
transpose of 16x4). "Multiplying the transpose of this matrix to the 4 dimensional input gives a
16 dimensional vector. This is also how backpropagation works for conv layers":

    dE/dx = C^T g      dE/dC = g x^T, and a weight gathers from all the places where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepen.byhand import Array
from deepen.byhand.convolution import output_size


def places(
    filters: tuple[int, ...],
    size: tuple[int, ...],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Where each weight stands: (its index in the filters, row of C, column of C).

    Args:
        filters: shape (O, I / groups, kh, kw) of the filters.
        size: height and width of the input.
        stride: pixels from one window to the next.
        padding: zeros all round.
        dilation: pixels from one tap to the next.
        groups: parts that channels and filters are cut into.
    """
    num_filters, depth, kh, kw = filters
    height, width = size
    rows = output_size(height, kh, stride, padding, dilation)
    columns = output_size(width, kw, stride, padding, dilation)
    for o, i, u, v, r, c in np.ndindex(num_filters, depth, kh, kw, rows, columns):
        y, x = stride * r + dilation * u - padding, stride * c + dilation * v - padding
        if 0 <= y < height and 0 <= x < width:  # else it meets padding
            channel = o // (num_filters // groups) * depth + i
            yield (o, i, u, v), (o * rows + r) * columns + c, (channel * height + y) * width + x


def convolution_matrix(
    weight: Array,
    size: tuple[int, ...],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """C (O H' W', I H W) of filters (O, I / groups, kh, kw) on maps of height and width `size`."""
    num_filters, depth, kh, kw = weight.shape
    height = output_size(size[0], kh, stride, padding, dilation)
    width = output_size(size[1], kw, stride, padding, dilation)
    matrix = np.zeros((num_filters * height * width, groups * depth * size[0] * size[1]))
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for tap, row, column in places(weight.shape, size, **window):
        matrix[row, column] = weight[tap]
    return matrix


def convolve(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """Maps (N, I, H, W) and filters (O, I / groups, kh, kw) to maps (N, O, H', W'): y = C x."""
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    matrix = convolution_matrix(weight, x.shape[2:], **window)
    height = output_size(x.shape[2], weight.shape[2], stride, padding, dilation)
    y = (x.reshape(len(x), -1) @ matrix.T).reshape(len(x), len(weight), height, -1)
    return y if bias is None else y + bias[:, None, None]


def convolve_backward(
    grad: Array,
    x: Array,
    weight: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """dE/dy (N, O, H', W') to dE/dx (N, I, H, W), dE/dw (O, I / groups, kh, kw), dE/db (O,)."""
    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    matrix = convolution_matrix(weight, x.shape[2:], **window)
    g = grad.reshape(len(x), -1)
    d_matrix = g.T @ x.reshape(len(x), -1)
    d_weight = np.zeros(weight.shape)
    for tap, row, column in places(weight.shape, x.shape[2:], **window):
        d_weight[tap] += d_matrix[row, column]
    return (g @ matrix).reshape(x.shape), d_weight, grad.sum((0, 2, 3))
