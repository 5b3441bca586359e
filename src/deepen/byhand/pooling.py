"""Pooling: a window becomes one value, its largest or its mean.

Lecture 002, "Pooling": max, average and global average. Lecture 003, "Backpropagation of max
pooling": the maximum depends on the winner alone, so the winner gets the gradient of the output and
the other pixels get 0. Where several are largest, the first of them, row by row, is the winner; any
choice is a subgradient, and this one is PyTorch's. A mean over K pixels gives each 1/K of it. Where
windows overlap (AlexNet's 3x3 at stride 2), what a pixel gets from each is added.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepen.byhand import Array, Indices
from deepen.byhand.convolution import output_size, pad
from deepen.errors import InputError


def max_pool(
    x: Array, kernel: int, stride: int | None = None, padding: int = 0
) -> tuple[Array, Indices]:
    """Maps (N, C, H, W) to the maxima (N, C, H', W') and their places in the H W pixels of a map.

    Args:
        x: the maps; padding never wins.
        kernel: height and width of the window.
        stride: as the kernel, unless named.
        padding: at most half the kernel, so that no window holds padding alone.
    """
    num, channels, _, width = x.shape
    padded = pad(x, padding, padding, -np.inf)
    step, y = _outputs(x.shape, kernel, stride, padding)
    winners = np.empty(y.shape, np.int64)
    for r, c, window in _windows(y.shape, kernel, step):
        values = padded[:, :, *window].reshape(num, channels, -1)  # (N, C, kernel kernel)
        first = values.argmax(2)  # the first of equal ones
        u, v = np.divmod(first, kernel)
        y[:, :, r, c] = values.max(2)
        winners[:, :, r, c] = (step * r + u - padding) * width + step * c + v - padding
    return y, winners


def max_pool_backward(grad: Array, winners: Indices, shape: tuple[int, ...]) -> Array:
    """dE/dy (N, C, H', W') to dE/dx of `shape` (N, C, H, W): all of it to the winners."""
    num, channels, height, width = shape
    d_x = np.zeros((num, channels, height * width))
    images, maps = np.arange(num)[:, None, None], np.arange(channels)[:, None]
    places = winners.reshape(num, channels, -1)
    np.add.at(d_x, (images, maps, places), grad.reshape(places.shape))  # adds where places repeat
    return d_x.reshape(shape)


def average_pool(x: Array, kernel: int, stride: int | None = None, padding: int = 0) -> Array:
    """Maps (N, C, H, W) to the means (N, C, H', W') of windows; padding counts as zeros."""
    step, y = _outputs(x.shape, kernel, stride, padding)
    padded = pad(x, padding, padding)
    for r, c, window in _windows(y.shape, kernel, step):
        y[:, :, r, c] = padded[:, :, *window].mean((2, 3))
    return y


def average_pool_backward(
    grad: Array, shape: tuple[int, ...], kernel: int, stride: int | None = None, padding: int = 0
) -> Array:
    """dE/dy (N, C, H', W') to dE/dx of `shape` (N, C, H, W): an equal share to each pixel."""
    height, width = shape[2:]
    padded = pad(np.zeros(shape), padding, padding)
    for r, c, window in _windows(grad.shape, kernel, stride or kernel):
        padded[:, :, *window] += grad[:, :, r, c, None, None] / kernel**2
    return padded[:, :, padding : padding + height, padding : padding + width]


def global_average_pool(x: Array) -> Array:
    """Maps (N, C, H, W) to the mean of each (N, C) (Lin et al. 2014, section 3.2)."""
    return x.mean((2, 3))


def global_average_pool_backward(grad: Array, shape: tuple[int, ...]) -> Array:
    """dE/dy (N, C) to dE/dx of `shape` (N, C, H, W)."""
    return np.broadcast_to(grad[:, :, None, None] / (shape[2] * shape[3]), shape).copy()


def _outputs(
    shape: tuple[int, ...], kernel: int, stride: int | None, padding: int
) -> tuple[int, Array]:
    """The stride, and room for the outputs."""
    if padding > kernel // 2:
        raise InputError(f"padding {padding} is more than half of the kernel {kernel}")
    step = stride or kernel
    sides = (output_size(size, kernel, step, padding) for size in shape[2:])
    return step, np.empty((*shape[:2], *sides))


def _windows(
    shape: tuple[int, ...], kernel: int, stride: int
) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Row and column of each output, with its window."""
    for r, c in np.ndindex(*shape[2:]):
        top, left = stride * r, stride * c
        yield r, c, (slice(top, top + kernel), slice(left, left + kernel))
