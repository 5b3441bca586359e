"""Detection through the loop: bright boxes on noise, found, scored, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deepen
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.detection.networks import model_of
from deepen.detection.task import Detection, Instances, targets_of
from deepen.errors import Diverged, InputError
from deepen.training.initialization import copy_layers
from deepen.training.recipe import load_recipe
from deepen.training.request import Here
from deepen.verification import verify_resume
from deepen.weights import read_card

CLASSES = ("bright", "dark")
HEIGHT, WIDTH = 48, 72
FEW = ("maps=8", "hidden=16", "kept=60,60", "proposals=30,20", "regions=16", "anchor_px=12,24")
TINY = model_of("faster-rcnn-fpn", "resnet20", *FEW)
SHORT = {"length.epochs": 1, "batch_size": 4, "input.size_px": [40, 72]}


def drawn(count: int, seed: int, masks: bool = False) -> tuple[Any, Any, Any]:
    """Grey noise with up to two boxes, white or black, of 8 to 24 px; every fourth has none."""
    random = np.random.default_rng(seed)
    images = random.integers(100, 150, (count, HEIGHT, WIDTH, 3), np.uint8)
    labels, targets = np.zeros(count, np.int64), []
    for index in range(count):
        boxes, kinds, drawn = [], [], []
        for half in range(0 if index % 4 == 3 else 1 + index % 2):
            width, height = random.integers(8, 24, 2)
            left = half * WIDTH // 2 + random.integers(0, WIDTH // 2 - width)
            top = random.integers(0, HEIGHT - height)
            kind = int(random.integers(2))
            part = np.s_[top : top + height, left : left + width]
            images[index][part] = 0 if kind else 255
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[part] = 1
            boxes.append([left, top, left + width, top + height])
            kinds.append(kind)
            drawn.append(mask)
        target = {
            "boxes": np.array(boxes, np.float32).reshape(-1, 4),
            "labels": np.array(kinds, np.int64),
        }
        if masks:
            target["masks"] = np.array(drawn, np.uint8).reshape(-1, HEIGHT, WIDTH)
        labels[index] = kinds[0] if kinds else 0
        targets.append(target)
    return images, labels, targets


def boxes_set(count: int = 16, masks: bool = False) -> PictureSet:
    parts = {name: drawn(count, seed, masks) for seed, name in enumerate(("train", "val"))}
    return PictureSet.of("boxes", CLASSES, **parts)


class Looker(nn.Module):
    """Finds the white and the black box of each half by looking, and says so in px of its input."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [self._look(image.mean(0)) for image in images]

    def _look(self, image: Tensor) -> dict[str, Tensor]:
        half = image.shape[1] // 2
        boxes, labels = [], []
        for kind, seen in enumerate((image > 0.8, image < 0.2)):
            for left in (0, half):
                places = seen[:, left : left + half].nonzero()
                if len(places) > 4:
                    (top, first), (bottom, last) = places.amin(0), places.amax(0)
                    boxes.append([left + first, top, left + last + 1, bottom + 1])
                    labels.append(kind + 1)
        masks = torch.ones(len(boxes), 1, 28, 28)
        found = {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "masks": masks}
        return found | {"labels": torch.tensor(labels), "scores": torch.full((len(boxes),), 0.9)}


