"""Classifiers without learned features, on raw pixels: what a network has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepen.data.sources import Split


def linear_classifier() -> Any:
    """Multinomial logistic regression on the pixels."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000)


def rbf_svm() -> Any:
    """The support vector machine of scikit-learn's example "Recognizing hand-written digits"."""
    from sklearn.svm import SVC

    return SVC(gamma=0.001)  # pyright: ignore[reportArgumentType]: its stub knows names alone


def test_accuracy(classifier: Any, train: Split, test: Split, levels: int) -> float:
    """Share of the test pictures, in 0..1, that a classifier trained on `train` gets right.

    Args:
        classifier: one of scikit-learn's, fresh.
        train: pictures in memory.
        test: likewise.
        levels: pixels are scaled to 0..levels (scikit-learn's digits have 0..16).
    """
    x, y = _pixels(train, levels), train.labels
    classifier.fit(x, y)
    return float((classifier.predict(_pixels(test, levels)) == test.labels).mean())


def _pixels(split: Split, levels: int) -> np.ndarray:
    assert split.images is not None, "pictures in memory"
    return np.rint(split.images.reshape(len(split), -1) * (levels / 255))
