"""Runs that commit 90cf095 began, in tests/data/run-90cf095: later versions go on with them.

They were made at that commit by

    python tests/test_pins_old_runs.py tests/data/run-90cf095

`lenet5` and `own` were stopped by SIGTERM in the middle of an epoch, `perceptron` was trained to
its end. `expected.json` has what the first two became when that commit went on with them, and the
machine it was on, where a later version must end with the same bits. One thread has it all, so that
the number of cores does not matter.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

import deepen
from deepen.data.loader import Batches
from deepen.data.sources import open_source
from deepen.errors import Preempted
from deepen.report.page import write_report
from deepen.training.checkpoint import load_checkpoint
from deepen.training.recipe import load_recipe
from deepen.weights import load_weights

OLD = Path(__file__).parent / "data" / "run-90cf095"
MODULE = "pins_own"  # of the user's own network


class Own(nn.Module):
    """Batch norm's statistics and dropout's random numbers are in its checkpoint."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(96, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bn(self.conv(x)).relu(), 2)
        return self.fc(self.drop(x.flatten(1)))


STOPPED = {  # a network and what its recipe changes, and the batch it is stopped after
    "lenet5": ({"model": "lenet5", "recipe": "lenet-1998", "changes": {"length.epochs": 3}}, 17),
    "own": (
        {
            "model": f"{MODULE}:Own",
            "recipe": "quick",
            "changes": {
                "length.steps": 40,
                "schedule.warmup_steps": 5,
                "augment.crop": "pad",
                "augment.pad_px": 1,
                "augment.jitter": 0.2,
                "augment.erase": 0.5,
                "mix.mixup": 0.2,
                "mix.cutmix": 1.0,
                "ema.decay": 0.9,
                "ema.warmup": True,
                "accumulate": 2,
                "clip_norm": 0.5,
                "loss.temperature": 0.5,
                "early_stopping": 20,
            },
        },
        2 * 29,  # each half of a batch is told of
    ),
}
FINISHED = {
    "model": "perceptron",
    "recipe": "quick",
    "changes": {"length.epochs": 2, "input.normalize": "pixel", "loss.temperature": 2.0},
}


class StopAt:
    """A reporter that sends its own process SIGTERM after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told: None

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


def install() -> types.ModuleType:
    """The module that the user's own network is in."""
    module = types.ModuleType(MODULE)
    module.Own = Own  # type: ignore[attr-defined]
    return module


