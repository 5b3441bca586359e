"""Upsampling without weights: more pixels from fewer.

Lecture 002, "Upsampling Layers". Nearest neighbour and bed of nails are drawn there with

    1 2      1 1 2 2      1 0 2 0
    3 4      1 1 2 2      0 0 0 0
             3 3 4 4      3 0 4 0
             3 3 4 4      0 0 0 0

Bed of nails puts each value at a fixed corner, or where the maximum that it pairs with was found
(Zeiler & Fergus 2013, section 2.1: "switches"; `winners` of `deepen.byhand.pooling.max_pool`).
Sub-pixel (Shi et al. 2016, arXiv:1609.05158, eq. 4) lays n^2 channels out as an n x n grid; what
learns is the convolution before it. All are copies, so the gradient of an input is the sum of the
gradients of its copies. Transpose convolution has a file of its own.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array, Indices
from deepen.errors import InputError


def nearest(x: Array, scale: int) -> Array:
    """Maps (N, C, H, W) to (N, C, scale H, scale W), each pixel a block of equal ones."""
    return x.repeat(scale, 2).repeat(scale, 3)


def nearest_backward(grad: Array, scale: int) -> Array:
    """dE/dy (N, C, scale H, scale W) to dE/dx (N, C, H, W): the sum over each block."""
    num, channels, height, width = grad.shape
    blocks = grad.reshape(num, channels, height // scale, scale, width // scale, scale)
    return blocks.sum((3, 5))


def bed_of_nails(x: Array, scale: int) -> Array:
    """Maps (N, C, H, W) to (N, C, scale H, scale W): values at upper left corners, else zeros."""
    num, channels, height, width = x.shape
    y = np.zeros((num, channels, scale * height, scale * width))
    y[:, :, ::scale, ::scale] = x
    return y


def bed_of_nails_backward(grad: Array, scale: int) -> Array:
    """dE/dy (N, C, scale H, scale W) to dE/dx (N, C, H, W): zeros were no copies."""
    return grad[:, :, ::scale, ::scale].copy()


def max_unpool(x: Array, winners: Indices, size: tuple[int, int]) -> Array:
    """Values (N, C, H', W') back to the places of the maxima in maps (N, C, *size), else zeros.

    Raises:
        InputError: two values have one place (pooling windows overlapped): which should stay?
    """
    places = winners.reshape(*x.shape[:2], -1)
    in_order = np.sort(places, 2)
    if (in_order[:, :, 1:] == in_order[:, :, :-1]).any():
        raise InputError("two values have one place: unpooling needs windows that do not overlap")
    y = np.zeros((*x.shape[:2], size[0] * size[1]))
    np.put_along_axis(y, places, x.reshape(places.shape), 2)
    return y.reshape(*x.shape[:2], *size)


def max_unpool_backward(grad: Array, winners: Indices) -> Array:
    """dE/dy (N, C, H, W) to dE/dx (N, C, H', W'), read at the places of the maxima."""
    places = winners.reshape(*winners.shape[:2], -1)
    flat = grad.reshape(*grad.shape[:2], -1)
    return np.take_along_axis(flat, places, 2).reshape(winners.shape)


def sub_pixel(x: Array, scale: int) -> Array:
    """Maps (N, n^2 C, H, W) to (N, C, n H, n W) for scale n.

    y[c, n r + u, n s + v] = x[n^2 c + n u + v, r, s], PyTorch's order of channels (the paper's
    eq. 4 counts them as n C v + C u + c: the same up to a permutation of the filters before).
    """
    num, depth, height, width = x.shape
    channels = depth // scale**2
    grid = x.reshape(num, channels, scale, scale, height, width)
    return grid.transpose(0, 1, 4, 2, 5, 3).reshape(num, channels, scale * height, scale * width)


def sub_pixel_backward(grad: Array, scale: int) -> Array:
    """dE/dy (N, C, n H, n W) to dE/dx (N, n^2 C, H, W): each value back to where it came from."""
    num, channels, height, width = grad.shape
    grid = grad.reshape(num, channels, height // scale, scale, width // scale, scale)
    back = grid.transpose(0, 1, 3, 5, 2, 4)
    return back.reshape(num, channels * scale**2, height // scale, width // scale)
