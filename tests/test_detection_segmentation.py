"""Segmentation trains, is killed, goes on and is scored in full size, as scikit-learn counts it."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score
from sklearn.utils.class_weight import compute_class_weight

from deepen.data.geometry import Geometry
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.detection.made import Drawing, made_pictures
from deepen.detection.overlay import overlay, palette
from deepen.detection.segmentation import Segmentation, in_source, masks_of
from deepen.errors import InputError
from deepen.training.checkpoint import load_checkpoint
from deepen.training.recipe import load_recipe
from deepen.weights import load_weights

TOY = """
import sys

import deepen
from deepen.detection.fcn import FCN
from deepen.detection.made import Drawing, made_pictures
from deepen.models.resnet import BasicBlock, ResNet, Variant


def net(num_classes: int, in_channels: int) -> FCN:
    backbone = ResNet(Variant(BasicBlock, (1, 1, 1, 1), (8, 8, 16, 16)), 10, in_channels)
    return FCN(backbone, 8, num_classes)


def pictures():
    return made_pictures(Drawing("segmentation", size_px=48), train=48, val=8, test=12)


def train(output, **words):
    changes = {"length.epochs": 3, "input.size_px": 32, "schedule.warmup_steps": 0, "amp": False}
    changes |= {"loss.class_weights": "balanced"}  # or it says background everywhere
    return deepen.train(
        pictures(), model="toy_fcn:net", recipe="segment", changes=changes, output=output, **words
    )


if __name__ == "__main__":
    sys.modules["toy_fcn"] = sys.modules["__main__"]
    train(sys.argv[1], resume="auto")
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_fcn.py").write_text(TOY)
    sys.path.insert(0, str(folder))
    try:
        import toy_fcn

        yield toy_fcn
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("toy_fcn", None)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    return toy.train(tmp_path_factory.mktemp("whole") / "run")


def test_its_scores_are_scikit_learns_of_the_saved_weights_in_full_size(whole, toy):
    loaded = load_weights(whole.run / "best.safetensors", model="toy_fcn:net")
    test = toy.pictures().splits["test"]
    inputs = loaded.card.preprocessing
    fitted = torch.from_numpy(np.stack([inputs.fit(test.picture(i, 3)) for i in range(len(test))]))
    with torch.no_grad():
        logits = loaded.model(inputs.normalize(fitted))
    assert logits.shape[2:] == (32, 32)
    large = F.interpolate(logits, (48, 48), mode="bilinear", align_corners=False)
    said = large.argmax(1).numpy().ravel()
    true = np.stack([target["mask"] for target in test.targets]).ravel()
    said, true = said[true != 255], true[true != 255]
    scores = whole.scores
    assert len(np.unique(said)) >= 3
    counted = confusion_matrix(true, said, labels=range(11))
    assert np.abs(counted - scores.confusion).sum() <= 2  # a tie may fall the other way
    classes = np.unique([said, true])
    iou = jaccard_score(true, said, labels=classes, average="macro")
    assert scores.figures["miou"] == pytest.approx(iou, abs=1e-4)
    assert scores.figures["pixel_accuracy"] == pytest.approx((said == true).mean(), abs=1e-4)
    assert "full size of each picture" in scores.protocol
    masks = torch.from_numpy(np.stack([target["mask"] for target in test.targets]))
    rows = (torch.arange(32) * 1.5 + 0.75).long()  # the nearest source pixel of each of the input
    small = masks[:, rows][:, :, rows].long()
    learned = np.stack([t["mask"] for t in toy.pictures().splits["train"].targets])
    learned = learned[learned != 255]
    weights = compute_class_weight("balanced", classes=np.arange(11), y=learned)
    weights = torch.from_numpy(weights).float()
    pixels = F.cross_entropy(logits, small, weights, ignore_index=255, reduction="none")
    loss = (pixels.sum((1, 2)) / (small != 255).sum((1, 2))).mean().item()
    assert loaded.card.score["loss"] == pytest.approx(loss, rel=1e-4)


def test_the_worst_pictures_are_drawn(whole, toy):
    worst = json.loads((whole.run / "worst.json").read_text())
    shares = [one["miou"] for one in worst]
    assert len(worst) == 8
    assert shares == sorted(shares)
    test = toy.pictures().splits["test"]
    first = worst[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["true"]))))
    wanted = overlay(test.picture(first["index"], 3), test.targets[first["index"]]["mask"], 11)
    assert np.array_equal(shown, np.asarray(wanted))


def test_it_is_reported(whole):
    page = (whole.run / "report.html").read_text("utf-8")
    assert "Mean IoU" in page
    for each in json.loads((whole.run / "worst.json").read_text()):
        assert each["predicted"] in page
        assert each["true"] in page
    assert "eval_miou" in (whole.run / "metrics.csv").read_text()


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
    assert ours.state["progress"]["epoch"] == 3
    assert resumed.scores == whole.scores


def geometry(window, place, size_px=(20, 30), flipped=False) -> Geometry:
    return Geometry(size_px, torch.tensor([window]), torch.tensor([place]), torch.tensor([flipped]))


