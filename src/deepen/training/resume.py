"""Which run to go on with, whether it is the same one, and what differs where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepen.data.sources import PictureSet
from deepen.errors import InputError, WorkError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.distributed import restartable, restarted
from deepen.training.initialization import Start, read_start
from deepen.training.plan import Plan, complete, open_pictures, settle, with_tags
from deepen.training.recipe import Recipe, build_recipe, load_recipe
from deepen.training.request import Here, Request, Training
from deepen.training.run import Run
from deepen.training.speed import Settings, stated


def find(asked: Training, here: Here) -> tuple[Plan, Run | None]:
    """A new plan; or that of the run to go on with, and the run.

    Raises:
        InputError: words or data are off, or are not those that the run was begun with.
    """
    if asked.resume is None and asked.output is None and restartable():
        raise InputError("torchrun --max-restarts needs --output RUN, to find it again")
    resume = "auto" if asked.resume is None and restarted() else asked.resume
    if resume is None:
        return settle(asked, here), None
    if resume != "auto":
        run = Run.open(Path(resume))
        return plan_of(run, asked, here), run
    if asked.output is None and asked.data is not None:
        plan = settle(asked, here)
        run = _newest(identity(plan.about(), plan.recipe), here)
        return (plan if run is None else replace(plan, recipe=run.read_recipe())), run
    if asked.output is None:
        run = _newest({} if asked.model is None else {"model": asked.model}, here)
    else:
        begun = (Path(asked.output) / "recipe.yaml").is_file()
        run = _told(Run(Path(asked.output)) if begun else None, here)
    return settle(asked, here) if run is None else plan_of(run, asked, here), run


def plan_of(run: Run, request: Request, here: Here) -> Plan:
    """The plan of an existing run; what the user says again must be what the run was begun with.

    Raises:
        InputError: another data set, model or recipe, other weights to start from, or data that
            changed; the field is named.
    """
    about, settled = run.read_about(), run.read_recipe()
    request = with_tags(request, settled.task)
    if request.data is not None and not _same_place(request.data, about):
        said = request.data.name if isinstance(request.data, PictureSet) else request.data
        raise InputError(f"--resume {run.path}: its data is {about['name']}, not {said}")
    asked: dict[str, Any] = {} if request.model is None else {"model": request.model}
    if request.exclude:
        asked["excluded"] = sorted(request.exclude)
    if request.recipe is not None or request.changes:
        name = request.recipe
        base = settled.model_dump() if name is None else load_recipe(name).model_dump()
        wanted = build_recipe(name or "of the run", base, dict(request.changes))
        asked["recipe"] = _fields(wanted)
    begun = {**identity(about, settled), "excluded": sorted(about["excluded"])}
    for difference in differences(begun, asked):
        raise InputError(f"--resume {run.path}: its {difference}")
    again = replace(
        request,
        data=request.data if isinstance(request.data, PictureSet) else about["name"],
        data_dir=about["data_dir"] if request.data_dir is None else request.data_dir,
        exclude=tuple(about["excluded"]),
        download=False,
    )
    source = open_pictures(again, settled.validation)
    start = _start_again(run, about, request)
    found = {**about, "classes": list(source.classes), "fingerprint": source.fingerprint}
    for difference in differences(begun, identity(found, settled)):
        raise InputError(
            f"--resume {run.path}: data {about['name']} changed since the run began: {difference}"
        )
    return complete(again, here, source, about["model"], settled, start)


def identity(about: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What makes a run this run, as plain JSON: all that a resume must find unchanged.

    Args:
        about: `Plan.about`, or data.json.
        recipe: complete or not; what it leaves open of its speed settings is not compared.
    """
    return {
        "model": about["model"],
        "classes": list(about["classes"]),
        "data fingerprint": about["fingerprint"],
        "recipe": _fields(recipe),
        "SHA-256 of the weights it starts from": (about.get("start") or {}).get("sha256"),
    }


def differences(have: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Each field that both name and that differs: `optimizer.lr is 0.1, not 0.2`."""
    for key, value in asked.items():
        if key not in have or have[key] == value:
            continue
        if isinstance(value, dict) and isinstance(have[key], dict):
            inner = "" if key == "recipe" else f"{prefix}{key}."
            yield from differences(have[key], value, inner)
        else:
            yield f"{prefix}{key} is {_short(have[key], value)}, not {_short(value, have[key])}"


def no_longer_exact(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """A line where the bits of a resumed run depend on a machine that is not as it was.

    Both are of `deepen.training.state.machine`; what an older record does not hold is not compared.
    """
    changed = [
        f"{key} {saved[key]} -> {value}"
        for key, value in here.items()
        if key in saved and saved[key] != value
    ]
    return [f"resumed under another {', '.join(changed)}: no longer bit-exact"] if changed else []


def newest_run(folder: Path, wanted: dict[str, Any], here: Here) -> Run | None:
    """The run in a folder that was written to last, of those that are whole and as wanted.

    A finished one counts, as does one that was stopped before its first checkpoint: going on with
    the former scores it again, with the latter begins it again.

    Args:
        folder: of run folders.
        wanted: fields of `identity` that it must agree with.
        here: whose reporter is told of each that agrees but cannot be gone on with.
    """
    for run in Run.begun(folder):
        try:
            if any(differences(identity(run.read_about(), run.read_recipe()), wanted)):
                continue
            load_checkpoint(run.checkpoints)
        except (InputError, WorkError) as error:
            here.reporter.message(f"--resume auto: passed over {run.path}: {error}")
        else:
            return run
    return None


def _newest(wanted: dict[str, Any], here: Here) -> Run | None:
    return _told(newest_run(Path("runs"), wanted, here), here)


def _told(run: Run | None, here: Here) -> Run | None:
    words = "--resume auto: no such run yet, a new one" if run is None else f"resuming {run.path}"
    here.reporter.message(words)
    return run


def _start_again(run: Run, about: dict[str, Any], request: Request) -> Start | None:
    """The weights that the run was begun with, from where they were or where they are said to be.

    Raises:
        InputError: they are gone, or others.
    """
    begun = about.get("start")
    flags = {"--weights": (request.weights, True), "--init-from": (request.init_from, False)}
    for flag, (said, whole) in flags.items():
        if said is not None and (begun is None or begun["whole"] is not whole):
            raise InputError(f"--resume {run.path}: was begun without {flag}")
    if begun is None:
        return None
    flag = "--weights" if begun["whole"] else "--init-from"
    path = request.weights or request.init_from or begun["path"]
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


def _same_place(data: str | PictureSet, about: dict[str, Any]) -> bool:
    """Whether the user's word means the run's data: photos/ is photos."""
    if isinstance(data, PictureSet):
        return data.name == about["name"]
    root = about["root"]
    return data == about["name"] or (
        root is not None and Path(data).resolve() == Path(root).resolve()
    )


def _fields(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON, without the speed settings that it leaves open."""
    fields = recipe.model_dump(mode="json")
    left_open = set(Settings._fields) - set(stated(recipe))
    return {key: value for key, value in fields.items() if key not in left_open}


def _short(value: Any, other: Any) -> str:
    """In words; of two lists of a thousand classes what only this one has."""
    if isinstance(value, list) and isinstance(other, list):
        value = ", ".join(map(str, [item for item in value if item not in other] or value))
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
