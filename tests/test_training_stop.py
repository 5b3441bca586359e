"""SIGTERM, SIGHUP and Ctrl-C from the first instant on; streams that are full or closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepen import api
from deepen.errors import Preempted
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Silent
from deepen.training.stop import StopRequest, leaving_when_preempted
from deepen.verification import digests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and streams of POSIX")


@pytest.fixture(autouse=True)
def _heeded():
    """Nobody heeds SIGHUP under nohup, nor Ctrl-C in a script's background, as it should be."""
    heed = {"SIGHUP": signal.SIG_DFL, "SIGINT": signal.default_int_handler}
    before = {
        number: signal.signal(number, handler)
        for name, handler in heed.items()
        if (number := getattr(signal, name, None)) is not None
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SHORT = {"length.epochs": 2, "batch_size": 256, "validation": 100}
WORDS = {"data": "digits", "model": "perceptron", "recipe": "quick", "changes": SHORT}
TRAIN = ["train", "digits", "--model", "perceptron", "--recipe", "quick", "--batch-size", "256",
         "--epochs", "2", "--validation", "100"]  # fmt: skip

# Sends itself a signal when a module is about to be imported, then is `deepen` as ever.
AT_IMPORT = """
import os, signal, sys
name, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
done = []
def see(event, args):
    if event == "import" and args[0] == name and not done:
        done.append(os.kill(os.getpid(), number))
sys.addaudithook(see)
from deepen.__main__ import main
main()
"""


def at_import(module: str, number: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AT_IMPORT, module, str(int(number)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["typer", "torch"])
@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (TRAIN, "the same command with --resume auto goes on"),
        (["search", "digits", "--model", "lenet5"], "the search goes on with --resume FOLDER"),
        (["study", "depth"], "the same command goes on"),
    ],
)
def test_sigterm_before_anything_is_there_ends_with_75(tmp_path, module, words, advice):
    done = at_import(module, signal.SIGTERM, *words, "--output", tmp_path / "r")
    assert done.stderr == f"deepen: stopped by SIGTERM; {advice}\n"
    assert (done.returncode, done.stdout) == (75, "")
    assert not (tmp_path / "r").exists()


def test_other_signals_and_other_verbs(tmp_path):
    done = at_import("typer", signal.SIGHUP, *TRAIN, "--output", tmp_path / "r")
    assert (done.returncode, done.stderr.partition(";")[0]) == (75, "deepen: stopped by SIGHUP")
    done = at_import("typer", signal.SIGINT, *TRAIN, "--output", tmp_path / "r")
    assert (done.returncode, done.stderr) == (130, "deepen: stopped by Ctrl-C\n")
    done = at_import("typer", signal.SIGTERM, "recipes")  # has nothing to go on with
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return api.train(**WORDS, output=tmp_path_factory.mktemp("whole") / "run").run


class At(Silent):
    """Raises signals at the n-th batch."""

    def __init__(self, at: int, *numbers: int) -> None:
        self.at, self.numbers, self.seen = at, numbers, 0

    def batch(self, images: int, loss: float) -> None:
        if self.seen == self.at:
            for number in self.numbers:
                signal.raise_signal(number)
        self.seen += 1


def test_sighup_saves_as_sigterm_does(whole, tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(Preempted, match="stopped by SIGHUP; saved; go on with --resume"):
        api.train(**WORDS, output=tmp_path / "run", reporter=At(2, signal.SIGHUP))
    assert signal.getsignal(signal.SIGHUP) == before
    assert load_checkpoint(tmp_path / "run" / "checkpoints").state["progress"]["batch"] == 3
    assert digests(api.train(resume=str(tmp_path / "run")).run) == digests(whole)


def test_nohup_is_heeded(whole, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = api.train(**WORDS, output=tmp_path / "run", reporter=At(2, signal.SIGHUP)).run
    finally:
        signal.signal(signal.SIGHUP, before)
    assert digests(run) == digests(whole)


def test_a_second_ctrl_c_waits_for_nothing_and_loses_no_checkpoint(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        api.train(**WORDS, output=tmp_path / "run", reporter=At(5, signal.SIGINT, signal.SIGINT))
    found = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert (found.state["progress"]["epoch"], found.damaged) == (1, ())
    assert digests(api.train(resume=str(tmp_path / "run")).run) == digests(whole)


def shell(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which "$@" is deepen's command."""
    start = [sys.executable, "-m", "deepen", *map(str, words)]
    return subprocess.run(
        ["bash", "-c", line, "bash", *start], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_and_closed_streams():
    full = shell('"$@" > /dev/full', "recipes")
    assert (full.returncode, full.stderr) == (
        1, "deepen: standard output: No space left on device\n",
    )  # fmt: skip
    closed = shell('"$@" >&-', "recipes")
    assert closed.returncode == 1
    assert closed.stderr == (
        "deepen: standard output is closed: the results could not be printed\n"
    )
    read = shell('"$@" | true; exit ${PIPESTATUS[0]}', "recipes")  # it has ended by then
    assert (read.returncode, read.stderr) == (1, "")
    for words in (["train", "--help"], ["--version"]):
        done = shell('"$@" > /dev/full', *words)
        assert done.returncode == 1
        assert done.stderr.splitlines() in (
            ["deepen: standard output: No space left on device"],
            ["deepen: No space left on device"],
        )
    assert shell('"$@" 2> /dev/full', "recipes", "nope").returncode == 2
    silent = shell('"$@" 2>&-', "recipes", "nope")
    assert (silent.returncode, silent.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "2> >(head -1)"])
def test_a_training_ends_well_though_nobody_hears_of_it(whole, tmp_path, where):
    done = shell(f'"$@" {where}', *TRAIN, "--output", tmp_path / "run")
    assert done.returncode == 0
    assert "test accuracy" in done.stdout
    assert digests(tmp_path / "run") == digests(whole)


def test_what_tensorboard_lacks_stops_no_training(whole, tmp_path, monkeypatch):
    class Keeps(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def message(self, text: str) -> None:
            self.lines.append(text)

    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    told = Keeps()
    run = api.train(**WORDS, output=tmp_path / "missing", reporter=told).run
    assert digests(run) == digests(whole)
    (line,) = [line for line in told.lines if "TensorBoard" in line]
    assert line.startswith("no more events for TensorBoard: ")
    monkeypatch.undo()

    run = tmp_path / "full"
    told, make = Keeps(), Path.mkdir

    def mkdir(path: Path, *args, **kwargs) -> None:
        if path.name == "tensorboard":
            raise OSError(28, "No space left on device")
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert digests(api.train(**WORDS, output=run, reporter=told).run) == digests(whole)
    assert [line for line in told.lines if "TensorBoard" in line] == [
        f"no more events for TensorBoard: {run}/tensorboard: No space left on device"
    ]


def test_a_signal_whose_exception_python_drops_is_heeded_by_the_next_to_ask(monkeypatch):
    """In `__del__` and callbacks of weak references nothing that is raised comes through."""
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            [None for _ in range(1000)]  # the handler is called in here

    def leave() -> None:
        with leaving_when_preempted("go on"):
            Dying()

    def save() -> None:
        with leaving_when_preempted("go on"):
            Dying()
            with StopRequest() as stop:
                assert stop.signal == signal.SIGTERM
                raise stop.error("saved")

    with pytest.raises(Preempted, match="stopped by SIGTERM; go on"):
        leave()
    with pytest.raises(Preempted, match="stopped by SIGTERM; saved"):
        save()
    with StopRequest() as stop:
        assert stop.signal is None
