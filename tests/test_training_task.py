"""A task that is no classification trains, is killed, goes on and is reported; the loop knows none.

The toy: where a bright dot lies and of which of three kinds it is. Its targets are dictionaries,
its loss is the sum of two, its epochs are compared by that sum.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deepen import api
from deepen.errors import InputError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.recipe import load_recipe
from deepen.training.task import Classification, task_of

TOY = """
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import deepen
from deepen.data.sources import PictureSet, Split
from deepen.training.task import Outcome, Task


class Found(NamedTuple):
    place_error: float
    kind_loss: float
    indices: torch.Tensor
    bad: tuple


class Dots(Task):
    figures = ("place_loss", "kind_loss")
    columns = ("loss", "place_error", "kind_loss")

    def loss_of(self, outputs, batch, network):
        place, kind = outputs
        targets = batch.targets
        of_place = F.mse_loss(place, torch.stack([t["place"] for t in targets]))
        of_kind = F.cross_entropy(kind, torch.stack([t["kind"] for t in targets]))
        count = len(targets)
        sums = torch.stack([of_place, of_kind]).detach().double() * count
        return Outcome(of_place + of_kind, sums)

    def tally(self, kept):
        return torch.stack(list(kept)).sum(0)

    def predict(self, network, batches, here):
        network.eval()
        errors, losses, indices, bad = [], [], [], []
        with torch.inference_mode():
            for batch in batches:
                place, kind = network(batch.images)
                wanted = torch.stack([t["place"] for t in batch.targets])
                errors.append((place - wanted).abs().sum(1))
                kinds = torch.stack([t["kind"] for t in batch.targets])
                losses.append(F.cross_entropy(kind, kinds, reduction="none"))
                indices.append(batch.indices)
                bad += batch.bad
        network.train()
        mean = lambda parts: torch.cat(parts).double().mean().item()
        return Found(mean(errors), mean(losses), torch.cat(indices), tuple(bad))

    def scores(self, found):
        total = found.place_error + found.kind_loss
        return {"loss": total, "place_error": found.place_error, "kind_loss": found.kind_loss}


class Net(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 32), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.place, self.kind = nn.Linear(32, 2), nn.Linear(32, num_classes)

    def forward(self, x):
        features = self.drop(self.body(x))
        return self.place(features), self.kind(features)


def pictures() -> PictureSet:
    rng = np.random.default_rng(0)

    def split(name, count):
        images = np.zeros((count, 8, 8, 1), np.uint8)
        kinds = rng.integers(0, 3, count)
        places = rng.integers(0, 8, (count, 2))
        for image, (y, x), kind in zip(images, places, kinds):
            image[y, x] = 85 * (kind + 1)
        targets = [
            {"place": np.float32([y, x]) / 8, "kind": np.int64(kind)}
            for (y, x), kind in zip(places, kinds)
        ]
        keys = tuple(f"{name}/{i}" for i in range(count))
        return Split(name, kinds.astype(np.int64), keys, images=images, targets=targets)

    splits = {"train": split("train", 96), "val": split("val", 40)}
    return PictureSet("dots", None, ("dim", "grey", "bright"), 1, splits)


def train(output, **words):
    changes = {"task": "toy_dots:Dots", "length.epochs": 4, "batch_size": 16, "optimizer.lr": 0.05}
    return deepen.train(
        pictures(), model="toy_dots:Net", recipe="quick", changes=changes, output=output, **words
    )


