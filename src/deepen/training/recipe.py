"""A recipe: everything that decides how a network is trained, as a checked YAML file.

A recipe of a paper says in comments which section each line comes from. Lengths are in epochs or,
as most papers have it, in steps (iterations); points of the schedule are fractions of the whole, so
that a shortened run keeps the shape of its schedule.
"""

from __future__ import annotations

import itertools
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from deepen.data.augment import Augmentation
from deepen.data.mixing import Mixing
from deepen.errors import InputError, first_problem, unknown
from deepen.files import parse_yaml, read_yaml
from deepen.training.blocks import (
    Block,
    Constant,
    CrossEntropy,
    Ema,
    Finetune,
    Init,
    Input,
    Length,
    Loss,
    Optimizer,
    PaperInit,
    PerChannel,
    Schedule,
    Sgd,
    Span,
)


class Recipe(Block, frozen=True):
    """A whole recipe; see the package's `recipes/` for those of the papers."""

    task: str = "classification"  # multilabel, or package.module:factory (deepen.training.task)
    length: Length
    batch_size: int = Field(default=128, ge=1, le=2**31)
    seed: int = Field(default=0, ge=0, lt=2**63)
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Constant()
    loss: Loss = CrossEntropy()
    augment: Augmentation = Augmentation()
    mix: Mixing = Mixing()
    ema: Ema = Ema()
    finetune: Finetune = Finetune()
    input: Input = PerChannel()
    init: Init = PaperInit()
    search: dict[str, Span] = Field(
        default_factory=dict
    )  # what `deepen search` may change, and where
    validation: int | None = Field(
        default=None, ge=0
    )  # pictures held out of training; None: the source's
    together: str | None = None
    """What keeps pictures in one split (`deepen.data.hold_out`): `subfolder`, `pattern:REGEX` or
    `column:NAME`; None: each is held out for itself."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """What an epoch shows: each training picture once; or as many pictures, of each class equally
    many, so that those of rare classes come again and of common ones not all do."""
    choose_by: str | None = None  # a figure of the task's that epochs are chosen by; None: its own
    scored: Literal["val", "test"] = "val"
    """The split that is scored after each epoch: `val`, which the epoch is chosen on; or `test`, as
    papers plot it: then nothing is chosen, and the last epoch counts."""
    early_stopping: int | None = Field(
        default=None, ge=1
    )  # epochs without a better one on validation
    accumulate: int = Field(default=1, ge=1)  # parts a batch goes through the network in
    clip_norm: float | None = Field(default=None, gt=0)
    # How it computes; left out, deepen chooses (deepen.training.speed)
    amp: bool | None = None  # bfloat16 autocast
    channels_last: bool | None = None
    compile: bool | None = None
    cuda_graph: bool | None = None
    max_bad_pictures: float = Field(
        default=0.05, ge=0, le=1
    )  # share of the files, above it the run stops

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if self.mix.active and self.loss.name == "map":
            raise ValueError("mix does not go with loss.name: map")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: more parts than the {self.batch_size} of batch_size")
        if self.validation == 0 or self.scored == "test":
            without = "validation is 0" if self.validation == 0 else "scored is test"
            needs = {
                "early_stopping": self.early_stopping is not None,
                "choose_by": self.choose_by is not None,
                "schedule.name: plateau": self.schedule.name == "plateau",
            }
            for key, used in needs.items():
                if used:
                    raise ValueError(f"{key} needs validation pictures, but {without}")
        for dotted in self.search:
            _check_key(self, dotted)
        return self


class Kinds(NamedTuple):
    """What a block may be, and the field of it that says which it is.

    Attributes:
        tag: `name` or `normalize`.
        models: of the kinds by the tag's value, the default first.
    """

    tag: str
    models: dict[str, type[BaseModel]]

    def having(self, key: str) -> list[str]:
        """The kinds that have a field."""
        return [name for name, model in self.models.items() if key in model.model_fields]

    def only(self, block: str, key: str, name: object) -> str:
        """In words why a field cannot be said of the kind `name`."""
        return f"{block}.{key} goes with {self.tag}: {' or '.join(self.having(key))}, not {name}"


@cache
def kinds() -> dict[str, Kinds]:
    """The blocks that there are several kinds of."""
    found = {}
    for key, field in Recipe.model_fields.items():
        if isinstance(tag := field.discriminator, str):
            models = get_args(field.annotation)
            found[key] = Kinds(tag, {m.model_fields[tag].default: m for m in models})
    return found


def _check_key(recipe: Recipe, dotted: str) -> None:
    """Refuse a search of what is no field of a recipe, or not of every kind that it may try.

    Raises:
        ValueError: names the nearest field, or the kinds that have it.
    """
    block: Any = recipe
    path = dotted.split(".")
    for depth, key in enumerate(path):
        known = type(block).model_fields if isinstance(block, BaseModel) else {}
        if depth == 1 and path[0] in kinds():
            several = kinds()[path[0]]
            span, having = recipe.search.get(f"{path[0]}.{several.tag}"), several.having(key)
            for name in (getattr(block, several.tag), *(span.choices if span else ())):
                if having and name not in having:
                    raise ValueError(f"search: {several.only(path[0], key, name)}")
        if key not in known or key in ("search", "init", "seed"):
            near = [".".join([*path[:depth], key]) for key in known]
            raise ValueError(f"search: {unknown('key', dotted, near)}")
        block = getattr(block, key)
    if isinstance(block, BaseModel):
        raise ValueError(f"search: {dotted} is a block; name one of its fields")


def list_recipes() -> list[str]:
    """Names of the recipes that ship with deepen."""
    folder = resources.files("deepen.training") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[0] != "_")


def recipe_text(name: str) -> str:
    """A recipe that ships with deepen, as it was written."""
    return (resources.files("deepen.training") / "recipes" / f"{name}.yaml").read_text("utf-8")


def recipe_source(name: str) -> tuple[str, str]:
    """Where a recipe that ships with deepen comes from, and what it is for: its first comment."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), recipe_text(name).splitlines())
    words = " ".join(line.removeprefix("#").strip() for line in lines)
    source, _, purpose = words.partition(" For: ")
    return source.rstrip("."), purpose


