"""DenseNet and DenseNet-BC.

Huang, Liu, van der Maaten & Weinberger 2017, "Densely connected convolutional networks", section 3:
each layer of a dense block sees the maps of all layers before it, stacked, and adds k maps of its
own (k: the growth rate). Between two blocks a transition convolves 1x1 and halves the size by
average pooling. A layer is batch norm, ReLU, 3x3 convolution; in DenseNet-B a 1x1 convolution to 4k
maps goes before, and in DenseNet-C a transition keeps half of the maps: BC is both.

The ImageNet nets (table 1) are BC with a stem as ResNet's, of 2k maps; they are torchvision's, with
its keys. The CIFAR nets (section 3, "Implementation details") have three blocks of equal length and
a 3x3 stem of 16 maps, or 2k in BC.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, Stages, init_he
from deepen.models.architecture import Architecture, Detail, Takes


class DenseLayer(nn.Module):
    """H of equation 2: batch norm, ReLU, a 3x3 convolution to `growth_rate` maps."""

    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, growth_rate, H, W)."""
        return self.conv1(F.relu(self.norm1(x), inplace=True))


class BottleneckLayer(nn.Module):
    """H of DenseNet-B: a 1x1 convolution to 4 * growth_rate maps goes before the 3x3."""

    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, growth_rate, H, W)."""
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseBlock(nn.Module):
    """Figure 1: every layer sees the block's input and the maps of all layers before it."""

    def __init__(
        self, num_layers: int, in_channels: int, growth_rate: int, bottleneck: bool
    ) -> None:
        super().__init__()
        layer = BottleneckLayer if bottleneck else DenseLayer
        for i in range(num_layers):
            self.add_module(f"denselayer{i + 1}", layer(in_channels + i * growth_rate, growth_rate))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, in_channels + num_layers * growth_rate, H, W)."""
        maps = [x]
        for layer in self.children():
            maps.append(layer(torch.cat(maps, 1)))
        return torch.cat(maps, 1)


class Transition(nn.Module):
    """Section 3, "Pooling layers": batch norm, ReLU, 1x1 convolution, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H/2, W/2)."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class Variant(NamedTuple):
    """Growth rate k, layers of each dense block, and whether bottlenecks and compression are on."""

    growth_rate: int
    num_layers: tuple[int, ...]
    bc: bool = True

    @property
    def imagenet(self) -> bool:
        """Table 1's nets have four blocks, the CIFAR nets three."""
        return len(self.num_layers) == 4

    @property
    def min_px(self) -> int:
        """Least height and width of a picture."""
        return 29 if self.imagenet else 8


class DenseNet(ImageClassifier):
    """Table 1, from 29 px up; with three blocks the net of CIFAR, from 8 px up."""

    classifier_name = "classifier"

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__()
        k, num_layers, bc = variant
        self.in_channels, self.num_classes = in_channels, num_classes
        self.min_px = variant.min_px
        maps = 2 * k if bc else 16
        self.features = nn.Sequential()
        if variant.imagenet:
            self.features.add_module("conv0", nn.Conv2d(in_channels, maps, 7, 2, 3, bias=False))
            self.features.add_module("norm0", nn.BatchNorm2d(maps))
            self.features.add_module("relu0", nn.ReLU(inplace=True))
            self.features.add_module("pool0", nn.MaxPool2d(3, 2, padding=1))
        else:
            self.features.add_module("conv0", nn.Conv2d(in_channels, maps, 3, 1, 1, bias=False))
        for i, n in enumerate(num_layers, start=1):
            self.features.add_module(f"denseblock{i}", DenseBlock(n, maps, k, bottleneck=bc))
            maps += n * k
            if i < len(num_layers):
                kept = maps // 2 if bc else maps
                self.features.add_module(f"transition{i}", Transition(maps, kept))
                maps = kept
        self.features.add_module(f"norm{len(num_layers) + 1}", nn.BatchNorm2d(maps))
        self.num_features = maps
        self.classifier = nn.Linear(maps, num_classes)
        self.stage_layers = self._stages(variant)
        self.apply(init_he)

    @staticmethod
    def _stages(variant: Variant) -> Stages:
        """Rows of table 1, the classification layer aside."""
        stages: Stages = {"convolution": ("features.conv0",)}
        if variant.imagenet:
            stages["convolution"] += ("features.norm0", "features.relu0")  # (B, 2k, H/2, W/2)
            stages["pooling"] = ("features.pool0",)  # (B, 2k, H/4, W/4)
        last = len(variant.num_layers)
        for i in range(1, last):
            stages[f"dense_block{i}"] = (f"features.denseblock{i}",)
            stages[f"transition{i}"] = (f"features.transition{i}",)
        norm = f"features.norm{last + 1}"
        stages[f"dense_block{last}"] = (f"features.denseblock{last}", norm, torch.relu_)
        return stages


def cifar(depth: int, growth_rate: int, bc: bool) -> Variant:
    """Section 3: three blocks of (depth - 4) / 3 convolutions, two of them a layer in BC."""
    n = (depth - 4) // (6 if bc else 3)
    return Variant(growth_rate, (n, n, n), bc)


# Huang et al. 2017, table 1 (growth rate, layers of each block) and table 2 (depth, growth rate).
VARIANTS: dict[str, Variant] = {
    "densenet121": Variant(32, (6, 12, 24, 16)),
    "densenet169": Variant(32, (6, 12, 32, 32)),
    "densenet201": Variant(32, (6, 12, 48, 32)),
    "densenet161": Variant(48, (6, 12, 36, 24)),
    "densenet40_12": cifar(40, 12, bc=False),
    "densenet100_12": cifar(100, 12, bc=False),
    "densenet100_24": cifar(100, 24, bc=False),
    "densenet_bc100_12": cifar(100, 12, bc=True),
    "densenet_bc250_24": cifar(250, 24, bc=True),
    "densenet_bc190_40": cifar(190, 40, bc=True),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> DenseNet:
        return DenseNet(variant, num_classes, in_channels)

    details = [
        Detail("composite function", "specified", "section 3: batch norm, ReLU, 3x3 convolution"),
        Detail("ReLU of the transitions", "inferred", "the authors' released code"),
        Detail("batch norm and ReLU at the end", "inferred", "the authors' released code"),
        Detail("initialization", "specified", "section 4.2: as He et al. 2015b"),
    ]
    if variant.imagenet:
        takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=variant.min_px)
        details += [
            Detail("blocks and stem", "specified", "table 1, section 3: a stem of 2k maps"),
            Detail(
                "growth rate", "specified", f"table 1 (densenet161: 2016's): {variant.growth_rate}"
            ),
            Detail("batch norm of the stem", "inferred", "the authors' released code"),
        ]
    else:
        takes = Takes(size_px=32, channels=3, num_classes=10, min_px=variant.min_px)
        details += [
            Detail("blocks and growth rate", "specified", "section 3 and table 2: depth, k"),
            Detail("stem", "specified", "section 3: 3x3, 16 maps, or 2k in BC"),
            Detail("dropout", "deviates", "none; section 4.1: 0.2 without augmentation alone"),
        ]
    if variant.bc:
        details.append(Detail("bottleneck and compression", "specified", "section 3: 4k, 0.5"))
    title = "Densely connected convolutional networks"
    return Architecture(name, build, takes, "Huang et al. 2017", title, 2016, tuple(details))


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
