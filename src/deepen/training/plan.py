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
from deepen.training.choice import PRETRAINED, choose
from deepen.training.identity import differences, fields_of, identity
from deepen.training.initialization import Start, read_start
from deepen.training.progress import Reporter
from deepen.training.recipe import Recipe, build_recipe, load_recipe
from deepen.training.run import Run
from deepen.weights.from_torchvision import is_torchvision
from deepen.weights.names import TORCHVISION


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
        start: trained weights that it starts from, if any.
    """

    data: str
    data_dir: str | None
    excluded: tuple[str, ...]
    model: str
    recipe: Recipe
    source: PictureSet
    words: tuple[str, ...]
    start: Start | None = None

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
            "start": None if self.start is None else self.start.about(),
        }

    def identity(self) -> dict[str, Any]:
        """What it trains on what, to be compared."""
        source = self.source
        start = None if self.start is None else self.start.sha256
        return identity(self.model, source.classes, source.fingerprint, self.recipe, start)

    def shared(self) -> dict[str, Any]:
        """What another process needs in order to make the same plan."""
        return {
            "data": self.data,
            "data_dir": self.data_dir,
            "excluded": list(self.excluded),
            "model": self.model,
            "recipe": self.recipe.model_dump(mode="json"),
            "fingerprint": self.source.fingerprint,
            "start": None if self.start is None else self.start.about(),
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
    model, begun, start = shared["model"], shared["start"], None
    if begun is not None:
        start = read_start(begun["path"], model, whole=begun["whole"])
        if start.sha256 != begun["sha256"]:
            raise InputError(f"{begun['path']}: {socket.gethostname()} has another file there")
    excluded = tuple(shared["excluded"])
    return Plan(shared["data"], shared["data_dir"], excluded, model, recipe, source, (), start)


def new_plan(
    data: str | None,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any] | None,
    data_dir: str | Path | None,
    download: bool,
    exclude: Collection[str],
    reporter: Reporter,
    *,
    weights: str | None = None,
    init_from: str | None = None,
    device: str = "cpu",
) -> Plan:
    """Settle a new run: read the data, choose what the user left open, and say so.

    Raises:
        InputError: words or data are off; nothing has been written.
        WorkError: weights of others could not be fetched.
    """
    if data is None:
        raise InputError("name the data to train on: a folder of pictures, or a data set")
    if weights is not None and init_from is not None:
        raise InputError("--init-from copies layers, --weights takes all: give one of them")
    changes = changes or {}
    if model is not None and ":" not in model:
        get_architecture(model)  # a wrong name is said before the data are read
    held_out = None
    if "validation" in changes:  # any recipe refuses what is no count
        held_out = load_recipe("quick", {"validation": changes["validation"]}).validation
    if recipe is not None and held_out is None:
        held_out = load_recipe(recipe, changes).validation
    source = open_source(
        data,
        data_dir=None if data_dir is None else Path(data_dir),
        download=download,
        validation=held_out,
        exclude=exclude,
    )
    if init_from is not None:
        start = read_start(init_from, None, whole=False)
    else:
        weights = weights or _consented(source, model, recipe, download)
        start = None if weights is None else _pretrained(weights, model, device)
    card = start.loaded.card if start is not None and start.whole else None
    choice = choose(source, model, recipe, changes, card, device)
    for line in (*source.notes, *choice.words):
        reporter.message(line)
    where = None if data_dir is None else str(data_dir)
    return Plan(
        data, where, tuple(exclude), choice.model, choice.recipe, source, choice.words, start
    )


def _consented(
    source: PictureSet, model: str | None, recipe: str | None, download: bool
) -> str | None:
    """Whether weights may be fetched: for a folder of photographs that nobody has a recipe for."""
    known = model is None or model in TORCHVISION.values()
    photographs = source.root is not None and source.splits["train"].files is not None
    return "imagenet" if download and known and recipe is None and photographs else None


def _pretrained(weights: str, model: str | None, device: str) -> Start:
    if model is None and is_torchvision(weights):
        model = PRETRAINED.get(device, PRETRAINED["cpu"])
    return read_start(weights, model, whole=True)


def old_plan(
    run: Run,
    data: str | None,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any] | None,
    data_dir: str | Path | None,
    exclude: Collection[str] = (),
    *,
    weights: str | None = None,
    init_from: str | None = None,
) -> Plan:
    """The plan of an existing run; what the user says again must be what the run was begun with.

    Raises:
        InputError: another data set, model or recipe, other weights to start from, or data that
            changed; the field is named.
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
        asked["recipe"] = fields_of(wanted)
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
    start = _start_again(run, about, weights, init_from)
    excluded = tuple(about["excluded"])
    plan = Plan(about["name"], where, excluded, about["model"], settled, source, (), start)
    for difference in differences(begun, plan.identity()):
        raise InputError(
            f"--resume {run.path}: data {about['name']} changed since the run began: {difference}"
        )
    return plan


def _start_again(
    run: Run, about: dict[str, Any], weights: str | None, init_from: str | None
) -> Start | None:
    """The weights that the run was begun with, from where they were or where they are said to be.

    Raises:
        InputError: they are gone, or others.
    """
    begun = about.get("start")
    for flag, said, whole in (("--weights", weights, True), ("--init-from", init_from, False)):
        if said is not None and (begun is None or begun["whole"] is not whole):
            raise InputError(f"--resume {run.path}: was begun without {flag}")
    if begun is None:
        return None
    flag = "--weights" if begun["whole"] else "--init-from"
    path = weights or init_from or begun["path"]
    try:
        start = read_start(path, about["model"], whole=begun["whole"])
    except InputError as error:
        raise InputError(f"--resume {run.path}: {error}; {flag} FILE says where it is") from error
    if start.sha256 != begun["sha256"]:
        raise InputError(
            f"--resume {run.path}: was begun with the {flag} of SHA-256 {begun['sha256'][:16]}, "
            f"{path} has {start.sha256[:16]}"
        )
    return start._replace(path=begun["path"])


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
