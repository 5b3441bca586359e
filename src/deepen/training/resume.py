"""Which run to go on with, whether it is the same one, and what differs where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepen.data.hold_out import Held
from deepen.data.sources import PictureSet
from deepen.errors import InputError, WorkError
from deepen.training.blocks import Length
from deepen.training.checkpoint import Checkpoint, load_checkpoint
from deepen.training.distributed import restartable, restarted
from deepen.training.initialization import Start, read_start
from deepen.training.optimizer import lr_factor
from deepen.training.pictures import changes
from deepen.training.plan import Plan, complete, held_by, open_pictures, settle, with_tags
from deepen.training.recipe import Recipe, build_recipe, load_recipe
from deepen.training.request import Here, Request, Training
from deepen.training.run import Run
from deepen.training.speed import Settings, stated
from deepen.training.state import check_plain
from deepen.weights import Card


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
    asked: dict[str, Any] = {} if request.model is None else {"model": request.model}
    if request.exclude:
        asked["excluded"] = sorted(request.exclude)
    if request.recipe is not None or request.changes:
        name = request.recipe
        base = settled.model_dump() if name is None else load_recipe(name).model_dump()
        wanted = build_recipe(name or "of the run", base, dict(request.changes))
        asked["recipe"] = _fields(wanted)
        if any(key.partition(".")[0] == "length" for key in request.changes):
            # Said on purpose; whether it may be another, the checkpoint decides.
            settled = settled.model_copy(update={"length": wanted.length})
    begun = {**identity(about, settled), "excluded": sorted(about["excluded"])}
    for difference in differences(begun, asked):
        raise InputError(f"--resume {run.path}: its {difference}")
    again = replace(
        request,
        data_dir=about["data_dir"] if request.data_dir is None else request.data_dir,
        exclude=tuple(about["excluded"]),
        download=False,
    )
    source = _same_pictures(run, about, again, held_by(settled), here)
    start = _start_again(run, about, request)
    found = {**about, "classes": list(source.classes)}
    for difference in differences(begun, identity(found, settled)):
        raise InputError(
            f"--resume {run.path}: data {about['name']} changed since the run began: {difference}"
        )
    data = request.data
    if data is None or (isinstance(data, str) and _same_place(data, about)):
        data = about["name"]  # as it was first called
    return complete(replace(again, data=data), here, source, about["model"], settled, start)


def _same_pictures(
    run: Run, about: dict[str, Any], again: Request, held: Held, here: Here
) -> PictureSet:
    """The pictures that the run was begun with, wherever they lie now.

    Those that are named are looked at, else the places where they may be. Names, labels and sizes
    say that they are the same, then the contents of files that were written to since.

    Raises:
        InputError: they are others, or are not found.
    """
    said, name, flag = again.data, about["name"], f"--resume {run.path}"
    if about["root"] is None and said is not None:
        called = said.name if isinstance(said, PictureSet) else said
        if called != name:
            raise InputError(f"{flag}: its data is {name}, not {called}")
    others: list[PictureSet] = []
    missing: list[InputError] = []
    for word in _places(run, about) if said is None else [said]:
        try:
            source = open_pictures(replace(again, data=word), held, about["fingerprint"])
        except InputError as error:
            missing.append(error)
            continue
        if source.fingerprint == about["fingerprint"]:
            found = changes(run.path, source)
            if found is not None and str(found):
                raise InputError(f"{flag}: data {name} changed since the run began: {found}")
            if found is not None and found.touched:
                here.reporter.message(found.unsure())
            return source
        others.append(source)
    if not others:
        hint = f"; if {name} has moved, name it: deepen train FOLDER {flag}" if said is None else ""
        raise InputError(f"{flag}: {missing[0]}{hint}") from missing[0]
    differs = _difference(run, about, others[0])
    if said is not None and not (isinstance(said, str) and _same_place(said, about)):
        called = others[0].name
        if called != name:
            raise InputError(f"{flag}: its data is {name}, not {called}: {differs}")
    raise InputError(f"{flag}: data {name} changed since the run began: {differs}")


def _places(run: Run, about: dict[str, Any]) -> list[str]:
    """Words for where a run's data may lie, the likeliest first.

    Runs of older versions know a folder only from the working directory that they were begun in:
    mostly this one, or one that the run folder lies in.
    """
    if about["root"] is None:
        return [about["name"]]
    first = [] if about.get("place") is None else [about["place"]]
    above = [str(folder / about["name"]) for folder in run.path.absolute().parents]
    old = [about["name"], *(word for word in above if Path(word.partition("?")[0]).exists())]
    return [*dict.fromkeys([*first, *old])]


def _difference(run: Run, about: dict[str, Any], source: PictureSet) -> str:
    """How a data set differs from the run's, in words that can be acted upon."""
    if list(source.classes) != list(about["classes"]):
        return next(differences({"classes": about["classes"]}, {"classes": list(source.classes)}))
    found = changes(run.path, source)
    if found is not None and str(found):
        return str(found)
    have, now = about.get("counts", {}), {name: len(s) for name, s in source.splits.items()}
    more = sum(now.values()) - sum(have.values())
    if have and more:
        return f"{abs(more):,} picture{'s'[: abs(more) != 1]} {'more' if more > 0 else 'fewer'}"
    fingerprints = ({"data fingerprint": about["fingerprint"]}, source.fingerprint)
    return next(differences(fingerprints[0], {"data fingerprint": fingerprints[1]}))


