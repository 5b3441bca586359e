"""Where a run took place: versions, machine, commit."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch

from deepen.training.request import Here
from deepen.training.run import Run
from deepen.version import __version__


class Began:
    """Now: when something began, and how long ago that is, whatever is done to the clock since."""

    def __init__(self) -> None:
        self.date = datetime.datetime.now(datetime.UTC)
        self._ticks = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self._ticks


def write_environment(run: Run, here: Here, began: Began, *, ended: bool = False) -> None:
    """Write environment.json; how long it took, once the run has ended."""
    run.write_json(
        "environment.json",
        {
            "command": here.command,
            **about_machine(here.place),
            "processes": here.processes.size,
            "started": began.date.isoformat("T", "seconds"),
            "seconds": began.seconds if ended else None,
        },
    )


def about_machine(device: torch.device) -> dict[str, str | int | None]:
    """Versions, machine and commit."""
    return {
        "deepen": __version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes two seconds
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "commit": _commit(),
    }


def _cpu() -> str:
    """The processor's name as the system has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str | None:
    """The commit that deepen runs from, where it is a checkout of git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
