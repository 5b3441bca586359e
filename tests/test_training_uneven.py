"""Uneven classes: their means, weights and samples, against scikit-learn, torch and counts."""

from __future__ import annotations

import csv
import json
import signal
import sys
import types
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from deepen import api
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.mixing import Mixing
from deepen.data.preprocess import Preprocessing
from deepen.data.sampling import balanced_order, imbalance
from deepen.data.sources import PictureSet, Split
from deepen.errors import InputError, Interrupted
from deepen.evaluation.metrics import over_classes, score
from deepen.training.blocks import Bce, CrossEntropy
from deepen.training.checkpoint import load_checkpoint
from deepen.training.choice import choose
from deepen.training.optimizer import Objective, class_weights
from deepen.training.progress import Silent
from deepen.training.recipe import load_recipe
from deepen.training.run import Run
from deepen.training.task import Classification, task_of

# Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

PLAIN = Preprocessing(channels=1, size_px=(6, 6), resize="none", mean=(0.5,), std=(0.25,))


@given(n=st.integers(1, 60), k=st.integers(2, 8), seed=st.integers(0, 10**6))
def test_means_over_classes_are_scikit_learns(n, k, seed):
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, k, n), rng.normal(size=(n, k))
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and have no picture
        expected = (
            sk.balanced_accuracy_score(labels, predicted),
            sk.f1_score(labels, predicted, average="macro", zero_division=0),
        )
    found = over_classes(torch.from_numpy(labels), torch.from_numpy(predicted), k)
    assert tuple(found) == pytest.approx(expected)
    scores = score(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        [f"c{i}" for i in range(k)],
        protocol="p",
    )
    assert (scores.balanced_accuracy, scores.macro_f1) == pytest.approx(expected)


def test_the_line_shows_what_always_the_common_class_is_worth():
    logits = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    labels = torch.tensor([0] * 95 + [1] * 5)
    scores = score(logits, labels, ["common", "rare"], protocol="p")
    words = "accuracy 95.00% (95% interval 88.8 to 97.8%, n 100)"
    words += ", balanced accuracy 50.00%, macro F1 48.72%"
    assert scores.headline == words


@given(counts=st.lists(st.integers(0, 50), min_size=2, max_size=9).filter(any))
def test_balanced_weights_are_scikit_learns(counts):
    present = [place for place, n in enumerate(counts) if n]
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = np.zeros(len(counts))
    expected[present] = compute_class_weight("balanced", classes=np.array(present), y=labels)
    weights = class_weights("balanced", counts)
    assert weights is not None
    assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_given_weights_are_ratios():
    for said in ([1.0, 3.0], [10.0, 30.0]):
        weights = class_weights(said, [6, 2])
        assert weights is not None
        assert weights.tolist() == pytest.approx([8 / 12, 24 / 12])  # 6 and 2 of them: mean 1
    assert class_weights("none", [6, 2]) is None
    with pytest.raises(InputError, match=r"loss.class_weights: 3 for 2 classes"):
        class_weights([1.0, 2.0, 3.0], [6, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_torchs(smoothing):
    weights = torch.tensor([0.5, 2.0, 1.0])
    logits, labels = torch.randn(12, 3), torch.arange(12) % 3
    loss = Objective(CrossEntropy(label_smoothing=smoothing), weights)
    theirs = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    # torch divides by the sum of the labels' weights, here 14, and not by the 12 pictures.
    assert loss(logits, labels).item() == pytest.approx(theirs.item() * 14 / 12, rel=1e-6)
    shares = torch.rand(12, 3).softmax(1)
    mixed = F.cross_entropy(logits, shares, weights, label_smoothing=smoothing)
    assert loss(logits, shares).item() == pytest.approx(mixed.item(), rel=1e-6)


def test_binary_cross_entropy_is_weighted_by_the_pictures_class():
    weights = torch.tensor([0.5, 2.0, 1.0])
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 0])
    found = Objective(Bce(), weights)(logits, labels)
    p, y = 1 / (1 + np.exp(-logits.float().double().numpy())), np.eye(3)[labels]
    each = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1)
    assert found.item() == pytest.approx((each * weights[labels].numpy()).mean(), rel=1e-5)
    shares = torch.tensor([[0.25, 0.75, 0.0]])
    half = Objective(Bce(), weights)(logits[:1], shares)
    plain = F.binary_cross_entropy_with_logits(logits[:1].float(), shares)
    assert half.item() == pytest.approx(plain.item() * (0.25 * 0.5 + 0.75 * 2), rel=1e-6)


