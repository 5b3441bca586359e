"""Localization: the class of a picture and one box for it, on any classifier's features.

Simonyan & Zisserman 2014, appendix A: the last layer says a box, its middle, width and height,
instead of scores: one for all classes (`localizer-scr`, single-class regression) or one for each
(`localizer-pcr`, per-class; the better, table 8), by a Euclidean loss. ILSVRC counts a picture as
right where the class is and the box overlaps one of the true ones by half; of five guesses one
must.

Departures: the paper trains two networks, of classes and of boxes, from one's weights; here both
heads share the features. A network that averages its last maps (ResNet) would forget where things
are: its box is told from the maps themselves, averaged to at most 7x7 of them, as VGG's are. He et
al. 2015, appendix C, regress from anchors with an RPN instead. Box sides are shares of the input's,
the box's loss counts `BOX_WEIGHT` times, so that it is as large as the class's, and its layer sees
its features over the root of their number, so that one rate suits both heads: the paper says none
of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from deepen.analysis.stages import stages
from deepen.data.decode import PictureError
from deepen.data.geometry import Geometry
from deepen.data.loader import Batch
from deepen.data.sources import Split
from deepen.errors import InputError
from deepen.evaluation.boxes import Detections
from deepen.evaluation.localization import LocalizationScores, score_localization
from deepen.evaluation.metrics import in_top
from deepen.evaluation.protocols import none_decoded, predicting
from deepen.layers import ImageClassifier
from deepen.models import create_model, takes_of
from deepen.models.architecture import Takes
from deepen.training.optimizer import Objective
from deepen.training.recipe import Recipe
from deepen.training.request import Here
from deepen.training.task import Examined, Outcome, Task, by_share

GRID_PX = 7
BOX_WEIGHT = 10.0
GUESSES = 5


class Localized(NamedTuple):
    """What the network says of a batch.

    Attributes:
        logits: (B, K).
        boxes: (B, K, 4) middle (x, y), width and height as shares of the input; with single-class
            regression all K are the same.
    """

    logits: Tensor
    boxes: Tensor


class Localizer(nn.Module):
    """A classifier that says a box too.

    Attributes:
        classifier_names: the layers that other classes need afresh.

    Args:
        backbone: its last layer stays, for the classes.
        per_class: whether each class has a box of its own.
        input_size: (height, width) in px.

    Raises:
        InputError: its output is fixed, as LeNet-5's is.
    """

    def __init__(
        self, backbone: ImageClassifier, per_class: bool, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        if not isinstance(backbone.get_submodule(backbone.classifier_name), nn.Linear):
            raise InputError(f"{type(backbone).__name__} has a fixed output and cannot localize")
        for _, path in backbone.auxiliary_classifiers:
            backbone.set_submodule(path, nn.Identity())
        backbone.auxiliary_classifiers = backbone.auxiliary_classifier_names = ()
        self.backbone, self.num_classes = backbone, backbone.num_classes
        self.classifier_names = (f"backbone.{backbone.classifier_name}", "box")
        features, self.grid = backbone.num_features, None
        own_head = type(backbone).forward_head is not ImageClassifier.forward_head
        if backbone.averages_maps and not own_head:  # else hidden layers know where things are
            last = stages(backbone, (backbone.in_channels, *input_size))[-1]
            self.grid = min(last.height, GRID_PX), min(last.width, GRID_PX)
            features = last.channels * self.grid[0] * self.grid[1]
        self.box = nn.Linear(features, 4 * (self.num_classes if per_class else 1))
        nn.init.normal_(self.box.weight, std=0.01)
        middle = torch.tensor([0.5, 0.5, 0.5, 0.5])  # it begins with the middle of the picture
        self.box.bias.data.copy_(middle.repeat(self.box.out_features // 4))

    def forward(self, x: Tensor) -> Localized:
        """Images (B, C, H, W) to logits and boxes."""
        self.backbone.check_input(x)
        maps = self.backbone.forward_features(x)
        if self.grid is None:
            features = self.backbone.forward_head(maps, pre_logits=True)
            last = self.backbone.get_submodule(self.backbone.classifier_name)
            logits = last(features)
        else:
            logits = self.backbone.forward_head(maps)
            features = F.adaptive_avg_pool2d(maps, self.grid).flatten(1)
        features = features / math.sqrt(features.shape[1])
        boxes = self.box(features).unflatten(1, (-1, 4))
        return Localized(logits, boxes.expand(-1, self.num_classes, -1))


class Factory(NamedTuple):
    """Builds a localizer on a classifier of the registry; `takes` says for what it can be built."""

    backbone: str
    per_class: bool

    @property
    def takes(self) -> Takes | None:
        """As the backbone has it, but the box's layer is built for one size."""
        takes = takes_of(self.backbone)
        return takes and replace(takes, sizes="built" if takes.sizes == "free" else takes.sizes)

    def __call__(
        self,
        num_classes: int | None = None,
        in_channels: int | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> Localizer:
        """As `create_model` calls a factory."""
        backbone = create_model(self.backbone, num_classes, in_channels, input_size)
        if not isinstance(backbone, ImageClassifier):
            raise InputError(f"{self.backbone}: names no stages")
        takes = takes_of(self.backbone)
        usual = takes.size_px if takes else 224
        return Localizer(backbone, self.per_class, input_size or (usual, usual))


NETWORKS = {
    "localizer-pcr": partial(Factory, per_class=True),
    "localizer-scr": partial(Factory, per_class=False),
}
"""Of a backbone's name, what builds the network on it."""


def _in_source(boxes: Tensor, geometry: Geometry, place: int) -> Tensor:
    """Boxes (n, 4), middle and sides as shares of the input, as corners in px of the source."""
    height, width = geometry.size_px
    sides = boxes.new_tensor([width, height, width, height], dtype=torch.float32)
    corners = box_convert(boxes.float() * sides, "cxcywh", "xyxy").reshape(-1, 2, 2)
    carried = geometry.source_points(place, corners)
    return torch.cat([carried.amin(1), carried.amax(1)], 1)


class Guess(NamedTuple):
    """The guesses at a picture, as JSON keeps them.

    Attributes:
        picture: its place in the split.
        label: its class.
        loss: of class and box.
        scores: of the guesses, the surest first.
        labels: their classes.
        boxes: theirs, x1 y1 x2 y2 in px of the source picture.
        truth: the true boxes.
    """

    picture: int
    label: int
    loss: float
    scores: list[float]
    labels: list[int]
    boxes: list[list[float]]
    truth: list[list[float]]


class Guesses(NamedTuple):
    """Those of a split.

    Attributes:
        pictures: by their place in the split.
        bad: what kept the others out.
    """

    pictures: list[Guess]
    bad: tuple[PictureError, ...]

    @property
    def indices(self) -> Tensor:
        """int64 (N,), places in the split."""
        return torch.tensor([one.picture for one in self.pictures])


class Localization(Task):
    """A class and a box for each picture.

    The pictures' targets have `boxes` (n, 4), x1 y1 x2 y2 in px of the source, of their class; the
    largest is learned, any counts as right. Where the crop shows nothing of it, the class alone is
    learned.
    """

    figures = ("top1", "box_loss")
    columns = ("loss", "top1_error", "top5_error", "top1_class_error")
    chosen_by = ("top1_error", "top5_error", "top1_class_error", "loss")

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        super().__init__(recipe, classes)
        self.objective = Objective(recipe.loss)
        if getattr(recipe.loss, "class_weights", "none") != "none":
            raise InputError("task localization: loss.class_weights has no meaning for boxes")

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        by = self.recipe.choose_by or self.chosen_by[0]
        return "mean likelihood" if by == "loss" else f"1 - {by.replace('_', ' ')}"

    def see(self, train: Split) -> None:
        """See that there are boxes.

        Raises:
            InputError: a picture has none, or an empty one.
        """
        for place, target in enumerate(train.targets or ({},)):
            boxes = torch.as_tensor(target.get("boxes", ())).reshape(-1, 4)
            if not len(boxes) or not (boxes[:, 2:] > boxes[:, :2]).all():
                raise InputError(
                    f"task localization: {train.key(place)} needs a box of its class, x1 y1 x2 y2 "
                    "with an area"
                )

    def box_loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        """Of each picture, (B,), of boxes (B, 4): Euclidean, half the sum of squares."""
        return (boxes - wanted).square().sum(1) / 2

    def loss_of(self, outputs: Any, batch: Batch, network: nn.Module) -> Outcome:
        """Of `Localized`.

        Raises:
            InputError: the network says something else.
        """
        if not len(batch.labels):
            return Outcome(outputs, None)
        if not isinstance(outputs, Localized):
            raise InputError(
                f"task localization: {type(network).__name__} says no box; one that does: "
                "--model deepen.detection.networks:localizer-pcr/resnet18"
            )
        of_boxes = self._of_boxes(outputs, batch)
        hits = in_top(1, outputs.logits.detach(), batch.labels).sum()
        sums = torch.stack([hits.double(), of_boxes.detach().double().sum()])
        loss = self.objective(outputs.logits, batch.labels) + BOX_WEIGHT * of_boxes.mean()
        return Outcome(loss, sums)

    def _of_boxes(self, outputs: Localized, batch: Batch) -> Tensor:
        """The loss of each picture's box, of its class, (B,); 0 where none of it is seen."""
        assert batch.named_targets is not None
        assert batch.geometry is not None
        height, width = batch.geometry.size_px
        wanted, seen = [], []
        for place, target in enumerate(batch.named_targets):
            boxes = target["boxes"].reshape(-1, 4)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            box, inside = batch.geometry.boxes(place, boxes[areas.argmax()][None])
            wanted.append(box[0])
            seen.append(inside[0])
        sides = outputs.boxes.new_tensor([width, height, width, height])
        shares = box_convert(torch.stack(wanted), "xyxy", "cxcywh") / sides
        said = outputs.boxes.float()[torch.arange(len(batch.labels)), batch.labels]
        return self.box_loss(said, shares) * torch.stack(seen)

    def tally(self, kept: Sequence[Tensor]) -> Tensor:
        """Pictures whose class is right, and losses of boxes."""
        return torch.stack([*kept]).sum(0) if kept else super().tally(kept)

    def predict(self, network: nn.Module, batches: Iterable[Batch], here: Here) -> Guesses:
        """Five guesses at each picture, the classes of the largest logits, each with its box.

        Raises:
            InputError: not one picture could be decoded.
        """
        pictures, bad = list[Guess](), list[PictureError]()
        with predicting(network, here.place, bool(self.recipe.amp)):
            for batch in batches:
                bad += batch.bad
                if len(batch.labels):
                    pictures += self._guesses(network(batch.images), batch)
        parts = here.processes.gather(pictures)
        pictures = sorted(Guess(*one) for part in parts for one in part)
        if not pictures:
            raise none_decoded(bad)
        return Guesses(pictures, tuple(bad))

    def _guesses(self, outputs: Localized, batch: Batch) -> list[Guess]:
        assert batch.named_targets is not None
        assert batch.geometry is not None
        logits = outputs.logits.float() / self.recipe.loss.temperature
        scores, labels = logits.softmax(1).topk(min(GUESSES, len(self.classes)))
        of_class = F.cross_entropy(logits, batch.labels, reduction="none")
        losses = of_class + BOX_WEIGHT * self._of_boxes(outputs, batch)
        found = []
        for place, target in enumerate(batch.named_targets):
            boxes = _in_source(outputs.boxes[place, labels[place]], batch.geometry, place)
            found.append(
                Guess(
                    int(batch.indices[place]),
                    int(batch.labels[place]),
                    losses[place].item(),
                    scores[place].tolist(),
                    labels[place].tolist(),
                    boxes.tolist(),
                    target["boxes"].reshape(-1, 4).tolist(),
                )
            )
        return found

    def answers(
        self, outputs: Localized, geometry: Geometry, sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """The likeliest classes of each picture, each with its box in px of it.

        Args:
            outputs: of the network, in evaluation mode.
            geometry: of the pictures.
            sizes: width and height of each.
        """
        shares = (outputs.logits.float() / self.recipe.loss.temperature).softmax(1)
        scores, labels = shares.topk(min(GUESSES, len(self.classes)))
        return [
            Detections(_in_source(outputs.boxes[place, labels[place]], geometry, place), *of_one)
            for place, of_one in enumerate(zip(scores, labels, strict=True))
        ]

    def scores(self, found: Guesses) -> dict[str, float | None]:
        """Loss and errors."""
        figures = self._score(found).figures
        loss = sum(one.loss for one in found.pictures) / len(found.pictures)
        return {name: loss if name == "loss" else figures[name] for name in self.columns}

    def _score(self, found: Guesses, **words: Any) -> LocalizationScores:
        return score_localization(
            [
                Detections(
                    torch.tensor(one.boxes), torch.tensor(one.scores), torch.tensor(one.labels)
                )
                for one in found.pictures
            ],
            [{"boxes": torch.tensor(one.truth)} for one in found.pictures],
            [one.label for one in found.pictures],
            len(self.classes),
            num_skipped=len(found.bad),
            **words,
        )

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """What is not in error, or the likelihood, and of equals the smaller loss."""
        by = self.recipe.choose_by or self.chosen_by[0]
        first, *others = by_share(by, row)
        return first if by == "loss" else 1 - first, *others

    def examine(self, found: Guesses, split: Split, protocol: str) -> Examined:
        """All scores, and the guesses."""
        scores = self._score(found, protocol=f"{protocol}; {GUESSES} guesses at most")
        known = {name: value for name, value in self.scores(found).items() if value is not None}
        guesses = [
            {
                "key": split.key(one.picture),
                **one._asdict(),
                "labels": [self.classes[i] for i in one.labels],
            }
            for one in found.pictures
        ]
        return Examined(scores, known, {"guesses.json": guesses})


class SmoothLocalization(Localization):
    """The same with the smooth L1 loss of Girshick 2015, eq. 3, which far boxes pull less at."""

    def box_loss(self, boxes: Tensor, wanted: Tensor) -> Tensor:
        """Of each picture, (B,), of boxes (B, 4)."""
        return F.smooth_l1_loss(boxes, wanted, reduction="none").sum(1)
