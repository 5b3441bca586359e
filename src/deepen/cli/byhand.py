"""deepen byhand: a block of the lectures on numbers small enough to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deepen.cli.console import print_json, say, say_text
from deepen.errors import unknown

if TYPE_CHECKING:
    from deepen.byhand.drawing import Worked

EXAMPLE = "Example: deepen byhand conv"


def byhand(
    block: Annotated[
        str | None, typer.Argument(help="conv, pool, linear, ...; without one, the list.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Work a small example of a block, forward and backward, as the lectures draw it."""
    from deepen.byhand.worked import WORKED  # imports numpy

    examples = {**WORKED, "lenet": _lenet}
    if block is None:
        titles = {name: worked().title for name, worked in WORKED.items()}
        titles["lenet"] = "A LeNet trained by these blocks alone, on handwritten digits (seconds)"
        if as_json:
            print_json(titles)
        else:
            for name, title in titles.items():
                say(f"{name:12}  {title}")
        return
    if block not in examples:
        raise unknown("block", block, examples)
    worked = examples[block]()
    if as_json:
        print_json(worked.document())
    else:
        say_text(worked.text())


def _lenet() -> Worked:
    from sklearn.datasets import load_digits

    from deepen.byhand.worked_learning import lenet_on_digits

    values, labels = load_digits(return_X_y=True)
    return lenet_on_digits(values.reshape(-1, 8, 8), labels)
