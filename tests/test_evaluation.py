"""Scores against scikit-learn and hand counts; predictions against the bare model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn import metrics as sk
from torch import nn

from deepen.data.decode import PictureError
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, WorkError
from deepen.evaluation.metrics import Figures, Scores, score
from deepen.evaluation.protocols import Predictions, describe_one_crop, predict_logits


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_scores_agree_with_sklearn(n, k, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k))
    labels = rng.integers(0, k, n)  # with few samples, some classes have none
    scores = score(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        [f"c{i}" for i in range(k)],
        protocol="p",
    )
    predicted = logits.argmax(1)
    names = range(k)
    assert scores.confusion == sk.confusion_matrix(labels, predicted, labels=names).tolist()
    assert scores.top1 == pytest.approx(sk.accuracy_score(labels, predicted))
    undefined: Any = np.nan  # scikit-learn's stubs know the words alone
    expected: Any = sk.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=undefined
    )
    for row, p, r, f, support in zip(scores.per_class, *expected, strict=True):
        assert row.support == support
        assert [np.nan if v is None else v for v in (row.precision, row.recall, row.f1)] == (
            pytest.approx([p, r, f], nan_ok=True)
        )
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scores.loss == pytest.approx(
        sk.log_loss(labels, probabilities, labels=list(names)), rel=1e-5
    )
    if k > 5:
        assert scores.top5 == pytest.approx(
            sk.top_k_accuracy_score(labels, logits, k=5, labels=list(names))
        )
    else:
        assert scores.top5 is None


def _logits(confidences: list[float]) -> torch.Tensor:
    """Two-class logits whose softmax gives class 0 these probabilities."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], dim=1)


def test_calibration_error_by_hand():
    # 15 bins of 1/15: 0.61 and 0.65 lie in [9/15, 10/15), 0.95 and 0.97 in [14/15, 1].
    # First bin: one of two right, |0.5 - 0.63| = 0.13; last: both right, |1 - 0.96| = 0.04.
    scores = score(_logits([0.61, 0.65, 0.95, 0.97]), torch.tensor([0, 1, 0, 0]), "ab", protocol="")
    assert scores.calibration_error == pytest.approx((0.13 + 0.04) / 2, abs=1e-6)


def test_confidence_of_one_is_in_the_last_bin():
    # Last bin: 0.95 right and 1 wrong, |0.5 - 0.975| = 0.475; two bins would give 0.525.
    logits = torch.cat([_logits([0.95]), torch.tensor([[400.0, 0.0]])])
    scores = score(logits, torch.tensor([0, 1]), "ab", protocol="")
    assert scores.calibration_error == pytest.approx(0.475, abs=1e-6)


def test_temperature_changes_loss_and_calibration_alone():
    logits, labels = _logits([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
    warm = score(logits, labels, "ab", protocol="", temperature=2.0)
    plain = score(logits / 2, labels, "ab", protocol="")
    cold = score(logits, labels, "ab", protocol="")
    assert warm.loss == pytest.approx(plain.loss) != pytest.approx(cold.loss)
    assert warm.calibration_error == pytest.approx(plain.calibration_error)
    assert (warm.top1, warm.confusion) == (cold.top1, cold.confusion)


def test_logits_in_the_unit_interval_are_still_logits():
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    scores = score(logits, torch.tensor([0, 1]), "ab", protocol="")
    confidence = torch.sigmoid(torch.tensor([0.8, 0.6])).tolist()  # both right, in separate bins
    assert scores.calibration_error == pytest.approx(1 - sum(confidence) / 2, abs=1e-6)


def test_scores_survive_json():
    scores = score(torch.eye(7)[:2], torch.tensor([0, 3]), "abcdefg", protocol="p", num_skipped=1)
    assert Scores.model_validate_json(scores.model_dump_json()) == scores
    assert (scores.num_samples, scores.num_skipped, scores.protocol) == (2, 1, "p")
    assert scores.per_class[4].recall is None
    assert scores.per_class[3].recall == 0


def test_what_was_scored_cannot_be_changed():
    scores = score(torch.eye(2), torch.tensor([0, 1]), "ab", protocol="")
    figures = Figures(num_samples=1, num_skipped=0, figures={"mae": 0.5}, protocol="")
    for part, field in ((scores, "top1"), (scores.per_class[0], "recall"), (figures, "protocol")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, 0)
    with pytest.raises(ValidationError, match="extra"):
        Figures.model_validate({**figures.model_dump(), "top1": 1})


@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        ([[0.0, float("nan")], [0, 1]], [0, 1], WorkError, "1 of 2 .* first at place 0"),
        ([[0.0, 1], [0, float("inf")]], [0, 1], WorkError, "first at place 1"),
        ([[0.0, 1.0]], [2], InputError, r"label 2 is outside 0\.\.1"),
        ([[0.0, 1.0]], [-1], InputError, "label -1"),
        ([[0.0, 1.0, 2.0]], [0], InputError, "3 logits a picture, but 2 classes"),
        ([[0.0, 1.0]], [0, 1], InputError, r"\(N, K\)"),
    ],
)
def test_nonsense_is_refused(logits, labels, error, words):
    with pytest.raises(error, match=words):
        score(torch.tensor(logits), torch.tensor(labels), "ab", protocol="")


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="no picture"):
        score(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "ab", protocol="")


