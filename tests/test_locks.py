"""Locks: one writer to a folder, released by any death, readers never kept out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepen import api
from deepen.data.index import FolderIndex
from deepen.errors import InputError
from deepen.locks import NAME, hold
from deepen.studies.conduct import Order, conduct
from deepen.training.progress import Silent
from deepen.verification import digests

SHORT = {"length.epochs": 2, "batch_size": 256, "validation": 100}
WORDS = {"model": "perceptron", "recipe": "quick", "changes": SHORT}

HOLDS = """
import os, sys, time
from pathlib import Path
from deepen.locks import hold
with hold(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2] == "fork" else 1  # as a loader's workers are
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    sys.stdin.read()
"""

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")


@contextlib.contextmanager
def holder(folder: Path, how: str = "") -> Iterator[tuple[subprocess.Popen, int]]:
    """A process that holds a folder, and the one that it forked."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, folder, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def in_use(process: int) -> str:
    return rf"is in use by process {process} on {re.escape(socket.gethostname())}; wait until"


@posix
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_lock_ends_with_its_process_and_names_it(tmp_path, end):
    with holder(tmp_path) as (process, _):
        with pytest.raises(InputError, match=f"{tmp_path}: {in_use(process.pid)}"), hold(tmp_path):
            pass
        if end is None:
            process.communicate()
            assert list(tmp_path.iterdir()) == []
        else:
            process.send_signal(end)
            process.wait()
        with hold(tmp_path):
            assert str(os.getpid()) in (tmp_path / NAME).read_text()
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path):
    with holder(tmp_path, "fork") as (process, child):
        process.kill()
        process.wait()
        try:
            os.kill(child, 0)  # is alive
            with hold(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_process_keeps_itself_out_too_and_other_folders_are_free(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "below").mkdir()
    said = r"--output x: is in use by this very process"
    link = hold(tmp_path / "link", "--output x")
    with hold(tmp_path), hold(tmp_path / "below"), pytest.raises(InputError, match=said):
        link.__enter__()
    with hold(tmp_path):
        pass
    with hold(tmp_path / "there is none"):  # to be said by whoever writes to it
        pass


class Within(Silent):
    """Does something once, after the first epoch."""

    def __init__(self, call) -> None:
        self.call = call

    def epoch(self, row, epochs) -> None:
        call, self.call = self.call, lambda: None
        call()


ONE_BY_ONE = """
import json, sys
from deepen.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["deepen", *words]
    try:
        main()
    except SystemExit as ended:
        print(f"status {ended.code}", file=sys.stderr)
"""


def test_a_run_has_one_writer_and_any_number_of_readers(tmp_path):
    whole = api.train("digits", **WORDS, output=tmp_path / "whole").run
    run, said = tmp_path / "run", []

    def meanwhile() -> None:
        new = ["train", "digits", "--model", "perceptron", "--recipe", "quick", "--output"]
        lines = [[*new, run], ["train", "--resume", run]]
        lines.append(["evaluate", run / "best.safetensors"])
        commands = json.dumps([list(map(str, line)) for line in lines])
        process = [sys.executable, "-c", ONE_BY_ONE, commands]
        said.append(subprocess.run(process, capture_output=True, text=True).stderr)

    api.train("digits", **WORDS, output=run, reporter=Within(meanwhile))
    in_use_now = f"{in_use(os.getpid())} it ends\nstatus 2\n"
    assert re.search(f"deepen: --output {run}: {in_use_now}", said[0])
    assert re.search(f"deepen: --resume {run}: {in_use_now}", said[0])
    assert said[0].endswith("status 0\n")
    assert digests(run) == digests(whole)
    assert NAME not in {path.name for path in run.iterdir()}


@posix
def test_of_two_that_begin_the_same_run_one_wins(tmp_path):
    """At once: each has made the folder, or found it empty, before the other has begun."""
    run = tmp_path / "run"
    run.mkdir()
    with holder(run) as (process, _), pytest.raises(InputError, match=in_use(process.pid)):
        api.train("digits", **WORDS, output=run)
    assert list(run.iterdir()) == [run / NAME]  # the dead process's
    command = [sys.executable, "-m", "deepen", "train", "digits", "--model", "perceptron"]
    command += ["--recipe", "quick", "--epochs", "2", "--output", str(run)]
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    lost = errors[[process.returncode for process in both].index(2)].splitlines()[-1]
    assert lost.startswith(f"deepen: --output {run}: ")
    assert "in use by process" in lost or "exists" in lost
    assert json.loads((run / "scores.json").read_text())


@posix
def test_a_search_and_a_study_have_one_process(tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed: deepen[search]")
    folder = tmp_path / "search"
    words = {**WORDS, "pruner": "none"}
    api.search("digits", **words, trials=1, output=folder)
    with holder(folder) as (process, _), pytest.raises(InputError, match=in_use(process.pid)):
        api.search(resume=folder, trials=2, pruner="none")
    shared = {**words, "storage": f"sqlite:///{tmp_path / 's.db'}", "trials": 1}
    (tmp_path / "shared").mkdir()
    with holder(tmp_path / "shared"):  # of a shared storage it is one of several
        assert api.search("digits", **shared, output=tmp_path / "shared").trained
    study = tmp_path / "s.yaml"
    study.write_text(
        "{title: t, data: {name: digits, train: 50, test: 50}, recipe: quick, "
        "set: {length.epochs: 1}, nets: {p: perceptron}}"
    )
    order = Order(str(study), "small", 1, None, None, "cpu", tmp_path / "study", 1)
    (tmp_path / "study").mkdir()
    with holder(tmp_path / "study") as (process, _), pytest.raises(InputError) as caught:
        conduct(order, Silent())
    assert re.match(f"--output {tmp_path}/study: {in_use(process.pid)}", str(caught.value))
    assert len(conduct(order, Silent()).trials) == 1


@posix
def test_who_comes_second_leaves_the_index_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("deepen.data.index.MIN_FILES", 1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "cache" / "index").mkdir(parents=True)

    def listed() -> list[tuple[str, int]]:
        with FolderIndex(tmp_path / "photos") as index:
            return index.listing(tmp_path / "photos").pictures

    with holder(tmp_path / "cache" / "index"):
        assert listed() == [("a.png", 0)]
        assert not list((tmp_path / "cache" / "index").glob("*.json"))
    shutil.rmtree(tmp_path / "cache")
    assert listed() == [("a.png", 0)]
    assert len(list((tmp_path / "cache" / "index").glob("*.json"))) == 1
