"""Networks side by side: what they cost, and what their papers say they reach."""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deepen import charts
from deepen.analysis.complexity import complexity
from deepen.analysis.memory import in_mode, make_inputs
from deepen.analysis.subject import Subject, subject, with_weights
from deepen.errors import InputError, unknown
from deepen.models import list_models

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Published:
    """What a paper prints of its network.

    Attributes:
        data: the data set.
        top1_error: in percent; None where the paper prints none.
        top5_error: likewise.
        protocol: what was measured, and how.
        source: paper and table.
    """

    data: str
    protocol: str
    source: str
    top1_error: float | None = None
    top5_error: float | None = None


@dataclass(frozen=True)
class Row:
    """A network of a comparison.

    Attributes:
        name: as `create_model` takes it.
        year: of its paper; None for a network of the user's own.
        input_shape: that it was counted on.
        parameters: that a prediction uses; an auxiliary head is not among them.
        macs: multiply-accumulates.
        values: activation values.
        published: what its paper says it reaches; None where it says nothing.
        images_per_s: on this machine; None where that was not asked for.
    """

    name: str
    year: int | None
    input_shape: tuple[int, ...]
    parameters: int
    macs: int
    values: int
    published: Published | None
    images_per_s: float | None = None


@cache
def published() -> dict[str, Published]:
    """The papers' own figures, by network."""
    text = files("deepen.analysis").joinpath("published.toml").read_text("utf-8")
    return {entry.pop("network"): Published(**entry) for entry in tomllib.loads(text)["figure"]}


def named(words: Iterable[str]) -> list[str]:
    """The networks that the user's words mean, each once; a word may be a shell pattern.

    Raises:
        InputError: a pattern that fits none.
    """
    names: dict[str, None] = {}
    for word in words:
        found = list_models(word) if ":" not in word and any(c in word for c in "*?[") else [word]
        if not found:
            raise unknown("model", word, list_models())
        names.update(dict.fromkeys(found))
    return list(names)


def compare(
    names: Iterable[str],
    *,
    input_shape: Sequence[int] | None = None,
    measure: bool = False,
    batch_size: int = 16,
) -> list[Row]:
    """Count each network on the input of its paper, or all on the same.

    Args:
        names: of `list_models()`, or `package.module:factory` of the user's own.
        input_shape: of one sample, for all; each network's own where None.
        measure: also predict with each, for some seconds, and say how fast it is here.
        batch_size: of those predictions.

    Raises:
        InputError: an unknown name, or an input that a network does not take.
    """
    rows = []
    for name in names:
        counted = subject(name, input_shape)
        costs = complexity(counted.module, counted.input_shape)
        usual = input_shape is None  # a published error belongs to the paper's own input
        rows.append(
            Row(
                name,
                counted.architecture.year if counted.architecture else None,
                counted.input_shape,
                costs.parameters - costs.unused_parameters,
                costs.macs,
                costs.values,
                published().get(name) if usual else None,
                _images_per_second(counted, batch_size) if measure else None,
            )
        )
    return rows


def _images_per_second(counted: Subject, batch_size: int, seconds: float = 2.0) -> float:
    """The best of some seconds of predictions in float32, as built, nothing compiled."""
    network = with_weights(counted)
    (images,) = make_inputs(network, [counted.input_shape], batch_size, "cpu")
    best, spent = math.inf, 0.0
    with in_mode(network, training=False), torch.inference_mode():
        network(images)  # libraries prepare themselves
        while spent < seconds:
            start = time.perf_counter()
            network(images)
            took = time.perf_counter() - start
            best, spent = min(best, took), spent + took
    return batch_size / best


def draw(rows: Sequence[Row], path: Path) -> list[str]:
    """The lectures' chart: accuracy as published against MACs, the bubble's area the parameters.

    One panel a data set. In each the measure, top-1 or top-5, is that which more of its networks
    have published; the others are left out.

    Args:
        rows: of `compare`.
        path: an .svg or a .png, written over.

    Returns:
        Names of the networks that are not in the chart.

    Raises:
        InputError: another kind of file, or no network with a published figure.
        WorkError: it could not be written.
    """
    charts.check_path(path)
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.published is not None:
            panels.setdefault(row.published.data, []).append(row)
    if not panels:
        raise InputError("none of these networks has a published figure to draw")

    from matplotlib.figure import Figure  # takes a second

    drawn: set[str] = set()
    with charts.plain():
        figure = Figure(figsize=(7.5 * len(panels), 5.5), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (data, members) in zip(axes, panels.items(), strict=True):
            drawn |= _draw_panel(axis, data, members)
        charts.save(figure, path)
    return [row.name for row in rows if row.name not in drawn]


def _draw_panel(axis: Axes, data: str, rows: list[Row]) -> set[str]:
    def have(measure: str) -> list[Row]:
        return [row for row in rows if getattr(row.published, f"{measure}_error") is not None]

    measure = max(("top1", "top5"), key=lambda m: len(have(m)))
    shown = sorted(have(measure), key=lambda row: -row.parameters)
    macs = [row.macs / 1e9 for row in shown]
    accuracy = [100 - getattr(row.published, f"{measure}_error") for row in shown]
    largest = shown[0]
    area = [1000 * row.parameters / largest.parameters + 6 for row in shown]  # a least to be seen
    colors = [f"C{i % 10}" for i in range(len(shown))]
    axis.scatter(macs, accuracy, s=area, c=colors, alpha=0.45, linewidths=0)
    axis.scatter(macs, accuracy, s=3, c="black", linewidths=0)
    if max(macs) > 30 * min(macs):
        axis.set_xscale("log")
    axis.margins(0.2, 0.15)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("multiply-accumulates a picture, G")
    axis.set_ylabel(f"{measure.replace('top', 'top-')} accuracy as published, %")
    size = f"{largest.parameters / 1e6:.1f} M, {largest.name}"
    axis.set_title(f"{data}; area: parameters (largest: {size})", fontsize=10)
    axis.grid(alpha=0.25, linewidth=0.5)
    _label(axis, [row.name for row in shown], macs, accuracy)
    return {row.name for row in shown}


def _label(axis: Axes, names: list[str], xs: list[float], ys: list[float]) -> None:
    """Names beside their points, moved up or down until none covers another."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the axes
    taken: list[tuple[float, float, float]] = []  # left, right, height, in points
    scale = 72 / figure.dpi
    for name, x, y in sorted(zip(names, xs, ys, strict=True), key=lambda p: p[2]):
        left, height = (v * scale for v in axis.transData.transform((x, y)))
        right, lift = left + 4.6 * len(name) + 6, 0.0
        while any(a < right and left < b and abs(height + lift - h) < 8 for a, b, h in taken):
            lift += 2
        taken.append((left, right, height + lift))
        axis.annotate(name, (x, y), (5, lift - 3), textcoords="offset points", fontsize=8)
