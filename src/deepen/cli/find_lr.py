"""deepen find-lr: the learning rates at which a network learns from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import err, print_columns, print_json
from deepen.cli.train import parse_change

EXAMPLE = "Example: deepen find-lr PHOTOS --model resnet20 --output rates.svg"
ROWS = 20


def find_lr(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder of pictures, or a name.")],
    model: Annotated[
        str | None,
        typer.Option(help="A name of `deepen models`, or package.module:factory of your own."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "--config", help="As for `deepen train`.")
    ] = None,
    lowest: Annotated[float, typer.Option(help="First learning rate.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Last learning rate.")] = 10.0,
    steps: Annotated[int, typer.Option(min=2, help="From one to the other.")] = 100,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Pictures a step.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the recipe.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where named data sets lie.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a named data set that is not there.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding processes.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also draw the curve, an .svg or a .png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Train a fresh network at rising learning rates, and suggest one; no weights are kept."""
    changes = dict(parse_change(word) for word in change or ())
    if batch_size is not None:
        changes["batch_size"] = batch_size

    from deepen import api  # imports torch
    from deepen.training.lr_finder import check_chart, draw
    from deepen.training.progress import Bars

    if output is not None:
        check_chart(output)
    found = api.find_lr(
        data,
        model=model,
        recipe=recipe,
        changes=changes,
        lowest=lowest,
        highest=highest,
        steps=steps,
        data_dir=data_dir,
        download=download,
        workers=workers,
        device=device,
        reporter=Bars(err),
    )
    if output is not None:
        draw(found, output)
    if as_json:
        print_json(found._asdict())
        return
    every = -(-len(found.rates) // ROWS)
    rows = zip(found.rates[::every], found.losses[::every], strict=True)
    print_columns(("learning rate", "loss"), ((f"{r:.3g}", f"{v:.4f}") for r, v in rows), words=0)
    print(f"\nleast at {found.best:.3g}{'; it diverged beyond' if found.diverged else ''}")
    print(f"suggested  --lr {found.suggestion:.2g}")
    if output is not None:
        print(f"chart  {output}")
