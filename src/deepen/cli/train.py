"""deepen train: a network from pictures, scored on pictures it has not seen, with a report."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deepen.cli.console import err, out, print_json
from deepen.errors import InputError
from deepen.training.stop import leaving_at_sigterm

EXAMPLE = (
    "Example: deepen train PHOTOS   |   deepen train cifar10 --data-dir ~/data --model resnet20 "
    "--recipe resnet-cifar --epochs 20   |   deepen train --resume runs/PHOTOS-resnet20-1"
)


def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="A folder of pictures (train/<class>/... and val/<class>/..., or <class>/...); "
            "Parquet files or a folder of them, or hf://owner/name; or digits, mnist, "
            "fashion-mnist, cifar10, cifar100. May be left out with --resume RUN.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name of `deepen models`, or package.module:factory of your own."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "--config", help="A name of `deepen recipes`, or a YAML file."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|imagenet", help="Trained weights to go on with; the recipe is finetune."
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Weights to copy layers of, as the recipe's init says."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Pictures a step, in all processes.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order, augmentation.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Height and width the network sees, in px.")
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(help="Pictures held out of training; 0: none, the last epoch is taken."),
    ] = None,
    amp: Annotated[
        bool | None, typer.Option("--amp/--no-amp", help="Compute in bfloat16 where it is safe.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the recipe."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie.", show_default=False)
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch named data, hf://, or ImageNet weights for photos."),
    ] = False,
    exclude: Annotated[
        Path | None,
        typer.Option(help="A list of pictures to leave out, of `deepen doctor --quarantine`."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=0, help="Decoding processes; the result is the same."),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="Keep decoded pictures of files from epoch to epoch: 500M, 8G; the result is the "
            "same.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure which memory format, precision and compiling are the fastest here, and "
            "keep the choice in the recipe.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The run folder; default runs/DATA-MODEL-NUMBER.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|RUN", help="Go on with a run: the newest of the same recipe, or this."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network, score it on pictures it has not seen, and write a report."""
    changes: dict[str, Any] = {
        "length.epochs": epochs,
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "optimizer.momentum": momentum,
        "optimizer.weight_decay": weight_decay,
        "seed": seed,
        "input.size_px": size,
        "validation": validation,
        "amp": amp,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= dict(parse_change(word) for word in change or ())
    excluded = _read_list(exclude) if exclude else ()
    cache_bytes = parse_bytes(cache) if cache else 0

    with leaving_at_sigterm():
        from deepen import api  # imports torch
        from deepen.training.distributed import speaks
        from deepen.training.progress import Bars

        trained = api.train(
            _one_word(data or []),
            model=model,
            recipe=recipe,
            changes=changes,
            weights=weights,
            init_from=init_from,
            output=output,
            resume=resume,
            data_dir=data_dir,
            download=download,
            exclude=excluded,
            workers=workers,
            cache_bytes=cache_bytes,
            device=device,
            tune=tune,
            reporter=Bars(err),
            command=shlex.join(["deepen", *sys.argv[1:]]),
        )
    if not speaks():
        return
    scores = trained.scores
    if as_json:
        document = {"run": str(trained.run), "split": trained.split, **scores.model_dump()}
        print_json(document)
        return
    out.print(f"{trained.split} error {100 - 100 * scores.top1:.2f}%  ({scores.protocol})")
    out.print(f"report  {trained.run / 'report.html'}", highlight=False)
    out.print(
        f"next    deepen predict {trained.run / 'best.safetensors'} PICTURE...", highlight=False
    )


def parse_change(word: str) -> tuple[str, Any]:
    """The field and the value of a `--set`."""
    import yaml

    key, equals, value = word.partition("=")
    if not equals:
        raise InputError(f"--set {word}: write it as KEY=VALUE, optimizer.nesterov=true say")
    return key.strip(), yaml.safe_load(value)


def _one_word(words: list[str]) -> str | None:
    """Several Parquet files, as a shell's pattern gives them, are one source."""
    strange = [word for word in words if not word.lower().endswith(".parquet")]
    if len(words) > 1 and strange:
        raise InputError(f"{strange[-1]}: one folder or data set at a time, or Parquet files")
    return os.pathsep.join(words) or None


def parse_bytes(word: str) -> int:
    """A number of bytes, with K, M, G or T for powers of 1024."""
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)I?B?", word.strip().upper())
    if not found:
        raise InputError(f"--cache {word}: write it as 500M or 8G")
    return int(float(found[1]) * 1024 ** powers[found[2]])


def _read_list(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())
