"""Machines that take the decoding processes away: the same batches come, and a line says why."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepen.data import workers
from deepen.data.decode import open_picture
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals, limits and memory of POSIX"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
PLAIN = Preprocessing(channels=3, size_px=(8, 8), resize="none", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def files(tmp_path) -> Split:
    draw = np.random.default_rng(0)
    paths = tuple(tmp_path / f"{i}.png" for i in range(12))
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return Split("train", np.zeros(12, np.int64), tuple(map(str, paths)), files=paths)


class Heard(list):
    def __call__(self, line: str) -> None:
        self.append(line)


def expect(loader: Batches, files: Split, epoch: int = 0) -> None:
    alone = Batches(files, PLAIN, batch_size=2, shuffle=True).epoch(epoch)
    for ours, theirs in zip(loader.epoch(epoch), alone, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)


def batches(files: Split, **kwargs) -> tuple[Batches, Heard]:
    heard = Heard()
    options = {"batch_size": 2, "shuffle": True, "workers": 2, "tell": heard}
    return Batches(files, PLAIN, **options, **kwargs), heard


@pytest.mark.parametrize("cache_bytes", [0, 10_000])
def test_a_worker_that_is_killed_leaves_every_batch_as_it_was(files, cache_bytes):
    before = set(multiprocessing.active_children())
    loader, heard = batches(files, cache_bytes=cache_bytes)
    expected = list(Batches(files, PLAIN, batch_size=2, shuffle=True).epoch(0))
    found = []
    for i, batch in enumerate(loader.epoch(0)):
        found.append(batch)
        if i == 1:
            for worker in set(multiprocessing.active_children()) - before:
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
    assert len(found) == len(expected) == 6
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices)
        for a, b in zip(found, expected, strict=True)
    )
    (line,) = heard
    assert line.startswith("a decoding process was killed by SIGKILL, for want of memory perhaps")
    assert line.endswith("; pictures are decoded in one process from here on")
    expect(loader, files, 1)
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "shared memory (/dev/shm) is full"),
        (errno.EMFILE, "too many open files: raise the limit (ulimit -n 4096)"),
        (errno.ENOMEM, "no memory left"),
    ],
)
def test_what_a_worker_cannot_send_is_no_endless_wait(files, monkeypatch, code, reason):
    """The standard library's queue drops it, with a traceback, in a thread of the worker's."""
    loader, heard = batches(files)
    parent = os.getpid()
    dumps = multiprocessing.reduction.ForkingPickler.dumps

    def refuse(what, *rest):
        if os.getpid() != parent:
            raise OSError(code, os.strerror(code))
        return dumps(what, *rest)

    monkeypatch.setattr(multiprocessing.reduction.ForkingPickler, "dumps", refuse)
    expect(loader, files)
    assert heard[0].startswith(reason)


@pytest.mark.parametrize("share", [OSError(28, "No space left on device"), RuntimeError(
    "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"
)])  # fmt: skip
def test_full_shared_memory_is_named(files, monkeypatch, share):
    def full(tensor):
        if torch.utils.data.get_worker_info() is not None:
            raise share
        return tensor

    monkeypatch.setattr("deepen.data.loader.share", full)
    loader, heard = batches(files)
    expect(loader, files)
    assert heard[0].startswith("shared memory (/dev/shm) is full or missing")


def test_no_semaphores_at_all(files, monkeypatch):
    def none(process):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(workers, "_leaving", none)
    loader, heard = batches(files)
    expect(loader, files)
    assert len(heard) == 1


def test_a_queue_that_cannot_be_made_ends_without_a_word_of_torchs(files, monkeypatch, recwarn):
    made = []
    workers._leaving(os.getpid())

    def second():
        made.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.multiprocessing, "Event", second)
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    loader, heard = batches(files)
    expect(loader, files)
    assert made
    assert heard[0].startswith("shared memory (/dev/shm) is full or missing")
    assert complaints == []


def test_an_error_of_the_users_own_is_not_blamed_on_the_machine(files, monkeypatch):
    def wrong(*_):
        raise RuntimeError("of my own")

    monkeypatch.setattr("deepen.data.loader.share", wrong)
    loader, heard = batches(files)
    with pytest.raises(RuntimeError, match="of my own"):
        list(loader.epoch(0))
    assert heard == []


def test_pictures_are_not_damaged_where_files_are_scarce(files, monkeypatch):
    """They would be left out, and the training go on without them."""

    def scarce(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "stat", scarce)
    with pytest.raises(OSError, match="Too many open files"):
        open_picture(files.files[0])


@pytest.mark.parametrize("limit", [20, 30, 40])
def test_few_open_files(files, limit, tmp_path):
    program = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from deepen.data.loader import Batches
        from deepen.data.preprocess import Preprocessing
        from deepen.data.sources import Split
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
        paths = tuple(sorted(Path(sys.argv[1]).glob("*.png")))
        split = Split("train", np.zeros(len(paths), np.int64), tuple(map(str, paths)), files=paths)
        plain = Preprocessing(channels=3, size_px=(8, 8), resize="none", mean=(0, 0, 0),
                              std=(1, 1, 1))
        loader = Batches(split, plain, batch_size=1, workers=2, tell=print)
        print(sum(len(batch.indices) for batch in loader.epoch(0)))
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, path, Path(files.files[0]).parent, str(limit)],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    *said, count = done.stdout.splitlines()
    assert count == "12"
    assert said or limit == 40  # where this process itself has few open, so many are enough
    for line in said:
        assert line.startswith("too many open files: raise the limit (ulimit -n 4096)")


def test_a_soft_limit_is_raised_where_it_may_be():
    program = """
        import resource
        from deepen.data.workers import _enough_files
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, most))
        print(_enough_files(8), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 80)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.stdout == "True True\n"


def test_workers_end_with_the_batches_that_they_were_for(files):
    """At once: what waited for the collector of circles would be there for the next training."""
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        batches = Batches(files, PLAIN, batch_size=4, workers=1)
        assert sum(len(batch.labels) for batch in batches.epoch(0)) == 12
        assert set(multiprocessing.active_children()) - before
        del batches
        assert not set(multiprocessing.active_children()) - before
    finally:
        gc.enable()
