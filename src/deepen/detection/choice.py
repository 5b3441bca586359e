"""What `deepen detect train DATA` alone does: a detector by the data, said in words.

Rules, not measurements, so that the same data on the same kind of machine get the same run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deepen.data.decode import PictureError
from deepen.data.split import PictureSet, Split
from deepen.detection.backbones import pyramid
from deepen.detection.networks import NETWORKS, PLAIN, model_of
from deepen.detection.settings import FPN, Wanted
from deepen.errors import InputError, unknown
from deepen.training.choice import Choice
from deepen.training.recipe import load_recipe
from deepen.weights import Card

BACKBONE = {"cpu": "resnet18", "mps": "resnet18", "cuda": "resnet50"}
LONGER_PX = {"cpu": 320, "mps": 512, "cuda": 800}
"""The longer side that the detector sees, by the kind of device."""
MULTIPLE_PX = 16
IMAGES_TO_SEE = {"cpu": 1_700, "mps": 20_000, "cuda": 200_000}
"""Pictures that a chosen run goes through in all: on two cores a quarter of an hour."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 60
SMALL = ("maps=128", "hidden=256", "regions=128", "kept=1000,500", "proposals=500,300")
"""Of `DetectorSettings`, on a CPU: a training step of the papers' sizes takes four times as long
(ResNet-18, 320x240 px)."""
SAMPLE = 200
FINEST = (4.0, 8.0, 16.0, 32.0, 64.0)
"""Sides of the smallest anchor, in px of the input, that are tried; the next levels double it."""
RECIPES = {"boxes": "detect", "masks": "detect", "mask": "segment", "box": "localize"}
DETECTORS = {
    "boxes": "faster-rcnn-fpn",
    "masks": "mask-rcnn-fpn",
    "mask": "fcn-8s",
    "box": "localizer-pcr",
}
"""By what pictures have: boxes, outlines too, a class for each pixel, boxes of their class."""
WORDS = {
    "boxes": "the pictures have boxes",
    "masks": "the pictures have boxes and outlines",
    "mask": "the pictures have a class for each pixel",
    "box": "the pictures have a class and boxes of it",
}


def choose(
    detector: str | None,
    source: PictureSet,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any],
    card: Card | None = None,
    device: str = "cpu",
) -> Choice:
    """Fill in what the user left open.

    Args:
        detector: the user's word for the kind, of `deepen.detection.networks.NETWORKS`, if any.
        source: pictures with boxes or masks.
        model: the user's word for the backbone, or for a whole network (`package.module:factory`).
        recipe: the user's word, if any.
        changes: of the recipe, the user's; they win over what is chosen here.
        card: of the trained weights to go on with, if any.
        device: "cpu", "cuda" or "mps".

    Raises:
        InputError: pictures without boxes and masks, or an unknown word.
    """
    kind = kind_of(source)
    if detector is not None and detector not in (*NETWORKS, *PLAIN):
        raise unknown("detector", detector, (*NETWORKS, *PLAIN))
    words, chosen = [], dict[str, Any]()
    if recipe is None:
        recipe = RECIPES[kind]
        chosen |= {"length.epochs": _epochs(source, device)}
        if kind == "masks" and detector in (None, DETECTORS[kind]):
            chosen["task"] = "deepen.detection.task:Instances"
    if "input.size_px" not in changes:
        chosen["input.size_px"] = list(_size(source.splits["train"], LONGER_PX[device]))
    complete = load_recipe(recipe, chosen | changes)
    if card is not None:
        model = card.architecture
        words.append(f"network: {model}, which the weights belong to")
    elif model is None or ":" not in model:
        name = detector or DETECTORS[kind]
        settings = []
        height, width = _sides(complete.input.size_px)
        if name.endswith("-fpn"):
            levels = _levels(model or BACKBONE[device], (height, width))
            finest, fits = _anchors(source.splits["train"], height, width, levels)
            sides = ",".join(f"{finest * 2**level:g}" for level in range(levels))
            settings.append(f"anchor_px={sides}")
            if device == "cpu":
                settings += SMALL
                words.append(f"a quarter of the paper's work: {', '.join(SMALL)}")
            words.append(
                f"anchors: {sides} px, since the boxes, seen at {width}x{height} px, overlap the "
                f"nearest by {fits:.2f} (IoU of their shapes) on average"
            )
        backbone = model or BACKBONE[device]
        model = model_of(name, backbone, *settings)
        words.insert(0, f"detector: {name}, since {WORDS[kind]}; backbone {backbone}")
    height, width = _sides(complete.input.size_px)
    length = complete.length
    long = f"{length.steps:,} steps" if length.epochs is None else f"{length.epochs} epochs"
    count = len(source.splits["train"])
    words.append(f"seen at {width}x{height} px; recipe {recipe}, {long} of {count:,} pictures")
    return Choice(model, complete, tuple(words))


