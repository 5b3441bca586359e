"""Search a recipe's declared space: Optuna proposes, the loop trains, validation pictures judge.

What is maximised is the top-1 of a trial's best epoch on the validation pictures; the test pictures
are nowhere in here. A trial, its values and whether it is pruned, is a pure function of the trials
that finished before it, of its number and of the recipe's seed: sampler and pruner are made afresh
for each, on a copy of the history.

The storage is a SQLite file in the search's folder, for one process: a trial enters it whole once
it has finished, so a kill at any instant leaves nothing of the trial under way, and it is done
again from its start. Or it is any database by its URL, for as many processes as share the folder:
there trials under way stand too, and those whose process died are queued again with their values.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deepen.errors import Diverged, InputError, Interrupted, Preempted, WorkError
from deepen.training.build import build
from deepen.training.environment import Began, write_environment
from deepen.training.loop import fit
from deepen.training.plan import Plan, varied
from deepen.training.progress import Passing, Reporter, Row
from deepen.training.recipe import Recipe, Span, build_recipe
from deepen.training.request import Here
from deepen.training.resume import differences, identity
from deepen.training.run import Run
from deepen.training.task import Task, task_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

Pruner = Literal["median", "hyperband", "none"]
_COUNTED = ("COMPLETE", "PRUNED", "RUNNING")  # states of trials; one that failed is done again
STARTUP_TRIALS = 5  # proposed at random before the sampler models what it has seen
HEARTBEAT_S = 60  # of a trial on a shared storage; after three without a beat it counts as killed
FACTOR = 10.0  # how far the default space reaches from the recipe's own values, both ways


class Order(NamedTuple):
    """What is searched, and where it is kept.

    Attributes:
        plan: data, network and the recipe that trials differ from.
        space: dotted key of the recipe to where it looks.
        pruner: which trials are stopped early.
        folder: of the search; trials lie in `trials/`.
        storage: URL of a database, or None for the folder's own.
        study: its name there.
    """

    plan: Plan
    space: dict[str, Span]
    pruner: Pruner
    folder: Path
    storage: str | None
    study: str

    def identity(self) -> dict[str, Any]:
        """What a storage must have been filled with, to go on with it."""
        space = {key: span.model_dump(mode="json") for key, span in self.space.items()}
        plan = identity(self.plan.about(), self.plan.recipe)
        return {**plan, "space": space, "pruner": self.pruner}


class Tried(NamedTuple):
    """A trial as the report shows it; `top1` None where it did not get as far as an epoch."""

    number: int
    state: str
    top1: float | None
    loss: float | None
    epochs: int
    values: dict[str, Any]
    run: str


class Found(NamedTuple):
    """Where a search stands.

    Attributes:
        trials: all there are, in order.
        best: the best finished one, by top-1, then by loss.
        importances: share of each key in what the trials' top-1 differs by; empty where too few.
        running: trials of other processes that have not ended yet.
        figure: what `top1` is where epochs are chosen by something else.
    """

    trials: tuple[Tried, ...]
    best: Tried | None
    importances: dict[str, float]
    running: int
    figure: str = "top-1"

    def document(self, order: Order, tested: int) -> dict[str, Any]:
        """search.json, which the report draws; `tested`: how often test pictures were scored."""
        return {
            "study": order.study,
            "pruner": order.pruner,
            "space": {key: s.model_dump(exclude_defaults=True) for key, s in order.space.items()},
            "objective": f"{self.figure} on the validation pictures, best epoch",
            "best": None if self.best is None else self.best.number,
            "tested": tested,
            "importances": self.importances,
            "trials": [trial._asdict() for trial in self.trials],
        }


def space_of(recipe: Recipe) -> tuple[dict[str, Span], str]:
    """The recipe's declared space, or a usual one where it has none, and which in words."""
    if recipe.search:
        return dict(recipe.search), f"space: the recipe's, {_spans(recipe.search)}"
    lr, decay = recipe.optimizer.lr, recipe.optimizer.weight_decay or 1e-4
    space = {
        "optimizer.lr": Span(low=lr / FACTOR, high=lr * FACTOR, log=True),
        "optimizer.weight_decay": Span(low=decay / FACTOR, high=decay * FACTOR, log=True),
    }
    if recipe.loss.name == "cross_entropy":
        space["loss.label_smoothing"] = Span(low=0.0, high=max(0.2, recipe.loss.label_smoothing))
    return space, f"space: the recipe declares none (search:), so the usual one, {_spans(space)}"


def _spans(space: dict[str, Span]) -> str:
    words = []
    for key, span in space.items():
        among = " or ".join(map(str, span.choices))
        scale = " (log)" if span.log else ""
        words.append(f"{key} {among or f'{span.low:g} to {span.high:g}{scale}'}")
    return "; ".join(words)