def load_recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or path and apply `changes`, {"optimizer.lr": 0.1} say.

    Raises:
        InputError: no such recipe, or one line for the first key that is unknown or impossible.
    """
    if name in list_recipes():
        fields = parse_yaml(recipe_text(name))
    elif Path(name).is_file() or name.endswith((".yaml", ".yml")):
        try:
            fields = read_yaml(Path(name))
        except InputError as error:
            raise InputError(f"recipe {error}") from error
    else:
        raise unknown("recipe", name, list_recipes())
    if not isinstance(fields, dict):
        raise InputError(f"recipe {name}: is no mapping of keys to values")
    return build_recipe(name, fields, changes)


def build_recipe(name: str, fields: dict[str, Any], changes: dict[str, Any] | None) -> Recipe:
    """A checked `Recipe` of plain fields and dotted changes; `name` is for the messages."""
    changes = changes or {}
    _leave_behind(fields, changes)
    for dotted, value in changes.items():
        block, *path = fields, *dotted.split(".")
        for key in path[:-1]:
            block = block.setdefault(key, {})
            if not isinstance(block, dict):
                raise InputError(f"recipe {name}: {key} has no fields")
        if path[0] == "length":  # epochs and steps exclude each other: the later word counts
            block.clear()
        block[path[-1]] = value
    loss = fields.setdefault("loss", {}) if fields.get("task") == "multilabel" else None
    if isinstance(loss, dict):
        loss.setdefault("name", "bce")
    try:
        return Recipe.model_validate(_of_one_kind(fields, changes))
    except ValidationError as error:
        raise InputError(f"recipe {name}: {first_problem(error, Recipe)}") from error
    except InputError as error:
        raise InputError(f"recipe {name}: {error}") from error


def _leave_behind(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    """Where a change names the kind of a block, drop what only others have, and its search."""
    for block, (tag, models) in kinds().items():
        if (model := models.get(str(changes.get(f"{block}.{tag}")))) is None:
            continue
        foreign = {key for other in models.values() for key in other.model_fields}
        for key in foreign - {*model.model_fields}:
            for place, name in ((block, key), ("search", f"{block}.{key}")):
                if isinstance(holder := fields.get(place), dict):
                    holder.pop(name, None)


def _of_one_kind(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Name the kind of each block, and drop the fields of other kinds that ask for nothing.

    Those that are empty or 0, or that have their default and are not among the changes, are no
    one's word; nor are any that an old dump has, which no training ever heeded.

    Raises:
        InputError: there is no such kind, or a field that asks for something belongs to another.
    """
    plain, dropped, old = dict(fields), set(), _is_old_dump(fields)
    for block, several in kinds().items():
        if not isinstance(said := fields.get(block), dict):
            continue
        said = {several.tag: next(iter(several.models)), **said}
        name = str(said[several.tag])
        if name not in several.models:
            raise unknown(f"{block}.{several.tag}", name, several.models)
        for key, value in [*said.items()]:
            having = several.having(key)
            if not having or name in having:
                continue  # what no kind has is refused below, with the nearest
            stated = f"{block}.{key}" in changes
            default = several.models[having[0]].model_fields[key].default
            if value and (stated or not (old or value == default)):
                raise InputError(several.only(block, key, name))
            del said[key]
            dropped.add(f"{block}.{key}")
        plain[block] = said
    if isinstance(search := fields.get("search"), dict):
        plain["search"] = {key: span for key, span in search.items() if key not in dropped}
    return plain


def _is_old_dump(fields: dict[str, Any]) -> bool:
    """Whether a run wrote it when blocks had the fields of all their kinds: no user writes so."""
    models = kinds()["optimizer"].models.values()
    said = fields.get("optimizer")
    return isinstance(said, dict) and all(
        model.model_fields.keys() <= said.keys() for model in models
    )
