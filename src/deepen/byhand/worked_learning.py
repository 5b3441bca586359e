"""Worked examples of learning: losses, descent, the residual block, and a whole LeNet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from deepen.byhand import Array, Indices, lenet, losses, residual
from deepen.byhand.drawing import Step, Worked
from deepen.byhand.optimization import krizhevsky_step, sgd_step

# Weight, gradient and memory to the weight and memory after a step.
Rule = Callable[[Array, Array, Array], tuple[Array, Array]]


def loss() -> Worked:
    """Softmax with cross-entropy, then the losses for values."""
    logits, labels = np.array([[2, 1, -1]], float), np.array([1])
    d = np.array([-3, -0.5, 0, 0.5, 3])
    zero = np.zeros_like(d)
    kinds = {"L2": losses.l2_backward, "L1": losses.l1_backward, "Huber": losses.huber_backward}
    return Worked(
        "Losses",
        "Lecture 002, Loss Functions",
        (
            Step(
                "Softmax with cross-entropy, true class 1:"
                f" E = -log p[1] = {losses.cross_entropy(logits, labels):.4g}.",
                {
                    "logits": logits,
                    "p": losses.softmax(logits),
                    "dE/dlogits = p - y": losses.cross_entropy_backward(logits, labels),
                },
            ),
            Step(
                "For values: the pull of one value off by d. L2 pulls as hard as d is large, L1"
                " always the same, Huber first the one, then the other.",
                {"d": d, **{name: f(d, zero) * d.size for name, f in kinds.items()}},
            ),
        ),
    )


def sgd() -> Worked:
    """Ways down a parabola, six steps each."""
    rules: dict[str, Rule] = {
        "plain": partial(sgd_step, lr=0.2),
        "weight decay 0.5": partial(sgd_step, lr=0.2, weight_decay=0.5),
        "momentum 0.9": partial(sgd_step, lr=0.2, momentum=0.9),
        "Nesterov 0.9": partial(sgd_step, lr=0.2, momentum=0.9, nesterov=True),
        "lecture's 0.9": partial(krizhevsky_step, lr=0.2, momentum=0.9, weight_decay=0.0),
    }
    return Worked(
        "Gradient descent: E = w^2 / 2, so dE/dw = w; from w = 1, learning rate 0.2",
        "Lecture 002, How do we optimize? (its sign is that of ascent) and Tips for training CNN",
        (
            Step(
                "w after each step. The lecture's momentum keeps the rate inside the memory: the"
                " same, as long as the rate is constant.",
                {name: descend(rule)[:, None] for name, rule in rules.items()},
            ),
        ),
    )


def descend(rule: Rule) -> Array:
    """The weights (7,) that six steps of `rule` go through from 1, where dE/dw = w."""
    path, memory = [np.array(1.0)], np.array(0.0)
    for _ in range(6):
        weight, memory = rule(path[-1], path[-1], memory)
        path.append(weight)
    return np.array(path)


def residual_path() -> Worked:
    """The gradient through a chain of one-number layers."""
    depths = np.array([1, 2, 10, 50])
    chains = {
        "plain": lambda depth: residual.plain_chain(np.full(depth, 0.1)),
        "highway carry": lambda depth: residual.highway_carry_chain(np.full(depth, 0.1)),
        "identity path": lambda depth: residual.highway_carry_chain(np.zeros(depth)),
        "residual": lambda depth: residual.residual_chain(np.full(depth, 0.1)),
    }
    x, g = np.array([[[[1.0, 2], [3, 4]]]]), np.ones((1, 1, 2, 2))
    small = np.full((1, 1, 3, 3), 0.1)
    d = residual.residual_block_backward(g, x, small, small)
    return Worked(
        "The residual block: H(x) = F(x) + x, so dH/dx = dF/dx + 1",
        "Lecture 003, Res. Net Residual Block; lecture 001, slides 22 to 30; He et al. 2016, eq. 5",
        (
            Step(
                "One channel, both filters 0.1 everywhere, dE/dy = 1: the identity path brings"
                " dE/dy as it is, the branch adds its own.",
                {
                    "x": x[0, 0],
                    "y": residual.residual_block(x, small, small)[0, 0],
                    "identity path": d.identity_path[0, 0],
                    "branch": d.branch_path[0, 0],
                    "dE/dx": d.x[0, 0],
                },
            ),
            Step(
                "A chain of layers whose F has slope 0.1 (highway: whose gate T is 0.1): what is"
                " left of the gradient at the first layer.",
                {
                    "layers": depths[:, None],
                    **{n: np.array([[f(depth)] for depth in depths]) for n, f in chains.items()},
                },
            ),
        ),
    )


def lenet_on_digits(images: Array, labels: Indices, num_epochs: int = 20) -> Worked:
    """Trained on the first half of pictures (N, 8, 8) of values 0..16, tested on the second."""
    pictures, half = images[:, None] / 16, len(images) // 2
    rng = np.random.default_rng(0)
    parameters = lenet.initialize(rng)
    batches = lenet.shuffled_batches(half, 32, num_epochs, rng)
    losses_seen = list(lenet.train(parameters, pictures[:half], labels[:half], batches))
    by_epoch = np.array([part.mean() for part in np.array_split(losses_seen, num_epochs)])
    error = lenet.error_percent(parameters, pictures[half:], labels[half:])
    shapes = np.array([[name, str(value.shape)] for name, value in parameters.items()])
    return Worked(
        f"A LeNet trained by these blocks alone: {num_epochs} epochs of {half} digits, 8x8 pixels",
        "Lecture 004, LeNet5 (1998); the digits are scikit-learn's, first half to train",
        (
            Step("Its parameters.", {"": shapes}),
            Step("Mean loss in each epoch.", {"cross-entropy": by_epoch[:, None]}),
            Step(
                f"Test accuracy on the {len(images) - half} digits of the second half: "
                f"{100 - error:.2f}%."
            ),
        ),
    )
