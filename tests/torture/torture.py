"""Kill it, cut it, fill its disk, take its folder away: the counts of what was noticed and kept.

    python tests/torture/torture.py [PART...]      (make torture; minutes)

PARTS: kills, batches, rooms, damage, disk, folder, sigterm, processes; all by default. Each prints
its counts on one line; the exit status is 1 if one of them is not as promised in docs/exactness.md.
The disk that fills up and the folder that becomes read-only are small tmpfs mounts: without the
right to mount those parts say so and fail.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from children import CONTEXT, begin, command, complaints, deepen, photos, process
from rooms import KILLS, ROOMS, torture

from deepen import api
from deepen.errors import WorkError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Row, Silent
from deepen.verification import digests, verify_resume

DIGITS = {
    "data": "digits",
    "model": "lenet5_relu",
    "recipe": "quick",
    "changes": {"length.epochs": 3, "batch_size": 128, "validation": 100},
}
FLAGS = [
    "digits",
    "--model",
    "lenet5_relu",
    "--recipe",
    "quick",
    "--epochs",
    "3",
    "-b",
    "128",
    "--validation",
    "100",
]


def kills(folder: Path) -> bool:
    """20 kills x 3 seeds."""
    changes = {"length.epochs": 8, "batch_size": 32}
    words = {"data": "digits", "model": "lenet5_relu", "pictures": 256, "kills": 20}
    found = [verify_resume(**words, changes=changes, seed=seed) for seed in range(3)]
    different = sum(not each.identical for each in found)
    total = sum(each.kills + each.kills_in_saves for each in found)
    inside = [each.kills_in_saves for each in found]
    runs = sum(each.runs for each in found)
    print(f"kills: {total} by SIGKILL, inside a save {inside} of 20 each, in {runs} runs of")
    print(f"       {found[0].trained}: {different} differences")
    return not different and total == 60 and min(inside) >= 5


class KillAt(Silent):
    """SIGKILL to its own process at a boundary: before the first batch, at each, at an epoch's end.

    The instants of two epochs of four batches: 0 the start, 1 to 4 batches, 5 the end of an epoch.
    """

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, 0

    def _instant(self) -> None:
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1

    def start(self, total_images: int, done_images: int) -> None:
        self._instant()

    def batch(self, images: int, loss: float) -> None:
        self._instant()

    def epoch(self, row: Row, epochs: int) -> None:
        self._instant()


def train(words: dict, at: int | None = None) -> None:
    api.train(**words, reporter=KillAt(at))


def batches(folder: Path) -> bool:
    """A kill at every batch of an epoch and both its ends, with 0, 1 and 4 workers."""
    words = {
        "data": str(photos(folder)),
        "model": "lenet5_relu",
        "recipe": "quick",
        "changes": {"length.epochs": 2, "batch_size": 8, "augment.crop": "random_resized"},
    }
    assert process(train, {**words, "output": str(folder / "whole"), "workers": 0}) == 0
    whole = digests(folder / "whole")
    killed, different = {}, 0
    for workers in (0, 1, 4):
        killed[workers] = 0
        for at in range(11):
            run = str(folder / f"run-{workers}-{at}")
            status = process(train, {**words, "output": run, "workers": workers}, at)
            killed[workers] += status == -signal.SIGKILL
            assert process(train, {"resume": run, "workers": workers}) == 0
            different += digests(Path(run)) != whole
    print(f"batches: kills {killed} (by workers), at the start, at every batch of two epochs of")
    print(f"       four and at the end of each: {different} differences")
    return not different and set(killed.values()) == {11}


def rooms(folder: Path) -> bool:
    """25 kills of each of eight kinds of work."""
    found = {}
    for name, room in ROOMS.items():
        (folder / name).mkdir()
        found[name] = torture(room(folder / name), random.Random(0))
        print(f"  {name}: {found[name][0]} kills, {found[name][1]} differences", flush=True)
    kills, different = (sum(counts) for counts in zip(*found.values(), strict=True))
    print(f"rooms: {kills} kills ({KILLS} each of {', '.join(ROOMS)}): {different} differences")
    return not different


def damage(folder: Path) -> bool:
    """200 bit flips and 5 truncations of the newest checkpoint, over its three files."""
    run = api.train(**DIGITS, output=folder / "run").run
    newest = max((run / "checkpoints").iterdir())
    before = load_checkpoint(run / "checkpoints").generation - 1
    rng = random.Random(0)
    files = sorted(newest.iterdir())
    named, used = [0, 0], 0
    for i in range(205):
        path = files[i % len(files)]
        sound = path.read_bytes()
        blob, place = bytearray(sound), rng.randrange(len(sound))
        if i < 200:
            blob[place] ^= 1 << rng.randrange(8)
        else:
            del blob[place:]
        path.write_bytes(blob)
        try:
            found = load_checkpoint(run / "checkpoints")
            named[i >= 200] += len(found.damaged) == 1 and str(newest) in found.damaged[0]
            used += found.generation == before
        except WorkError as error:
            print(error)
        path.write_bytes(sound)
    print(
        f"damage: {named[0]} of 200 flipped bits and {named[1]} of 5 truncations found and named, "
        f"the generation before used {used} times"
    )
    return named == [200, 5] and used == 205


def litter(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.name.endswith(".writing")]


def is_whole(run: Path) -> bool:
    """No checkpoint at all, or one of the newest generation."""
    found = load_checkpoint(run / "checkpoints")
    return found is None or not found.damaged


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def disk(folder: Path) -> bool:
    """A disk that is full at ten points of the run, then is made larger; the run is resumed."""
    assert deepen("train", *FLAGS, "--output", folder / "whole", errors=folder / "e")[0] == 0
    whole = digests(folder / "whole")
    size = sum(-(-p.stat().st_size // 4096) * 4096 for p in (folder / "whole").rglob("*"))
    good, same = 0, 0
    for i in range(10):
        with small_disk(
            folder / f"disk-{i}", 4096 * max(2, int(size * (i + 0.5) / 10) // 4096)
        ) as d:
            run = d / "run"
            status, lines = deepen("train", *FLAGS, "--output", run, errors=folder / "e")
            one_line = len(lines) == 1 and "No space left on device" in lines[0]
            kept = is_whole(run) and not litter(run)
            good += status == 1 and one_line and kept
            if not (status == 1 and one_line and kept):
                print(f"  disk {i}: status {status}, {lines}, litter {litter(run)}")
            remount(d, "size=64m")
            words = ("train", *FLAGS, "--output", run, "--resume", "auto")
            status, lines = deepen(*words, errors=folder / "e")
            same += status == 0 and digests(run) == whole
    print(
        f"disk: full at 10 points of {size:,} bytes (tmpfs): {good} times one line, status 1, the "
        f"last checkpoint whole and no temporary file; {same} of 10 resumed without a difference"
    )
    return good == same == 10


class At(Silent):
    """Calls something at the end of the first epoch."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def epoch(self, row: Row, epochs: int) -> None:
        if row["epoch"] == 1:
            self.call()


