"""Local response normalization: neighbouring channels hold one another down.

Lecture 002, "Case Study 1: AlexNet-2012", prints it from Krizhevsky et al. 2012, section 3.3: over
the n channels round channel i, at the same pixel,

    b_i = a_i s_i^-beta,    s_i = k + alpha sum_{j = max(0, i - n/2)}^{min(N - 1, i + n/2)} a_j^2

with n/2 rounded down (n = 5: two on each side), k = 2, alpha = 1e-4 and beta = 0.75. alpha is not
divided by n; `torch.nn.LocalResponseNorm` and Caffe divide it.

Backward: a_j acts on b_j itself, and through s_i on every b_i with j in its window, that is with i
in the window of j (windows are symmetric):

    dE/da_j = g_j s_j^-beta - 2 alpha beta a_j sum_{i near j} g_i a_i s_i^(-beta - 1)
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array
from deepen.errors import InputError


def local_response(
    a: Array, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> Array:
    """Maps (N, C, ...) to maps of the same shape.

    Raises:
        InputError: n is even, so that channel i has no middle place in its window.
    """
    return a * (k + alpha * near(a**2, n)) ** -beta


def local_response_backward(
    grad: Array, a: Array, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> Array:
    """dE/db (N, C, ...) to dE/da, same shape."""
    s = k + alpha * near(a**2, n)
    through_sums = near(grad * a * s ** (-beta - 1), n)
    return grad * s**-beta - 2 * alpha * beta * a * through_sums


def near(x: Array, n: int) -> Array:
    """For each channel the sum over the n channels round it, fewer at both ends."""
    if n % 2 == 0:
        raise InputError(f"n counts a channel and as many on each side: odd, not {n}")
    total = np.zeros_like(x)
    for i in range(x.shape[1]):
        total[:, i] = x[:, max(0, i - n // 2) : i + n // 2 + 1].sum(1)
    return total
