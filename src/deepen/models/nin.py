"""Network in Network.

Lin, Chen & Yan 2014, "Network in network": after each convolution a small perceptron slides over
the maps, that is, two 1x1 convolutions with ReLU (section 3.1, "mlpconv"). The last of them has one
map a class, and the mean of a map is the logit: no layer is fully connected (section 3.2). Each
mlpconv but the last is followed by max pooling that halves the size, and by dropout (section 4.1).
The classifying convolution has its ReLU too: no logit is negative.

The initial weights are those of the authors' definitions, for the inputs that they had: whitened
pictures on CIFAR-10, and 0 to 255 minus the mean on ImageNet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_normal
from deepen.models.architecture import Architecture, Detail, Takes


class Row(NamedTuple):
    """One mlpconv of a definition.

    Attributes:
        kernel_size: of the convolution, height = width.
        stride: of the convolution.
        padding: of the convolution.
        widths: maps of the convolution and of the 1x1 convolutions after it.
        stds: standard deviations of the initial weights of each.
        dropout: whether its pooled output is dropped out.
    """

    kernel_size: int
    stride: int
    padding: int
    widths: tuple[int, ...]
    stds: tuple[float, ...]
    dropout: bool = False


class MlpConv(nn.Sequential):
    """Section 3.1: a convolution and the perceptron that slides over it, ReLU after each layer."""

    def __init__(self, in_channels: int, row: Row) -> None:
        first = nn.Conv2d(in_channels, row.widths[0], row.kernel_size, row.stride, row.padding)
        layers = [first, *(nn.Conv2d(a, b, 1) for a, b in pairwise(row.widths))]
        for layer, std in zip(layers, row.stds, strict=True):
            init_normal(layer, std)
        super().__init__(*(m for layer in layers for m in (layer, nn.ReLU(inplace=True))))


class NetworkInNetwork(ImageClassifier):
    """Figure 2: mlpconvs with max pooling between them, and a global average.

    Args:
        rows: the mlpconvs; the last 1x1 convolution, one map a class, comes after them.
        classifier_std: standard deviation of its initial weights.
        min_px: least height and width.
        num_classes: length of the logits.
        in_channels: channels of the input.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        rows: tuple[Row, ...],
        classifier_std: float,
        min_px: int,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.min_px, self.classifier_std = in_channels, min_px, classifier_std
        self.features = nn.Sequential()
        for i, row in enumerate(rows, start=1):
            self._add_stage(f"mlpconv{i}", MlpConv(in_channels, row))
            if i < len(rows):
                dropout = nn.Dropout(0.5) if row.dropout else nn.Identity()
                self._add_stage(f"pool{i}", nn.MaxPool2d(3, stride=2, ceil_mode=True), dropout)
            in_channels = row.widths[-1]
        self.num_features = rows[-1].widths[-1]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last 1x1 convolution with a map a class; the features keep their weights."""
        weight = next(self.parameters())
        fresh = nn.Conv2d(self.num_features, num_classes, 1, device=weight.device)
        init_normal(fresh, self.classifier_std)
        self.classifier = fresh.to(weight.dtype)
        self.num_classes = num_classes

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Means of the class maps (B, num_classes); with `pre_logits`, means of the features.

        The logits are no linear function of these pre-logits: a ReLU stands before the mean.
        """
        maps = features if pre_logits else F.relu(self.classifier(features))
        return maps.mean((2, 3))


class Variant(NamedTuple):
    """A definition, and what it is fed with."""

    rows: tuple[Row, ...]
    classifier_std: float
    min_px: int
    size_px: int
    num_classes: int


# The authors' released definitions: kernel, stride, padding, widths, deviations, dropout.
VARIANTS: dict[str, Variant] = {
    "nin_cifar": Variant(
        (
            Row(5, 1, 2, (192, 160, 96), (0.05, 0.05, 0.05), dropout=True),
            Row(5, 1, 2, (192, 192, 192), (0.05, 0.05, 0.05), dropout=True),
            Row(3, 1, 1, (192, 192), (0.05, 0.05)),
        ),
        *(0.05, 4, 32, 10),
    ),
    "nin_imagenet": Variant(
        (
            Row(11, 4, 0, (96, 96, 96), (0.01, 0.05, 0.05)),
            Row(5, 1, 2, (256, 256, 256), (0.05, 0.05, 0.05)),
            Row(3, 1, 1, (384, 384, 384), (0.01, 0.05, 0.05), dropout=True),
            Row(3, 1, 1, (1024, 1024), (0.05, 0.05)),
        ),
        *(0.01, 39, 224, 1000),
    ),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    rows, classifier_std, min_px, size_px, num_classes = variant

    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> NetworkInNetwork:
        return NetworkInNetwork(rows, classifier_std, min_px, num_classes, in_channels)

    release = "the authors' nin_imagenet/train_val.prototxt for Caffe; not in the paper"
    dropout = Detail("dropout", "inferred", f"{release}: before the last mlpconv alone")
    if name == "nin_cifar":
        release = "the authors' NIN/cifar-10_def for cuda-convnet"
        dropout = Detail("dropout", "specified", "section 4.1: on all mlpconvs but the last")
    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=size_px, channels=3, num_classes=num_classes, min_px=min_px),
        paper="Lin et al. 2014",
        title="Network in network",
        year=2013,
        details=(
            Detail("mlpconv", "specified", "section 3.1: 1x1 convolutions, ReLU after each layer"),
            Detail("head", "specified", "section 3.2: one map a class, global average pooling"),
            Detail("max pooling", "specified", "section 4.1: halves the size after each mlpconv"),
            dropout,
            Detail("kernels, widths, strides", "inferred", release),
            Detail("pooling 3x3 that rounds up", "inferred", release),
            Detail("ReLU of the class maps", "inferred", f"{release}, and section 3.1"),
            Detail("initialization", "inferred", f"{release}: N(0, std^2), biases 0"),
        ),
    )


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
