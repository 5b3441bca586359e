"""What logits are worth where a picture may have several classes: average precision, F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from deepen.errors import InputError, WorkError
from deepen.evaluation.metrics import Figures


class TagScore(BaseModel):
    """One class: what its ranking is worth, and what is said of it from its threshold on.

    None where a ratio is 0/0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    threshold: float
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class TagScores(Figures):
    """The result of an evaluation of pictures that may have several classes.

    Its figures: `loss`, the mean binary cross-entropy of all classes in nats, after the
    temperature; `map`, the mean of the classes' average precision, of those that a picture has;
    `micro_f1` over all classes together; `macro_f1`, the mean of the classes' F1, where it is not
    0/0; `exact`, the share of pictures that all classes are right of. All but the first two are by
    the thresholds.
    """

    per_class: list[TagScore]


def average_precision(probabilities: np.ndarray, tags: np.ndarray) -> float | None:
    """Of one class, (N,) and (N,) of 0 and 1: the sum of (R_n - R_n-1) P_n; None without a 1.

    Recall and precision are those at each distinct probability; nothing is interpolated (Su, Yuan &
    Zhu 2015, "A relationship between the average precision and the area under the ROC curve").
    """
    if not tags.any():
        return None
    right, said = _at_thresholds(probabilities, tags)[1:]
    return float((np.diff(right, prepend=0) / tags.sum() * right / said).sum())


def best_threshold(probabilities: np.ndarray, tags: np.ndarray) -> float:
    """The probability from which on the class is said to be there, where its F1 is the greatest.

    It lies in the middle between two pictures'; of equally good ones it is the highest. A class
    that all pictures have, or none, says nothing: 0.5.
    """
    if not tags.any() or tags.all():
        return 0.5
    values, right, said = _at_thresholds(probabilities, tags)
    f1 = 2 * right / (said + tags.sum())
    best = int(f1.argmax())
    below = values[best + 1] if best + 1 < len(values) else 0.0
    middle = float((values[best] + below) / 2)
    return middle if middle > below else float(values[best])


def _at_thresholds(
    probabilities: np.ndarray, tags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct probabilities, falling; from each on how many are rightly said, and said at all."""
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # of equal ones
    return falling[last], tags[order].cumsum()[last].astype(np.float64), last + 1.0


def score_tags(
    logits: Tensor,
    tags: Tensor,
    classes: Sequence[str],
    thresholds: Sequence[float],
    *,
    temperature: float = 1.0,
    protocol: str = "",
    num_skipped: int = 0,
) -> TagScores:
    """Every number of `TagScores`.

    Args:
        logits: (N, K).
        tags: (N, K), 0 or 1.
        classes: K names.
        thresholds: of each class, in 0..1.
        temperature: what the logits are divided by before the sigmoid.
        protocol: how the logits were come by, in words.
        num_skipped: pictures left out since they could not be decoded.

    Raises:
        InputError: nothing to score, or these do not fit each other.
        WorkError: a logit is NaN or infinite.
    """
    k = len(classes)
    if not len(logits) or tags.shape != logits.shape or {logits.shape[1], len(thresholds)} != {k}:
        shapes = f"{tuple(logits.shape)}, {tuple(tags.shape)}, {len(thresholds)} thresholds"
        raise InputError(f"logits and tags must be (N, {k}), with a threshold each; got {shapes}")
    if not torch.isfinite(logits).all():
        raise WorkError("some pictures have NaN or infinite logits: weights or pictures are broken")
    scaled, truth = logits.detach().double().cpu() / temperature, tags.cpu().numpy()
    shares = scaled.sigmoid().numpy()
    said = shares >= np.asarray(thresholds)
    right, support = (said & (truth == 1)).sum(0), truth.sum(0)
    per_class = [
        TagScore(
            name=name,
            threshold=thresholds[c],
            average_precision=average_precision(shares[:, c], truth[:, c]),
            precision=_ratio(right[c], said[:, c].sum()),
            recall=_ratio(right[c], support[c]),
            f1=_ratio(2 * right[c], said[:, c].sum() + support[c]),
            support=int(support[c]),
        )
        for c, name in enumerate(classes)
    ]
    figures = {
        "loss": F.binary_cross_entropy_with_logits(scaled, tags.cpu().double()).item(),
        "map": _mean([each.average_precision for each in per_class]),
        "micro_f1": _ratio(2 * right.sum(), said.sum() + support.sum()),
        "macro_f1": _mean([each.f1 for each in per_class]),
        "exact": float((said == truth).all(1).mean()),
    }
    return TagScores(
        num_samples=len(truth),
        num_skipped=num_skipped,
        figures=figures,
        protocol=protocol,
        per_class=per_class,
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
