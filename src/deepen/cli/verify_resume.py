"""deepen verify-resume: is a run that was killed and resumed the same, bit for bit?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import err, out, print_json
from deepen.cli.train import parse_change

EXAMPLE = (
    "Example: deepen verify-resume PHOTOS --model resnet20   |   deepen verify-resume digits "
    "--model lenet5_relu --set optimizer.name=adamw --kills 20"
)


def verify_resume(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of pictures, or a data set by name.")
    ],
    model: Annotated[
        str | None, typer.Option(help="As for train; chosen by the data when left out.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "--config", help="As for train.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field of the recipe; length.epochs: 3."),
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="How often; half of them inside a save.")] = 6,
    seed: Annotated[int, typer.Option(help="Decides the instants of the kills.")] = 0,
    pictures: Annotated[
        int, typer.Option(min=1, help="Pictures used of each split, evenly spaced, at most.")
    ] = 512,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding processes.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a set-up without a stop and with kill -9 time after time, and compare every bit.

    Both are short and in temporary folders. Exit status 1 if one bit differs.
    """
    changes = dict(parse_change(word) for word in change or ())

    from deepen.verification import verify_resume as verify  # imports torch

    found = verify(
        data,
        model=model,
        recipe=recipe,
        changes=changes,
        kills=kills,
        seed=seed,
        pictures=pictures,
        data_dir=None if data_dir is None else str(data_dir),
        workers=workers,
        device=device,
        message=lambda text: err.print(text, highlight=False, markup=False),
    )
    if as_json:
        print_json({**found._asdict(), "identical": found.identical})
    else:
        for part, digest in found.whole.items():
            same = found.resumed.get(part) == digest
            out.print(f"{part:17} {digest}  never stopped", highlight=False)
            verdict = "killed and resumed" if same else "killed and resumed: DIFFERS"
            out.print(f"{'':17} {found.resumed.get(part, '-'):64}  {verdict}", highlight=False)
        kills_done = found.kills + found.kills_in_saves
        out.print(
            f"{'identical' if found.identical else 'NOT identical'}: {found.trained}; {kills_done} "
            f"kills, {found.kills_in_saves} of them inside a save, in {found.runs} runs; timings "
            "(images_per_s, seconds) are not compared",
            highlight=False,
        )
        if found.repeatable is False:
            out.print("two runs without a stop differ too: this set-up is not deterministic here")
    if not found.identical:
        raise typer.Exit(1)
