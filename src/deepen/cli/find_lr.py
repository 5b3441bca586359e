"""deepen find-lr: the learning rates at which a network learns from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import print_json, print_parts, say
from deepen.cli.options import DATA, JSON, Words, asks
from deepen.training.request import Sweeping

EXAMPLE = "Example: deepen find-lr PHOTOS --model resnet20 --output rates.svg"


@asks(
    Sweeping,
    "batch_size",
    without=("weights", "init_from", "exclude", "cache_bytes", "tune"),
    data=Annotated[str, DATA],
)
def find_lr(
    words: Words,
    output: Annotated[
        Path | None, typer.Option(help="Also draw the curve, an .svg or a .png.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Train a fresh network at rising learning rates, and suggest one; no weights are kept."""
    from deepen import api  # imports torch
    from deepen.training.lr_finder import check_chart, draw

    if output is not None:
        check_chart(output)
    found = api.find_lr(**words)
    if output is not None:
        draw(found, output)
    if as_json:
        print_json(found._asdict())
        return
    print_parts(found.display())
    if output is not None:
        say(f"chart  {output}")
