"""Which epoch is chosen, when a run ends early, and every number of a report, from made histories.

A network that plays a script decides what each epoch scores on the validation pictures; scores and
a run folder are written by hand, and what is to stand on the page is worked out by hand beside.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import sys
import types
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deepen
from deepen.data.preprocess import Preprocessing
from deepen.evaluation.metrics import score
from deepen.report.page import write_report
from deepen.weights import Card, load_weights, save_weights

# A run whose history is written beforehand

MODULE = "pins_scripted"
CLASSES, HELD_OUT = 6, 10
Script = list[tuple[int, float]]  # of each epoch the pictures that are right, and how sure it is

SCRIPT: Script = [
    (6, 1.0),
    (8, 1.0),
    (8, 1.0),  # as good as the second in both: no better
    (8, 2.0),  # the same top-1 with a smaller loss
    (8, 2.0),
    (7, 2.0),
    (8, 0.5),  # the same top-1 with a greater loss
    (9, 0.1),  # a better top-1 with a greater loss
    *[(5, 1.0)] * 6,
]


class Scripted(nn.Module):
    """Counts its training steps; at evaluation it is right where the script says so.

    A picture's value is 20 times its class and its number among those held out.
    """

    script: Script = SCRIPT

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if torch.is_grad_enabled():
                self.steps += 1
            return self.bias.expand(len(x), -1)
        value = (255 * x[:, 0, 0, 0]).round().long()
        label, number = value // 20, value % 20
        hits, sure = self.script[int(self.steps) - 1]
        right = number < hits
        said = torch.where(right, label, (label + 1) % CLASSES)
        logits = sure * nn.functional.one_hot(said, CLASSES).float()
        return logits - (~right)[:, None] * nn.functional.one_hot(label, CLASSES)


def loss_of(hits: int, sure: float, temperature: float = 1.0) -> float:
    """What ten such pictures cost: the wrong class has `sure`, the right one then -1, others 0."""
    s, low = sure / temperature, -1 / temperature
    right = math.log(math.exp(s) + 5) - s
    wrong = math.log(math.exp(s) + 4 + math.exp(low)) - low
    return (hits * right + (HELD_OUT - hits) * wrong) / HELD_OUT


@pytest.fixture(scope="module", autouse=True)
def _scripted() -> Iterator[None]:
    """The network can be named, and small work is not spread over threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.modules[MODULE] = types.ModuleType(MODULE)
    sys.modules[MODULE].Scripted = Scripted  # type: ignore[attr-defined]
    yield
    del sys.modules[MODULE]
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    """A training picture of each class, and ten to validate on; no test split."""
    folder = tmp_path_factory.mktemp("painted")
    for split, count in (("train", CLASSES), ("val", HELD_OUT)):
        for number in range(count):
            label = number % CLASSES
            path = folder / split / f"c{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (20 * label + number,) * 3).save(path)
    return folder


