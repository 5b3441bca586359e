"""ResNet and its plain counterpart: the ImageNet family, and the blocks of both families.

He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", table 1: a 7x7
convolution and a max pooling, then four stages of blocks on 56, 28, 14, 7 px, global average
pooling, one linear layer. Nets of 18 and 34 layers have blocks of two 3x3 convolutions, those of
50, 101 and 152 layers bottlenecks: 1x1, 3x3, 1x1. Batch norm follows each convolution; the input of
a block is added before its last ReLU, and in the plain net it is not.

Shortcuts where the shape changes (section 3.3, table 3): A pads the new maps with zeros (no
parameters), B projects with a 1x1 convolution, C projects in every block. The nets of 50 layers and
more take B (section 4.1); those of 18 and 34 layers have B under the bare name, as the released
networks of others have it, and the paper's own A (its table 2) as `resnet18_a`, `resnet34_a`.

`resnet50_v1_5` and its like halve the size in a bottleneck's 3x3 convolution, as fb.resnet.torch
and torchvision, not in its first 1x1: another network with the same keys and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_he, stages
from deepen.models.architecture import Architecture, Detail, Takes

Shortcut = Literal["A", "B", "C"] | None


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the maps that are new."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + new_channels, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def make_shortcut(
    option: Shortcut, in_channels: int, out_channels: int, stride: int
) -> nn.Module | None:
    """What carries the input of a block to its sum (section 3.3); None in the plain net."""
    same_shape = stride == 1 and in_channels == out_channels
    if option is None:
        return None
    if option == "C" or (option == "B" and not same_shape):
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    return nn.Identity() if same_shape else ZeroPadShortcut(out_channels - in_channels, stride)


class BasicBlock(nn.Module):
    """Figure 2: two 3x3 convolutions; y = ReLU(F(x) + shortcut(x)), or ReLU(F(x)) when plain."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, option: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = make_shortcut(option, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """Figure 5, right: a 1x1 convolution to fewer maps, a 3x3 on them, a 1x1 to the block's maps.

    `strides` are those of the first two; `groups` of the 3x3 are ResNeXt's, one in this paper.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        strides: tuple[int, int],
        option: Shortcut,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        stride = strides[0] * strides[1]
        self.downsample = make_shortcut(option, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return F.relu(out, inplace=True)


def bottleneck(in_channels: int, out_channels: int, stride: int, option: Shortcut) -> Bottleneck:
    """Table 1: the first 1x1 convolution halves the size."""
    return Bottleneck(in_channels, out_channels // 4, out_channels, (stride, 1), option)


def bottleneck_v1_5(in_channels: int, out_channels: int, stride: int, option: Shortcut):
    """The form of fb.resnet.torch and torchvision: the 3x3 convolution halves the size."""
    return Bottleneck(in_channels, out_channels // 4, out_channels, (1, stride), option)


Block = Callable[[int, int, int, Shortcut], nn.Module]  # the arguments of BasicBlock


def make_stage(
    block: Block, n: int, in_channels: int, out_channels: int, stride: int, option: Shortcut
) -> nn.Sequential:
    """`n` blocks on maps of one size; the first of them changes the shape."""
    first = block(in_channels, out_channels, stride, option)
    rest = (block(out_channels, out_channels, 1, option) for _ in range(n - 1))
    return nn.Sequential(first, *rest)


class Variant(NamedTuple):
    """A column of table 1: the block, blocks and maps of the four stages, the shortcuts' option."""

    block: Block
    num_blocks: tuple[int, int, int, int]
    maps: tuple[int, int, int, int]
    option: Shortcut = "B"


class ResNet(ImageClassifier):
    """Table 1, for pictures of 224x224 px, or of any size from 32 px up."""

    min_px = 32
    stage_layers = stages(
        conv1=("conv1", "bn1", torch.relu_),  # (B, 64, H/2, W/2)
        conv2_x=(partial(F.max_pool2d, kernel_size=3, stride=2, padding=1), "layer1"),
        conv3_x=("layer2",),  # (B, maps[1], H/8, W/8)
        conv4_x=("layer3",),
        conv5_x=("layer4",),  # (B, maps[3], H/32, W/32)
    )

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__()
        block, (n1, n2, n3, n4), maps, option = variant
        self.in_channels, self.num_classes, self.num_features = in_channels, num_classes, maps[3]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = make_stage(block, n1, 64, maps[0], 1, option)
        self.layer2 = make_stage(block, n2, maps[0], maps[1], 2, option)
        self.layer3 = make_stage(block, n3, maps[1], maps[2], 2, option)
        self.layer4 = make_stage(block, n4, maps[2], maps[3], 2, option)
        self.fc = nn.Linear(maps[3], num_classes)
        self.apply(init_he)


# He et al. 2015, table 1: blocks in conv2_x ... conv5_x, and their maps.
MAPS, WIDE_MAPS = (64, 128, 256, 512), (256, 512, 1024, 2048)
VARIANTS: dict[str, Variant] = {
    "plain18": Variant(BasicBlock, (2, 2, 2, 2), MAPS, None),
    "plain34": Variant(BasicBlock, (3, 4, 6, 3), MAPS, None),
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2), MAPS),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3), MAPS),
    "resnet18_a": Variant(BasicBlock, (2, 2, 2, 2), MAPS, "A"),
    "resnet34_a": Variant(BasicBlock, (3, 4, 6, 3), MAPS, "A"),
    "resnet18_c": Variant(BasicBlock, (2, 2, 2, 2), MAPS, "C"),
    "resnet34_c": Variant(BasicBlock, (3, 4, 6, 3), MAPS, "C"),
    "resnet50": Variant(bottleneck, (3, 4, 6, 3), WIDE_MAPS),
    "resnet101": Variant(bottleneck, (3, 4, 23, 3), WIDE_MAPS),
    "resnet152": Variant(bottleneck, (3, 8, 36, 3), WIDE_MAPS),
    "resnet50_v1_5": Variant(bottleneck_v1_5, (3, 4, 6, 3), WIDE_MAPS),
    "resnet101_v1_5": Variant(bottleneck_v1_5, (3, 4, 23, 3), WIDE_MAPS),
    "resnet152_v1_5": Variant(bottleneck_v1_5, (3, 8, 36, 3), WIDE_MAPS),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> ResNet:
        return ResNet(variant, num_classes, in_channels)

    shortcuts = {
        None: Detail("shortcut", "specified", "none: the plain net of section 3.3"),
        "A": Detail("shortcut", "specified", "option A: table 2"),
        "B": Detail("shortcut", "specified", "option B: table 3; from 50 layers on section 4.1"),
        "C": Detail("shortcut", "specified", "option C: section 4.1 and table 3"),
    }
    details = [
        Detail("layers and widths", "specified", "table 1"),
        Detail("batch norm", "specified", "section 3.4: after each convolution, before ReLU"),
        Detail("initialization", "specified", "section 3.4: as He et al. 2015b, N(0, 2/fan_in)"),
        Detail("padding of the pooling", "inferred", "1 px, as fb.resnet.torch: 112 to 56 px"),
        shortcuts[variant.option],
    ]
    if variant.option == "A":
        details.append(Detail("place of the zero maps", "inferred", "last, as fb.resnet.torch"))
    if variant.block is bottleneck:
        details.append(Detail("stride", "inferred", "first 1x1: the authors' nets; not in table 1"))
    if variant.block is bottleneck_v1_5:
        details.append(Detail("stride", "deviates", "3x3 convolution, as torchvision's weights"))
    takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=ResNet.min_px)
    title = "Deep residual learning for image recognition"
    return Architecture(name, build, takes, "He et al. 2015", title, 2015, tuple(details))


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
