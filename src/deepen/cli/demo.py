"""deepen demo: two networks against two shallow classifiers, on scikit-learn's digits."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepen.cli.console import err, print_columns, say, tell

if TYPE_CHECKING:
    from deepen.demo import Demonstration

EXAMPLE = "Example: deepen demo --output runs/demo"


def demo(
    output: Annotated[
        Path | None, typer.Option(help="Where the run folders go; default runs/demo-DATE.")
    ] = None,
) -> None:
    """Train LeNet-5 and a residual network on handwritten digits; needs no data and no network."""
    from deepen.demo import demonstrate  # imports torch
    from deepen.training.progress import Bars

    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = output or Path("runs") / f"demo-{stamp}"
    _print(demonstrate(folder, Bars(err, lines=False), tell))


def _print(shown: Demonstration) -> None:
    say("899 test digits, same split for all")
    rows = []
    for entry in shown.entries:
        spread = "" if entry.spread is None else f" ± {entry.spread:.2f}"
        rows.append((entry.name, f"{entry.error_percent:.2f}{spread}", str(len(entry.runs) or "")))
    print_columns(("", "test error %", "seeds"), rows)
    for found, digit in shown.predictions:
        words = "  ".join(f"{name} {share:.1%}" for name, share in found.top)
        say(f"{found.path}: {words}   (true: {digit})")
    say()
    say(f"report  {shown.weights.parent / 'report.html'}")
    say("next    deepen train PHOTOS     (a folder with a folder of pictures for each class)")
