"""Convolution by definition, and its two gradients, which are convolutions again.

Lecture 002, "Convolutional Layer": each output sees a small window, with the same weights all over.
With stride s, padding p (zeros all round) and dilation d (steps of d between the taps):

    y[n,o,r,c] = b[o] + sum_{i,u,v} w[o,i,u,v] x[n, i, s r + d u - p, s c + d v - p]

As in every library the filter is not flipped (a mathematician calls this cross-correlation). With
groups, input channels and filters are cut into equal parts, and each part of the filters sees its
own part of the channels (AlexNet's two GPUs, Krizhevsky et al. 2012, section 3.2).

Lecture 003, "Backpropagation of convolution", with g = dE/dy:

    dE/dw[o,i,u,v] = sum_{n,r,c} g[n,o,r,c] x[n, i, d u + s r - p, d v + s c - p]

is the definition with g as the filter; images are summed over as channels were, and stride and
dilation have changed places. For the input, x[y] was seen by y[r] through tap u wherever
s r + d u - p = y; with s = d = 1 and p = 0

    dE/dx[n,i,y,x] = sum_{o,u,v} w[o,i,u,v] g[n, o, y - u, x - v]

in which g is read backwards: the full convolution of g with the filter rotated by 180 degrees. A
stride puts s - 1 zeros between the values of g, and what falls on the padding is cut away.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array
from deepen.errors import InputError


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """How many windows fit along a side: floor((size + 2p - d (kernel - 1) - 1) / s) + 1."""
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise InputError(f"a window of {reach} px does not fit {size} px padded by {padding}")
    return (size + 2 * padding - reach) // stride + 1


def pad(x: Array, rows: int, columns: int, value: float = 0.0) -> Array:
    """A border of `value` all round: (N, C, H, W) to (N, C, H + 2 rows, W + 2 columns)."""
    border = ((0, 0), (0, 0), (rows, rows), (columns, columns))
    return np.pad(x, border, constant_values=value)


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
    """Maps (N, I, H, W) and filters (O, I / groups, kh, kw) to maps (N, O, H', W').

    Raises:
        InputError: the window is larger than the padded maps.
    """
    kh, kw = weight.shape[2:]
    height = output_size(x.shape[2], kh, stride, padding, dilation)
    width = output_size(x.shape[3], kw, stride, padding, dilation)
    x = pad(x, padding, padding)
    y = np.empty((len(x), len(weight), height, width))
    parts = (np.split(x, groups, 1), np.split(weight, groups, 0), np.split(y, groups, 1))
    for x_part, w_part, y_part in zip(*parts, strict=True):
        for r, c in np.ndindex(height, width):
            rows = slice(stride * r, stride * r + dilation * (kh - 1) + 1, dilation)
            columns = slice(stride * c, stride * c + dilation * (kw - 1) + 1, dilation)
            window = x_part[:, :, rows, columns]  # (N, I / groups, kh, kw)
            y_part[:, :, r, c] = np.einsum("oiuv,niuv->no", w_part, window)
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
    return (
        input_gradient(grad, weight, x.shape[2:], stride, padding, dilation, groups),
        filter_gradient(grad, x, weight.shape[2:], stride, padding, dilation, groups),
        grad.sum((0, 2, 3)),
    )


def filter_gradient(
    grad: Array,
    x: Array,
    kernel: tuple[int, ...],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """dE/dw (O, I / groups, kh, kw): the input convolved with the gradient of the output."""
    kh, kw = kernel
    parts = []
    for x_part, g_part in zip(np.split(x, groups, 1), np.split(grad, groups, 1), strict=True):
        images, filters = x_part.swapaxes(0, 1), g_part.swapaxes(0, 1)  # (I, N, H, W), (O, N, ...)
        part = convolve(images, filters, stride=dilation, padding=padding, dilation=stride)
        # Rows that the stride left over make windows beyond the last tap: cut.
        parts.append(part[:, :, :kh, :kw].swapaxes(0, 1))
    return np.concatenate(parts)


def input_gradient(
    grad: Array,
    weight: Array,
    size: tuple[int, ...],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """dE/dx (N, I, H, W): the full convolution of dE/dy with the rotated filter."""
    height, width = size
    parts = []
    for g_part, w_part in zip(np.split(grad, groups, 1), np.split(weight, groups, 0), strict=True):
        flipped = rotate(w_part).swapaxes(0, 1)  # (I / groups, O / groups, kh, kw)
        seen = full_convolve(spread(g_part, stride), flipped, dilation)
        # Rows that the stride left over are seen by no window: their gradient is 0.
        part = np.zeros((*seen.shape[:2], height + 2 * padding, width + 2 * padding))
        part[:, :, : seen.shape[2], : seen.shape[3]] = seen
        parts.append(part[:, :, padding : padding + height, padding : padding + width])
    return np.concatenate(parts, 1)


def rotate(weight: Array) -> Array:
    """Filters rotated by 180 degrees (lecture 003: about x, then about y)."""
    return weight[:, :, ::-1, ::-1]


def full_convolve(x: Array, weight: Array, dilation: int = 1) -> Array:
    """Every place where filter and maps touch at all: H' = H + d (kh - 1)."""
    kh, kw = weight.shape[2:]
    around = pad(x, dilation * (kh - 1), dilation * (kw - 1))
    return convolve(around, weight, dilation=dilation)


def spread(x: Array, stride: int) -> Array:
    """Put stride - 1 zeros between neighbours: (N, C, H, W) to (N, C, s (H - 1) + 1, ...)."""
    height, width = (stride * (size - 1) + 1 for size in x.shape[2:])
    wide = np.zeros((*x.shape[:2], height, width))
    wide[:, :, ::stride, ::stride] = x
    return wide
