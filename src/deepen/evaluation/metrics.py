"""What a network's logits are worth on labelled pictures, as numbers that fit in a JSON file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deepen.display import Part, Table, displayed
from deepen.errors import InputError, WorkError
from deepen.evaluation.intervals import Interval, interval

CALIBRATION_BINS = 15


class ClassScore(BaseModel):
    """One class against the rest; None where a ratio is 0/0, as recall without a sample.

    `recall_interval` is where the true recall lies with 95% confidence, by so many pictures of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None = None
    f1: float | None
    support: int


@displayed
class Scores(BaseModel):
    """The result of one evaluation, with the protocol that it was measured under.

    Attributes:
        num_samples: pictures that the numbers are over.
        num_skipped: pictures that could not be decoded, and are in none of the numbers.
        top1: share, in 0..1, of pictures whose largest logit is the right one.
        top1_interval: where the true top-1 lies with 95% confidence, by so many pictures (Wilson
            1927); None in older files.
        top5: share whose five largest have the right one; None with fewer than six classes.
        loss: mean cross-entropy in nats, after the temperature.
        balanced_accuracy: mean recall of the classes that have pictures (Brodersen et al. 2010), in
            0..1; None in older files, as is the next.
        macro_f1: mean F1 of the classes that have pictures or predictions, in 0..1.
        per_class: in the order of the classes.
        confusion: counts; the row is the true class, the column the predicted one.
        hierarchical_error: how far off mistakes are in a tree of the classes
            (`deepen.evaluation.hierarchy`), in 0..1; None without a tree.
        calibration_error: expected, over 15 bins of equal width, L1, after the temperature
            (Guo et al. 2017, "On calibration of modern neural networks", eq. 3), in 0..1.
        protocol: data, split, crops and resizing, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int
    num_skipped: int
    top1: float
    top1_interval: tuple[float, float] | None = None
    top5: float | None
    loss: float
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    per_class: list[ClassScore]
    confusion: list[list[int]]
    calibration_error: float
    hierarchical_error: float | None = None
    protocol: str

    @property
    def interval(self) -> Interval:
        """Of top-1, with the number of pictures."""
        return interval(self.top1, self.num_samples)

    def display(self) -> list[Part]:
        """What it shows of itself: the protocol, the accuracy, and each class."""
        rows = []
        for row in self.per_class:
            shares = ["-" if v is None else f"{v:.3f}" for v in (row.precision, row.recall, row.f1)]
            reach = row.recall_interval
            between = "-" if reach is None else f"{reach[0]:.3f} to {reach[1]:.3f}"
            rows.append((row.name, *shares[:2], between, shares[2], str(row.support)))
        header = ("class", "precision", "recall", "95% interval", "F1", "pictures")
        return [self.protocol, self.headline, Table(header, rows)]

    @property
    def headline(self) -> str:
        """The accuracy in a line, and the means over classes, which rare ones have a say in."""
        words = f"accuracy {self.interval.in_words}"
        if self.balanced_accuracy is not None:
            words += f", balanced accuracy {100 * self.balanced_accuracy:.2f}%"
        if self.macro_f1 is not None:
            words += f", macro F1 {100 * self.macro_f1:.2f}%"
        return words


@displayed
class Figures(BaseModel):
    """The result of an evaluation of a task that is no classification.

    Attributes:
        num_samples: pictures that the numbers are over.
        num_skipped: pictures that could not be decoded, and are in none of the numbers.
        figures: by name; None where there is none.
        protocol: data, split, crops and resizing, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int
    num_skipped: int
    figures: dict[str, float | None]
    protocol: str

    def display(self) -> list[Part]:
        """What it shows of itself."""
        known = {name: value for name, value in self.figures.items() if value is not None}
        rows = [(name, f"{value:.4g}") for name, value in known.items()]
        return [self.protocol, Table(("", f"of {self.num_samples:,} pictures"), rows)]

    @property
    def headline(self) -> str:
        """All of them in a line."""
        known = {name: value for name, value in self.figures.items() if value is not None}
        return ", ".join(f"{name} {value:.4g}" for name, value in known.items())


