"""deepen evaluate: what a weights file is worth on labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepen.cli.console import print_columns, print_csv, print_json, say
from deepen.cli.options import JSON, LABELLED, WEIGHTS, Words, asks
from deepen.training.request import Scoring

if TYPE_CHECKING:
    from deepen.evaluation.metrics import Scores
    from deepen.evaluation.tags import TagScores

EXAMPLE = "Example: deepen evaluate runs/PHOTOS-resnet20-1/best.safetensors PHOTOS --split val"


@asks(Scoring, weights=Annotated[Path, WEIGHTS], data=Annotated[str | None, LABELLED])
def evaluate(
    words: Words,
    as_json: JSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the classes as CSV.")] = False,
) -> None:
    """Score a weights file: top-1, top-5, loss, means over classes, each class, confusion."""
    from deepen import api  # imports torch
    from deepen.evaluation.tags import TagScores

    scores = api.evaluate(**words)
    if as_json:
        print_json(scores.model_dump())
    elif as_csv:
        names = [*type(scores.per_class[0]).model_fields]
        header = ["class" if name == "name" else name for name in names]
        print_csv(header, ([*c.model_dump().values()] for c in scores.per_class))
    elif isinstance(scores, TagScores):
        _print_tags(scores)
    else:
        _print(scores)


def _print_tags(scores: TagScores) -> None:
    """Of pictures that may have several classes."""
    say(scores.protocol)
    if scores.num_skipped:
        say(f"{scores.num_skipped} pictures could not be decoded and were left out")
    say(scores.headline)
    rows = []
    for row in scores.per_class:
        values = (row.average_precision, row.threshold, row.precision, row.recall, row.f1)
        shares = ["-" if v is None else f"{v:.3f}" for v in values]
        rows.append((row.name, *shares, str(row.support)))
    say()
    columns = ("class", "average precision", "threshold", "precision", "recall", "F1", "pictures")
    print_columns(columns, rows)


def _print(scores: Scores) -> None:
    say(scores.protocol)
    if scores.num_skipped:
        say(f"{scores.num_skipped} pictures could not be decoded and were left out")
    top5 = "" if scores.top5 is None else f"  top-5 error {100 - 100 * scores.top5:.2f}%"
    say(
        f"top-1 error {100 - 100 * scores.top1:.2f}%{top5}  loss {scores.loss:.4f}  "
        f"calibration error {100 * scores.calibration_error:.2f}%"
    )
    if scores.balanced_accuracy is not None and scores.macro_f1 is not None:
        say(
            f"balanced accuracy {100 * scores.balanced_accuracy:.2f}%  "
            f"macro F1 {100 * scores.macro_f1:.2f}%"
        )
    rows = []
    for row in scores.per_class:
        shares = ["-" if v is None else f"{v:.3f}" for v in (row.precision, row.recall, row.f1)]
        rows.append((row.name, *shares, str(row.support)))
    say()
    print_columns(("class", "precision", "recall", "F1", "pictures"), rows)
    if len(scores.confusion) <= 20:
        names = [row.name for row in scores.per_class]
        counts = [
            (name, *map(str, cells)) for name, cells in zip(names, scores.confusion, strict=True)
        ]
        say()
        print_columns(("true \\ predicted", *names), counts)
