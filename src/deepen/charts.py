"""Charts of matplotlib's as SVG or PNG, the same bytes each time and with every user's settings."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.errors import InputError, WorkError
from deepen.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@contextmanager
def plain(salt: str = "deepen", settings: dict[str, Any] | None = None) -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own matplotlibrc says; figures are made within.

    Args:
        salt: of the ids in an SVG, which else repeat from figure to figure or change each time.
        settings: of matplotlib's rcParams, the chart's own.
    """
    import matplotlib  # takes a second

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": salt} | (settings or {})
        yield


def svg(figure: Figure) -> str:
    """A figure as SVG on no ground of its own, for a page."""
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", transparent=True, metadata=_NOTHING)
    return drawing.getvalue()


def check_path(path: Path) -> None:
    """Refuse a file that `save` cannot write, before anything is drawn.

    Raises:
        InputError: another ending.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise InputError(f"--output {path}: the chart is an .svg or a .png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as an .svg or a .png, whole or not at all; its folder is made.

    Raises:
        InputError: another ending.
        WorkError: it could not be written.
    """
    check_path(path)
    kind, drawing = path.suffix.lower()[1:], io.BytesIO()
    metadata = _NOTHING if kind == "svg" else None
    figure.savefig(drawing, format=kind, dpi=150, metadata=metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"{path}: {error.strerror or error}") from error
    write_whole(path, drawing.getvalue())