def kind_of(source: PictureSet) -> str:
    """What pictures have: "boxes", "masks", "mask" or "box".

    Raises:
        InputError: only classes.
    """
    targets = source.splits["train"].targets
    names = set(next(iter(targets), {})) if targets is not None else set()
    if "mask" in names:
        return "mask"
    if "boxes" not in names:
        raise InputError(
            f"{source.name}: its pictures have neither boxes nor masks; "
            "`deepen train` takes classes"
        )
    return "masks" if "masks" in names else "boxes" if "labels" in names else "box"


def _epochs(source: PictureSet, device: str) -> int:
    wanted = round(IMAGES_TO_SEE[device] / len(source.splits["train"]))
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, wanted))


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _size(split: Split, longer_px: int) -> tuple[int, int]:
    """Height and width of the shape of the pictures in the middle, its longer side as given."""
    shapes = [size[0] / size[1] for size in _sizes(split)]  # width over height
    shape = float(np.median(shapes)) if shapes else 1.0
    shorter = MULTIPLE_PX * max(2, round(longer_px * min(shape, 1 / shape) / MULTIPLE_PX))
    return (shorter, longer_px) if shape >= 1 else (longer_px, shorter)


def _sizes(split: Split) -> list[tuple[int, int]]:
    """Width and height of some pictures; of those that can be decoded."""
    return [size for _, size in _sampled(split)]


def _sampled(split: Split) -> list[tuple[int, tuple[int, int]]]:
    found = []
    for index in split.sample(SAMPLE):
        try:
            found.append((index, split.picture(index, 3).size))
        except PictureError:
            continue
    return found


def _levels(backbone: str, size: tuple[int, int]) -> int:
    """Of a classifier's pyramid."""
    with torch.device("meta"):
        return len(pyramid(Wanted(backbone, 1, 3, size, FPN)).strides)


def _anchors(split: Split, height: int, width: int, levels: int) -> tuple[float, float]:
    """The side of the smallest anchor that fits best, and the mean overlap with the nearest."""
    assert split.targets is not None
    shapes = []
    for index, size in _sampled(split):
        boxes = np.asarray(split.targets[index]["boxes"], np.float64).reshape(-1, 4)
        sides = (boxes[:, 2:] - boxes[:, :2]) * np.divide((width, height), size)
        shapes.append(sides[(sides > 0).all(1)])
    sides = np.concatenate(shapes) if shapes else np.empty((0, 2))
    if not len(sides):
        return 16.0, 0.0

    def fit(finest: float) -> float:
        areas = (finest * 2.0 ** np.arange(levels)) ** 2
        ratios = np.array([0.5, 1, 2])  # height over width
        anchors = np.stack(
            [np.sqrt(areas[:, None] / ratios), np.sqrt(areas[:, None] * ratios)], -1
        ).reshape(-1, 2)
        shared = np.minimum(sides[:, None], anchors).prod(-1)
        overlaps = shared / (sides.prod(-1)[:, None] + anchors.prod(-1) - shared)
        return float(overlaps.max(1).mean())

    best = max(FINEST, key=fit)
    return best, fit(best)
