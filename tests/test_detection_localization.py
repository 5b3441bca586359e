"""Localization: boxes in shares of the input, carried back to the source, scored as ILSVRC does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepen
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.detection.localization import (
    BOX_WEIGHT,
    Localization,
    Localized,
    Localizer,
    SmoothLocalization,
)
from deepen.detection.made import Drawing, made_pictures
from deepen.detection.networks import model_of
from deepen.errors import InputError
from deepen.models import create_model, takes_of
from deepen.models.vgg import VGG, A, init_glorot
from deepen.training.recipe import load_recipe
from deepen.training.request import Here


def inputs(size_px: tuple[int, int]) -> Preprocessing:
    return Preprocessing(channels=3, size_px=size_px, resize="squash", mean=(0,) * 3, std=(1,) * 3)


@pytest.fixture(scope="module")
def digits() -> PictureSet:
    return made_pictures(Drawing("localization"), train=24, val=4, test=8)


@pytest.mark.parametrize("kind", ["pcr", "scr"])
def test_logits_are_the_classifiers_and_boxes_begin_in_the_middle(kind):
    net = create_model(model_of(f"localizer-{kind}", "resnet20"), 7, 3, (32, 32)).eval()
    assert isinstance(net, Localizer)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, boxes = net(x)
        assert torch.equal(logits, net.backbone(x))
        assert boxes.shape == (2, 7, 4)
        assert (net.box.bias == 0.5).all()
        maps = F.adaptive_avg_pool2d(net.backbone.forward_features(x), 7).flatten(1)
        own = F.linear(maps / 3136**0.5, net.box.weight, net.box.bias)
    assert maps.shape[1] == 64 * 49
    assert net.classifier_names == ("backbone.fc", "box")
    assert net.box.out_features == 4 * (7 if kind == "pcr" else 1)
    assert torch.allclose(boxes, own.reshape(2, -1, 4).expand(-1, 7, -1), atol=1e-6)


def test_vggs_box_is_of_its_last_hidden_layer():
    with torch.device("meta"):  # a hundred million weights that nobody needs
        vgg = VGG(A, "none", 10, 3)
    vgg.features.to_empty(device="cpu").apply(init_glorot)
    vgg.classifier[0], vgg.classifier[3] = nn.Linear(512 * 49, 6), nn.Linear(6, 6)
    vgg.classifier[6], vgg.num_features = nn.Linear(6, 10), 6
    net = Localizer(vgg, True, (32, 32)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = vgg.classifier[:6](vgg.avgpool(vgg.features(x)).flatten(1))
        logits, boxes = net(x)
        assert torch.allclose(logits, vgg.classifier[6](hidden))
        assert torch.allclose(boxes.flatten(1), net.box(hidden / 6**0.5), atol=1e-6)


@pytest.mark.parametrize("task", [Localization, SmoothLocalization])
def test_the_loss_is_of_the_true_classs_box_where_the_picture_lies(digits, task):
    """Pictures of 64 px squashed to 48x32: shares of the input are shares of the source.

    Of two boxes the larger one is meant.
    """
    split = digits.splits["train"]
    small = np.float32([[1, 2, 3, 4]])
    both = [{"boxes": np.concatenate([small, target["boxes"]])} for target in split.targets]
    split = replace(split, targets=both)
    batch = next(iter(Batches(split, inputs((48, 32)), batch_size=24).epoch(0)))
    logits, boxes = torch.randn(24, 10), torch.rand(24, 10, 4)
    made = task(load_recipe("localize"), digits.classes)
    outcome = made.loss_of(Localized(logits, boxes), batch, nn.Identity())
    true = torch.stack([torch.from_numpy(target["boxes"][1]) for target in both]) / 64
    wanted = torch.cat([(true[:, :2] + true[:, 2:]) / 2, true[:, 2:] - true[:, :2]], 1)
    said = boxes[torch.arange(24), batch.labels]
    if task is Localization:
        each = F.mse_loss(said, wanted, reduction="none").sum(1) / 2
    else:
        each = F.smooth_l1_loss(said, wanted, reduction="none").sum(1)
    of_class = F.cross_entropy(logits, batch.labels)
    assert outcome.loss.item() == pytest.approx((of_class + BOX_WEIGHT * each.mean()).item(), 1e-5)
    hits, lost = made.tally([outcome.kept]).tolist()
    assert hits == (logits.argmax(1) == batch.labels).sum()
    assert lost == pytest.approx(each.sum().item(), rel=1e-5)


def test_a_box_that_the_crop_leaves_out_is_not_learned():
    corner = {"boxes": torch.tensor([[0.0, 0, 2, 2]]).numpy()}
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8).numpy()
    source = PictureSet.of("one", ("a", "b"), train=(images, [0], [corner]))
    crops = Augmentation(crop="random_resized", area=(0.05, 0.1))
    batches = Batches(source.splits["train"], inputs((32, 32)), batch_size=1, augmentation=crops)
    made = Localization(load_recipe("localize"), source.classes)
    boxes = torch.full((1, 2, 4), 9.0, requires_grad=True)
    seen = set()
    for epoch in range(12):
        (batch,) = batches.epoch(epoch)
        assert batch.geometry is not None
        inside = bool(batch.geometry.boxes(0, torch.tensor([[0.0, 0, 2, 2]]))[1])
        loss = made.loss_of(Localized(torch.zeros(1, 2), boxes), batch, nn.Identity()).loss
        assert (loss.item() > 1) == inside
        seen.add(inside)
    assert False in seen


class Knows(nn.Module):
    """Says what it is told, picture after picture."""

    def __init__(self, logits: Tensor, boxes: Tensor) -> None:
        super().__init__()
        self.said, self.at = Localized(logits, boxes), 0

    def forward(self, images: Tensor) -> Localized:
        begin, self.at = self.at, self.at + len(images)
        return Localized(*(part[begin : self.at] for part in self.said))


def test_guesses_come_back_to_the_source_and_are_scored(digits):
    split = digits.splits["train"]
    batches = Batches(split, inputs((48, 32)), batch_size=10)
    true = torch.stack([torch.from_numpy(target["boxes"][0]) for target in split.targets])
    shares = torch.cat([(true[:, :2] + true[:, 2:]) / 2, true[:, 2:] - true[:, :2]], 1) / 64
    boxes = shares[:, None].repeat(1, 10, 1)
    labels = torch.from_numpy(split.labels)
    logits = 5.0 * F.one_hot(labels, 10)
    logits[:6] = 5.0 * F.one_hot((labels[:6] + 1) % 10, 10) + 2.0 * F.one_hot(labels[:6], 10)
    boxes[20:] += 0.5  # the class is right, the box is not
    made = Localization(load_recipe("localize"), digits.classes)
    found = made.predict(Knows(logits, boxes), batches.epoch(0), Here(device="cpu"))
    assert torch.tensor(found.pictures[9].boxes[0]).tolist() == pytest.approx(
        true[9].tolist(), 1e-4
    )
    assert found.pictures[2].labels[:2] == [(labels[2] + 1) % 10, labels[2]]
    scores = made.scores(found)
    assert scores["top1_error"] == pytest.approx(10 / 24)
    assert scores["top5_error"] == pytest.approx(4 / 24)
    assert scores["top1_class_error"] == pytest.approx(6 / 24)
    assert made.rank({f"eval_{k}": v for k, v in scores.items()})[0] == pytest.approx(14 / 24)


def test_it_trains_and_is_reported(digits, tmp_path):
    trained = deepen.train(
        digits,
        model=model_of("localizer-pcr", "resnet20"),
        recipe="localize",
        changes={"length.epochs": 1, "input.size_px": 32, "augment.flip": False},
        output=tmp_path / "run",
    )
    assert trained.scores.num_samples == 8
    assert trained.scores.headline in (trained.run / "report.html").read_text("utf-8")
    guesses = json.loads((trained.run / "guesses.json").read_text())
    assert [len(one["boxes"]) for one in guesses] == [5] * 8
    again = deepen.load(trained.run / "best.safetensors")  # its card is enough
    assert isinstance(again, Localizer)


def test_what_it_cannot_be_is_refused(digits):
    made = Localization(load_recipe("localize"), digits.classes)
    empty = [{"boxes": [[3.0, 3, 3, 5]]}]
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy()
    for targets in (None, empty):
        source = PictureSet.of("bad", ("a",), train=(images, [0], targets))
        with pytest.raises(InputError, match="bad/train/0 needs a box of its class"):
            made.see(source.splits["train"])
    with pytest.raises(InputError, match="LeNet5 has a fixed output"):
        create_model(model_of("localizer-pcr", "lenet5"), 10, 1, (32, 32))
    with pytest.raises(InputError, match="class_weights has no meaning"):
        Localization(load_recipe("localize", {"loss.class_weights": "balanced"}), digits.classes)
    batch = next(iter(Batches(digits.splits["val"], inputs((32, 32)), batch_size=4).epoch(0)))
    with pytest.raises(InputError, match="Identity says no box"):
        made.loss_of(torch.zeros(4, 10), batch, nn.Identity())
    takes = takes_of(model_of("localizer-scr", "resnet18"))
    assert takes is not None
    assert takes.sizes == "built"
