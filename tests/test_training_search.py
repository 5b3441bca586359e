"""Search: interrupted and resumed it is the search that was never stopped; the test comes last."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from deepen import api
from deepen.errors import InputError, Interrupted
from deepen.evaluation.intervals import interval
from deepen.training import search as search_module
from deepen.training.plan import Plan, settle
from deepen.training.progress import Silent
from deepen.training.recipe import Span, load_recipe
from deepen.training.request import Here, Request
from deepen.training.search import (
    Order,
    _found,
    _Judged,
    _open,
    _pruner,
    _sampler,
    _within,
    space_of,
)
from deepen.training.task import Classification

optuna = pytest.importorskip("optuna", reason="optuna is not installed: deepen[search]")

TINY = {"length.epochs": 2, "batch_size": 128, "validation": 200, "schedule.warmup_steps": 0}
WORDS = {"model": "mlp", "recipe": "quick", "changes": TINY, "pruner": "none"}


class StopAt(Silent):
    """Ctrl-C after so many batches; keeps what is said."""

    def __init__(self, batches: int = 0) -> None:
        self.left, self.lines = batches, []

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def message(self, text: str) -> None:
        self.lines.append(text)


def study_of(folder: Path, name: str = "search"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'search.db'}")


def count_trials(folder: Path) -> int:
    """How many are stored, without optuna, which takes long to open a storage."""
    with contextlib.closing(sqlite3.connect(folder / "search.db")) as storage:
        tables = storage.execute("SELECT name FROM sqlite_master").fetchall()
        return (
            next(storage.execute("SELECT count(*) FROM trials"))[0] if ("trials",) in tables else 0
        )


def results(found):
    """What was tried and what came of it, killed trials left out."""
    return [(t.values, t.top1, t.loss, t.epochs) for t in found.trials if t.state != "fail"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return api.search("digits", **WORDS, trials=3, output=tmp_path_factory.mktemp("s") / "whole")


def test_a_search_ends_with_a_test_and_a_report(whole):
    folder, best = whole.folder, whole.found.best
    assert [t.state for t in whole.found.trials] == ["complete"] * 3
    assert best.top1 == max(t.top1 for t in whole.found.trials)
    for trial in whole.found.trials:  # what it reached is what its best epoch's row says
        with open(Path(trial.run) / "metrics.csv") as file:
            rows = [*csv.DictReader(file)]
        assert trial.top1 == max(float(row["eval_top1"]) for row in rows)
        assert trial.epochs == len(rows) == 2
    defaults = load_recipe("quick", TINY)
    first = whole.found.trials[0].values
    assert first["optimizer.lr"] == defaults.optimizer.lr  # the recipe as it stands comes first
    assert first["loss.label_smoothing"] == defaults.loss.label_smoothing
    # Only the best trial was scored on the test pictures; its weights are the search's.
    scored = [path.parent for path in folder.glob("trials/*/scores.json")]
    assert scored == [Path(best.run)]
    assert whole.trained.split == "test"
    assert whole.found.interval == interval(best.top1, 200)  # of the pictures held out
    weights = (scored[0] / "best.safetensors").read_bytes()
    assert (folder / "best.safetensors").read_bytes() == weights
    again = api.evaluate(folder / "best.safetensors")
    assert again.top1 == whole.trained.scores.top1
    page = (folder / "report.html").read_text()
    assert 'id="search"' in page
    assert page.count('<figure class="chart card">') >= 2 + 1 + 3  # curves, history, a key each
    assert f"trial {best.number}, the best of 3" in page
    assert "scored once" in page
    document = json.loads((scored[0] / "search.json").read_text())
    assert document["best"] == best.number
    assert [t["values"] for t in document["trials"]] == [t.values for t in whole.found.trials]


@pytest.mark.parametrize("batch", [1, 9, 14])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(whole, tmp_path, batch):
    """Six batches an epoch: in the first trial, and in the second's first and last epoch."""
    folder = tmp_path / "s"
    with pytest.raises(Interrupted, match="--resume"):
        api.search("digits", **WORDS, trials=3, output=folder, reporter=StopAt(batch))
    assert not list(folder.glob("trials/*/scores.json"))
    assert [t.state.name for t in study_of(folder).trials] == ["COMPLETE"] * (batch > 12)
    resumed = api.search(resume=folder, trials=3, pruner="none")
    assert results(resumed.found) == results(whole.found)
    assert [t.number for t in resumed.found.trials] == [0, 1, 2]
    assert resumed.trained.scores == whole.trained.scores


