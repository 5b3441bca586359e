"""What a segmentation is worth: the four figures of fully convolutional networks.

Long, Shelhamer & Darrell 2015, "Fully convolutional networks for semantic segmentation", section 5.
With n_ij the pixels of class i that are said to be of class j, and t_i all of class i: pixel
accuracy, sum n_ii / sum t_i; mean accuracy, the mean of n_ii / t_i; mean IU, the mean of
n_ii / (t_i + sum_j n_ji - n_ii); and frequency-weighted IU, its mean weighed by t_i. All are of the
pixels of all pictures together. Void pixels count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deepen.errors import InputError
from deepen.evaluation.intervals import RESAMPLES, Interval, bootstrap_interval, draw_again
from deepen.evaluation.metrics import Figures

VOID = 255


class SegmentedClass(BaseModel):
    """One class; None where a ratio is 0/0.

    Attributes:
        name: of the class.
        pixels: of it.
        iou: intersection over union, in 0..1.
        accuracy: the share of its pixels that is found, its recall.
        precision: the share that is right of what is said to be it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pixels: int
    iou: float | None
    accuracy: float | None
    precision: float | None


class SegmentationScores(Figures):
    """The result of an evaluation of a segmentation.

    Its figures, in 0..1: `miou`, `pixel_accuracy`, `mean_accuracy` and `fwiou`, the
    frequency-weighted. A class that no picture has and nothing is said to be is in no mean.

    Attributes:
        miou_interval: where the true mean IoU lies with 95% confidence, by resampled pictures.
        per_class: in the order of the classes.
        confusion: pixels; the row is the true class, the column the predicted one.
    """

    miou_interval: tuple[float, float] | None
    per_class: list[SegmentedClass]
    confusion: list[list[int]]

    @property
    def headline(self) -> str:
        """Mean IoU with its interval and the number of pictures, and the pixel accuracy."""
        miou, accuracy = self.figures["miou"], self.figures["pixel_accuracy"]
        if miou is None or accuracy is None:
            return "no pixel to score"
        words = f"mean IoU {100 * miou:.2f}% (n {self.num_samples:,} pictures)"
        if self.miou_interval is not None:
            of_all = Interval(miou, *self.miou_interval, self.num_samples)
            words = f"mean IoU {of_all.in_words.removesuffix(')')} pictures)"
        return f"{words}, pixel accuracy {100 * accuracy:.2f}%"


def confusion_of(predicted: Tensor, truth: Tensor, num_classes: int, void: int = VOID) -> Tensor:
    """Pixels of each true class (row) that are said to be of each class: int64 (K, K), on the CPU.

    Args:
        predicted: (..., h, w) places in the classes.
        truth: the same shape; pixels that are `void` count for nothing.
        num_classes: K.
        void: a value that is no class.

    Raises:
        InputError: not the same shape, or a value that is neither a class nor void.
    """
    if predicted.shape != truth.shape:
        raise InputError(f"a mask of {tuple(predicted.shape)} for one of {tuple(truth.shape)}")
    counts = truth != void
    rows, columns = truth[counts].long(), predicted[counts].long()
    for values in (rows, columns):
        if len(values) and not (values.min() >= 0 and values.max() < num_classes):
            wrong = values[(values < 0) | (values >= num_classes)][0].item()
            raise InputError(f"a mask's value {wrong} is outside 0..{num_classes - 1}")
    places = rows * num_classes + columns
    return places.bincount(minlength=num_classes**2).reshape(num_classes, num_classes).cpu()


class _Terms(NamedTuple):
    """Pixels of each class that are right, true and said, (..., K) each."""

    right: np.ndarray
    true: np.ndarray
    said: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        return _ratio(self.right, self.true + self.said - self.right)


def score_masks(
    confusions: Iterable[Tensor],
    classes: Sequence[str],
    *,
    protocol: str = "",
    num_skipped: int = 0,
    resamples: int = RESAMPLES,
) -> SegmentationScores:
    """Every number of `SegmentationScores`.

    Args:
        confusions: of each picture, as `confusion_of` counts it; taken one by one, so that they
            need not lie in memory together.
        classes: K names.
        protocol: how the masks were come by, in words.
        num_skipped: pictures left out since they could not be decoded.
        resamples: of the pictures, for the interval; with 0 there is none.

    Raises:
        InputError: no picture, or a confusion that is not (K, K).
    """
    k, total, kept = len(classes), torch.zeros(len(classes), len(classes), dtype=torch.int64), []
    for confusion in confusions:
        if confusion.shape != (k, k):
            raise InputError(f"a confusion of {tuple(confusion.shape)} for {k} classes")
        total += confusion
        kept.append(torch.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)]))
    if not kept:
        raise InputError("no picture to score")
    terms = _Terms(
        *np.stack([total.diagonal().numpy(), total.sum(1).numpy(), total.sum(0).numpy()])
    )
    each = torch.stack(kept).numpy().astype(np.float64)
    drawn = np.tensordot(draw_again(len(kept), resamples).astype(np.float64), each, 1)
    again = _Terms(*drawn.transpose(1, 0, 2))
    iou, accuracy = terms.iou, _ratio(terms.right, terms.true)
    precision = _ratio(terms.right, terms.said)
    pixels = terms.true.sum()
    weighed = np.nansum(iou * terms.true)
    miou = _mean(iou)
    figures = {
        "miou": miou,
        "pixel_accuracy": float(terms.right.sum() / pixels) if pixels else None,
        "mean_accuracy": _mean(accuracy),
        "fwiou": float(weighed / pixels) if pixels else None,
    }
    return SegmentationScores(
        num_samples=len(kept),
        num_skipped=num_skipped,
        figures=figures,
        protocol=protocol,
        miou_interval=bootstrap_interval(miou, _means(again.iou)) if miou is not None else None,
        per_class=[
            SegmentedClass(
                name=name,
                pixels=int(terms.true[c]),
                iou=_known(iou[c]),
                accuracy=_known(accuracy[c]),
                precision=_known(precision[c]),
            )
            for c, name in enumerate(classes)
        ],
        confusion=total.tolist(),
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _means(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of what is known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))


def _mean(values: np.ndarray) -> float | None:
    return _known(_means(values[None])[0])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
