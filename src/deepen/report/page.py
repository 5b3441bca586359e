"""A run folder as one HTML file that needs nothing else: no script, no network, no other file."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
import safetensors.torch
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template, UndefinedError
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel, ValidationError

from deepen.data.names import shown
from deepen.errors import InputError, first_problem
from deepen.evaluation.calibration import reliability
from deepen.evaluation.detection import DetectionScores
from deepen.evaluation.localization import LocalizationScores
from deepen.evaluation.metrics import ClassScore, Figures, Scores
from deepen.evaluation.segmentation import SegmentationScores
from deepen.evaluation.tags import TagScores
from deepen.files import read_json, read_text, read_yaml, write_whole
from deepen.report import detection
from deepen.report.drawing import INK, draw
from deepen.report.reliability import diagram
from deepen.report.search import search_charts
from deepen.training.progress import was_scored
from deepen.visualization.filters import filter_tiles, first_layer
from deepen.weights import Card, finds_things, read_card

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEEDED = ("epoch", "lr", "train_loss", "images_per_s", "seconds")
"""Columns of metrics.csv that every task has."""
TITLES = {
    "loss": "Loss",
    "top1": "Top-1 accuracy",
    "balanced": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "map": "Mean average precision",
    **detection.CHARTS,
    **detection.LOSSES,
}
"""Of charts; other figures go by their names."""
PERCENT = ("top1", "balanced", "macro_f1", "micro_f1", "map", "exact", *detection.CHARTS)
"""Figures that are shown in percent."""
WEIGHTS = ("best.safetensors", "last.safetensors")
MACHINE = (
    "device",
    "cpu",
    "threads",
    "platform",
    "python",
    "torch",
    "torchvision",
    "deepen",
    "commit",
)
MAX_NUMBERED_CLASSES = 20  # with more, the confusion matrix is a picture without numbers
MAX_CONFUSIONS = 8
MAX_FILTERS = 96  # as many as AlexNet's first layer has

# Of right and wrong in the picture of a large confusion matrix; legible on white and on black.
BLUE, ORANGE = (59, 116, 230), (226, 106, 24)

Row = dict[str, float | None]
Checked = TypeVar("Checked", bound=BaseModel)


class About(BaseModel, extra="allow"):
    """data.json, what the page shows of it."""

    name: str
    root: str | None = None
    counts: dict[str, int]
    classes: list[str]
    fingerprint: str
    notes: list[str] = []


class Machine(BaseModel, extra="allow"):
    """environment.json, what the page computes with."""

    seconds: float | None = None
    started: datetime | None = None


class Neighbour(BaseModel, extra="allow"):
    """A training picture that is near a mistake by its features; `same`: pixel for pixel."""

    key: str
    label: str
    similarity: float
    same: bool
    png: str


class Mistake(BaseModel, extra="allow"):
    """An entry of mistakes.json; older runs know nothing of its margin and what it is near to."""

    true: str
    predicted: str
    confidence: float
    key: str
    png: str
    margin: float | None = None
    nearest: list[Neighbour] = []
    searched: int = 0


class Search(BaseModel, extra="allow"):
    """search.json; its trials and spans are drawn as they are."""

    best: int
    space: dict[str, dict[str, Any]]
    trials: list[dict[str, Any]]
    importances: dict[str, float]


class Evaluation(BaseModel):
    """scores.json: which split was scored, and what was chosen on what, in words."""

    split: str
    choice: str
    scores: Scores | TagScores | DetectionScores | SegmentationScores | LocalizationScores | Figures


def write_report(run: Path) -> Path:
    """Write `run`/report.html from what lies in the run folder, and from nothing else.

    Parts that the run has nothing for (no validation, no mistakes, no evaluation yet) are left out.

    Raises:
        InputError: `run` is no run folder, or one of its files is damaged.
        WorkError: the page could not be written.
    """
    weights = next((run / name for name in WEIGHTS if (run / name).is_file()), None)
    card = read_card(weights) if weights else None
    rows = _metrics(run / "metrics.csv")
    training_only = not any(was_scored(row) for row in rows)
    kept = card.epoch if card and not training_only else None
    evaluation = _evaluation(run / "scores.json")
    found_scores = evaluation.scores if evaluation else None
    scores = found_scores if isinstance(found_scores, Scores) else None
    figures = found_scores if isinstance(found_scores, Figures) else None
    tags = found_scores.per_class if isinstance(found_scores, TagScores) else []
    recipe = _recipe(run / "recipe.yaml")
    scored = "test" if ("scored", "test") in recipe else "validation"
    data = _document(run / "data.json", About)
    environment = _document(run / "environment.json", Machine)
    found, searched = None, []
    if (run / "search.json").is_file():
        found = _document(run / "search.json", Search)
        with _reading(run / "search.json"):
            searched = search_charts(found)
    timing = _timing(rows)
    with _reading(run):
        page = template("report.html.j2").render(
            name=run.resolve().name,
            subject=Path(data["name"].partition("?tags=")[0]).name
            or Path(data.get("root") or ".").name
            or data["name"],
            data=data,
            card=card,
            environment=environment,
            recipe=recipe,
            rows=rows,
            training_only=training_only,
            columns=_columns(rows, scored),
            kept=kept,
            charts=_charts(rows, kept, scored),
            search=found,
            search_charts=searched,
            timing=timing,
            facts_of_data=_facts_of_data(data, card),
            facts_of_time=_facts_of_time(rows, timing, environment),
            facts_of_machine=[
                (k, v) for k in MACHINE if (v := environment.get(k)) not in (None, "")
            ],
            evaluation=evaluation,
            scores=scores,
            figures=figures,
            tags=tags,
            names=detection.NAMES,
            detection=detection.parts(found_scores, run / "worst.json")
            if isinstance(found_scores, DetectionScores)
            else None,
            segments=found_scores.per_class if isinstance(found_scores, SegmentationScores) else [],
            overlaid=detection.overlaid(run / "worst.json")
            if isinstance(found_scores, SegmentationScores)
            else [],
            interval=scores.interval[1:3] if scores else None,
            by_class=_by_class(scores) if scores else [],
            matrix=_matrix(scores) if scores else None,
            confusions=_confusions(scores) if scores else [],
            reliability=_reliability(run / "predictions.safetensors", recipe) if scores else None,
            mistakes=_mistakes(run / "mistakes.json"),
            filters=_filters(weights, card) if weights and card else None,
            quarantined=_quarantined(run / "quarantine.txt"),
            weights=weights.as_posix() if weights else None,  # a shell's quotes differ on Windows
        )
    target = run / "report.html"
    write_whole(target, page)
    return target


@cache
def template(name: str) -> Template:
    """A template of this room, with its filters and what it includes."""
    files = resources.files("deepen.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda part: files.joinpath(part).read_text("utf-8")),
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "duration": _duration,
        "day": _day,
        "quote": shlex.quote,
        "short_name": _short_name,
        "finds_things": finds_things,
    }
    return environment.get_template(name)


# Numbers in words


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def _short_name(network: str) -> str:
    """Of a detector kind and backbone, without its settings; other names as they are."""
    kind, _, rest = network.removeprefix("deepen.detection.networks:").partition("/")
    return f"{kind}, {rest.partition('/')[0]}," if rest and kind != network else network


def _number(value: float | None) -> str:
    """Three figures at least, thousands grouped: 12,345; 103; 0.0412."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    """4.2 s, 48 s, 3 min 12 s, 2 h 05 min."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _day(moment: datetime) -> str:
    """A time as 2 March 2026, 09:14 UTC."""
    time = moment.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


