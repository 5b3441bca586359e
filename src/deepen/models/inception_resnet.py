"""Inception-ResNet: inception modules as residual branches.

Szegedy, Ioffe, Vanhoucke & Alemi 2016, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", sections 3.2 and 3.3, figures 10 to 19. The maps of a cheap module are
brought back to the width of its input by a 1x1 convolution without activation, scaled down, added
to the input. Figure 15 has both networks: 5 blocks on 35x35, 10 on 17x17, 5 on 8x8; v2 has the stem
of Inception-v4. (That v2 also costs what Inception-v4 does holds for the released network alone.)

`inception_resnet_v2_slim` is the network that Google released under the name of v2, and timm has,
with timm's keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ConvBNReLU, ImageClassifier, init_he
from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.inception_v4 import Path, chain, inception, reduction, stem

Paths = tuple[Path, ...]


def num_maps(paths: Paths) -> int:
    """Maps that leave the branches, stacked."""
    return sum(path[-1][0] for path in paths)


class ResidualBlock(nn.Module):
    """Figures 10, 11, 13, 16, 17 and 19: y = ReLU(x + scale * (1x1 of the stacked branches))."""

    def __init__(self, in_channels: int, paths: Paths, scale: float, relu: bool = True) -> None:
        super().__init__()
        self.scale, self.relu = scale, relu
        self.branches = [f"branch{i}" for i in range(len(paths))]
        for name, path in zip(self.branches, paths, strict=True):
            self.add_module(name, chain(in_channels, path))
        self.conv2d = nn.Conv2d(num_maps(paths), in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to the same shape."""
        stacked = torch.cat([self.get_submodule(name)(x) for name in self.branches], dim=1)
        out = x + self.scale * self.conv2d(stacked)
        return F.relu(out, inplace=True) if self.relu else out


def repeat(count: int, in_channels: int, paths: Paths, scale: float) -> nn.Sequential:
    """Equal blocks in a row."""
    return nn.Sequential(*(ResidualBlock(in_channels, paths, scale) for _ in range(count)))


def stem_v3(in_channels: int) -> dict[str, nn.Module]:
    """What figure 14 has of Inception-v3: images (B, C, 299, 299) to (B, 192, 71, 71)."""
    return {
        "conv2d_1a": ConvBNReLU(in_channels, 32, 3, stride=2, valid=True),
        "conv2d_2a": ConvBNReLU(32, 32, 3, valid=True),
        "conv2d_2b": ConvBNReLU(32, 64, 3),
        "maxpool_3a": nn.MaxPool2d(3, stride=2),
        "conv2d_3b": ConvBNReLU(64, 80, 1),
        "conv2d_4a": ConvBNReLU(80, 192, 3, valid=True),
    }


def stem_v1(in_channels: int) -> dict[str, nn.Module]:
    """Figure 14: images (B, C, 299, 299) to (B, 256, 35, 35)."""
    return {**stem_v3(in_channels), "conv2d_5a": ConvBNReLU(192, 256, 3, stride=2, valid=True)}


def stem_v2(in_channels: int) -> dict[str, nn.Module]:
    """Figure 3, Inception-v4's: images (B, C, 299, 299) to (B, 384, 35, 35)."""
    return {"stem": nn.Sequential(*stem(in_channels))}


def stem_slim(in_channels: int) -> dict[str, nn.Module]:
    """The released network's: images (B, C, 299, 299) to (B, 320, 35, 35)."""
    paths: Paths = ((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3))
    pool, module = nn.MaxPool2d(3, stride=2), inception(192, paths, 64)
    return {**stem_v3(in_channels), "maxpool_5a": pool, "mixed_5b": module}


class Blocks(NamedTuple):
    """Branches of the three blocks and the two reductions."""

    a: Paths
    reduction_a: Paths
    b: Paths
    reduction_b: Paths
    c: Paths


# Figures 10, 7 (with table 1), 11, 12 and 13.
V1 = Blocks(
    a=(((32, 1),), ((32, 1), (32, 3)), ((32, 1), (32, 3), (32, 3))),
    reduction_a=(((384, 3, 2),), ((192, 1), (192, 3), (256, 3, 2))),
    b=(((128, 1),), ((128, 1), (128, (1, 7)), (128, (7, 1)))),
    reduction_b=(
        ((256, 1), (384, 3, 2)),
        ((256, 1), (256, 3, 2)),
        ((256, 1), (256, 3), (256, 3, 2)),
    ),
    c=(((192, 1),), ((192, 1), (192, (1, 3)), (192, (3, 1)))),
)
# Figures 16, 7 (with table 1), 17, 18 and 19; the released network has the same.
V2 = Blocks(
    a=(((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3))),
    reduction_a=(((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2))),
    b=(((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1)))),
    reduction_b=(
        ((256, 1), (384, 3, 2)),
        ((256, 1), (288, 3, 2)),
        ((256, 1), (288, 3), (320, 3, 2)),
    ),
    c=(((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1)))),
)


