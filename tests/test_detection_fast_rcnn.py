"""Fast R-CNN: pooled and told apart as written out here; trained, stopped and gone on with."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import RoIPool, box_iou

from deepen import api
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.detection.networks import model_of
from deepen.detection.proposals import RegionProposals, propose, with_proposals
from deepen.errors import InputError, Interrupted
from deepen.models import create_model
from deepen.studies.bench import Bench, Fitted
from deepen.studies.study import Arm, Pictures, Setting
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Reporter, Silent
from deepen.training.request import Here

FAST = model_of("fast-rcnn", "resnet20", "regions=16", "least_score=0.2")
TASK = {
    "task": "deepen.detection.fast_rcnn:GivenProposals",
    "length.epochs": 3,
    "batch_size": 2,
    "input.size_px": [64, 96],
}


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[int], list[dict[str, np.ndarray]]]:
    """A red and a blue square in each picture; every second picture has one alone."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 156, (count, 64, 96, 3)).astype(np.uint8)
    targets = []
    for place, image in enumerate(images):
        corners = np.stack([rng.integers(2, 20, 2) + np.array([0, 48]), rng.integers(2, 36, 2)], 1)
        boxes = np.concatenate([corners, corners + 24], 1)
        for (x, y, right, bottom), label in zip(boxes, (0, 1), strict=True):
            image[y:bottom, x:right, 2 * label] = 250
        kept = slice(0, 1 + place % 2)
        targets.append({"boxes": boxes[kept].astype(np.float32), "labels": np.arange(2)[kept]})
    return images, [0] * count, targets


def near(image: np.ndarray) -> torch.Tensor:
    """Boxes of a grid: a proposer that needs no search."""
    x, y = np.meshgrid(np.arange(0, 76, 12), np.arange(0, 44, 12))
    corners = np.stack([x.ravel(), y.ravel()], 1)
    return torch.from_numpy(np.concatenate([corners, corners + 24], 1)).float()


def source() -> PictureSet:
    plain = PictureSet.of("squares", ("red", "blue"), train=drawn(8, 0), test=drawn(4, 1))
    return with_proposals(plain, {name: propose(s, near) for name, s in plain.splits.items()})


def train(folder: Path, reporter: Reporter | None = None) -> Fitted:
    """An ordinary run in `folder`/run, begun or gone on with."""
    setting = Setting(Pictures("squares"), "detect", TASK, ())
    here = Here(device="cpu", workers=0, reporter=reporter or Silent())
    return Bench(Arm("fast"), FAST, 0, setting, source(), folder, here).train()


def test_regions_are_pooled_in_place_of_the_last_pooling_and_go_through_fc7():
    """VGG-11 taken apart by hand, with torchvision's RoIPool; the box of Girshick 2014's t."""
    torch.manual_seed(0)
    words = ("least_score=0", "nms=1", "detections=1000")
    ours = (
        create_model(model_of("fast-rcnn", "deepen.studies.quarter:vgg11", *words), 2, 3, (64, 96))
        .double()
        .eval()
    )
    vgg = create_model("deepen.studies.quarter:vgg11", 5).double().eval()
    heads = ours.roi_heads
    state = {**ours.backbone.body.state_dict()}
    state |= {k: v for k, v in heads.box_head.body.state_dict().items() if k not in state}
    vgg.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    corners = torch.rand(2, 7, 2, dtype=torch.float64) * 40
    boxes = torch.cat([corners, corners + 8 + torch.rand(2, 7, 2) * 16], 2)
    with torch.no_grad():
        found = ours(images, [{"proposals": each} for each in boxes])
        maps = images
        for name in vgg.stage_layers:
            if name == "pool5":
                break
            maps = vgg.forward_stage(name, maps)
        pooled = RoIPool(7, 1 / 16)(maps, list(boxes))
        fc7 = vgg.classifier[:-1](pooled.flatten(1))
        shares = heads.box_predictor.cls_score(fc7).softmax(1).view(2, 7, 3)
        t = heads.box_predictor.bbox_pred(fc7).view(2, 7, 3, 4) / torch.tensor([10, 10, 5, 5])
    sides, middles = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    middle = middles[:, :, None] + t[..., :2] * sides[:, :, None]
    half = sides[:, :, None] * t[..., 2:].exp() / 2
    edge = torch.tensor([96.0, 64, 96, 64])
    expected = torch.cat([middle - half, middle + half], -1).clamp(min=0).minimum(edge)
    for picture, one in enumerate(found):
        assert len(one["boxes"]) == 14, "each proposal for each class"
        for box, score, label in zip(one["boxes"], one["scores"], one["labels"], strict=True):
            apart = (expected[picture, :, label] - box).abs().sum(1)
            assert apart.min() < 1e-6
            assert shares[picture, apart.argmin(), label] == pytest.approx(score.item(), rel=1e-8)


