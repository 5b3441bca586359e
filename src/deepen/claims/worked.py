"""The small tables of numbers that the lectures draw, worked out by `deepen.byhand`.

A table is written row after row: "1 2 / 3 4".
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array, convolution, pooling, sparse_matrix, upsampling


def nearest(table: str) -> str:
    """Nearest-neighbour upsampling by two."""
    return _written(upsampling.nearest(_read(table), 2))


def bed_of_nails(table: str) -> str:
    """Upsampling by two with zeros between."""
    return _written(upsampling.bed_of_nails(_read(table), 2))


def rotated(table: str) -> str:
    """A filter rotated by 180 degrees."""
    return _written(convolution.rotate(_read(table)))


def max_pool_gradient(table: str) -> str:
    """The derivative of the maximum of a 2x2 table by each of its elements."""
    x = _read(table)
    _, winners = pooling.max_pool(x, 2)
    return _written(pooling.max_pool_backward(np.ones((1, 1, 1, 1)), winners, x.shape))


def convolution_matrix(kernel: int, side: int) -> str:
    """The transpose of the matrix of a convolution, "w00 0 / w01 w00 / ..."."""
    taps = np.arange(1.0, kernel**2 + 1)
    matrix = sparse_matrix.convolution_matrix(
        taps.reshape(1, 1, kernel, kernel), (side, side)
    ).T.astype(int)
    names = ["0", *(f"w{u}{v}" for u in range(kernel) for v in range(kernel))]
    return " / ".join(" ".join(names[tap] for tap in row) for row in matrix)


def values_back(kernel: int, side: int) -> int:
    """Length of the vector that the transpose of that matrix gives."""
    return convolution_matrix(kernel, side).count("/") + 1


def _read(table: str) -> Array:
    rows = [[float(cell) for cell in row.split()] for row in table.split("/")]
    return np.array(rows)[None, None]


def _written(array: Array) -> str:
    return " / ".join(" ".join(f"{cell:g}" for cell in row) for row in array[0, 0])
