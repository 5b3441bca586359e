"""Runs that are killed, stopped, starved of disk, or resumed as something else."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from deepen import api
from deepen.cli import main
from deepen.errors import InputError, Interrupted, Preempted, WorkError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Silent
from deepen.training.resume import _same_place
from deepen.training.stop import leaving_when_preempted
from deepen.verification import digests, verify_resume

SHORT = {"length.epochs": 2, "batch_size": 256, "validation": 100}
WORDS = {"data": "digits", "model": "perceptron", "recipe": "quick", "changes": SHORT}


class Killed(BaseException):
    """Nothing catches it, and so nothing is saved: on the disk it is as a kill -9."""


class Reporter(Silent):
    """Calls something at the n-th thing that it is told, of start, batch and epoch; keeps words."""

    def __init__(self, at: int = -1, call=None) -> None:
        self.at, self.call, self.seen, self.lines = at, call, 0, []

    def told(self, *_) -> None:
        if self.seen == self.at:
            self.call()
        self.seen += 1

    start = batch = epoch = told

    def message(self, text: str) -> None:
        self.lines.append(text)


def die() -> None:
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return api.train(**WORDS, output=tmp_path_factory.mktemp("whole") / "run").run


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.writing")]


@pytest.mark.parametrize("at", range(11))
def test_a_kill_at_any_batch_changes_nothing(whole, tmp_path, at):
    """Before the first of four batches, at each, at the epoch's end; and so in the second epoch."""
    with pytest.raises(Killed):
        api.train(**WORDS, output=tmp_path / "run", reporter=Reporter(at, die))
    resumed = api.train(resume=str(tmp_path / "run")).run
    assert digests(resumed) == digests(whole)


class FullDisk:
    """Lets so many bytes be written below a folder, and then no more, as a full disk does."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room, self.open = folder, room, builtins.open

    def __call__(self, path, mode="r", *args, **kwargs):
        file = self.open(path, mode, *args, **kwargs)
        if mode in ("xb", "ab") and Path(path).is_relative_to(self.folder):
            return _Short(file, self)
        return file


class _Short:
    def __init__(self, file, disk: FullDisk) -> None:
        self.file, self.disk = file, disk

    def write(self, data: bytes) -> int:
        written = self.file.write(data[: self.disk.room])
        self.disk.room -= written
        if written < len(data):
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.95])
def test_a_full_disk_is_one_error_and_loses_nothing(whole, tmp_path, monkeypatch, share):
    room = int(share * sum(p.stat().st_size for p in whole.rglob("*") if p.is_file()))
    run = tmp_path / "run"
    monkeypatch.setattr(builtins, "open", FullDisk(tmp_path, room))
    with pytest.raises(WorkError, match=rf"{run}.*: No space left on device"):
        api.train(**WORDS, output=run)
    monkeypatch.undo()
    assert litter(tmp_path) == []
    assert (found := load_checkpoint(run / "checkpoints")) is None or found.damaged == ()
    resumed = api.train(**WORDS, output=run, resume="auto").run
    assert digests(resumed) == digests(whole)


def test_a_folder_that_vanishes_stays_vanished(tmp_path):
    run = tmp_path / "run"
    vanish = Reporter(6, lambda: shutil.rmtree(run))
    with pytest.raises(WorkError, match=rf"{run}/.*: No such file or directory"):
        api.train(**WORDS, output=run, reporter=vanish)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_no_folder_can_be_made_in_is_named(tmp_path, monkeypatch):
    (tmp_path / "runs").write_bytes(b"")
    with pytest.raises(WorkError, match=r"--output .*runs/x: Not a directory"):
        api.train(**WORDS, output=tmp_path / "runs" / "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkError, match="runs/digits-perceptron-1: Not a directory"):
        api.train(**WORDS)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_error(tmp_path):
    run = tmp_path / "run"
    try:
        with pytest.raises(WorkError, match=rf"{run}/.*: Permission denied"):
            api.train(**WORDS, output=run, reporter=Reporter(6, lambda: run.chmod(0o555)))
    finally:
        run.chmod(0o755)
    assert litter(run) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"changes": {"optimizer.lr": 0.5}}, "its optimizer.lr is 0.1, not 0.5"),
        ({"changes": {"augment.flip": True}}, "its augment.flip is False, not True"),
        ({"changes": {"seed": 3}}, "its seed is 0, not 3"),
        ({"model": "mlp"}, "its model is perceptron, not mlp"),
        ({"data": "mnist"}, "its data is digits, not mnist"),
        ({"exclude": ["a.jpg"]}, "its excluded is , not a.jpg"),
    ],
)
def test_a_resume_as_something_else_names_the_field(whole, words, message):
    with pytest.raises(InputError, match=f"--resume {whole}: {message}"):
        api.train(resume=str(whole), **words)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("data.json", "model", "mlp", "its checkpoint's model is perceptron, not mlp"),
        (
            "data.json",
            "classes",
            ["0", "x"],
            "data digits changed .*: classes is x, not 1, 2, 3",
        ),
        ("data.json", "fingerprint", "0" * 64, "data digits changed .*: data fingerprint is 000"),
        ("recipe.yaml", "batch_size: 256", "batch_size: 128", "its checkpoint's batch_size is 256"),
        ("recipe.yaml", "momentum: 0.9", "momentum: 0.8", "its checkpoint's optimizer.momentum is"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(copy, file, key, value, message):
    """The folder's own papers were changed, and no longer are of the checkpoint in it."""
    path = copy / file
    if file == "data.json":
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    else:
        assert key in path.read_text()
        path.write_text(path.read_text().replace(key, value))
    with pytest.raises(InputError, match=message):
        api.train(resume=str(copy))


