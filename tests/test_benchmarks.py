"""The benchmark scripts run from end to end, with tiny sizes; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def figures(tmp_path: Path, script: str, *words: str) -> dict:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / script), *words, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert {"date", "machine", "torch"} <= set(found)
    return found


@pytest.mark.slow  # ten networks' turns, several processes
def test_gpu_script_runs_without_a_gpu(tmp_path):
    found = figures(tmp_path, "gpu.py", "--dry-run")
    assert found["dry_run"] is True
    for part in ("schedule", "suite", "resnet50"):
        assert found[part]["ratio"] > 0
    assert set(found["suite"]["networks"]) == {"plain20", "resnet20"}


def test_gpu_script_refuses_to_measure_without_a_gpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "--dry-run" in done.stderr


@pytest.mark.slow  # five processes that import torch
def test_training_script_compares_the_loops(tmp_path):
    found = figures(
        tmp_path, "training.py", "--rounds", "1", "--steps", "1", "--only", "deepen",
        "--only", "timm",
    )  # fmt: skip
    for title in ("LeNet (ReLU form), MNIST", "ResNet-20, CIFAR-10"):
        assert set(found[title]["deepen_over"]) == {"plain", "timm"}
    assert len(found["loop_cost_us"]) == 3


@pytest.mark.slow  # a dozen processes that import torch
def test_startup_script_compares_with_importing_torch(tmp_path):
    found = figures(tmp_path, "startup.py", "--rounds", "1")
    assert found["over_import_torch"]["import torch"] == 1
    assert set(found["seconds"]) > {"deepen --help", "deepen predict", "deepen info resnet152"}
