"""What a detector is worth: the figures of PASCAL VOC and of COCO, its curves, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepen.errors import InputError
from deepen.evaluation import coco
from deepen.evaluation.average_precision import (
    Ranking,
    area,
    curve_of,
    eleven_points,
    rank,
    resampled_areas,
    thinned,
)
from deepen.evaluation.boxes import Detections, Picture, pair
from deepen.evaluation.detection_errors import ErrorCost, Mistake, find_errors
from deepen.evaluation.intervals import RESAMPLES, Interval, bootstrap_interval, draw_again
from deepen.evaluation.metrics import Figures

CURVE_POINTS = 200
WORST_WRONG, WORST_MISSED, WORST_OF_A_PICTURE = 16, 8, 2

Box = tuple[float, float, float, float]


class DetectedClass(BaseModel):
    """One class; None where there is no object of it.

    Attributes:
        name: of the class.
        support: objects that count.
        ap: average precision at 0.5, the area (VOC from 2010 on), in 0..1.
        ap_interval: where the true one lies with 95% confidence, by resampled pictures.
        ap07: by eleven points (VOC 2007).
        coco_ap, coco_ap75: over ten overlaps, and at 0.75.
        mask_ap: of masks, over ten overlaps; None of a detector of boxes too.
        best_f1: the greatest harmonic mean of precision and recall along the curve, on these very
            pictures, and `best_score` from which score on it is had.
        curve: recall, precision and score at right detections, at most 200.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    support: int
    ap: float | None
    ap_interval: tuple[float, float] | None
    ap07: float | None
    coco_ap: float | None
    coco_ap75: float | None
    mask_ap: float | None
    best_f1: float | None
    best_score: float | None
    curve: list[tuple[float, float, float]]


class WorstMistake(BaseModel):
    """A mistake that is worth a look: a sure detection that is wrong, or a large object missed.

    Attributes:
        place: of the picture in what was scored.
        key: the picture's own.
        kind: see `deepen.evaluation.detection_errors`.
        predicted: what was said, with `score` and `box`; None of a missed object.
        true: the class of the object that it is a mistake about, with `true_box`; None of none.
        overlap: of both boxes; None where there is but one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: int
    key: str
    kind: str
    predicted: str | None
    score: float | None
    box: Box | None
    true: str | None
    true_box: Box | None
    overlap: float | None


class DetectionScores(Figures):
    """The result of an evaluation of a detector.

    Its figures, in 0..1: `map50`, the mean of the classes' average precision at 0.5 by the area
    (VOC from 2010 on); `map07` by eleven points (VOC 2007); `coco_ap` over ten overlaps,
    `coco_ap50` and `coco_ap75` at one; `coco_ar100`; of masks, where there are some, `mask_ap` and
    `mask_ap50`.

    Attributes:
        map50_interval: where the true `map50` lies with 95% confidence, by resampled pictures.
        per_class: in the order of the classes.
        coco: COCO's figures of boxes.
        coco_masks: of masks; None of a detector of boxes.
        errors: what each kind of error costs.
        worst: the surest wrong detections, then the largest objects missed.
    """

    map50_interval: tuple[float, float] | None
    per_class: list[DetectedClass]
    coco: coco.CocoScores
    coco_masks: coco.CocoScores | None
    errors: list[ErrorCost]
    worst: list[WorstMistake]

    @property
    def headline(self) -> str:
        """mAP at 0.5 with its interval and the number of pictures, and the AP of COCO."""
        shown = self.figures["map50"]
        if shown is None:
            return "no object to detect"
        words = f"mAP50 {100 * shown:.2f}% (n {self.num_samples:,} pictures)"
        if self.map50_interval is not None:
            of_all = Interval(shown, *self.map50_interval, self.num_samples)
            words = f"mAP50 {of_all.in_words.removesuffix(')')} pictures)"
        rest = {"COCO AP": self.figures["coco_ap"], "mask AP": self.figures.get("mask_ap")}
        return words + "".join(f", {k} {100 * v:.2f}%" for k, v in rest.items() if v is not None)


def score_detections(
    found: Sequence[Detections],
    truth: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None = None,
    *,
    keys: Sequence[str] | None = None,
    protocol: str = "",
    num_skipped: int = 0,
    resamples: int = RESAMPLES,
) -> DetectionScores:
    """Every number of `DetectionScores`.

    Args:
        found: of each picture.
        truth: of each picture `boxes` (m, 4), `labels` (m,), and perhaps `difficult` and `crowd`
            (m,) bool and `masks` (m, h, w); all in px of the source picture.
        classes: their names.
        sizes: width and height of each picture, which its masks are checked against.
        keys: of each picture, for the mistakes; by default its place.
        protocol: how the detections were come by, in words.
        num_skipped: pictures left out since they could not be decoded.
        resamples: of the pictures, for the intervals; with 0 there are none.

    Raises:
        InputError: nothing to score, these do not fit each other, or faster-coco-eval is missing.
        WorkError: a box or a score is NaN or infinite.
    """
    coco.need()
    _check_sizes(found, truth, sizes)
    pictures = pair(found, truth, len(classes))
    rankings = rank(pictures, len(classes))
    draws = draw_again(len(pictures), resamples)
    areas = np.stack([resampled_areas(ranking, draws) for ranking in rankings])
    boxes = coco.score_boxes(found, truth, len(classes))
    with_masks = all(one.masks is not None for one in found) and all(
        "masks" in target or not len(target["labels"]) for target in truth
    )
    masks = coco.score_masks(found, truth, len(classes)) if with_masks else None
    per_class = [
        _of_class(name, rankings[c], areas[c], boxes.per_class[c], masks and masks.per_class[c])
        for c, name in enumerate(classes)
    ]
    errors = find_errors(pictures, len(classes))
    figures = {
        "map50": _mean([each.ap for each in per_class]),
        "map07": _mean([each.ap07 for each in per_class]),
        "coco_ap": boxes.ap,
        "coco_ap50": boxes.ap50,
        "coco_ap75": boxes.ap75,
        "coco_ar100": boxes.ar100,
    }
    if masks:
        figures |= {"mask_ap": masks.ap, "mask_ap50": masks.ap50}
    return DetectionScores(
        num_samples=len(pictures),
        num_skipped=num_skipped,
        figures=figures,
        protocol=protocol,
        map50_interval=_interval(figures["map50"], areas),
        per_class=per_class,
        coco=boxes,
        coco_masks=masks,
        errors=errors.costs,
        worst=_worst(errors.mistakes, pictures, classes, keys or [*map(str, range(len(found)))]),
    )


def _check_sizes(
    found: Sequence[Detections],
    truth: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]] | None,
) -> None:
    if sizes is None:
        return
    for i, (one, target, (width, height)) in enumerate(zip(found, truth, sizes, strict=True)):
        for masks in (one.masks, target.get("masks")):
            if masks is None or not len(masks):
                continue
            first: Any = masks[0]
            size = tuple(first["size"] if isinstance(first, Mapping) else first.shape)
            if size != (height, width):
                words = f"masks of {size[1]}x{size[0]} px in one of {width}x{height}"
                raise InputError(f"picture {i}: {words}")


def _interval(measured: float | None, areas: np.ndarray) -> tuple[float, float] | None:
    """Of the mean of classes' areas, (K, R), in each resample those that an object was drawn of."""
    known = ~np.isnan(areas)
    with np.errstate(invalid="ignore"):
        means = np.where(known, areas, 0).sum(0) / known.sum(0)
    return None if measured is None else bootstrap_interval(measured, means)


