"""deepen probe: a linear classifier on the frozen features of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepen.cli.console import err, out, print_json

EXAMPLE = "Example: deepen probe runs/PHOTOS-resnet20-1/best.safetensors PHOTOS --layer layer3"


def probe(
    weights: Annotated[str, typer.Argument(help="A weights file of `deepen train`.")],
    layer: Annotated[
        str,
        typer.Option(
            help="Whose features; a stage, conv4_x say, or a module's name, layer3.0 say."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="Labelled pictures; by default those that it was trained on."),
    ] = None,
    classifier: Annotated[
        Literal["logistic", "svm"], typer.Option(help="Logistic regression, or a linear SVM.")
    ] = "logistic",
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Pictures at a time.")
    ] = 128,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding processes.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where named data sets lie.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a named data set that is not there.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Needed for package.module:factory of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Fit a linear classifier to a layer's frozen features and score it."""
    from deepen import api  # imports torch
    from deepen.training.progress import Bars

    found = api.probe(
        weights,
        data,
        layer=layer,
        classifier=classifier,
        batch_size=batch_size,
        workers=workers,
        device=device,
        data_dir=data_dir,
        download=download,
        model=model,
        reporter=Bars(err),
    )
    if as_json:
        document = found._asdict() | {"bad": [str(error) for error in found.bad]}
        print_json(document)
        return
    out.print(f"{found.split} error {100 - 100 * found.top1:.2f}%  ({found.protocol})")
    chosen = f"C {found.c:g}, validation error {100 - 100 * found.validation_top1:.2f}%"
    out.print(f"{found.num_features} features; {chosen}", highlight=False)
