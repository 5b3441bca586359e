"""ResNet and its plain counterpart: the CIFAR family.

He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", section 4.2: 6n + 2
layers, a 3x3 convolution, then three stages of n blocks with 16, 32, 64 maps on 32, 16, 8 px,
global average pooling, one linear layer. The blocks and the shortcuts' options are those of
`resnet.py`; the first block of stages two and three halves the size with stride 2. On CIFAR the
paper takes option A, which has no parameters: residual and plain nets count alike.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from deepen.layers import ImageClassifier, init_he, stages
from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.resnet import BasicBlock, Shortcut, make_stage


class CifarResNet(ImageClassifier):
    """Section 4.2: 6n + 2 weighted layers for pictures of 32x32 px, or of any size from 8 px up.

    Args:
        n: blocks a stage.
        option: of the shortcuts; None for the plain net.
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    num_features, min_px = 64, 8
    stage_layers = stages(
        conv1=("conv1", "bn1", torch.relu_),  # (B, 16, H, W)
        conv2_x=("layer1",),
        conv3_x=("layer2",),  # (B, 32, H/2, W/2)
        conv4_x=("layer3",),  # (B, 64, H/4, W/4)
    )

    def __init__(self, n: int, option: Shortcut, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = make_stage(BasicBlock, n, 16, 16, 1, option)
        self.layer2 = make_stage(BasicBlock, n, 16, 32, 2, option)
        self.layer3 = make_stage(BasicBlock, n, 32, 64, 2, option)
        self.fc = nn.Linear(64, num_classes)
        self.apply(init_he)


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
            Detail("stride of the shortcut", "inferred", "every other pixel, as fb.resnet.torch"),
        ]
    elif variant.option is not None:
        said = (
            "option B, which section 3.3 has for ImageNet: projections where the size changes"
            if variant.option == "B"
            else "option C, which section 4.1 has for ImageNet: projections in every block"
        )
        details.append(Detail("shortcut", "inferred", said))
    else:
        details.append(Detail("shortcut", "specified", "none: the plain net of section 3.3"))
    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=32, channels=3, num_classes=10, min_px=CifarResNet.min_px),
        paper="He et al. 2015",
        title="Deep residual learning for image recognition",
        year=2015,
        details=tuple(details),
    )


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
