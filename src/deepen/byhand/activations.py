"""Non-linearities: a function of each feature by itself (maxout: of a few).

Lecture 002, "Non-Linearity", draws sigmoid, ReLU, leaky ReLU and ELU and names maxout, SELU and
Swish; tanh is in lecture 004, "LeNet5". By the chain rule dE/dx = dE/dy f'(x). At a kink any slope
between those of the two sides is a subgradient: here that of the left side, as PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deepen.byhand import Array

# Klambauer et al. 2017: with these, mean 0 and variance 1 map to themselves.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x): into 0..1. Written with e^-|x|, which cannot overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def sigmoid_backward(grad: Array, x: Array) -> Array:
    """f' = f (1 - f), at most 1/4: through many layers the gradient vanishes (lecture 004)."""
    y = sigmoid(x)
    return grad * y * (1 - y)


def tanh(x: Array) -> Array:
    """(e^x - e^-x) / (e^x + e^-x): into -1..1."""
    return np.tanh(x)


def tanh_backward(grad: Array, x: Array) -> Array:
    """f' = 1 - f^2."""
    return grad * (1 - np.tanh(x) ** 2)


def relu(x: Array) -> Array:
    """max(0, x) (Nair & Hinton 2010)."""
    return np.maximum(x, 0)


def relu_backward(grad: Array, x: Array) -> Array:
    """f' = 1 where x > 0, else 0."""
    return grad * (x > 0)


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    """x where x > 0, else slope x (Maas et al. 2013): no unit dies for good."""
    return np.where(x > 0, x, slope * x)


def leaky_relu_backward(grad: Array, x: Array, slope: float = 0.01) -> Array:
    """f' = 1 where x > 0, else the slope."""
    return grad * np.where(x > 0, 1, slope)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha (e^x - 1) (Clevert et al. 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(grad: Array, x: Array, alpha: float = 1.0) -> Array:
    """f' = 1 where x > 0, else alpha e^x."""
    return grad * np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))


def selu(x: Array) -> Array:
    """ELU scaled so that activations normalize themselves (Klambauer et al. 2017, eq. 2)."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


def selu_backward(grad: Array, x: Array) -> Array:
    """f' = scale times that of ELU."""
    return SELU_SCALE * elu_backward(grad, x, SELU_ALPHA)


def swish(x: Array, beta: float = 1.0) -> Array:
    """x sigmoid(beta x) (Ramachandran et al. 2017)."""
    return x * sigmoid(beta * x)


def swish_backward(grad: Array, x: Array, beta: float = 1.0) -> Array:
    """f' = s + beta x s (1 - s) with s = sigmoid(beta x)."""
    s = sigmoid(beta * x)
    return grad * (s + beta * x * s * (1 - s))


def maxout(x: Array, pieces: int = 2) -> Array:
    """The largest of each `pieces` neighbouring channels: (N, C, ...) to (N, C / pieces, ...).

    Goodfellow et al. 2013, section 3: h_i = max_j (W_ij x + b_ij); the layer before computes the
    pieces, so it needs `pieces` times as many channels.
    """
    return _pieces(x, pieces).max(2)


def maxout_backward(grad: Array, x: Array, pieces: int = 2) -> Array:
    """To the winner, as in max pooling; the first of equal ones."""
    grouped = _pieces(x, pieces)
    d_x = np.zeros(grouped.shape)
    winner = np.expand_dims(grouped.argmax(2), 2)
    np.put_along_axis(d_x, winner, np.expand_dims(grad, 2), 2)
    return d_x.reshape(x.shape)


def _pieces(x: Array, pieces: int) -> Array:
    return x.reshape(len(x), x.shape[1] // pieces, pieces, *x.shape[2:])


class Activation(NamedTuple):
    """A non-linearity: y = forward(x), dE/dx = backward(dE/dy, x)."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "tanh": Activation(tanh, tanh_backward),
    "relu": Activation(relu, relu_backward),
    "leaky_relu": Activation(leaky_relu, leaky_relu_backward),
    "elu": Activation(elu, elu_backward),
    "selu": Activation(selu, selu_backward),
    "swish": Activation(swish, swish_backward),
    "maxout": Activation(maxout, maxout_backward),
}