def test_a_killed_search_of_before_is_taken_up(whole, tmp_path):
    """Trials once stood in the storage while they ran: one runs, one waits, and no one is there."""
    folder = tmp_path / "s"
    with pytest.raises(Interrupted):
        api.search("digits", **WORDS, trials=3, output=folder, reporter=StopAt(14))
    study = study_of(folder)
    running = study.ask()
    running.suggest_float("optimizer.lr", 0.01, 0.5, log=True)  # half of it was drawn
    study.enqueue_trial(running.params)
    resumed = api.search(resume=folder, trials=3, pruner="none")
    assert [t.state for t in resumed.found.trials].count("fail") == 2
    assert results(resumed.found) == results(whole.found)


class Killed(BaseException):
    """Nothing catches it: what is on the disk is what kill -9 leaves."""


class Points:
    """Counts the instants at which a search may be killed, and kills it at one of them."""

    def __init__(self) -> None:
        self.seen, self.at = 0, -1

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Killed

    def around(self, function):
        def counted(*given, **named):
            self()
            found = function(*given, **named)
            self()
            return found

        return counted


def shortened(points: Points):
    """In place of a training: four epochs whose score follows from the trial's values alone."""

    def train(trial, values, order, here) -> float:
        rate, decay = np.log10(values["optimizer.lr"]), np.log10(values["optimizer.weight_decay"])
        top = 1 / (1 + (rate + 1) ** 2 + (decay + 4) ** 2 + values["loss.label_smoothing"])
        trial.set_user_attr("loss", 1 - top)
        for epoch in range(1, 5):
            trial.set_user_attr("epochs", epoch)
            trial.report(top * (1 - 0.5**epoch), epoch)
            points()
            if epoch < 4 and trial.should_prune():
                raise optuna.TrialPruned
        return top * (1 - 0.5**4)

    return train


def shortly() -> tuple[Plan, dict[str, Span]]:
    """A plan, and the space of those trainings."""
    plan = settle(Request("digits", model="mlp", recipe="quick", changes=TINY), Here())
    space = space_of(load_recipe("resnet-cifar"))[0]
    return plan, {**space, "loss.label_smoothing": Span(low=0.0, high=0.2)}


