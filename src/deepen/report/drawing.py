"""Charts as SVG that takes the page's own colours, light or dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from deepen import charts
from deepen.data.names import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib draws with; the page's style sheet decides what they look like.
INK = {"train": "#000001", "eval": "#000002", "axis": "#000003", "grid": "#000004"}


def draw(title: str, paint: Callable[[Axes], None], *, left: float = 0.125) -> Markup:
    """What `paint` puts on a pair of axes, for inlining; the axes' own look is the page's.

    Args:
        title: read out in place of the picture; no two charts of a page may share it.
        paint: draws, with colours of `INK` only.
        left: share of the width that is left free for the labels of the y axis.
    """
    from matplotlib.figure import Figure  # takes a second

    with charts.plain(title):
        figure = Figure(figsize=(520 / 72, 290 / 72))  # one unit of the SVG is 1/72 inch
        axes = figure.add_axes((left, 0.165, 0.98 - left, 0.805))
        axes.xaxis.labelpad = 11  # a phone's letters are larger
        paint(axes)
        axes.grid(axis="y", color=INK["grid"], linewidth=1)
        axes.tick_params(which="both", length=0, pad=7, labelcolor=INK["axis"])
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(INK["grid"])
        drawing = charts.svg(figure)
    return _inline(drawing, str(escape(printable(title))))


def _inline(svg: str, title: str) -> Markup:
    """Without what belongs to a file of its own, and with the style sheet's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        lambda found: f'<svg {found[1]} role="img" aria-label="{title}">',  # a backslash is one
        svg,
    )
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9]+(?:\.axis)?_\d+"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font-(?:size|family): [^;]*; ", "", svg)
    for name, stand_in in INK.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return Markup(re.sub(r"\s*\n\s*", " ", svg))
