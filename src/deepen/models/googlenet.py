"""GoogLeNet: inception modules, 22 layers deep.

Szegedy et al. 2014, "Going deeper with convolutions", section 5, table 1 and figure 3. An inception
module looks at its input through 1x1, 3x3 and 5x5 convolutions and a 3x3 max pooling at once and
stacks the maps; 1x1 convolutions before the large kernels and after the pooling keep that cheap
(figure 2b; 2a, the naive module, lacks them). Two auxiliary classifiers on modules 4a and 4d add
0.3 of their losses in training and are of no use afterwards.

The auxiliary linear layers are as wide as the input makes them (4x4 pixels of 224x224, section 5),
so a network is built for one size.

`googlenet_bn` is torchvision's network with its keys, of no paper.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import Branches, ConvBNReLU, ImageClassifier, LocalResponseNorm, init_he
from deepen.models.architecture import Architecture, Detail, Takes


class ConvReLU(nn.Sequential):
    """A convolution with bias, padded by half its kernel, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        super().__init__(conv, nn.ReLU(inplace=True))


Conv = type[ConvReLU] | type[ConvBNReLU]


def halve(x: Tensor, kernel_size: int = 3) -> Tensor:
    """(B, C, H, W) to about half of H and W by max pooling, sizes rounded up."""
    return F.max_pool2d(x, kernel_size, stride=2, ceil_mode=True)


class NaiveInception(Branches):
    """Figure 2a: three convolutions and the pooled input itself, so that depth can only grow."""

    def __init__(self, in_channels: int, num_1x1: int, num_3x3: int, num_5x5: int) -> None:
        super().__init__(
            branch1=ConvReLU(in_channels, num_1x1, 1),
            branch2=ConvReLU(in_channels, num_3x3, 3),
            branch3=ConvReLU(in_channels, num_5x5, 5),
            branch4=nn.MaxPool2d(3, stride=1, padding=1),
        )


class Widths(NamedTuple):
    """Maps of a module, the columns of table 1."""

    num_1x1: int
    reduce_3x3: int
    num_3x3: int
    reduce_5x5: int
    num_5x5: int
    pool_proj: int


class Inception(Branches):
    """Figure 2b: the module with dimension reductions; `kernel` is that of the 5x5 branch."""

    def __init__(self, in_channels: int, w: Widths, conv: Conv = ConvReLU, kernel: int = 5) -> None:
        reduce_3x3 = conv(in_channels, w.reduce_3x3, 1)
        conv_3x3 = conv(w.reduce_3x3, w.num_3x3, 3)
        reduce_5x5 = conv(in_channels, w.reduce_5x5, 1)
        conv_5x5 = conv(w.reduce_5x5, w.num_5x5, kernel)
        pool, pool_proj = nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, w.pool_proj, 1)
        super().__init__(
            branch1=conv(in_channels, w.num_1x1, 1),
            branch2=nn.Sequential(reduce_3x3, conv_3x3),
            branch3=nn.Sequential(reduce_5x5, conv_5x5),
            branch4=nn.Sequential(pool, pool_proj),
        )
        self.out_channels = w.num_1x1 + w.num_3x3 + w.num_5x5 + w.pool_proj


# Lecture 003's two modules for 28x28x256: 672 maps without reductions, 480 with them.
naive_example = partial(NaiveInception, 256, 128, 192, 96)
bottleneck_example = partial(Inception, 256, Widths(128, 64, 192, 64, 96, 64))


