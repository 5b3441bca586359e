"""Several classes a picture: figures, thresholds, losses, runs, against scikit-learn and torch."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight
from torchmetrics.functional.classification import multilabel_average_precision
from typer.testing import CliRunner

from deepen import api
from deepen.cli import app
from deepen.data.sampling import imbalance
from deepen.data.sources import PictureSet, open_source
from deepen.data.tags import tagged, tags_of
from deepen.errors import InputError, Interrupted, WorkError
from deepen.evaluation.tags import average_precision, best_threshold, score_tags
from deepen.training.blocks import Bce
from deepen.training.checkpoint import load_checkpoint
from deepen.training.choice import choose
from deepen.training.multilabel import Multilabel, TagLoss
from deepen.training.progress import Silent
from deepen.training.recipe import load_recipe
from deepen.training.task import task_of
from deepen.weights import load_weights

# Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

NETWORK = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 64, num_classes),
    )
"""


@pytest.fixture(scope="module", autouse=True)
def _network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    (folder / "tagnet.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("tagnet", None)


@given(n=st.integers(1, 30), k=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_figures_are_scikit_learns_and_torchmetrics(n, k, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, (n, k)) / 2  # with equal ones
    tags = rng.integers(0, 2, (n, k))
    thresholds = rng.integers(1, 10, k) / 10
    scores = score_tags(
        torch.from_numpy(logits),
        torch.from_numpy(tags),
        [f"c{i}" for i in range(k)],
        thresholds.tolist(),
        temperature=2.0,
        protocol="p",
    )
    shares = 1 / (1 + np.exp(-logits / 2))
    said = (shares >= thresholds).astype(int)
    per_class = [c.average_precision for c in scores.per_class]
    for c in range(k):
        if tags[:, c].any():
            assert per_class[c] == pytest.approx(
                sk.average_precision_score(tags[:, c], shares[:, c])
            )
        else:
            assert per_class[c] is None
    if k > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without a picture
            theirs = multilabel_average_precision(
                torch.from_numpy(shares), torch.from_numpy(tags), num_labels=k, average=None
            )
        for ours, other in zip(per_class, theirs.tolist(), strict=True):
            assert ours is None or ours == pytest.approx(other, abs=1e-5)
    figures = scores.figures
    known = [each for each in per_class if each is not None]
    assert figures["map"] == (pytest.approx(np.mean(known)) if known else None)
    undefined: dict = {"zero_division": np.nan}
    expected = sk.precision_recall_fscore_support(tags, said, **undefined)
    if k > 1:  # scikit-learn takes one column for one label of two
        for row, p, r, f, support in zip(scores.per_class, *expected, strict=True):
            assert row.support == support
            for ours, other in ((row.precision, p), (row.recall, r), (row.f1, f)):
                assert ours == (None if np.isnan(other) else pytest.approx(other))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing
            for average in ("micro", "macro"):
                theirs = sk.f1_score(tags, said, average=average, **undefined)
                ours = figures[f"{average}_f1"]
                assert ours == (None if np.isnan(theirs) else pytest.approx(theirs))
        assert figures["exact"] == pytest.approx(sk.accuracy_score(tags, said))
    each = -(tags * np.log(shares) + (1 - tags) * np.log(1 - shares))
    assert figures["loss"] == pytest.approx(each.mean())


@given(n=st.integers(1, 25), seed=st.integers(0, 10**6))
def test_a_threshold_is_where_f1_is_the_greatest(n, seed):
    rng = np.random.default_rng(seed)
    shares, tags = rng.integers(0, 8, n) / 8, rng.integers(0, 2, n)
    threshold = best_threshold(shares, tags)
    if not tags.any() or tags.all():
        assert threshold == 0.5
        return
    precision, recall, _ = sk.precision_recall_curve(tags, shares)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert sk.f1_score(tags, shares >= threshold) == pytest.approx(best)
    assert 0 <= threshold <= 1
    assert threshold not in shares or threshold == 0


def test_average_precision_by_hand():
    # Falling: right, wrong, right, so precision 1 and 2/3 where recall grows by a half each.
    found = average_precision(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
    assert found == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.9]), np.array([0])) is None


