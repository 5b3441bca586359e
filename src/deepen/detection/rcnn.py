"""R-CNN: a classifier's features of each proposal, warped, under a linear machine a class.

Girshick, Donahue, Darrell & Malik 2014, "Rich feature hierarchies for accurate object detection and
semantic segmentation" ("features matter"). The classifier is any of `deepen.models`: the paper has
ImageNet's features and fine-tunes them on regions of its pictures; `region_pictures` makes a set of
these for an ordinary training, from whatever weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou

from deepen.baselines.hard_negatives import FITTED_EVERY, HARD, SVM, Fit, mine
from deepen.baselines.sliding_window import objects
from deepen.data.preprocess import Preprocessing
from deepen.data.regions import mean_colour, warp
from deepen.data.sources import PictureSet, Split
from deepen.data.split import SplitName
from deepen.evaluation.boxes import Detections
from deepen.layers import ImageClassifier

CONTEXT = 16 / 227
"""What is shown around a region, of the warped side (appendix A: 16 px)."""
TUNED_IOU, BACKGROUND_IOU, REGRESSED_IOU = 0.5, 0.3, 0.6
"""Section 2.3: a region is its object's from the first on when features are trained; section 2.3,
appendix B: one below the second is a negative of the machine; appendix C: one above the third
learns where its object is."""
TUNED, TUNED_POSITIVES = 32, 8
"""Regions of a picture for the training of features, and objects among them at most: section 2.3
draws 32 of 128."""
RIDGE = 1000.0
"""Lambda of appendix C."""
NORM = 20.0
"""Mean length of the features, as the authors' released code scales them for its C of 0.001."""
NMS, DETECTIONS = 0.3, 100
BACKGROUND = "background"
_AT_ONCE = 128
_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))  # appendix C's t: nothing is weighted


def region_pictures(
    source: PictureSet,
    proposals: Mapping[SplitName, Sequence[Tensor]],
    size_px: int,
    seed: int = 0,
) -> PictureSet:
    """Warped regions of pictures with boxes as pictures with a class each, background the last.

    Of each picture at most `TUNED` proposals and true boxes; those that overlap an object by
    `TUNED_IOU` have its class.

    Args:
        source: pictures with boxes.
        proposals: of the splits that are wanted, of each picture (n, 4).
        size_px: height and width of a region.
        seed: of which regions are drawn.

    Raises:
        InputError: the pictures have no boxes.
    """
    rng = np.random.default_rng(seed)
    fill = fill_of(source.splits["train"])
    parts = {}
    for name, given in proposals.items():
        split = source.splits[name]
        images, labels = [], []
        for place, ((true, classes), boxes) in enumerate(zip(objects(split), given, strict=True)):
            boxes, owners = torch.cat([true, boxes]), len(source.classes)
            found = torch.full((len(boxes),), owners)
            if len(true):
                overlap, owner = box_iou(boxes, true).max(1)
                found = torch.where(overlap >= TUNED_IOU, classes[owner], owners)
            drawn = _drawn(rng, found < owners)
            images.append(warped(np.asarray(split.picture(place, 3)), boxes[drawn], size_px, fill))
            labels.append(found[drawn].numpy())
        parts[name] = np.concatenate(images), np.concatenate(labels)
    return PictureSet.of(f"{source.name}, regions", (*source.classes, BACKGROUND), **parts)


def _drawn(rng: np.random.Generator, objects: Tensor) -> Tensor:
    """Places of some regions that are objects and of some that are not."""
    yes, no = (rng.permutation(np.flatnonzero(each)) for each in (objects, ~objects))
    yes = yes[:TUNED_POSITIVES]
    return torch.from_numpy(np.concatenate([yes, no[: TUNED - len(yes)]]))


def fill_of(train: Split) -> list[float]:
    """The mean colour of some training pictures, for what lies beyond the edge."""
    return mean_colour([np.asarray(train.picture(place, 3)) for place in train.sample(32)])


def warped(image: np.ndarray, boxes: Tensor, size_px: int, fill: Sequence[float]) -> np.ndarray:
    """Regions (n, 4) with the paper's context, uint8 (n, size_px, size_px, C)."""
    return warp(image, boxes, (size_px, size_px), round(CONTEXT * size_px), fill)


