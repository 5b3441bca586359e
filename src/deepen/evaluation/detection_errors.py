"""Why a detector loses average precision: its errors by kind, and what mending each would gain.

Bolya, Foley, Hays & Hoffman 2020, "TIDE: A general toolbox for identifying object detection
errors", section 2. With t_f = 0.5 and t_b = 0.1, a detection that is wrong is one of
- localization: it overlaps an object of its class by t_b to t_f;
- classification: it overlaps an object of another class by t_f or more;
- duplicate: it overlaps an object of its class by t_f or more, which a surer one has found;
- background: it overlaps nothing by more than t_b;
- both: what is left, the wrong class and the wrong place.
An object is missed when nothing found it and neither of the first two could be mended to it. What a
kind costs is how far AP at 0.5 (over 101 recalls, as COCO has it) rises once these errors alone are
mended: the box or the class put right, of the surest for each object that was not found; all others
dropped; missed objects no longer counted. Kinds do not add up to what is lacking.

As in the authors' `tidecv`, whose order of tests this is; but what falls in a crowd or on a
difficult object is no error here, and classes without an object are left out of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepen.evaluation.boxes import Picture, shares_within

FOREGROUND, BACKGROUND = 0.5, 0.1
MOST_DETECTIONS = 100  # of a picture
KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
_CLASS, _PLACE, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(6)
_RIGHT, _PASSED_OVER = -1, -2  # in place of a kind
_RECALLS = np.linspace(0, 1, 101)


class Mistake(NamedTuple):
    """A wrong detection, or a missed object.

    Attributes:
        kind: one of `KINDS`.
        picture: its place.
        detection: place in the picture's detections, the surest first; None of a missed object.
        object: place in the picture's objects: the missed one, or what it should have been; None
            of background and both.
    """

    kind: str
    picture: int
    detection: int | None
    object: int | None


class ErrorCost(BaseModel):
    """A kind of error.

    Attributes:
        kind: one of `KINDS`, or `any wrong` and `any not found`.
        count: of wrong detections, or missed objects.
        cost: how far mending them raises AP at 0.5, in 0..1; None where there is no object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    count: int
    cost: float | None


class Errors(NamedTuple):
    """What a detector does wrong.

    Attributes:
        ap50: over 101 recalls, before anything is mended; None where there is no object.
        costs: of each kind, then of all wrong detections and of all objects not found.
        mistakes: each of them, picture by picture.
    """

    ap50: float | None
    costs: list[ErrorCost]
    mistakes: list[Mistake]


class _Verdicts(NamedTuple):
    """Of one picture's detections, (n,) each, and its missed objects.

    `kinds` has places in `KINDS`, `_RIGHT` or `_PASSED_OVER`; `objects` is -1 where it is about
    none; `mends` says which would find an object if it were put right.
    """

    kinds: np.ndarray
    objects: np.ndarray
    mends: np.ndarray
    missed: np.ndarray


