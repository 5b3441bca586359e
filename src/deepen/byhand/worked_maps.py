"""Worked examples of the blocks that look at maps: convolution, pooling, upsampling."""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array, pooling, sparse_matrix, upsampling
from deepen.byhand.convolution import convolve, filter_gradient, pad, rotate
from deepen.byhand.drawing import Drawn, Step, Worked
from deepen.byhand.im2col import im2col
from deepen.byhand.transpose_convolution import transpose_convolve, transpose_convolve_backward

X = np.array([[1, 2, 0, 1], [0, 1, 3, 2], [2, 1, 0, 0], [1, 0, 1, 2]], float)
W = np.array([[1, 0, -1], [2, 1, 0], [0, -1, 1]], float)
G = np.array([[1, 2], [-1, 1]], float)
SMALL = np.array([[1, 2], [3, 4]], float)  # the lecture's


def conv() -> Worked:
    """Forward three ways, then both gradients."""
    x, w, g = X[None, None], W[None, None], G[None, None]
    y = convolve(x, w)
    terms = " + ".join(f"{a:g}*{b:g}" for a, b in zip(W.flat, X[:3, :3].flat, strict=True))
    columns = im2col(x, (3, 3))[0]
    matrix = sparse_matrix.convolution_matrix(w, (4, 4))
    return Worked(
        "Convolution: a 3x3 filter on 4x4 pixels, stride 1, no padding",
        "Lecture 002, Convolutional Layer and Transpose Convolution;"
        " lecture 003, Backpropagation of convolution",
        (
            Step(
                f"By definition: each output sees a window, the first {terms} = {y[0, 0, 0, 0]:g}.",
                {"input X": X, "filter W": W, "output Y": y[0, 0]},
            ),
            Step(
                "As im2col: each window is a column; the filter as a row times the columns is Y.",
                {"W": W.ravel(), "windows": columns, "Y": W.ravel() @ columns},
            ),
            Step(
                "As a sparse matrix C: a row for each output, a column for each pixel.",
                {"C, 4x16": symbols()},
            ),
            Step(
                "With the numbers of W; times X as a column of 16 pixels it is Y.",
                {"C": matrix, "C X": (matrix @ X.ravel())[:, None]},
            ),
            Step(
                "Backward: let dE/dY be known. dE/dW is X convolved with dE/dY as the filter.",
                {"X": X, "dE/dY": G, "dE/dW": filter_gradient(g, x, (3, 3))[0, 0]},
            ),
            Step(
                "dE/dX is the full convolution of dE/dY (zeros round it) with W rotated by 180"
                " degrees.",
                {
                    "dE/dY, padded": pad(g, 2, 2)[0, 0],
                    "W, rotated": rotate(w)[0, 0],
                    "dE/dX": convolve(pad(g, 2, 2), rotate(w))[0, 0],
                },
            ),
            Step(
                "The same from the matrix: its transpose times the 4 values of dE/dY gives 16.",
                {"C^T dE/dY": matrix.T @ G.ravel()},
            ),
        ),
    )


def symbols() -> Drawn:
    """Lecture 002's matrix as it prints it, before its ^T: which weight stands where."""
    drawn = np.full((4, 16), "0", "U3")
    for (_, _, u, v), row, column in sparse_matrix.places((1, 1, 3, 3), (4, 4)):
        drawn[row, column] = f"w{u}{v}"
    return drawn


def transpose() -> Worked:
    """Stamps, and the transpose of the matrix of `conv`."""
    x, w = SMALL[None, None], W[None, None]
    stamps = {}
    for r, c in np.ndindex(2, 2):
        one = np.zeros_like(x)
        one[0, 0, r, c] = SMALL[r, c]
        stamps[f"{SMALL[r, c]:g} W"] = transpose_convolve(one, w)[0, 0]
    matrix = sparse_matrix.convolution_matrix(w, (4, 4))
    apart = transpose_convolve(np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3)), stride=2)
    d_x, d_w, _ = transpose_convolve_backward(X[None, None], x, w)
    return Worked(
        "Transpose convolution: a 3x3 filter takes 2x2 pixels to 4x4",
        "Lecture 002, Upsampling Layers: Transpose Convolution",
        (
            Step(
                "Each pixel stamps its multiple of the filter.",
                {"input": SMALL, "filter W": W, **stamps},
            ),
            Step("The output is their sum.", {"output": transpose_convolve(x, w)[0, 0]}),
            Step(
                "The same: the transpose of the 4x16 matrix of `deepen byhand conv`, times the 4"
                " pixels.",
                {"C^T": matrix.T, "C^T x": (matrix.T @ SMALL.ravel())[:, None]},
            ),
            Step(
                "Backward is convolution. Let dE/dY be the 4x4 input of that example.",
                {"dE/dY": X, "dE/dX": d_x[0, 0], "dE/dW": d_w[0, 0]},
            ),
            Step(
                "Checkerboard: all ones, stride 2. Where 3x3 stamps overlap the output is larger.",
                {"output": apart[0, 0]},
            ),
        ),
    )


