"""ResNet and its plain counterpart: the CIFAR family.

He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", section 4.2: 6n + 2
layers, a 3x3 convolution, then three stages of n blocks with 16, 32, 64 maps on 32, 16, 8 px,
global average pooling, one linear layer. A block is two 3x3 convolutions, each with batch norm; in
the residual net its input is added before the last ReLU, in the plain net it is not. The first
block of stages two and three halves the size with stride 2.

Shortcuts where the size changes (section 3.3, table 3): A pads the new maps with zeros (no
parameters; the paper's choice on CIFAR), B projects with a 1x1 convolution, C projects in every
block.

Inferred: the zero maps of option A are appended after the others, and its stride drops every other
pixel (the authors' released code for Caffe has no CIFAR nets; fb.resnet.torch does it so).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_he
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


def make_shortcut(option: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """What carries the input of a block to its sum (section 3.3)."""
    same_shape = stride == 1 and in_channels == out_channels
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
        self.downsample = (
            None if option is None else make_shortcut(option, in_channels, out_channels, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            out += self.downsample(x)
        return F.relu(out, inplace=True)


class CifarResNet(ImageClassifier):
    """Section 4.2: 6n + 2 weighted layers for pictures of 32x32 px, or of any size from 8 px up.

    Args:
        n: blocks a stage.
        option: of the shortcuts; None for the plain net.
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    num_features, min_px = 64, 8

    def __init__(self, n: int, option: Shortcut, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(n, 16, 16, 1, option)
        self.layer2 = self._stage(n, 16, 32, 2, option)
        self.layer3 = self._stage(n, 32, 64, 2, option)
        self.fc = nn.Linear(64, num_classes)
        self.apply(init_he)

    @staticmethod
    def _stage(n: int, in_channels: int, out_channels: int, stride: int, option: Shortcut):
        first = BasicBlock(in_channels, out_channels, stride, option)
        rest = (BasicBlock(out_channels, out_channels, 1, option) for _ in range(n - 1))
        return nn.Sequential(first, *rest)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, 64, H/4, W/4)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.layer3(self.layer2(self.layer1(x)))


class Variant(NamedTuple):
    """A row of section 4.2: blocks a stage, and the shortcuts' option (None: plain)."""

    n: int
    option: Shortcut


# He et al. 2015, section 4.2: 6n + 2 layers. Option A, the paper's on CIFAR, has the bare name.
DEPTHS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18, 1202: 200}
VARIANTS: dict[str, Variant] = {
    **{f"resnet{depth}": Variant(n, "A") for depth, n in DEPTHS.items()},
    **{f"resnet{depth}_b": Variant(n, "B") for depth, n in DEPTHS.items()},
    **{f"resnet{depth}_c": Variant(n, "C") for depth, n in DEPTHS.items()},
    **{f"plain{depth}": Variant(n, None) for depth, n in DEPTHS.items() if depth != 1202},
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> CifarResNet:
        return CifarResNet(variant.n, variant.option, num_classes, in_channels)

    details = [
        Detail("layers and widths", "specified", "section 4.2: 6n + 2 layers, 16-32-64 maps"),
        Detail("batch norm", "specified", "section 3.4: after each convolution, before ReLU"),
        Detail("initialization", "specified", "section 3.4: as He et al. 2015b, N(0, 2/fan_in)"),
        Detail("head", "specified", "section 4.2: global average pooling, one linear layer"),
    ]
    if variant.option == "A":
        details += [
            Detail("shortcut", "specified", "option A, section 4.2: identity in all cases"),
            Detail("place of the zero maps", "inferred", "after the others, as fb.resnet.torch"),
        ]
    elif variant.option is not None:
        where = "of ImageNet's" if variant.option == "B" else "in every block, of ImageNet's"
        details.append(Detail("shortcut", "inferred", f"projection {where} option, section 3.3"))
    else:
        details.append(Detail("shortcut", "specified", "none: the plain net of section 3.3"))
    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=32, channels=3, num_classes=10, min_px=8),
        paper="He et al. 2015",
        title="Deep residual learning for image recognition",
        year=2015,
        details=tuple(details),
    )


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
