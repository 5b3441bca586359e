"""deepen search: which settings of a recipe do best on validation pictures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepen.cli.console import err, out, print_json
from deepen.cli.train import parse_change

EXAMPLE = (
    "Example: deepen search PHOTOS --trials 30   |   deepen search digits --model lenet5 --recipe "
    "quick --epochs 5 --trials 12   |   deepen search --resume runs/digits-lenet5-search-1"
)


def search(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="As for `deepen train`; left out with --resume."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As for `deepen train`.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "--config", help="Its search: block says what may change."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="That are to finish in all.")] = 20,
    pruner: Annotated[
        Literal["median", "hyperband", "none"],
        typer.Option(help="Which trials are stopped early."),
    ] = "median",
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A database for several processes; default SQLite here."),
    ] = None,
    study_name: Annotated[str, typer.Option(help="The search's name in the storage.")] = "search",
    epochs: Annotated[int | None, typer.Option(help="Of each trial.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Pictures a step.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the proposals, too.")] = None,
    validation: Annotated[
        int | None, typer.Option(min=1, help="Pictures held out, to choose on.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the recipe.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie.", show_default=False)
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a named data set that is not there.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Decoding processes.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder; default runs/DATA-MODEL-search-NUMBER.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with a search that was stopped.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Try settings of a recipe, choose on validation pictures, score the best on the test ones."""
    changes: dict[str, Any] = {
        "length.epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "validation": validation,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= dict(parse_change(word) for word in change or ())

    from deepen import api  # imports torch
    from deepen.training.progress import Bars

    searched = api.search(
        data,
        model=model,
        recipe=recipe,
        changes=changes,
        trials=trials,
        pruner=pruner,
        storage=storage,
        study=study_name,
        output=output,
        resume=resume,
        data_dir=data_dir,
        download=download,
        workers=workers,
        device=device,
        reporter=Bars(err),
        command=shlex.join(["deepen", *sys.argv[1:]]),
    )
    best, trained = searched.found.best, searched.trained
    if as_json:
        scores = None if trained is None else trained.scores.model_dump()
        rows = [trial._asdict() for trial in searched.found.trials]
        print_json({"folder": str(searched.folder), "trials": rows, "scores": scores})
        return
    if best is None or trained is None:
        out.print(f"{searched.found.running} trials of other processes are still under way")
        return
    settings = ", ".join(f"{key} {value:g}" for key, value in best.values.items())
    out.print(f"best    trial {best.number}: {settings}", highlight=False)
    out.print(f"        validation error {100 - 100 * (best.top1 or 0):.2f}%", highlight=False)
    scores = trained.scores
    out.print(f"{trained.split} error {100 - 100 * scores.top1:.2f}%  ({scores.protocol})")
    out.print(f"report  {searched.folder / 'report.html'}", highlight=False)