def pool() -> Worked:
    """Maxima, means and where their gradients go; a tie."""
    x, g = X[None, None], G[None, None]
    y, winners = pooling.max_pool(x, 2)
    tie = np.array([[5, 5], [1, 5]], float)
    tied, first = pooling.max_pool(tie[None, None], 2)
    return Worked(
        "Pooling: 2x2 windows, stride 2",
        "Lecture 002, Pooling; lecture 003, Backpropagation of max pooling",
        (
            Step(
                "A window becomes its largest or its mean. Places count pixels from 0, row by row.",
                {
                    "input": X,
                    "max": y[0, 0],
                    "place of the max": winners[0, 0],
                    "mean": pooling.average_pool(x, 2)[0, 0],
                    "global mean": pooling.global_average_pool(x),
                },
            ),
            Step(
                "Backward: the winner gets all of the gradient; with means each pixel a quarter.",
                {
                    "dE/dY": G,
                    "dE/dX, max": pooling.max_pool_backward(g, winners, x.shape)[0, 0],
                    "dE/dX, mean": pooling.average_pool_backward(g, x.shape, 2)[0, 0],
                },
            ),
            Step(
                "A tie goes to the first, row by row (any share is a subgradient).",
                {
                    "input": tie,
                    "max": tied[0, 0],
                    "dE/dX for dE/dY = 1": pooling.max_pool_backward(
                        np.ones_like(tied), first, (1, 1, 2, 2)
                    )[0, 0],
                },
            ),
        ),
    )


def nearest() -> Worked:
    """The lecture's picture, and its gradient."""
    return _upsampled(
        "Nearest neighbour: 2x2 pixels to 4x4",
        "Each pixel becomes a block of equal ones.",
        upsampling.nearest(SMALL[None, None], 2),
        "Backward: a pixel gets the sum over its block.",
        upsampling.nearest_backward(X[None, None], 2),
    )


def bed_of_nails() -> Worked:
    """The lecture's picture, its gradient, and the form with remembered places."""
    fixed = _upsampled(
        "Bed of nails: 2x2 pixels to 4x4",
        "Each value goes to the upper left corner of its block, zeros elsewhere.",
        upsampling.bed_of_nails(SMALL[None, None], 2),
        "Backward: a pixel gets the gradient of its nail.",
        upsampling.bed_of_nails_backward(X[None, None], 2),
    )
    _, winners = pooling.max_pool(X[None, None], 2)
    remembered = Step(
        "With remembered places: values go where max pooling found its winners.",
        {
            "pooled before": X,
            "places": winners[0, 0],
            "input": SMALL,
            "output": upsampling.max_unpool(SMALL[None, None], winners, (4, 4))[0, 0],
        },
    )
    return Worked(fixed.title, fixed.source, (*fixed.steps, remembered))


def _upsampled(title: str, forward: str, y: Array, backward: str, d_x: Array) -> Worked:
    return Worked(
        title,
        "Lecture 002, Upsampling Layers",
        (
            Step(forward, {"input": SMALL, "output": y[0, 0]}),
            Step(backward, {"dE/dY": X, "dE/dX": d_x[0, 0]}),
        ),
    )


def sub_pixel() -> Worked:
    """Four channels laid out as one."""
    x = np.stack([10 * channel + SMALL for channel in range(1, 5)])[None]
    y = upsampling.sub_pixel(x, 2)
    back = upsampling.sub_pixel_backward(y, 2)
    maps = {f"channel {channel}": x[0, channel] for channel in range(4)}
    return Worked(
        "Sub-pixel: 4 channels of 2x2 pixels to one of 4x4",
        "Lecture 002, Upsampling Layers: Subpixel Convolution; Shi et al. 2016, eq. 4",
        (
            Step(
                "n^2 channels become n x n grids; a convolution before makes them.",
                {**maps, "output": y[0, 0]},
            ),
            Step(
                "Backward: each gradient goes back to where its value came from.",
                {"dE/dY": y[0, 0], "dE/d(channel 0)": back[0, 0], "dE/d(channel 1)": back[0, 1]},
            ),
        ),
    )
