"""A linear support vector machine against more negatives than can be kept: the hard ones are found.

Dalal & Triggs 2005, section 4; Felzenszwalb et al. 2010, section 4.4; as R-CNN's authors do it
(Girshick et al. 2014, section 2.3, appendix B): one pass over the pictures, from each the negatives
that are not safely on their side; every so many the machine is fitted again, and what has become
easy is let go.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HARD, EASY = -1.0, -1.2
"""A negative is hard from the one score on, and is let go below the other."""
FITTED_EVERY = 2000


class SVM(NamedTuple):
    """A hyperplane.

    Attributes:
        weights: float32 (d,).
        bias: a number.
    """

    weights: np.ndarray
    bias: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Of (n, d), (n,): above 0 on the positives' side."""
        return features @ self.weights + self.bias


class Fit(NamedTuple):
    """How a machine is fitted; the usual values are those of R-CNN's released code.

    Attributes:
        c: the inverse of the regularization.
        positive_weight: how many times a positive's error counts.
        bias_scale: the value of the feature that the bias is the weight of.
        seed: of the order that the examples are gone through in.
    """

    c: float = 1e-3
    positive_weight: float = 2.0
    bias_scale: int = 10
    seed: int = 0

    def __call__(self, positives: np.ndarray, negatives: np.ndarray) -> SVM:
        """A machine with hinge loss between (p, d) and (n, d)."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        machine: Any = LinearSVC(
            C=self.c,
            loss="hinge",
            class_weight={1: self.positive_weight},
            intercept_scaling=self.bias_scale,
            random_state=self.seed,
        )
        features = np.concatenate([positives, negatives])
        labels = np.repeat([1, -1], [len(positives), len(negatives)])
        with warnings.catch_warnings():
            # At the limit of iterations it is near enough; the next negatives move it further.
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(features, labels)
        return SVM(machine.coef_[0].astype(np.float32), float(machine.intercept_[0]))


def mine(
    fit: Fit,
    positives: np.ndarray,
    negatives: np.ndarray,
    hard: Callable[[int, SVM], np.ndarray],
    num_pictures: int,
) -> SVM:
    """Fit a machine to all positives and the negatives that are hard for it.

    Args:
        fit: how.
        positives: (p, d).
        negatives: (n, d), some to begin with.
        hard: of a picture the negatives (m, d) that a machine scores above `HARD`.
        num_pictures: that are gone through once.
    """
    svm, fresh = fit(positives, negatives), list[np.ndarray]()
    for picture in range(num_pictures):
        fresh.append(hard(picture, svm))
        found = sum(map(len, fresh))
        if found >= FITTED_EVERY or (found and picture == num_pictures - 1):
            negatives = np.concatenate([negatives, *fresh])
            svm, fresh = fit(positives, negatives), []
            negatives = negatives[svm.scores(negatives) >= EASY]
    return svm
