"""R-CNN: its training regions, machines and regressors against the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import nn
from torchvision.ops import box_iou

from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.detection.rcnn import (
    RCNN,
    TUNED,
    TUNED_POSITIVES,
    RegionFeatures,
    fill_of,
    region_pictures,
    warped,
)
from deepen.evaluation.detection import score_detections
from deepen.layers import ImageClassifier, stages
from deepen.models import create_model

SIDE_PX = 32
PLAIN = Preprocessing(
    channels=3, size_px=(SIDE_PX, SIDE_PX), resize="none", mean=(0.5,) * 3, std=(0.2,) * 3
)


class Pooled(ImageClassifier):
    """Mean colours of 8x8 places: features enough for drawn shapes, and none of them trained."""

    averages_maps = False
    stage_layers = stages(pool=("pool",))

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.num_features = 3, 3, 192
        self.pool, self.fc = nn.AdaptiveAvgPool2d(8), nn.Linear(192, 3)


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[int], list[dict[str, np.ndarray]]]:
    """A red and a blue rectangle in each picture of grey noise, in two or three places."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 156, (count, 96, 160, 3)).astype(np.uint8)
    targets = []
    for image in images:
        left = rng.integers(2, 20, 3) + np.array([0, 52, 104])
        corners = np.stack([left, rng.integers(2, 50, 3)], 1)
        boxes = np.concatenate([corners, corners + rng.integers(20, 32, (3, 2))], 1)
        labels = rng.permutation([0, 1, rng.integers(2)])
        for (x, y, right, bottom), label in zip(boxes, labels, strict=True):
            image[y:bottom, x:right, 2 * label] = 250
        targets.append({"boxes": boxes.astype(np.float32), "labels": labels})
    return images, [0] * count, targets


def proposals_of(targets: list[dict[str, np.ndarray]], seed: int) -> list[torch.Tensor]:
    """Boxes somewhat beside the objects, and boxes anywhere."""
    rng, found = np.random.default_rng(seed), []
    for target in targets:
        near = np.repeat(target["boxes"], 8, 0)
        near = near + rng.uniform(-5, 5, near.shape)
        corners = rng.uniform(0, [130, 70], (40, 2))
        far = np.concatenate([corners, corners + rng.uniform(15, 30, (40, 2))], 1)
        found.append(torch.from_numpy(np.concatenate([near, far])).float())
    return found


@pytest.fixture(scope="module")
def source() -> PictureSet:
    return PictureSet.of("shapes", ("red", "blue"), train=drawn(12, 0), test=drawn(4, 1))


@pytest.fixture(scope="module")
def train_proposals(source) -> list[torch.Tensor]:
    return proposals_of(source.splits["train"].targets, 5)


@pytest.fixture(scope="module")
def detector(source, train_proposals) -> RCNN:
    features = RegionFeatures(Pooled(), PLAIN)
    return RCNN(features, 2, seed=3).fit(source.splits["train"], train_proposals)


def described(source, train_proposals):
    """Regions, features of the detector's scale and what they overlap, all by hand."""
    train, fill = source.splits["train"], fill_of(source.splits["train"])
    boxes, features, labels, trues, firsts = [], [], [], [], []
    for i, target in enumerate(train.targets):
        true = torch.from_numpy(target["boxes"])
        regions = torch.cat([true, train_proposals[i]])
        pixels = warped(np.asarray(train.picture(i, 3)), regions, SIDE_PX, fill)
        normal = (pixels / 255.0 - 0.5) / 0.2
        pooled = normal.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2)
        features.append(pooled.reshape(len(regions), -1))
        boxes.append(regions)
        trues.append(true)
        labels.append(target["labels"])
        firsts.append(np.arange(len(regions)) < len(true))
    scale = 20 / np.linalg.norm(np.concatenate(features), axis=1).mean()
    return boxes, [scale * each for each in features], labels, trues, firsts


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_a_machine_has_true_boxes_against_what_overlaps_none(source, train_proposals, detector):
    boxes, features, labels, trues, _ = described(source, train_proposals)
    for label in (0, 1):
        positives, negatives = [], []
        for i, own in enumerate(labels):
            mine = own == label
            positives.append(features[i][: len(own)][mine])
            apart = (box_iou(boxes[i], trues[i][mine]) < 0.3).all(1).numpy()
            negatives.append(features[i][apart])
        negatives = np.concatenate(negatives)
        assert len(negatives) < 2000, "all are drawn, none are left to be mined"
        order = np.random.default_rng(3).permutation(len(negatives))
        x = np.concatenate([*positives, negatives[order]]).astype(np.float32)
        y = np.repeat([1, -1], [len(x) - len(negatives), len(negatives)])
        svm = LinearSVC(
            C=1e-3, loss="hinge", class_weight={1: 2}, intercept_scaling=10, random_state=3
        )
        expected = svm.fit(x, y).decision_function(x)
        np.testing.assert_allclose(detector.machines[label].scores(x), expected, atol=2e-3)


