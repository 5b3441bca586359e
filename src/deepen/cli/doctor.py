"""deepen doctor: what is wrong with a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import print_json, say

EXAMPLE = (
    "Example: deepen doctor PHOTOS --quarantine bad.txt && deepen train PHOTOS --exclude bad.txt"
)


def doctor(
    data: Annotated[
        str, typer.Argument(help="A folder or Parquet files, as `deepen train` takes them.")
    ],
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="A table of labels, as for `deepen train`.")
    ] = None,
    min_px: Annotated[int, typer.Option(help="A shorter side below this is too small.")] = 32,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Decoding threads.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the pictures and boxes to leave out to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Decode every picture in full and name what is damaged, mislabelled, double or too small.

    Of sets with boxes or masks, each box and mask that is not as it should be is named too.
    """
    from deepen.data.doctor import examine
    from deepen.files import write_whole
    from deepen.training.request import with_table

    word = data if labels is None else with_table(data, labels)
    diagnosis = examine(word, min_px=min_px, workers=workers)
    if quarantine is not None:
        write_whole(quarantine, "".join(f"{path}\n" for path in diagnosis.quarantine))
    if as_json:
        print_json(diagnosis.model_dump())
    else:
        for problem in diagnosis.problems:
            say(f"{problem.path}: {problem.kind}: {problem.detail}")
        for note in diagnosis.notes:
            say(note)
        for split, counts in diagnosis.counts.items():
            words = ", ".join(f"{name} {count}" for name, count in counts.items())
            say(f"{split}: {words}")
        if diagnosis.mean is not None and diagnosis.std is not None:
            mean, std = (
                [round(v, 4) for v in values] for values in (diagnosis.mean, diagnosis.std)
            )
            say(f"channel mean {mean}, std {std}; imbalance {diagnosis.imbalance}")
        found = len(diagnosis.problems)
        say(f"{diagnosis.num_files} pictures, {found or 'no'} problem{'' if found == 1 else 's'}")
    if diagnosis.problems:
        raise typer.Exit(1)