if __name__ == "__main__":
    sys.modules["toy_dots"] = sys.modules["__main__"]
    train(sys.argv[1], resume="auto")
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_dots.py").write_text(TOY)
    sys.path.insert(0, str(folder))
    try:
        import toy_dots

        yield toy_dots
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("toy_dots", None)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    return toy.train(tmp_path_factory.mktemp("whole") / "run")


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_its_own_columns_are_kept_and_the_epoch_is_chosen_by_its_own_rank(whole):
    rows = rows_of(whole.run)
    assert list(rows[0]) == [
        *("epoch", "step", "lr", "train_loss", "train_place_loss", "train_kind_loss"),
        *("eval_loss", "eval_place_error", "eval_kind_loss", "images_per_s", "seconds"),
    ]
    for row in rows:
        two = float(row["train_place_loss"]) + float(row["train_kind_loss"])
        assert float(row["train_loss"]) == pytest.approx(two, rel=1e-5)
    losses = [float(row["eval_loss"]) for row in rows]
    assert losses[-1] < losses[0]
    best = 1 + losses.index(min(losses))
    document = json.loads((whole.run / "scores.json").read_text())
    assert document["choice"].startswith(f"epoch {best} was chosen")
    assert document["scores"]["figures"]["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert document["scores"]["num_samples"] == 40


def test_its_figures_are_those_of_the_network_worked_out_here(whole, toy):
    """The best epoch's validation figures, of the saved weights and the dots themselves."""
    card_loss = min(float(row["eval_loss"]) for row in rows_of(whole.run))
    from deepen.weights import load_weights

    loaded = load_weights(whole.run / "best.safetensors", model="toy_dots:Net")
    val = toy.pictures().splits["val"]
    mean, std = (loaded.card.preprocessing.mean[0], loaded.card.preprocessing.std[0])
    images = torch.from_numpy(val.images[..., 0]).float()[:, None]
    with torch.no_grad():
        place, kind = loaded.model((images / 255 - mean) / std)
    bright = val.images.reshape(40, 64).argmax(1)
    truth = torch.tensor([[p // 8 / 8, p % 8 / 8] for p in bright.tolist()])
    error = (place - truth).abs().sum(1).mean().item()
    own = -kind.log_softmax(1)[torch.arange(40), torch.from_numpy(val.labels)].mean().item()
    assert error + own == pytest.approx(card_loss, rel=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX's")
def test_a_kill_changes_no_bit(whole, toy, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, toy.__file__, str(run)], stderr=subprocess.DEVNULL, env={**os.environ}
    )
    while not (run / "checkpoints" / "000001").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = toy.train(run, resume="auto")
    ours, theirs = (load_checkpoint(each.run / "checkpoints") for each in (resumed, whole))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    assert ours.state["progress"]["epoch"] == 4


def test_a_stop_within_an_epoch_keeps_its_sums(whole, toy, tmp_path):
    from deepen.errors import Interrupted
    from deepen.training.progress import Silent

    class StopAt(Silent):
        left = 8  # of six steps an epoch

        def batch(self, images, loss):
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        toy.train(tmp_path / "run", reporter=StopAt())
    resumed = toy.train(tmp_path / "run", resume="auto")
    timed = ("images_per_s", "seconds")
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in timed} for row in rows_of(each.run)]
        for each in (resumed, whole)
    )
    assert ours == theirs


def test_it_is_reported(whole):
    page = (whole.run / "report.html").read_text("utf-8")
    figures = json.loads((whole.run / "scores.json").read_text())["scores"]["figures"]
    for name, value in figures.items():
        assert re.search(rf"{name}.*?{value:.4g}", page, re.DOTALL), name
    for title in ("place_loss", "kind_loss"):
        assert title in page
    api.write_report(whole.run)  # by itself too


def test_without_its_pictures_it_is_not_gone_on_with(whole):
    with pytest.raises(InputError, match="dots"):
        api.train(resume=str(whole.run))


def test_what_is_no_task_is_refused():
    recipe = load_recipe("quick", {"task": "no_such_module:Task"})
    with pytest.raises(InputError, match="task no_such_module:Task: No module"):
        task_of(recipe, "ab")
    recipe = load_recipe("quick", {"task": "collections:Counter"})
    with pytest.raises(InputError, match=r"task collections:Counter: .*"):
        task_of(recipe, "ab")
    assert isinstance(task_of(load_recipe("quick"), "ab"), Classification)
