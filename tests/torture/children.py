"""Calls of deepen in processes of their own, which can be killed without harm to this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deepen.cli import main
from deepen.training.stop import put_off

CONTEXT = multiprocessing.get_context("forkserver")


def begin(target: Callable[..., None], *args: object) -> ForkServerProcess:
    """A call in a process of its own."""
    child = CONTEXT.Process(target=plainly, args=(target, *args))
    child.start()
    return child


def plainly(target: Callable[..., None], *args: object) -> None:
    """Its workers are started as in any other process, not by a server of their own."""
    multiprocessing.set_start_method(None, force=True)
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker")  # as it is meant to
    target(*args)


def process(target: Callable[..., None], *args: object) -> int | None:
    """The exit status of a call in a process of its own."""
    child = begin(target, *args)
    child.join()
    return child.exitcode


def command(words: list[str], errors: str) -> None:
    """`deepen ...` in this process, standard error to a file, which is there once it has begun."""
    put_off()  # as its `__main__` begins
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["deepen", *words]
    main()


def deepen(*words: object, errors: Path) -> tuple[int | None, list[str]]:
    """Exit status and the lines of standard error that are deepen's own complaints or worse."""
    status = process(command, list(map(str, words)), str(errors))
    return status, complaints(errors)


def complaints(errors: Path) -> list[str]:
    lines = errors.read_text().splitlines()
    return [line for line in lines if line.startswith(("deepen", "Traceback", "  File", "Exce"))]


def photos(folder: Path) -> Path:
    """Two classes of 16 tiny pictures to train on and 4 to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for name, level in (("dark", 40), ("light", 160)):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.jpg")
    return folder / "photos"


class Kill(NamedTuple):
    """When a child ends itself: at its event number `at` below `folder` (None: it only counts).

    An event is an audited one (PEP 578) that makes, opens to write, renames or deletes. `cut`: a
    file about to be renamed is cut short first, as a kill amid a write would leave it.
    """

    folder: str
    count: str
    at: int | None = None
    cut: bool = False


def doomed(kill: Kill, target: Callable[..., None], *args: object) -> None:
    """Call, and die as told; else leave the number of events in the file `count`."""
    seen = 0

    def watch(event: str, found: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
            return
        if event == "open" and not (
            isinstance(found[2], int) and found[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        if not isinstance(found[0], str | os.PathLike):
            return
        path = Path(os.path.abspath(found[0]))
        if not path.is_relative_to(kill.folder):
            return
        if seen == kill.at:
            if kill.cut and event == "os.rename" and path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(watch)
    try:
        target(*args)
    finally:
        own = os.open(kill.count, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(own, str(seen).encode())
