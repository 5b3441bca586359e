"""The fully connected layer: all features together make each new feature.

Lecture 002, "Fully Connected Layer": F2 = W^T F1 + b. `weight` holds the lecture's W^T, one row of
weights for each new feature (the layout of filters, too), and images are rows: y = x weight^T + b,
that is y[n,o] = b[o] + sum_i weight[o,i] x[n,i].

Lecture 002, "Task": derive the gradients. With g = dE/dy known from above, by the chain rule
    dE/dx[n,i]      = sum_o g[n,o] dy[n,o]/dx[n,i]      = sum_o g[n,o] weight[o,i]
    dE/dweight[o,i] = sum_n g[n,o] dy[n,o]/dweight[o,i] = sum_n g[n,o] x[n,i]
    dE/db[o]        = sum_n g[n,o]
"""

from __future__ import annotations

from deepen.byhand import Array


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Features (N, I), weight (O, I) and bias (O,) to new features (N, O)."""
    return x @ weight.T + bias


def linear_backward(grad: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """dE/dy (N, O) to dE/dx (N, I), dE/dweight (O, I) and dE/dbias (O,)."""
    return grad @ weight, grad.T @ x, grad.sum(0)
