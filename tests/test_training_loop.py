"""The loop: resumed runs end with the same bits, stops save, bad numbers and pictures are named."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepen import api
from deepen.data.loader import Batch
from deepen.errors import InputError, Interrupted, Preempted, WorkError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.distributed import Processes
from deepen.training.loop import length
from deepen.training.optimizer import Objective
from deepen.training.progress import Silent
from deepen.training.recipe import load_recipe
from deepen.training.speed import settings_of, stated
from deepen.training.task import Classification
from deepen.weights import load_weights

SHORT = {"length.epochs": 3, "batch_size": 64, "validation": 500}


def digest(run: Path) -> dict[str, str]:
    """What must be equal: both weights, tensors and state of the last checkpoint, the metrics."""
    newest = max((run / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())["state"]
    for row in state["progress"]["history"]:
        del row["seconds"], row["images_per_s"]
    found = {
        "tensors": (newest / "tensors.safetensors").read_bytes(),
        "state": json.dumps(state, sort_keys=True).encode(),
    }
    for name in ("best", "last"):
        model = load_weights(run / f"{name}.safetensors").model
        found[name] = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in found.items()}


class StopAt(Silent):
    """Raises a signal in its own process after so many batches."""

    def __init__(self, batches: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = batches, number

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


def train(tmp_path: Path, name: str, **words):
    return api.train(**{"data": "digits", "output": tmp_path / name, **words})


RESNET = {"model": "resnet20", "recipe": "quick", "changes": SHORT}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("whole"), "run", **RESNET).run


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 10, 21])
def test_a_stopped_run_ends_with_the_same_bits(whole, tmp_path, batch):
    """Seven batches an epoch: within, and at both sides of its end."""
    with pytest.raises(Interrupted, match="--resume"):
        train(tmp_path, "run", **RESNET, reporter=StopAt(batch))
    assert not (tmp_path / "run" / "scores.json").exists()
    resumed = api.train(resume=str(tmp_path / "run"))
    assert digest(resumed.run) == digest(whole)
    with open(resumed.run / "metrics.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_stops_in_a_row(whole, tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **RESNET, reporter=StopAt(2))
    for batches in (1, 5, 6):
        with pytest.raises(Preempted):
            api.train(resume=str(tmp_path / "run"), reporter=StopAt(batches, signal.SIGTERM))
    assert digest(api.train(resume=str(tmp_path / "run")).run) == digest(whole)


@pytest.mark.parametrize(
    ("words", "steps", "epochs"),
    [({"epochs": 3}, 21, 3), ({"steps": 21}, 21, 3), ({"steps": 22}, 22, 4), ({"steps": 1}, 1, 1)],
)
def test_steps_and_epochs_of_seven_batches(words, steps, epochs):
    assert length(load_recipe("quick", {"length": words}), 7) == (steps, epochs)
    with pytest.raises(InputError, match="no picture to train on"):
        length(load_recipe("quick", {"length": words}), 0)


def test_a_stop_is_raised_once_all_know_that_it_is_saved(tmp_path, monkeypatch):
    """Of several processes the first to end would end the one that writes."""
    seen: list[tuple[object, bool]] = []
    gather = Processes.gather

    def watched(self: Processes, document: object, *timeout_s: float) -> list[object]:
        seen.append((document, load_checkpoint(tmp_path / "run" / "checkpoints") is not None))
        return gather(self, document, *timeout_s)

    monkeypatch.setattr(Processes, "gather", watched)
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **RESNET, reporter=StopAt(2))
    assert seen[-1] == ("saved", True)


def test_two_runs_are_equal_and_other_seeds_are_not(whole, tmp_path):
    again = train(tmp_path, "again", **RESNET)
    other = train(tmp_path, "other", **{**RESNET, "changes": {**SHORT, "seed": 1}})
    assert digest(again.run) == digest(whole)
    assert digest(other.run)["last"] != digest(whole)["last"]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "adamw", "optimizer.lr": 0.001},
        {
            "schedule.name": "plateau",
            "schedule.patience": 1,
            "schedule.warmup_steps": 0,
            "optimizer.lr": 0.01,
        },
        {"schedule.name": "steps", "schedule.milestones": [0.5], "schedule.warmup_steps": 0},
        {"amp": True},
        {"early_stopping": 1, "length.epochs": 6},
    ],
    ids=["adamw", "plateau", "steps", "amp", "early stopping"],
)
def test_every_kind_of_recipe_resumes_exactly(tmp_path, changes):
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": {**SHORT, **changes}}
    expected = digest(train(tmp_path, "whole", **words).run)
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **words, reporter=StopAt(9))
    assert digest(api.train(resume=str(tmp_path / "run")).run) == expected


class Dropped(torch.nn.Module):
    """A user's network with dropout: torch's global random numbers must survive a resume."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, num_classes)
        )

    def forward(self, x):
        return self.layers(x)


