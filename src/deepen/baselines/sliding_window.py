"""Histograms of oriented gradients under a linear machine that slides over a pyramid of pictures.

Dalal & Triggs 2005, "Histograms of oriented gradients for human detection": the detector before
features were learned. A template a class, of the shape that its boxes have on average; negatives
are mined once (section 4). The lectures' "HOG, DPM" bar without its deformable parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from deepen.baselines.hard_negatives import HARD, SVM, Fit, mine
from deepen.data.regions import mean_colour, warp
from deepen.data.sources import Split
from deepen.errors import InputError
from deepen.evaluation.boxes import Detections

CELL_PX = 8
MARGIN = 1
"""Cells of a template around the object: what is around it helps (section 6.4)."""
FEWEST, MOST = 3, 6
"""Cells of the object along a side of its mean length."""
A_BLOCK = 36  # values: 2x2 cells of 9 directions
LEVELS_AN_OCTAVE = 4
BACKGROUND_IOU = 0.3
DRAWN, HARDEST = 10, 20
"""Negatives of a picture: drawn to begin with, and at most taken as hard ones."""
NMS, DETECTIONS = 0.3, 100
FIT = Fit(c=0.01, positive_weight=1.0, bias_scale=1)
"""Section 4: soft, C = 0.01."""


class Template(NamedTuple):
    """What a class looks like.

    Attributes:
        cells: rows and columns, the margin included.
        scales: the least and the greatest that a picture is resized by to find it.
        svm: over the blocks of the cells; None until it is fitted.
    """

    cells: tuple[int, int]
    scales: tuple[float, float]
    svm: SVM | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.cells[0] * CELL_PX, self.cells[1] * CELL_PX


class Level(NamedTuple):
    """A picture resized by a factor: its blocks, float32 (rows, columns, 36)."""

    scale: float
    blocks: Tensor


class SlidingWindow:
    """A detector; `fit` it, then `detect`.

    Args:
        num_classes: of the labels.
        seed: of the first negatives, and of the machine.
    """

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        self.num_classes, self.seed = num_classes, seed
        self.templates: dict[int, Template] = {}

    def fit(self, train: Split) -> SlidingWindow:
        """Learn a template of each class that has boxes; returns itself.

        Raises:
            InputError: the pictures have no boxes.
        """
        truth = objects(train)
        images = [np.asarray(train.picture(i, 3)) for i in range(len(train))]
        fill, rng = mean_colour(images), np.random.default_rng(self.seed)
        fit = FIT._replace(seed=self.seed)
        for label in range(self.num_classes):
            boxes = [boxes[labels == label] for boxes, labels in truth]
            if not sum(map(len, boxes)):
                continue
            self.templates[label] = template = template_of(torch.cat(boxes))
            positives, negatives = [], []
            for image, own in zip(images, boxes, strict=True):
                positives += [_described(image, own, template, fill, mirrored=True)]
                drawn = _drawn(rng, torch.cat(boxes), own, image.shape)
                negatives += [_described(image, drawn, template, fill)]

            def hard(
                place: int, svm: SVM, template: Template = template, boxes: list[Tensor] = boxes
            ) -> np.ndarray:
                trained = template._replace(svm=svm)
                return _hardest(images[place], trained, boxes[place])

            svm = mine(fit, np.concatenate(positives), np.concatenate(negatives), hard, len(images))
            self.templates[label] = template._replace(svm=svm)
        return self

    def detect(self, image: np.ndarray) -> Detections:
        """What is in a picture, uint8 (H, W, 3); scores are distances from the hyperplane."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        levels = list(pyramid(image, [template.scales for template in self.templates.values()]))
        for label, template in self.templates.items():
            for level in _within(levels, template):
                boxes, scores = windows(level, template)
                sure = scores > HARD
                labels = torch.full((int(sure.sum()),), label)
                parts.append((boxes[sure], scores[sure], labels))
        if not parts:
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        height, width = image.shape[:2]
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
        kept = batched_nms(boxes, scores, labels, NMS)[:DETECTIONS]
        return Detections(boxes[kept], scores[kept], labels[kept])


def objects(split: Split) -> list[tuple[Tensor, Tensor]]:
    """Of each picture the boxes (n, 4) to learn from, and their labels (n,).

    Crowds are none, nor are boxes without an area.

    Raises:
        InputError: the pictures have no boxes.
    """
    if split.targets is None or "boxes" not in next(iter(split.targets), {}):
        raise InputError("detection: these pictures have classes, but no boxes")
    return [_objects(target) for target in split.targets]


def _objects(target: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32).reshape(-1, 4)
    labels = torch.as_tensor(target["labels"], dtype=torch.int64)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if "crowd" in target:
        kept &= ~torch.as_tensor(target["crowd"], dtype=torch.bool)
    return boxes[kept], labels[kept]