class Told:
    """A reporter that keeps what it is told in words, and nothing else."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told: None


def play(painted: Path, run: Path, reporter: Told | None = None, **changes: object) -> Any:
    """Train, an epoch being one step."""
    recipe = run.parent / "bare.yaml"
    recipe.write_text("length: {epochs: 1}\n", "utf-8")
    plain = {
        "batch_size": CLASSES,
        "input.size_px": 4,
        "input.resize": "none",
        "input.normalize": "range",
        "input.range": [0, 1],
    }
    return deepen.train(
        str(painted),
        model=f"{MODULE}:Scripted",
        recipe=str(recipe),
        changes={**plain, **{key.replace("__", "."): value for key, value in changes.items()}},
        output=run,
        workers=0,
        device="cpu",
        reporter=reporter,
    )


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def epoch_of(weights: Path) -> int:
    """By the steps that the network itself counted, and by its card."""
    network, card, _ = load_weights(weights, model=f"{MODULE}:Scripted")
    assert int(network.state_dict()["steps"]) == card.epoch
    return card.epoch


@pytest.mark.parametrize(
    ("epochs", "best"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 4), (8, 8), (10, 8)]
)
def test_the_best_epoch(epochs, best, painted, tmp_path):
    """Strictly better in top-1, or as good with a strictly smaller loss: else the earlier stays."""
    trained = play(painted, tmp_path / "run", length__epochs=epochs, loss__temperature=2.0)
    run = trained.run
    assert epoch_of(run / "best.safetensors") == best
    assert epoch_of(run / "last.safetensors") == epochs
    rows = table(run)
    assert len(rows) == epochs
    for number, (row, (hits, sure)) in enumerate(zip(rows, SCRIPT, strict=False), 1):
        assert (row["epoch"], row["step"]) == (str(number), str(number))
        assert float(row["train_loss"]) == pytest.approx(math.log(CLASSES), rel=1e-6)
        assert float(row["train_top1"]) == pytest.approx(1 / CLASSES)
        assert float(row["eval_top1"]) == pytest.approx(hits / HELD_OUT)
        assert float(row["eval_top5"]) == pytest.approx(hits / HELD_OUT)
        assert float(row["eval_loss"]) == pytest.approx(loss_of(hits, sure, 2.0), rel=1e-5)
        assert float(row["images_per_s"]) * float(row["seconds"]) == pytest.approx(CLASSES)
    hits, sure = SCRIPT[best - 1]
    assert trained.split == "val"
    assert trained.scores.top1 == pytest.approx(hits / HELD_OUT)
    assert trained.scores.loss == pytest.approx(loss_of(hits, sure, 2.0), rel=1e-5)
    choice = json.loads((run / "scores.json").read_text("utf-8"))["choice"]
    assert choice.startswith(f"epoch {best} was chosen on the validation pictures")
    card = load_weights(run / "last.safetensors", model=f"{MODULE}:Scripted").card
    hits, sure = SCRIPT[epochs - 1]
    assert card.score["top1"] == pytest.approx(hits / HELD_OUT)
    assert card.score["loss"] == pytest.approx(loss_of(hits, sure, 2.0), rel=1e-5)


def test_the_speed_that_is_said_is_the_median_epochs(painted, tmp_path):
    told = Told()
    run = play(painted, tmp_path / "run", told, length__epochs=4).run
    _, low, high, _ = sorted(float(row["images_per_s"]) for row in table(run))
    (line,) = (line for line in told.lines if line.startswith("measured"))
    assert line == f"measured {(low + high) / 2:,.0f} images/s in training"


@pytest.mark.parametrize(
    ("patience", "epochs", "best"), [(1, 3, 2), (2, 6, 4), (3, 7, 4), (4, 12, 8), (7, 14, 8)]
)
def test_early_stopping(patience, epochs, best, painted, tmp_path):
    """After so many epochs in a row that were not chosen; the last patience outlasts the script."""
    run = play(painted, tmp_path / "run", length__epochs=len(SCRIPT), early_stopping=patience).run
    assert len(table(run)) == epochs
    assert epoch_of(run / "best.safetensors") == best
    assert epoch_of(run / "last.safetensors") == epochs


@pytest.mark.parametrize(
    ("patience", "powers"),
    [  # how often each epoch's rate has been cut; errors of ten: 4 2 2 2 2 3 2 1 5 5 5 5 5 5
        (1, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4]),
        (2, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]),
        (5, [0] * 14),
    ],
)
def test_plateau(patience, powers, painted, tmp_path):
    """The rate falls once more than `patience` epochs in a row had no smaller error."""
    run = play(
        painted,
        tmp_path / "run",
        length__epochs=len(SCRIPT),
        schedule__name="plateau",
        schedule__patience=patience,
        schedule__gamma=0.25,
        optimizer__lr=0.8,
    ).run
    rates = [float(row["lr"]) for row in table(run)]
    assert rates == pytest.approx([0.8 * 0.25**power for power in powers], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "factors"),
    [  # of the rate after each of 14 steps
        (
            {"warmup_steps": 50, "warmup_factor": 0.1},  # 50 are cut to a fifth: to two
            [0.55, *[1.0] * 13],
        ),
        (
            {"warmup_steps": 50, "warmup_factor": 0.1, "warmup": "constant"},
            [0.1, *[1.0] * 13],
        ),
        (
            {"name": "steps", "milestones": [0.5, 0.75], "gamma": 0.2},  # 7, and 10.5 to even
            [*[1.0] * 6, *[0.2] * 3, *[0.04] * 5],
        ),
        (
            {"name": "cosine", "warmup_steps": 2, "warmup_factor": 0.5},
            [0.75, 1.0, *[(1 + math.cos(math.pi * k / 12)) / 2 for k in range(1, 13)]],
        ),
    ],
    ids=["linear warm-up", "constant warm-up", "milestones", "cosine"],
)
def test_schedules(changes, factors, painted, tmp_path):
    words = {f"schedule__{key}": value for key, value in changes.items()}
    run = play(
        painted, tmp_path / "run", length__epochs=len(SCRIPT), optimizer__lr=0.3, **words
    ).run
    rates = [float(row["lr"]) for row in table(run)]
    assert rates == pytest.approx([0.3 * factor for factor in factors], rel=1e-9, abs=1e-12)


def test_epochs_without_validation_pictures(painted, tmp_path):
    """Every epoch's weights are the best then, and nothing stops the run."""
    run = play(painted, tmp_path / "run", length__epochs=3, validation=0, batch_size=16).run
    assert epoch_of(run / "best.safetensors") == epoch_of(run / "last.safetensors") == 3
    assert [row["eval_top1"] + row["eval_loss"] + row["eval_top5"] for row in table(run)] == [
        ""
    ] * 3


