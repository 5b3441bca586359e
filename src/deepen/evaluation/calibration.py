"""Whether a network is right as often as it says, and the temperature that makes it so.

Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deepen.errors import InputError

BINS = 15
_BOUNDS = (1e-2, 1e2)  # of a temperature


class Bin(NamedTuple):
    """Predictions of about the same confidence.

    Attributes:
        low, high: which confidences: low < confidence <= high.
        pictures: how many.
        confidence: their mean; None of none.
        accuracy: the share of them that is right; None of none.
    """

    low: float
    high: float
    pictures: int
    confidence: float | None
    accuracy: float | None


def reliability(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> list[Bin]:
    """The reliability diagram: 15 bins of equal width (section 2).

    Args:
        logits: (N, K).
        labels: (N,), int64.
        temperature: what the logits are divided by.
    """
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    right = (predicted == labels).double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(place, minlength=BINS)
    sums = [torch.bincount(place, each, BINS) / counts for each in (confidence, right)]
    return [
        Bin(i / BINS, (i + 1) / BINS, n, c if n else None, a if n else None)
        for i, (n, c, a) in enumerate(
            zip(counts.tolist(), sums[0].tolist(), sums[1].tolist(), strict=True)
        )
    ]


def expected_error(bins: list[Bin]) -> float:
    """The expected calibration error, L1 (equation 3), in 0..1."""
    n = sum(each.pictures for each in bins)
    gaps = (
        each.pictures * abs(each.confidence - each.accuracy)
        for each in bins
        if each.confidence is not None and each.accuracy is not None
    )
    return sum(gaps) / n


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the least mean cross-entropy (section 4.2); from validation pictures.

    Where all are right the best is 0, where chance is better than the network infinite: what is
    handed back lies within 0.01 and 100.

    Raises:
        InputError: no picture.
    """
    from scipy.optimize import minimize_scalar  # takes half a second

    if not len(labels):
        raise InputError("a temperature is fitted on validation pictures, and there are none")
    logits = logits.double()

    def loss(log: float) -> float:
        return F.cross_entropy(logits / math.exp(log), labels).item()

    bounds = tuple(math.log(bound) for bound in _BOUNDS)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)
