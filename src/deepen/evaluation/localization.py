"""The localization error of the ImageNet challenge: the right class, and a box that fits.

Russakovsky et al. 2015, "ImageNet large scale visual recognition challenge", section 4.2: of up to
five guesses, each a class and a box, one must name the picture's class and overlap one of its boxes
of that class by half or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepen.errors import InputError
from deepen.evaluation.boxes import Detections, pair
from deepen.evaluation.intervals import Interval, interval
from deepen.evaluation.metrics import Figures

OVERLAP = 0.5


class LocalizationScores(Figures):
    """The result of an evaluation of localization.

    Its figures, in 0..1, all shares of pictures: `top1_error` and `top5_error`, of class and box
    together; `top1_class_error` and `top5_class_error`, of the class alone; `top1_box_error`, of
    the boxes where the first class is right.

    Attributes:
        top1_interval: where the true top-1 error lies with 95% confidence (Wilson 1927).
        top5_interval: of the top-5 error.
    """

    top1_interval: tuple[float, float]
    top5_interval: tuple[float, float]

    @property
    def headline(self) -> str:
        """Both errors with their intervals and the number of pictures."""
        words = []
        for k, between in ((1, self.top1_interval), (5, self.top5_interval)):
            error = self.figures[f"top{k}_error"]
            assert error is not None
            words.append(
                f"top-{k} localization error {Interval(error, *between, self.num_samples).in_words}"
            )
        return ", ".join(words)


def score_localization(
    found: Sequence[Detections],
    truth: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    num_classes: int,
    *,
    protocol: str = "",
    num_skipped: int = 0,
) -> LocalizationScores:
    """Every number of `LocalizationScores`.

    Args:
        found: guesses at each picture, of which the five surest count.
        truth: of each picture `boxes` (m, 4), of its class.
        labels: of each picture, its class.
        num_classes: labels are 0..num_classes - 1.
        protocol: how the guesses were come by, in words.
        num_skipped: pictures left out since they could not be decoded.

    Raises:
        InputError: nothing to score, or these do not fit each other.
        WorkError: a box or a score is NaN or infinite.
    """
    if len(labels) != len(truth):
        raise InputError(f"{len(labels)} labels of {len(truth)} pictures")
    whole = [
        {"boxes": target["boxes"], "labels": np.full(len(target["boxes"]), int(label))}
        for target, label in zip(truth, labels, strict=True)
    ]
    named, fits = [], []  # (P, 5): whether each guess has the class; and whether its box fits
    for picture, label in zip(pair(found, whole, num_classes), labels, strict=True):
        five = np.zeros((2, 5), bool)
        count = min(5, len(picture.labels))
        five[0, :count] = picture.labels[:5] == int(label)
        five[1, :count] = (picture.overlaps[:5] >= OVERLAP).any(1)
        named.append(five[0])
        fits.append(five[1])
    has_class, fit = np.stack(named), np.stack(fits)
    both, n = has_class & fit, len(named)
    first = has_class[:, 0]
    wrong = {1: int((~both[:, 0]).sum()), 5: int((~both.any(1)).sum())}
    return LocalizationScores(
        num_samples=n,
        num_skipped=num_skipped,
        figures={
            "top1_error": wrong[1] / n,
            "top5_error": wrong[5] / n,
            "top1_class_error": float((~first).mean()),
            "top5_class_error": float((~has_class.any(1)).mean()),
            "top1_box_error": float((~fit[first, 0]).mean()) if first.any() else None,
        },
        protocol=protocol,
        top1_interval=interval(wrong[1] / n, n)[1:3],
        top5_interval=interval(wrong[5] / n, n)[1:3],
    )
