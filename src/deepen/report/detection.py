"""A detector's part of the report: its classes and curves, its errors by kind, its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from deepen.errors import InputError, first_problem
from deepen.evaluation.detection import DetectedClass, DetectionScores
from deepen.files import read_json
from deepen.report.drawing import INK, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES = 12  # with more classes, those of the lowest average precision
NAMES = {
    "map50": "mAP at 0.5 (VOC 2010)",
    "map07": "mAP at 0.5 (VOC 2007)",
    "coco_ap": "COCO AP",
    "coco_ap50": "COCO AP at 0.5",
    "coco_ap75": "COCO AP at 0.75",
    "coco_ar100": "COCO AR, 100 detections",
    "mask_ap": "Mask AP",
    "mask_ap50": "Mask AP at 0.5",
    "miou": "Mean IoU",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "fwiou": "Frequency-weighted IoU",
    "top1_error": "Top-1 localization error",
    "top5_error": "Top-5 localization error",
    "top1_class_error": "Top-1 error of the class alone",
    "top5_class_error": "Top-5 error of the class alone",
    "top1_box_error": "Error of the box, the class being right",
}
"""Of figures, which all are shares and shown in percent."""
LOSSES = {
    "objectness": "Loss of proposals: thing or not",
    "rpn_box": "Loss of proposals: where",
    "class": "Loss of regions: which class",
    "box": "Loss of regions: where exactly",
    "mask": "Loss of masks",
}
"""Titles of a detector's losses."""
CHARTS = {
    "ap": "COCO AP",
    "ap50": "COCO AP at 0.5",
    "mask_ap": "Mask AP",
    "miou": "Mean IoU",
    "pixel_accuracy": "Pixel accuracy",
    "top1_error": "Top-1 localization error",
    "top5_error": "Top-5 localization error",
    "top1_class_error": "Top-1 error of the class alone",
}
"""Titles of those that are scored after each epoch."""


class Drawn(BaseModel, extra="allow"):
    """An entry of worst.json of a detector."""

    key: str
    kind: str
    predicted: str | None
    score: float | None
    true: str | None
    overlap: float | None
    jpeg: str


class Overlaid(BaseModel, extra="allow"):
    """An entry of worst.json of a segmentation."""

    key: str
    miou: float
    predicted: str
    true: str


def overlaid(path: Path) -> list[dict[str, Any]]:
    """The pictures that a segmentation is worst at, none where there is no such file."""
    return _worst(path, Overlaid) if path.is_file() else []


def parts(scores: DetectionScores, drawn: Path) -> dict[str, Any]:
    """What the template shows of a detector beside its figures."""
    known = [each for each in scores.per_class if each.ap is not None]
    shown = known
    if len(known) > MAX_CURVES:
        shown = sorted(known, key=lambda each: each.ap or 0.0)[:MAX_CURVES]
    return {
        "classes": scores.per_class,
        "with_masks": scores.coco_masks is not None,
        "sizes": _sizes(scores),
        "curves": [{"name": each.name, "ap": each.ap, "svg": _curve(each)} for each in shown],
        "all_curves": len(shown) == len(known),
        "errors": scores.errors,
        "bars": _bars(scores) if any(each.cost for each in scores.errors) else None,
        "worst": _worst(drawn, Drawn) if drawn.is_file() else [],
    }


def _worst(path: Path, model: type[BaseModel]) -> list[dict[str, Any]]:
    try:
        return [model.model_validate(each).model_dump() for each in read_json(path)]
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({first_problem(error, model)})") from error


def _sizes(scores: DetectionScores) -> list[dict[str, Any]]:
    rows = [("boxes", scores.coco), ("masks", scores.coco_masks)]
    return [
        {"of": name}
        | {size: getattr(found, f"ap_{size}") for size in ("small", "medium", "large")}
        | {f"ar{n}": getattr(found, f"ar{n}") for n in (1, 10, 100)}
        for name, found in rows
        if found is not None
    ]


def _curve(one: DetectedClass) -> Any:
    from matplotlib.ticker import PercentFormatter

    def paint(axes: Axes) -> None:
        recall = [0.0, *(point[0] for point in one.curve)]
        precision = [point[1] for point in one.curve]
        axes.plot(recall, [*precision[:1], *precision] or [0.0], color=INK["eval"], linewidth=2)
        axes.set_xlim(0, 1.06)  # the last label is not cut
        axes.set_ylim(0, 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("recall", color=INK["axis"], labelpad=6)

    return draw(f"Precision by recall: {one.name}", paint)


def _bars(scores: DetectionScores) -> Any:
    """What each kind of error costs, the dearest on top."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    costs = [(each.kind, each.cost or 0.0) for each in scores.errors]
    costs = sorted(costs[:-2], key=lambda each: each[1]) + costs[-2:]

    def paint(axes: Axes) -> None:
        names = [name for name, _ in costs]
        colors = [INK["eval"]] * (len(costs) - 2) + [INK["train"]] * 2
        axes.barh(names, [cost for _, cost in costs], color=colors, height=0.62, zorder=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("mAP at 0.5 gained were it mended", color=INK["axis"], labelpad=6)

    return draw("Errors by kind", paint, left=0.31)