def _of_class(
    name: str,
    ranking: Ranking,
    areas: np.ndarray,
    boxes: coco.CocoClass,
    masks: coco.CocoClass | None,
) -> DetectedClass:
    curve = curve_of(ranking)
    ap = None if curve is None else float(area(curve.recall, curve.precision))
    best_f1 = best_score = None
    if curve is not None:
        f1 = 2 * curve.recall * curve.precision / (curve.recall + curve.precision)
        best_f1 = float(f1.max(initial=0.0))
        best_score = float(curve.scores[f1.argmax()]) if len(f1) else None
    return DetectedClass(
        name=name,
        support=int(ranking.support.sum()),
        ap=ap,
        ap_interval=_interval(ap, areas[None]),
        ap07=None if curve is None else eleven_points(curve.recall, curve.precision),
        coco_ap=boxes.ap,
        coco_ap75=boxes.ap75,
        mask_ap=masks.ap if masks else None,
        best_f1=best_f1,
        best_score=best_score,
        curve=[] if curve is None else list(thinned(curve, CURVE_POINTS)),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _worst(
    mistakes: Sequence[Mistake],
    pictures: Sequence[Picture],
    classes: Sequence[str],
    keys: Sequence[str],
) -> list[WorstMistake]:
    """The surest that are wrong and the largest that are missed, two of a picture at most."""

    def score(mistake: Mistake) -> float:
        return float(pictures[mistake.picture].scores[mistake.detection])

    def size(mistake: Mistake) -> float:
        left, top, right, bottom = pictures[mistake.picture].true_boxes[mistake.object].tolist()
        return (right - left) * (bottom - top)

    wrong = [each for each in mistakes if each.detection is not None]
    missed = [each for each in mistakes if each.detection is None]
    chosen = _few(sorted(wrong, key=score, reverse=True), WORST_WRONG)
    chosen += _few(sorted(missed, key=size, reverse=True), WORST_MISSED)
    return [_in_words(each, pictures[each.picture], classes, keys) for each in chosen]


def _few(mistakes: Sequence[Mistake], most: int) -> list[Mistake]:
    chosen: list[Mistake] = []
    taken: dict[int, int] = {}
    for each in mistakes:
        taken[each.picture] = taken.get(each.picture, 0) + 1
        if taken[each.picture] <= WORST_OF_A_PICTURE and len(chosen) < most:
            chosen.append(each)
    return chosen


def _in_words(
    mistake: Mistake, picture: Picture, classes: Sequence[str], keys: Sequence[str]
) -> WorstMistake:
    i, j = mistake.detection, mistake.object
    return WorstMistake(
        place=mistake.picture,
        key=keys[mistake.picture],
        kind=mistake.kind,
        predicted=None if i is None else classes[int(picture.labels[i])],
        score=None if i is None else float(picture.scores[i]),
        box=None if i is None else _box(picture.boxes[i]),
        true=None if j is None else classes[int(picture.true_labels[j])],
        true_box=None if j is None else _box(picture.true_boxes[j]),
        overlap=None if i is None or j is None else float(picture.overlaps[i, j]),
    )


def _box(corners: np.ndarray) -> Box:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom
