"""deepen search: which settings of a recipe do best on validation pictures."""

from __future__ import annotations

from typing import Annotated

from deepen.cli.console import print_json, print_parts
from deepen.cli.options import DATA, JSON, Words, asks
from deepen.training.request import Searching

EXAMPLE = (
    "Example: deepen search PHOTOS --trials 30   |   deepen search digits --model lenet5 --recipe "
    "quick --epochs 5 --trials 12   |   deepen search --resume runs/digits-lenet5-search-1"
)


@asks(
    Searching,
    *("epochs", "batch_size", "seed", "validation"),
    without=("weights", "init_from", "exclude", "cache_bytes", "tune", "look"),
    data=Annotated[str | None, DATA],
)
def search(words: Words, as_json: JSON = False) -> None:
    """Try settings of a recipe, choose on validation pictures, score the best on the test ones."""
    from deepen import api  # imports torch

    searched = api.search(**words)
    trained = searched.trained
    if as_json:
        scores = None if trained is None else trained.scores.model_dump()
        rows = [trial._asdict() for trial in searched.found.trials]
        reached = None if (found := searched.found.interval) is None else found._asdict()
        told = {"folder": str(searched.folder), "trials": rows, "validation": reached}
        print_json({**told, "scores": scores})
        return
    print_parts(searched.display())