def _batch(images: torch.Tensor, start: int, bad: tuple[PictureError, ...] = ()) -> Any:
    n = len(images)
    labels, indices = torch.arange(n) % 3, torch.arange(start, start + n)
    return SimpleNamespace(images=images, labels=labels, indices=indices, bad=bad, shares=None)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 3))


def test_predict_logits_is_the_model_in_evaluation_mode():
    model, images = _model().train(), torch.randn(5, 3, 2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    broken = PictureError("x.jpg", "empty file")
    seen: list[int] = []
    logits, labels, indices, bad = predict_logits(
        model,
        [_batch(images[:2], 0), _batch(images[:0], 2, (broken,)), _batch(images[2:], 3)],
        device="cpu",
        progress=seen.append,
    )
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(logits, model.eval()(images).detach())
    assert labels.tolist() == [0, 1, 0, 1, 2]
    assert indices.tolist() == [0, 1, 3, 4, 5]
    assert bad == (broken,)
    assert seen == [2, 1, 3]
    assert logits.dtype == torch.float32


def test_predict_logits_under_autocast_is_near_and_float32():
    model, images = _model().eval(), torch.randn(4, 3, 2, 2)
    batch = _batch(images, 0)
    logits = predict_logits(model, [batch], device="cpu", amp=True).logits
    assert logits.dtype == torch.float32
    assert not model.training
    torch.testing.assert_close(logits, model(images).detach(), atol=0.05, rtol=0.05)


def test_no_picture_at_all_is_refused():
    batch = _batch(torch.zeros(0, 3, 2, 2), 0, (PictureError("x.jpg", "empty file"),))
    with pytest.raises(InputError, match=r"none of 1 pictures .*x\.jpg: empty file"):
        predict_logits(_model(), [batch], device="cpu")


def test_a_process_whose_pictures_are_all_bad_gathers_empty_parts():
    broken = PictureError("x.jpg", "empty file")
    others = Predictions(torch.ones(2, 3), torch.tensor([1, 2]), torch.tensor([4, 6]), ())
    handed_over: list[Predictions] = []

    def gather(part: Predictions) -> Predictions:
        handed_over.append(part)
        return others

    batch = _batch(torch.zeros(0, 3, 2, 2), 0, (broken,))
    assert predict_logits(_model(), [batch], device="cpu", gather=gather) is others
    ((logits, labels, indices, bad),) = handed_over
    assert (len(logits), len(labels), len(indices), bad) == (0, 0, 0, (broken,))
    assert (labels.dtype, indices.dtype) == (torch.int64, torch.int64)


def test_protocol_in_words():
    preprocessing = Preprocessing(
        channels=1, size_px=(32, 32), resize="squash", mean=(0.5,), std=(0.5,)
    )
    words = describe_one_crop(preprocessing, data="digits", part="test split", num_samples=1899)
    assert words.startswith("digits, test split, 1,899 pictures, one crop: ")
    assert words.endswith(preprocessing.describe())