def test_broken_logits_are_refused():
    with pytest.raises(WorkError, match="NaN"):
        score_tags(torch.tensor([[float("nan")]]), torch.tensor([[1]]), ["a"], [0.5])
    with pytest.raises(InputError, match=r"must be \(N, 2\)"):
        score_tags(torch.zeros(3, 2), torch.zeros(3, 2), ["a", "b"], [0.5])
    with pytest.raises(InputError, match=r"must be \(N, 1\)"):
        score_tags(torch.zeros(0, 1), torch.zeros(0, 1), ["a"], [0.5])


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two digits side by side, uint8 (N, 8, 16), and which of 0 to 4 are among them."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    known = np.flatnonzero(digits.target < 5)
    chosen = rng.choice(known, (count, 2))
    images = np.concatenate([digits.images[chosen[:, 0]], digits.images[chosen[:, 1]]], 2)
    tags = np.zeros((count, 5), np.int64)
    for side in (0, 1):
        tags[np.arange(count), digits.target[chosen[:, side]]] = 1
    padded = np.zeros((count, 16, 16))
    padded[:, 4:12] = images * 15.9
    return padded.astype(np.uint8), tags


def two_digits() -> PictureSet:
    parts = {"train": (160, 0), "val": (60, 1), "test": (60, 2)}
    given = {}
    for name, (count, seed) in parts.items():
        images, tags = pictures(count, seed)
        given[name] = (images, *tagged(tags))
    return PictureSet.of("pairs", ("zero", "one", "two", "three", "four"), **given)


RECIPE = {
    "task": "multilabel",
    "length.epochs": 4,
    "batch_size": 32,
    "optimizer.lr": 0.05,
    "loss.label_smoothing": 0.0,
    "input.size_px": 16,
    "input.resize": "none",
}


def train(output: Path | None = None, source=None, **words):
    changes = {} if "resume" in words else RECIPE | words.pop("changes", {})
    fresh = {} if "resume" in words else {"model": "tagnet:net", "recipe": "quick"}
    return api.train(
        source or two_digits(), changes=changes, output=output, device="cpu", **fresh, **words
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("tags") / "run")


def test_balanced_weights_are_those_of_each_class_against_the_rest():
    source = two_digits()
    task = task_of(
        load_recipe("quick", RECIPE | {"loss.class_weights": "balanced"}), source.classes
    )
    assert isinstance(task, Multilabel)
    task.see(source.splits["train"])
    tags = tags_of(source.splits["train"])
    assert tags is not None
    assert task.objective.weights is not None
    for c, weight in enumerate(task.objective.weights.tolist()):
        without, having = compute_class_weight("balanced", classes=np.array([0, 1]), y=tags[:, c])
        assert weight == pytest.approx(having / without, rel=1e-5)


def test_first_classes_are_not_taken_for_uneven_ones():
    source = two_digits()
    assert imbalance(source.splits["train"].labels) > 3
    said = choose(source, "tagnet:net", "quick", {"task": "multilabel"}).words
    assert not any("uneven" in line for line in said)


def test_the_loss_is_torchs():
    logits, tags = torch.randn(6, 3), torch.randint(0, 2, (6, 3))
    weights = torch.tensor([3.0, 1.0, 0.5])
    theirs = F.binary_cross_entropy_with_logits(logits, tags.float(), pos_weight=weights)
    assert TagLoss(Bce(), weights)(logits, tags.float()).item() == pytest.approx(theirs.item())
    parts = [TagLoss(Bce(), weights)(logits[p], tags[p].float()) for p in (slice(2), slice(2, 6))]
    assert (parts[0] * 2 + parts[1] * 4).item() / 6 == pytest.approx(theirs.item(), rel=1e-6)


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        rows = [*csv.DictReader(file)]
    for row in rows:
        del row["seconds"], row["images_per_s"]
    return rows


def test_it_learns_and_what_it_says_of_itself_is_true(whole):
    document = json.loads((whole.run / "scores.json").read_text())
    rows = rows_of(whole.run)
    values = [float(row["eval_map"]) for row in rows]
    assert document["choice"].startswith(f"epoch {1 + values.index(max(values))} was chosen")
    scores, split = document["scores"], two_digits().splits["test"]
    assert whole.split == "test"
    saved = safetensors.torch.load_file(whole.run / "predictions.safetensors")
    truth = tags_of(split)
    assert np.array_equal(saved["labels"].numpy(), truth)
    shares = saved["logits"].double().sigmoid().numpy()
    expected = sk.average_precision_score(truth, shares, average="macro")
    assert scores["figures"]["map"] == pytest.approx(expected)
    assert expected > 0.8  # by chance it is the classes' share, about 0.36
    card = load_weights(whole.run / "best.safetensors", model="tagnet:net").card
    said = shares >= np.array(card.thresholds)
    assert scores["figures"]["micro_f1"] == pytest.approx(sk.f1_score(truth, said, average="micro"))
    assert card.score["map"] == pytest.approx(expected)
    page = (whole.run / "report.html").read_text("utf-8")
    for row in scores["per_class"]:
        assert row["name"] in page
        assert f"{100 * row['average_precision']:.2f}%" in page
    assert float(rows[-1]["train_exact"]) > float(rows[0]["train_exact"])


