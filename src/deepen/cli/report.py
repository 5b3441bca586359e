"""deepen report: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import say
from deepen.errors import InputError

EXAMPLE = "Example: deepen report runs/PHOTOS-resnet20-1"


def report(run: Annotated[Path, typer.Argument(help="A run folder of `deepen train`.")]) -> None:
    """Write report.html of a run again; `train` has written it once already."""
    if not (run / "scores.json").is_file():
        raise InputError(f"{run}: no finished run (it has no scores.json)")
    from deepen.report.page import write_report

    say(str(write_report(run)))
