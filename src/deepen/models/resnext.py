"""ResNeXt.

Xie, Girshick, Dollár, Tu & He 2016, "Aggregated residual transformations for deep neural networks":
the bottleneck of ResNet split into C (the cardinality) equal paths of d maps each, added up. Of its
three equal forms (figure 3) this is the last: the 3x3 convolution has C groups. The ImageNet nets
(table 1) are torchvision's, with its keys; downsampling is in the 3x3 convolution (section 4), and
shortcuts are of option B.

The CIFAR net (section 5.3) has 29 layers: a 3x3 stem of 64 maps, three stages of three blocks with
256, 512, 1024 maps, and d doubles with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from deepen.layers import ImageClassifier, init_he
from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.resnet import WIDE_MAPS, Block, Bottleneck, ResNet, Shortcut, make_stage
from deepen.models.resnet import Variant as ResNetVariant
from deepen.models.resnet_cifar import CifarResNet


def aggregated(cardinality: int, base_width: int) -> Block:
    """Figure 3(c): `cardinality` groups of `base_width` maps in the first stage, doubling after.

    The first stage has 256 maps, so a path has `base_width` for each 256 of them.
    """

    def block(in_channels: int, out_channels: int, stride: int, option: Shortcut) -> Bottleneck:
        width = cardinality * base_width * out_channels // 256
        return Bottleneck(in_channels, width, out_channels, (1, stride), option, cardinality)

    return block


class CifarResNeXt(ImageClassifier):
    """Section 5.3: 29 layers for pictures of 32x32 px, or of any size from 8 px up.

    Args:
        block: the aggregated block.
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    num_features, min_px = 1024, 8
    stage_layers = CifarResNet.stage_layers

    def __init__(self, block: Block, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = make_stage(block, 3, 64, 256, 1, "B")
        self.layer2 = make_stage(block, 3, 256, 512, 2, "B")
        self.layer3 = make_stage(block, 3, 512, 1024, 2, "B")
        self.fc = nn.Linear(1024, num_classes)
        self.apply(init_he)


class Variant(NamedTuple):
    """Blocks a stage, cardinality C and width d of a path in the first stage."""

    num_blocks: tuple[int, ...]
    cardinality: int
    base_width: int


# Xie et al. 2016: tables 1 and 4 (ImageNet), table 7 (CIFAR).
VARIANTS: dict[str, Variant] = {
    "resnext50_32x4d": Variant((3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": Variant((3, 4, 23, 3), 32, 4),
    "resnext101_64x4d": Variant((3, 4, 23, 3), 64, 4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), 32, 8),
    "resnext29_8x64d": Variant((3, 3, 3), 8, 64),
    "resnext29_16x64d": Variant((3, 3, 3), 16, 64),
}


def _builder(variant: Variant) -> Callable[..., nn.Module]:
    block = aggregated(variant.cardinality, variant.base_width)

    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> nn.Module:
        if len(variant.num_blocks) == 3:
            return CifarResNeXt(block, num_classes, in_channels)
        n1, n2, n3, n4 = variant.num_blocks
        return ResNet(ResNetVariant(block, (n1, n2, n3, n4), WIDE_MAPS), num_classes, in_channels)

    return build


def _architecture(name: str, variant: Variant) -> Architecture:
    details = [
        Detail("block", "specified", "figure 3(c): grouped 3x3 convolution"),
        Detail("shortcut", "specified", "section 4: option B"),
        Detail("initialization", "specified", "section 4: as He et al. 2015b"),
    ]
    if len(variant.num_blocks) == 4:
        takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=ResNet.min_px)
        details.append(Detail("stride", "specified", "section 4: in the 3x3 convolution"))
        if name == "resnext101_32x8d":
            details.append(
                Detail("width", "inferred", "32x8d is torchvision's, from Mahajan et al. 2018")
            )
        else:
            details.append(Detail("width", "specified", "table 4, cardinality x width"))
    else:
        takes = Takes(size_px=32, channels=3, num_classes=10, min_px=CifarResNeXt.min_px)
        details += [
            Detail("stem, stages, width", "specified", "section 5.3 and table 7"),
            Detail(
                "order in the block",
                "deviates",
                "not pre-activated: released code, which finds it better",
            ),
        ]
    title = "Aggregated residual transformations for deep neural networks"
    return Architecture(
        name, _builder(variant), takes, "Xie et al. 2016", title, 2016, tuple(details)
    )


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