class RegionFeatures(NamedTuple):
    """A trained classifier and what of it describes a region.

    Attributes:
        network: on its device.
        preprocessing: that it was trained with.
        mean_image: which that may want.
        scored: the stage that classes are told by; "": the units before the logits (fc7).
        placed: the stage that boxes are regressed from; None: the last (pool5).
    """

    network: ImageClassifier
    preprocessing: Preprocessing
    mean_image: Tensor | None = None
    scored: str = ""
    placed: str | None = None

    def of(self, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of warped regions, uint8 (n, H, W, C), both features, float32 (n, d) and (n, e)."""
        last = [*self.network.stage_layers][-1]
        placed = last if self.placed is None else self.placed
        names = {last, placed, self.scored} - {""}
        device = next(self.network.parameters()).device
        found: list[tuple[np.ndarray, np.ndarray]] = []
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, max(1, len(regions)), _AT_ONCE):
                fitted = self.preprocessing.fit_arrays(regions[start : start + _AT_ONCE])
                images = self.preprocessing.normalize(
                    torch.from_numpy(fitted).to(device), self.mean_image
                )
                maps = self.network.forward_intermediates(images, names)
                units = self.network.forward_head(maps[last], pre_logits=True)
                scored = maps[self.scored] if self.scored else units
                found.append((_flat(scored), _flat(maps[placed])))
        scored, placed_maps = zip(*found, strict=True)
        return np.concatenate(scored), np.concatenate(placed_maps)


def _flat(x: Tensor) -> np.ndarray:
    return x.flatten(1).float().cpu().numpy()


def _to_norm(features: Sequence[np.ndarray]) -> float:
    """What makes the mean length of features `NORM`."""
    lengths = np.concatenate([np.linalg.norm(rows, axis=1) for rows in features])
    return NORM / max(float(lengths.mean()), 1e-12)


class _Described(NamedTuple):
    """A training picture: its regions, the true boxes first, and their features."""

    boxes: Tensor
    scored: np.ndarray
    placed: np.ndarray
    true: Tensor
    labels: Tensor

    def overlap(self, label: int) -> tuple[Tensor, Tensor]:
        """Of each region the overlap with the class's nearest object, and its box."""
        own = self.true[self.labels == label]
        if not len(own):
            return torch.zeros(len(self.boxes)), self.boxes
        overlap, owner = box_iou(self.boxes, own).max(1)
        return overlap, own[owner]


class RCNN:
    """A detector; `fit` it, then `detect`.

    Args:
        features: of a trained classifier.
        num_classes: of the labels, without the background.
        seed: of the first negatives and of the machines.
    """

    def __init__(self, features: RegionFeatures, num_classes: int, seed: int = 0) -> None:
        self.features, self.num_classes, self.seed = features, num_classes, seed
        self.fill: list[float] = []
        self.scales = (1.0, 1.0)
        self.machines: dict[int, SVM] = {}
        self.regressors: dict[int, Any] = {}

    def fit(self, train: Split, proposals: Sequence[Tensor]) -> RCNN:
        """Learn machines and regressors from training pictures; returns itself.

        Args:
            train: pictures with boxes.
            proposals: of each picture (n, 4), float32, in px of the picture.

        Raises:
            InputError: the pictures have no boxes.
        """
        self.fill = fill_of(train)
        pictures = []
        for place, ((true, labels), boxes) in enumerate(
            zip(objects(train), proposals, strict=True)
        ):
            boxes = torch.cat([true, boxes])
            described = self._features(np.asarray(train.picture(place, 3)), boxes)
            pictures.append(_Described(boxes, *described, true, labels))
        self.scales = (
            _to_norm([one.scored for one in pictures]),
            _to_norm([one.placed for one in pictures]),
        )
        for one in pictures:
            np.multiply(one.scored, self.scales[0], out=one.scored)
            np.multiply(one.placed, self.scales[1], out=one.placed)
        for label in range(self.num_classes):
            if any((one.labels == label).any() for one in pictures):
                self.machines[label] = self._machine(pictures, label)
                self._regress(pictures, label)
        return self

    def detect(self, image: np.ndarray, proposals: Tensor) -> Detections:
        """What is in a picture, uint8 (H, W, 3); scores are distances from the hyperplane."""
        scored, placed = self._features(image, proposals)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for label, machine in self.machines.items():
            scores = torch.from_numpy(machine.scores(scored))
            boxes = self._placed(label, proposals, placed)
            parts.append((boxes, scores, torch.full((len(boxes),), label)))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        height, width = image.shape[:2]
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
        kept = batched_nms(boxes, scores, labels, NMS)[:DETECTIONS]
        return Detections(boxes[kept], scores[kept], labels[kept])

    def _features(self, image: np.ndarray, boxes: Tensor) -> tuple[np.ndarray, np.ndarray]:
        size = self.features.preprocessing.size_px[0]
        scored, placed = self.features.of(warped(image, boxes, size, self.fill))
        return scored * self.scales[0], placed * self.scales[1]

    def _machine(self, pictures: Sequence[_Described], label: int) -> SVM:
        """Appendix B: positives are true boxes alone, negatives what hardly overlaps one."""
        apart = [(one.overlap(label)[0] < BACKGROUND_IOU).numpy() for one in pictures]
        positives = [one.scored[: len(one.true)][(one.labels == label).numpy()] for one in pictures]
        negatives = np.concatenate(
            [one.scored[rows] for one, rows in zip(pictures, apart, strict=True)]
        )
        rng = np.random.default_rng(self.seed)
        drawn = rng.permutation(len(negatives))[:FITTED_EVERY]
        fresh = np.ones(len(negatives), bool)
        fresh[drawn] = False
        left = np.split(fresh, np.cumsum([rows.sum() for rows in apart])[:-1])

        def hard(place: int, svm: SVM) -> np.ndarray:
            rows = pictures[place].scored[apart[place]][left[place]]
            return rows[svm.scores(rows) >= HARD]

        fit = Fit(seed=self.seed)
        return mine(fit, np.concatenate(positives), negatives[drawn], hard, len(pictures))

    def _regress(self, pictures: Sequence[_Described], label: int) -> None:
        """Appendix C: from a region to its object, by ridge regression of t on its features."""
        from sklearn.linear_model import Ridge

        features, targets = [], []
        for one in pictures:
            overlap, true = one.overlap(label)
            near = overlap > REGRESSED_IOU
            near[: len(one.true)] = False  # a true box has nothing to learn
            if near.any():
                features.append(one.placed[near.numpy()])
                targets.append(_CODER.encode_single(true[near], one.boxes[near]).numpy())
        if features:
            ridge = Ridge(RIDGE)
            self.regressors[label] = ridge.fit(np.concatenate(features), np.concatenate(targets))

    def _placed(self, label: int, boxes: Tensor, features: np.ndarray) -> Tensor:
        """Boxes of a class (n, 4), moved to where its regressor says."""
        if label not in self.regressors or not len(boxes):
            return boxes
        shifts = torch.from_numpy(self.regressors[label].predict(features)).float()
        return _CODER.decode_single(shifts, boxes)