# Scores of ten pictures, by hand

PREDICTED = [  # the true class, and the probabilities of a to f
    (0, [0.9, 0.02, 0.02, 0.02, 0.02, 0.02]),
    (0, [0.9, 0.02, 0.02, 0.02, 0.02, 0.02]),
    (0, [0.2, 0.72, 0.02, 0.02, 0.02, 0.02]),
    (1, [0.064, 0.68, 0.064, 0.064, 0.064, 0.064]),
    (1, [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]),
    (1, [0.035, 0.01, 0.85, 0.035, 0.035, 0.035]),  # the right one comes last
    (2, [0.1, 0.1, 0.5, 0.1, 0.1, 0.1]),
    (2, [0.14, 0.14, 0.3, 0.14, 0.14, 0.14]),
    (3, [0.1125, 0.1125, 0.1125, 0.25, 0.1125, 0.3]),
    (3, [0.06, 0.06, 0.06, 0.7, 0.06, 0.06]),
]


def test_scores_by_hand():
    """Logits are 2 ln p, and the temperature is 2."""
    logits = 2 * torch.tensor([row for _, row in PREDICTED], dtype=torch.float64).log()
    labels = torch.tensor([label for label, _ in PREDICTED])
    found = score(logits, labels, "abcdef", temperature=2.0, protocol="p", num_skipped=4)
    assert (found.num_samples, found.num_skipped, found.protocol) == (10, 4, "p")
    assert found.top1 == pytest.approx(0.7)
    assert found.top5 == pytest.approx(0.9)
    # ln(1/p) of 0.9 twice, 0.2, 0.68, 0.5, 0.01, 0.5, 0.3, 0.25, 0.7: 11.144227 in all
    assert found.loss == pytest.approx(1.1144227, abs=1e-6)
    assert found.confusion == [
        [2, 1, 0, 0, 0, 0],
        [0, 2, 1, 0, 0, 0],
        [0, 0, 2, 0, 0, 0],
        [0, 0, 0, 1, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    rows = [(row.name, row.support, row.precision, row.recall, row.f1) for row in found.per_class]
    assert rows == [
        ("a", 3, 1.0, pytest.approx(2 / 3), pytest.approx(4 / 5)),
        ("b", 3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3)),
        ("c", 2, pytest.approx(2 / 3), 1.0, pytest.approx(4 / 5)),
        ("d", 2, 1.0, 0.5, pytest.approx(2 / 3)),
        ("e", 0, None, None, None),
        ("f", 0, 0.0, None, 0.0),
    ]
    # 15 bins. Confidence 0.9: both right; 0.85: wrong; 0.68 to 0.72: two of three right, one bin;
    # 0.5: both right; 0.3: one of two.
    parts = [2 * 0.1, 0.85, 3 * (0.7 - 2 / 3), 2 * 0.5, 2 * 0.2]
    assert found.calibration_error == pytest.approx(sum(parts) / 10, abs=1e-5)


# A report of a run folder that was written by hand

METRICS = """\
epoch,step,lr,train_loss,train_top1,eval_loss,eval_top1,eval_top5,images_per_s,seconds
1,10,0.05,2.3456,0.12345,1.75,0.5,0.9,100.0,12.0
2,20,0.05,1.5,0.5,1.25,0.75,0.95,400.0,2.0
3,30,0.025,0.98765,0.625,0.04125,0.8125,0.99,200.0,75.0
4,40,0.0003,0.5,0.75,125.0,0.80004,0.98,12345.0,4.0
"""
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]
CONFUSION = [
    [64, 16, 0, 0, 0, 0],
    [4, 91, 0, 5, 0, 0],
    [0, 1, 99, 0, 0, 0],
    [0, 0, 20, 58, 2, 0],
    [0, 0, 0, 2, 38, 0],
    [0, 0, 0, 0, 0, 0],
]
PER_CLASS = [  # name, precision, recall, F1, pictures
    ("ant", 64 / 68, 64 / 80, 128 / 148, 80),
    ("bee", 91 / 108, 91 / 100, 182 / 208, 100),
    ("cat", 99 / 119, 99 / 100, 198 / 219, 100),
    ("dog", 58 / 65, 58 / 80, 116 / 145, 80),
    ("elk", 38 / 40, 38 / 40, 76 / 80, 40),
    ("fox", None, None, None, 0),
]
SCORES = {
    "num_samples": 400,
    "num_skipped": 3,
    "top1": 0.875,
    "top5": 0.9925,
    "loss": 0.43216,
    "per_class": [
        dict(zip(("name", "precision", "recall", "f1", "support"), row, strict=True))
        for row in PER_CLASS
    ],
    "confusion": CONFUSION,
    "calibration_error": 0.04567,
    "protocol": "zoo, test split, 400 pictures, one crop",
}
DATA = {
    "name": "zoo",
    "model": "perceptron",
    "data_dir": None,
    "excluded": [],
    "root": "/somewhere/zoo",
    "classes": NAMES,
    "channels": 1,
    "counts": {"train": 1234, "val": 200, "test": 400},
    "notes": ["validation: 200 of 1,434 pictures"],
    "fingerprint": "0123456789abcdef" * 4,
    "start": None,
}
ENVIRONMENT = {
    "command": "deepen train zoo --model perceptron",
    "deepen": "0.1.0",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "python": "3.11.7",
    "platform": "Linux",
    "cpu": "Some CPU, 2 cores",
    "threads": 2,
    "device": "cpu",
    "commit": "90cf095",
    "processes": 1,
    "started": "2026-03-02T09:14:55+02:00",
    "seconds": 3725.4,
}
RECIPE = """\
length:
  epochs: 4
batch_size: 32
optimizer:
  lr: 0.05
  nesterov: true
schedule:
  milestones: [0.5, 0.75]
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return Page(write_report(by_hand(tmp_path_factory.mktemp("history") / "zoo-7")))


def by_hand(run: Path, **changes: object) -> Path:
    """A run folder; the changes are of its scores."""
    run.mkdir()
    scores = {"split": "test", "choice": "epoch 3 was chosen", "scores": {**SCORES, **changes}}
    for name, document in (
        ("data.json", DATA),
        ("environment.json", ENVIRONMENT),
        ("scores.json", scores),
        ("mistakes.json", [mistake("ant", "bee", 0.98765), mistake("dog", "cat", 0.9)]),
    ):
        (run / name).write_text(json.dumps(document), "utf-8")
    (run / "metrics.csv").write_text(METRICS, "utf-8")
    (run / "recipe.yaml").write_text(RECIPE, "utf-8")
    (run / "quarantine.txt").write_text("a/1.jpg\tis empty\nb/2.jpg\tdamaged\n", "utf-8")
    card = Card(
        architecture="perceptron",
        num_classes=6,
        in_channels=1,
        input_size=(8, 8),
        classes=tuple(NAMES),
        preprocessing=Preprocessing(
            channels=1, size_px=(8, 8), resize="none", mean=(0.5,), std=(0.25,)
        ),
        epoch=3,
    )
    save_weights(run / "best.safetensors", deepen.create_model("perceptron", 6, 1, 8), card)
    return run


def mistake(true: str, predicted: str, confidence: float) -> dict[str, object]:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return {
        "index": 0,
        "key": f"test/{true}.png",
        "true": true,
        "predicted": predicted,
        "confidence": confidence,
        "png": base64.b64encode(file.getvalue()).decode(),
    }


class Page(HTMLParser):
    """Tables by their id (those of names and values together under ""), lists, and all texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.facts: list[str] = []
        self.shades: list[str] = []
        self.lines: dict[str, list[list[float]]] = {}  # of each series: x, y, x, y ...
        self.chunks: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        if tag not in ("meta", "link", "br", "img"):
            self.path.append(f"{tag}#{about.get('id', '')}.{about.get('class', '')}")
        if tag == "table":
            self.table = self.tables.setdefault(about.get("id") or "", [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")
        elif tag in ("dt", "dd"):
            self.facts.append("")
        if tag == "path" and (found := re.search("var.--(train|eval)", about.get("style") or "")):
            numbers = re.findall(r"-?[0-9.]+", about["d"])
            self.lines.setdefault(found[1], []).append([float(number) for number in numbers])
        if (about.get("style") or "").startswith("--shade"):
            self.shades.append(about["style"].removeprefix("--shade: "))

    def handle_endtag(self, tag):
        self.path.pop()

    def handle_data(self, data):
        where = " ".join(self.path)
        self.chunks.append((where, data))
        if " td#" in where or " th#" in where:
            self.table[-1][-1] += f" ({data})" if " small#" in where else data
        elif " dt#" in where or " dd#" in where:
            self.facts[-1] += data

    def text(self, part: str) -> str:
        return " ".join("".join(text for where, text in self.chunks if part in where).split())


def test_headline_and_results(page):
    assert page.text("#headline") == "87.50%"
    assert page.text("title#") == "perceptron on zoo: 87.50% · deepen"
    assert page.text("#protocol") == "zoo, test split, 400 pictures, one crop"
    # Wilson 1927: (0.875 + 0.004802) / 1.009604 = 0.871433, and 0.032453 to both sides
    assert page.tables["results"] == [
        ["Top-1 accuracy (right at the first guess; error 12.50%)", "87.50%"],
        ["95% interval (what chance alone allows with this many pictures)", "83.9% – 90.4%"],
        ["Top-5 accuracy (right within five guesses; error 0.75%)", "99.25%"],
        ["Loss (cross-entropy, in nats)", "0.4322"],
        ["Calibration error (mean gap between confidence and accuracy)", "4.57%"],
        ["Pictures (3 more could not be decoded)", "400"],
    ]


@pytest.mark.parametrize(
    ("top1", "count", "interval"),
    [  # Wilson 1927 by hand; with z = 1.96 and few pictures every term is seen
        (0.7, 10, "39.7% – 89.2%"),  # 0.644492 and 0.247719 to both sides
        (1.0, 4, "51.0% – 100.0%"),  # 4 / (4 + 3.8416)
        (0.0, 4, "0.0% – 49.0%"),
    ],
)
def test_the_interval_of_few_pictures(top1, count, interval, tmp_path):
    page = Page(write_report(by_hand(tmp_path / "run", top1=top1, num_samples=count)))
    assert page.tables["results"][1][1] == interval


def test_facts_beside_the_headline(page):
    """The speed is the median of 100, 200, 400 and 12,345; time in all is 62 min 5 s."""
    assert page.facts == [
        *("Training pictures", "1,234"),
        *("Classes", "6"),
        *("Epochs", "4 (no. 3 kept)"),
        *("Time in all", "1 h 02 min"),
        *("Speed", "300 images/s"),
        *("Device", "cpu"),
    ]


def test_every_epoch(page):
    assert page.tables["epochs"][1:] == [
        ["1", "0.05", "2.35", "12.35%", "1.75", "50.00%", "100", "12 s"],
        ["2", "0.05", "1.5", "50.00%", "1.25", "75.00%", "400", "2.0 s"],
        ["3", "0.025", "0.988", "62.50%", "0.0413", "81.25%", "200", "1 min 15 s"],
        ["4", "0.0003", "0.5", "75.00%", "125", "80.00%", "12,345", "4.0 s"],
    ]
    assert page.text(".legend").count("epoch 3, kept") == 2
    assert "(log scale)" in page.text("figcaption")  # from 0.041 to 125


def test_classes_and_confusions(page):
    assert page.tables["per-class"][1:] == [
        ["ant", "80", "94.12%", "80.00%", "86.49%"],
        ["bee", "100", "84.26%", "91.00%", "87.50%"],
        ["cat", "100", "83.19%", "99.00%", "90.41%"],
        ["dog", "80", "89.23%", "72.50%", "80.00%"],
        ["elk", "40", "95.00%", "95.00%", "95.00%"],
        ["fox", "0", "–", "–", "–"],
    ]
    head, *rows = page.tables["confusion"]
    assert head[1:] == NAMES
    assert rows == [[name, *map(str, row)] for name, row in zip(NAMES, CONFUSION, strict=True)]
    assert page.shades[:6] == ["0.800", "0.447", "0.000", "0.000", "0.000", "0.000"]
    assert page.shades[6:12] == ["0.200", "0.910", "0.000", "0.224", "0.000", "0.000"]
    assert page.shades[30:] == ["0.000"] * 6
    assert page.text("#confusions") == (
        "dog → cat 20, or 25.0% of the class ant → bee 16, or 20.0% of the class "
        "bee → dog 5, or 5.0% of the class bee → ant 4, or 4.0% of the class "
        "dog → elk 2, or 2.5% of the class elk → dog 2, or 5.0% of the class "
        "cat → bee 1, or 1.0% of the class"
    )
    assert page.text("div#.gallery").split() == [
        *("ant98.8%→", "beetest/ant.png"),
        *("dog90.0%→", "cattest/dog.png"),
    ]


def test_how_it_ran(page):
    assert page.text("#command") == "deepen train zoo --model perceptron"
    pairs = {row[0]: row[1] for row in page.tables[""] if len(row) == 2}
    assert pairs == {
        "length.epochs": "4",
        "batch_size": "32",
        "optimizer.lr": "0.05",
        "optimizer.nesterov": "true",
        "schedule.milestones": "[0.5, 0.75]",
        "name": "zoo",
        "folder": "/somewhere/zoo",
        "training": "1,234",
        "validation": "200",
        "test": "400",
        "seen as": "8x8, not resized, greyscale",
        "fingerprint": "0123456789abcdef",
        "speed": "300 images/s",
        "an epoch": "8.0 s",  # the median of 2, 4, 12 and 75
        "epochs": "4",
        "in all": "1 h 02 min",
        "started": "2 March 2026, 07:14 UTC",
        **{key: str(ENVIRONMENT[key]) for key in ("device", "cpu", "threads", "platform")},
        **{key: str(ENVIRONMENT[key]) for key in ("python", "torch", "torchvision")},
        **{key: str(ENVIRONMENT[key]) for key in ("deepen", "commit")},
        "Picture": "Reason",
        "a/1.jpg": "is empty",
        "b/2.jpg": "damaged",
    }
    assert page.text("section#quarantine").startswith("Pictures left out 2 could not be decoded.")


@pytest.mark.parametrize(
    ("line", "values", "scale"),
    [
        (("train", 0), [2.3456, 1.5, 0.98765, 0.5], math.log),
        (("eval", 0), [1.75, 1.25, 0.04125, 125.0], math.log),
        (("train", 1), [0.12345, 0.5, 0.625, 0.75], float),
        (("eval", 1), [0.5, 0.75, 0.8125, 0.80004], float),
    ],
    ids=["training loss", "validation loss", "training top-1", "validation top-1"],
)
def test_curves_go_through_the_points(line, values, scale, page):
    """In the drawing's units: evenly across, and upwards by the values on the axis's scale."""
    name, chart = line
    numbers = page.lines[name][chart]
    across, down = numbers[::2], numbers[1::2]
    assert across == pytest.approx([across[0] + k * (across[1] - across[0]) for k in range(4)])
    assert across[1] > across[0]
    y = [scale(value) for value in values]
    slope = (down[1] - down[0]) / (y[1] - y[0])
    assert slope < 0
    assert down == pytest.approx([down[0] + slope * (v - y[0]) for v in y], abs=1e-3)
