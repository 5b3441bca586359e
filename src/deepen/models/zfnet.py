"""ZFNet, the winner's relative of ILSVRC 2013.

Zeiler & Fergus 2013, "Visualizing and understanding convolutional networks", section 3, figure 3:
AlexNet after a look inside it. The first filters shrink from 11x11 with stride 4 to 7x7 with stride
2, the second layer keeps its 5x5 and gets a stride of 2, every layer sees all maps (no towers), and
normalization comes after pooling. The wide variant has 512, 1024, 512 maps in layers 3, 4, 5 (table
2, model b; lecture 002 gives these as ZFNet's).

The initial weights are meant for the paper's input (section 3): 0 to 255, minus the mean.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, LocalResponseNorm, init_normal, stages
from deepen.models.architecture import Architecture, Detail, Takes


class ZFNet(ImageClassifier):
    """Figure 3: five convolutions, three fully connected layers.

    Args:
        widths: maps of layers 3, 4 and 5.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights of fc6 depend on it.
    """

    num_features, min_px, classifier_name = 4096, 47, "fc8"
    stage_layers = stages(
        conv1=("conv1", F.relu),  # (B, 96, 110, 110)
        pool1=("pool1",),  # (B, 96, 55, 55)
        norm1=("norm1",),
        conv2=("conv2", F.relu),  # (B, 256, 26, 26)
        pool2=("pool2",),  # (B, 256, 13, 13)
        norm2=("norm2",),
        conv3=("conv3", F.relu),
        conv4=("conv4", F.relu),
        conv5=("conv5", F.relu),  # (B, widths[2], 13, 13)
        pool5=("pool5",),  # (B, widths[2], 6, 6)
    )

    def __init__(
        self,
        widths: tuple[int, int, int],
        num_classes: int,
        in_channels: int,
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        third, fourth, fifth = widths
        self.conv1 = nn.Conv2d(in_channels, 96, 7, stride=2, padding=1)
        self.pool1, self.norm1 = nn.MaxPool2d(3, stride=2, ceil_mode=True), LocalResponseNorm()
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2)
        self.pool2, self.norm2 = nn.MaxPool2d(3, stride=2, ceil_mode=True), LocalResponseNorm()
        self.conv3 = nn.Conv2d(256, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1)
        self.conv5 = nn.Conv2d(fourth, fifth, 3, padding=1)
        self.pool5 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        height, width = map(_last_map_px, input_size)
        self.fc6, self.drop6 = nn.Linear(fifth * height * width, 4096), nn.Dropout(0.5)
        self.fc7, self.drop7 = nn.Linear(4096, 4096), nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)
        self.apply(init_normal)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, maps, 6, 6) to logits (B, num_classes); with `pre_logits` to fc7 (B, 4096)."""
        x = self.drop6(F.relu(self.fc6(features.flatten(1))))
        x = self.drop7(F.relu(self.fc7(x)))
        return x if pre_logits else self.fc8(x)


def _last_map_px(px: int) -> int:
    """Height or width that the two strided convolutions and the three poolings leave."""
    px = ((px + 2 - 7) // 2 + 1) // 2  # 3x3 pooling with stride 2 that rounds up: px // 2
    px = ((px - 5) // 2 + 1) // 2
    return px // 2


# Zeiler & Fergus 2013: maps of layers 3, 4, 5 in figure 3, and in table 2, model b.
VARIANTS: dict[str, tuple[int, int, int]] = {
    "zfnet": (384, 384, 256),
    "zfnet_wide": (512, 1024, 512),
}


def _architecture(name: str, widths: tuple[int, int, int]) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> ZFNet:
        return ZFNet(widths, num_classes, in_channels, input_size)

    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=224, channels=3, num_classes=1000, sizes="built", min_px=ZFNet.min_px),
        paper="Zeiler & Fergus 2013",
        title="Visualizing and understanding convolutional networks",
        year=2013,
        details=(
            Detail("filters and strides", "specified", "section 3, figure 3"),
            Detail(
                "maps of layers 3, 4, 5",
                "specified",
                "figure 3: 384, 384, 256" if name == "zfnet" else "table 2, model b",
            ),
            Detail("order", "specified", "figure 3: ReLU, pooling, normalization"),
            Detail("dropout", "specified", "section 3: 0.5 in layers 6 and 7"),
            Detail("initialization", "specified", "section 3: 10^-2, biases 0"),
            Detail("10^-2 as a standard deviation", "inferred", "Krizhevsky et al. 2012"),
            Detail(
                "paddings", "inferred", "1, 0, 1, 1, 1: figure 3's 224, 110, 55, 26, 13, 13, 13, 6"
            ),
            Detail("pooling rounds up", "inferred", "sizes of figure 3: 110 to 55, 26 to 13"),
            Detail("normalization across maps", "inferred", "that of Krizhevsky et al. 2012"),
            Detail("sizes other than 224", "deviates", "fc6 is built for what pooling leaves"),
        ),
    )


ARCHITECTURES = [_architecture(name, widths) for name, widths in VARIANTS.items()]
