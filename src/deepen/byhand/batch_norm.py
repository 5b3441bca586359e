"""Batch normalization: each channel to mean 0 and variance 1 over the batch, then scaled back.

Lecture 002, "Tips for training CNN", "c). Batch Normalization", which prints Algorithm 1 of Ioffe &
Szegedy 2015. Over the m values of a channel (all images, all pixels):

    mu = sum x / m     var = sum (x - mu)^2 / m     xhat = (x - mu) / sqrt(var + eps)
    y = gamma xhat + beta

Backward (their section 3): x acts through xhat, through mu and through var. With h = g gamma,

    dE/dvar = sum h (x - mu) (-1/2) (var + eps)^(-3/2)
    dE/dmu  = -sum h / sqrt(var + eps)                              (sum (x - mu) = 0)
    dE/dx   = h / sqrt(var + eps) + dE/dvar 2 (x - mu) / m + dE/dmu / m
            = (h - mean(h) - xhat mean(h xhat)) / sqrt(var + eps)

so what reaches the layer before has mean 0 and (but for eps) no part along xhat: it cannot shift or
scale the channel. In evaluation mu and var are constants, running means of those seen in training
(their Algorithm 2, with the unbiased variance), and the block is an affine map.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array

EPS = 1e-5


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float = EPS) -> Array:
    """Training: x (N, C) or (N, C, H, W), gamma and beta (C,), to the shape of x."""
    return evaluate(x, gamma, beta, _mean(x), _variance(x), eps)


def batch_norm_backward(
    grad: Array, x: Array, gamma: Array, eps: float = EPS
) -> tuple[Array, Array, Array]:
    """Training: dE/dy to dE/dx, both in the shape of x, dE/dgamma (C,) and dE/dbeta (C,)."""
    mean, variance = _mean(x), _variance(x)
    d_xhat, d_gamma, d_beta = evaluate_backward(grad, x, gamma, mean, variance, eps)
    xhat = evaluate(x, np.ones_like(mean), np.zeros_like(mean), mean, variance, eps)
    along = _mean(d_xhat * xhat)
    return d_xhat - _across(_mean(d_xhat), x) - xhat * _across(along, x), d_gamma, d_beta


def running(x: Array, mean: Array, variance: Array, momentum: float = 0.1) -> tuple[Array, Array]:
    """The running mean and variance (C,) after one more batch x, which counts `momentum`."""
    m = x.size / x.shape[1]
    unbiased = _variance(x) * m / (m - 1)
    return (
        (1 - momentum) * mean + momentum * _mean(x),
        (1 - momentum) * variance + momentum * unbiased,
    )


def evaluate(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float = EPS
) -> Array:
    """Evaluation: y = gamma (x - mean) / sqrt(variance + eps) + beta with fixed statistics (C,)."""
    xhat = (x - _across(mean, x)) / np.sqrt(_across(variance, x) + eps)
    return _across(gamma, x) * xhat + _across(beta, x)


def evaluate_backward(
    grad: Array, x: Array, gamma: Array, mean: Array, variance: Array, eps: float = EPS
) -> tuple[Array, Array, Array]:
    """Evaluation: dE/dy to dE/dx, dE/dgamma (C,) and dE/dbeta (C,); the statistics are constant."""
    deviation = np.sqrt(_across(variance, x) + eps)
    xhat = (x - _across(mean, x)) / deviation
    axes = _all_but_channels(x)
    return grad * _across(gamma, x) / deviation, (grad * xhat).sum(axes), grad.sum(axes)


def _all_but_channels(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _mean(x: Array) -> Array:
    return x.mean(_all_but_channels(x))


def _variance(x: Array) -> Array:
    return x.var(_all_but_channels(x))


def _across(values: Array, x: Array) -> Array:
    """One value a channel (C,), shaped to meet x (N, C, ...)."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))
