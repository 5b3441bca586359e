"""deepen compare: networks side by side, and the chart of accuracy against work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepen.cli.console import complain, print_columns, print_json, say
from deepen.cli.info import parse_input

if TYPE_CHECKING:
    from deepen.analysis.comparison import Row

EXAMPLE = "Example: deepen compare alexnet vgg16 resnet50 resnet152 --output chart.svg"


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Names of `deepen models`, patterns ('resnet*'), or package.module:factory.",
        ),
    ],
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="For all; by default each paper's own."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also draw the chart, an .svg or a .png.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run each and measure pictures a second (CPU).")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="For --measure.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Compare parameters, work and the errors that the papers themselves print."""
    from deepen.analysis import comparison  # imports torch

    names = comparison.named(models)
    rows = comparison.compare(
        names, input_shape=parse_input(input), measure=measure, batch_size=batch_size
    )
    if output is not None:
        left_out = comparison.draw(rows, output)
        if left_out:
            names = ", ".join(left_out)
            complain(f"not in the chart, no published figure of the kind that is drawn: {names}")
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    _print(rows, measure)
    if output is not None:
        say()
        say(f"chart  {output}")


def _print(rows: list[Row], measure: bool) -> None:
    speed = ("images/s",) if measure else ()
    header = ("network", "data", "source", "year", "input", "parameters", "MACs", "values")
    print_columns((*header, *speed, "top-1 error", "top-5 error"), map(_cells, rows), words=3)


def _cells(row: Row) -> tuple[str, ...]:
    figure = row.published
    errors = (None, None) if figure is None else (figure.top1_error, figure.top5_error)
    return (
        row.name,
        "" if figure is None else figure.data,
        "" if figure is None else f"{figure.source}: {figure.protocol}",
        "" if row.year is None else str(row.year),
        "x".join(map(str, row.input_shape)),
        f"{row.parameters:,}",
        f"{row.macs:,}",
        f"{row.values:,}",
        *(() if row.images_per_s is None else (f"{row.images_per_s:.1f}",)),
        *("" if error is None else f"{error:.2f}" for error in errors),
    )