def note_place(run: Run, plan: Plan) -> None:
    """Keep where the data of a run that is gone on with lie now, if that is elsewhere."""
    about, now = run.read_about(), plan.about()
    moved = {key: now[key] for key in ("name", "root", "place", "data_dir")}
    if any(about.get(key) != value for key, value in moved.items()):
        run.write_json("data.json", {**about, **moved})


def note_changes(run: Run, plan: Plan, here: Here) -> WorkError | None:
    """What to end with once all is written, where files have changed while the run trained.

    It is said, and noted in data.json, which the report shows.
    """
    found = changes(run.path, plan.source)
    if found is None:
        return None
    lines = []
    if str(found):
        lines.append(f"data {plan.data} changed while the run trained: {found}")
    if found.touched:
        lines.append(found.unsure())
    about = run.read_about()
    if new := [line for line in lines if line not in about["notes"]]:
        run.write_json("data.json", {**about, "notes": [*about["notes"], *new]})
    for line in lines:
        here.reporter.message(line)
    return WorkError(f"{run.path}: {lines[0]}; its scores are of both") if str(found) else None


def place_of(weights: str | Path, card: Card) -> str:
    """Where the pictures lie that weights were trained on, as the run beside them knows it.

    Without such a run it is the card's word, as it was given in the working directory of then.
    """
    for folder in (Path(weights).parent, Path(weights).parent / "base"):  # a run's, a search's
        try:
            run = Run(folder)
            about = run.read_about()
        except InputError:
            continue
        if about["fingerprint"] == card.fingerprint:
            here = [word for word in _places(run, about) if Path(word.partition("?")[0]).exists()]
            return next(iter(here), card.data)
    return card.data


def confirm(
    run: Run, found: Checkpoint | None, job_identity: dict[str, Any], batches: int
) -> list[str]:
    """See that a checkpoint is this run's; a run may be another length if that changes nothing.

    A run that is made longer is, bit for bit, the longer run that was stopped there: what it has
    done must not depend on its length. recipe.yaml then says the new one.

    Args:
        run: that is gone on with.
        found: its checkpoint, if it has one.
        job_identity: of what is to be trained (`identity`).
        batches: of an epoch.

    Returns:
        What there is to say.

    Raises:
        InputError: the checkpoint is another run's, or its schedule depends on the length.
    """
    now = job_identity.get("recipe", {})
    if found is not None:
        for difference in besides_length(found.state["run"], job_identity):
            raise InputError(f"--resume {run.path}: its checkpoint's {difference}")
        was = found.state["run"].get("recipe", {})
        if "length" in was and was["length"] != now["length"]:
            _check_length(run, found, was, now, batches)
    if now and (run.path / "recipe.yaml").is_file():
        recipe = run.read_recipe()
        length = Length.model_validate(now["length"])
        if recipe.length != length:
            run.scores.unlink(missing_ok=True)  # of the shorter run
            run.write_recipe(recipe.model_copy(update={"length": length}))
            had, has = (_length({"length": each.model_dump()}) for each in (recipe.length, length))
            return [f"the run is now of {has}, not {had}"]
    return []


def besides_length(begun: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """`differences` of two runs, of whatever length."""
    ends = {"length": now.get("recipe", {}).get("length")}
    return differences({**begun, "recipe": {**begun.get("recipe", {}), **ends}}, now)


def _check_length(
    run: Run, found: Checkpoint, was: dict[str, Any], now: dict[str, Any], batches: int
) -> None:
    before, after = (_in_steps(Length.model_validate(r["length"]), batches) for r in (was, now))
    progress = found.state["progress"]
    done, schedule = progress["step"], build_recipe("of the run", {**now}, None).schedule
    said = f"its length is {_length(was)}, not {_length(now)}"
    if done > after:
        raise InputError(f"--resume {run.path}: {said}: {done:,} of {after:,} steps are done")
    why = ""
    if not progress["batch"] and done != progress["epoch"] * batches:
        why = "its last epoch ended before all pictures were seen"
    elif schedule.name != "plateau" and any(
        lr_factor(schedule, step, before) != lr_factor(schedule, step, after)
        for step in range(done + 1)
    ):
        why = f"so far its schedule, {schedule.name}, would have been another"
    if why:
        raise InputError(
            f"--resume {run.path}: {said}: {why}; begin a new run from its weights: "
            f"--weights {run.weights('last')}"
        )


def _in_steps(length: Length, batches: int) -> int:
    return length.steps or (length.epochs or 0) * batches


def _length(recipe: dict[str, Any]) -> str:
    return " ".join(f"{value:,} {unit}" for unit, value in recipe["length"].items() if value)


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
            load_checkpoint(run.checkpoints, check_plain)
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
        root is not None and Path(data).expanduser().resolve() == Path(root).resolve()
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
