"""Digits laid on photographs, whose boxes and masks are right because they were made so.

For tests, pages of the docs and trials on a small machine: nothing is downloaded, and a picture is
a pure function of seed, split and number. Digits are the 8x8 ones embedded in scikit-learn, the
photographs its two (by danielbuechele and vultilion on Flickr, CC BY 2.0). Digits of the three
splits are of that set's own splits, and photographs are cut into three strips, so that no digit and
no background is in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image

from deepen.data.sources import PictureSet, SplitName, open_source
from deepen.errors import InputError

Kind = Literal["detection", "segmentation", "localization"]
VOID = 255
STRIPS: dict[SplitName, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "val": (0.6, 0.8),
    "test": (0.8, 1.0),
}
"""From where to where, as shares of their width, photographs are a split's."""
WINDOW_PX = (64, 120)
"""Sides of the windows of photographs that become backgrounds."""
OPAQUE, CLEAR = 0.5, 0.15
"""A digit covers what it hides from this share on; below the other it is not there."""
TRIES = 20


@dataclass(frozen=True)
class Drawing:
    """What is drawn.

    Attributes:
        kind: `detection` has {"boxes", "labels", "difficult", "crowd", "masks"} of each digit;
            `segmentation` {"mask"}, where class 0 is the background and the digits' soft edges are
            void (255); `localization` {"boxes"} of the one digit that each picture then has.
        size_px: height and width of a picture.
        digits: fewest and most in one; those that find no free place are left out.
        seed: other pictures.
    """

    kind: Kind = "detection"
    size_px: int = 64
    digits: tuple[int, int] = (1, 4)
    seed: int = 0


def made_pictures(
    drawing: Drawing, *, train: int = 400, val: int = 100, test: int = 100
) -> PictureSet:
    """Make pictures, uint8 and in memory, with their targets.

    Args:
        drawing: what is in them.
        train: training pictures; of more the first are the same.
        val: pictures to choose the epoch by; 0: none.
        test: pictures for the reported score; 0: none.

    Raises:
        InputError: pictures too small for a digit, or no training picture.
    """
    if drawing.size_px < 16 or train < 1 or not 1 <= drawing.digits[0] <= drawing.digits[1]:
        raise InputError("made pictures: 16 px, one picture and one digit at least")
    digits = tuple("0123456789")
    classes = ("background", *digits) if drawing.kind == "segmentation" else digits
    counts: dict[SplitName, int] = {"train": train, "val": val, "test": test}
    parts: dict[SplitName, Any] = {}
    for split, count in counts.items():
        if count:
            made = [_made(drawing, split, number) for number in range(count)]
            images, labels, targets = zip(*made, strict=True)
            parts[split] = np.stack(images), np.array(labels, np.int64), targets
    name = f"made-{drawing.kind}-{drawing.size_px}px-seed{drawing.seed}"
    return PictureSet.of(name, classes, **parts)


def _made(
    drawing: Drawing, split: SplitName, number: int
) -> tuple[np.ndarray, int, Mapping[str, Any]]:
    """Pixels uint8 (h, w, 3), the first digit's class, and the targets."""
    rng = np.random.default_rng([drawing.seed, list(STRIPS).index(split), number])
    pixels = _background(rng, split, drawing.size_px)
    fewest, most = (1, 1) if drawing.kind == "localization" else drawing.digits
    labels: list[int] = []
    masks: list[np.ndarray] = []
    void = np.zeros(pixels.shape[:2], bool)
    for _ in range(int(rng.integers(fewest, most + 1))):
        label, cover = _digit(rng, split, drawing.size_px, masks)
        if cover is None:
            continue
        light = pixels[cover > 0].mean() < 128
        color = rng.uniform(190, 255, 3) if light else rng.uniform(0, 65, 3)
        pixels += cover[..., None] * (color - pixels)
        solid, soft = cover >= OPAQUE, (cover > CLEAR) & (cover < OPAQUE)
        masks = [mask & ~solid for mask in masks]
        void = (void & ~solid) | soft
        labels.append(label)
        masks.append(solid)
    targets = _targets(drawing.kind, np.array(labels, np.int64), np.stack(masks), void)
    first = labels[0] + (drawing.kind == "segmentation")
    return np.rint(pixels).astype(np.uint8), first, targets


def _targets(kind: Kind, labels: np.ndarray, masks: np.ndarray, void: np.ndarray) -> dict[str, Any]:
    if kind == "segmentation":
        mask = ((labels + 1)[:, None, None] * masks).max(0)  # no two masks share a pixel
        return {"mask": np.where(void & (mask == 0), VOID, mask).astype(np.uint8)}
    boxes = np.stack([_box(mask) for mask in masks])
    if kind == "localization":
        return {"boxes": boxes}
    never = np.zeros(len(labels), bool)
    return {
        "boxes": boxes,
        "labels": labels,
        "difficult": never,
        "crowd": never,
        "masks": masks.astype(np.uint8),
    }


def _box(mask: np.ndarray) -> np.ndarray:
    """Edges of what is seen of a digit: float32 (4,), x1 y1 x2 y2."""
    (rows, columns) = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _background(rng: np.random.Generator, split: SplitName, size_px: int) -> np.ndarray:
    """A window of a photograph, mirrored perhaps: float64 (h, w, 3)."""
    photograph = _photographs()[int(rng.integers(2))]
    begin, end = (round(share * photograph.width) for share in STRIPS[split])
    side = int(rng.integers(*WINDOW_PX))
    left = int(rng.integers(begin, end - side + 1))
    top = int(rng.integers(0, photograph.height - side + 1))
    window = photograph.crop((left, top, left + side, top + side))
    window = window.resize((size_px, size_px), Image.Resampling.BILINEAR)
    pixels = np.asarray(window, np.float64)
    return pixels[:, ::-1].copy() if rng.integers(2) else pixels.copy()


def _digit(
    rng: np.random.Generator, split: SplitName, size_px: int, masks: list[np.ndarray]
) -> tuple[int, np.ndarray | None]:
    """A digit's class, and how much of each pixel it covers, float64 (h, w).

    None where it found no place that leaves three quarters of every other digit to be seen.
    """
    images, labels = _digits()[split]
    place = int(rng.integers(len(labels)))
    height = int(rng.integers(size_px * 5 // 16, size_px * 9 // 16 + 1))
    width = max(4, round(height * rng.uniform(0.7, 1.0)))
    small = Image.fromarray(images[place]).resize((width, height), Image.Resampling.BICUBIC)
    cover = np.asarray(small, np.float64) / 255
    for _ in range(TRIES):
        top = int(rng.integers(0, size_px - height + 1))
        left = int(rng.integers(0, size_px - width + 1))
        whole = np.zeros((size_px, size_px))
        whole[top : top + height, left : left + width] = cover
        if all((mask & (whole > CLEAR)).sum() <= mask.sum() / 4 for mask in masks):
            return int(labels[place]), whole
    return int(labels[place]), None


@cache
def _digits() -> dict[SplitName, tuple[np.ndarray, np.ndarray]]:
    """Pixels uint8 (N, 8, 8) and classes of each split."""
    splits = open_source("digits").splits
    return {
        name: (split.images[..., 0], split.labels)
        for name, split in splits.items()
        if split.images is not None
    }


@cache
def _photographs() -> tuple[Image.Image, ...]:
    """RGB, 640x427 px."""
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)