def test_thresholds_are_those_of_the_validation_pictures(whole):
    loaded = load_weights(whole.run / "best.safetensors", model="tagnet:net")
    val = two_digits().splits["val"]
    fit = loaded.card.preprocessing
    pixels = torch.from_numpy(val.images[..., 0]).float()[:, None] / 255
    with torch.no_grad():
        shares = loaded.model((pixels - fit.mean[0]) / fit.std[0]).double().sigmoid().numpy()
    tags = tags_of(val)
    for c, threshold in enumerate(loaded.card.thresholds):
        precision, recall, _ = sk.precision_recall_curve(tags[:, c], shares[:, c])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert sk.f1_score(tags[:, c], shares[:, c] >= threshold) == pytest.approx(best, abs=1e-6)
    assert loaded.card.thresholds != (0.5,) * 5


class StopAt(Silent):
    left = 8  # of five steps an epoch

    def batch(self, images, loss):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_stop_changes_no_bit(whole, tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "run", reporter=StopAt())
    resumed = train(resume=str(tmp_path / "run"))
    ours, theirs = (load_checkpoint(each.run / "checkpoints") for each in (resumed, whole))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    assert rows_of(resumed.run) == rows_of(whole.run)
    assert (resumed.run / "scores.json").read_bytes() == (whole.run / "scores.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss.name": "cross_entropy"}, "task multilabel: needs loss.name: bce"),
        ({"sampling": "balanced"}, "sampling: balanced goes with one class a picture"),
        ({"loss.class_weights": [1.0]}, "loss.class_weights: 1 for 5 classes"),
        ({"choose_by": "top1"}, r"unknown choose_by 'top1'"),
        ({"mix.mixup": 0.2}, "mixing: pictures with targets"),
        ({"task": "classification"}, "have several classes each: --task multilabel"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, told):
    with pytest.raises(InputError, match=told):
        train(tmp_path / "run", changes=changes)
    assert not (tmp_path / "run").exists()


def test_a_class_that_no_training_picture_has_is_named(tmp_path):
    """As may be where it was held out, or in pictures of one's own."""
    images, tags = pictures(60, 3)
    tags[:, 2] = 0
    source = PictureSet.of("pairs", ("zero", "one", "two", "x", "y"), train=(images, *tagged(tags)))
    with pytest.raises(InputError, match="no training picture has two"):
        train(tmp_path / "run", source=source)


