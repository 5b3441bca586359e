"""Convolution as one matrix product: each window becomes a column.

Lecture 002, "Convolutional Layer", in the form in which libraries compute it (Chellapilla et al.
2006, "High performance convolutional neural networks for document processing"). With X the columns
(I kh kw, H' W') of an image and W the filters as rows (O, I kh kw),

    y = W X      dE/dW = g X^T      dE/dX = W^T g

as for a fully connected layer; a pixel stands in many columns, so its gradient is their sum.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array
from deepen.byhand.convolution import output_size, pad


def im2col(
    x: Array,
    kernel: tuple[int, ...],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Array:
    """Maps (N, C, H, W) to their windows as columns (N, C kh kw, H' W')."""
    kh, kw = kernel
    height = output_size(x.shape[2], kh, stride, padding, dilation)
    width = output_size(x.shape[3], kw, stride, padding, dilation)
    x = pad(x, padding, padding)
    columns = np.empty((*x.shape[:2], kh, kw, height, width))
    for u, v in np.ndindex(kh, kw):
        rows, cols = _seen_by(u, v, height, width, stride, dilation)
        columns[:, :, u, v] = x[:, :, rows, cols]
    return columns.reshape(len(x), -1, height * width)


def col2im(
    columns: Array,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Array:
    """The transpose of im2col: columns back to maps of `shape`, what meets in a pixel added."""
    num, channels, size_y, size_x = shape
    kh, kw = kernel
    height = output_size(size_y, kh, stride, padding, dilation)
    width = output_size(size_x, kw, stride, padding, dilation)
    columns = columns.reshape(num, channels, kh, kw, height, width)
    x = np.zeros((num, channels, size_y + 2 * padding, size_x + 2 * padding))
    for u, v in np.ndindex(kh, kw):
        rows, cols = _seen_by(u, v, height, width, stride, dilation)
        x[:, :, rows, cols] += columns[:, :, u, v]
    return x[:, :, padding : padding + size_y, padding : padding + size_x]


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
    """Maps (N, I, H, W) and filters (O, I / groups, kh, kw) to maps (N, O, H', W')."""
    kh, kw = weight.shape[2:]
    columns = im2col(x, (kh, kw), stride, padding, dilation)
    columns = columns.reshape(len(x), groups, -1, columns.shape[-1])  # (N, groups, I kh kw, H' W')
    filters = weight.reshape(groups, len(weight) // groups, -1)
    height = output_size(x.shape[2], kh, stride, padding, dilation)
    y = (filters @ columns).reshape(len(x), len(weight), height, -1)
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
    kernel = weight.shape[2:]
    columns = im2col(x, kernel, stride, padding, dilation)
    columns = columns.reshape(len(x), groups, -1, columns.shape[-1])
    filters = weight.reshape(groups, len(weight) // groups, -1)
    g = grad.reshape(len(x), groups, len(weight) // groups, -1)  # (N, groups, O, H' W')
    d_filters = (g @ columns.swapaxes(2, 3)).sum(0)
    d_columns = filters.swapaxes(1, 2) @ g
    d_x = col2im(d_columns, x.shape, kernel, stride, padding, dilation)
    return d_x, d_filters.reshape(weight.shape), grad.sum((0, 2, 3))


def _seen_by(
    u: int, v: int, height: int, width: int, stride: int, dilation: int
) -> tuple[slice, slice]:
    """The pixels that tap (u, v) meets as the window moves over the padded maps."""
    top, left = dilation * u, dilation * v
    return (
        slice(top, top + stride * (height - 1) + 1, stride),
        slice(left, left + stride * (width - 1) + 1, stride),
    )
