"""Average precision as PASCAL VOC has it: by eleven points (2007), by the area (from 2010 on).

Everingham, Van Gool, Williams, Winn & Zisserman 2010, "The Pascal Visual Object Classes (VOC)
Challenge", section 4.2: a detection is right when it overlaps an object of its class by more than
half; of several that find the same one the surest is right and the others are wrong; what finds a
`difficult` one is neither. An exact half does not count, as in the paper and in py-faster-rcnn's
`voc_eval`; the devkit's own code takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deepen.evaluation.boxes import Picture

OVERLAP = 0.5
# As `voc_eval` adds them up: 3 * 0.1 is a little more than 0.3, so a recall of 3 / 10 misses it.
_ELEVEN = np.arange(0.0, 1.1, 0.1)
_HELD = 2**21  # numbers of resamples that lie in memory at once


class Ranking(NamedTuple):
    """The detections of one class in all pictures, the surest first, less those that do not count.

    Attributes:
        scores: (n,), falling.
        right: (n,) bool.
        pictures: (n,) int64, which picture each is of.
        support: (P,) int64, the objects of each picture that count.
    """

    scores: np.ndarray
    right: np.ndarray
    pictures: np.ndarray
    support: np.ndarray


class Curve(NamedTuple):
    """Precision against recall, at each detection that is right, (t,) each."""

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray


def rank(pictures: Sequence[Picture], num_classes: int, overlap: float = OVERLAP) -> list[Ranking]:
    """A ranking of each class; of equal scores the earlier picture's comes first."""
    judged = [_judge(picture, overlap) for picture in pictures]
    scores = np.concatenate([picture.scores for picture in pictures])
    labels = np.concatenate([picture.labels for picture in pictures])
    right = np.concatenate([each[0] for each in judged])
    counts = np.concatenate([each[1] for each in judged])
    places = np.repeat(np.arange(len(pictures)), [len(picture.scores) for picture in pictures])
    support = np.stack(
        [
            np.bincount(picture.true_labels[~picture.ignored], minlength=num_classes)
            for picture in pictures
        ]
    )
    rankings = []
    for c in range(num_classes):
        of_class = np.flatnonzero((labels == c) & counts)
        order = of_class[np.argsort(-scores[of_class], kind="stable")]
        rankings.append(Ranking(scores[order], right[order], places[order], support[:, c]))
    return rankings


def _judge(picture: Picture, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right, (n,), and which count, (n,).

    Each belongs to the object of its class that it overlaps most, whether others have found it.
    """
    n, m = picture.overlaps.shape
    if not m:
        return np.zeros(n, bool), np.ones(n, bool)
    alike = picture.labels[:, None] == picture.true_labels
    own = np.where(alike, picture.overlaps, -1.0)
    best = own.argmax(1)
    hits = own[np.arange(n), best] > overlap
    passed_over = hits & picture.ignored[best]
    first = np.full(n, False)
    first[np.unique(np.where(hits, best, -1), return_index=True)[1]] = True  # the surest of each
    return hits & first & ~passed_over, ~passed_over


def curve_of(ranking: Ranking) -> Curve | None:
    """Precision against recall; None of a class without an object."""
    if not ranking.support.sum():
        return None
    hits = np.flatnonzero(ranking.right)
    found = np.arange(1, len(hits) + 1)
    return Curve(found / ranking.support.sum(), found / (hits + 1), ranking.scores[hits])


def area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The area under precision that never falls towards greater recall, (...,) of (..., t)."""
    steps = np.diff(recall, axis=-1, prepend=0.0)
    return (steps * _envelope(precision)).sum(-1)


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """The mean of the greatest precision at a recall of 0, 0.1, ... 1 or more, of (t,) and (t,)."""
    highest = np.append(_envelope(precision), 0.0)
    return float(highest[np.searchsorted(recall, _ELEVEN)].mean())


def _envelope(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def resampled_areas(ranking: Ranking, draws: np.ndarray) -> np.ndarray:
    """The area of each resample, (R,), of how often each picture was drawn, (R, P).

    A picture drawn twice counts twice, objects and detections; NaN where no object was drawn.
    """
    hits = np.flatnonzero(ranking.right)
    objects = draws @ ranking.support
    if not len(hits) or not len(draws):
        return np.where(objects > 0, 0.0, np.nan)
    upto = ranking.pictures[: hits[-1] + 1]  # what is ranked below the last hit changes nothing
    draws = draws.astype(np.int16)  # a third of the time
    rows = max(1, _HELD // len(upto))
    areas = [
        _area_of(draws[i : i + rows, upto], hits, objects[i : i + rows])
        for i in range(0, len(draws), rows)
    ]
    return np.concatenate(areas)


def _area_of(weights: np.ndarray, hits: np.ndarray, objects: np.ndarray) -> np.ndarray:
    said = weights.cumsum(1, np.int32)[:, hits]
    found = weights[:, hits].cumsum(1)
    with np.errstate(invalid="ignore"):  # 0/0 where no object was drawn: NaN
        return area(found / objects[:, None], found / np.maximum(said, 1))


def thinned(curve: Curve, most: int) -> Iterator[tuple[float, float, float]]:
    """Recall, precision and score of at most so many points of a curve, the last among them."""
    places = np.arange(len(curve.recall))
    if len(places) > most:
        places = np.unique(np.linspace(0, len(places) - 1, most).round().astype(int))
    for i in places:
        yield float(curve.recall[i]), float(curve.precision[i]), float(curve.scores[i])
