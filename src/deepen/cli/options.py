"""Options of verbs, made of the records that declare their words (`deepen.training.request`)."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import Field, fields
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from deepen.cli.console import err
from deepen.errors import InputError
from deepen.files import parse_yaml
from deepen.training.request import Option, Request, Scoring


class Flag(NamedTuple):
    """A field of the recipe that has an option of its own."""

    key: str
    kind: Any
    help: str
    flags: tuple[str, ...] = ()


RECIPE = {
    "epochs": Flag("length.epochs", int, "Passes over the training pictures."),
    "batch_size": Flag(
        "batch_size", int, "Pictures a step, in all processes.", ("--batch-size", "-b")
    ),
    "lr": Flag("optimizer.lr", float, "Learning rate."),
    "momentum": Flag("optimizer.momentum", float, "Momentum of SGD and RMSprop."),
    "weight_decay": Flag("optimizer.weight_decay", float, "Weight decay."),
    "seed": Flag("seed", int, "Decides weights, order, augmentation."),
    "size": Flag("input.size_px", int, "Height and width the network sees, in px."),
    "validation": Flag(
        "validation", int, "Pictures held out of training; 0: none, the last epoch is taken."
    ),
    "together": Flag(
        "together", str, "Kept in one split: subfolder, pattern:REGEX or column:NAME."
    ),
    "task": Flag("task", str, "classification, multilabel, or package.module:factory."),
    "sampling": Flag("sampling", str, "shuffled; or balanced: each class is shown as often."),
    "class_weights": Flag(
        "loss.class_weights", str, "none; or balanced: rare classes count more in the loss."
    ),
    "choose_by": Flag(
        "choose_by", str, "What the epoch is chosen by: top1, balanced, macro_f1, loss, ..."
    ),
    "amp": Flag("amp", bool, "Compute in bfloat16 where it is safe.", ("--amp/--no-amp",)),
}
"""By the name of the option."""


def _about(words: Any, name: str) -> str:
    return next(each.metadata["about"] for each in fields(words) if each.name == name)


DATA = typer.Argument(metavar="DATA", help=_about(Request, "data"))
WEIGHTS = typer.Argument(help=_about(Scoring, "weights"))
LABELLED = typer.Argument(help=_about(Scoring, "data"))
SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the recipe."),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Verb = Callable[..., None]
Words = dict[str, Any]
"""What was said of a record's fields, for a function that takes them as keywords."""


def asks(
    words: Any,
    *recipe: str,
    without: Collection[str] = (),
    **arguments: Any,
) -> Callable[[Verb], Verb]:
    """Make a verb of a function of a record's fields, as keywords, and of options of its own.

    Args:
        words: the record; each field with an `Option` becomes one.
        recipe: of `RECIPE`, those that the verb has; with any of them it has --set too.
        without: fields that the verb does not have.
        arguments: how fields that are no options are declared.
    """
    named = {each.name: each for each in fields(words)}
    parameters = [_keyword(name, annotation) for name, annotation in arguments.items()]
    for name, each in named.items():
        if each.metadata.get("option") and name not in (*arguments, *without):
            parameters.append(_option(name, each.metadata["option"], each.metadata["about"], each))
    for name in recipe:
        flag = RECIPE[name]
        parameters.append(_option(name, Option(flag.kind, flag.flags), flag.help))
    if recipe:
        parameters.append(_keyword("change", SET))

    def wrap(verb: Verb) -> Verb:
        def command(**given: Any) -> None:
            said = {each.name: given.pop(each.name) for each in parameters}
            if recipe:
                changes = dict(map(parse_change, said.pop("change") or ()))
                flags = {RECIPE[name].key: said.pop(name) for name in recipe}
                said["changes"] = {k: v for k, v in flags.items() if v is not None} | changes
            for name in READ.keys() & said.keys():
                value = said.pop(name)
                if value is not None:
                    said[name] = READ[name](value)
            from deepen.training.progress import Bars  # imports rich's bars

            if "command" in named:
                said["command"] = shlex.join(["deepen", *sys.argv[1:]])
            verb({**said, "reporter": Bars(err)}, **given)

        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        command.__signature__ = inspect.Signature([*parameters, *own])
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        return command

    return wrap


def _option(
    name: str, option: Option, about: str, declared: Field[Any] | None = None
) -> inspect.Parameter:
    flags = option.flags or (f"--{name.replace('_', '-')}",)
    told = typer.Option(*flags, help=about, metavar=option.metavar, min=option.least)
    default = None if declared is None or name in READ else declared.default
    kind = option.kind if default is not None else option.kind | None
    return _keyword(name, Annotated[kind, told], default)


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter; one that cannot be None is required."""
    required = default is None and type(None) not in get_args(get_args(annotation)[0])
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=annotation,
    )


def at_home(words: Iterable[str]) -> list[str]:
    """Words of the command line with a leading ~ expanded, also behind `--option=`.

    bash does so for a word of its own only: `--output=~/run` would make a folder called ~.

    Raises:
        InputError: an option names the home of nobody.
    """
    found = []
    for word in words:
        flag, path = re.fullmatch(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
        expanded = os.path.expanduser(path)
        if flag and expanded.startswith("~"):
            raise InputError(f"{word}: there is no such home; write {flag}./{path} for that name")
        found.append(flag + expanded)
    return found


def parse_change(word: str) -> tuple[str, Any]:
    """The field and the value of a `--set`."""
    key, equals, value = word.partition("=")
    if not equals:
        raise InputError(f"--set {word}: write it as KEY=VALUE, optimizer.nesterov=true say")
    try:
        return key.strip(), parse_yaml(value)
    except ValueError as error:
        raise InputError(f"--set {word[:60]}: {error}") from error


def parse_bytes(word: str) -> int:
    """A number of bytes, with K, M, G or T for powers of 1024."""
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)I?B?", word.strip().upper())
    if not found or len(found[1]) > 18:
        raise InputError(f"--cache {word}: write it as 500M or 8G")
    return int(Decimal(found[1]) * 1024 ** powers[found[2]])


def one_source(words: list[str] | str) -> str | None:
    """Several Parquet files, as a shell's pattern gives them, are one source."""
    words = [words] if isinstance(words, str) else words
    strange = [word for word in words if not word.lower().endswith(".parquet")]
    if len(words) > 1 and strange:
        raise InputError(f"{strange[-1]}: one folder or data set at a time, or Parquet files")
    return os.pathsep.join(words) or None


def read_list(path: Path) -> tuple[str, ...]:
    """The pictures that a list names."""
    from deepen.data.lists import read_list  # imports torch

    return read_list(path)


def parse_scales(word: str) -> tuple[int, ...]:
    """Several numbers of pixels, 224,256,384 say."""
    found = [part.strip() for part in word.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 10_000 for part in found):
        raise InputError(f"--scales {word}: write them as 224,256,384")
    return tuple(map(int, found))


READ: dict[str, Callable[[Any], Any]] = {
    "data": one_source,
    "cache_bytes": parse_bytes,
    "exclude": read_list,
    "scales": parse_scales,
}
"""What an option says in another way than the record has it."""
