"""What every test shares: two threads, a fixed seed, repeatable hypothesis, the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Commands that tests start as processes inherit all of this.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["NO_COLOR"] = "1"
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "DEEPEN_DATA_DIR"):
    os.environ.pop(name, None)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# No test may fail because a machine is slow; in CI the same examples are tried each time.
settings.register_profile(
    "deepen",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deepen")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """No test depends on those before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (mnist/, cifar10/, ...) that DEEPEN_DATA names, else a skip."""
    named = os.environ.get("DEEPEN_DATA")
    if not named:
        pytest.skip("DEEPEN_DATA is not set: it names the folder of real data sets")
    folder = Path(named)
    assert folder.is_dir(), f"DEEPEN_DATA={named} is no folder"
    return folder
