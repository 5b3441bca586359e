"""The reliability diagram: how often a network is right that is so sure (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from deepen.evaluation.calibration import Bin
from deepen.report.drawing import INK, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def diagram(title: str, bins: Sequence[Bin]) -> Markup:
    """Accuracy against confidence, with the share of the pictures that each bin has."""
    from matplotlib.ticker import PercentFormatter

    n = sum(each.pictures for each in bins)
    known = [
        (each.confidence, each.accuracy)
        for each in bins
        if each.confidence is not None and each.accuracy is not None
    ]

    def paint(axes: Axes) -> None:
        axes.bar(
            [each.low for each in bins],
            [each.pictures / n for each in bins],
            [0.94 * (each.high - each.low) for each in bins],
            align="edge",
            color=INK["train"],
            alpha=0.4,
        )
        axes.plot([0, 1], [0, 1], color=INK["axis"], linewidth=1, dashes=(2, 3))
        axes.plot(
            *zip(*known, strict=True), color=INK["eval"], linewidth=2, marker="o", markersize=5
        )
        axes.set(xlim=(0, 1.05), ylim=(0, 1.03))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
            axis.set_ticks([0.25, 0.5, 0.75, 1])
        axes.set_xlabel("confidence", color=INK["axis"])

    return draw(title, paint)
