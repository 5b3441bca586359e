"""deepen demo: two networks against two shallow classifiers, on scikit-learn's digits."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepen.cli.console import err, print_columns, print_json, say, tell
from deepen.cli.options import JSON

if TYPE_CHECKING:
    from deepen.demo import Demonstration

EXAMPLE = "Example: deepen demo --output runs/demo"


def demo(
    output: Annotated[
        Path | None, typer.Option(help="Where the run folders go; default runs/demo-DATE.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Train LeNet-5 and a residual network on handwritten digits; needs no data and no network."""
    from deepen.demo import demonstrate  # imports torch
    from deepen.training.progress import Bars

    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = output or Path("runs") / f"demo-{stamp}"
    shown = demonstrate(folder, Bars(err, lines=False), tell)
    print_json(_document(shown)) if as_json else _print(shown)


def _print(shown: Demonstration) -> None:
    say(shown.protocol)
    rows = [(entry.name, entry.together.in_words) for entry in shown.entries]
    print_columns(("", "test accuracy"), rows, words=2)
    for found, digit in shown.predictions:
        words = "  ".join(f"{name} {share:.1%}" for name, share in found.top)
        say(f"{found.path}: {words}   (true: {digit})")
    say()
    say(f"report  {shown.weights.parent / 'report.html'}")
    say("next    deepen train PHOTOS     (a folder with a folder of pictures for each class)")


def _document(shown: Demonstration) -> dict[str, Any]:
    """For --json."""
    rows = [
        {"name": entry.name, "top1": entry.top1, **entry.together._asdict()}
        | {"runs": [str(run) for run in entry.runs]}
        for entry in shown.entries
    ]
    return {"protocol": shown.protocol, "test_accuracy": rows, "weights": str(shown.weights)}
