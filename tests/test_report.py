"""The report of made-up run folders: its numbers, its safety, and how it stands in a browser."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import deepen
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.errors import InputError
from deepen.evaluation import ensembles
from deepen.evaluation.calibration import reliability
from deepen.evaluation.comparison import Comparison, disagreements
from deepen.evaluation.features import nearest
from deepen.evaluation.metrics import Scores, score
from deepen.evaluation.paired import compare
from deepen.models import create_model
from deepen.report.comparison import short_names, write_comparison
from deepen.report.page import write_report
from deepen.report.search import search_charts
from deepen.training import task
from deepen.weights import Card, load_weights, save_weights

COPIES = 5  # of training pictures among those that are scored
VOID = {"meta", "link", "br", "img"}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NASTY = ["<script>alert(1)</script>", 'a"b&c', "čeština", "العربية", "犬", "x" * 90]


def make_scores(classes: list[str], num: int, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(classes), (num,), generator=generator)
    logits = torch.randn(num, len(classes), generator=generator)
    logits[torch.arange(num), labels] += 4.0
    logits[torch.arange(num), (labels + 2) % len(classes)] += 1.5
    logits *= 2 if len(classes) < 50 else 3
    return score(
        logits, labels, classes, protocol=f"cifar10, test split, {num:,} pictures, one crop"
    )


def make_metrics(epochs: int, *, validation: bool = True) -> str:
    lines = [
        "epoch,step,lr,train_loss,train_top1,eval_loss,eval_top1,eval_top5,images_per_s,seconds"
    ]
    for epoch in range(1, epochs + 1):
        t = 1 - math.exp(-6 * epoch / (epochs + 1))
        wiggle = 0.02 * math.sin(3 * epoch)
        held_out = f"{2.3 - 1.9 * t + wiggle},{0.1 + 0.8 * t - wiggle},0.99" if validation else ",,"
        lines.append(
            f"{epoch},{epoch * 351},{0.1 if t < 0.9 else 0.01},{2.3 - 2.1 * t},{0.1 + 0.86 * t},"
            f"{held_out},{2210 + 40 * math.sin(epoch)},20.3"
        )
    return "\n".join(lines) + "\n"


def make_mistakes(classes: list[str], num: int, side_px: int = 32) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    mistakes = []
    for i in range(num):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side_px, side_px)).save(file, "PNG")
        mistakes.append(
            {
                "index": i,
                "key": f"test/{classes[i % len(classes)]}/IMG_{i:04d}.jpg",
                "true": classes[i % len(classes)],
                "predicted": classes[(i + 1) % len(classes)],
                "confidence": 0.999 - 0.004 * i,
                "png": base64.b64encode(file.getvalue()).decode(),
            }
        )
    return mistakes


def make_run(
    run: Path,
    classes: list[str] | None = None,
    *,
    model: str = "resnet20",
    epochs: int = 24,
    num: int = 2000,
    split: str | None = "test",
    validation: bool = True,
) -> Path:
    """A run folder as training and evaluation leave it; without scores where `split` is None."""
    classes = classes or CIFAR10
    run.mkdir(parents=True)
    recipe = {
        "length": {"steps": 64000},
        "batch_size": 128,
        "seed": 0,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0001},
        "schedule": {"name": "steps", "milestones": [0.5, 0.75], "gamma": 0.1},
        "augment": {"crop": "pad", "pad_px": 4, "flip": True},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    environment = {
        "command": "deepen train cifar10 --model resnet20 --recipe resnet-cifar",
        "deepen": "0.1.0",
        "torch": "2.15.0",
        "torchvision": "0.29.2",
        "python": "3.11.2",
        "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
        "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "threads": 2,
        "device": "cpu",
        "commit": "3f9c2d17",
        "started": "2026-03-02T09:14:55+00:00",
        "seconds": 731.4,
    }
    data = {
        "name": "cifar10",
        "root": "/data/cifar10",
        "classes": classes,
        "channels": 3,
        "counts": {"train": 45000, "val": 5000, "test": 10000},
        "notes": ["5,000 training pictures are held out for validation by a stable hash"],
        "fingerprint": "9b1f" * 16,
    }
    (run / "environment.json").write_text(json.dumps(environment), "utf-8")
    (run / "data.json").write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    (run / "metrics.csv").write_text(make_metrics(epochs, validation=validation), "utf-8")
    scores = make_scores(classes, num)
    if split:
        choice = "The weights of the best epoch on 5,000 validation pictures"
        found = {"split": split, "choice": choice, "scores": scores.model_dump()}
        (run / "scores.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")
        mistakes = json.dumps(make_mistakes(classes, 12), ensure_ascii=False)
        (run / "mistakes.json").write_text(mistakes, "utf-8")
    torch.manual_seed(0)
    network = create_model(model, num_classes=len(classes) if model == "resnet20" else None)
    channels = int(network.in_channels)  # type: ignore[arg-type]
    card = Card(
        architecture=model,
        num_classes=len(classes),
        in_channels=channels,
        input_size=(32, 32),
        classes=tuple(classes),
        preprocessing=Preprocessing(
            channels=3 if channels == 3 else 1,
            size_px=(32, 32),
            resize="none",
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        ),
        epoch=max(1, epochs - 3),
    )
    save_weights(run / "best.safetensors", network, card)
    return run


class Page(HTMLParser):
    """A parsed page; reading it asserts that every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.texts: list[tuple[list[str], str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(path.read_text("utf-8"))
        self.close()
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"] or "")
        if tag not in VOID:
            self.open.append((tag, attributes))
        if tag == "table":
            self.table = self.tables.setdefault(attributes.get("id") or "", [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        path = [tag for tag, _ in self.open]
        self.texts.append(([*path, *(a.get("id") or "" for _, a in self.open)], data))
        if ("td" in path or "th" in path) and "small" not in path:
            self.table[-1][-1] += data.strip()

    def text(self, where: str) -> str:
        return "".join(text for path, text in self.texts if where in path)


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def check_numbers(page: Page, scores: Scores) -> None:
    """Every number of scores.json is on the page as it is in the file."""
    assert page.text("headline") == percent(scores.top1)
    results = {row[0]: row[1] for row in page.tables["results"]}
    assert results.pop("95% interval")
    expected = {
        "Top-1 accuracy": percent(scores.top1),
        "Balanced accuracy": percent(scores.balanced_accuracy),
        "Macro F1": percent(scores.macro_f1),
        "Loss": f"{scores.loss:.4f}",
        "Calibration error": percent(scores.calibration_error),
        "Pictures": f"{scores.num_samples:,}",
    }
    if scores.top5 is not None:
        expected["Top-5 accuracy"] = percent(scores.top5)
    assert results == expected
    shown = {row[0]: row[1:] for row in page.tables["per-class"][1:]}
    assert shown == {
        row.name: [
            f"{row.support:,}",
            percent(row.precision),
            percent(row.recall),
            percent(row.f1),
        ]
        for row in scores.per_class
    }
    if len(scores.per_class) <= 20:
        matrix = page.tables["confusion"]
        assert matrix[0][1:] == [row.name for row in scores.per_class]
        assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == scores.confusion


def check_self_contained(page: Page) -> None:
    """Nothing is loaded from outside and nothing runs."""
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes or "href" in attributes:
            assert (attributes.get("src") or attributes.get("href") or "").startswith(
                ("data:", "#")
            )
    style = page.text("style") + "".join(a.get("style") or "" for _, a in page.tags)
    assert "url(" not in style.replace("url(#", "")
    assert "@import" not in style


def check_pictures(page: Page) -> None:
    for tag, attributes in page.tags:
        if tag == "img":
            _, _, data = (attributes["src"] or "").partition("base64,")
            Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()


def read_scores(run: Path) -> Scores:
    return Scores.model_validate(json.loads((run / "scores.json").read_text("utf-8"))["scores"])


@pytest.mark.parametrize(
    "classes",
    [CIFAR10, ["ants", "bees"], [f"class {i}" for i in range(100)], NASTY],
    ids=["ten", "two", "hundred", "nasty"],
)
def test_page_shows_the_numbers_of_the_run(tmp_path, classes):
    run = make_run(tmp_path / "run", classes)
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    check_numbers(page, read_scores(run))
    check_self_contained(page)
    check_pictures(page)
    assert page.text("title").startswith("resnet20 on cifar10: ")
    assert "deepen train cifar10" in page.text("command")
    captions = [" ".join(text.split()) for path, text in page.texts if "figcaption" in path]
    assert all(name in captions for name in classes[:12])


def test_recipe_versions_and_protocol_are_said(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run")))
    pairs = {row[0]: row[1] for row in page.tables[""] if len(row) == 2}
    assert pairs["optimizer.weight_decay"] == "0.0001"
    assert pairs["schedule.milestones"] == "[0.5, 0.75]"
    assert (pairs["torch"], pairs["threads"], pairs["in all"]) == ("2.15.0", "2", "12 min 11 s")
    assert pairs["started"] == "2 March 2026, 09:14 UTC"
    rates = [2210 + 40 * math.sin(epoch) for epoch in range(1, 25)]
    assert pairs["speed"] == f"{np.median(rates):,.0f} images/s"
    assert (pairs["an epoch"], pairs["epochs"]) == ("20 s", "24")
    assert (pairs["training"], pairs["test"]) == ("45,000", "10,000")
    assert pairs["fingerprint"] == "9b1f9b1f9b1f9b1f"  # 16 of 64 digits
    everything = page.text("main")
    assert "cifar10, test split, 2,000 pictures, one crop" in everything
    assert "The weights of the best epoch on 5,000 validation pictures" in everything
    assert "There is no test split" not in everything
    assert "Pictures left out" not in everything


@pytest.mark.parametrize(
    ("hits", "num", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_interval_is_wilsons(tmp_path, hits, num, low, high):
    """Newcombe 1998, table I, method 3: the score interval, without a continuity correction."""
    run = make_run(tmp_path / "run", num=153)
    document = json.loads((run / "scores.json").read_text("utf-8"))
    document["scores"] |= {"top1": hits / num, "num_samples": num}
    (run / "scores.json").write_text(json.dumps(document), "utf-8")
    shown = {row[0]: row[1] for row in Page(write_report(run)).tables["results"]}
    ends = [float(end.strip("% ")) for end in shown["95% interval"].split("–")]
    assert ends == pytest.approx([low, high], abs=0.051)


def test_commonest_confusions_are_the_largest_counts(tmp_path):
    run = make_run(tmp_path / "run")
    confusion = np.array(read_scores(run).confusion)
    np.fill_diagonal(confusion, 0)
    shown = Page(write_report(run)).text("confusions").split("→")
    counts = [int(words.split()[1].rstrip(",")) for words in shown[1:]]
    assert counts == sorted(confusion.flatten().tolist(), reverse=True)[: len(counts)]
    said = shown[1].split()[0]
    true = shown[0].split()[0]
    assert confusion[CIFAR10.index(true), CIFAR10.index(said)] == counts[0]


def test_cells_are_tinted_by_their_share_of_the_row(tmp_path):
    """Right answers by the share, errors by its square root."""
    run = make_run(tmp_path / "run", ["ants", "bees", "wasps"])
    document = json.loads((run / "scores.json").read_text("utf-8"))
    document["scores"]["confusion"] = [[3, 1, 0], [0, 5, 0], [0, 0, 0]]
    (run / "scores.json").write_text(json.dumps(document), "utf-8")
    styles = [a.get("style") or "" for tag, a in Page(write_report(run)).tags if tag == "td"]
    shades = [float(style.split(":")[1]) for style in styles if style.startswith("--shade")]
    assert shades == [0.75, 0.5, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("side_px", "small"), [(4, True), (64, True), (65, False)])
def test_small_pictures_are_enlarged_without_smoothing(tmp_path, side_px, small):
    run = make_run(tmp_path / "run")
    mistakes = make_mistakes(CIFAR10, 2, side_px)
    (run / "mistakes.json").write_text(json.dumps(mistakes), "utf-8")
    tags = Page(write_report(run)).tags
    shown = [a for tag, a in tags if tag == "img" and "taken for" in (a["alt"] or "")]
    assert [a.get("class") == "pixels" for a in shown] == [small, small]


def test_names_that_are_no_unicode_are_survived(tmp_path):
    run = make_run(tmp_path / "run")
    mistakes = make_mistakes(CIFAR10, 2)
    mistakes[0]["key"] = "train/caf\udce9.jpg"  # how Python reads a Latin-1 file name
    (run / "mistakes.json").write_text(json.dumps(mistakes), "utf-8")
    assert "train/caf\\udce9.jpg" in Page(write_report(run)).text("figcaption")


def test_validation_scores_are_called_so(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run", split="val")))
    assert "top-1 accuracy on validation data" in page.text("main")
    assert "There is no test split" in page.text("main")


def test_run_without_validation_has_no_validation_curve(tmp_path):
    run = make_run(tmp_path / "run", validation=False)
    page = Page(write_report(run))
    check_numbers(page, read_scores(run))
    legends = [text for path, text in page.texts if "figcaption" in path]
    assert legends.count("training") == 2
    assert "validation" not in legends
    assert "Nothing was held out" in page.text("curves")


def test_run_that_was_not_evaluated_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", split=None, epochs=1)
    page = Page(write_report(run))
    assert "not evaluated after 1 epoch" in page.text("main")
    for name in ("metrics.csv", "best.safetensors"):
        (run / name).unlink()
    bare = Page(write_report(run))
    assert "curves" not in bare.ids
    assert "next" not in bare.ids


def test_curves_have_one_line_a_series(tmp_path):
    text = write_report(make_run(tmp_path / "run")).read_text("utf-8")
    assert text.count('<svg viewBox="') == 2
    assert text.count("stroke: var(--train)") == 2
    assert text.count("stroke: var(--eval)") == 2
    assert "#0000" not in text


def test_the_users_own_matplotlib_style_does_not_show(tmp_path):
    run = make_run(tmp_path / "run")
    plain = write_report(run).read_bytes()
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linestyle": "--", "font.size": 30}):
        assert write_report(run).read_bytes() == plain


def test_gaps_and_huge_ranges_in_the_metrics(tmp_path):
    run = make_run(tmp_path / "run")
    lines = (run / "metrics.csv").read_text("utf-8").splitlines()
    lines[3] = "3,1053,0.1,nan,0.5,,,,2000,20"
    lines[4] = "4,1404,0.1,1e-5,0.5,1e3,0.4,,2000,20"
    (run / "metrics.csv").write_text("\n".join(lines), "utf-8")
    page = Page(write_report(run))
    assert "(log scale)" in page.text("curves")
    assert {"1000", "0.001"} <= {text for path, text in page.texts if "svg" in path}
    assert page.tables["epochs"][3][2] == "–"


@pytest.mark.parametrize("worst", ["0", "-1e-5"])
def test_only_a_loss_above_nothing_has_a_log_scale(tmp_path, worst):
    """Not one that reaches zero, and not top-1, whatever its range."""
    run = make_run(tmp_path / "run")
    lines = (run / "metrics.csv").read_text("utf-8").splitlines()
    lines[3] = f"3,1053,0.1,{worst},0.001,2.2,0.9,,2000,20"
    (run / "metrics.csv").write_text("\n".join(lines), "utf-8")
    assert "(log scale)" not in Page(write_report(run)).text("curves")


FOUND: dict[str, Any] = {
    "trials": [
        {"number": 0, "state": "complete", "top1": 0.5, "values": {"lr": 0.1, "wd": 1e-4}},
        {"number": 1, "state": "pruned", "top1": 0.7, "values": {"lr": 0.2, "wd": 1e-3}},
        {"number": 2, "state": "complete", "top1": 0.4, "values": {"lr": 0.01, "wd": 1e-4}},
        {"number": 3, "state": "complete", "top1": 0.9, "values": {"lr": 0.3, "wd": 1e-3}},
        {"number": 4, "state": "fail", "top1": None, "values": {"lr": 0.5, "wd": 1e-3}},
    ],
    "importances": {"lr": 0.75, "wd": 0.25},
    "space": {"lr": {"low": 0.01, "high": 1.0, "log": True}, "wd": {"choices": [1e-4, 1e-3]}},
}


def test_charts_of_a_search_by_hand(monkeypatch):
    """Pruned trials are drawn and are never the best; failed ones are not drawn."""
    drawn: dict[str, Axes] = {}

    def draw(title: str, paint: Callable[[Axes], None], **_: float) -> str:
        drawn[title] = Figure().add_subplot()
        paint(drawn[title])
        return title

    monkeypatch.setattr("deepen.report.search.draw", draw)
    titles = ["Trials", "Importance", "lr", "wd"]
    assert search_charts(FOUND) == [{"title": title, "svg": title} for title in titles]
    (best,) = drawn["Trials"].lines
    assert np.array_equal(best.get_xydata(), [[0, 0.5], [2, 0.5], [3, 0.9]])
    assert best.get_drawstyle() == "steps-post"
    for title, places in (("Trials", [0, 2, 3, 1]), ("lr", [0.1, 0.01, 0.3, 0.2])):
        points = [c.get_offsets() for c in drawn[title].collections]  # whole ones, then pruned
        assert [len(part) for part in points] == [3, 1]
        assert np.array_equal(
            np.concatenate(points), [*zip(places, [0.5, 0.4, 0.9, 0.7], strict=True)]
        )
    assert drawn["lr"].get_xscale() == "log"
    assert [tick.get_text() for tick in drawn["wd"].get_xticklabels()] == ["0.0001", "0.001"]
    bars = drawn["Importance"]
    assert [bar.get_width() for bar in bars.patches] == [0.25, 0.75]  # from below
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["wd", "lr"]
    assert bars.get_xlim() == (0, 1)
    gaps = np.diff([bar.get_y() for bar in bars.patches]) - bars.patches[0].get_height()
    assert (gaps > 0.2).all()


def test_a_search_of_which_nothing_came_has_no_charts():
    failed = [trial for trial in FOUND["trials"] if trial["top1"] is None]
    assert search_charts({**FOUND, "trials": failed}) == []
    constant = {**FOUND, "importances": {}}
    assert [chart["title"] for chart in search_charts(constant)] == ["Trials", "lr", "wd"]


def test_the_names_beside_the_bars_have_room():
    long = {"optimizer.weight_decay": 0.6, "loss.label_smoothing": 0.4}
    svg = search_charts({**FOUND, "importances": long})[1]["svg"]
    for name in long:  # they end at x; a letter is 7 px wide at most
        (end,) = re.findall(rf'text-anchor: end[^<]* x="([\d.]+)"[^<]*>{re.escape(name)}<', svg)
        assert float(end) > 7 * len(name)


def test_quarantined_pictures_are_listed(tmp_path):
    run = make_run(tmp_path / "run")
    lines = "train/<b>/x.jpg\tis empty\ntrain/cat/y.gif\tnot a picture\n"
    (run / "quarantine.txt").write_text(lines, "utf-8")
    page = Page(write_report(run))
    cells = [row for table in page.tables.values() for row in table]
    assert ["train/<b>/x.jpg", "is empty"] in cells
    assert "2 could not be decoded" in page.text("quarantine")


@pytest.mark.parametrize(("model", "num"), [("mlp", 96), ("lenet5", 6), ("resnet20", 16)])
def test_first_layer_is_drawn(tmp_path, model, num):
    page = Page(write_report(make_run(tmp_path / "run", model=model)))
    images = [a for tag, a in page.tags if tag == "img" and a["alt"] == ""]
    assert len(images) == num
    assert ("The first 96 of 300 filters of 28×28" in page.text("filters")) == (model == "mlp")


@pytest.mark.parametrize("name", ["data.json", "environment.json", "recipe.yaml"])
def test_what_is_missing_or_damaged_is_named(tmp_path, name):
    run = make_run(tmp_path / "run")
    (run / name).write_text("{", "utf-8")
    with pytest.raises(InputError, match=f"{name}: damaged"):
        write_report(run)
    (run / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        write_report(run)


@pytest.mark.parametrize("text", ["epoch,lr\n1,0.1\n", "{header}\n1,x\n"])
def test_damaged_metrics_are_named(tmp_path, text):
    run = make_run(tmp_path / "run")
    header = make_metrics(0).strip()
    (run / "metrics.csv").write_text(text.replace("{header}", header), "utf-8")
    with pytest.raises(InputError, match=r"metrics\.csv: damaged"):
        write_report(run)


def test_a_figure_of_any_name_is_drawn(tmp_path):
    run = make_run(tmp_path / "run")
    text = (run / "metrics.csv").read_text("utf-8")
    strange = r"a\1\u<b>" + "\x1b"
    (run / "metrics.csv").write_text(text.replace("top1", strange), "utf-8")
    page = Page(write_report(run))
    labels = [a.get("aria-label") for tag, a in page.tags if tag == "svg"]
    assert r"a\1\u<b>\x1b" in labels


FILES = [
    *("data.json", "environment.json", "recipe.yaml", "metrics.csv", "scores.json"),
    *("mistakes.json", "search.json"),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [b"", b"[", b"null", b'"text"', b"[1]", b"\xff\xfe", b"[" * 50_000, b"1" * 5000, b'[{"a": 1}]',
     b'{"seconds": "x", "name": 1, "best": "x"}', b'{"classes": 1, "trials": {}, "started": 1e99}'],
)  # fmt: skip
def test_any_damage_is_one_line_that_names_the_file(tmp_path, name, damage):
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(damage)
    if name == "recipe.yaml" and damage.startswith(b"{"):
        write_report(run)  # a recipe of anyone's fields is shown as it is
        return
    with pytest.raises(InputError, match=rf"run/{name}: damaged") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (run / "report.html").exists()


def test_any_field_that_is_lost_or_of_another_kind_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("deepen.report.page._charts", lambda *_: [])  # they take a second
    monkeypatch.setattr("deepen.report.page._filters", lambda *_: None)
    run = make_run(tmp_path / "run")
    trial = {"number": 0, "state": "complete", "top1": 0.5, "loss": 1.0, "epochs": 3}
    found = {
        "best": 0, "tested": 1, "objective": "top-1", "pruner": "none", "study": "search",
        "space": {"optimizer.lr": {"low": 0.1, "high": 1.0}}, "importances": {},
        "trials": [{**trial, "values": {"optimizer.lr": 0.1}, "run": "r"}],
    }  # fmt: skip
    (run / "search.json").write_text(json.dumps(found))
    write_report(run)
    for name in ("data.json", "scores.json", "search.json", "mistakes.json", "environment.json"):
        whole = json.loads((run / name).read_text("utf-8"))
        fields = whole[0] if isinstance(whole, list) else whole
        for key, value in [*fields.items()]:
            for other in ("lost", [[]], "x"):
                fields.pop(key) if other == "lost" else fields.update({key: other})
                (run / name).write_text(json.dumps(whole), "utf-8")
                with contextlib.suppress(InputError):  # and nothing else
                    write_report(run)
                fields[key] = value
        (run / name).write_text(json.dumps(whole), "utf-8")


@pytest.mark.parametrize("text", ["{", "{}", '{"split": "test", "scores": {}}'])
def test_damaged_scores_are_named(tmp_path, text):
    run = make_run(tmp_path / "run")
    (run / "scores.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"scores\.json"):
        write_report(run)


@pytest.fixture(scope="module")
def pictures() -> PictureSet:
    """Digits; the first test pictures are training pictures with a wrong label."""
    values, labels = load_digits(return_X_y=True)
    images = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    wrong = (labels[:COPIES] + 1) % 10
    return PictureSet.of(
        "copied",
        tuple("0123456789"),
        train=(images[:600], labels[:600]),
        test=(
            np.concatenate([images[:COPIES], images[1500:1600]]),
            np.concatenate([wrong, labels[1500:1600]]),
        ),
    )


@pytest.fixture(scope="module")
def explained(pictures, tmp_path_factory) -> Path:
    return deepen.train(
        pictures,
        model="lenet5_relu",
        recipe="quick",
        changes={"length.epochs": 6, "batch_size": 32},
        output=tmp_path_factory.mktemp("why") / "run",
    ).run


def test_the_nearest_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    some, others = (torch.randn(n, 7, generator=generator) for n in (20, 50))
    found = nearest(some, others, 4)
    model = NearestNeighbors(n_neighbors=4, metric="cosine").fit(others.numpy())
    distances, places = model.kneighbors(some.numpy())
    assert found.places.tolist() == places.tolist()
    assert found.similarity.numpy() == pytest.approx(1 - distances, abs=1e-6)
    assert nearest(some, others[:2], 4).places.shape == (20, 2)


def test_a_mistake_has_its_margin_and_its_nearest_training_pictures(explained, pictures):
    mistakes = json.loads((explained / "mistakes.json").read_text("utf-8"))
    assert mistakes
    made = safetensors.torch.load_file(explained / "predictions.safetensors")
    shares = made["logits"].double().softmax(1)
    network, card, _ = load_weights(explained / "best.safetensors")
    given: list[torch.Tensor] = []
    last = network.get_submodule(network.classifier_name)
    last.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        for split in (pictures.splits["train"], pictures.splits["test"]):
            fitted = [card.preprocessing.fit(split.picture(i, 1)) for i in range(len(split))]
            network(card.preprocessing.normalize(torch.from_numpy(np.stack(fitted))))
    model = NearestNeighbors(n_neighbors=3, metric="cosine").fit(given[0].numpy())
    distances, places = model.kneighbors(given[1].numpy())
    for mistake in mistakes:
        index = mistake["index"]
        classes = [card.classes.index(mistake[word]) for word in ("predicted", "true")]
        predicted, true = (shares[index, place].item() for place in classes)
        assert mistake["margin"] == pytest.approx(predicted - true, abs=1e-6)
        assert mistake["searched"] == 600
        near = mistake["nearest"]
        assert [one["key"] for one in near] == [f"copied/train/{i}" for i in places[index]]
        assert [one["similarity"] for one in near] == pytest.approx(1 - distances[index], abs=1e-3)
        labels = pictures.splits["train"].labels[places[index]]
        assert [one["label"] for one in near] == [card.classes[label] for label in labels]


def test_a_training_picture_among_those_that_are_scored_is_told(explained):
    mistakes = json.loads((explained / "mistakes.json").read_text("utf-8"))
    same = {
        mistake["index"]: one["key"]
        for mistake in mistakes
        for one in mistake["nearest"]
        if one["same"]
    }
    assert same == {i: f"copied/train/{i}" for i in range(COPIES)}
    page = Page(explained / "report.html")
    assert page.text("mistakes").count("the same picture") == COPIES
    assert "the nearest of 600 training pictures" in page.text("mistakes")
    check_self_contained(page)
    check_pictures(page)


def test_no_more_training_pictures_are_looked_at_than_said(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "SEARCHED", 50)
    run = deepen.train(
        pictures,
        model="lenet5_relu",
        recipe="quick",
        changes={"length.epochs": 1},
        output=tmp_path / "run",
    ).run
    mistakes = json.loads((run / "mistakes.json").read_text("utf-8"))
    assert {mistake["searched"] for mistake in mistakes} == {50}
    keys = {one["key"] for mistake in mistakes for one in mistake["nearest"]}
    assert keys <= {f"copied/train/{i}" for i in range(0, 600, 12)}


def test_the_reliability_diagram_is_that_of_the_predictions(explained):
    made = safetensors.torch.load_file(explained / "predictions.safetensors")
    confidence, said = (each.numpy() for each in made["logits"].double().softmax(1).max(1))
    right = said == made["labels"].numpy()
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    rows = Page(explained / "report.html").tables["bins"][1:]
    assert [row[3] for row in rows] == [f"{100 * share:.1f}%" for share in accuracy]
    assert [row[2] for row in rows] == [f"{100 * share:.1f}%" for share in mean]
    assert sum(int(row[1]) for row in rows) == len(right)


def test_an_older_run_has_a_page_without_it(explained):
    kept = {
        name: (explained / name).read_bytes()
        for name in ("mistakes.json", "predictions.safetensors")
    }
    mistakes = json.loads(kept["mistakes.json"])
    for mistake in mistakes:
        for word in ("margin", "nearest", "searched"):
            del mistake[word]
    (explained / "mistakes.json").write_text(json.dumps(mistakes), "utf-8")
    (explained / "predictions.safetensors").unlink()
    page = Page(write_report(explained))
    for name, content in kept.items():
        (explained / name).write_bytes(content)
    assert "Most confident mistakes" in page.text("main")
    assert "nearest" not in page.text("main")
    assert "calibration" not in page.ids


def test_a_comparison_says_what_was_compared(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (400,), generator=generator)
    common = torch.randn(400, 10, generator=generator)
    logits = []
    for _ in range(3):
        made = 2 * common + torch.randn(400, 10, generator=generator)
        made[torch.arange(400), labels] += 3
        logits.append(made)
    right = [each.argmax(1) == labels for each in logits]
    keys = tuple(f"test/{i}" for i in range(400))
    unlike = disagreements(logits, labels, keys, tuple(CIFAR10))
    png = str(make_mistakes(CIFAR10, 1)[0]["png"])
    ensemble = ensembles.examine(logits, labels)
    names = ["ab", "<b>&", "x" * 80]
    found = Comparison(
        names=[f"runs/{name}/best.safetensors" for name in names],
        scores=[score(each, labels, CIFAR10, protocol="made up, one crop") for each in logits],
        pairs={(i, j): compare(right[i], right[j]) for i, j in ((0, 1), (0, 2), (1, 2))},
        reliability=[reliability(each, labels) for each in logits],
        ensemble=ensemble,
        together=score(ensemble.logits, labels, CIFAR10, protocol="ensemble of 3: made up"),
        chosen=[2, 0],
        chosen_scores=None,
        disagreements=[one._replace(png=png) for one in unlike[:60]] + unlike[60:],
    )
    write_comparison(tmp_path / "page.html", found)
    page = Page(tmp_path / "page.html")
    check_self_contained(page)
    check_pictures(page)
    assert "made up, one crop" in page.text("protocol")
    rows = {row[1]: row[2:] for row in page.tables["weights"][1:]}
    assert list(rows) == [*names, "all together"]
    marks = [row[0] for row in page.tables["weights"][1:4]]
    assert marks == ["A", "B", "C"]
    for name, scores in zip(names, found.scores, strict=True):
        _, low, high, n = scores.interval
        assert rows[name] == [
            percent(scores.top1),
            f"{percent(low, 1)} – {percent(high, 1)}",
            str(n),
            percent(scores.balanced_accuracy),
            percent(scores.macro_f1),
            f"{scores.loss:.4f}",
            percent(scores.calibration_error),
        ]
    for row, ((i, j), pair) in zip(page.tables["paired"][1:], found.pairs.items(), strict=True):
        assert row[:3] == [marks[j], marks[i], f"{100 * pair.difference:+.2f}"]
        assert row[3] == f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}"
        assert row[4] == f"{pair.only_second} and {pair.only_first}"
        assert row[6:] == ["shown" if pair.shown else "not shown", f"{100 * pair.smallest:.2f}"]
    wrong = np.stack([~each.numpy() for each in right])
    correlation = [[float(cell) for cell in row[1:]] for row in page.tables["correlation"][1:]]
    assert np.array(correlation) == pytest.approx(np.corrcoef(wrong), abs=0.005)
    for row, without in zip(page.tables["members"][1:], ensemble.without, strict=True):
        assert row[2] == percent(without)
    assert "keeps C, A" in page.text("ensemble")
    for mark, each in zip(marks, logits, strict=True):
        confidence, said = (part.numpy() for part in each.double().softmax(1).max(1))
        accuracy, mean = calibration_curve(said == labels.numpy(), confidence, n_bins=15)
        shown = [row[3:] for row in page.tables["bins"][1:] if row[0] == mark]
        assert shown == [
            [percent(m, 1), percent(a, 1)] for m, a in zip(mean, accuracy, strict=True)
        ]
    assert f"On {len(unlike)} of 400 pictures" in page.text("disagreements")
    assert sum(tag == "img" for tag, _ in page.tags) == min(60, len(unlike))
    told = [" ".join(text.split()) for path, text in page.texts if "figcaption" in path]
    first = told[told.index(unlike[0].true) :]
    words = [word for word in first if word][1:10]
    assert words[0::3] == marks
    assert words[1::3] == unlike[0].said
    assert words[2::3] == [percent(share, 0) for share in unlike[0].confidence]


@pytest.mark.parametrize(
    ("files", "short"),
    [
        (["runs/a/best.safetensors", "runs/b/best.safetensors"], ["a", "b"]),
        (["a.safetensors", "b.safetensors"], ["a", "b"]),
        (["x/a/1/w.safetensors", "x/b/2/w.safetensors"], ["a/1", "b/2"]),
        (["a/best.safetensors", "a/last.safetensors"], ["best", "last"]),
        (["a.safetensors", "a.safetensors"], ["a.safetensors"] * 2),
        (["a.safetensors", "a/b.safetensors"], ["a.safetensors", "a/b.safetensors"]),
        (["resnet20:cifar10", "a/b.safetensors"], ["resnet20:cifar10", "a/b"]),
    ],
)
def test_files_go_by_what_tells_them_apart(files, short):
    assert short_names(files) == short


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium is installed")


def test_page_in_a_browser(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = chromium()
    run = make_run(tmp_path / "run", [*NASTY, *CIFAR10])
    (run / "quarantine.txt").write_text(f"train/{'long' * 60}.jpg\tis empty\n", "utf-8")
    url = write_report(run).as_uri()
    words: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                page.on("console", lambda message: words.append(message.text))
                page.on("pageerror", lambda error: words.append(str(error)))
                page.on("request", lambda request: requests.append(request.url))
                page.goto(url)
                size = page.evaluate(
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                )
                assert size == [width, width]
                page.close()
        browser.close()
    assert words == []
    assert {request for request in requests if not request.startswith("data:")} == {url}