def test_dropout_and_a_users_own_network_resume_exactly(tmp_path, monkeypatch):
    module = type(sys)("users_own")
    module.Dropped = Dropped
    monkeypatch.setitem(sys.modules, "users_own", module)
    words = {"model": "users_own:Dropped", "recipe": "quick", "changes": SHORT}
    whole = train(tmp_path, "whole", **words)
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **words, reporter=StopAt(9))
    resumed = api.train(resume=str(tmp_path / "run"))
    tensors = [
        (max((run / "checkpoints").iterdir()) / "tensors.safetensors").read_bytes()
        for run in (whole.run, resumed.run)
    ]
    assert tensors[0] == tensors[1]
    with pytest.raises(InputError, match="made by --model users_own:Dropped"):
        load_weights(whole.run / "best.safetensors")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of 24 small pictures each, in files, split by their own folders."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 18), ("val", 6)):
        for name, level in (("dark", 40), ("light", 160)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "photos"


PHOTOS = {
    "model": "resnet20",
    "changes": {"length.epochs": 2, "batch_size": 8, "input.size_px": 24},
}


def test_workers_and_stops_do_not_change_a_bit(photos, tmp_path):
    runs = {
        workers: train(tmp_path, f"w{workers}", data=str(photos), workers=workers, **PHOTOS).run
        for workers in (0, 2)
    }
    assert digest(runs[0]) == digest(runs[2])
    with pytest.raises(Interrupted):
        train(tmp_path, "run", data=str(photos), workers=2, **PHOTOS, reporter=StopAt(4))
    resumed = api.train(resume=str(tmp_path / "run"), workers=1)
    assert digest(resumed.run) == digest(runs[0])
    assert resumed.split == "val"
    chosen = json.loads((resumed.run / "scores.json").read_text())["choice"]
    assert "want of a test split" in chosen


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_bad_pictures_are_named_and_left_out(photos, tmp_path):
    (photos / "train" / "dark" / "3.jpg").write_bytes(b"")
    seen = Lines()
    words = {**PHOTOS, "changes": {**PHOTOS["changes"], "max_bad_pictures": 0.1}}
    run = train(tmp_path, "run", data=str(photos), **words, reporter=seen).run
    named = [line for line in seen.lines if "train/dark/3.jpg" in line]
    assert len(named) == 1
    assert "left out" in named[0]
    assert (run / "quarantine.txt").read_text() == "train/dark/3.jpg\tis empty\n"


def test_too_many_bad_pictures_stop_the_run(photos, tmp_path):
    for i in range(3):
        (photos / "train" / "dark" / f"{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"of 36 training pictures cannot be .* 5%.*train/dark"):
        train(tmp_path, "run", data=str(photos), **PHOTOS)


def test_an_infinite_loss_names_the_batch_and_overwrites_nothing(tmp_path, monkeypatch):
    words = {"model": "lenet5_relu", "recipe": "quick"}
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **words, changes=SHORT, reporter=StopAt(8))
    run = tmp_path / "run"
    before = {p: p.read_bytes() for p in run.glob("*.safetensors")}
    before |= {p: p.read_bytes() for p in (run / "checkpoints").rglob("*.safetensors")}
    diverged = lambda *_: torch.tensor(float("inf"), requires_grad=True)  # noqa: E731
    monkeypatch.setattr(Objective, "__call__", diverged)
    with pytest.raises(
        WorkError, match=r"the loss is (nan|inf) in epoch 2, step 9; .*digits/train"
    ):
        api.train(resume=str(run))
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model": "lenet5"}, "its model is resnet20, not lenet5"),
        ({"data": "mnist"}, "its data is digits, not mnist"),
        ({"changes": {"optimizer.lr": 0.5}}, "its optimizer"),
        ({"recipe": "lenet-1998"}, "its length|its batch_size|its optimizer"),
    ],
)
def test_a_resume_as_something_else_is_refused(whole, words, message):
    with pytest.raises(InputError, match=message):
        api.train(resume=str(whole), **words)