def find_errors(pictures: Sequence[Picture], num_classes: int) -> Errors:
    """Sort what went wrong by kind, and find what each kind costs."""
    verdicts = [_judge(picture) for picture in pictures]

    def gather(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    kinds = gather([each.kinds for each in verdicts])
    mends = gather([each.mends for each in verdicts])
    labels = gather([p.labels[:MOST_DETECTIONS] for p in pictures])
    scores = gather([p.scores[:MOST_DETECTIONS] for p in pictures])
    meant = gather([_labels_of(p, v.objects) for p, v in zip(pictures, verdicts, strict=True)])
    missed = gather([p.true_labels[v.missed] for p, v in zip(pictures, verdicts, strict=True)])
    objects = gather([p.true_labels[~p.ignored] for p in pictures])
    support = np.bincount(objects, minlength=num_classes)
    unseen = support - np.bincount(labels[kinds == _RIGHT], minlength=num_classes)
    counted, right = kinds != _PASSED_OVER, kinds == _RIGHT
    before = _mean_ap(labels[counted], scores[counted], right[counted], support, support)

    def cost(
        kind: str, count: int, kept: np.ndarray, mended: np.ndarray, less: np.ndarray | int = 0
    ) -> None:
        """What AP gains with `kept` alone, of these `mended` right, and so many objects less."""
        put = np.where(mended, meant, labels)
        after = _mean_ap(put[kept], scores[kept], (right | mended)[kept], support - less, support)
        gain = None if before is None or after is None else max(after - before, 0.0)
        costs.append(ErrorCost(kind=kind, count=count, cost=gain))

    costs: list[ErrorCost] = []
    for place, kind in enumerate(KINDS[:_MISSED]):
        these = kinds == place
        cost(kind, int(these.sum()), counted & (~these | mends), these & mends)
    nothing = np.zeros_like(right)
    lost = np.bincount(missed, minlength=num_classes)
    cost(KINDS[_MISSED], len(missed), counted, nothing, lost)
    cost("any wrong", int((kinds >= 0).sum()), right, nothing)
    cost("any not found", int(unseen.sum()), counted, nothing, unseen)
    return Errors(before, costs, list(_mistakes(verdicts)))


def _judge(picture: Picture) -> _Verdicts:
    n = min(len(picture.scores), MOST_DETECTIONS)
    labels, counts = picture.labels[:n], np.flatnonzero(~picture.ignored)
    shares = picture.overlaps[:n, counts]
    alike = labels[:, None] == picture.true_labels[counts]
    own = np.where(alike, shares, 0.0)
    found = _match(own)
    taken = np.zeros(len(counts), bool)
    taken[found[found >= 0]] = True
    kinds = np.full(n, _BACKGROUND)
    objects = np.full(n, -1)
    if len(counts):
        other, used = np.where(alike, 0.0, shares), np.where(taken, own, 0.0)
        tests = {  # the first that holds
            _PLACE: (own, (own.max(1) >= BACKGROUND) & (own.max(1) <= FOREGROUND)),
            _CLASS: (other, other.max(1) >= FOREGROUND),
            _DUPLICATE: (used, used.max(1) >= FOREGROUND),
            _BACKGROUND: (None, shares.max(1) <= BACKGROUND),
        }
        kinds = np.select([holds for _, holds in tests.values()], list(tests), _BOTH)
        for kind, (overlap, _) in tests.items():
            if overlap is not None:
                objects[kinds == kind] = overlap.argmax(1)[kinds == kind]
    kinds[_passed_over(picture, labels)] = _PASSED_OVER
    kinds[found >= 0] = _RIGHT
    mends = np.zeros(n, bool)
    usable = np.isin(kinds, (_PLACE, _CLASS)) & ~taken[objects] if len(counts) else mends
    surest = np.unique(objects[usable], return_index=True)[1]
    mends[np.flatnonzero(usable)[surest]] = True
    reachable = np.isin(np.arange(len(counts)), objects[mends])
    objects = np.where(objects >= 0, np.append(counts, -1)[objects], -1)
    return _Verdicts(kinds, objects, mends, counts[~taken & ~reachable])


def _match(own: np.ndarray) -> np.ndarray:
    """Which object each detection finds, (n,), or -1: the surest first, the best that is free."""
    free = own.copy()
    found = np.full(len(own), -1)
    for i in np.flatnonzero((own >= FOREGROUND).any(1)) if own.size else ():
        best = free[i].argmax()
        if free[i, best] >= FOREGROUND:
            found[i] = best
            free[:, best] = 0.0
    return found


def _passed_over(picture: Picture, labels: np.ndarray) -> np.ndarray:
    """Which detections lie in a crowd or on a difficult object of their class, (n,)."""
    if not picture.ignored.any():
        return np.zeros(len(labels), bool)
    within = shares_within(picture.boxes[: len(labels)], picture.true_boxes[picture.ignored])
    alike = labels[:, None] == picture.true_labels[picture.ignored]
    return (alike & (within >= FOREGROUND)).any(1)


def _labels_of(picture: Picture, objects: np.ndarray) -> np.ndarray:
    """The classes of objects; -1 of none."""
    return np.append(picture.true_labels, -1)[objects]


def _mistakes(verdicts: Sequence[_Verdicts]) -> list[Mistake]:
    found = []
    for place, each in enumerate(verdicts):
        for i in np.flatnonzero(each.kinds >= 0).tolist():
            about = int(each.objects[i])
            found.append(Mistake(KINDS[each.kinds[i]], place, i, about if about >= 0 else None))
        found += [Mistake(KINDS[_MISSED], place, None, i) for i in each.missed.tolist()]
    return found


def _mean_ap(
    labels: np.ndarray,
    scores: np.ndarray,
    right: np.ndarray,
    left: np.ndarray,
    support: np.ndarray,
) -> float | None:
    """The mean over classes that have an object; one that has none left and is not said is out."""
    order = np.argsort(-scores, kind="stable")
    labels, right = labels[order], right[order]
    aps = []
    for c in np.flatnonzero(support):
        hits = right[labels == c]
        if left[c] or len(hits):
            aps.append(_ap(hits, int(left[c])) if left[c] else 0.0)
    return float(np.mean(aps)) if aps else None


def _ap(right: np.ndarray, objects: int) -> float:
    found = right.cumsum()
    precision = found / np.arange(1, len(found) + 1)
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(highest[np.searchsorted(found / objects, _RECALLS)].mean())
