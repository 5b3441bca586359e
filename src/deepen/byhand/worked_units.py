"""Worked examples of the blocks that look at single units, and of normalization and dropout."""

from __future__ import annotations

import numpy as np

from deepen.byhand import batch_norm as bn
from deepen.byhand import dropout as drop
from deepen.byhand import linear as fully_connected
from deepen.byhand.activations import ACTIVATIONS
from deepen.byhand.drawing import Step, Worked
from deepen.byhand.local_response import local_response, local_response_backward


def linear() -> Worked:
    """Three features to two."""
    x = np.array([[1, 2, -1]], float)
    weight = np.array([[1, 0, 2], [-1, 3, 1]], float)
    bias = np.array([0.5, -1])
    g = np.array([[1, -2]], float)
    d_x, d_weight, d_bias = fully_connected.linear_backward(g, x, weight)
    return Worked(
        "Fully connected: 3 features to 2",
        "Lecture 002, Fully Connected Layer (F2 = W^T F1 + b) and Task",
        (
            Step(
                "Each new feature is a row of W^T times the old ones, plus its bias.",
                {
                    "W^T": weight,
                    "F1": x.T,
                    "b": bias[:, None],
                    "F2": fully_connected.linear(x, weight, bias).T,
                },
            ),
            Step(
                "Backward, dE/dF2 known: dE/dF1 = W dE/dF2; dE/dW^T = dE/dF2 F1^T; dE/db = dE/dF2.",
                {"dE/dF2": g.T, "dE/dF1": d_x.T, "dE/dW^T": d_weight, "dE/db": d_bias[:, None]},
            ),
        ),
    )


def activations() -> Worked:
    """Values and slopes of each at five places; maxout on two pairs."""
    x = np.array([[-2, -1, 0, 1, 2]], float)
    alone = {name: f for name, f in ACTIVATIONS.items() if name != "maxout"}
    names = np.array(["x", *alone])[:, None]
    values = [f.forward(x) for f in alone.values()]
    slopes = [f.backward(np.ones_like(x), x) for f in alone.values()]
    pairs = np.array([[1, 3, -2, -5]], float)
    maxout = ACTIVATIONS["maxout"]
    return Worked(
        "Non-linearities",
        "Lecture 002, Non-Linearity; lecture 004, LeNet5 (tanh)",
        (
            Step("f(x).", {"f": names, "f(x)": np.vstack([x, *values])}),
            Step(
                "f'(x); at a kink (x = 0) the slope of the left side.",
                {"f": names, "f'(x)": np.vstack([x, *slopes])},
            ),
            Step(
                "Maxout takes the larger of each two features, and hands its gradient to that one.",
                {
                    "x": pairs,
                    "y": maxout.forward(pairs),
                    "dE/dx for dE/dy = 1": maxout.backward(np.ones((1, 2)), pairs),
                },
            ),
        ),
    )


def batch_norm() -> Worked:
    """Four values of one channel."""
    x = np.array([[1], [2], [3], [6]], float)
    gamma, beta = np.array([2.0]), np.array([1.0])
    g = np.array([[1], [0], [0], [0]], float)
    mean, variance = x.mean(0), x.var(0)
    xhat = bn.batch_norm(x, np.ones(1), np.zeros(1), eps=0)
    d_x, d_gamma, d_beta = bn.batch_norm_backward(g, x, gamma, eps=0)
    return Worked(
        "Batch normalization: a batch of 4, one channel, gamma 2, beta 1 (eps 0 for clean numbers)",
        "Lecture 002, Tips for training CNN, Algorithm 1 (Ioffe & Szegedy 2015)",
        (
            Step(
                f"Training: mean {mean[0]:g}, variance {variance[0]:g} over the batch.",
                {"x": x, "xhat": xhat, "y": bn.batch_norm(x, gamma, beta, eps=0)},
            ),
            Step(
                "Backward: every x moves the mean and the variance, so all get a gradient; it sums"
                " to 0, and so does its product with xhat.",
                {"dE/dy": g, "dE/dx": d_x, "dE/dgamma": d_gamma, "dE/dbeta": d_beta},
            ),
            Step(
                "Evaluation: fixed statistics, here mean 2 and variance 4.",
                {"y": bn.evaluate(x, gamma, beta, np.array([2.0]), np.array([4.0]), eps=0)},
            ),
        ),
    )


def lrn() -> Worked:
    """Six channels at one pixel, with a large alpha so that something shows."""
    a = np.array([[1, 2, 3, 0, 0, 1]], float)
    b = local_response(a, alpha=0.1)
    back = local_response_backward(np.ones_like(a), a, alpha=0.1)
    return Worked(
        "Local response normalization: 6 channels at one pixel; n 5, k 2, beta 0.75, alpha 0.1",
        "Lecture 002, Case Study 1: AlexNet-2012; Krizhevsky et al. 2012, section 3.3 (alpha 1e-4)",
        (
            Step("Each is divided by a power of the squares round it.", {"a": a, "b": b}),
            Step(
                "Backward, for dE/db = 1: neighbours that one holds down count against it.",
                {"dE/da": back},
            ),
        ),
    )


def dropout() -> Worked:
    """Both kinds on one mask."""
    x = np.array([[1, 2, 3, 4, 5, 6]], float)
    mask = drop.draw_mask(x.shape, 0.5, np.random.default_rng(1))
    return Worked(
        "Dropout: p = 0.5 is the probability of keeping a unit",
        "Lecture 004, Dropout - Simpler Regularization (whose first mask lacks `< p`)",
        (
            Step(
                "Training: vanilla as the lecture has it, inverted divided by p.",
                {
                    "x": x,
                    "mask": mask,
                    "vanilla": drop.vanilla_dropout(x, mask),
                    "inverted": drop.inverted_dropout(x, mask, 0.5),
                },
            ),
            Step(
                "Prediction: vanilla times p, inverted as it is.",
                {"vanilla": drop.vanilla_predict(x, 0.5), "inverted": x},
            ),
            Step(
                "Backward, for dE/dy = 1: only units that stayed learn.",
                {
                    "vanilla": drop.vanilla_dropout_backward(np.ones_like(x), mask),
                    "inverted": drop.inverted_dropout_backward(np.ones_like(x), mask, 0.5),
                },
            ),
        ),
    )
