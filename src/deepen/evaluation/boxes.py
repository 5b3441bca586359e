"""What a detector finds in a picture, what is there, and how far both overlap.

Boxes are those of edges: x1 y1 x2 y2 in px of the source picture, the first pixel from 0 to 1, the
area (x2 - x1)(y2 - y1). PASCAL VOC writes inclusive pixels from 1 on, and its devkit adds 1 to each
side that it measures; overlaps are the same to the bit where a reader of its files takes 1 from x1
and y1 instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepen.errors import InputError, WorkError


class Detections(NamedTuple):
    """What a detector says of one picture.

    Attributes:
        boxes: (n, 4) in px of the source picture.
        scores: (n,), the greater the surer.
        labels: (n,) int64, 0-based places in the classes.
        masks: (n, h, w) of 0 and 1, or their run lengths (`deepen.evaluation.coco.run_lengths`),
            which take a hundredth of the memory; None of a detector of boxes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | Sequence[Mapping[str, Any]] | None = None


class Picture(NamedTuple):
    """One picture's detections, the surest first, beside its objects; all float64 and int64.

    Attributes:
        boxes, scores, labels: (n, 4), (n,), (n,) of the detections.
        true_boxes, true_labels: (m, 4), (m,) of the objects.
        ignored: (m,) bool: difficult objects and crowds, which count neither when found nor when
            missed.
        overlaps: (n, m), intersection over union; 0 where nothing has an area.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    true_boxes: np.ndarray
    true_labels: np.ndarray
    ignored: np.ndarray
    overlaps: np.ndarray


def pair(
    found: Sequence[Detections], truth: Sequence[Mapping[str, Any]], num_classes: int
) -> list[Picture]:
    """Detections beside what is there, checked.

    Args:
        found: of each picture.
        truth: of each picture `boxes` (m, 4), `labels` (m,) and perhaps `difficult` and `crowd`,
            (m,) bool.
        num_classes: labels are 0..num_classes - 1.

    Raises:
        InputError: no picture, not the same number of both, or shapes or labels that cannot be.
        WorkError: a box or a score is NaN or infinite.
    """
    if not found or len(found) != len(truth):
        raise InputError(f"detections of {len(found)} pictures, objects of {len(truth)}")
    return [
        _paired(i, one, target, num_classes)
        for i, (one, target) in enumerate(zip(found, truth, strict=True))
    ]


def _paired(place: int, one: Detections, target: Mapping[str, Any], num_classes: int) -> Picture:
    boxes, scores, labels = (as_array(each) for each in one[:3])
    true_boxes, true_labels = as_array(target["boxes"]), as_array(target["labels"])
    _check(f"detections of picture {place}", boxes, labels, num_classes)
    _check(f"objects of picture {place}", true_boxes, true_labels, num_classes)
    if scores.shape != labels.shape:
        raise InputError(f"picture {place}: {len(labels)} detections, {len(scores)} scores")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise WorkError(f"picture {place}: a box or a score is NaN or infinite: broken weights")
    boxes, true_boxes = boxes.reshape(-1, 4), true_boxes.reshape(-1, 4)
    order = np.argsort(-scores, kind="stable")
    return Picture(
        boxes[order].astype(np.float64),
        scores[order].astype(np.float64),
        labels[order].astype(np.int64),
        true_boxes.astype(np.float64),
        true_labels.astype(np.int64),
        ignored(target),
        overlaps(boxes[order], true_boxes),
    )


def as_array(values: Any) -> np.ndarray:
    """Numbers of any kind, on any device."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check(whose: str, boxes: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim != 1 or (boxes.shape != (len(labels), 4) and boxes.size):
        raise InputError(f"{whose}: boxes {boxes.shape} and labels {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise InputError(f"{whose}: label {wrong} is outside 0..{num_classes - 1}")
    if boxes.size and (boxes[:, 2:] < boxes[:, :2]).any():
        wrong = boxes[(boxes[:, 2:] < boxes[:, :2]).any(1)][0].tolist()
        raise InputError(f"{whose}: {wrong} is no box x1 y1 x2 y2")


def ignored(target: Mapping[str, Any]) -> np.ndarray:
    """Which objects do not count, (m,) bool: difficult ones, as VOC has it, and COCO's crowds."""
    none = np.zeros(len(target["labels"]), bool)
    return as_array(target.get("difficult", none)).astype(bool) | as_array(
        target.get("crowd", none)
    ).astype(bool)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, (n, m) float64, of (n, 4) and (m, 4)."""
    from torchvision.ops import box_iou  # which takes a second, and no classifier's report needs

    found = box_iou(torch.from_numpy(boxes).double(), torch.from_numpy(others).double())
    return found.nan_to_num(0).numpy()  # 0/0 of two boxes without an area


def shares_within(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which share of each box lies in a region, (n, m): what COCO measures a crowd by."""
    corners = np.maximum(boxes[:, None, :2], regions[:, :2])
    sides = (np.minimum(boxes[:, None, 2:], regions[:, 2:]) - corners).clip(0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return sides.prod(2) / np.where(area > 0, area, np.inf)[:, None]
