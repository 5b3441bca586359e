"""Where in a picture something may be: selective search, or a trained region proposal network.

Uijlings, van de Sande, Gevers & Smeulders 2013, "Selective search for object recognition": regions
of Felzenszwalb & Huttenlocher 2004 are joined, the two most alike first, until one is left; the box
of every region on the way is a proposal. Several strategies (colour space, size of the first
regions, what alike means) find more than one does (section 3.2).

A proposer is any callable from a picture, uint8 (H, W, 3), to boxes, float32 (n, 4), the most
promising first: x1 y1 x2 y2 of edges in px of the picture.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torchvision.ops import box_iou

from deepen.data.augment import Augmentation, geometry_of
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet, Split, SplitName
from deepen.detection.faster_rcnn import Detector
from deepen.files import write_whole

Proposer = Callable[[np.ndarray], Tensor]
Measure = Literal["colour", "texture", "size", "fill"]

TRUTH = ("boxes", "labels", "difficult", "crowd")
COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8
STEEPEST = 1 / np.sqrt(2 * np.pi)
"""What a step from 0 to 1 makes of a Gaussian derivative of sigma 1: no response is greater."""


class Strategy(NamedTuple):
    """A way to group.

    Attributes:
        space: the colours that regions and histograms are taken in.
        k: of the first segmentation; the larger, the larger its regions, which have k px at least.
        measures: whose sum says how alike two regions are.
    """

    space: Literal["hsv", "lab"]
    k: float
    measures: tuple[Measure, ...]


ALL: tuple[Measure, ...] = ("colour", "texture", "size", "fill")
SINGLE = (Strategy("hsv", 100, ALL),)
"""Section 5.2, table 6."""
FAST = tuple(
    Strategy(space, k, measures)
    for space in ("hsv", "lab")
    for k in (50, 100)
    for measures in (ALL, ALL[1:])
)
"""Section 5.2, table 6: two colour spaces, two segmentations, two sums, 8 strategies."""


@dataclass(frozen=True)
class SelectiveSearch:
    """Proposals of a picture; a pure function of it.

    Attributes:
        most: proposals that are handed out.
        strategies: whose regions they are.
        width_px: a wider picture is searched at this width, as R-CNN's authors do.
        seed: of the numbers that mix the strategies' orders (section 4.3).
    """

    most: int = 2000
    strategies: tuple[Strategy, ...] = FAST
    width_px: int = 500
    seed: int = 0

    def __call__(self, image: np.ndarray) -> Tensor:
        """Boxes of a picture, uint8 (H, W, 3), float32 (at most `most`, 4).

        Each strategy's regions are ranked from the whole picture down; a region's place, times a
        random number, is its place among those of all strategies (section 4.3). Of equal boxes the
        first stays.
        """
        small = _at_width(image, self.width_px)
        rng = np.random.default_rng(self.seed)
        first = cache(lambda space, k: first_regions(small, space, k))
        found, places = [], []
        for space, k, measures in self.strategies:
            boxes = group(first(space, k), measures)[::-1]
            found.append(boxes)
            places.append(rng.random(len(boxes)) * np.arange(1, len(boxes) + 1))
        boxes = np.concatenate(found)[np.argsort(np.concatenate(places), kind="stable")]
        _, kept = np.unique(boxes, axis=0, return_index=True)
        boxes = torch.from_numpy(boxes[np.sort(kept)[: self.most]]).float()
        down, across = (image.shape[axis] / small.shape[axis] for axis in (0, 1))
        return boxes * torch.tensor([across, down, across, down])


class RegionProposals:
    """What a trained Faster R-CNN proposes, in selective search's place.

    Args:
        detector: with a region proposal network; its weights are shared, not changed.
        preprocessing: that it was trained with.
    """

    def __init__(self, detector: Detector, preprocessing: Preprocessing) -> None:
        assert detector.rpn is not None
        alone = Detector(
            detector.backbone, detector.rpn, None, detector.num_classes, detector.settings
        )
        self.network, self.preprocessing = alone.eval(), preprocessing

    def __call__(self, image: np.ndarray) -> Tensor:
        """Boxes of a picture, uint8 (H, W, 3), float32 (n, 4), the likelier first."""
        from PIL import Image

        fitted = self.preprocessing.fit(Image.fromarray(image))
        device = next(self.network.parameters()).device
        seen = self.preprocessing.normalize(torch.from_numpy(fitted)[None].to(device))
        with torch.no_grad():
            (found,) = self.network(seen)
        size, plain = (image.shape[1], image.shape[0]), Augmentation()
        geometry = geometry_of(plain, self.preprocessing, [size], torch.zeros(1, plain.draws))
        corners = geometry.source_points(0, found["boxes"].cpu().view(-1, 2, 2))
        return corners.view(-1, 4).float().clamp(min=0).minimum(torch.tensor([*size, *size]))


class Regions(NamedTuple):
    """Regions of a picture of `area` px, and which of them touch.

    Attributes:
        sizes: float64 (n,), px.
        boxes: int64 (n, 4), edges.
        histograms: "colour" float64 (n, 75) and "texture" (n, 240), each of sum 1.
        pairs: int64 (m, 2), of regions that share an edge.
        area: of the picture.
    """

    sizes: np.ndarray
    boxes: np.ndarray
    histograms: dict[str, np.ndarray]
    pairs: np.ndarray
    area: int


def first_regions(image: np.ndarray, space: str, k: float) -> Regions:
    """Segment a picture, uint8 (H, W, 3), and describe each region (section 3.1)."""
    from skimage.segmentation import felzenszwalb

    pixels = _in_space(image, space)  # (H, W, 3) of 0..1
    labels = felzenszwalb(pixels, scale=k, sigma=0.8, min_size=round(k))
    count, flat = int(labels.max()) + 1, labels.ravel()
    rows, columns = np.indices(labels.shape).reshape(2, -1)
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = max(labels.shape), 0
    np.minimum.at(boxes, (flat, 0), columns)
    np.minimum.at(boxes, (flat, 1), rows)
    np.maximum.at(boxes, (flat, 2), columns + 1)
    np.maximum.at(boxes, (flat, 3), rows + 1)
    across = np.stack([labels[:, :-1], labels[:, 1:]], -1).reshape(-1, 2)
    down = np.stack([labels[:-1], labels[1:]], -1).reshape(-1, 2)
    pairs = np.unique(np.sort(np.concatenate([across, down]), axis=1), axis=0)
    return Regions(
        np.bincount(flat, minlength=count).astype(np.float64),
        boxes,
        {
            "colour": _histograms(flat, count, np.moveaxis(pixels, -1, 0), COLOUR_BINS),
            "texture": _histograms(flat, count, _responses(pixels), TEXTURE_BINS),
        },
        pairs[pairs[:, 0] != pairs[:, 1]],
        flat.size,
    )


def group(regions: Regions, measures: Sequence[Measure]) -> np.ndarray:
    """Join the two neighbours that are most alike until one region is left (algorithm 1).

    Returns:
        int64 (2n - 1, 4): boxes of the n first regions, then of each joined one, the whole picture
        last.
    """
    count = len(regions.sizes)
    total = 2 * count - 1
    sizes, boxes = np.zeros(total), np.zeros((total, 4), np.int64)
    sizes[:count], boxes[:count] = regions.sizes, regions.boxes
    histograms = {name: np.zeros((total, h.shape[1])) for name, h in regions.histograms.items()}
    for name, first in regions.histograms.items():
        histograms[name][:count] = first
    near: list[set[int]] = [set() for _ in range(total)]
    for one, other in regions.pairs.tolist():
        near[one].add(other)
        near[other].add(one)

    def alike(one: int | np.ndarray, other: np.ndarray) -> np.ndarray:
        """Section 3.2: each measure is of 0..1, the greater the more alike."""
        found = np.zeros(len(other))
        for name in set(measures) & histograms.keys():
            h = histograms[name]
            found += np.minimum(h[one], h[other]).sum(1)
        together = (sizes[one] + sizes[other]) / regions.area
        if "size" in measures:
            found += 1 - together
        if "fill" in measures:
            sides = np.maximum(boxes[one, ..., 2:], boxes[other, 2:]) - np.minimum(
                boxes[one, ..., :2], boxes[other, :2]
            )
            found += 1 - (sides.prod(-1) / regions.area - together)
        return found

    one, other = regions.pairs.T
    queue = list(zip((-alike(one, other)).tolist(), one.tolist(), other.tolist(), strict=True))
    heapq.heapify(queue)
    gone, made = [False] * total, count
    while queue:
        _, a, b = heapq.heappop(queue)
        if gone[a] or gone[b]:
            continue
        gone[a] = gone[b] = True
        sizes[made] = sizes[a] + sizes[b]
        boxes[made, :2] = np.minimum(boxes[a, :2], boxes[b, :2])
        boxes[made, 2:] = np.maximum(boxes[a, 2:], boxes[b, 2:])
        for h in histograms.values():
            h[made] = (sizes[a] * h[a] + sizes[b] * h[b]) / sizes[made]
        near[made] = (near[a] | near[b]) - {a, b}
        for touched in near[made]:
            near[touched] -= {a, b}
            near[touched].add(made)
        others = np.array(sorted(near[made]), np.int64)
        for value, touched in zip(alike(made, others).tolist(), others.tolist(), strict=True):
            heapq.heappush(queue, (-value, touched, made))
        made += 1
    assert made == total, "the regions of a picture hang together"
    return boxes


def recall(found: Sequence[Tensor], truth: Sequence[Tensor], iou: float = 0.5) -> float:
    """The share of the true boxes, of all pictures, that a proposal overlaps by `iou` at least.

    Args:
        found: of each picture boxes (n, 4).
        truth: likewise, (m, 4).
        iou: intersection over union.
    """
    hits = [
        (box_iou(true, boxes) >= iou).any(1).sum().item() if len(boxes) else 0
        for boxes, true in zip(found, truth, strict=True)
    ]
    return sum(hits) / max(1, sum(map(len, truth)))


def propose(split: Split, proposer: Proposer, file: Path | None = None) -> list[Tensor]:
    """Proposals of each picture of a split, (n, 4) each.

    Args:
        split: of pictures.
        proposer: of boxes.
        file: where they are kept; of one proposer alone. What lies there already is taken where it
            is whole and of these very pictures, else made again.

    Raises:
        PictureError: one cannot be decoded.
        WorkError: the file could not be written.
    """
    digest = hashlib.sha256()
    split.feed(digest)
    pictures = digest.hexdigest()
    if file is not None and (kept := _kept(file, pictures)) is not None:
        return kept
    found = [proposer(np.asarray(split.picture(place, 3))) for place in range(len(split))]
    if file is not None:
        counts = torch.tensor([len(boxes) for boxes in found])
        tensors = {"boxes": torch.cat(found), "counts": counts}
        write_whole(file, safetensors.torch.save(tensors, {"pictures": pictures}))
    return found


def _kept(file: Path, pictures: str) -> list[Tensor] | None:
    try:
        with safetensors.safe_open(file, framework="pt") as found:
            if (found.metadata() or {}).get("pictures") != pictures:
                return None
            counts = found.get_tensor("counts").tolist()
            return list(found.get_tensor("boxes").split(counts))
    except (OSError, RuntimeError, safetensors.SafetensorError):
        return None


def with_proposals(
    source: PictureSet, proposals: Mapping[SplitName, Sequence[Tensor]]
) -> PictureSet:
    """Pictures whose targets have `proposals` (n, 4) too, as Fast R-CNN wants them; masks are gone.

    Args:
        source: pictures with boxes.
        proposals: of each split that is wanted, of each of its pictures.
    """
    splits = {}
    for name, given in proposals.items():
        targets = source.splits[name].targets
        assert targets is not None
        splits[name] = replace(
            source.splits[name],
            targets=tuple(
                {**{key: target[key] for key in TRUTH if key in target}, "proposals": boxes.numpy()}
                for target, boxes in zip(targets, given, strict=True)
            ),
        )
    return replace(source, splits=splits)


def _at_width(image: np.ndarray, width_px: int) -> np.ndarray:
    from PIL import Image

    height, width = image.shape[:2]
    if width <= width_px:
        return image
    size = (width_px, max(1, round(height * width_px / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _in_space(image: np.ndarray, space: str) -> np.ndarray:
    """uint8 (H, W, 3) to float64 of 0..1 in a colour space."""
    from skimage.color import rgb2hsv, rgb2lab

    if space == "hsv":
        return rgb2hsv(image)
    return (rgb2lab(image) + np.array([0, 128, 128])) / np.array([100, 255, 255])


def _responses(pixels: np.ndarray) -> np.ndarray:
    """Gaussian derivatives of sigma 1 in 8 directions, those upwards, (24, H, W), of 0..1."""
    from scipy.ndimage import gaussian_filter

    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    found = []
    for channel in np.moveaxis(pixels, -1, 0):
        derivative: Any = partial(gaussian_filter, channel, 1.0)
        down, across = derivative(order=(1, 0)), derivative(order=(0, 1))
        found += [np.maximum(np.cos(a) * across + np.sin(a) * down, 0) for a in angles]
    return np.stack(found) / STEEPEST


def _histograms(flat: np.ndarray, count: int, layers: np.ndarray, bins: int) -> np.ndarray:
    """Of each region its pixels' histograms in all layers (L, H, W), (count, L * bins), sum 1."""
    columns = []
    for layer in layers:
        place = np.clip(layer.ravel() * bins, 0, bins - 1).astype(np.int64)
        counts = np.bincount(flat * bins + place, minlength=count * bins)
        columns.append(counts.reshape(count, bins))
    whole = np.concatenate(columns, axis=1).astype(np.float64)
    return whole / whole.sum(1, keepdims=True)
