"""A LeNet of these blocks, trained end to end: forward, backward and step, nothing hidden.

Lecture 004, "LeNet5 (1998)": convolution, pooling, non-linearity, twice, then fully connected
layers (LeCun et al. 1998, section II-B). The widths are the paper's, 6, 16, 120, 84 and 10; for
scikit-learn's digits of 8x8 pixels the filters are 3x3 with a border of one, and ReLU and max
pooling stand where today's nets have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np

from deepen.byhand import Array, Indices
from deepen.byhand.activations import relu, relu_backward
from deepen.byhand.im2col import convolve, convolve_backward
from deepen.byhand.linear import linear, linear_backward
from deepen.byhand.losses import cross_entropy, cross_entropy_backward
from deepen.byhand.optimization import sgd_step
from deepen.byhand.pooling import max_pool, max_pool_backward

Parameters = dict[str, Array]

SHAPES = {
    "conv1.weight": (6, 1, 3, 3),
    "conv2.weight": (16, 6, 3, 3),
    "fc1.weight": (120, 16 * 2 * 2),
    "fc2.weight": (84, 120),
    "fc3.weight": (10, 84),
}


def initialize(rng: np.random.Generator) -> Parameters:
    """Lecture 002, "Initialization": weights N(0, 2 / fan-in) for ReLU, biases 0."""
    parameters = {}
    for name, shape in SHAPES.items():
        parameters[name] = rng.standard_normal(shape) * np.sqrt(2 / prod(shape[1:]))
        parameters[name.replace("weight", "bias")] = np.zeros(shape[0])
    return parameters


def predict(p: Parameters, images: Array) -> Array:
    """Pictures (N, 1, 8, 8) to logits (N, 10)."""
    x, _ = max_pool(relu(convolve(images, p["conv1.weight"], p["conv1.bias"], padding=1)), 2)
    x, _ = max_pool(relu(convolve(x, p["conv2.weight"], p["conv2.bias"], padding=1)), 2)
    x = relu(linear(x.reshape(len(x), -1), p["fc1.weight"], p["fc1.bias"]))
    x = relu(linear(x, p["fc2.weight"], p["fc2.bias"]))
    return linear(x, p["fc3.weight"], p["fc3.bias"])


def loss_and_gradients(p: Parameters, images: Array, labels: Indices) -> tuple[float, Parameters]:
    """Cross-entropy of pictures (N, 1, 8, 8) and labels (N,), and dE/d(each parameter)."""
    # Forward, keeping what backward asks for.
    a1 = convolve(images, p["conv1.weight"], p["conv1.bias"], padding=1)  # (N, 6, 8, 8)
    r1 = relu(a1)
    s1, winners1 = max_pool(r1, 2)  # (N, 6, 4, 4)
    a2 = convolve(s1, p["conv2.weight"], p["conv2.bias"], padding=1)  # (N, 16, 4, 4)
    r2 = relu(a2)
    s2, winners2 = max_pool(r2, 2)  # (N, 16, 2, 2)
    flat = s2.reshape(len(s2), -1)  # (N, 64)
    a3 = linear(flat, p["fc1.weight"], p["fc1.bias"])  # (N, 120)
    r3 = relu(a3)
    a4 = linear(r3, p["fc2.weight"], p["fc2.bias"])  # (N, 84)
    r4 = relu(a4)
    logits = linear(r4, p["fc3.weight"], p["fc3.bias"])  # (N, 10)
    loss = cross_entropy(logits, labels)

    # Backward, the same lines from the last to the first.
    d: Parameters = {}
    g = cross_entropy_backward(logits, labels)
    g, d["fc3.weight"], d["fc3.bias"] = linear_backward(g, r4, p["fc3.weight"])
    g = relu_backward(g, a4)
    g, d["fc2.weight"], d["fc2.bias"] = linear_backward(g, r3, p["fc2.weight"])
    g = relu_backward(g, a3)
    g, d["fc1.weight"], d["fc1.bias"] = linear_backward(g, flat, p["fc1.weight"])
    g = max_pool_backward(g.reshape(s2.shape), winners2, r2.shape)
    g = relu_backward(g, a2)
    g, d["conv2.weight"], d["conv2.bias"] = convolve_backward(g, s1, p["conv2.weight"], padding=1)
    g = max_pool_backward(g, winners1, r1.shape)
    g = relu_backward(g, a1)
    _, d["conv1.weight"], d["conv1.bias"] = convolve_backward(
        g, images, p["conv1.weight"], padding=1
    )
    return loss, d


def shuffled_batches(
    num_images: int, batch_size: int, num_epochs: int, rng: np.random.Generator
) -> Iterator[Indices]:
    """The pictures of each step, every picture once an epoch, in a new order each time."""
    for _ in range(num_epochs):
        order = rng.permutation(num_images)
        for start in range(0, num_images, batch_size):
            yield order[start : start + batch_size]


def train(
    p: Parameters,
    images: Array,
    labels: Indices,
    batches: Iterable[Indices],
    *,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Iterator[float]:
    """SGD with momentum: takes a step a batch, changing `p`, and yields the loss before it.

    Args:
        p: the parameters; `initialize` makes them.
        images: pictures (N, 1, 8, 8).
        labels: their classes (N,).
        batches: which pictures each step sees, as `shuffled_batches` draws them.
        lr: learning rate.
        momentum: as in `sgd_step`.
        weight_decay: as in `sgd_step`.
    """
    velocities = {name: np.zeros_like(value) for name, value in p.items()}
    for batch in batches:
        loss, gradients = loss_and_gradients(p, images[batch], labels[batch])
        for name, gradient in gradients.items():
            p[name], velocities[name] = sgd_step(
                p[name],
                gradient,
                velocities[name],
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
            )
        yield loss


def error_percent(p: Parameters, images: Array, labels: Indices) -> float:
    """Pictures (N, 1, 8, 8) that `p` gets wrong, of all, in percent."""
    return float((predict(p, images).argmax(1) != labels).mean() * 100)
