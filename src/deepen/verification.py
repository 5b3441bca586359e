"""Does this set-up resume without a different bit? It is trained, killed and resumed to see.

A run is made in a temporary folder without a stop, and again in others, killed by SIGKILL time
after time and resumed until it is done. Half of the kills come from outside at a random instant.
The other half fall inside a save of a checkpoint: an audit hook of the child (PEP 578) counts what
happens in the checkpoint folder (make, open, rename, delete) and kills the child at one of these,
after cutting short the file about to be renamed every other time, as a kill amid a write would
leave it. The code that trains and saves knows nothing of this.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deepen import api
from deepen.data.sources import PictureSet, Split
from deepen.errors import DeepenError, InputError, WorkError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.plan import held_out, open_pictures, with_tags
from deepen.training.progress import Silent
from deepen.training.request import Request, Verifying, takes
from deepen.training.run import Run
from deepen.weights import load_weights

EPOCHS = 3
TIMINGS = {"images_per_s", "seconds"}
"""Columns of metrics.csv in which no two runs agree."""

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # to Windows any signal is the end
# A server that has imported all of this once is forked for each child, where that can be.
_CONTEXT = (
    multiprocessing.get_context("forkserver")
    if "forkserver" in multiprocessing.get_all_start_methods()
    else multiprocessing.get_context("spawn")
)
_REQUEST = tuple(each.name for each in dataclasses.fields(Request))
_AT_START = 0.1  # share of the random kills that come before the first step


class Verification(NamedTuple):
    """What was compared, and what came of it.

    Attributes:
        whole: SHA-256 of each part of the run that was never stopped.
        resumed: the same of the killed runs; of the first that differs, if one does.
        kills: at a random instant.
        kills_in_saves: inside a save of a checkpoint.
        runs: how many runs all these kills took; one that is done before it is killed often enough
            is followed by another.
        repeatable: whether a second run without a stop has the bits of the first; None: not asked,
            as there was no difference to explain.
        trained: in words.
    """

    whole: dict[str, str]
    resumed: dict[str, str]
    kills: int
    kills_in_saves: int
    runs: int
    repeatable: bool | None
    trained: str

    @property
    def identical(self) -> bool:
        """Whether no part differs."""
        return self.whole == self.resumed


@takes(Verifying)
def verify_resume(asked: Verifying) -> Verification:
    """Train a set-up without a stop and with kills, and compare all bits.

    So that it is short it trains for `EPOCHS` epochs, unless `changes` have a length, on at most
    `pictures` evenly spaced pictures of each split.

    Raises:
        InputError: the words or the data are off, as in training.
        WorkError: a run failed of itself.
    """
    kills, message = asked.kills, asked.reporter.message
    rng = random.Random(asked.seed)
    _CONTEXT.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory(prefix="deepen-verify-") as name:
        folder = Path(name)
        child = partial(_Child, _words(asked), asked.pictures)
        calm = child(folder / "whole").finish()
        whole = resumed = digests(folder / "whole")
        trained = _in_words(folder / "whole", calm)
        message(f"without a stop: {trained}, {calm.startup_s + calm.seconds:.1f} s")
        left = {False: kills // 2, True: kills - kills // 2}  # inside a save or not
        runs = 0
        while sum(left.values()) and resumed == whole:
            runs += 1
            run = folder / f"killed-{runs}"
            while sum(left.values()):
                inside = rng.random() < left[True] / sum(left.values())
                if inside:  # in the first or second save of this process
                    die_at = rng.randrange(2 * calm.events // calm.saves)
                    died = child(run, die_at=die_at, cut=rng.random() < 0.5).dies()
                else:
                    died = child(run).dies(*_instant(rng, calm))
                if not died:
                    break
                left[inside] -= 1
                message(f"killed {'inside a save' if inside else 'at a random instant'}")
            child(run).finish()
            resumed = digests(run)
            message(f"run {runs} resumed to its end: {_verdict(whole, resumed)}")
        repeatable = None
        if resumed != whole:
            child(folder / "again").finish()
            repeatable = digests(folder / "again") == whole
        done = kills // 2 - left[False], kills - kills // 2 - left[True]
        return Verification(whole, resumed, *done, runs, repeatable, trained)


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of each part of a finished run, timings left out.

    The parts are the newest checkpoint's (weights, optimizer, scheduler, random numbers, progress,
    ...), metrics.csv and the weights in best.safetensors and last.safetensors, whose cards are
    dated.
    """
    found = load_checkpoint(run / "checkpoints")
    if found is None:
        raise WorkError(f"{run}: has no checkpoint")
    parts: dict[str, list[bytes]] = {}

    def add(part: str, *things: Any) -> None:
        for thing in things:
            text = thing if isinstance(thing, bytes) else json.dumps(thing, sort_keys=True).encode()
            parts.setdefault(part, []).append(text)

    for name, tensor in sorted(found.tensors.items()):
        add(name.partition(".")[0], name, str(tensor.dtype), list(tensor.shape))
        add(name.partition(".")[0], tensor.contiguous().flatten().numpy().tobytes())
    for name, value in sorted(_without_timings(found.state).items()):
        add(name, value)
    with open(run / "metrics.csv", newline="") as file:
        add("metrics.csv", _without_timings(list(csv.DictReader(file))))
    model = Run(run).read_about()["model"]
    for name in ("best.safetensors", "last.safetensors"):
        for key, tensor in load_weights(run / name, model=model).model.state_dict().items():
            add(name, key, tensor.contiguous().flatten().numpy().tobytes())
    return {part: hashlib.sha256(b"\0".join(things)).hexdigest() for part, things in parts.items()}


