"""deepen train: a network from pictures, scored on pictures it has not seen, with a report."""

from __future__ import annotations

from typing import Annotated

from deepen.cli.console import print_json, print_parts
from deepen.cli.options import DATA, JSON, RECIPE, Words, asks
from deepen.training.request import Training

EXAMPLE = (
    "Example: deepen train PHOTOS   |   deepen train cifar10 --data-dir ~/data --model resnet20 "
    "--recipe resnet-cifar --epochs 20   |   deepen train --resume runs/PHOTOS-resnet20-1"
)


@asks(Training, *RECIPE, data=Annotated[list[str] | None, DATA])
def train(words: Words, as_json: JSON = False) -> None:
    """Train a network, score it on pictures it has not seen, and write a report."""
    from deepen import api  # imports torch
    from deepen.training.distributed import speaks

    trained = api.train(**words)
    if not speaks():
        return
    scores = trained.scores
    if as_json:
        document = {"run": str(trained.run), "split": trained.split, **scores.model_dump()}
        print_json(document)
        return
    print_parts(trained.display())
