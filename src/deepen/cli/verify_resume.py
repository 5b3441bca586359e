"""deepen verify-resume: is a run that was killed and resumed the same, bit for bit?"""

from __future__ import annotations

from typing import Annotated

import typer

from deepen.cli.console import print_json, say
from deepen.cli.options import DATA, JSON, Words, asks
from deepen.training.request import Verifying

EXAMPLE = (
    "Example: deepen verify-resume PHOTOS --model resnet20   |   deepen verify-resume digits "
    "--model lenet5_relu --set optimizer.name=adamw --kills 20"
)


@asks(
    Verifying,
    *("epochs", "batch_size"),
    without=("weights", "init_from", "download"),
    data=Annotated[str, DATA],
)
def verify_resume(words: Words, as_json: JSON = False) -> None:
    """Train a set-up without a stop and with kill -9 time after time, and compare every bit.

    Both are short and in temporary folders: 3 epochs unless --epochs says otherwise. Exit status 1
    if one bit differs.
    """
    from deepen.verification import verify_resume as verify  # imports torch

    found = verify(**words)
    if as_json:
        print_json({**found._asdict(), "identical": found.identical})
    else:
        for part, digest in found.whole.items():
            same = found.resumed.get(part) == digest
            say(f"{part:17} {digest}  never stopped")
            verdict = "killed and resumed" if same else "killed and resumed: DIFFERS"
            say(f"{'':17} {found.resumed.get(part, '-'):64}  {verdict}")
        kills_done = found.kills + found.kills_in_saves
        say(
            f"{'identical' if found.identical else 'NOT identical'}: {found.trained}; {kills_done} "
            f"kills, {found.kills_in_saves} of them inside a save, in {found.runs} runs; timings "
            "(images_per_s, seconds) are not compared",
        )
        if found.repeatable is False:
            say("two runs without a stop differ too: this set-up is not deterministic here")
    if not found.identical:
        raise typer.Exit(1)
