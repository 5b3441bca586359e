"""Average precision and recall as COCO has them, of boxes and of masks, by faster-coco-eval.

Lin et al. 2014, "Microsoft COCO: Common objects in context", and cocodataset.org: the mean over
overlaps of 0.5, 0.55, ... 0.95, at most 100 detections a picture; precision is read at 101 recalls.
A crowd swallows what lies in it; VOC's difficult objects are taken for such. The size of an object
is the area of its mask where there is one, else of its box, as in COCO's own files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deepen.errors import InputError
from deepen.evaluation.boxes import Detections, as_array, ignored

SMALL_PX2, MEDIUM_PX2 = 32**2, 96**2
"""Areas up to which objects are small and medium."""


class CocoClass(BaseModel):
    """One class; None where there is no object of it that counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None


class CocoScores(BaseModel):
    """The twelve figures of COCO, in 0..1, and some of each class; None where nothing counts.

    Attributes:
        ap: the mean over ten overlaps; ap50 and ap75 at one.
        ap_small, ap_medium, ap_large: of objects under 32x32 px, up to 96x96 px, and above.
        ar1, ar10, ar100: the recall by so many detections a picture, a mean over ten overlaps.
        ar_small, ar_medium, ar_large: by 100 detections.
        per_class: in the order of the classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: list[CocoClass]


def need() -> Any:
    """faster-coco-eval.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError as error:
        words = "COCO AP needs faster-coco-eval: pip install 'deepen[detection]'"
        raise InputError(words) from error
    return faster_coco_eval


def run_lengths(masks: Tensor | np.ndarray | Sequence[Any]) -> list[dict[str, Any]]:
    """Masks (n, h, w) of 0 and 1 as COCO's run lengths; what is of these already stays."""
    if not isinstance(masks, (Tensor, np.ndarray)):
        return [dict(each) for each in masks]
    array = as_array(masks)
    if not len(array):
        return []
    return need().mask.encode(np.asfortranarray(array.astype(np.uint8).transpose(1, 2, 0)))


def score_boxes(
    found: Sequence[Detections], truth: Sequence[Mapping[str, Any]], num_classes: int
) -> CocoScores:
    """COCO's figures of boxes.

    Args:
        found: of each picture.
        truth: of each picture `boxes`, `labels` and perhaps `difficult`, `crowd`, `masks`.
        num_classes: labels are 0..num_classes - 1.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    return _score("bbox", found, truth, num_classes)


def score_masks(
    found: Sequence[Detections], truth: Sequence[Mapping[str, Any]], num_classes: int
) -> CocoScores:
    """COCO's figures of masks; all of `found` and `truth` have some."""
    return _score("segm", found, truth, num_classes)


def _score(
    kind: str, found: Sequence[Detections], truth: Sequence[Mapping[str, Any]], num_classes: int
) -> CocoScores:
    package = need()
    objects = [each for i, target in enumerate(truth) for each in _objects(i, target, kind)]
    said = [each for i, one in enumerate(found) for each in _said(i, one, kind)]
    frame = {
        "images": [{"id": i, "height": 1, "width": 1} for i in range(len(truth))],  # masks know it
        "categories": [{"id": c, "name": str(c)} for c in range(num_classes)],
    }
    files = [
        package.COCO(
            {**frame, "annotations": [{"id": n, **each} for n, each in enumerate(some, 1)]}
        )
        for some in (objects, said)
    ]
    judge = package.COCOeval_faster(*files, iouType=kind)
    judge.evaluate()
    judge.accumulate()
    return _summary(judge.eval["precision"], judge.eval["recall"])


def _objects(place: int, target: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    masks = run_lengths(target["masks"]) if "masks" in target else None
    found = _annotations(place, target["boxes"], target["labels"], masks, kind)
    for each, passed_over in zip(found, ignored(target), strict=True):
        each["iscrowd"] = int(passed_over)
    return found


def _said(place: int, one: Detections, kind: str) -> list[dict[str, Any]]:
    masks = run_lengths(one.masks) if kind == "segm" and one.masks is not None else None
    found = _annotations(place, one.boxes, one.labels, masks, kind)
    for each, score in zip(found, as_array(one.scores).tolist(), strict=True):
        each["score"] = score
    return found


def _annotations(
    place: int, boxes: Any, labels: Any, masks: list[dict[str, Any]] | None, kind: str
) -> list[dict[str, Any]]:
    """As COCO's JSON has them: x, y, width, height, and the area of the mask or else the box."""
    corners = as_array(boxes).astype(np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    areas = sides.prod(1) if masks is None else need().mask.area(masks) if masks else sides[:, 0]
    found = [
        {"image_id": place, "category_id": int(c), "bbox": [*xy, *wh], "area": float(a)}
        for c, xy, wh, a in zip(
            as_array(labels).tolist(), corners[:, :2].tolist(), sides.tolist(), areas, strict=True
        )
    ]
    if kind == "segm":
        for each, mask in zip(found, masks or [], strict=True):
            each["segmentation"] = mask
    return found


def _summary(precision: np.ndarray, recall: np.ndarray) -> CocoScores:
    """Of (overlaps, recalls, classes, sizes, numbers of detections), and the same but recalls.

    Sizes are all, small, medium, large; numbers of detections 1, 10, 100.
    """
    ap, ar = precision[..., -1], recall[..., -1]
    return CocoScores(
        ap=_mean(ap[..., 0]),
        ap50=_mean(ap[0, ..., 0]),
        ap75=_mean(ap[5, ..., 0]),
        ap_small=_mean(ap[..., 1]),
        ap_medium=_mean(ap[..., 2]),
        ap_large=_mean(ap[..., 3]),
        ar1=_mean(recall[..., 0, 0]),
        ar10=_mean(recall[..., 0, 1]),
        ar100=_mean(recall[..., 0, 2]),
        ar_small=_mean(ar[..., 1]),
        ar_medium=_mean(ar[..., 2]),
        ar_large=_mean(ar[..., 3]),
        per_class=[
            CocoClass(
                ap=_mean(ap[:, :, c, 0]),
                ap50=_mean(ap[0, :, c, 0]),
                ap75=_mean(ap[5, :, c, 0]),
                ar100=_mean(ar[:, c, 0]),
            )
            for c in range(precision.shape[2])
        ],
    )


def _mean(values: np.ndarray) -> float | None:
    """Of what there is: -1 stands for a class without an object of that size."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else None