def in_top(k: int, logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the right class is among the k with the largest logits: bool (N,), of (N, K), (N,).

    Of equal logits the first is the larger one.
    """
    if k == 1:
        return logits.argmax(dim=1) == labels
    return (logits.topk(min(k, logits.shape[1])).indices == labels[:, None]).any(dim=1)


class OverClasses(NamedTuple):
    """Means in which each class weighs the same; see `Scores`."""

    balanced_accuracy: float
    macro_f1: float


def over_classes(labels: Tensor, predicted: Tensor, num_classes: int) -> OverClasses:
    """Balanced accuracy and macro F1, of places in the classes, int64 (N,), (N,)."""
    right = torch.bincount(labels[labels == predicted], minlength=num_classes).double()
    support = torch.bincount(labels, minlength=num_classes)
    said = torch.bincount(predicted, minlength=num_classes)
    return OverClasses(
        (right / support)[support > 0].mean().item(),
        (2 * right / (support + said))[support + said > 0].mean().item(),
    )


def score(
    logits: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
    protocol: str,
    num_skipped: int = 0,
) -> Scores:
    """Every number of `Scores`, from one forward pass.

    Args:
        logits: (N, K), of any float type.
        labels: (N,), int64 in 0..K-1.
        classes: K names.
        temperature: what the logits are divided by before the softmax; leaves top-1 as it is.
        protocol: how the logits were come by, in words.
        num_skipped: pictures left out since they could not be decoded.

    Raises:
        InputError: nothing to score, or logits, labels and classes do not fit each other.
        WorkError: a logit is NaN or infinite.
    """
    import torchmetrics.functional.classification as tm  # takes seconds

    logits, labels = logits.detach().float().cpu(), labels.cpu()
    _check(logits, labels, classes)
    k = len(classes)
    scaled = logits.double() / temperature
    # As probabilities, for torchmetrics would take logits that all lie in 0..1 for some; and under
    # 1, for it puts a confidence of 1 itself in a sixteenth bin.
    probabilities = scaled.softmax(dim=1).clamp(max=1 - 2**-24)
    predicted = logits.argmax(dim=1)
    confusion = tm.multiclass_confusion_matrix(predicted, labels, k)
    right, support = confusion.diag().double(), confusion.sum(dim=1)
    per_class = (
        right / confusion.sum(dim=0),  # precision
        right / support,  # recall
        2 * right / (confusion.sum(dim=0) + support),  # F1, their harmonic mean
    )
    return Scores(
        num_samples=len(labels),
        num_skipped=num_skipped,
        top1=(top1 := in_top(1, logits, labels).sum().item() / len(labels)),
        top1_interval=interval(top1, len(labels))[1:3],
        top5=in_top(5, logits, labels).sum().item() / len(labels) if k > 5 else None,
        loss=F.cross_entropy(scaled, labels).item(),
        **over_classes(labels, predicted, k)._asdict(),
        per_class=[
            ClassScore(
                name=name,
                precision=p,
                recall=r,
                recall_interval=None if r is None else interval(r, n)[1:3],
                f1=f,
                support=n,
            )
            for name, p, r, f, n in zip(
                classes, *map(_ratios, per_class), support.tolist(), strict=True
            )
        ],
        confusion=confusion.tolist(),
        calibration_error=tm.multiclass_calibration_error(
            probabilities, labels, k, n_bins=CALIBRATION_BINS, norm="l1"
        ).item(),
        protocol=protocol,
    )


def _ratios(values: Tensor) -> list[float | None]:
    """NaN, the value of 0/0, as None: JSON has no NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def _check(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise InputError(f"logits must be (N, K) and labels (N,), got {shapes}")
    if len(labels) == 0:
        raise InputError("no picture to score")
    if len(classes) != logits.shape[1]:
        raise InputError(f"{logits.shape[1]} logits a picture, but {len(classes)} classes")
    if labels.min() < 0 or labels.max() >= len(classes):
        wrong = labels[(labels < 0) | (labels >= len(classes))][0].item()
        raise InputError(f"label {wrong} is outside 0..{len(classes) - 1}")
    broken = ~torch.isfinite(logits).all(dim=1)
    if broken.any():
        first = int(broken.nonzero()[0])
        raise WorkError(
            f"{int(broken.sum())} of {len(labels)} pictures have NaN or infinite logits, "
            f"the first at place {first}: the weights or the pictures are broken"
        )
