"""A training step of a detector beside torchvision's: the same weights and pictures, interleaved.

    python benchmarks/detection.py [--rounds 10] [--px 240 320] [--batch 2] [--output FILE]

Prints the median of the steps' times (forward and backward) of both, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from deepen.detection.networks import model_of
from deepen.models import create_model

CLASSES, OBJECTS = 20, 10


def main() -> None:
    """Measure both kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--px", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "what": "a training step, forward and backward, with the same weights; medians",
        "provenance": provenance(),
        "pictures": f"{asked.batch} of {asked.px[1]}x{asked.px[0]} px",
        "rounds": asked.rounds,
    }
    images, targets = pictures(asked.batch, tuple(asked.px))
    for kind, word in ((FasterRCNN, "faster-rcnn-fpn"), (MaskRCNN, "mask-rcnn-fpn")):
        backbone = _resnet_fpn_extractor(resnet.resnet18(), 5)
        theirs = kind(backbone, CLASSES + 1, min(asked.px), max(asked.px))
        ours = create_model(model_of(word, "resnet18"), CLASSES, 3, tuple(asked.px))
        ours.load_state_dict(theirs.state_dict())
        ways: dict[str, tuple[nn.Module, Callable[[], dict[str, Tensor]]]] = {
            "torchvision": (theirs, lambda net=theirs: net(list(images), targets)),
            "deepen": (ours, lambda net=ours: net(images, targets)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(asked.rounds + 1):
            for name, (network, forward) in ways.items():
                torch.manual_seed(0)
                network.zero_grad()
                began = time.perf_counter()
                sum(forward().values(), torch.zeros(())).backward()
                times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(each[1:]) for name, each in times.items()}
        shown = ", ".join(f"{name} {1000 * each:,.0f} ms" for name, each in medians.items())
        ratio = medians["deepen"] / medians["torchvision"]
        print(f"{word}: {shown}, ratio {ratio:.3f}")
        told = {f"{name}_ms": round(1000 * each) for name, each in medians.items()}
        result[word] = {**told, "ratio": round(ratio, 3)}
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


def pictures(batch: int, size: tuple[int, ...]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Random pictures with `OBJECTS` boxes and masks each."""
    random = torch.Generator().manual_seed(0)
    height, width = size
    targets = []
    for _ in range(batch):
        corner = torch.rand(OBJECTS, 2, generator=random) * torch.tensor([width, height]) * 0.7
        boxes = torch.cat([corner, corner + 10 + 40 * torch.rand(OBJECTS, 2, generator=random)], 1)
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=random)
        masks = (torch.rand(OBJECTS, height, width, generator=random) < 0.5).to(torch.uint8)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return torch.rand(batch, 3, height, width, generator=random), targets


if __name__ == "__main__":
    main()
