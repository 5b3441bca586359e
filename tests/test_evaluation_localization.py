"""The localization error of the ImageNet challenge, by hand."""

from __future__ import annotations

import pytest
import torch

from deepen.errors import InputError
from deepen.evaluation.boxes import Detections
from deepen.evaluation.localization import score_localization

BOX, FAR = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
HALF, LESS = (0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 10.0, 4.9)


def guess(*rows: tuple[int, tuple[float, ...]]) -> Detections:
    """Class and box each, the surest first."""
    boxes = torch.tensor([row[1] for row in rows]).reshape(-1, 4)
    labels = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    return Detections(boxes, torch.linspace(0.9, 0.1, len(rows)), labels)


@pytest.mark.parametrize(
    ("found", "boxes", "wrong"),
    [
        (guess((3, BOX)), [BOX], (0, 0, 0, 0)),
        (guess((3, HALF)), [BOX], (0, 0, 0, 0)),  # half is enough
        (guess((3, LESS)), [BOX], (1, 1, 0, 0)),
        (guess((3, FAR)), [BOX, FAR], (0, 0, 0, 0)),  # any of its boxes
        (guess((2, BOX)), [BOX], (1, 1, 1, 1)),
        (guess((2, BOX), (3, BOX)), [BOX], (1, 0, 1, 0)),
        (guess((3, FAR), (2, BOX)), [BOX], (1, 1, 0, 0)),  # the box of another guess
        (guess((3, FAR), (3, BOX)), [BOX], (1, 0, 0, 0)),
        (guess((0, BOX), (1, BOX), (2, BOX), (4, BOX), (0, BOX), (3, BOX)), [BOX], (1, 1, 1, 1)),
        (guess((0, BOX), (1, BOX), (2, BOX), (4, BOX), (3, BOX)), [BOX], (1, 0, 1, 0)),
        (guess(), [BOX], (1, 1, 1, 1)),
    ],
)
def test_each_picture_by_hand(found, boxes, wrong):
    figures = score_localization([found], [{"boxes": torch.tensor(boxes)}], [3], 5).figures
    names = ("top1_error", "top5_error", "top1_class_error", "top5_class_error")
    assert tuple(figures[name] for name in names) == wrong


def test_shares_and_intervals_of_several():
    """The order is by score, and intervals are Wilson's (Newcombe 1998, table I: 81 of 263)."""
    turned = guess((2, BOX), (3, BOX))._replace(scores=torch.tensor([0.1, 0.9]))
    found = [turned] * 182 + [guess((3, FAR))] * 40 + [guess((1, BOX))] * 41
    truth = [{"boxes": torch.tensor([BOX])}] * 263
    scores = score_localization(found, truth, [3] * 263, 5, protocol="made up")
    assert scores.figures["top1_error"] == 81 / 263
    assert scores.figures["top1_class_error"] == pytest.approx(41 / 263)
    assert scores.figures["top1_box_error"] == pytest.approx(40 / 222)
    assert scores.top1_interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert scores.headline.startswith("top-1 localization error 30.80% (95% interval 25.5 to 36.6%")
    with pytest.raises(InputError, match="262 labels of 263 pictures"):
        score_localization(found, truth, [3] * 262, 5)
    with pytest.raises(InputError, match="label 3 is outside"):
        score_localization(found, truth, [3] * 263, 3)
