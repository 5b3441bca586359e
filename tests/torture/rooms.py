"""200 random kills: whatever was under way goes on to the end that it would have had.

25 each of a training, of one in two processes, a search, a study, the index of a large folder, the
cache of decoded pictures, a conversion of weights, and a quarantine list. Half of the kills fall at
a write, rename or deletion of the room's own, half at any instant. After each the same command is
given again (or the one that its documentation names), until 25 kills have come; then it is let
through, and what it leaves is compared with what a calm one left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from children import Kill, begin, command, doomed, photos
from PIL import Image

from deepen.data.index import MIN_FILES
from deepen.data.sources import open_source
from deepen.errors import WorkError
from deepen.locks import abandoned
from deepen.verification import digests

KILLS = 25
Call = tuple[Any, ...]
QUICK = ["digits", "--model", "lenet5_relu", "--recipe", "quick"]


class Room:
    """A command, and what it leaves; `folder` is the room's own, for what the command reads."""

    done = 0
    """Exit status of a call that was let through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def words(self, place: Path) -> list[str]:
        """The command, to begin in `place` or to go on there."""
        raise NotImplementedError

    def left(self, place: Path) -> object:
        """What it has left in the end, to compare."""
        raise NotImplementedError

    def harmless(self, place: Path) -> bool:
        """Whether what a kill has left may lie there: nothing that looks whole and is not."""
        return True

    def call(self, place: Path) -> Call:
        """What a child calls."""
        return command, self.words(place), str(self.folder / "errors")

    def calm(self, place: Path) -> tuple[int, float]:
        """Do it without a kill: how many events and seconds that took."""
        began, count = time.monotonic(), self.folder / "count"
        child = begin(doomed, Kill(str(place), str(count)), *self.call(place))
        child.join()
        if child.exitcode != self.done:
            raise WorkError(f"status {child.exitcode}: {(self.folder / 'errors').read_text()}")
        return int(count.read_text()), time.monotonic() - began

    def killed(self, rng: random.Random, usual: tuple[int, float], place: Path) -> bool:
        """Do it with a kill; whether that came before the end."""
        (events, seconds), kill = usual, Kill(str(place), str(self.folder / "count"))
        if rng.random() < 0.5:
            kill = kill._replace(at=rng.randrange(max(events, 1)), cut=rng.random() < 0.5)
            child = begin(doomed, kill, *self.call(place))
        else:
            child = begin(doomed, kill, *self.call(place))
            child.join(rng.random() * seconds)
            child.kill()
        child.join()
        if child.exitcode not in (self.done, -signal.SIGKILL):
            raise WorkError(f"status {child.exitcode}: {(self.folder / 'errors').read_text()}")
        return child.exitcode == -signal.SIGKILL


def torture(room: Room, rng: random.Random) -> tuple[int, int]:
    """Kill it until it has been killed often enough: kills, and differences."""
    usual = room.calm(room.folder / "whole")
    whole, kills, different, number = room.left(room.folder / "whole"), 0, 0, 0
    while kills < KILLS:
        number += 1
        place = room.folder / f"killed-{number}"
        while kills < KILLS and room.killed(rng, usual, place):
            kills += 1
            different += not room.harmless(place)
        room.calm(place)
        different += room.left(place) != whole
    return kills, different


class Train(Room):
    def words(self, place: Path) -> list[str]:
        own = ["--epochs", "4", "-b", "64", "--validation", "100"]
        return ["train", *QUICK, *own, "--output", str(place), "--resume", "auto"]

    def left(self, place: Path) -> object:
        return digests(place)


class Search(Room):
    def words(self, place: Path) -> list[str]:
        own = ["--trials", "7", "--set", "length.epochs=3", "-b", "128"]
        if (place / "search.db").exists():
            return ["search", "--resume", str(place), "--trials", "7"]
        shutil.rmtree(place, ignore_errors=True)
        return ["search", *QUICK, *own, "--output", str(place)]

    def left(self, place: Path) -> object:
        told = json.loads((place / "base" / "search.json").read_text())
        whole = [t for t in told["trials"] if t["state"] in ("complete", "pruned")]
        kept = [[t["values"], t["top1"], t["loss"], t["epochs"], t["state"]] for t in whole]
        return kept, tensors(place / "best.safetensors")


class Study(Room):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "own.yaml").write_text(
            "title: Two nets\ndata: {name: digits, train: 200, test: 100}\nrecipe: quick\n"
            "set: {length.epochs: 2}\nnets: {thin: lenet5_relu, 'l 1': lenet5, l_1: lenet5_relu}\n"
            "recipes: {small: {batch_size: 32}, large: {batch_size: 64}}\nseeds: 1\n"
        )

    def words(self, place: Path) -> list[str]:
        return ["study", str(self.folder / "own.yaml"), "--output", str(place)]

    def left(self, place: Path) -> object:
        told = json.loads((place / "results.json").read_text())
        return [[t["arm"], t["seed"], t["measures"], t["curves"]] for t in told["trials"]]


class Index(Room):
    """A folder that is large enough to be remembered, and changes between any two looks at it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.photos, self.number = folder / "photos", 0
        Image.new("L", (1, 1)).save(folder / "one.png")
        one = (folder / "one.png").read_bytes()
        for name in ("a", "b"):
            (self.photos / name).mkdir(parents=True)
            for i in range(MIN_FILES // 2):
                (self.photos / name / f"{i}.png").write_bytes(one)
        old = time.time() - 60
        for name in ("a", "b"):
            os.utime(self.photos / name, (old, old))

    def call(self, place: Path) -> Call:
        self.number += 1
        for name, add in (("a", True), ("b", False)):
            path = self.photos / name / f"{self.number}{'-new' if add else ''}.png"
            shutil.copy(self.folder / "one.png", path) if add else path.unlink()
        return look, str(self.photos), str(place)

    def left(self, place: Path) -> object:
        os.environ["DEEPEN_CACHE_DIR"] = str(place)
        seen = sorted(
            key for split in open_source(str(self.photos)).splits.values() for key in split.keys
        )
        there = sorted(str(path.relative_to(self.photos)) for path in self.photos.rglob("*.png"))
        assert len(list((place / "index").glob("*.json"))) == 1
        return seen == there


def look(folder: str, cache: str) -> None:
    os.environ["DEEPEN_CACHE_DIR"] = cache
    open_source(folder)


class Cache(Room):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.photos, self.cache = photos(folder), folder / "decoded"
        self.cache.mkdir()

    def words(self, place: Path) -> list[str]:
        own = ["--model", "lenet5_relu", "--recipe", "quick", "--epochs", "3", "-b", "8", "-j", "1"]
        own += ["--cache", "8MB", "--output", str(place), "--resume", "auto"]
        return ["train", str(self.photos), *own]

    def call(self, place: Path) -> Call:
        return below, str(self.cache), *super().call(place)

    def left(self, place: Path) -> object:
        assert not list(self.cache.glob("*.deepen-pictures")), "a cache is left"
        return digests(place)

    def killed(self, rng: random.Random, usual: tuple[int, float], place: Path) -> bool:
        died = super().killed(rng, usual, place)
        while not all(map(abandoned, self.cache.glob("*.deepen-pictures"))):
            time.sleep(0.1)  # workers hold it until they notice, within seconds
        return died


def below(cache: str, *call: Any) -> None:
    """With the folder for temporary files there."""
    os.environ["TMPDIR"] = cache
    tempfile.tempdir = None
    target, *args = call
    target(*args)


class Convert(Room):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")

    def words(self, place: Path) -> list[str]:
        place.mkdir(exist_ok=True)
        output = place / "out.safetensors"
        output.unlink(missing_ok=True)
        own = ["--model", "resnet18", "--output", str(output)]
        return ["weights", "convert", str(self.folder / "resnet18.pth"), *own]

    def left(self, place: Path) -> object:
        return tensors(place / "out.safetensors")

    def harmless(self, place: Path) -> bool:
        file = place / "out.safetensors"
        return not file.exists() or len(safetensors.torch.load_file(file)) == 122


class Quarantine(Room):
    done = 1  # as there are bad pictures

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.photos = photos(folder)
        for path in sorted(self.photos.rglob("*.jpg"))[::3]:
            path.write_bytes(path.read_bytes()[:200])

    def words(self, place: Path) -> list[str]:
        place.mkdir(exist_ok=True)
        return ["doctor", str(self.photos), "--quarantine", str(place / "list.txt")]

    def left(self, place: Path) -> object:
        return (place / "list.txt").read_text()

    def harmless(self, place: Path) -> bool:
        file = place / "list.txt"
        return not file.exists() or len(file.read_text().splitlines()) >= 14


class Processes(Room):
    """Two processes under torchrun: one of them is killed, or all with torchrun itself."""

    def words(self, place: Path) -> list[str]:
        own = ["--epochs", "2", "-b", "128", "--validation", "100"]
        run = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        return [
            *run,
            "-m",
            "deepen",
            "train",
            *QUICK,
            *own,
            "--output",
            str(place),
            "--resume",
            "auto",
        ]

    def left(self, place: Path) -> object:
        return digests(place)

    def calm(self, place: Path) -> tuple[int, float]:
        began, child = time.monotonic(), self.start(place)
        if child.wait():
            raise WorkError(f"status {child.returncode}: {(self.folder / 'errors').read_text()}")
        return 0, time.monotonic() - began

    def killed(self, rng: random.Random, usual: tuple[int, float], place: Path) -> bool:
        child = self.start(place)
        with suppress(subprocess.TimeoutExpired):
            child.wait(rng.uniform(1, usual[1]))
            return False
        ranks = ranks_of(child.pid)
        alone = ranks and rng.random() < 0.5
        for process in [rng.choice(ranks)] if alone else [child.pid, *ranks]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        child.wait()
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            time.sleep(0.05)
        return True

    def start(self, place: Path) -> subprocess.Popen[bytes]:
        with open(self.folder / "errors", "wb") as errors:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen(
                self.words(place), stdout=errors, stderr=errors, env=environment
            )


def ranks_of(parent: int) -> list[int]:
    """The children of a process."""
    file = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(word) for word in file.read_text().split()] if file.exists() else []


def tensors(file: Path) -> str:
    """SHA-256 of all tensors of a file of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(safetensors.torch.load_file(file).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()


ROOMS: dict[str, type[Room]] = {
    "train": Train,
    "processes": Processes,
    "search": Search,
    "study": Study,
    "index": Index,
    "cache": Cache,
    "convert": Convert,
    "quarantine": Quarantine,
}
