"""What training makes small: a number that says how far predictions are from the truth.

Lecture 002, "Loss Functions": for classes cross-entropy between the predicted distribution and the
true one; for values L2, L1 and Huber (smooth L1). Each is a mean, over images or over all values,
so the gradient does not grow with the batch. `..._backward` is where the chain rule starts.
"""

from __future__ import annotations

import numpy as np

from deepen.byhand import Array, Indices


def softmax(logits: Array) -> Array:
    """p_k = e^z_k / sum_j e^z_j: logits (N, K) to distributions (N, K).

    The largest logit is taken from all first, which changes nothing and keeps e^z finite.
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def softmax_backward(grad: Array, logits: Array) -> Array:
    """dE/dp (N, K) to dE/dz: dp_k/dz_j = p_k (1[k = j] - p_j), so p_j (g_j - sum_k g_k p_k)."""
    p = softmax(logits)
    return p * (grad - (grad * p).sum(1, keepdims=True))


def cross_entropy(logits: Array, labels: Indices) -> float:
    """E = mean over n of -log p_n[label]: logits (N, K) and labels (N,) to a number."""
    shifted = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def cross_entropy_backward(logits: Array, labels: Indices) -> Array:
    """dE/dz (N, K) = (p - y) / N with y = 1 at the label, else 0.

    -log p_y = log sum_j e^z_j - z_y, and the derivative of log sum e^z by z_k is p_k.
    """
    d_logits = softmax(logits)
    d_logits[np.arange(len(labels)), labels] -= 1
    return d_logits / len(labels)


def l2(prediction: Array, target: Array) -> float:
    """The mean of d^2 with d = prediction - target, any shape."""
    return float(((prediction - target) ** 2).mean())


def l2_backward(prediction: Array, target: Array) -> Array:
    """2 d / (number of values)."""
    return 2 * (prediction - target) / prediction.size


def l1(prediction: Array, target: Array) -> float:
    """The mean of |d|."""
    return float(np.abs(prediction - target).mean())


def l1_backward(prediction: Array, target: Array) -> Array:
    """sign(d) / (number of values), 0 where d = 0."""
    return np.sign(prediction - target) / prediction.size


def huber(prediction: Array, target: Array, delta: float = 1.0) -> float:
    """The mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2) (Huber 1964).

    Quadratic near 0, straight further out, so an outlier pulls no harder than delta. With delta = 1
    it is the smooth L1 of Fast R-CNN (Girshick 2015, eq. 3).
    """
    d = np.abs(prediction - target)
    return float(np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)).mean())


def huber_backward(prediction: Array, target: Array, delta: float = 1.0) -> Array:
    """d cut to -delta..delta, over the number of values."""
    return np.clip(prediction - target, -delta, delta) / prediction.size