def template_of(boxes: Tensor) -> Template:
    """The shape of a class, and how far pictures are shrunk to find all its boxes (n, 4).

    The object has as many cells as the smaller boxes give; pictures are never enlarged.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).numpy()  # widths, heights
    lengths = np.sqrt(sides.prod(1))
    stretch = float(np.exp(np.median(np.log(sides[:, 1] / sides[:, 0])) / 2))
    cells = float(np.clip(np.percentile(lengths, 10) / CELL_PX, FEWEST, MOST))
    rows, columns = (max(1, round(cells * by)) for by in (stretch, 1 / stretch))
    inner = CELL_PX * float(np.sqrt(rows * columns))
    least, greatest = (inner / np.percentile(lengths, share) for share in (98, 2))
    shape = (rows + 2 * MARGIN, columns + 2 * MARGIN)
    return Template(shape, (min(1.0, float(least)), min(1.0, float(greatest))))


def blocks_of(image: np.ndarray) -> Tensor:
    """Normalized blocks of 2x2 cells (section 6) of a picture, float32 (rows, columns, 36)."""
    from skimage.feature import hog

    cell = (CELL_PX, CELL_PX)
    found: Any = hog(image, 9, cell, (2, 2), channel_axis=-1, feature_vector=False)
    return torch.from_numpy(found.reshape(*found.shape[:2], A_BLOCK).astype(np.float32))


def pyramid(image: np.ndarray, scales: Sequence[tuple[float, float]]) -> Iterator[Level]:
    """A picture at each scale from the greatest to the least, a quarter of an octave apart."""
    if not scales:
        return
    least, greatest = min(low for low, _ in scales), max(high for _, high in scales)
    steps = 1 + round(LEVELS_AN_OCTAVE * np.log2(greatest / least))
    height, width = image.shape[:2]
    for step in range(steps):
        scale = greatest * 2 ** (-step / LEVELS_AN_OCTAVE)
        size = (round(width * scale), round(height * scale))
        if min(size) < 2 * CELL_PX:
            return
        resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        # A border of the edge's pixels, so that a window's margin may lie outside.
        border = [(MARGIN * CELL_PX,) * 2] * 2 + [(0, 0)]
        yield Level(scale, blocks_of(np.pad(np.asarray(resized), border, mode="edge")))


def windows(level: Level, template: Template) -> tuple[Tensor, Tensor]:
    """All places of a template on a level: boxes of the object in px of the source, and scores."""
    assert template.svm is not None
    rows, columns = (count - 1 for count in template.cells)  # in blocks
    if level.blocks.shape[0] < rows or level.blocks.shape[1] < columns:
        return torch.zeros(0, 4), torch.zeros(0)
    kernel = torch.from_numpy(template.svm.weights).view(1, rows, columns, A_BLOCK)
    maps = level.blocks.permute(2, 0, 1)[None]
    scores = F.conv2d(maps, kernel.permute(0, 3, 1, 2))[0, 0] + template.svm.bias
    down, across = (torch.arange(count) * CELL_PX for count in scores.shape)
    y, x = torch.meshgrid(down, across, indexing="ij")  # the border takes the margin back
    height, width = (side - 2 * MARGIN * CELL_PX for side in template.size_px)
    boxes = torch.stack([x, y, x + width, y + height], -1).view(-1, 4)
    return boxes / level.scale, scores.flatten()


def _within(levels: Sequence[Level], template: Template) -> Iterator[Level]:
    """The levels on which objects have about the template's size."""
    slack = 2 ** (1 / LEVELS_AN_OCTAVE)
    for level in levels:
        if template.scales[0] / slack <= level.scale <= template.scales[1] * slack:
            yield level


def _described(
    image: np.ndarray,
    boxes: Tensor,
    template: Template,
    fill: Sequence[float],
    *,
    mirrored: bool = False,
) -> np.ndarray:
    """Blocks of boxes (n, 4) warped to the template, and of their mirror images, (n or 2n, d)."""
    height, width = (side + 2 * CELL_PX for side in template.size_px)
    warped = warp(image, boxes, (height, width), (MARGIN + 1) * CELL_PX, fill)
    seen = [*warped, *warped[:, :, ::-1]] if mirrored else warped
    # A cell more on each side, dropped: gradients at the edge of a picture are not those within.
    found = [blocks_of(one)[1:-1, 1:-1].reshape(-1).numpy() for one in seen]
    count = (template.cells[0] - 1) * (template.cells[1] - 1) * A_BLOCK
    return np.stack(found) if found else np.zeros((0, count), np.float32)


def _drawn(rng: np.random.Generator, sizes: Tensor, own: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Some boxes of a picture that are not the class's, as large as its boxes are, (n, 4)."""
    chosen = sizes[torch.from_numpy(rng.integers(len(sizes), size=DRAWN))]
    sides = chosen[:, 2:] - chosen[:, :2]
    room = (torch.tensor([shape[1], shape[0]]) - sides).clamp(min=0)
    corner = torch.from_numpy(rng.random((DRAWN, 2), np.float32)) * room
    return _apart(torch.cat([corner, corner + sides], 1), own)[0]


def _apart(boxes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes that overlap none of the class's by `BACKGROUND_IOU`, and which they are."""
    if not len(own):
        return boxes, torch.ones(len(boxes), dtype=torch.bool)
    apart = (box_iou(boxes, own) < BACKGROUND_IOU).all(1)
    return boxes[apart], apart


def _hardest(image: np.ndarray, template: Template, own: Tensor) -> np.ndarray:
    """The hardest windows of a picture that are not the class's, (n, d)."""
    assert template.svm is not None
    rows, columns = (count - 1 for count in template.cells)
    features, scores = [np.zeros((0, len(template.svm.weights)), np.float32)], [torch.zeros(0)]
    for level in _within(list(pyramid(image, [template.scales])), template):
        boxes, found = windows(level, template)
        if not len(boxes):
            continue
        worth = _apart(boxes, own)[1] & (found >= HARD)
        places = worth.nonzero().flatten()
        places = places[found[places].argsort(descending=True, stable=True)][:HARDEST]
        views = level.blocks.unfold(0, rows, 1).unfold(1, columns, 1)  # (y, x, 36, rows, columns)
        across = views.shape[1]
        chosen = views[places // across, places % across].permute(0, 2, 3, 1)
        features.append(chosen.reshape(len(places), -1).numpy())
        scores.append(found[places])
    order = torch.cat(scores).argsort(descending=True, stable=True)[:HARDEST]
    return np.concatenate(features)[order.numpy()]
