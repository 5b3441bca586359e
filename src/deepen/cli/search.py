"""deepen search: which settings of a recipe do best on validation pictures."""

from __future__ import annotations

from typing import Annotated

from deepen.cli.console import print_json, say
from deepen.cli.options import DATA, JSON, Words, asks
from deepen.training.request import Searching

EXAMPLE = (
    "Example: deepen search PHOTOS --trials 30   |   deepen search digits --model lenet5 --recipe "
    "quick --epochs 5 --trials 12   |   deepen search --resume runs/digits-lenet5-search-1"
)


@asks(
    Searching,
    *("epochs", "batch_size", "seed", "validation"),
    without=("weights", "init_from", "exclude", "cache_bytes", "tune"),
    data=Annotated[str | None, DATA],
)
def search(words: Words, as_json: JSON = False) -> None:
    """Try settings of a recipe, choose on validation pictures, score the best on the test ones."""
    from deepen import api  # imports torch

    searched = api.search(**words)
    best, trained = searched.found.best, searched.trained
    if as_json:
        scores = None if trained is None else trained.scores.model_dump()
        rows = [trial._asdict() for trial in searched.found.trials]
        reached = None if (found := searched.found.interval) is None else found._asdict()
        told = {"folder": str(searched.folder), "trials": rows, "validation": reached}
        print_json({**told, "scores": scores})
        return
    if best is None or trained is None:
        say(f"{searched.found.running} trials of other processes are still under way")
        return
    settings = ", ".join(f"{key} {value:g}" for key, value in best.values.items())
    say(f"best    trial {best.number}: {settings}")
    reached = f"{searched.found.figure} {best.top1 or 0:.4f}"
    if (found := searched.found.interval) is not None:
        reached = f"accuracy {found.in_words}"
    say(f"        validation {reached}, the best of {len(searched.found.trials)}: optimistic")
    scores = trained.scores
    say(f"{trained.split} {scores.headline}  ({scores.protocol})")
    say(f"report  {searched.folder / 'report.html'}")