def test_a_regressor_is_the_ridge_of_appendix_c(source, train_proposals, detector):
    boxes, features, labels, trues, firsts = described(source, train_proposals)
    for label in (0, 1):
        x, t = [], []
        for i, own in enumerate(labels):
            overlap, owner = box_iou(boxes[i], trues[i][own == label]).max(1)
            near = (overlap > 0.6).numpy() & ~firsts[i]
            p, g = boxes[i][near].numpy(), trues[i][own == label][owner][near].numpy()
            (pw, ph), (gw, gh) = (p[:, 2:] - p[:, :2]).T, (g[:, 2:] - g[:, :2]).T
            (px, py), (gx, gy) = (p[:, 2:] + p[:, :2]).T / 2, (g[:, 2:] + g[:, :2]).T / 2
            t.append(
                np.stack([(gx - px) / pw, (gy - py) / ph, np.log(gw / pw), np.log(gh / ph)], 1)
            )
            x.append(features[i][near])
        x, t = np.concatenate(x), np.concatenate(t)
        expected = Ridge(1000.0).fit(x, t).predict(x)
        np.testing.assert_allclose(detector.regressors[label].predict(x), expected, atol=1e-4)
        centred = x - x.mean(0)  # and against the normal equations
        weights = np.linalg.solve(centred.T @ centred + 1000 * np.eye(x.shape[1]), centred.T @ t)
        np.testing.assert_allclose(centred @ weights + t.mean(0), expected, atol=1e-4)


def test_shapes_are_found_and_boxes_move_to_them(source, detector):
    test = source.splits["test"]
    given = proposals_of(test.targets, 6)
    images = [np.asarray(test.picture(i, 3)) for i in range(len(test))]
    found = [detector.detect(image, boxes) for image, boxes in zip(images, given, strict=True)]
    scores = score_detections(found, test.targets, source.classes, resamples=10)
    assert scores.figures["map50"] > 0.9
    regressors, detector.regressors = detector.regressors, {}
    try:
        stiff = [detector.detect(image, boxes) for image, boxes in zip(images, given, strict=True)]
    finally:
        detector.regressors = regressors
    for one, boxes in zip(stiff, given, strict=True):
        assert all(any(torch.equal(box, each) for each in boxes) for box in one.boxes)
    unmoved = score_detections(stiff, test.targets, source.classes, resamples=10)
    assert scores.figures["coco_ap"] > unmoved.figures["coco_ap"]


def test_regions_to_train_features_on_have_the_class_that_they_overlap(source, train_proposals):
    made = region_pictures(source, {"train": train_proposals}, SIDE_PX)
    assert made.classes == ("red", "blue", "background")
    regions = made.splits["train"]
    assert regions.images.shape == (12 * TUNED, SIDE_PX, SIDE_PX, 3)
    for i, target in enumerate(source.splits["train"].targets):
        own = slice(TUNED * i, TUNED * i + TUNED)
        labels, pixels = regions.labels[own], regions.images[own]
        assert (labels[:TUNED_POSITIVES] < 2).all()
        assert (labels[TUNED_POSITIVES:] == 2).all()
        boxes = torch.cat([torch.from_numpy(target["boxes"]), train_proposals[i]])
        image = np.asarray(source.splits["train"].picture(i, 3))
        all_of_it = warped(image, boxes, SIDE_PX, fill_of(source.splits["train"]))
        overlap, owner = box_iou(boxes, boxes[: len(target["labels"])]).max(1)
        truth = np.where(overlap >= 0.5, target["labels"][owner], 2)
        for region, label in zip(pixels, labels, strict=True):
            which = [j for j, other in enumerate(all_of_it) if np.array_equal(region, other)]
            assert label in truth[which]
    again = region_pictures(source, {"train": train_proposals}, SIDE_PX)
    assert again.fingerprint == made.fingerprint
    other = region_pictures(source, {"train": train_proposals}, SIDE_PX, seed=1)
    assert other.fingerprint != made.fingerprint


def test_features_are_the_named_stages_of_any_classifier():
    torch.manual_seed(0)
    network = create_model("deepen.studies.quarter:alexnet_one_tower", 3).eval()
    size = PLAIN.model_copy(update={"size_px": (64, 64)})
    regions = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    scored, placed = RegionFeatures(network, size).of(regions)
    images = torch.from_numpy((regions / 255.0 - 0.5) / 0.2).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        pool5 = network.features(images)
        fc7 = network.classifier[:-1](network.avgpool(pool5).flatten(1))
    np.testing.assert_allclose(placed, pool5.flatten(1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scored, fc7.numpy(), rtol=1e-4, atol=1e-5)
    pool2, conv5 = RegionFeatures(network, size, None, "pool2", "conv5").of(regions)
    with torch.no_grad():
        np.testing.assert_allclose(
            pool2, network.features[:6](images).flatten(1), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            conv5, network.features[:12](images).flatten(1), rtol=1e-4, atol=1e-5
        )


def test_a_class_without_an_object_is_not_learnt_and_nothing_may_be_found(source, train_proposals):
    some = source.splits["train"].take([0])
    only = [dict(some.targets[0], labels=np.zeros(3, np.int64))]
    one = PictureSet.of("one", ("red", "blue"), train=(some.images, [0], only)).splits["train"]
    detector = RCNN(RegionFeatures(Pooled(), PLAIN), 2).fit(one, train_proposals[:1])
    assert [*detector.machines] == [0]
    grey = np.full((96, 160, 3), 128, np.uint8)
    assert (detector.detect(grey, torch.tensor([[0.0, 0, 30, 30]])).scores < 0).all()
    assert len(detector.detect(grey, torch.zeros(0, 4)).boxes) == 0
