"""How even the classes are, and an epoch in which each is shown as often as any other.

A sample is a picture shown once: of N pictures, sample s shows picture s mod N for the time number
s div N in its epoch. Each has random numbers of its own, so a picture that is shown five times is
augmented in five ways.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepen.data.randomness import permutation

UNEVEN = 3.0
"""An imbalance from here on is told, and the means over classes are scored after each epoch."""

_PICTURES, _REST, _SHOWN = 4, 5, 6
"""Streams of permutations; `deepen.data.shards` has those before."""


def imbalance(labels: np.ndarray) -> float:
    """Pictures of the largest class over those of the smallest that has any."""
    sizes = np.unique(labels, return_counts=True)[1]
    return float(sizes.max() / sizes.min()) if len(sizes) else 1.0


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> Tensor:
    """The samples of an epoch, int64 (N,), of pictures with these labels (N,).

    Each class that has pictures is shown equally often, to within one; of a class each picture is,
    to within one. Which are shown more often, and the order, are drawn for each epoch.
    """
    count = len(labels)
    drawn = permutation(seed, epoch, count, _PICTURES).numpy()
    _, sizes = np.unique(labels, return_counts=True)
    share, rest = divmod(count, max(1, len(sizes)))
    shown = np.full(len(sizes), share)
    shown[permutation(seed, epoch, len(sizes), _REST)[:rest].numpy()] += 1
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    first, size = (np.repeat(each, shown) for each in (np.cumsum(sizes) - sizes, sizes))
    number = np.arange(count) - np.repeat(np.cumsum(shown) - shown, shown)  # within its class
    samples = by_class[first + number % size] + count * (number // size)
    return torch.from_numpy(samples)[permutation(seed, epoch, count, _SHOWN)]
