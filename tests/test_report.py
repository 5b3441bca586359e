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
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError
from deepen.evaluation.metrics import Scores, score
from deepen.models import create_model
from deepen.report.page import write_report
from deepen.report.search import search_charts
from deepen.weights import Card, save_weights

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