class AuxiliaryClassifier(nn.Module):
    """Section 5: pool, 128 1x1 convolutions, 1024 units, dropout 0.7, a linear layer."""

    def __init__(self, pool: nn.Module, conv: nn.Module, num_pixels: int, num_classes: int) -> None:
        super().__init__()
        self.pool, self.conv = pool, conv
        self.fc1 = nn.Linear(128 * num_pixels, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to logits (B, num_classes)."""
        x = self.conv(self.pool(x)).flatten(1)  # (B, 128 * num_pixels)
        return self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))


# Szegedy et al. 2014, table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
MODULES = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


MIN_PX, MIN_PX_BN = 79, 15  # least height and width that it can be built for, and fed with


class GoogLeNet(ImageClassifier):
    """Table 1, or torchvision's with `batch_norm`; `input_size` is (height, width) in px."""

    num_features, auxiliary_weight = 1024, 0.3
    auxiliary_classifiers = ("inception_4a", "aux1"), ("inception_4d", "aux2")
    auxiliary_classifier_names = ("aux1.fc2", "aux2.fc2")

    def __init__(
        self, batch_norm: bool, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        conv = ConvBNReLU if batch_norm else ConvReLU
        self.conv1 = conv(in_channels, 64, 7, stride=2)
        self.norm = nn.Identity() if batch_norm else LocalResponseNorm()
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3)
        width = 192
        for name, widths in MODULES.items():
            module = Inception(width, widths, conv, kernel=3 if batch_norm else 5)
            self.add_module(f"inception{name}", module)
            width = module.out_channels
        self.dropout_p = 0.2 if batch_norm else 0.4
        self.stage_layers = {
            "conv1": ("conv1",),  # (B, 64, 112, 112)
            "pool1": (halve, "norm"),  # (B, 64, 56, 56)
            "conv2_reduce": ("conv2",),
            "conv2": ("conv3", "norm"),  # (B, 192, 56, 56)
            "pool2": (halve,),  # (B, 192, 28, 28)
            **{f"inception_{name}": (f"inception{name}",) for name in ("3a", "3b")},
            "pool3": (halve,),  # (B, 480, 14, 14)
            **{f"inception_4{name}": (f"inception4{name}",) for name in "abcde"},
            "pool4": (partial(halve, kernel_size=2) if batch_norm else halve,),  # (B, 832, 7, 7)
            **{f"inception_{name}": (f"inception{name}",) for name in ("5a", "5b")},
        }
        if batch_norm:
            self.min_px, pool, rows, columns = MIN_PX_BN, nn.AdaptiveAvgPool2d(4), 4, 4
        else:
            self.min_px, self.input_size = MIN_PX, input_size
            pool = nn.AvgPool2d(5, stride=3)
            rows, columns = (((px + 1) // 16 - 5) // 3 + 1 for px in input_size)
        self.aux1 = AuxiliaryClassifier(pool, conv(512, 128, 1), rows * columns, num_classes)
        self.aux2 = AuxiliaryClassifier(pool, conv(528, 128, 1), rows * columns, num_classes)
        self.fc = nn.Linear(1024, num_classes)
        self.apply(init_he)


def _architecture(name: str, takes: Takes, *details: Detail) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> GoogLeNet:
        return GoogLeNet(name == "googlenet_bn", num_classes, in_channels, input_size)

    shared = (
        Detail("widths", "specified", "table 1"),
        Detail("auxiliary classifiers", "specified", "section 5: on 4a and 4d, weight 0.3"),
        Detail(
            "rounding of pooled sizes", "inferred", "up, as Caffe's model; table 1: 112, 56, 28"
        ),
        Detail("initialization", "inferred", "none in the paper; He et al. 2015b, for ReLU"),
    )
    title, authors = "Going deeper with convolutions", "Szegedy et al. 2014"
    return Architecture(name, build, takes, authors, title, 2014, shared + details)


ARCHITECTURES = [
    _architecture(
        "googlenet",
        Takes(224, 3, 1000, sizes="built", min_px=MIN_PX),
        Detail("kernels, strides, pooling", "specified", "table 1"),
        Detail("places of response normalization", "specified", "figure 3; table 1 has none"),
        Detail("its constants", "inferred", "k=2, n=5, alpha=1e-4, beta=0.75: Krizhevsky 2012"),
        Detail("dropout", "specified", "table 1: 40%; section 5: 70% in the auxiliary classifiers"),
        Detail("last pooling at other sizes", "inferred", "of the whole map, 7x7 at 224 px"),
    ),
    _architecture(
        "googlenet_bn",
        Takes(224, 3, 1000, min_px=MIN_PX_BN),
        Detail("batch norm, no LRN", "deviates", "torchvision's network"),
        Detail("5x5 branches", "deviates", "3x3, a slip that its weights are trained with"),
        Detail("last max pooling", "deviates", "2x2 for table 1's 3x3, as torchvision"),
        Detail("auxiliary pooling", "deviates", "to 4x4 from any size, as torchvision"),
        Detail("dropout", "deviates", "0.2 for table 1's 40%, as torchvision"),
    ),
]