def _without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_timings(v) for key, v in value.items() if key not in TIMINGS}
    return [_without_timings(v) for v in value] if isinstance(value, list) else value


def _verdict(whole: dict[str, str], resumed: dict[str, str]) -> str:
    parts = whole | resumed
    changed = [part for part in parts if whole.get(part) != resumed.get(part)]
    return f"{', '.join(changed)} differ" if changed else "identical"


def _in_words(run: Path, calm: _Child) -> str:
    about, recipe = Run(run).read_about(), Run(run).read_recipe()
    counts = ", ".join(f"{count:,} {split}" for split, count in about["counts"].items())
    return (
        f"{about['model']} on {about['name']} ({counts}), {calm.steps} steps of {recipe.batch_size}"
        f" in {calm.saves} epochs"
    )


def _instant(rng: random.Random, calm: _Child) -> tuple[bool, float]:
    """Whether to wait for the first step, and for how long then."""
    if rng.random() < _AT_START:
        return False, rng.uniform(0, calm.startup_s)
    return True, rng.uniform(0, calm.seconds)


class _Child:
    """A process that begins a run, or goes on with it.

    Attributes:
        startup_s: until the first step; known at the end, as are the others.
        seconds: from there to the end.
        steps: of the optimizer.
        events: in the checkpoint folder while saving.
        saves: of checkpoints.
    """

    def __init__(
        self,
        words: dict[str, Any],
        pictures: int,
        run: Path,
        *,
        die_at: int | None = None,
        cut: bool = False,
    ) -> None:
        self._begun, self._done, self._error = (
            run.with_name(f"{run.name}.{what}") for what in ("begun", "done", "error")
        )
        self._begun.unlink(missing_ok=True)
        order = _Order(words, pictures, run, die_at, cut)
        self._process = _CONTEXT.Process(
            target=_obey, args=(order, self._begun, self._done, self._error)
        )
        self._started = time.monotonic()
        self._process.start()

    def finish(self) -> _Child:
        """Wait for its end.

        Raises:
            InputError, WorkError: what it failed with, in its words.
        """
        try:
            self._wait_for_begin()
            self.startup_s = time.monotonic() - self._started
            self._process.join()
        finally:
            self._process.kill()  # only ever of use when this process is stopped
        self.seconds = time.monotonic() - self._started - self.startup_s
        if status := self._process.exitcode:
            kind = InputError if status == InputError.exit_status else WorkError
            known = self._error.exists()
            raise kind(self._error.read_text() if known else f"a run ended with status {status}")
        result = json.loads(self._done.read_text())
        self.steps, self.events, self.saves = result["steps"], result["events"], result["saves"]
        return self

    def dies(self, begun: bool = False, after_s: float | None = None) -> bool:
        """Kill it `after_s` from its start, or from its first step; None: it does so itself.

        Returns whether it was killed; else it has come to its end.
        """
        if begun:
            self._wait_for_begin()
        self._process.join(after_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            return True
        if self._process.exitcode in (-_KILL, _KILL):
            return True
        self.finish()
        return False

    def _wait_for_begin(self) -> None:
        while not self._begun.exists() and self._process.is_alive():
            time.sleep(0.005)


class _Order(NamedTuple):
    """What a child is told."""

    words: dict[str, Any]
    pictures: int
    run: Path
    die_at: int | None
    cut: bool


def _obey(order: _Order, begun: Path, done: Path, error: Path) -> None:
    """The child: begin the run or go on with it, on some of the pictures."""
    multiprocessing.set_start_method(None, force=True)  # its own workers as in any other run
    saves, told = _Saves(order), _Told(begun)
    sys.addaudithook(saves.see)
    try:
        asked = Request(**{k: v for k, v in order.words.items() if k in _REQUEST})
        request = with_tags(asked)
        some = _some(open_pictures(request, held_out(request)), order.pictures)
        words = {**order.words, "data": some, "download": False, "exclude": ()}
        api.train(**words, output=order.run, resume="auto", look=False, reporter=told)
    except DeepenError as failure:
        error.write_text(str(failure))
        sys.exit(failure.exit_status)
    result = {"steps": told.steps, "events": saves.events, "saves": saves.saves}
    done.write_text(json.dumps(result))


def _words(asked: Verifying) -> dict[str, Any]:
    """Those for `deepen.train`, with a length."""
    changes = dict(asked.changes)
    if not any(key.startswith("length.") for key in changes):
        changes["length.epochs"] = EPOCHS
    own = {name: getattr(asked, name) for name in (*_REQUEST, "device", "workers")}
    return {**own, "changes": changes}


def _some(source: PictureSet, count: int) -> PictureSet:
    """At most `count` pictures of each split, evenly spaced."""

    def take(split: Split) -> Split:
        return split.take([i * len(split) // count for i in range(count)])

    return dataclasses.replace(
        source,
        splits={n: take(s) if len(s) > count else s for n, s in source.splits.items()},
    )


class _Told(Silent):
    """Leaves a mark when the first step is near, and counts steps."""

    def __init__(self, begun: Path) -> None:
        self._begun, self.steps = begun, 0

    def start(self, total_images: int, done_images: int) -> None:
        """See `Reporter`."""
        self._begun.touch()

    def batch(self, images: int, loss: float) -> None:
        """See `Reporter`."""
        self.steps += 1


class _Saves:
    """Counts what happens to checkpoints from the first save on, and dies when it is asked to."""

    def __init__(self, order: _Order) -> None:
        self.folder, self.die_at, self.cut = order.run / "checkpoints", order.die_at, order.cut
        self.events, self.saves = 0, 0

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """Audit hook: called before the event takes place."""
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        if not isinstance(args[0], str | os.PathLike):
            return
        path = Path(args[0])
        if event == "os.mkdir" and path == self.folder / ".writing":
            self.saves += 1
        deleted = event in ("os.remove", "os.rmdir") and not path.is_absolute()  # by shutil.rmtree
        if self.saves == 0 or not (deleted or path.is_relative_to(self.folder)):
            return
        if self.events == self.die_at:
            if self.cut and event == "os.rename" and path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), _KILL)
        self.events += 1