def test_a_resnet_keeps_its_last_stage_for_each_region():
    network = create_model(model_of("fast-rcnn", "deepen.studies.quarter:resnet18"), 2, 3, (64, 96))
    assert [*network.roi_heads.box_head.body.stage_layers] == ["conv5_x"]
    name = model_of("fast-rcnn", "deepen.studies.quarter:alexnet_one_tower")
    alexnet = create_model(name, 2, 3, (128, 128))
    assert [*alexnet.backbone.body.stage_layers][-1] == "conv5"
    assert not alexnet.roi_heads.box_head.body.stage_layers, "pool5 is RoI pooling"


class StopAt(Silent):
    """Presses Ctrl-C after this many batches."""

    left = 6

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_it_learns_and_a_stop_changes_no_bit(tmp_path):
    rows = train(tmp_path / "whole").rows
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", StopAt())
    train(tmp_path / "parts")
    ours, theirs = (
        load_checkpoint(tmp_path / each / "run" / "checkpoints") for each in ("parts", "whole")
    )
    assert ours is not None
    assert theirs is not None
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[0]["train_loss"] == pytest.approx(rows[0]["train_class"] + rows[0]["train_box"])
    assert rows[0]["eval_ap50"] is not None


def test_proposals_follow_the_picture_and_are_kept_in_a_file(tmp_path):
    plain = PictureSet.of("squares", ("red", "blue"), train=drawn(3, 0), test=drawn(2, 1))
    asked = []

    def some(image: np.ndarray) -> torch.Tensor:
        asked.append(image.shape)
        return near(image)[: len(asked)]

    file = tmp_path / "proposals.safetensors"
    first = propose(plain.splits["train"], some, file)
    again = propose(plain.splits["train"], some, file)
    assert asked == [(64, 96, 3)] * 3
    assert [len(boxes) for boxes in again] == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    file.write_bytes(file.read_bytes()[:-5])  # cut: made again
    assert [len(boxes) for boxes in propose(plain.splits["train"], some, file)] == [4, 5, 6]
    assert len(asked) == 6
    other = propose(plain.splits["test"], some, file)  # of other pictures: made again
    assert (len(asked), len(other)) == (8, 2)
    held = with_proposals(plain, {"train": first})
    assert [*held.splits] == ["train"]
    assert [*held.splits["train"].targets[0]] == ["boxes", "labels", "proposals"]
    assert held.fingerprint != plain.fingerprint
    mirrored = near(np.zeros(0))
    assert box_iou(mirrored, mirrored).diag().eq(1).all()


def test_a_region_proposal_network_proposes_in_px_of_the_picture():
    torch.manual_seed(0)
    name = model_of("faster-rcnn-fpn", "deepen.studies.quarter:resnet18", "proposals=50,20")
    detector = create_model(name, 2, 3, (64, 96))
    plain = Preprocessing(
        channels=3, size_px=(64, 96), resize="squash", mean=(0.5,) * 3, std=(0.2,) * 3
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    boxes = RegionProposals(detector, plain)(image)
    assert boxes.shape == (20, 4)
    detector.eval()
    with torch.no_grad():
        seen = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.2
        maps = detector.backbone(seen)
        expected, _ = detector.rpn(ImageList(seen, [(64, 96)]), maps)
    torch.testing.assert_close(boxes, expected[0], atol=1e-3, rtol=1e-4)
    twice = Image.fromarray(image).resize((192, 192), Image.Resampling.NEAREST)
    larger = RegionProposals(detector, plain)(np.asarray(twice))
    assert larger[:, 2].max() > 96
    assert larger.max() <= 192


def test_pictures_without_proposals_are_refused_in_a_line(tmp_path):
    bare = source()
    split = bare.splits["train"]
    targets = [{k: t[k] for k in ("boxes", "labels")} for t in split.targets]
    bare = replace(bare, splits={**bare.splits, "train": replace(split, targets=targets)})
    with pytest.raises(InputError, match="no proposals"):
        api.train(bare, model=FAST, recipe="detect", changes=TASK, output=tmp_path / "run")
