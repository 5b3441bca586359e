"""Stochastic gradient descent: a step against the gradient, with a memory of the steps before.

Lecture 002, "How do we optimize?", prints w_t = w_(t-1) + a grad: uphill for a > 0. Descent takes
the other sign, w_t = w_(t-1) - lr grad. Its "Tips for training CNN" adds momentum, with
step_t* = step_t + m step_(t-1), and weight decay, which is the L2 penalty's gradient.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array


def l2_penalty_gradient(weight: Array, strength: float) -> Array:
    """Of strength sum w^2 / 2 (lecture 002: "prefers diffuse weight vectors"): weight decay."""
    return strength * weight


def l1_penalty_gradient(weight: Array, strength: float) -> Array:
    """Of strength sum |w| (lecture 002: "for sparsity"): the same pull at any size, 0 at 0."""
    return strength * np.sign(weight)


def sgd_step(
    weight: Array,
    gradient: Array,
    velocity: Array,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Array, Array]:
    """One step as libraries take it: the weights and the velocity (at first zeros) after it.

    g = gradient + weight_decay w;  v = momentum v + g;  w = w - lr v. With Nesterov's momentum the
    step looks ahead along the new velocity: w = w - lr (g + momentum v) (Sutskever et al. 2013,
    section 2, rewritten for the weights looked ahead at).
    """
    gradient = gradient + l2_penalty_gradient(weight, weight_decay)
    velocity = momentum * velocity + gradient
    step = gradient + momentum * velocity if nesterov else velocity
    return weight - lr * step, velocity


def krizhevsky_step(
    weight: Array,
    gradient: Array,
    step: Array,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> tuple[Array, Array]:
    """One step as the lecture and AlexNet's paper write it: the weights and the step taken.

    step = momentum step - weight_decay lr w - lr gradient;  w = w + step (Krizhevsky et al. 2012,
    section 5). The rate stands inside the memory: at a constant rate this is `sgd_step`; after the
    rate is cut, the steps remembered here are still long.
    """
    step = momentum * step - lr * l2_penalty_gradient(weight, weight_decay) - lr * gradient
    return weight + step, step
