"""What a run is going to do, settled before it begins and checked again when it is resumed."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from deepen.data.sources import PictureSet, open_source
from deepen.errors import InputError, WorkError
from deepen.models import get_architecture
from deepen.training.checkpoint import load_checkpoint
from deepen.training.choice import choose
from deepen.training.identity import differences, identity
from deepen.training.progress import Reporter
from deepen.training.recipe import Recipe, build_recipe, load_recipe
from deepen.training.run import Run


class Plan(NamedTuple):
    """What a run does, settled: all that a resume must find unchanged.

    Attributes:
        data: folder or name, as the user gave it.
        data_dir: where named data sets lie, if said.
        excluded: pictures left out.
        model: name of the network.
        recipe: complete.
        source: the pictures.
        words: what was chosen for the user, and why.
    """

    data: str
    data_dir: str | None
    excluded: tuple[str, ...]
    model: str
    recipe: Recipe
    source: PictureSet
    words: tuple[str, ...]

    def about(self) -> dict[str, Any]:
        """data.json."""
        source = self.source
        return {
            "name": self.data,
            "model": self.model,
            "data_dir": self.data_dir,
            "excluded": list(self.excluded),
            "root": None if source.root is None else str(source.root),
            "classes": list(source.classes),
            "channels": source.channels,
            "counts": {name: len(split) for name, split in source.splits.items()},
            "notes": [*source.notes, *self.words],
            "fingerprint": source.fingerprint,
        }

    def identity(self) -> dict[str, Any]:
        """What it trains on what, to be compared."""
        source = self.source
        return identity(self.model, source.classes, source.fingerprint, self.recipe)

    def shared(self) -> dict[str, Any]:
        """What another process needs in order to make the same plan."""
        return {
            "data": self.data,
            "data_dir": self.data_dir,
            "excluded": list(self.excluded),
            "model": self.model,
            "recipe": self.recipe.model_dump(mode="json"),
            "fingerprint": self.source.fingerprint,
        }


def same_plan(shared: dict[str, Any]) -> Plan:
    """The plan of another process, on this one's copy of the data.

    Raises:
        InputError: this process sees no data there, or others.
    """
    recipe = Recipe.model_validate(shared["recipe"])
    source = open_source(
        shared["data"],
        data_dir=None if shared["data_dir"] is None else Path(shared["data_dir"]),
        validation=recipe.validation,
        exclude=shared["excluded"],
    )
    if source.fingerprint != shared["fingerprint"]:
        raise InputError(
            f"data {shared['data']}: {socket.gethostname()} has other pictures there than the "
            "machine of process 0"
        )
    excluded = tuple(shared["excluded"])
    return Plan(shared["data"], shared["data_dir"], excluded, shared["model"], recipe, source, ())


def new_plan(
    data: str | None,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any] | None,
    data_dir: str | Path | None,
    download: bool,
    exclude: Collection[str],
    reporter: Reporter,
) -> Plan:
    """Settle a new run: read the data, choose what the user left open, and say so.

    Raises:
        InputError: words or data are off; nothing has been written.
    """
    if data is None:
        raise InputError("name the data to train on: a folder of pictures, or a data set")
    changes = changes or {}
    if model is not None and ":" not in model:
        get_architecture(model)  # a wrong name is said before the data are read
    held_out = changes.get("validation")
    if recipe is not None and held_out is None:
        held_out = load_recipe(recipe, changes).validation
    source = open_source(
        data,
        data_dir=None if data_dir is None else Path(data_dir),
        download=download,
        validation=held_out,
        exclude=exclude,
    )
    choice = choose(source, model, recipe, changes)
    for line in (*source.notes, *choice.words):
        reporter.message(line)
    where = None if data_dir is None else str(data_dir)
    return Plan(data, where, tuple(exclude), choice.model, choice.recipe, source, choice.words)


def old_plan(
    run: Run,
    data: str | None,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any] | None,
    data_dir: str | Path | None,
    exclude: Collection[str] = (),
) -> Plan:
    """The plan of an existing run; what the user says again must be what the run was begun with.

    Raises:
        InputError: another data set, model or recipe, or data that changed; the field is named.
    """
    about, settled = run.read_about(), run.read_recipe()
    if data is not None and not _same_place(data, about):
        raise InputError(f"--resume {run.path}: its data is {about['name']}, not {data}")
    asked: dict[str, Any] = {} if model is None else {"model": model}
    if exclude:
        asked["excluded"] = sorted(exclude)
    if recipe is not None or changes:
        base = settled.model_dump() if recipe is None else load_recipe(recipe).model_dump()
        wanted = build_recipe(recipe or "of the run", base, changes)
        asked["recipe"] = wanted.model_dump(mode="json")
    begun = {**run.identity(), "excluded": sorted(about["excluded"])}
    for difference in differences(begun, asked):
        raise InputError(f"--resume {run.path}: its {difference}")
    where = about["data_dir"] if data_dir is None else str(data_dir)
    source = open_source(
        about["name"],
        data_dir=None if where is None else Path(where),
        validation=settled.validation,
        exclude=about["excluded"],
    )
    excluded = tuple(about["excluded"])
    plan = Plan(about["name"], where, excluded, about["model"], settled, source, ())
    for difference in differences(begun, plan.identity()):
        raise InputError(
            f"--resume {run.path}: data {about['name']} changed since the run began: {difference}"
        )
    return plan


def newest_run(folder: Path, wanted: dict[str, Any], reporter: Reporter) -> Run | None:
    """The run in a folder that was written to last, of those that are whole and as wanted.

    A finished one counts, as does one that was stopped before its first checkpoint: going on with
    the former scores it again, with the latter begins it again.

    Args:
        folder: of run folders.
        wanted: fields of `Plan.identity` that it must agree with.
        reporter: told of each that agrees but cannot be gone on with.
    """
    for run in Run.begun(folder):
        try:
            if any(differences(run.identity(), wanted)):
                continue
            load_checkpoint(run.checkpoints)
        except (InputError, WorkError) as error:
            reporter.message(f"--resume auto: passed over {run.path}: {error}")
        else:
            return run
    return None


def _same_place(data: str, about: dict[str, Any]) -> bool:
    """Whether the user's word means the run's data: photos/ is photos."""
    root = about["root"]
    return data == about["name"] or (
        root is not None and Path(data).resolve() == Path(root).resolve()
    )
