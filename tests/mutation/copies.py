"""Tests on a changed copy of the sources, each run in a process of its own with torch loaded."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ["numpy", "pytest", "scipy", "timm", "torch", "torchvision"]
# A run that takes longer than this hangs; single tests have their own limit (reach.Chosen).
LIMIT_S = 1200


class Run(NamedTuple):
    """What is changed, and what runs then.

    Attributes:
        sources: the whole text of each file that differs, by its path in the repository.
        tests: files in tests/.
        options: more for pytest.
        chosen: the tests that run and what each takes in seconds, in this order; None for all.
        probed: whether to note which lines each test reaches (`reach.probed` puts the probes in).
    """

    sources: Mapping[str, str]
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    chosen: Mapping[str, float] | None = None
    probed: bool = False


class Outcome(NamedTuple):
    """pytest's exit status (None if the process hung or died), what it wrote, what was reached."""

    status: int | None
    output: str
    reached: dict[str, tuple[float, list[str]]]


def run_all(runs: Iterable[Run], jobs: int) -> Iterator[Outcome]:
    """The outcome of each, in order, so many at a time."""
    sys.warnoptions.append("ignore:resource_tracker")  # of what killed processes leave
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["CI"] = "1"  # hypothesis tries the same examples each time
    os.environ.pop("DEEPEN_DATA", None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda run: _outcome(context, run), runs)


def _outcome(context: ForkServerContext, run: Run) -> Outcome:
    """Of a run, or of a second one where the first hung: that may be the machine's doing."""
    if not run.tests:
        return Outcome(5, "", {})  # pytest's status for no tests
    outcome = _once(context, run)
    return _once(context, run) if outcome.status is None else outcome


def _once(context: ForkServerContext, run: Run) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="deepen-mutate-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("src", "tests", "docs"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        for path, text in run.sources.items():
            (folder / path).write_text(text, "utf-8")
        process = context.Process(target=_in_process, args=(run, folder))
        process.start()
        process.join(LIMIT_S)
        with contextlib.suppress(ProcessLookupError):  # what hangs, and what a test left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        try:
            return Outcome(*json.loads((folder / "outcome.json").read_text("utf-8")))
        except FileNotFoundError:
            file = folder / "under_way.txt"
            test = file.read_text("utf-8") if file.exists() else "no test"
            return Outcome(None, f"{test} (hung or died, {process.exitcode})", {})


def _in_process(run: Run, folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "src")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    (folder / "tmp").mkdir()
    sys.path[:0] = [os.environ["PYTHONPATH"], str(folder)]  # as `python -m pytest` has them
    try:
        found = _tested(run, folder)
    except Exception:  # ours, not a test's
        found = Outcome(3, traceback.format_exc(), {})
    part = folder / "outcome.part"
    part.write_text(json.dumps(found), "utf-8")
    part.rename(folder / "outcome.json")
    os._exit(0)  # threads that a test left do not hold it up


def _tested(run: Run, folder: Path) -> Outcome:
    import pytest
    import reach

    plugins: list[object] = [reach.Quick()]
    reached = reach.Reached(folder) if run.probed else None
    if reached is not None:
        plugins.append(reached)
    if run.chosen is not None:
        plugins.append(reach.Chosen(run.chosen, folder))
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *run.options]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is preloaded
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main([*options, *(f"tests/{file}" for file in run.tests)], plugins)
    import deepen

    assert Path(deepen.__file__ or "").is_relative_to(folder.resolve()), deepen.__file__
    return Outcome(int(status), output.getvalue(), reached.found if reached else {})