class Variant(NamedTuple):
    """A stem and its maps, branches, blocks on each grid; `slim` for the released network's end."""

    stem: Callable[[int], dict[str, nn.Module]]
    width: int
    blocks: Blocks
    repeats: tuple[int, int, int]
    slim: bool = False


VARIANTS = {
    "inception_resnet_v1": Variant(stem_v1, 256, V1, (5, 10, 5)),
    "inception_resnet_v2": Variant(stem_v2, 384, V2, (5, 10, 5)),
    "inception_resnet_v2_slim": Variant(stem_slim, 320, V2, (10, 20, 9), slim=True),
}


WORDS = {  # timm's names in those of figure 15
    "repeat": "inception_resnet_a",
    "mixed_6a": "reduction_a",
    "repeat_1": "inception_resnet_b",
    "mixed_7a": "reduction_b",
    "repeat_2": "inception_resnet_c",
}


class InceptionResNet(ImageClassifier):
    """Figure 15: a stem, then blocks on three grids with reductions between them."""

    classifier_name, min_px, dropout_p = "classif", 75, 0.2

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        blocks, (a, b, c), width = variant.blocks, variant.repeats, variant.width
        layers = variant.stem(in_channels)
        layers["repeat"] = repeat(a, width, blocks.a, 0.17)
        layers["mixed_6a"] = reduction(width, blocks.reduction_a)
        width += num_maps(blocks.reduction_a)
        layers["repeat_1"] = repeat(b, width, blocks.b, 0.10)
        layers["mixed_7a"] = reduction(width, blocks.reduction_b)
        width += num_maps(blocks.reduction_b)
        layers["repeat_2"] = repeat(c, width, blocks.c, 0.20)
        if variant.slim:
            layers["block8"] = ResidualBlock(width, blocks.c, scale=1.0, relu=False)
            layers["conv2d_7b"] = ConvBNReLU(width, 1536, 1)
        self.stage_layers = {WORDS.get(name, name): (name,) for name in layers}
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.num_features = 1536 if variant.slim else width
        self.classif = nn.Linear(self.num_features, num_classes)
        self.apply(init_he)


def _architecture(name: str, *details: Detail) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> InceptionResNet:
        return InceptionResNet(VARIANTS[name], num_classes, in_channels)

    shared = (
        Detail("dropout", "specified", "figure 15: keep 0.8"),
        Detail("batch norm", "specified", "section 3.2: on the layers, not on the sums"),
        Detail("no batch norm, a bias in the last 1x1", "inferred", "as released; section 3.2"),
        Detail("initialization", "inferred", "none in the paper; He et al. 2015b"),
    )
    title = "Inception-v4, Inception-ResNet and the impact of residual connections on learning"
    takes, authors = Takes(299, 3, 1000, min_px=InceptionResNet.min_px), "Szegedy et al. 2016"
    return Architecture(name, build, takes, authors, title, 2016, details + shared)


SCALE = Detail("scale", "inferred", "0.17, 0.10, 0.20 as released; section 3.3: 0.1 to 0.3")
ARCHITECTURES = [
    _architecture(
        "inception_resnet_v1",
        Detail("widths", "specified", "figures 14, 10, 7, 11, 12 and 13, table 1"),
        Detail("number of blocks", "specified", "figure 15: 5, 10, 5"),
        SCALE,
    ),
    _architecture(
        "inception_resnet_v2",
        Detail("widths", "specified", "figures 3, 16, 7, 17, 18 and 19, table 1"),
        Detail("number of blocks", "specified", "figure 15: 5, 10, 5"),
        Detail("last 1x1 of B", "deviates", "1152 maps, as arrive; figure 17 prints 1154"),
        Detail("last 1x1 of C", "deviates", "2144 maps, as arrive; figure 19 prints 2048"),
        Detail("stride at the end of the stem", "inferred", "2; figure 3 forgets it"),
        SCALE,
    ),
    _architecture(
        "inception_resnet_v2_slim",
        Detail("branches", "specified", "figures 16, 7, 17, 18 and 19, table 1"),
        Detail("number of blocks", "deviates", "10, 20, 10, as released; figure 15: 5, 10, 5"),
        Detail("stem", "deviates", "Inception-v3's and a module, as released; not figure 3"),
        Detail("scale", "deviates", "0.17, 0.10, 0.20 as released, and 1 in the last block"),
        Detail("end", "deviates", "last block without ReLU, then 1536 1x1 convolutions: released"),
    ),
]
