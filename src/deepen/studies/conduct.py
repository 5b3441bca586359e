"""A whole study: every arm with every seed, stopped and gone on with at any point."""

from __future__ import annotations

import datetime
import hashlib
import json
import multiprocessing
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from deepen.data.sources import PictureSet
from deepen.errors import Diverged, InputError, Interrupted, Preempted, WorkError
from deepen.files import read_json, read_text, write_whole
from deepen.locks import hold
from deepen.studies.arms import model_of
from deepen.studies.bench import Bench, take
from deepen.studies.catalog import find_study
from deepen.studies.study import Results, Setting, Study, Trial
from deepen.training.environment import about_machine
from deepen.training.progress import Reporter, Silent
from deepen.training.request import Here
from deepen.training.stop import StopRequest

_SINCE = ("networks",)  # older folders do not say it
_LONGEST = 100  # letters of a file's name; file systems end at 255 bytes


@dataclass(frozen=True)
class Order:
    """What the user asks for; all that a process needs to do a trial of it.

    Attributes:
        study: its name, or a YAML file of the user's own.
        setting: "small" or "full".
        seeds: 0, 1, ... up to this many.
        data: another data set or folder than the study's.
        data_dir: where named data sets lie.
        device: to train on.
        folder: of the study.
        threads: of each process.
        command: kept with each trial.
        exclude: pictures and boxes to leave out.
    """

    study: str
    setting: str
    seeds: int
    data: str | None
    data_dir: str | None
    device: str
    folder: Path
    threads: int
    command: str = ""
    exclude: tuple[str, ...] = ()

    @property
    def definition(self) -> Study:
        """The study itself."""
        return find_study(self.study)

    @property
    def plan(self) -> Setting:
        """Its setting, with the user's data."""
        settings = self.definition.settings
        if self.setting not in settings:
            raise InputError(f"study {self.study} has no {self.setting} setting")
        setting = settings[self.setting]
        if self.data is None:
            return setting
        return replace(setting, pictures=replace(setting.pictures, name=self.data))

    def trials(self) -> list[tuple[str, int]]:
        """Arm and seed of each, seed by seed, so that a study cut short compares whole seeds."""
        return [(arm.name, seed) for seed in range(self.seeds) for arm in self.plan.arms]

    def file(self, arm: str, seed: int) -> Path:
        """Where a finished trial is kept: no two arms of a study have the same file.

        Names that give the same file, in small letters too, or none that can be read, or one that
        is too long, get eight digits of the name's SHA-256.
        """
        slugs = Counter(_slug(each.name).lower() for each in self.plan.arms)
        slug = _slug(arm)
        if slugs[slug.lower()] > 1 or not slug.strip("_") or len(slug) > _LONGEST:
            slug = f"{slug[:_LONGEST]}-{hashlib.sha256(arm.encode()).hexdigest()[:8]}"
        return self.folder / "trials" / f"{slug}-{seed}.json"


def conduct(
    order: Order,
    reporter: Reporter,
    *,
    download: bool = False,
    budget_s: float | None = None,
    jobs: int = 1,
) -> Results:
    """Do what is not yet done of a study, and conclude.

    A trial whose loss becomes infinite is kept as failed and stands in the table.

    Args:
        order: what is asked for.
        reporter: shown what happens.
        download: whether a named data set may be fetched.
        budget_s: no trial is begun that would probably end after this; at least one is done.
        jobs: processes, each with the order's threads.

    Raises:
        InputError: no such study or data, or the folder holds another one, or is in use.
        Preempted: the budget is used up; finished trials are kept.
        Interrupted: asked to stop; all is kept.
        WorkError: something could not be written; what is done is kept.
    """
    source = take(order.plan.pictures, _path(order.data_dir), download, order.exclude)
    try:
        (order.folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"--output {order.folder}: {error.strerror}") from error
    with hold(order.folder, f"--output {order.folder}"):
        _check_folder(order, source)
        _do_all(order, reporter, budget_s, jobs)
        trials = [trial for each in order.trials() if (trial := _read(order, *each)) is not None]
        results = Results(
            study=order.definition.name,
            setting=order.setting,
            about=_about(order, source),
            trials=trials,
        )
        results.conclusions = order.definition.conclude(results)
        write_whole(order.folder / "results.json", results.model_dump_json(indent=1) + "\n")
    return results


def _do_all(order: Order, reporter: Reporter, budget_s: float | None, jobs: int) -> None:
    """Do what is not yet done; arguments and errors are those of `conduct`."""
    left = [each for each in order.trials() if _read(order, *each) is None]
    total, began = len(order.trials()), time.monotonic()
    longest = 0.0
    for done, trial in enumerate(_done(order, left, reporter, jobs), total - len(left) + 1):
        spent, longest = time.monotonic() - began, max(longest, trial.seconds)
        finished = done - total + len(left)
        ahead = spent / finished * (total - done)
        reporter.message(f"{done}/{total}  {_in_words(trial)}  about {ahead / 60:.0f} min to go")
        if budget_s is not None and done < total and spent + longest > budget_s:
            raise Preempted(
                f"the budget is used up: {done} of {total} trials are done and kept; "
                "go on with the same command"
            )


