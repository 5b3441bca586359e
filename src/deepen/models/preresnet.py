"""Pre-activation ResNet.

He, Zhang, Ren & Sun 2016, "Identity mappings in deep residual networks": batch norm and ReLU come
before each weight layer instead of after it (figure 4e), so that nothing stands on the path that
joins the units, and the signal can go from any unit to any other as it is.

The appendix on the first and the last unit: the first activation comes right after the first
convolution, before the paths split; one more activation follows the last unit's sum. Where the
shape changes, the projection is without batch norm and starts from the activated input.

CIFAR: 110 layers are units of two 3x3 convolutions on 16, 32, 64 maps; 164 and 1001 layers are
bottlenecks, [1x1, 16; 3x3, 16; 1x1, 64] in the first stage. ImageNet: the stages of ResNet-50, 101,
152, and ResNet-200, which has 16 units more on 28x28 px.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_he
from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.resnet import ZeroPadShortcut

Option = Literal["A", "B"]


class Activation(nn.BatchNorm2d):
    """Batch norm, then ReLU: what goes before a weight layer."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return F.relu(super().forward(input), inplace=True)

    def _check_input_dim(self, input: Tensor) -> None:
        """The network has checked its input, and a symbolic tracer cannot follow a branch."""


def two_convolutions(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The residual of figure 4(e) after its first activation: 3x3, activation, 3x3."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        Activation(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
    )


def bottleneck(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The residual of a bottleneck after its first activation: 1x1, 3x3 on a quarter, 1x1."""
    width = out_channels // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1, stride, bias=False),
        Activation(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        Activation(width),
        nn.Conv2d(width, out_channels, 1, bias=False),
    )


def make_shortcut(option: Option, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity; where the shape changes, zero maps (A) or a projection (B)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return ZeroPadShortcut(out_channels - in_channels, stride)
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class ResidualUnit(nn.Module):
    """Equation 5: shortcut(x) + residual(activation(x)), and nothing after the sum.

    Args:
        act: the activation before the paths split; identity in a network's first unit.
        residual: from the activated input to the sum.
        shortcut: a projection starts from the activated input, any other from the input as it is.
    """

    def __init__(self, act: nn.Module, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.act, self.residual, self.shortcut = act, residual, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        active = self.act(x)
        carried = active if isinstance(self.shortcut, nn.Conv2d) else x
        return self.residual(active) + self.shortcut(carried)


class Variant(NamedTuple):
    """The residual, units and maps of each stage (four on ImageNet), the shortcuts' option.

    `stem` is the maps of the first convolution.
    """

    residual: Callable[[int, int, int], nn.Module]
    num_units: tuple[int, ...]
    maps: tuple[int, ...]
    option: Option = "B"
    stem: int = 16

    @property
    def imagenet(self) -> bool:
        """The nets of ImageNet have four stages, those of CIFAR three."""
        return len(self.maps) == 4

    @property
    def min_px(self) -> int:
        """Least height and width of a picture."""
        return 32 if self.imagenet else 8


class PreResNet(ImageClassifier):
    """For ImageNet's pictures from 32 px up, with three stages for CIFAR's from 8 px up."""

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.num_features = variant.maps[-1]
        self.min_px = variant.min_px
        maps = variant.stem
        if variant.imagenet:
            self.conv1 = nn.Conv2d(in_channels, maps, 7, 2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, maps, 3, padding=1, bias=False)
        self.act1 = Activation(maps)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if variant.imagenet else nn.Identity()
        self.stages = nn.Sequential()
        for stage, (num_units, out) in enumerate(zip(variant.num_units, variant.maps, strict=True)):
            units = []
            for i in range(num_units):
                stride = 2 if i == 0 and stage > 0 else 1
                act = nn.Identity() if i == 0 and stage == 0 else Activation(maps)
                shortcut = make_shortcut(variant.option, maps, out, stride)
                units.append(ResidualUnit(act, variant.residual(maps, out, stride), shortcut))
                maps = out
            self.stages.append(nn.Sequential(*units))
        self.act2 = Activation(maps)
        count = len(variant.maps)  # "One more activation follows the last unit's sum."
        self.stage_layers = {
            "conv1": ("conv1", "act1"),
            "conv2_x": ("pool", "stages.0"),
            **{f"conv{i + 2}_x": (f"stages.{i}",) for i in range(1, count - 1)},
            f"conv{count + 1}_x": (f"stages.{count - 1}", "act2"),
        }
        self.fc = nn.Linear(maps, num_classes)
        self.apply(init_he)


# He et al. 2016, section 5 and appendix: CIFAR's have 6n + 2 and 9n + 2 layers; ImageNet's units in
# the four stages are those of He et al. 2015, table 1, and 16 more in the second for 200 layers.
CIFAR, WIDE, IMAGENET = (16, 32, 64), (64, 128, 256), (256, 512, 1024, 2048)
VARIANTS: dict[str, Variant] = {
    "preresnet110": Variant(two_convolutions, (18, 18, 18), CIFAR, "A"),
    "preresnet164": Variant(bottleneck, (18, 18, 18), WIDE),
    "preresnet1001": Variant(bottleneck, (111, 111, 111), WIDE),
    "preresnet50": Variant(bottleneck, (3, 4, 6, 3), IMAGENET, stem=64),
    "preresnet101": Variant(bottleneck, (3, 4, 23, 3), IMAGENET, stem=64),
    "preresnet152": Variant(bottleneck, (3, 8, 36, 3), IMAGENET, stem=64),
    "preresnet200": Variant(bottleneck, (3, 24, 36, 3), IMAGENET, stem=64),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> PreResNet:
        return PreResNet(variant, num_classes, in_channels)

    details = [
        Detail("residual unit", "specified", "figure 4(e): batch norm, ReLU, convolution"),
        Detail("first and last unit", "specified", "appendix: activation before split, after sum"),
        Detail("initialization", "specified", "appendix: as He et al. 2015b"),
    ]
    if variant.option == "A":
        details.append(Detail("shortcut", "inferred", "option A, as He et al. 2015, section 4.2"))
        details.append(Detail("shortcut's input", "inferred", "not activated, as identities'"))
    else:
        details += [
            Detail("shortcut", "specified", "appendix: pre-activated projections"),
            Detail("batch norm of projections", "inferred", "none: released code of ResNet-1001"),
            Detail("stride", "inferred", "first 1x1: released code of ResNet-1001 (timm: 3x3)"),
        ]
    if variant.imagenet:
        takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=variant.min_px)
        kind = "specified" if name in ("preresnet152", "preresnet200") else "inferred"
        details += [
            Detail("stages", kind, "section 5 and He et al. 2015, table 1"),
            Detail(
                "place of the pooling",
                "inferred",
                "after the first activation: fb.resnet.torch (timm: before it)",
            ),
        ]
    else:
        takes = Takes(size_px=32, channels=3, num_classes=10, min_px=variant.min_px)
        details.append(
            Detail("widths", "specified", "appendix: 16-32-64, four times in bottlenecks")
        )
    title = "Identity mappings in deep residual networks"
    return Architecture(name, build, takes, "He et al. 2016", title, 2016, tuple(details))


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