def test_scores_are_carried_back_as_torch_interpolates():
    logits = torch.randn(3, 20, 30)
    whole = geometry([0.0, 0, 45, 50], [0.0, 0, 30, 20])
    wanted = F.interpolate(logits[None], (50, 45), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(in_source(logits, whole, 0, (50, 45)), wanted, atol=1e-5)
    flipped = geometry([0.0, 0, 45, 50], [0.0, 0, 30, 20], flipped=True)
    assert torch.allclose(in_source(logits.flip(2), flipped, 0, (50, 45)), wanted, atol=1e-5)
    # Of the left half alone, and with a border of 2 px: what is not seen is as its nearest edge.
    half = geometry([0.0, 0, 26, 16], [2.0, 2, 28, 18])
    found = in_source(logits, half, 0, (16, 52))
    assert torch.allclose(found[:, :, :26], logits[:, 2:18, 2:28], atol=1e-5)
    assert torch.allclose(found[:, :, 30:], found[:, :, -1:].expand(-1, -1, 22))


def of(masks: list[np.ndarray], classes: int = 3, **changes) -> tuple[Segmentation, PictureSet]:
    """The task for pictures with these masks."""
    images = np.zeros((len(masks), *masks[0].shape, 3), np.uint8)
    labels, targets = np.zeros(len(masks), np.int64), [{"mask": mask} for mask in masks]
    source = PictureSet.of("some", [*"abcdefgh"[:classes]], train=(images, labels, targets))
    return Segmentation(load_recipe("segment", changes), source.classes), source


def batch_of(source: PictureSet) -> Batch:
    size = source.splits["train"].targets[0]["mask"].shape
    inputs = Preprocessing(channels=3, size_px=size, resize="none", mean=(0,) * 3, std=(1,) * 3)
    return next(iter(Batches(source.splits["train"], inputs, batch_size=8).epoch(0)))


def test_each_picture_weighs_the_same_however_much_of_it_is_void():
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (6, 5)).astype(np.uint8) for _ in range(3)]
    masks[1][:4] = 255
    masks[2][:] = 255  # nothing counts: a loss of 0
    task, source = of(masks)
    batch = batch_of(source)
    logits = torch.randn(3, 3, 6, 5, requires_grad=True)
    outcome = task.loss_of(logits, batch, torch.nn.Identity())
    own = [
        F.cross_entropy(
            logits[i : i + 1], torch.from_numpy(masks[i])[None].long(), ignore_index=255
        )
        for i in range(2)
    ]
    assert outcome.loss.item() == pytest.approx((own[0] + own[1]).item() / 3, rel=1e-5)
    said = logits.argmax(1).numpy()
    shares = [(said[i] == masks[i])[masks[i] != 255].mean() for i in range(2)]
    assert task.tally([outcome.kept]).item() == pytest.approx(sum(shares), rel=1e-5)
    (gradient,) = torch.autograd.grad(outcome.loss, logits)
    assert not gradient[1, :, :4].any()
    assert not gradient[2].any()


def test_balanced_weights_are_scikit_learns_over_pixels():
    rng = np.random.default_rng(1)
    masks = [rng.choice([0, 1, 2, 255], (9, 9), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)]
    task, source = of(masks, **{"loss.class_weights": "balanced"})
    task.see(source.splits["train"])
    pixels = masks[0][masks[0] != 255]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=pixels)
    assert task.weights is not None
    assert np.allclose(task.weights.numpy(), wanted)
    logits = torch.randn(1, 3, 9, 9)
    loss = task.losses(logits, torch.from_numpy(masks[0])[None].long()).item()
    each = F.cross_entropy(
        logits, torch.from_numpy(masks[0])[None].long(), ignore_index=255, reduction="none"
    )[0].numpy()[masks[0] != 255]
    assert loss == pytest.approx((each * wanted[pixels]).mean(), rel=1e-5)


def test_what_it_cannot_be_is_refused():
    odd = np.full((4, 4), 3, np.uint8)
    _, source = of([odd])
    with pytest.raises(InputError, match=r"picture 0: its mask has class 3, and there are 3"):
        masks_of(batch_of(source), 3)
    task, _ = of([odd], classes=4)
    source.splits["train"].targets[0]["mask"] = odd[:3]
    with pytest.raises(InputError, match=r"some/train/0: is \(4, 4\), its mask \(3, 4\)"):
        task.see(source.splits["train"])
    boxes = made_pictures(Drawing("localization"), train=1, val=0, test=0)
    with pytest.raises(InputError, match="needs pictures with a mask"):
        task.see(boxes.splits["train"])
    _, source = of([odd], classes=4)
    with pytest.raises(InputError, match="Identity says no class for each pixel"):
        task.loss_of(torch.zeros(1, 4), batch_of(source), torch.nn.Identity())
    with pytest.raises(InputError, match=r"needs loss\.name: cross_entropy, not bce"):
        of([odd], classes=4, **{"loss.name": "bce"})


def test_the_palette_is_vocs():
    """The first colours that VOC's devkit documents; 21 is the last of VOC 2012."""
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    colors = palette(21)
    assert {i: tuple(colors[i].tolist()) for i in known} == known
    gray = Image.new("RGB", (2, 1), (100, 100, 100))
    shown = np.asarray(overlay(gray, np.array([[255, 1]]), 21))
    assert shown[0, 0].tolist() == [100, 100, 100]
    assert shown[0, 1].tolist() == [115, 45, 45]