def folder_lost(folder: Path) -> bool:
    """A folder that becomes read-only or vanishes in the middle of a run."""

    def read_only(run: Path) -> None:  # a mount of its own: the disk's has files open for writing
        subprocess.run(["mount", "--bind", run, run], check=True)
        remount(run, "bind,ro")

    found = {}
    for name, call in (("read-only", read_only), ("vanished", shutil.rmtree)):
        run = folder / name
        try:
            api.train(**DIGITS, output=run, reporter=At(partial(call, run)))
        except WorkError as error:
            found[name] = str(error)
        if name == "read-only":
            subprocess.run(["umount", run], check=True)
            kept = is_whole(run) and (run / "checkpoints" / "000001").is_dir() and not litter(run)
        else:
            kept = not run.exists()
        if not kept:
            found.pop(name)
    print(f"folder: {len(found)} of 2 named, nothing lost or left: {'; '.join(found.values())}")
    return len(found) == 2


def sigterm(folder: Path) -> bool:
    """SIGTERM at 20 instants of the command's life, with 4 workers, and a resume after each."""
    data = photos(folder)
    words = ["train", str(data), "--model", "lenet5_relu", "--epochs", "3", "-b", "8", "-j", "4"]
    for name in ("first", "whole"):  # the first waits for the server of processes as well
        began = time.monotonic()
        assert deepen(*words, "--output", folder / name, errors=folder / "e")[0] == 0
        length = time.monotonic() - began
    whole = digests(folder / "whole")
    rng, slowest, preempted, too_late, other, different = random.Random(0), 0.0, 0, 0, 0, 0
    while preempted < 20 and too_late + other < 40:
        run = folder / f"run-{preempted + too_late + other}"
        arguments = [*words, "--output", str(run), "--resume", "auto"]
        (folder / "e").unlink()
        child = begin(command, arguments, str(folder / "e"))
        while not (folder / "e").exists():  # what comes before is the fork's
            time.sleep(0.01)
        child.join(rng.random() * length)
        sent = time.monotonic()
        child.terminate()
        child.join()
        if child.exitcode == 0:
            too_late += 1
            continue
        preempted += child.exitcode == 75
        other += child.exitcode != 75
        if child.exitcode != 75:
            print(f"  sigterm: status {child.exitcode}, {complaints(folder / 'e')}", flush=True)
        slowest = max(slowest, time.monotonic() - sent)
        status, _ = deepen(*arguments, errors=folder / "e")
        different += status != 0 or digests(run) != whole
    print(
        f"sigterm: {preempted} at random instants of {length:.1f} s, 4 workers: exit status 75, at "
        f"most {slowest:.1f} s later; {different} differences once resumed; {other} other statuses;"
        f" {too_late} more came too late"
    )
    return preempted == 20 and not other and not different and slowest < 10


def processes(folder: Path) -> bool:
    """Processes of one job killed, replaced, and restarted as another number of them."""
    tests = Path(__file__).parents[1] / "test_training_distributed.py"
    chosen = ("-m", "slow", "-k", "replaced or another_number or sigterm_to_torchrun", "-rA")
    words = (sys.executable, "-m", "pytest", str(tests), f"--basetemp={folder}", *chosen)
    done = subprocess.run(words, capture_output=True, text=True)
    passed = [line.split("::")[1] for line in done.stdout.splitlines() if "PASSED" in line]
    restarted = [name.partition("[")[2][:-1] for name in passed if "another_number" in name]
    print(f"processes: killed and started again as another number {restarted}: the same samples;")
    print(f"       {len(passed)} of 5 jobs killed or preempted under torchrun end as promised")
    if done.returncode:
        print(done.stdout)
    return not done.returncode and len(passed) == 5


PARTS = {
    "kills": kills,
    "batches": batches,
    "rooms": rooms,
    "damage": damage,
    "disk": disk,
    "folder": folder_lost,
    "sigterm": sigterm,
    "processes": processes,
}

if __name__ == "__main__":
    CONTEXT.set_forkserver_preload(["__main__", "deepen.verification", "deepen.cli"])
    failed = []
    for part in sys.argv[1:] or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="deepen-torture-") as name:
            if not PARTS[part](Path(name)):
                failed.append(part)
        print(f"       {time.monotonic() - began:.0f} s", flush=True)
    print(f"NOT as promised: {', '.join(failed)}" if failed else "all as promised")
    sys.exit(bool(failed))
