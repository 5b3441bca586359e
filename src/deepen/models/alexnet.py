"""AlexNet, in two towers as published and in one.

Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
networks": five convolutions, three fully connected layers, ReLU, local response normalization,
overlapping pooling, dropout. It was split over two GPUs: the second, fourth and fifth convolution
see only the maps of their own half (groups=2), all else sees all of them (section 3.5, figure 2).
Normalization follows the ReLU of the first two convolutions, pooling follows normalization (lecture
002 lists them the other way round, as Caffe's copy has them).

The initial weights are meant for the paper's input (section 2): 0 to 255, minus the mean.

`alexnet_one_tower` is what torchvision calls `alexnet`, with its keys: after Krizhevsky 2014, "One
weird trick for parallelizing convolutional neural networks", all in one column.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, LocalResponseNorm, init_normal, stages
from deepen.models.architecture import Architecture, Detail, Takes


class AlexNet(ImageClassifier):
    """Figure 2: two towers, 60 million parameters, 650,000 neurons.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights of fc6 depend on it.
    """

    num_features, min_px, classifier_name = 4096, 67, "fc8"
    stage_layers = stages(
        conv1=("conv1", F.relu),  # (B, 96, 55, 55)
        norm1=("norm1",),
        pool1=("pool1",),  # (B, 96, 27, 27)
        conv2=("conv2", F.relu),  # (B, 256, 27, 27)
        norm2=("norm2",),
        pool2=("pool2",),  # (B, 256, 13, 13)
        conv3=("conv3", F.relu),  # (B, 384, 13, 13)
        conv4=("conv4", F.relu),
        conv5=("conv5", F.relu),  # (B, 256, 13, 13)
        pool5=("pool5",),  # (B, 256, 6, 6)
    )

    def __init__(self, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        self.conv1 = nn.Conv2d(in_channels, 96, 11, stride=4)
        self.norm1, self.pool1 = LocalResponseNorm(), nn.MaxPool2d(3, stride=2)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.norm2, self.pool2 = LocalResponseNorm(), nn.MaxPool2d(3, stride=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.pool5 = nn.MaxPool2d(3, stride=2)
        height, width = map(_last_map_px, input_size)
        self.fc6, self.drop6 = nn.Linear(256 * height * width, 4096), nn.Dropout(0.5)
        self.fc7, self.drop7 = nn.Linear(4096, 4096), nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Section 5: weights N(0, 0.01^2); biases 1 where they keep ReLUs alive, else 0."""
        alive = (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7)
        for layer in self.children():
            init_normal(layer, std=0.01, bias=float(layer in alive))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 256, 6, 6) to logits (B, num_classes); with `pre_logits` to fc7 (B, 4096)."""
        x = self.drop6(F.relu(self.fc6(features.flatten(1))))
        x = self.drop7(F.relu(self.fc7(x)))
        return x if pre_logits else self.fc8(x)


def _last_map_px(px: int) -> int:
    """Height or width that the first convolution and the three poolings leave."""
    for kernel, stride in ((11, 4), (3, 2), (3, 2), (3, 2)):
        px = (px - kernel) // stride + 1
    return px


class AlexNetOneTower(ImageClassifier):
    """Torchvision's `alexnet`, with its keys; any size from 63 px up.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    num_features, min_px, classifier_name = 4096, 63, "classifier.6"

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.features = nn.Sequential()
        pool, relu = partial(nn.MaxPool2d, 3, stride=2), partial(nn.ReLU, inplace=True)
        self._add_stage("conv1", nn.Conv2d(in_channels, 64, 11, stride=4, padding=2), relu())
        self._add_stage("pool1", pool())
        self._add_stage("conv2", nn.Conv2d(64, 192, 5, padding=2), relu())
        self._add_stage("pool2", pool())
        self._add_stage("conv3", nn.Conv2d(192, 384, 3, padding=1), relu())
        self._add_stage("conv4", nn.Conv2d(384, 256, 3, padding=1), relu())
        self._add_stage("conv5", nn.Conv2d(256, 256, 3, padding=1), relu())
        self._add_stage("pool5", pool())
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 256, h, w) to logits (B, num_classes); with `pre_logits` to (B, 4096)."""
        x = self.avgpool(features).flatten(1)  # (B, 256 * 6 * 6)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)


def _one_tower(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> AlexNetOneTower:
    return AlexNetOneTower(num_classes, in_channels)


ARCHITECTURES = [
    Architecture(
        name="alexnet",
        build=AlexNet,
        takes=Takes(227, 3, 1000, sizes="built", min_px=AlexNet.min_px),
        paper="Krizhevsky et al. 2012",
        title="ImageNet classification with deep convolutional neural networks",
        year=2012,
        details=(
            Detail("layers and widths", "specified", "section 3.5, figure 2"),
            Detail("two towers", "specified", "section 3.5: conv2, conv4, conv5 see their half"),
            Detail("normalization", "specified", "section 3.3: alpha is not divided by n"),
            Detail("place of the normalization", "specified", "section 3.5: after ReLUs 1 and 2"),
            Detail("pooling", "specified", "section 3.4: 3x3, stride 2, overlapping"),
            Detail("dropout", "specified", "section 4.2: 0.5 on the outputs of fc6 and fc7"),
            Detail("initialization", "specified", "section 5: N(0, 0.01^2); biases 1 or 0"),
            Detail(
                "input size",
                "inferred",
                "227; 224 (section 3.5) gives 55 px only unevenly bordered",
            ),
            Detail("padding", "inferred", "keeps the 27 and 13 px of figure 2: 2, 1, 1, 1"),
            Detail("sizes other than 227", "deviates", "fc6 is built for what pooling leaves"),
        ),
    ),
    Architecture(
        name="alexnet_one_tower",
        build=_one_tower,
        takes=Takes(224, 3, 1000, min_px=AlexNetOneTower.min_px),
        paper="Krizhevsky 2014",
        title="One weird trick for parallelizing convolutional neural networks",
        year=2014,
        details=(
            Detail("one tower", "specified", "its single-column model: 64 and 192 maps first"),
            Detail("conv4", "deviates", "256 maps where the paper has 384: torchvision's"),
            Detail("normalization", "deviates", "none, as torchvision has it"),
            Detail("dropout", "inferred", "0.5 before fc6 and fc7, torchvision's place"),
            Detail("initialization", "inferred", "torch's own default, as torchvision leaves it"),
            Detail("sizes other than 224", "deviates", "averaged to 6x6 maps, as torchvision does"),
        ),
    ),
]
