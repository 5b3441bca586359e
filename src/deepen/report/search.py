"""The charts of a search: its history, what mattered, and where the best trials lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepen.report.drawing import INK, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def search_charts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Charts of a search.json: title and SVG; those that there is nothing to draw of are left out.

    Args:
        found: as `deepen.training.search.Found.document` makes it.
    """
    tried = [trial for trial in found["trials"] if trial["top1"] is not None]
    if not tried:
        return []
    charts = [{"title": "Trials", "svg": draw("Trials", lambda axes: _history(axes, tried))}]
    if shares := found["importances"]:
        title = "Importance"
        charts.append(
            {"title": title, "svg": draw(title, lambda axes: _bars(axes, shares), left=0.36)}
        )
    for key, span in found["space"].items():
        points = [(t["values"][key], t) for t in tried if key in t["values"]]
        svg = draw(key, lambda axes, p=points, k=key, s=span: _slice(axes, p, k, s))
        charts.append({"title": key, "svg": svg})
    return charts


def _history(axes: Axes, tried: list[dict[str, Any]]) -> None:
    """Each trial's top-1, pruned ones hollow, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    _points(axes, [(t["number"], t) for t in tried])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    steps, best = [], 0.0
    for trial in tried:
        if trial["state"] == "complete":
            best = max(best, trial["top1"])
            steps.append((trial["number"], best))
    if steps:
        axes.step(*zip(*steps, strict=True), where="post", color=INK["train"], linewidth=2)
    axes.set_xlabel("trial", color=INK["axis"])


def _bars(axes: Axes, shares: dict[str, float]) -> None:
    keys = sorted(shares, key=lambda key: shares[key])
    axes.barh(keys, [shares[key] for key in keys], color=INK["eval"], height=0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of what the results differ by", color=INK["axis"])


def _slice(
    axes: Axes, points: list[tuple[Any, dict[str, Any]]], key: str, span: dict[str, Any]
) -> None:
    if span.get("choices"):
        points = [(str(value), trial) for value, trial in points]
    elif span.get("log"):
        axes.set_xscale("log")
    _points(axes, points)
    axes.set_xlabel(key, color=INK["axis"])


def _points(axes: Axes, points: list[tuple[Any, dict[str, Any]]]) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1))
    for state, fill in (("complete", INK["eval"]), ("pruned", "none")):
        shown = [(x, t["top1"]) for x, t in points if t["state"] == state]
        if shown:
            axes.scatter(
                *zip(*shown, strict=True), s=36, facecolors=fill, edgecolors=INK["eval"], zorder=3
            )