def search(order: Order, trials: int, here: Here) -> Found:
    """Run trials until so many have finished (pruned ones count), and hand back what was found.

    The first tries the recipe as it stands, where that lies within the space.

    Raises:
        InputError: no validation pictures, optuna is missing, or the storage holds something else.
        WorkError: the storage or a file could not be written.
        Interrupted, Preempted: the trial under way is done again when the search goes on.
    """
    if "val" not in order.plan.source.splits:
        raise InputError("deepen search chooses on validation pictures, and there are none")
    study = _open(order)
    if order.storage is None:
        for trial in _in_state(study, "RUNNING", "WAITING"):  # of versions that wrote them early
            study._storage.set_trial_state_values(trial._trial_id, _state("FAIL"))
    if not study.trials and not _within(_values(order.plan.recipe, order.space), order.space):
        here.reporter.message("the recipe's own setting lies outside the space: not tried first")
    while len(_in_state(study, *_COUNTED)) < trials:
        _one_trial(study, order, here)
    return _found(study, order)


def _one_trial(stored: Study, order: Order, here: Here) -> None:
    """The next trial, in a copy of what is stored, and stored once it has finished.

    Of a shared storage only its values are drawn in the copy, and it is done there.
    """
    study, taken = _copy(stored, order), list[int]()
    if order.storage is not None:
        drawn = study.ask()
        values = {key: _suggest(drawn, key, span) for key, span in order.space.items()}
        if not _in_state(stored, "WAITING"):  # those of processes that died come first
            stored.enqueue_trial(values)
        study, stored.sampler = stored, study.sampler

    def objective(trial: Trial) -> float:
        taken.append(trial.number)
        values = {key: _suggest(trial, key, span) for key, span in order.space.items()}
        said = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
        here.reporter.message(f"trial {trial.number}: {said}")
        return _train(trial, values, order, here)

    try:
        study.optimize(objective, n_trials=1)
    except (Interrupted, Preempted, WorkError, KeyboardInterrupt) as error:
        if order.storage is not None:
            for number in taken:
                _queue(study, study.trials[number])
        raise type(error)(f"{error}; the search goes on with --resume {order.folder}") from error
    last = study.trials[taken[0]]
    if study is not stored:
        stored.add_trial(last)
    here.reporter.message(f"trial {last.number}: {last.state.name.lower()}, best {_top1(last):.4f}")


def _copy(stored: Study, order: Order) -> Study:
    """The history in memory, with a fresh sampler and pruner.

    The recipe as it stands is queued as the first. Numbers stay: Hyperband's brackets depend on
    them.
    """
    import optuna

    study = optuna.create_study(
        study_name=order.study, direction="maximize", pruner=_pruner(order), sampler=None
    )
    for trial in stored.get_trials():
        if trial.value is None:  # failed, or of another process and under way
            trial = optuna.trial.create_trial(state=_state("FAIL"))
        study.add_trial(trial)
    study.sampler = _sampler(order.plan.recipe.seed, stored)
    defaults = _values(order.plan.recipe, order.space)
    if not _in_state(stored, *_COUNTED) and _within(defaults, order.space):
        study.enqueue_trial(defaults)
    return study


def _train(trial: Trial, values: dict[str, Any], order: Order, here: Here) -> float:
    """Train one setting; top-1 of its best epoch on the validation pictures."""
    recipe = build_recipe("of the search", order.plan.recipe.model_dump(), values)
    plan = varied(order.plan, recipe, here)
    judged = _Judged(here.reporter, trial, task_of(recipe, plan.source.classes))
    job = build(plan, here.watched(judged))
    folder = order.folder / "trials" / f"{trial.number:04d}"
    if order.storage is None:
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left of this very trial
    run = Run.begin(folder, "", plan.about(), recipe)
    began = Began()
    write_environment(run, here, began)
    trial.set_user_attr("run", run.path.as_posix())
    try:
        state = fit(job, run)
    except Diverged as error:
        here.reporter.message(f"trial {trial.number}: {error}")
        return 0.0
    write_environment(run, here, began, ended=True)
    return 0.0 if state.best is None else job.task.rank(state.best)[0]


class _Judged(Passing):
    """Hands each epoch's validation score to Optuna as well, and stops where it says so."""

    def __init__(self, shown: Reporter, trial: Trial, task: Task) -> None:
        super().__init__(shown)
        self.trial, self.task = trial, task
        self.best: Row | None = None

    def epoch(self, row: Row, epochs: int) -> None:
        """See `Reporter`."""
        import optuna

        super().epoch(row, epochs)
        number = int(row["epoch"] or 0)
        if self.task.better(row, self.best):
            self.best = row
            self.trial.set_user_attr("loss", row.get("eval_loss"))
        self.trial.set_user_attr("epochs", number)
        self.trial.report(self.task.rank(row)[0], number)
        if number < epochs and self.trial.should_prune():
            raise optuna.TrialPruned