def batches(augmentation: Augmentation | None = None, masks: bool = False) -> Batches:
    """Squashed from 72x48 to 144x144 px."""
    fit = Preprocessing(
        channels=3, size_px=(144, 144), resize="squash", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    split = boxes_set(8, masks).splits["train"]
    return Batches(split, fit, batch_size=3, augmentation=augmentation or Augmentation())


@pytest.mark.parametrize("kind", [Detection, Instances])
def test_what_is_found_in_the_input_is_scored_in_the_source(kind: type[Detection]) -> None:
    task = kind(load_recipe("detect"), CLASSES)
    masks = kind is Instances
    found = task.predict(Looker(), batches(masks=masks).epoch(0), Here(device="cpu"))
    assert set(found.sizes) == {(WIDTH, HEIGHT)}
    assert found.indices.tolist() == list(range(8))
    scores = task.scores(found)
    assert scores.keys() == set(task.columns)
    assert scores["ap50"] == pytest.approx(1)
    assert (scores["ap"] or 0) > 0.8
    assert not masks or (scores["mask_ap"] or 0) > 0.5  # its whole box, drawn on a raster of 28x28
    split = boxes_set(8, masks).splits["train"]
    examined = task.examine(found, split, "words")
    assert examined.card["ap50"] == pytest.approx(1)
    listed = examined.files["detections.json"]
    assert split.targets is not None
    for one, target in zip(listed, split.targets, strict=True):
        assert isinstance(one, dict)
        have, there = (
            np.array(sorted(map(tuple, boxes))).reshape(-1, 4)
            for boxes in (one["boxes"], target["boxes"])
        )
        assert np.abs(have - there).max(initial=0) <= 1


def test_targets_follow_flips_and_crowds_are_left_out() -> None:
    (batch, *_) = batches(Augmentation(flip=True), masks=True).epoch(1)
    assert batch.geometry is not None
    assert batch.geometry.flipped.any()
    for image, target in zip(batch.images, targets_of(batch, masks=True), strict=True):
        seen = Looker()._look(image.mean(0))
        assert (len(target["boxes"]), 144, 144) == target["masks"].shape
        order = target["boxes"][:, 0].argsort()
        other = seen["boxes"][:, 0].argsort()
        assert target["labels"][order].tolist() == seen["labels"][other].tolist()
        difference = target["boxes"][order] - seen["boxes"][other]
        assert difference.abs().max() <= 3 if len(order) else True
    assert batch.named_targets is not None
    crowd = torch.zeros(len(batch.named_targets[1]["labels"]), dtype=torch.bool)
    batch.named_targets[1]["crowd"] = crowd.index_fill(0, torch.tensor([1]), True)
    kept = targets_of(batch, masks=True)[1]
    assert len(kept["boxes"]) == len(kept["labels"]) == len(kept["masks"]) == 1


def test_a_detector_trains_on_pictures_with_and_without_boxes(tmp_path: Path) -> None:
    trained = deepen.train(
        boxes_set(), model=TINY, recipe="detect", changes=SHORT, output=tmp_path / "run"
    )
    assert trained.split == "val"
    assert trained.scores.coco.ap is not None
    header, row = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert {"train_objectness", "train_rpn_box", "train_class", "train_box"} < found.keys()
    parts = sum(float(found[f"train_{name}"]) for name in Detection.figures)
    assert parts == pytest.approx(float(found["train_loss"]), rel=1e-4)
    again = deepen.load(trained.run / "best.safetensors", model=TINY)
    assert again.settings.maps == 8
    assert read_card(trained.run / "best.safetensors").input_size == (40, 72)
    assert (trained.run / "detections.json").is_file()


def test_masks_train_too(tmp_path: Path) -> None:
    model = model_of("mask-rcnn-fpn", "resnet20", *FEW)
    task = {"task": "deepen.detection.task:Instances"}
    trained = deepen.train(
        boxes_set(8, masks=True),
        model=model,
        recipe="detect",
        changes={**SHORT, **task},
        output=tmp_path / "run",
    )
    assert "train_mask" in (trained.run / "metrics.csv").read_text()


def test_a_loss_that_is_no_number_names_its_pictures(tmp_path: Path) -> None:
    changes = {**SHORT, "optimizer.lr": 1e30, "schedule.warmup_steps": 0, "clip_norm": None}
    with pytest.raises(Diverged, match=r"the loss is .* step \d+; .*boxes/train/\d+, boxes/train"):
        deepen.train(
            boxes_set(), model=TINY, recipe="detect", changes=changes, look=False, output=tmp_path
        )


def test_pictures_without_boxes_or_masks_are_refused() -> None:
    images, labels, targets = drawn(8, 0)
    task = Detection(load_recipe("detect"), CLASSES)
    plain = PictureSet.of("plain", CLASSES, train=(images, labels))
    none = PictureSet.of("none", CLASSES, train=(images[3:4], labels[3:4], targets[3:4]))
    with pytest.raises(InputError, match="no boxes"):
        task.see(plain.splits["train"])
    with pytest.raises(InputError, match="no training picture has a box"):
        task.see(none.splits["train"])
    with pytest.raises(InputError, match="no masks"):
        Instances(load_recipe("detect"), CLASSES).see(boxes_set().splits["train"])


def test_kills_change_no_bit_of_a_detector() -> None:
    found = verify_resume(
        boxes_set(12),
        model=TINY,
        recipe="detect",
        changes={**SHORT, "length.epochs": 2},
        kills=2,
        device="cpu",
    )
    assert found.identical, found
    assert found.kills + found.kills_in_saves == 2


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_classifiers_layers_find_their_places(norm: str) -> None:
    torch.manual_seed(0)
    source = deepen.create_model("resnet18", 5)
    for part in source.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
    words = model_of("faster-rcnn-c4", "resnet18", f"norm={norm}")
    target = deepen.create_model(words, 2, 3, (64, 64))
    said = copy_layers(source, target, load_recipe("detect").init, "resnet18")
    have, theirs = target.state_dict(), source.state_dict()
    places = {"layer4": "roi_heads.box_head.body.layer4"}
    for name, value in theirs.items():
        first = name.partition(".")[0]
        place = (
            name.replace("layer4", places["layer4"])
            if first == "layer4"
            else (f"backbone.body.{name}")
        )
        if first != "fc" and place in have:
            assert torch.equal(have[place], value), name
    assert "layer4.1.bn2 -> roi_heads.box_head.body.layer4.1.bn2" in said
    assert "conv1 -> backbone.body.conv1" in said
    assert "fc" not in said
