"""Segmentation scored: against scikit-learn and torchmetrics, pixel by pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from deepen.errors import InputError
from deepen.evaluation.segmentation import SegmentationScores, confusion_of, score_masks

K = 5


def make_masks(seed: int, pictures: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What is said and what is true, of unlike sizes; some of the true is void."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(pictures):
        shape = (10 + i, 23 - i)
        truth = torch.randint(K, shape, generator=generator)
        said = torch.where(
            torch.rand(shape, generator=generator) < 0.7,
            truth,
            torch.randint(K, shape, generator=generator),
        )
        truth[torch.rand(shape, generator=generator) < 0.1] = 255
        pairs.append((said, truth.byte()))
    return pairs


def test_confusion_is_that_of_scikit_learn():
    for said, truth in make_masks(0):
        counts = truth != 255
        expected = confusion_matrix(truth[counts], said[counts], labels=range(K))
        assert confusion_of(said, truth, K).tolist() == expected.tolist()


def test_figures_are_those_of_torchmetrics():
    pairs = make_masks(1)
    names = list("abcde")
    scores = score_masks((confusion_of(*pair, K) for pair in pairs), names, protocol="made up")
    said = torch.cat([pair[0].flatten() for pair in pairs])
    truth = torch.cat([pair[1].flatten() for pair in pairs]).long()
    options = {"num_classes": K, "ignore_index": 255}
    figures = {
        "miou": multiclass_jaccard_index(said, truth, average="macro", **options),
        "fwiou": multiclass_jaccard_index(said, truth, average="weighted", **options),
        "pixel_accuracy": multiclass_accuracy(said, truth, average="micro", **options),
        "mean_accuracy": multiclass_accuracy(said, truth, average="macro", **options),
    }
    assert scores.figures == pytest.approx({name: v.item() for name, v in figures.items()})
    each = multiclass_jaccard_index(said, truth, average=None, **options).tolist()
    assert [row.iou for row in scores.per_class] == pytest.approx(each)
    low, high = scores.miou_interval
    assert low < scores.figures["miou"] < high
    assert scores.headline.startswith(f"mean IoU {100 * scores.figures['miou']:.2f}% (95% int")
    assert "n 12 pictures), pixel accuracy " in scores.headline
    assert SegmentationScores.model_validate(json.loads(scores.model_dump_json())) == scores


def test_figures_by_hand():
    """Section 5: of six pixels of class 0 four are found, of two of class 1 both."""
    confusion = torch.tensor([[4, 2, 0], [0, 2, 0], [0, 0, 0]])
    scores = score_masks([confusion], ["a", "b", "c"], resamples=0)
    assert scores.figures == pytest.approx(
        {
            "miou": (4 / 6 + 2 / 4) / 2,
            "pixel_accuracy": 6 / 8,
            "mean_accuracy": (4 / 6 + 1) / 2,
            "fwiou": (6 * 4 / 6 + 2 * 2 / 4) / 8,
        }
    )
    last = scores.per_class[2]
    assert (last.pixels, last.iou, last.accuracy, last.precision) == (0, None, None, None)
    assert scores.per_class[1].precision == 0.5
    assert scores.miou_interval is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Pictures differ in how well they are segmented."""
    rng = np.random.default_rng(0)

    def draw(pictures: int) -> list[torch.Tensor]:
        found = []
        for share in rng.beta(6, 2, pictures):
            right = rng.binomial(50, share, 2)
            found.append(torch.tensor([[right[0], 50 - right[0]], [50 - right[1], right[1]]]))
        return found

    truth = score_masks(draw(20_000), "ab", resamples=0).figures["miou"]
    held = 0
    for _ in range(150):
        low, high = score_masks(draw(40), "ab", resamples=300).miou_interval
        held += low <= truth <= high
    assert 0.88 <= held / 150 <= 0.99


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="no picture"):
        score_masks([], ["a"])
    with pytest.raises(InputError, match=r"\(2, 2\) for 3 classes"):
        score_masks([torch.eye(2)], "abc")
    with pytest.raises(InputError, match=r"value 5 is outside 0\.\.4"):
        confusion_of(torch.tensor([5]), torch.tensor([0]), K)
    with pytest.raises(InputError, match="value 254"):
        confusion_of(torch.tensor([0]), torch.tensor([254]), K)
    with pytest.raises(InputError, match=r"\(2,\) for one of \(3,\)"):
        confusion_of(torch.zeros(2), torch.zeros(3), K)
    empty = score_masks([torch.zeros(2, 2, dtype=torch.int64)], "ab")
    assert empty.figures["miou"] is None
    assert empty.headline == "no pixel to score"