# Files of the run folder


DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever its contents bring about is the file's damage."""
    try:
        yield
    except InputError:
        raise
    except (*DAMAGE, UndefinedError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{path}: damaged ({type(error).__name__}: {words})") from error


def _document(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """A file of JSON, its fields as `model` has them."""
    return _checked(path, read_json(path), model).model_dump()


def _checked(path: Path, found: Any, model: type[Checked]) -> Checked:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({first_problem(error, model)})") from error


def _evaluation(path: Path) -> Evaluation | None:
    return _checked(path, read_json(path), Evaluation) if path.is_file() else None


def _recipe(path: Path) -> list[tuple[str, str]]:
    """Every setting of the recipe as its dotted key and its value."""
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged (is no mapping of keys to values)")
    return list(_flat("", found))


def _flat(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, below in value.items():
            yield from _flat(f"{key}.{inner}" if key else str(inner), below)
    else:
        yield key, json.dumps(value, ensure_ascii=False, default=str).strip('"')


def _metrics(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    rows: list[Row] = []
    with _reading(path):
        if lacking := {*NEEDED} - {*(reader.fieldnames or ())}:
            raise InputError(f"{path}: damaged (has no column {min(lacking)})")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}: damaged (line {reader.line_num} is cut or too long)")
            rows.append({column: _finite(row[column]) for column in (*NEEDED, *row)})
    return rows


def _finite(cell: str | None) -> float | None:
    value = float(cell or "nan")
    return value if math.isfinite(value) else None


def _timing(rows: Sequence[Row]) -> dict[str, float] | None:
    rates = [row["images_per_s"] for row in rows if row["images_per_s"] is not None]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    if not rates or not seconds:
        return None
    return {"images_per_s": statistics.median(rates), "epoch_s": statistics.median(seconds)}


def _facts_of_data(data: dict[str, Any], card: Card | None) -> list[tuple[str, str]]:
    names = {"train": "training", "val": "validation", "test": "test"}
    facts = [("name", data["name"]), ("folder", data.get("root"))]
    facts += [(names.get(split, split), _number(n)) for split, n in data["counts"].items()]
    if card:
        facts.append(("seen as", card.preprocessing.describe()))
    facts.append(("fingerprint", data["fingerprint"][:16]))
    return [(name, fact) for name, fact in facts if fact]


def _facts_of_time(
    rows: Sequence[Row], timing: dict[str, float] | None, environment: dict[str, Any]
) -> list[tuple[str, str]]:
    facts = []
    if timing:
        facts += [
            ("speed", f"{_number(timing['images_per_s'])} images/s"),
            ("an epoch", _duration(timing["epoch_s"])),
            ("epochs", _number(len(rows))),
        ]
    if environment.get("seconds"):
        facts.append(("in all", _duration(environment["seconds"])))
    if environment.get("started"):
        facts.append(("started", _day(environment["started"])))
    return facts


def _quarantined(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    lines = path.read_text("utf-8", errors="replace").split("\n")
    return [(name, reason) for name, _, reason in (line.partition("\t") for line in lines) if name]


def _reliability(path: Path, recipe: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The reliability diagram of the predictions, at the temperature of the training."""
    if not path.is_file():
        return None
    with _reading(path):
        try:
            found = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(error) from error
        temperature = float(dict(recipe).get("loss.temperature", 1))
        bins = reliability(found["logits"], found["labels"], temperature)
        return {"svg": diagram("Reliability", bins), "bins": bins}


def _mistakes(path: Path) -> list[dict[str, Any]]:
    """The mistakes, each with `small`: its picture is to be enlarged without smoothing."""
    if not path.is_file():
        return []
    with _reading(path):
        found = [_checked(path, each, Mistake).model_dump() for each in read_json(path)]
        for mistake in found:
            for shown in (mistake, *mistake["nearest"]):
                shown["small"] = is_small(shown["png"])
    return found


def is_small(png: str) -> bool:
    """Whether a PNG in base64 is to be enlarged without smoothing."""
    header = base64.b64decode(png[:32])  # 24 bytes; IHDR's chunk starts at 8
    return max(int.from_bytes(header[i : i + 4]) for i in (16, 20)) <= 64


# Pictures


def _png(pixels: np.ndarray) -> str:
    """uint8 pixels (H, W, 3 or 4) as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _filters(path: Path, card: Card) -> dict[str, Any] | None:
    """The first layer's filters as data URIs, with their size; None if not drawable."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            weight = file.get_tensor(first_layer(shapes, card.in_channels))
            tiles = filter_tiles(weight, card.in_channels)
    except InputError:
        return None
    return {
        "images": [_png(tile) for tile in tiles[:MAX_FILTERS]],
        "num": len(tiles),
        "height": tiles.shape[1],
        "width": tiles.shape[2],
    }


def _shades(confusion: Sequence[Sequence[int]]) -> np.ndarray:
    """How strongly each cell is tinted, 0..1: its share of the row; of errors the square root."""
    counts = np.asarray(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.where(np.eye(len(counts), dtype=bool), shares, np.sqrt(shares))


def _matrix(scores: Scores) -> dict[str, Any]:
    """The confusion matrix: rows of (count, shade) where numbers fit, else a picture."""
    shades = _shades(scores.confusion)
    if len(shades) <= MAX_NUMBERED_CLASSES:
        rows = zip(scores.confusion, shades.tolist(), strict=True)
        return {"rows": [list(zip(*row, strict=True)) for row in rows]}
    pixels = np.empty((*shades.shape, 4), np.uint8)
    pixels[...] = (*ORANGE, 0)
    pixels[np.eye(len(shades), dtype=bool), :3] = BLUE
    pixels[..., 3] = np.round(255 * shades)
    return {"image": _png(pixels)}


def _by_class(scores: Scores) -> list[ClassScore]:
    """In the order of the data, or where that is long the lowest F1 first."""
    if len(scores.per_class) <= MAX_NUMBERED_CLASSES:
        return scores.per_class
    return sorted(scores.per_class, key=lambda row: math.inf if row.f1 is None else row.f1)


def _confusions(scores: Scores) -> list[dict[str, Any]]:
    """The commonest confusions, by count."""
    errors = np.asarray(scores.confusion)
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSIONS]
    names = [row.name for row in scores.per_class]
    return [
        {
            "true": names[i],
            "predicted": names[j],
            "count": n,
            "share": n / scores.per_class[i].support,
        }
        for i, j in zip(*np.unravel_index(order, errors.shape), strict=True)
        if (n := int(errors[i, j]))
    ]


# Curves


def _charts(rows: Sequence[Row], kept: int | None, scored: str) -> list[dict[str, Any]]:
    """Each figure against epochs, of training and of the pictures that are scored after each."""
    charts = []
    names = dict.fromkeys(column.partition("_")[2] for column in _figures(rows))
    for figure in names:
        series = {
            name: [
                (x, y)
                for row in rows
                if (x := row["epoch"]) is not None
                and (y := row.get(f"{name}_{figure}")) is not None
            ]
            for name in ("train", "eval")
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            title = TITLES.get(figure, figure)
            svg, is_log = _chart(title, series, kept)
            labels = {"train": "training", "eval": scored}
            shown = {name: labels[name] for name in series}
            charts.append({"title": title, "svg": svg, "log": is_log, "series": shown})
    return charts


def _figures(rows: Sequence[Row]) -> list[str]:
    """Columns of the rows that are drawn and listed, as `train_loss`; not those of no epoch."""
    found = dict.fromkeys(itertools.chain(*rows))
    return [
        column
        for column in sorted(found, key=lambda name: name.startswith("eval_"))
        if column.startswith(("train_", "eval_"))
        and column != "eval_top5"
        and any(row.get(column) is not None for row in rows)
    ]


def _columns(rows: Sequence[Row], scored: str) -> list[dict[str, str]]:
    """Of the table of epochs: which, with what heading, and in what form."""
    columns = []
    for column in _figures(rows):
        part, _, figure = column.partition("_")
        of = {"train": "Training", "eval": scored.capitalize()}[part]
        name = {"top1": "top-1", "map": "mAP", "macro_f1": "macro F1", "micro_f1": "micro F1"}.get(
            figure, figure
        )
        form = "percent" if figure in PERCENT else "number"
        columns.append({"key": column, "title": f"{of} {name}", "form": form})
    return columns


def _chart(
    title: str, series: dict[str, list[tuple[float, float]]], kept: int | None
) -> tuple[Markup, bool]:
    """A line chart for inlining, and whether its y axis is logarithmic."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

    xs, ys = zip(*itertools.chain(*series.values()), strict=True)
    is_log = title == "Loss" and min(ys) > 0 and max(ys) / min(ys) > 50

    def paint(axes: Axes) -> None:
        for name, points in series.items():
            dots = {"marker": "o", "markersize": 5} if len(points) <= 2 else {}
            axes.plot(*zip(*points, strict=True), color=INK[name], linewidth=2, **dots)
        axes.margins(x=0.05 if len(set(xs)) > 1 else 10)
        if kept is not None:
            axes.axvline(kept, color=INK["axis"], linewidth=1, dashes=(2, 3))
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        if title in {TITLES.get(figure, figure) for figure in PERCENT}:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", color=INK["axis"])

    return draw(title, paint), is_log