def machine() -> dict[str, object]:
    """What bits depend on."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    capabilities = torch.cpu.get_capabilities()
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "capabilities": sorted(name for name, has in capabilities.items() if has is True),
        "processor": names[0],
        "numpy": version("numpy"),
        "scipy": version("scipy"),  # its quantiles are mixup's shares
    }


def final_weights(run: Path) -> dict[str, Tensor]:
    """All that the last checkpoint knows of weights, averages and momentum."""
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    assert not found.damaged
    return {name: t for name, t in sorted(found.tensors.items()) if not name.startswith("rng.")}


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def sample(tensor: Tensor) -> list[float]:
    """The norm, and up to 24 values evenly spaced."""
    flat = tensor.double().flatten()
    count = min(24, len(flat))
    return [flat.norm().item(), *(flat[i * len(flat) // count].item() for i in range(count))]


def slim(run: Path) -> None:
    """Leave the newest checkpoint alone, and nothing of the system's name."""
    _, *older = sorted((run / "checkpoints").iterdir(), reverse=True)
    for generation in older:
        shutil.rmtree(generation)
    shutil.rmtree(run / "tensorboard")
    about = json.loads((run / "environment.json").read_text("utf-8"))
    del about["platform"]
    (run / "environment.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def make(folder: Path) -> None:
    """Begin the runs and note what becomes of them."""
    torch.set_num_threads(1)
    sys.modules[MODULE] = install()
    folder.mkdir(parents=True)
    expected: dict[str, object] = {"machine": machine()}
    for name, (words, batches) in STOPPED.items():
        run = folder / name
        try:
            deepen.train("digits", **words, output=run, device="cpu", reporter=StopAt(batches))
        except Preempted:
            pass
        else:
            raise AssertionError(f"{name} was not stopped")
        slim(run)
        whole = folder / f"{name}-whole"
        shutil.copytree(run, whole)
        trained = deepen.train(resume=str(whole), device="cpu")
        weights = final_weights(whole)
        expected[name] = {
            "epochs": len((whole / "metrics.csv").read_text().splitlines()) - 1,
            "top1": trained.scores.top1,
            "sha256": digest(weights),
            "weights": {key: sample(tensor) for key, tensor in weights.items()},
        }
        shutil.rmtree(whole)
    run = folder / "perceptron"
    deepen.train("digits", **FINISHED, output=run, device="cpu")
    slim(run)
    (run / "report.html").unlink()
    (run / "mistakes.json").unlink()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", "utf-8")


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((OLD / "expected.json").read_text("utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_module(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, install())


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(("name", "steps"), [("lenet5", 36), ("own", 40)])
def test_an_old_run_is_gone_on_with(name, steps, expected, tmp_path):
    run = tmp_path / name
    shutil.copytree(OLD / name, run)
    before = load_checkpoint(run / "checkpoints")
    assert before is not None
    assert before.state["progress"]["step"] == {"lenet5": 17, "own": 29}[name]
    trained = deepen.train(resume=str(run), device="cpu")
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) - 1 == expected[name]["epochs"]
    assert rows[1] == (OLD / name / "metrics.csv").read_text().splitlines()[1]
    assert int(rows[-1].split(",")[1]) == steps
    weights = final_weights(run)
    assert list(weights) == list(expected[name]["weights"])
    for key, values in expected[name]["weights"].items():
        norm, *some = sample(weights[key])
        assert norm == pytest.approx(values[0], rel=1e-3), key
        size = norm / weights[key].numel() ** 0.5  # of a usual value
        assert some == pytest.approx(values[1:], rel=1e-3, abs=1e-3 * size), key
    assert trained.scores.top1 == pytest.approx(expected[name]["top1"], abs=3 / 899)
    here = machine()
    other = [key for key, value in expected["machine"].items() if here.get(key) != value]
    if other:
        pytest.skip(f"bits are compared on the recorded machine alone; here differ: {other}")
    assert digest(weights) == expected[name]["sha256"]


@pytest.mark.parametrize("name", ["lenet5", "own", "perceptron"])
def test_an_old_recipe_means_what_it_says(name):
    """Every field is read and written again alike, but for those of kinds that are not used."""
    path = OLD / name / "recipe.yaml"
    written = yaml.safe_load(path.read_text("utf-8"))
    again = load_recipe(str(path)).model_dump(mode="json", exclude_none=True)

    def within(part: object, whole: object) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(within(value, whole[key]) for key, value in part.items() if key in whole)
        return part == whole

    assert written.keys() <= again.keys()
    assert within(written, again)
    unused = {
        f"{block}.{key}"
        for block, fields in written.items()
        if isinstance(fields, dict)
        for key in fields.keys() - again[block].keys()
    }
    assert unused <= UNUSED


UNUSED = {
    *("optimizer.alpha", "optimizer.eps", "schedule.milestones", "schedule.gamma"),
    *("schedule.patience", "loss.label_smoothing"),
}
"""What version 0.1.0 wrote of every recipe, whichever kind it was of."""


@pytest.mark.parametrize("name", ["best", "last"])
def test_old_weights_predict_as_they_did(name, tmp_path):
    """Network, card, mean picture: the logits that were written beside them."""
    loaded = load_weights(OLD / "perceptron" / f"{name}.safetensors")
    assert (loaded.card.architecture, loaded.card.epoch) == ("perceptron", 2)
    assert (loaded.card.temperature, len(loaded.card.classes)) == (2.0, 10)
    source = open_source("digits")
    assert loaded.card.fingerprint == source.fingerprint
    batches = Batches(
        source.splits["test"],
        loaded.card.preprocessing,
        batch_size=899,
        mean_image=loaded.mean_image,
    )
    (batch,) = batches.epoch(0)
    with torch.inference_mode():
        logits = loaded.model(batch.images)
    saved = safetensors.torch.load_file(OLD / "perceptron" / "predictions.safetensors")
    torch.testing.assert_close(logits, saved["logits"], rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.labels, saved["labels"])


def test_an_old_run_that_ended_is_scored_and_reported_again(tmp_path):
    run = tmp_path / "perceptron"
    shutil.copytree(OLD / "perceptron", run)
    before = json.loads((run / "scores.json").read_text("utf-8"))
    assert "perceptron on digits" in write_report(run).read_text("utf-8")
    trained = deepen.train(resume=str(run), device="cpu")
    assert trained.scores.confusion == before["scores"]["confusion"]
    assert trained.scores.loss == pytest.approx(before["scores"]["loss"], rel=1e-5)
    assert deepen.evaluate(run / "best.safetensors").confusion == before["scores"]["confusion"]


if __name__ == "__main__":
    make(Path(sys.argv[1]))