def _done(
    order: Order, left: list[tuple[str, int]], reporter: Reporter, jobs: int
) -> Iterator[Trial]:
    """Trials as they are finished."""
    if jobs == 1:
        for arm, seed in left:
            yield do_trial(order, arm, seed, reporter)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_end_with, initargs=(os.getpid(),))
    waiting, running = list(reversed(left)), set[Future[Trial]]()
    try:
        with StopRequest() as stop:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.add(pool.submit(do_trial, order, *waiting.pop()))
                ended, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                if stop.signal is not None:
                    raise stop.error("all is kept; go on with the same command")
                for future in ended:
                    yield future.result()
    finally:
        for process in list(pool._processes.values()):
            process.terminate()  # a trial under way saves itself
        pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, even by kill -9."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def do_trial(order: Order, arm: str, seed: int, reporter: Reporter | None = None) -> Trial:
    """One arm with one seed, kept in its file once it is done."""
    torch.set_num_threads(order.threads)
    began = time.monotonic()
    chosen = next(candidate for candidate in order.plan.arms if candidate.name == arm)
    study = str(Path(order.study).resolve()) if order.study.endswith("ml") else order.study
    bench = Bench(
        arm=chosen,
        model=chosen.model or model_of(study, order.setting, arm),
        seed=seed,
        setting=order.plan,
        source=take(order.plan.pictures, _path(order.data_dir), exclude=order.exclude),
        folder=order.file(arm, seed).with_suffix(""),
        here=Here(device=order.device, reporter=reporter or Silent(), command=order.command),
        exclude=order.exclude,
    )
    try:
        trial = order.definition.trial(bench)
    except Diverged as error:
        trial = bench.trial(failed=str(error))
    except (Interrupted, Preempted) as error:
        raise type(error)("stopped; all is kept: go on with the same command") from error
    trial.seconds = time.monotonic() - began
    write_whole(order.file(arm, seed), trial.model_dump_json(indent=1) + "\n")
    return trial


def _check_folder(order: Order, source: PictureSet) -> None:
    """Begin the folder, or see that it holds the same study.

    Raises:
        InputError: it holds another one; names what differs.
    """
    path = order.folder / "study.json"
    wanted = json.loads(json.dumps(_settled(order, source)))
    if not path.is_file():
        write_whole(path, json.dumps(wanted, indent=1) + "\n")
        return
    try:
        have = read_json(path)
        if not isinstance(have, dict):
            raise InputError(f"{path}: damaged (is no mapping)")
    except InputError as error:
        raise InputError(
            f"{error}; if the trials beside it are of this very study, delete it, "
            "else name a new folder"
        ) from error
    for key, value in wanted.items():
        if key == "data" or (key in _SINCE and key not in have):
            continue  # the fingerprint says whether the data are the same
        if have.get(key) != value:
            raise InputError(
                f"--output {order.folder}: holds a study with another {key}; name a new folder"
            )


def _settled(order: Order, source: PictureSet) -> dict[str, Any]:
    """All that trials of one folder share."""
    setting = order.plan
    return {
        "study": order.definition.name,
        "setting": order.setting,
        "data": setting.pictures.name,
        "train": len(source.splits["train"]),
        "test": len(source.splits["test"]),
        "fingerprint": source.fingerprint,
        "recipe": setting.recipe,
        "changes": dict(setting.changes),
        "arms": {arm.name: dict(arm.changes) for arm in setting.arms},
        "networks": {arm.name: arm.model for arm in setting.arms},
    }


def _about(order: Order, source: PictureSet) -> dict[str, Any]:
    return {
        "command": order.command,
        **_settled(order, source),
        "seeds": order.seeds,
        "machine": about_machine(torch.device(order.device)),
        "threads": order.threads,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _read(order: Order, arm: str, seed: int) -> Trial | None:
    """A finished trial, or None where it is not done.

    Raises:
        InputError: its file is damaged, or holds another trial.
    """
    path = order.file(arm, seed)
    try:
        trial = Trial.model_validate_json(read_text(path))
    except InputError as error:
        if not path.exists():
            return None
        raise InputError(f"{error}; delete it, and it is done again") from error
    except ValidationError as error:
        raise InputError(f"{path}: damaged; delete it, and it is done again") from error
    if (trial.arm, trial.seed) != (arm, seed):
        raise InputError(
            f"{path}: is of {trial.arm!r} with seed {trial.seed}, not of {arm!r} with seed {seed}; "
            "move it away, and the trial is done again"
        )
    return trial


def _slug(arm: str) -> str:
    """An arm's name as part of a file's."""
    return re.sub(r"[^a-z0-9.-]+", "_", arm, flags=re.IGNORECASE)


def _in_words(trial: Trial) -> str:
    if trial.failed:
        return f"{trial.arm} seed {trial.seed}: failed: {trial.failed}"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in trial.measures.items())
    return f"{trial.arm} seed {trial.seed}: {figures}  ({trial.seconds:.0f} s)"


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