def test_a_resume_of_changed_data_is_refused(photos, tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, "run", data=str(photos), **PHOTOS, reporter=StopAt(1))
    shutil.copy(photos / "val" / "dark" / "0.jpg", photos / "val" / "dark" / "new.jpg")
    with pytest.raises(InputError, match="changed since the run began"):
        api.train(resume=str(tmp_path / "run"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    newest = max((run / "checkpoints").iterdir())
    blob = bytearray((newest / "tensors.safetensors").read_bytes())
    blob[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(blob)
    seen = Lines()
    assert digest(api.train(resume=str(run), reporter=seen).run)["last"] == digest(whole)["last"]
    assert any(str(newest) in line and "damaged" in line for line in seen.lines)


def test_a_taken_output_is_refused(whole):
    with pytest.raises(InputError, match="exists; name a new folder"):
        api.train("digits", output=whole)


def test_a_whole_recipe_is_written_and_reads_back(whole):
    found = load_recipe(str(whole / "recipe.yaml"))
    settings = settings_of(found)._asdict()
    assert stated(found) == settings  # none is left open
    assert found == load_recipe("quick", SHORT | settings)


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_a_killed_process_resumes_exactly(whole, tmp_path):
    run = tmp_path / "run"
    flags = ["--recipe", "quick", "--epochs", "3", "-b", "64", "--validation", "500"]
    command = [sys.executable, "-m", "deepen", "train", "digits", "--model", "resnet20", *flags]
    process = subprocess.Popen([*command, "--output", str(run)], stderr=subprocess.DEVNULL)
    while not (run / "checkpoints" / "000001").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = api.train(resume=str(run))
    assert digest(resumed.run) == digest(whole)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signals_end_the_command_with_their_status(tmp_path, number, status):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "deepen", "train", "digits", "--model", "resnet20"]
    process = subprocess.Popen(
        [*command, "--output", str(run)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not (run / "checkpoints" / "000001").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.splitlines()[-1].startswith("deepen: stopped by")
    assert "Traceback" not in errors


def test_auxiliary_losses_are_added_with_the_networks_weight():
    """GoogLeNet's: the loss of the logits plus 0.3 times each of the other two."""
    labels = torch.tensor([0, 2])
    outputs = tuple(torch.randn(2, 3) for _ in range(3))
    model = torch.nn.Module()
    model.auxiliary_weight = 0.3
    task = Classification(load_recipe("quick", {"loss.label_smoothing": 0.0}), "abc")
    batch = Batch(torch.empty(2, 1, 1, 1), labels, torch.arange(2))
    losses = [torch.nn.functional.cross_entropy(each, labels) for each in outputs]
    loss, kept = task.loss_of(outputs, batch, model)
    torch.testing.assert_close(loss, losses[0] + 0.3 * losses[1] + 0.3 * losses[2])
    assert task.tally([kept]).tolist() == [(outputs[0].argmax(1) == labels).sum().item()]
    torch.testing.assert_close(task.loss_of(outputs[1], batch, model).loss, losses[1])
