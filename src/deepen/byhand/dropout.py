"""Dropout: each unit is left out of a training step with probability 1 - p.

Lecture 004, "Dropout - Simpler Regularization", prints code in which p is the probability of
*keeping* a unit ("vanilla dropout"): a mask in training, a factor p in prediction, so that the next
layer meets the same mean. Inverted dropout, which the code's own note recommends and libraries use,
divides by p in training and leaves prediction alone. (Hinton et al. 2012; lecture 002: p = 0.5.)

The lecture's first mask, `U1 = np.random.rand(*H1.shape)`, has lost its `< p`: as printed it drops
nothing and multiplies every unit by noise. `draw_mask` compares.

The mask is a constant, so the gradient goes where the value went: dE/dx = dE/dy mask (/ p).
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array


def draw_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator) -> Array:
    """1 with probability p, else 0; one draw a unit and step."""
    return (rng.random(shape) < p).astype(np.float64)


def vanilla_dropout(x: Array, mask: Array) -> Array:
    """Training: the units that stay, as they are."""
    return x * mask


def vanilla_dropout_backward(grad: Array, mask: Array) -> Array:
    """Training: dE/dy to dE/dx."""
    return grad * mask


def vanilla_predict(x: Array, p: float) -> Array:
    """Prediction: every unit, scaled to its mean in training."""
    return x * p


def inverted_dropout(x: Array, mask: Array, p: float) -> Array:
    """Training: the units that stay, scaled so that the mean is kept; prediction returns x."""
    return x * mask / p


def inverted_dropout_backward(grad: Array, mask: Array, p: float) -> Array:
    """Training: dE/dy to dE/dx."""
    return grad * mask / p