@pytest.mark.parametrize("spec", [CrossEntropy(), Bce()])
def test_parts_of_a_batch_add_up_to_the_whole(spec):
    """Which torch's own mean, over weights, does not do."""
    loss = Objective(spec, torch.tensor([0.2, 5.0]))
    logits, labels = torch.randn(7, 2), torch.tensor([0, 0, 0, 0, 1, 0, 1])
    parts = [loss(logits[p], labels[p]) * len(labels[p]) / 7 for p in (slice(3), slice(3, 7))]
    assert sum(parts).item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_an_epoch_of_balanced_samples(labels, seed, epoch):
    samples = balanced_order(labels, seed, epoch).tolist()
    count = len(labels)
    assert len({*samples}) == len(samples) == count
    shown = Counter(sample % count for sample in samples)
    for picture, times in shown.items():  # its first showing is number 0, and so on
        assert {picture + count * i for i in range(times)} <= {*samples}
    by_class = Counter(labels[[s % count for s in samples]].tolist())
    assert by_class.keys() == {*labels.tolist()}
    assert max(by_class.values()) - min(by_class.values()) <= 1
    for label in by_class:
        times = [shown[i] for i in np.flatnonzero(labels == label).tolist()]
        assert max(times) - min(times) <= 1
    assert balanced_order(labels, seed, epoch).tolist() == samples