@pytest.mark.parametrize("pruner", ["median", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_a_search_killed_at_every_instant_ends_as_one_that_was_not(tmp_path, monkeypatch, pruner):
    """Between two values, before and after each epoch's report, before and after it is stored.

    Eight trials: from the sixth on the sampler has learned from the others, and some are pruned.
    Of the second to the fourth, which are as the first, every fifth instant will do.
    """
    plan, space = shortly()
    points = Points()
    monkeypatch.setattr(search_module, "_train", shortened(points))
    for owner, name in (
        (search_module, "_suggest"),
        (search_module, "_copy"),
        (optuna, "create_study"),
        (optuna.study.Study, "set_user_attr"),
        (optuna.study.Study, "optimize"),
        (optuna.study.Study, "add_trial"),
    ):
        monkeypatch.setattr(owner, name, points.around(getattr(owner, name)))

    def run(folder: Path):
        folder.mkdir(exist_ok=True)
        order = Order(plan, space, pruner, folder, None, "search")
        found = search_module.search(order, 8, Here())
        return [t._replace(run="") for t in found.trials], found.best, found.importances

    unstopped = run(tmp_path / "whole")
    states = {trial.state for trial in unstopped[0]}
    assert states == {"complete", "pruned"}
    killed, kills, after = tmp_path / "killed", 0, 0
    stored: set[int] = set()
    while True:
        after += 5 if len(stored) in (2, 3, 4) else 1
        points.seen, points.at = 0, after
        try:
            found = run(killed)
            break
        except Killed:
            kills += 1
        points.at = -1
        if (now := count_trials(killed)) not in stored:
            stored.add(now)
            after = 0  # of the next trial again
    assert kills > 5 * 12
    assert found == unstopped


def test_more_trials_go_on_from_the_same_history(whole, tmp_path):
    folder = tmp_path / "s"
    two = api.search("digits", **WORDS, trials=2, output=folder)
    assert results(two.found) == results(whole.found)[:2]
    three = api.search(resume=folder, trials=3, pruner="none")
    assert results(three.found) == results(whole.found)
    tested = len(list(folder.glob("trials/*/scores.json")))
    document = json.loads((Path(three.found.best.run) / "search.json").read_text())
    assert document["tested"] == tested  # another best trial is another look, and it is said


def test_other_searches_and_data_are_refused(whole, tmp_path):
    for words, match in (
        ({"model": "lenet5"}, "model is mlp, not lenet5"),
        ({"data": "mnist"}, "its data is digits, not mnist"),
        ({"changes": {"optimizer.momentum": 0.5}}, r"momentum is 0.9, not 0.5"),
        ({"pruner": "median"}, "pruner is none, not median"),
    ):
        with pytest.raises(InputError, match=match):
            api.search(resume=whole.folder, trials=3, **{"pruner": "none", **words})
    with pytest.raises(InputError, match="no folder of a search"):
        api.search(resume=tmp_path, trials=3)
    with pytest.raises(InputError, match="there are none"):
        api.search(
            "digits", model="mlp", recipe="quick", changes={"validation": 0}, output=tmp_path / "n"
        )
    with pytest.raises(InputError, match="--storage: cannot be opened"):
        api.search("digits", **WORDS, storage="nonsense://x", output=tmp_path / "b")
    assert not list(tmp_path.iterdir())  # nothing is begun that cannot go on


def test_a_shared_storage_holds_one_search_under_a_name(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    words = {**WORDS, "storage": url, "study": "mine"}
    first = api.search("digits", **words, trials=1, output=tmp_path / "a")
    more = api.search(resume=tmp_path / "a", trials=2, storage=url, study="mine", pruner="none")
    assert results(more.found)[:1] == results(first.found)
    other = {**words, "changes": {**TINY, "batch_size": 64}}
    with pytest.raises(InputError, match=r"--study-name mine: .* batch_size is 128, not 64"):
        api.search("digits", **other, trials=1, output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("silent_s", "dead"), [(120, False), (240, True)])
def test_a_trial_whose_process_died_is_done_again(tmp_path, monkeypatch, silent_s, dead):
    """On a shared storage, after three minutes without a beat; until then it is under way."""
    monkeypatch.setattr(search_module, "_train", shortened(Points()))
    plan, space = shortly()
    order = Order(plan, space, "none", tmp_path, f"sqlite:///{tmp_path / 'shared.db'}", "mine")
    study, values = _open(order), dict.fromkeys(space, 1e-3)
    values["optimizer.lr"] = 0.3
    study.enqueue_trial(values)
    with pytest.warns(UserWarning, match="Heartbeat of storage is supposed"):
        trial = study.ask()  # as `optimize` does in the process that died
    study._storage.record_heartbeat(trial._trial_id)
    with contextlib.closing(sqlite3.connect(tmp_path / "shared.db")) as storage, storage:
        since = f"datetime('now', '-{silent_s} seconds')"
        storage.execute(f"UPDATE trial_heartbeats SET heartbeat = {since}")
    found = search_module.search(order, 2, Here())
    assert found.running == (not dead)
    states = [trial.state for trial in found.trials]
    assert states == (["fail", "complete", "complete"] if dead else ["running", "complete"])
    assert (found.trials[-1].values == values) == dead


def test_the_sampler_is_seeded_by_the_recipe_and_the_number_of_trials():
    """By 32 bits of `printf '7 2' | sha256sum`; a trial that failed does not count."""
    study, theirs = (optuna.create_study(direction="maximize") for _ in range(2))
    for top1 in (0.5, 0.6):
        study.tell(study.ask(), top1)
        theirs.tell(theirs.ask(), top1)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.sampler = _sampler(7, study)
    theirs.sampler = optuna.samplers.TPESampler(seed=0x8847CCF9)
    drawn = [[s.ask().suggest_float("x", 0, 1) for _ in range(2)] for s in (study, theirs)]
    assert drawn[0] == drawn[1]


def test_a_hopeless_trial_is_pruned_and_a_diverged_one_is_the_worst(tmp_path):
    """By the median rule: after three whole trials, from the second epoch on."""
    space = {"optimizer.lr": {"choices": [0.05, 1e30]}}
    changes = {**TINY, "length.epochs": 3, "search": space, "clip_norm": None}
    changes |= {"optimizer.lr": 0.05}
    words = {**WORDS, "changes": changes, "pruner": "median"}
    told = StopAt()
    found = api.search("digits", **words, trials=8, output=tmp_path / "s", reporter=told).found
    wild = [t for t in found.trials if t.values["optimizer.lr"] == 1e30]
    assert wild
    assert all((t.top1 or 0) < 0.3 for t in wild)
    assert found.best.values == {"optimizer.lr": 0.05}
    assert any("the loss is" in line for line in told.lines)


def order_of(pruner: str) -> Order:
    """As much of one as the rules look at."""
    source = SimpleNamespace(classes=("one", "other"), splits={"val": range(20)})
    plan = SimpleNamespace(recipe=load_recipe("quick"), source=source)
    return cast("Order", SimpleNamespace(pruner=pruner, folder=Path("search"), plan=plan))


@pytest.mark.parametrize("whole", [2, 3])
def test_the_median_rule_by_hand(whole):
    """Below the median of three whole trials or more, from the second epoch on."""
    study = optuna.create_study(direction="maximize", pruner=_pruner(order_of("median")))
    for top1 in (0.4, 0.5, 0.6)[:whole]:
        trial = study.ask()
        for epoch in (1, 2):
            trial.report(top1, epoch)
        study.tell(trial, top1)
    stopped = []
    for top1 in (0.45, 0.55):
        trial = study.ask()
        trial.report(0.1, 1)
        early = trial.should_prune()
        trial.report(top1, 2)
        stopped.append((early, trial.should_prune()))
    assert stopped == [(False, whole == 3), (False, False)]


def test_pruners_are_optunas_by_their_names():
    names = {name: type(_pruner(order_of(name))).__name__ for name in ("none", "hyperband")}
    assert names == {"none": "NopPruner", "hyperband": "HyperbandPruner"}


def test_only_an_epoch_before_the_last_is_pruned():
    """Each epoch is told by its number, and the loss is the best epoch's."""

    class Hopeless:
        def __init__(self) -> None:
            self.told: list[tuple[float, int]] = []
            self.attributes: dict[str, object] = {}

        def report(self, value: float, step: int) -> None:
            self.told.append((value, step))

        def should_prune(self) -> bool:
            return True

        def set_user_attr(self, key: str, value: object) -> None:
            self.attributes[key] = value

    trial = Hopeless()
    judged = _Judged(Silent(), cast("Any", trial), Classification(load_recipe("quick"), "ab"))
    rows = [{"epoch": n, "eval_top1": t, "eval_loss": 1.0 - t} for n, t in ((1, 0.75), (2, 0.5))]
    with pytest.raises(optuna.TrialPruned):
        judged.epoch(rows[0], 2)
    judged.epoch(rows[1], 2)
    assert trial.told == [(0.75, 1), (0.5, 2)]
    assert trial.attributes == {"epochs": 2, "loss": 0.25}


def test_what_was_tried_by_hand():
    """The best epoch's top-1; of a trial without an epoch there is none."""
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    trial.report(0.7, 1)
    trial.report(0.5, 2)
    trial.set_user_attr("epochs", 2)
    trial.set_user_attr("loss", 0.3)
    study.tell(trial, 0.7)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    found = _found(study, order_of("none"))
    told = [(t.state, t.top1, t.loss, t.epochs) for t in found.trials]
    assert told == [("complete", 0.7, 0.3, 2), ("fail", None, None, 0)]
    assert (found.best, found.running) == (found.trials[0], 0)


def test_the_recipe_is_tried_first_only_within_the_space():
    space = {
        "optimizer.lr": Span(low=0.01, high=0.1),
        "optimizer.name": Span(choices=["sgd", "adamw"]),
    }
    inside = {"optimizer.lr": 0.1, "optimizer.name": "adamw"}
    assert _within(inside, space)
    assert _within({**inside, "optimizer.lr": 0.01}, space)
    for outside in ({"optimizer.lr": 0.2}, {"optimizer.lr": None}, {"optimizer.name": "rmsprop"}):
        assert not _within({**inside, **outside}, space)


def test_spaces_are_the_recipes_or_a_usual_one_that_is_said():
    quick = load_recipe("quick")
    assert space_of(quick)[0] == quick.search
    space, words = space_of(load_recipe("resnet-cifar"))
    assert space["optimizer.lr"] == Span(low=0.01, high=1.0, log=True)
    assert space["optimizer.weight_decay"].high == pytest.approx(1e-3)
    assert space["loss.label_smoothing"] == Span(low=0.0, high=0.2)
    wide = load_recipe("resnet-cifar", {"loss.label_smoothing": 0.3, "optimizer.weight_decay": 0})
    assert space_of(wide)[0]["loss.label_smoothing"].high == 0.3
    decays = space_of(wide)[0]["optimizer.weight_decay"]
    assert (decays.low, decays.high) == pytest.approx((1e-5, 1e-3))  # a decade round 1e-4
    assert "declares none" in words
    assert "optimizer.lr 0.01 to 1 (log)" in words
    assert "loss.label_smoothing" not in space_of(load_recipe("rsb-a3"))[0]
