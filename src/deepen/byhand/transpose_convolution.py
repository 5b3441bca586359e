"""Transpose convolution: each value stamps a weighted copy of the filter onto a larger map.

Lecture 002, "Upsampling Layers: Transpose Convolution": "What features did my current features come
from?" If convolution is y = C x, this is x = C^T y: forward here is the way back there, and the way
back here is convolution. It undoes the shape of a convolution, not its values. By definition

    y[n, o, s r + d u - p, s c + d v - p] += w[i,o,u,v] x[n,i,r,c]      for all i, r, c, u, v

so where stamps overlap unevenly (kernel no multiple of the stride) the output shows the
checkerboard that the lecture links to (Odena et al. 2016, distill.pub/2016/deconv-checkerboard).
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array
from deepen.byhand.convolution import convolve, filter_gradient


def transpose_convolve(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    output_padding: int = 0,
) -> Array:
    """Maps (N, I, H, W) and filters (I, O / groups, kh, kw) to maps (N, O, H', W').

    H' = s (H - 1) + d (kh - 1) + 1 - 2 p + output_padding: a convolution with stride s leaves
    s - 1 sizes with the same number of windows, and `output_padding` says which is meant.
    """
    kh, kw = weight.shape[2:]
    height = stride * (x.shape[2] - 1) + dilation * (kh - 1) + 1 + output_padding
    width = stride * (x.shape[3] - 1) + dilation * (kw - 1) + 1 + output_padding
    y = np.zeros((len(x), groups * weight.shape[1], height, width))
    parts = (np.split(x, groups, 1), np.split(weight, groups, 0), np.split(y, groups, 1))
    for x_part, w_part, y_part in zip(*parts, strict=True):
        for r, c in np.ndindex(*x.shape[2:]):
            rows = slice(stride * r, stride * r + dilation * (kh - 1) + 1, dilation)
            columns = slice(stride * c, stride * c + dilation * (kw - 1) + 1, dilation)
            stamp = np.einsum("ni,iouv->nouv", x_part[:, :, r, c], w_part)
            y_part[:, :, rows, columns] += stamp
    y = y[:, :, padding : height - padding, padding : width - padding]
    return y if bias is None else y + bias[:, None, None]


def transpose_convolve_backward(
    grad: Array,
    x: Array,
    weight: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """dE/dy (N, O, H', W') to dE/dx (N, I, H, W), dE/dw (I, O / groups, kh, kw), dE/db (O,).

    Input and output of the convolution in `deepen.byhand.convolution` have changed places.
    """
    d_x = convolve(grad, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    # A large output_padding has room for windows that no input stamped: cut.
    d_x = d_x[:, :, : x.shape[2], : x.shape[3]]
    d_weight = filter_gradient(x, grad, weight.shape[2:], stride, padding, dilation, groups)
    return d_x, d_weight, grad.sum((0, 2, 3))
