"""VGG: depth from 3x3 convolutions.

Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition",
table 1: configurations A to E, 11 to 19 layers with weights; 3x3 convolutions (in C also 1x1) that
keep the size, five 2x2 max poolings, three fully connected layers with dropout. A-LRN has
Krizhevsky's normalization after its first layer (section 2.1: with his constants).

Section 3.2 tests on whole pictures: the fully connected layers are read as convolutions, 7x7 and
1x1, which slide over a picture of any size from 224 px up; the mean of the class score map is the
answer. `VGG.score_map` and `VGG.forward_dense` do this with the very same weights:

    net = create_model("vgg16").eval()
    logits = net.forward_dense(pictures)  # (B, 3, 384, 512) to (B, 1000)

The `_bn` forms are torchvision's and in no paper.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.layers import ImageClassifier, LocalResponseNorm
from deepen.models.architecture import Architecture, Detail, Takes

WIDTHS = (64, 128, 256, 512, 512)
Norm = Literal["none", "lrn", "batch"]


def init_glorot(module: nn.Module) -> None:
    """Section 3.1: the procedure of Glorot & Bengio 2010, eq. 16; biases 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class VGG(ImageClassifier):
    """A column of table 1.

    Args:
        stages: for each of the five stages the kernel sizes of its convolutions.
        norm: "lrn" after the first layer, "batch" after each convolution, or "none".
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    num_features, min_px, classifier_name = 4096, 32, "classifier.6"

    def __init__(
        self, stages: tuple[str, ...], norm: Norm, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.features = nn.Sequential()
        for stage, (width, kernels) in enumerate(zip(WIDTHS, stages, strict=True), start=1):
            for i, kernel in enumerate(map(int, kernels), start=1):
                conv = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2)
                norms = [nn.BatchNorm2d(width)] if norm == "batch" else []
                self._add_stage(f"conv{stage}_{i}", conv, *norms, nn.ReLU(inplace=True))
                in_channels = width
            if norm == "lrn" and stage == 1:
                self._add_stage("norm1", LocalResponseNorm())
            self._add_stage(f"pool{stage}", nn.MaxPool2d(2, stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        self.apply(init_glorot)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 512, h, w) to logits (B, num_classes); with `pre_logits` to (B, 4096)."""
        x = self.avgpool(features).flatten(1)  # (B, 512 * 7 * 7), at 224 px the maps themselves
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)

    def score_map(self, x: Tensor) -> Tensor:
        """Section 3.2: images (B, C, H, W) to class scores (B, num_classes, H/32 - 6, W/32 - 6).

        The fully connected layers slide over the maps as convolutions, 7x7 and 1x1; their weights
        are read where they lie, nothing is copied.

        Raises:
            InputError: the pictures are smaller than 224 px, or have other channels.
        """
        self.check_input(x)
        if min(x.shape[2:]) < 224:
            height, width = x.shape[2:]
            raise InputError(f"VGG's score map takes 224 px at least, got {height}x{width}")
        return self.slide_head(self.forward_features(x))

    def slide_head(self, x: Tensor, padded: bool = False) -> Tensor:
        """The head as convolutions on maps (B, 512, h, w): (B, outputs, h - 6, w - 6).

        With `padded` they are padded by zeros to their own size: (B, outputs, h, w).
        """
        for index, layer in enumerate(self.classifier):
            if isinstance(layer, nn.Linear):
                side = 7 if index == 0 else 1
                kernel = layer.weight.view(layer.out_features, -1, side, side)
                x = F.conv2d(x, kernel, layer.bias, padding=side // 2 if padded else 0)
            else:
                x = layer(x)
        return x

    def forward_dense(self, x: Tensor) -> Tensor:
        """Section 3.2: images (B, C, H, W) of 224 px and up to the mean of their score map."""
        return self.score_map(x).mean((2, 3))


class Variant(NamedTuple):
    """A column of table 1: the kernel sizes of each stage, and normalization."""

    stages: tuple[str, ...]
    norm: Norm = "none"


# Simonyan & Zisserman 2014, table 1: the kernel size of each convolution, stage by stage.
A = ("3", "3", "33", "33", "33")
B = ("33", "33", "33", "33", "33")
C = ("33", "33", "331", "331", "331")
D = ("33", "33", "333", "333", "333")
E = ("33", "33", "3333", "3333", "3333")
VARIANTS: dict[str, Variant] = {
    "vgg11": Variant(A),
    "vgg11_lrn": Variant(A, "lrn"),
    "vgg13": Variant(B),
    "vgg16_1x1": Variant(C),
    "vgg16": Variant(D),
    "vgg19": Variant(E),
    "vgg11_bn": Variant(A, "batch"),
    "vgg13_bn": Variant(B, "batch"),
    "vgg16_bn": Variant(D, "batch"),
    "vgg19_bn": Variant(E, "batch"),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> VGG:
        return VGG(variant.stages, variant.norm, num_classes, in_channels)

    details = [
        Detail("layers and widths", "specified", "section 2.1, table 1"),
        Detail("head", "specified", "section 2.1: 4096, 4096, classes; section 3.1: dropout 0.5"),
        Detail("initialization", "specified", "section 3.1: as Glorot & Bengio 2010, biases 0"),
        Detail("distribution of the initial weights", "inferred", "uniform: Glorot's eq. 16"),
        Detail("dense evaluation", "specified", "section 3.2: forward_dense, mean of score_map"),
        Detail("scores averaged before the softmax", "inferred", "the order of section 3.2"),
        Detail("sizes other than 224", "deviates", "averaged to 7x7 maps, as torchvision does"),
    ]
    if variant.norm == "lrn":
        details += [
            Detail("normalization", "specified", "table 1; section 2.1: constants of AlexNet's"),
            Detail("place of the normalization", "inferred", "after the ReLU, as in AlexNet"),
        ]
    elif variant.norm == "batch":
        details.append(Detail("batch norm", "deviates", "torchvision's: before each ReLU"))
    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=224, channels=3, num_classes=1000, min_px=VGG.min_px),
        paper="Simonyan & Zisserman 2014",
        title="Very deep convolutional networks for large-scale image recognition",
        year=2014,
        details=tuple(details),
    )


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