@pytest.mark.parametrize("name", ["data.json", "recipe.yaml"])
@pytest.mark.parametrize("blob", [b"", b"[1", b"\xff\xfe", b"{}"])
def test_damaged_papers_of_a_run_are_named(copy, name, blob):
    (copy / name).write_bytes(blob)
    with pytest.raises(InputError, match=name):
        api.train(resume=str(copy))


def test_under_another_machine_it_goes_on_and_says_so(tmp_path):
    with pytest.raises(Killed):
        api.train(**WORDS, output=tmp_path / "run", reporter=Reporter(6, die))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        told = Reporter()
        api.train(resume=str(tmp_path / "run"), reporter=told)
    finally:
        torch.set_num_threads(threads)
    said = [line for line in told.lines if "bit-exact" in line]
    expected = f"resumed under another threads {threads} -> {threads + 1}: no longer bit-exact"
    assert said == [expected]


def test_auto_takes_the_newest_whole_run_of_the_same_recipe(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("good", "damaged", "begun"):  # in this order
        shutil.copytree(whole, runs / name)
        for path in (runs / name).rglob("state.json"):
            os.utime(path)
        time.sleep(0.02)
    for path in (runs / "damaged").rglob("state.json"):
        path.write_bytes(b"")
    for name, blob in (("data.json", b"?"), ("recipe.yaml", b"\xff")):
        shutil.copytree(whole, runs / name)
        (runs / name / name).write_bytes(blob)
        for path in (runs / name).rglob("state.json"):
            os.utime(path)
    (runs / "no run").mkdir()
    shutil.rmtree(runs / "begun" / "checkpoints")
    os.utime(runs / "begun" / "recipe.yaml", (1, 1))  # killed before its first checkpoint, long ago
    told = Reporter()
    assert api.train(**WORDS, resume="auto", reporter=told).run == Path("runs/good")
    passed_over = [line for line in told.lines if "passed over" in line]
    for name in ("damaged", "data.json", "recipe.yaml"):
        assert any(f"runs/{name}: " in line for line in passed_over)
    assert "resuming runs/good" in told.lines
    other = {**WORDS, "changes": {**SHORT, "optimizer.lr": 0.05}}
    told = Reporter()
    assert api.train(**other, resume="auto", reporter=told).run == Path("runs/digits-perceptron-1")
    assert any("no such run yet" in line for line in told.lines)
    shutil.rmtree(runs / "good")
    assert digests(api.train(**WORDS, resume="auto").run) == digests(whole)
    assert load_checkpoint(runs / "begun" / "checkpoints") is not None  # it was that one


def test_a_folder_may_be_named_in_another_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    about = {"name": "photos", "root": "photos"}
    for word in ("photos", "photos/", "./photos", str(tmp_path / "photos")):
        assert _same_place(word, about)
    assert not _same_place(str(tmp_path), about)


def test_a_signal_while_the_last_checkpoint_is_written_is_heeded(whole, tmp_path, monkeypatch):
    import deepen.training.loop as loop

    save, calls = loop.save_checkpoint, []

    def signalled(*args) -> None:
        calls.append(signal.raise_signal(signal.SIGTERM) if len(calls) == 1 else None)
        save(*args)

    monkeypatch.setattr(loop, "save_checkpoint", signalled)
    with pytest.raises(Preempted, match="trained and saved"):
        api.train(**WORDS, output=tmp_path / "run")
    assert not (tmp_path / "run" / "scores.json").exists()
    assert digests(api.train(resume=str(tmp_path / "run")).run) == digests(whole)


def test_a_signal_during_validation_is_heeded(whole, tmp_path, monkeypatch):
    import deepen.training.task as task

    predict = task.predict_logits

    def signalled(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return predict(*args, **kwargs)

    monkeypatch.setattr(task, "predict_logits", signalled)
    with pytest.raises(Interrupted):
        api.train(**WORDS, output=tmp_path / "run")
    monkeypatch.undo()
    found = load_checkpoint(tmp_path / "run" / "checkpoints").state["progress"]
    assert (found["epoch"], found["batch"]) == (0, 4)
    assert digests(api.train(resume=str(tmp_path / "run")).run) == digests(whole)


@leaving_when_preempted()
def _swallow() -> None:
    """As many a library does."""
    with contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_outside_the_loop_leaves_at_once_and_cannot_be_swallowed():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="--resume auto"):
        _swallow()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_sigterm_at_start_up_ends_with_75(tmp_path):
    """Torch is being imported, or the data read: before the run folder is there."""
    code = (
        "import sys, signal; from deepen.cli import main; sys.argv = sys.argv[1:];"
        "sys.addaudithook(lambda event, args: signal.raise_signal(signal.SIGTERM)"
        " if event == 'import' and args[0] == 'torch' else None); main()"
    )
    words = ["deepen", "train", "digits", "--output", str(tmp_path / "r")]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 75
    assert done.stderr.splitlines() == [
        "deepen: stopped by SIGTERM; the same command with --resume auto goes on"
    ]
    assert not (tmp_path / "r").exists()


def test_events_are_what_tensorboard_reads(whole, tmp_path):
    with pytest.raises(Killed):
        api.train(**WORDS, output=tmp_path / "run", reporter=Reporter(6, die))
    api.train(resume=str(tmp_path / "run"))
    first, second = sorted(
        (tmp_path / "run" / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    events = [list(EventFileLoader(str(path)).Load()) for path in (first, second)]
    assert [event.session_log.status for event in events[1]][1] == 1  # START: purges what follows
    assert events[1][1].step == 4
    history = load_checkpoint(whole / "checkpoints").state["progress"]["history"]
    for row, (event,) in zip(history, (events[0][1:], events[1][2:]), strict=True):
        assert event.step == row["step"]
        found = {v.tag: v.tensor.float_val[0] for v in event.summary.value}
        assert found["train_loss"] == pytest.approx(row["train_loss"], rel=1e-6)
        assert found["eval_top1"] == pytest.approx(row["eval_top1"], rel=1e-6)


class Noisy(torch.nn.Module):
    """A user's network that draws noise which no seed decides."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, num_classes)

    def forward(self, x):
        return self.linear(x.flatten(1)) + int.from_bytes(os.urandom(1)) / 256


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_verify_resume_finds_a_set_up_exact():
    """Three or four processes."""
    changes = {"length.epochs": 2}
    found = verify_resume("digits", model="perceptron", changes=changes, kills=1, pictures=64)
    assert found.identical
    assert (found.kills, found.kills_in_saves, found.repeatable) == (0, 1, None)
    assert {"model", "optimizer", "rng", "scheduler", "metrics.csv"} <= found.whole.keys()
    assert all(len(digest) == 64 for digest in found.whole.values())
    with pytest.raises(InputError, match="unknown model 'perceptrn'"):
        verify_resume("digits", model="perceptrn")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_verify_resume_finds_a_set_up_inexact(tmp_path, monkeypatch, capsys):
    """Half a dozen processes."""
    (tmp_path / "noisy.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    words = "verify-resume digits --model noisy:Noisy --recipe quick --kills 1 --pictures 64 --json"
    monkeypatch.setattr(sys, "argv", ["deepen", *words.split(), "--set", "length.epochs=1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["identical"], shown["repeatable"]) == (False, False)
