"""A set with boxes and masks is trained on by its folder's path, stopped and gone on with."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_sets import coco_document, picture

import deepen
from deepen.errors import InputError, Interrupted
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Silent

COUNTS = """
from typing import NamedTuple

import torch
from torch import nn

from deepen.training.task import Outcome, Task


class Found(NamedTuple):
    loss: float
    indices: torch.Tensor
    bad: tuple


def wanted(batch):
    '''Of each picture its number of boxes, and the mean of its masks where the network sees it.'''
    rows = []
    for place, target in enumerate(batch.targets):
        masks = batch.geometry.mask(place, target["masks"])
        rows.append(torch.stack([torch.tensor(float(len(target["boxes"]))), masks.float().mean()]))
    return torch.stack(rows)


class Counts(Task):
    def loss_of(self, outputs, batch, network):
        return Outcome((outputs - wanted(batch)).square().mean(), None)

    def predict(self, network, batches, here):
        losses, indices, bad = [], [], []
        with torch.inference_mode():
            for batch in batches:
                losses.append((network(batch.images) - wanted(batch)).square().mean(1))
                indices.append(batch.indices)
                bad += batch.bad
        return Found(torch.cat(losses).mean().item(), torch.cat(indices), tuple(bad))

    def scores(self, found):
        return {"loss": found.loss}


class Net(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))

    def forward(self, x):
        return self.body(x)
"""


class StopAt(Silent):
    left = 3

    def batch(self, images, loss):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "toy_counts.py").write_text(COUNTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "toy_counts"
    sys.modules.pop("toy_counts", None)


def coco_folder(root: Path) -> Path:
    rng = np.random.default_rng(5)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 8), ("val", 4)):
        names = [f"{split}{i}.png" for i in range(count)]
        for name in names:
            picture(root / split / name)
        document = coco_document(names, rng)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def test_a_folder_is_trained_on_and_gone_on_with_to_the_bit(tmp_path, module):
    root = coco_folder(tmp_path / "coco")
    changes = {
        "task": f"{module}:Counts",
        "length.epochs": 2,
        "batch_size": 4,
        "input.size_px": 24,
        "augment.flip": True,
    }
    words = {"model": f"{module}:Net", "recipe": "quick", "changes": changes}
    whole = deepen.train(str(root), output=tmp_path / "whole", **words)
    with pytest.raises(Interrupted):
        deepen.train(str(root), output=tmp_path / "run", reporter=StopAt(), **words)
    resumed = deepen.train(str(root), output=tmp_path / "run", resume="auto", **words)
    ours, theirs = (load_checkpoint(each.run / "checkpoints") for each in (resumed, whole))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    path = root / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    [first, *_] = [a for a in document["annotations"] if isinstance(a["segmentation"], list)]
    first["segmentation"][0][0] /= 2  # an outline alone
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="data"):
        deepen.train(output=tmp_path / "other", resume=str(resumed.run))


def test_classification_says_that_it_does_not_learn_boxes(tmp_path):
    root = coco_folder(tmp_path / "coco")
    with pytest.raises(InputError, match="boxes or masks"):
        deepen.train(str(root), output=tmp_path / "run", model="lenet-5", recipe="quick")