def test_epochs_and_seeds_draw_other_samples_and_miss_no_common_picture_for_long():
    labels = np.array([0] * 90 + [1] * 10)
    orders = [balanced_order(labels, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(a, b) for a, b in ((orders[0], orders[1]), (orders[0], orders[2])))
    seen = {int(s) % 100 for epoch in range(12) for s in balanced_order(labels, 0, epoch)}
    assert len(seen) == 100
    # Where in the epoch rare pictures come is chance: on average in the middle, 49.5 +- 4.1.
    places = (labels[orders[0].numpy() % 100] == 1).nonzero()[0]
    assert abs(places.mean() - 49.5) < 15


def pictures(count: int = 24, px: int = 6, name: str = "train", shift: int = 0) -> Split:
    """One in six is of the class `rare`, which is bright to the right."""
    rng = np.random.default_rng(count)
    labels = (np.arange(count) % 6 == 0).astype(np.int64)
    images = rng.integers(0, 120, (count, px, px, 1), dtype=np.uint8)
    images[labels == 1, :, px // 2 + shift :] += 100
    return Split(name, labels, tuple(f"{name}/{i}.png" for i in range(count)), images=images)  # type: ignore[arg-type]


def test_loaders_show_the_same_samples_whoever_decodes(tmp_path):
    """In memory, as files, with workers, begun in the middle, shared by three, mixed."""
    split = pictures()
    assert split.images is not None
    files = tuple(tmp_path / f"{i}.png" for i in range(len(split)))
    for file, image in zip(files, split.images, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    on_disk = Split("train", split.labels, split.keys, files=files)
    words = {
        "batch_size": 5,
        "augmentation": Augmentation(crop="pad", pad_px=2, erase=0.5),
        "mixing": Mixing(mixup=0.4, cutmix=1.0),
        "num_classes": 2,
        "seed": 3,
        "shuffle": True,
        "sampling": "balanced",
    }
    whole = [*Batches(split, PLAIN, **words).epoch(1)]
    labels = torch.from_numpy(split.labels)[torch.cat([batch.indices for batch in whole])]
    assert labels.sum() == 12
    samples = balanced_order(split.labels, 3, 1) % len(split)
    assert torch.equal(torch.cat([batch.indices for batch in whole]), samples)
    others = [Batches(on_disk, PLAIN, workers=workers, **words).epoch(1) for workers in (0, 2)]
    begun = [*whole[:2], *Batches(on_disk, PLAIN, **words).epoch(1, start=2)]
    for other in (*others, begun):
        for ours, theirs in zip(other, whole, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.shares, theirs.shares)
            assert torch.equal(ours.indices, theirs.indices)
    shared = [Batches(split, PLAIN, rank=r, world_size=3, **words).epoch(1) for r in range(3)]
    for parts, theirs in zip(zip(*shared, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), theirs.images)


def test_a_picture_that_comes_again_is_augmented_anew():
    split = pictures()
    words = {"batch_size": 24, "shuffle": True, "sampling": "balanced"}
    augmentation = Augmentation(crop="pad", pad_px=2)
    [batch] = Batches(split, PLAIN, augmentation=augmentation, **words).epoch(0)
    rare = [batch.images[batch.indices == i] for i in np.flatnonzero(split.labels == 1)]
    assert [len(each) for each in rare] == [3] * 4
    assert any(not torch.equal(each[0], each[1]) for each in rare)
    [still] = Batches(split, PLAIN, **words).epoch(0)  # not augmented: the picture of its label
    [plain] = Batches(split, PLAIN, batch_size=24).epoch(0)
    assert torch.equal(still.images, plain.images[still.indices])
    assert torch.equal(still.labels, plain.labels[still.indices])


class Net(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(36 * in_channels, num_classes), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x.flatten(1)))


@pytest.fixture(autouse=True)
def _network(monkeypatch):
    module = types.ModuleType("uneven")
    module.Net = Net  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uneven", module)


def two_classes() -> PictureSet:
    splits = {"train": pictures(60), "val": pictures(36, name="val", shift=1)}
    return PictureSet("lights", None, ("common", "rare"), 1, splits)


def train(output: Path | None, reporter=None, resume=None, **changes):
    fixed = {"length.epochs": 4, "batch_size": 16, "optimizer.lr": 0.02, "input.size_px": 6}
    words = {} if resume else {"model": "uneven:Net", "recipe": "quick"}
    return api.train(
        two_classes(),
        changes={} if resume else fixed | changes,
        output=output,
        reporter=reporter,
        resume=resume,
        device="cpu",
        **words,
    )


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        return [*csv.DictReader(file)]


class StopAt(Silent):
    def __init__(self, batches: int) -> None:
        self.left = batches

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


EVENED = {"sampling": "balanced", "loss.class_weights": "balanced", "augment.crop": "pad"}


def test_a_stop_changes_no_bit_of_a_run_with_weights_and_balanced_samples(tmp_path):
    whole = train(tmp_path / "whole", **EVENED).run
    with pytest.raises(Interrupted):
        train(tmp_path / "run", StopAt(6), **EVENED)
    resumed = train(None, resume=str(tmp_path / "run")).run
    ours, theirs = (load_checkpoint(run / "checkpoints") for run in (resumed, whole))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    for mine, its in zip(rows_of(resumed), rows_of(whole), strict=True):
        assert {**mine, "seconds": "", "images_per_s": ""} == {
            **its,
            "seconds": "",
            "images_per_s": "",
        }


def test_captured_steps_show_and_weigh_the_same(tmp_path):
    """On a CPU the step that a GPU would hold in a graph is run as it is."""
    runs = [train(tmp_path / f"{on}", cuda_graph=on, **EVENED).run for on in (False, True)]
    plain, captured = (load_checkpoint(run / "checkpoints") for run in runs)
    assert plain is not None
    assert captured is not None
    for key, value in plain.tensors.items():
        if key.startswith("model."):
            torch.testing.assert_close(captured.tensors[key], value, rtol=1e-4, atol=1e-6)
    for mine, its in zip(*map(rows_of, runs), strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(its["train_loss"]), rel=1e-5)


@pytest.mark.parametrize("by", ["top1", "loss", "balanced", "macro_f1"])
def test_the_epoch_is_chosen_by_what_the_recipe_says(tmp_path, by):
    trained = train(tmp_path / "run", choose_by=by, **{"length.epochs": 6, "optimizer.lr": 0.05})
    rows = rows_of(trained.run)
    assert len({row[f"eval_{by}"] for row in rows}) > 1  # there is something to choose
    values = [float(row[f"eval_{by}"]) * (-1 if by == "loss" else 1) for row in rows]
    losses = [float(row["eval_loss"]) for row in rows]
    best = max(range(6), key=lambda i: (values[i], -losses[i])) + 1
    document = json.loads((trained.run / "scores.json").read_text())
    words = f"epoch {best} was chosen on the validation pictures by {by}"
    assert document["choice"].startswith(words)
    scores = document["scores"]
    row = rows[best - 1]
    assert scores["balanced_accuracy"] == pytest.approx(float(row["eval_balanced"]))
    assert scores["macro_f1"] == pytest.approx(float(row["eval_macro_f1"]))
    page = (trained.run / "report.html").read_text("utf-8")
    for value in (scores["balanced_accuracy"], scores["macro_f1"]):
        assert f"{100 * value:.2f}%" in page
    assert "<h3>Balanced accuracy" in page


def test_each_figure_chooses_its_own_epoch():
    rows = [
        {"eval_top1": 0.9, "eval_loss": 0.5, "eval_balanced": 0.6, "eval_macro_f1": 0.6},
        {"eval_top1": 0.8, "eval_loss": 0.4, "eval_balanced": 0.6, "eval_macro_f1": 0.5},
        {"eval_top1": 0.7, "eval_loss": 0.7, "eval_balanced": 0.8, "eval_macro_f1": 0.6},
        {"eval_top1": 0.6, "eval_loss": 0.6, "eval_balanced": 0.7, "eval_macro_f1": 0.7},
        {"eval_top1": 0.9, "eval_loss": 0.45, "eval_balanced": 0.7, "eval_macro_f1": 0.7},
    ]
    chosen = {}
    for by in (None, "top1", "loss", "balanced", "macro_f1"):
        task, best = task_of(load_recipe("quick", {"choose_by": by}), "ab"), None
        for row in rows:
            best = row if task.better(row, best) else best
        assert best is not None
        chosen[by] = rows.index(best)
    assert chosen == {None: 4, "top1": 4, "loss": 1, "balanced": 2, "macro_f1": 4}


def test_even_classes_get_no_columns_that_they_did_not_have():
    task = Classification(load_recipe("quick"), ("a", "b"))
    task.see(Split("train", np.array([0, 1, 1]), ("x",) * 3, images=np.zeros((3, 2, 2, 1), "u1")))
    assert task.columns == ("loss", "top1", "top5")
    task.see(pictures())
    assert task.columns == ("loss", "top1", "top5", "balanced", "macro_f1")


def test_columns_that_later_epochs_added_come_last(tmp_path):
    """A run that an earlier version began."""
    run = Run(tmp_path)
    later = {"epoch": 2, "eval_balanced": 0.5, "seconds": 3.0}
    run.write_metrics([{"epoch": 1, "seconds": 2.0}, later])
    text = (tmp_path / "metrics.csv").read_text()
    assert text == "epoch,seconds,eval_balanced\n1,2.0,\n2,3.0,0.5\n"


def test_by_the_loss_a_rank_is_above_what_diverged_and_falls_with_it():
    task = task_of(load_recipe("quick", {"choose_by": "loss"}), "ab")
    ranks = [task.rank({"eval_loss": loss, "eval_top1": 0.5}) for loss in (0.1, 0.2, 30.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1][0] > 0.0
    names = {
        by: task_of(load_recipe("quick", {"choose_by": by}), "ab").figure for by in task.chosen_by
    }
    assert names == {
        "top1": "top-1",
        "loss": "mean likelihood",
        "balanced": "balanced",
        "macro_f1": "macro_f1",
    }


def test_uneven_classes_are_said_with_what_helps():
    source = two_classes()
    assert imbalance(source.splits["train"].labels) == 5
    said = choose(source, "uneven:Net", "quick", {}).words
    [line] = [each for each in said if each.startswith("classes: uneven")]
    assert line.startswith("classes: uneven, 5 to 1 (training pictures: common 50, rare 10)")
    for flag in ("--sampling balanced", "--class-weights balanced", "--choose-by balanced"):
        assert flag in line
    for change in ({"sampling": "balanced"}, {"loss.class_weights": [1, 2]}):
        said = choose(source, "uneven:Net", "quick", change).words
        assert not any(each.startswith("classes: uneven") for each in said)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"choose_by": "balance"}, r"unknown choose_by 'balance'; nearest: balanced"),
        ({"choose_by": "loss", "validation": 0}, "choose_by needs validation pictures"),
        ({"choose_by": "loss", "scored": "test"}, "choose_by needs validation pictures"),
        ({"loss.class_weights": [1.0, 2.0, 3.0]}, "loss.class_weights: 3 for 2 classes"),
        ({"loss.class_weights": "even"}, r"loss.class_weights: none, balanced, or a number above"),
        ({"loss.class_weights": [1, 0]}, r"loss.class_weights: none, balanced, or a number above"),
        (
            {"loss.name": "map", "loss.rubbish": 1.0, "loss.class_weights": "balanced"},
            "loss.class_weights goes with name: cross_entropy or bce, not map",
        ),
        ({"sampling": "even"}, "sampling: Input should be 'shuffled' or 'balanced'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as failure:
        train(tmp_path / "run", **changes)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "run").exists()
