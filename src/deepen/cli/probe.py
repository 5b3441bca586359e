"""deepen probe: a linear classifier on the frozen features of a layer."""

from __future__ import annotations

from typing import Annotated

import typer

from deepen.cli.console import print_json, print_parts
from deepen.cli.options import JSON, LABELLED, WEIGHTS, Words, asks
from deepen.training.request import Probing

EXAMPLE = "Example: deepen probe runs/PHOTOS-resnet20-1/best.safetensors PHOTOS --layer layer3"


@asks(
    Probing,
    without=("split",),
    weights=Annotated[str, WEIGHTS],
    data=Annotated[str | None, LABELLED],
    layer=Annotated[
        str,
        typer.Option(
            help="Whose features; a stage, conv4_x say, or a module's name, layer3.0 say."
        ),
    ],
)
def probe(words: Words, as_json: JSON = False) -> None:
    """Fit a linear classifier to a layer's frozen features and score it."""
    from deepen import api  # imports torch

    found = api.probe(**words)
    if as_json:
        told = {"top1_interval": found.interval[1:3], "bad": [str(each) for each in found.bad]}
        print_json(found._asdict() | told)
        return
    print_parts(found.display())