def _open(order: Order) -> Study:
    """The study in its storage, begun where there is none.

    Raises:
        InputError: optuna is missing, the storage cannot be opened, or holds another search.
    """
    try:
        import optuna
        from optuna.exceptions import ExperimentalWarning
    except ImportError as error:
        raise InputError("deepen search needs optuna: pip install 'deepen[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    beat = None if order.storage is None else HEARTBEAT_S
    url = order.storage or f"sqlite:///{(order.folder / 'search.db').resolve().as_posix()}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                heartbeat_interval=beat,
                grace_period=None if beat is None else 3 * beat,
                heartbeat_stale_trial_callback=_queue,
            )
            study = optuna.create_study(
                storage=storage,
                study_name=order.study,
                direction="maximize",
                pruner=_pruner(order),
                load_if_exists=True,
            )
    except Exception as error:  # of sqlalchemy, of its drivers, of optuna: no common ancestor
        raise InputError(f"--storage: cannot be opened ({' '.join(str(error).split())})") from error
    identity = order.identity()
    for difference in differences(study.user_attrs.get("identity", identity), identity):
        raise InputError(f"--study-name {order.study}: is of another search: its {difference}")
    if "identity" not in study.user_attrs:
        study.set_user_attr("identity", identity)
    return study


def _pruner(order: Order) -> Any:
    import optuna

    if order.pruner == "none":
        return optuna.pruners.NopPruner()
    if order.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1)
    return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2)  # epochs from 1 on


def _sampler(seed: int, study: Study) -> Any:
    """TPE, seeded by the recipe's seed and by how many trials there are that did not fail."""
    import optuna

    number = len(_in_state(study, *_COUNTED))
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=int.from_bytes(digest[:4], "big")
    )


def _suggest(trial: Trial, key: str, span: Span) -> Any:
    if span.choices:
        return trial.suggest_categorical(key, span.choices)
    assert span.low is not None and span.high is not None
    if isinstance(span.low, int) and isinstance(span.high, int):
        return trial.suggest_int(key, span.low, span.high, log=span.log)
    return trial.suggest_float(key, span.low, span.high, log=span.log)


def _values(recipe: Recipe, space: dict[str, Span]) -> dict[str, Any]:
    """What the recipe itself has for the keys of a space."""
    found = {}
    for dotted in space:
        value: Any = recipe
        for key in dotted.split("."):
            value = getattr(value, key)
        found[dotted] = value
    return found


def _within(values: dict[str, Any], space: dict[str, Span]) -> bool:
    for key, span in space.items():
        value = values[key]
        if span.choices:
            inside = value in span.choices
        else:
            assert span.low is not None and span.high is not None
            inside = isinstance(value, int | float) and span.low <= value <= span.high
        if not inside:
            return False
    return True


def _queue(study: Study, trial: FrozenTrial) -> None:
    """Have a trial of a process that died taken up again, with all its values, from its start."""
    if fixed := trial.system_attrs.get("fixed_params"):
        study.enqueue_trial(fixed, user_attrs={"again": trial.number})


def _in_state(study: Study, *names: str) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=tuple(map(_state, names)))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _top1(trial: FrozenTrial) -> float:
    return max(trial.intermediate_values.values(), default=0.0)


def _found(study: Study, order: Order) -> Found:
    tried = tuple(
        Tried(
            number=trial.number,
            state=trial.state.name.lower(),
            top1=_top1(trial) if trial.intermediate_values else None,
            loss=trial.user_attrs.get("loss"),
            epochs=int(trial.user_attrs.get("epochs", 0)),
            values=dict(trial.params),
            run=_run(trial, order.folder),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state != _state("WAITING")
    )
    whole = [t for t in tried if t.state == "complete" and t.top1 is not None]
    best = max(whole, key=lambda t: (t.top1, -(t.loss or 0.0), -t.number), default=None)
    running = sum(t.state == "running" for t in tried)
    figure = task_of(order.plan.recipe, order.plan.source.classes).figure
    return Found(tried, best, _importances(study, whole), running, figure)


def _run(trial: FrozenTrial, folder: Path) -> str:
    """Its folder as it is reached now: the search, or the working directory, may be another."""
    run = trial.user_attrs.get("run", "")
    return run and (folder / "trials" / Path(run).name).as_posix()


def _importances(study: Study, whole: list[Tried]) -> dict[str, float]:
    """fANOVA's (Hutter et al. 2014), with a fixed seed; of constant results nothing can be said."""
    if len(whole) < 4 or len({t.top1 for t in whole}) == 1:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in found.items()}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
