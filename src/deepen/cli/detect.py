"""deepen detect: find things in pictures: train, evaluate, predict, visualize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepen.cli.console import (
    complain,
    print_columns,
    print_csv_row,
    print_json,
    say,
)
from deepen.cli.options import DATA, JSON, LABELLED, RECIPE, WEIGHTS, Words, asks
from deepen.data.names import printable
from deepen.errors import InputError
from deepen.training.request import Detecting, Scoring

if TYPE_CHECKING:
    from deepen.deployment.finder import Found

EXAMPLE = (
    "Example: deepen detect train BCCD   |   deepen detect predict runs/BCCD-1/best.safetensors "
    "NEW/ --draw out   (BCCD: a folder of Pascal VOC's, COCO's, or with a table of boxes)"
)
OF_CLASSES = ("class_weights", "sampling", "together")
"""Flags of recipes that go with a class a picture alone."""

detect = typer.Typer(no_args_is_help=True, help="Find things: boxes, masks, classes of pixels.")


@detect.command(epilog=EXAMPLE)
@asks(
    Detecting,
    *(name for name in RECIPE if name not in OF_CLASSES),
    data=Annotated[list[str] | None, DATA],
)
def train(words: Words, as_json: JSON = False) -> None:
    """Train a detector on pictures with boxes or masks, score it, and write a report."""
    from deepen import detect  # imports torch
    from deepen.training.distributed import speaks

    trained = detect.train(**words)
    if not speaks():
        return
    scores = trained.scores
    if as_json:
        print_json({"run": str(trained.run), "split": trained.split, **scores.model_dump()})
        return
    say(f"{trained.split} {scores.headline}  ({scores.protocol})")
    say(f"report  {trained.run / 'report.html'}")
    say(
        f"next    deepen detect predict {trained.run / 'best.safetensors'} PICTURE... --draw FOLDER"
    )


@detect.command(epilog=EXAMPLE)
@asks(Scoring, weights=Annotated[str, WEIGHTS], data=Annotated[str | None, LABELLED])
def evaluate(words: Words, as_json: JSON = False) -> None:
    """Score a detector's weights on pictures with boxes or masks."""
    from deepen import detect  # imports torch

    scores = detect.evaluate(**words)
    if as_json:
        print_json(scores.model_dump())
        return
    say(scores.protocol)
    if scores.num_skipped:
        say(f"{scores.num_skipped} pictures could not be decoded and were left out")
    say(scores.headline)
    figures = {name: value for name, value in scores.figures.items() if value is not None}
    say("  ".join(f"{name} {100 * value:.2f}%" for name, value in figures.items()))
    for errors in getattr(scores, "errors", ()):
        say(f"{errors.kind}: {errors.count:,}, costs {100 * errors.cost:.2f} points")
    rows = [each.model_dump() for each in scores.per_class]
    if rows:
        say()
        plain = [key for key in rows[0] if not isinstance(rows[0][key], list | tuple | dict)]
        cells = [[_cell(row[key]) for key in plain] for row in rows]
        print_columns(plain, cells)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)


@detect.command(epilog=EXAMPLE)
def predict(
    weights: Annotated[Path, typer.Argument(help="A weights file of `deepen detect train`.")],
    paths: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    least_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out what is less probable; by default 0.5."),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="A folder for the pictures with boxes and masks.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="A file for what is found, as COCO's JSON.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Pictures at a time.")
    ] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Needed for package.module:factory of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a box.")] = False,
) -> None:
    """Print what is found in each picture; a bad file is named and the rest goes on."""
    from deepen import detect  # imports torch
    from deepen.data.decode import PictureError
    from deepen.deployment.finder import coco_of
    from deepen.files import write_whole

    if coco is not None and coco.is_dir():
        raise InputError(f"--coco {coco}: is a folder")
    failed, kept = 0, list["Found"]()
    least = 0.5 if least_score is None else least_score
    if as_csv:
        print_csv_row(("filename", "class", "xmin", "ymin", "xmax", "ymax", "score"))
    sources = [*map(str, paths)]
    for found in detect.predict(
        weights, sources, least_score=least, batch_size=batch_size, device=device, model=model
    ):
        if isinstance(found, PictureError):
            failed += 1
            complain(f"{printable(found.path)}: {found.reason}", name="deepen detect predict")
            if as_json:
                print_json({"path": found.path, "error": found.reason}, indent=None)
            continue
        if draw is not None:
            detect.draw(found, draw)
        if coco is not None:
            kept.append(found)
        _tell(found, as_json, as_csv)
    if coco is not None:
        import json

        write_whole(coco, json.dumps(coco_of(kept)).encode())
    if failed:
        raise typer.Exit(1)


def _tell(found: Found, as_json: bool, as_csv: bool) -> None:
    document = found.document()
    if as_json:
        print_json(document, indent=None)
    elif as_csv:
        for one in document.get("found", ()):
            box = (f"{px:.2f}" for px in one["box"])
            print_csv_row((found.path, one["class"], *box, f"{one['score']:.6f}"))
    elif "shares" in document:
        shown = sorted(document["shares"].items(), key=lambda each: -each[1])
        words = "  ".join(f"{name} {share:.1%}" for name, share in shown if share >= 0.0005)
        say(f"{found.path}  {words}")
    else:
        counts: dict[str, list[float]] = {}
        for one in document["found"]:
            counts.setdefault(one["class"], []).append(one["score"])
        words = "  ".join(
            f"{len(scores)} {name} ({max(scores):.0%})" for name, scores in counts.items()
        )
        say(f"{found.path}  {words or 'nothing found'}")


@detect.command(epilog=EXAMPLE)
def visualize(
    data: Annotated[str, typer.Argument(help="Pictures with boxes or masks.")],
    output: Annotated[Path, typer.Argument(help="A folder for the pictures that are drawn.")],
    weights: Annotated[
        Path | None, typer.Option(help="Of a detector, whose boxes are drawn beside.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="A list of pictures and boxes to leave out.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Pictures at most, evenly spaced.")] = 24,
    least_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out what is less probable.")
    ] = 0.5,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
) -> None:
    """Draw what is said of pictures, and beside it what a detector finds."""
    from deepen import detect  # imports torch
    from deepen.data.lists import read_list

    files = detect.visualize(
        data,
        output,
        weights=weights,
        split=split,
        exclude=() if exclude is None else read_list(exclude),
        most=most,
        least_score=least_score,
        device=device,
    )
    say(f"{len(files):,} pictures in {output}")