def test_a_folder_of_classes_is_no_multilabel_data(tmp_path):
    with pytest.raises(InputError, match="needs pictures of several classes: --labels FILE"):
        train(tmp_path / "run", source="digits")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A folder of two-digit pictures and a table: PNG files, labels.csv."""
    root = tmp_path_factory.mktemp("scenes") / "scenes"
    root.mkdir()
    rows = ["image,split,digits"]
    names = np.array(["zero", "one", "two", "three", "four"])
    for name, count, seed in (("train", 120, 0), ("val", 40, 1), ("test", 40, 2)):
        for i, (image, tags) in enumerate(zip(*pictures(count, seed), strict=True)):
            Image.fromarray(image).save(root / f"{name}{i}.png")
            rows.append(f"{name}{i}.png,{name},{'|'.join(names[tags == 1])}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def deepen(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout


def test_from_a_folder_and_a_table_to_predictions_at_the_terminal(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["deepen"])
    options = " ".join(f"--set {key}={value}" for key, value in RECIPE.items() if key != "task")
    words = (
        f"--model tagnet:net --recipe quick --device cpu -j 0 {options} --class-weights balanced"
    )
    line = (
        f"train {scenes} --labels labels.csv --task multilabel {words} --output {tmp_path / 'run'}"
    )
    shown = deepen(line)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    assert f"test loss {scores['figures']['loss']:.4g}, map {scores['figures']['map']:.4g}" in shown
    assert scores["figures"]["map"] > 0.7
    weights = tmp_path / "run" / "best.safetensors"
    again = json.loads(deepen(f"evaluate {weights} --model tagnet:net --json -j 0"))
    data = f"{scenes} --labels {scenes / 'labels.csv'}"
    named = deepen(f"evaluate {weights} {data} --model tagnet:net --json -j 0")
    assert json.loads(named) == again
    assert again["per_class"] == scores["per_class"]
    assert again["figures"] == pytest.approx(scores["figures"])
    table = deepen(f"evaluate {weights} --model tagnet:net -j 0 --csv").splitlines()
    assert table[0] == "class,threshold,average_precision,precision,recall,f1,support"
    assert len(table) == 6
    assert "average precision" in deepen(f"evaluate {weights} --model tagnet:net -j 0")

    card = load_weights(weights, model="tagnet:net").card
    saved = safetensors.torch.load_file(tmp_path / "run" / "predictions.safetensors")
    test = open_source(card.data).splits["test"]
    files = " ".join(str(scenes / test.key(i)) for i in range(12))
    lines = deepen(f"predict {weights} {files} --model tagnet:net --json").splitlines()
    thresholds = torch.tensor(card.thresholds).double()
    for i, line in enumerate(lines):
        found = {each["class"]: each["probability"] for each in json.loads(line)["top"]}
        shares = saved["logits"][i].double().sigmoid()
        above = [card.classes[c] for c in (shares >= thresholds).nonzero().flatten().tolist()]
        assert set(found) == set(above)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for name, share in found.items():
            assert share == pytest.approx(shares[card.classes.index(name)].item(), rel=1e-4)
    assert sum(len(json.loads(line)["top"]) > 1 for line in lines) > 2


def test_a_picture_that_has_no_class_is_said_to_have_none(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["deepen"])
    loaded = load_weights(whole.run / "best.safetensors", model="tagnet:net")
    sure = loaded.card.model_copy(update={"thresholds": (1.0,) * 5})
    from deepen.weights import save_weights

    weights = tmp_path / "sure.safetensors"
    save_weights(weights, loaded.model, sure)
    Image.new("L", (16, 16)).save(tmp_path / "black.png")
    picture = tmp_path / "black.png"
    for form, expected in (
        ("", f"{picture}  no class is above its threshold\n"),
        ("--json", json.dumps({"path": str(picture), "top": []}) + "\n"),
        ("--csv", f"path,rank,class,probability\n{picture},0,,0.000000\n"),
    ):
        assert deepen(f"predict {weights} {picture} --model tagnet:net {form}") == expected


def test_a_probe_of_one_class_a_picture_is_refused(scenes, whole):
    with pytest.raises(InputError, match="has several classes a picture; a probe needs one"):
        api.probe(
            whole.run / "best.safetensors",
            f"{scenes}?tags=labels.csv",
            layer="0",
            model="tagnet:net",
        )


@pytest.mark.slow  # two commands
@pytest.mark.skipif(os.name != "posix", reason="torchrun's gloo of POSIX")
def test_two_processes_agree_with_one(scenes, tmp_path):
    """53 to a batch: odd shares, and one of them empty in the last batches of validation."""
    (tmp_path / "tagnet.py").write_text(NETWORK.replace("nn.BatchNorm2d(16), ", ""))
    options = [f"--set={key}={value}" for key, value in (RECIPE | {"batch_size": 39}).items()]
    for name, start in (
        ("one", ["-m"]),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]),
    ):
        words = ["deepen", "train", str(scenes), "--labels", "labels.csv", "--output", name]
        words += ["--model", "tagnet:net", "--recipe", "quick", "--device", "cpu", *options]
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, *start, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    ours, theirs = (rows_of(tmp_path / name) for name in ("two", "one"))
    for mine, its in zip(ours, theirs, strict=True):
        for key, value in its.items():
            assert float(mine[key]) == pytest.approx(float(value), rel=2e-3, abs=2e-3), key
    scores = [json.loads((tmp_path / n / "scores.json").read_text()) for n in ("two", "one")]
    assert scores[0]["scores"]["num_samples"] == scores[1]["scores"]["num_samples"] == 40
    assert scores[0]["scores"]["figures"] == pytest.approx(scores[1]["scores"]["figures"], rel=2e-2)
