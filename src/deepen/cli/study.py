"""deepen study: an experiment of a paper, done again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import err, print_columns, print_json, say
from deepen.cli.options import read_list

EXAMPLE = "Example: deepen study depth --data-dir DATA --seeds 3   |   deepen study list"


def study(
    name: Annotated[
        str,
        typer.Argument(help="A name of `deepen study list`, or a YAML file of your own; or list."),
    ],
    data: Annotated[
        str | None, typer.Option(help="Another data set or folder than the study's.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie.", show_default=False)
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a named data set that is not there.")
    ] = False,
    exclude: Annotated[
        Path | None, typer.Option(help="A list of pictures and boxes to leave out.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="As the paper has it: for a GPU, or days.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="0, 1, ...; usually 3.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes; no trial is begun that would end after them."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials at once.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each trial; they decide the last bits.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder; default studies/NAME-SETTING.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Do an experiment again, with several seeds; the same command goes on where it stopped."""
    from deepen.studies.catalog import STUDIES, find_study  # imports torch

    if name == "list":
        _list(list(STUDIES.values()), as_json)
        return
    import torch

    from deepen.studies.conduct import Order, conduct
    from deepen.studies.page import table, write_pages
    from deepen.training.progress import Bars
    from deepen.training.request import pick_device

    definition = find_study(name)
    setting = "full" if full else "small"
    folder = output or Path("studies") / f"{definition.name}-{setting}"
    order = Order(
        study=name,
        setting=setting,
        seeds=seeds or definition.seeds,
        data=data,
        data_dir=None if data_dir is None else str(data_dir),
        device=str(pick_device(device)),
        folder=folder,
        threads=threads or max(1, torch.get_num_threads() // jobs),
        command=_repeatable(),
        exclude=() if exclude is None else read_list(exclude),
    )
    results = conduct(
        order,
        Bars(err),
        download=download,
        budget_s=None if budget is None else 60 * budget,
        jobs=jobs,
    )
    pages = write_pages(definition, results, folder)
    if as_json:
        print_json(results.model_dump(mode="json"))
        return
    print_columns(*_split(table(definition, results)))
    for conclusion in results.conclusions:
        say(f"{conclusion.verdict}: {conclusion.statement}: {conclusion.found}")
    say(f"report  {pages[-1]}")


def _repeatable() -> str:
    """The command as anyone can give it: where data and results lie is the reader's own."""
    words = ["deepen", *sys.argv[1:]]
    for flag, shown in (("--data-dir", "DATA"), ("--output", "FOLDER"), ("--exclude", "FILE")):
        if flag in words[:-1]:
            words[words.index(flag) + 1] = shown
    return shlex.join(words)


def _split(rows):
    return rows[0], rows[1:]


def _list(studies, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "name": s.name,
                    "title": s.title,
                    "source": s.source,
                    "question": s.question,
                    "settings": {
                        name: {
                            "arms": [arm.name for arm in setting.arms],
                            "pictures": setting.pictures.name,
                            "minutes": setting.minutes,
                            "departures": list(setting.departures),
                        }
                        for name, setting in s.settings.items()
                    },
                }
                for s in studies
            ]
        )
        return
    for s in studies:
        times = "; ".join(f"{k}: {v.minutes or '?'} a seed" for k, v in s.settings.items())
        say(f"{s.name:14}  {s.title}")
        say(f"{'':14}  {s.source}")
        say(f"{'':14}  {times}")
