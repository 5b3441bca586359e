"""Wide residual networks.

Zagoruyko & Komodakis 2016, "Wide residual networks", table 1: WRN-d-k has d = 6n + 4 convolutions
(projections counted) and k times the maps of the CIFAR ResNets: a 3x3 stem of 16 maps, three stages
of n pre-activation units of two 3x3 convolutions with 16k, 32k, 64k maps. In the `_dropout` forms
dropout stands between the two convolutions (figure 1d). WRN-50-2-bottleneck, for ImageNet (table
8), is ResNet-50 with its 3x3 convolutions twice as wide.

WRN-50-2 is torchvision's network, with its keys.
"""

from __future__ import annotations

from torch import nn

from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.preresnet import Activation, PreResNet, Variant, two_convolutions
from deepen.models.resnet import WIDE_MAPS, Bottleneck, ResNet, Shortcut
from deepen.models.resnet import Variant as ResNetVariant


def with_dropout(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Figure 1(d): dropout of 0.3 before the second convolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        Activation(out_channels),
        nn.Dropout(0.3),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
    )


def wide_bottleneck(
    in_channels: int, out_channels: int, stride: int, option: Shortcut
) -> Bottleneck:
    """Section 3, ImageNet: the 3x3 convolution has half of the block's maps, not a quarter."""
    return Bottleneck(in_channels, out_channels // 2, out_channels, (1, stride), option)


def wide(depth: int, k: int, dropout: bool = False) -> Variant:
    """WRN-depth-k of table 1: (depth - 4) / 6 units a stage, k times the maps."""
    n = (depth - 4) // 6
    residual = with_dropout if dropout else two_convolutions
    return Variant(residual, (n, n, n), (16 * k, 32 * k, 64 * k))


# Zagoruyko & Komodakis 2016, tables 4 to 6: depth, widening factor, dropout.
VARIANTS: dict[str, Variant] = {
    "wide_resnet16_8": wide(16, 8),
    "wide_resnet16_8_dropout": wide(16, 8, dropout=True),
    "wide_resnet40_4": wide(40, 4),
    "wide_resnet28_10": wide(28, 10),
    "wide_resnet28_10_dropout": wide(28, 10, dropout=True),
}
WIDE_50_2 = ResNetVariant(wide_bottleneck, (3, 4, 6, 3), WIDE_MAPS)

TITLE = "Wide residual networks"


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> PreResNet:
        return PreResNet(variant, num_classes, in_channels)

    details = (
        Detail("layers and widths", "specified", "table 1: 6n + 4 layers, 16k-32k-64k maps"),
        Detail("residual unit", "specified", "section 2: batch norm, ReLU, 3x3, twice"),
        Detail(
            "dropout",
            "specified",
            "0.3 between the convolutions: section 2.4" if "dropout" in name else "none",
        ),
        Detail(
            "shared activation",
            "inferred",
            "of projection and residual: the authors' released code",
        ),
        Detail("initialization", "inferred", "He et al. 2015b: the authors' released code"),
    )
    takes = Takes(size_px=32, channels=3, num_classes=10, min_px=variant.min_px)
    return Architecture(name, build, takes, "Zagoruyko & Komodakis 2016", TITLE, 2016, details)


def _wide_resnet50_2(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> ResNet:
    return ResNet(WIDE_50_2, num_classes, in_channels)


ARCHITECTURES = [
    *(_architecture(name, variant) for name, variant in VARIANTS.items()),
    Architecture(
        "wide_resnet50_2",
        _wide_resnet50_2,
        Takes(size_px=224, channels=3, num_classes=1000, min_px=ResNet.min_px),
        "Zagoruyko & Komodakis 2016",
        TITLE,
        2016,
        (
            Detail(
                "widths", "specified", "section 3: the inner maps of ResNet-50 times 2, table 8"
            ),
            Detail(
                "stride",
                "inferred",
                "3x3 convolution, as fb.resnet.torch, which theirs is built on",
            ),
            Detail("initialization", "inferred", "He et al. 2015b: the authors' released code"),
        ),
    ),
]
