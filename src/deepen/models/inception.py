"""Inception-v3: convolutions factorized, batch norm everywhere.

Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision": 3x3 pairs for a
5x5 (section 3.1), 1xn and nx1 for nxn (3.2), one auxiliary classifier with batch norm on the last
17x17 maps (section 4), grids halved by convolutions and a pooling side by side (section 5), label
smoothing (section 7, a matter of the recipe). Table 1 outlines "Inception-v2", which becomes v3
with all of these, and leaves most widths open.

This is the network that Google released and torchvision has, with torchvision's keys.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.layers import ConvBNReLU, ImageClassifier, init_he, stages
from deepen.models.architecture import Architecture, Detail, Takes


class InceptionA(nn.Module):
    """Figure 5, for 35x35: 1x1, 5x5, a pair of 3x3, pooling."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBNReLU(in_channels, 64, 1)
        self.branch5x5_1 = ConvBNReLU(in_channels, 48, 1)
        self.branch5x5_2 = ConvBNReLU(48, 64, 5)
        self.branch3x3dbl_1 = ConvBNReLU(in_channels, 64, 1)
        self.branch3x3dbl_2 = ConvBNReLU(64, 96, 3)
        self.branch3x3dbl_3 = ConvBNReLU(96, 96, 3)
        self.branch_pool = ConvBNReLU(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 224 + pool_features, H, W)."""
        once = self.branch5x5_2(self.branch5x5_1(x))
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), once, twice, pooled], 1)


class InceptionB(nn.Module):
    """Figure 10, from 35x35 to 17x17: strided 3x3, a strided pair, max pooling."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBNReLU(in_channels, 384, 3, stride=2, valid=True)
        self.branch3x3dbl_1 = ConvBNReLU(in_channels, 64, 1)
        self.branch3x3dbl_2 = ConvBNReLU(64, 96, 3)
        self.branch3x3dbl_3 = ConvBNReLU(96, 96, 3, stride=2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 480 + in_channels, (H - 1) / 2, (W - 1) / 2)."""
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(nn.Module):
    """Figure 6, for 17x17, n = 7: 1x1, one factorized 7x7, two of them, pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBNReLU(768, 192, 1)
        self.branch7x7_1 = ConvBNReLU(768, width, 1)
        self.branch7x7_2 = ConvBNReLU(width, width, (1, 7))
        self.branch7x7_3 = ConvBNReLU(width, 192, (7, 1))
        self.branch7x7dbl_1 = ConvBNReLU(768, width, 1)
        self.branch7x7dbl_2 = ConvBNReLU(width, width, (7, 1))
        self.branch7x7dbl_3 = ConvBNReLU(width, width, (1, 7))
        self.branch7x7dbl_4 = ConvBNReLU(width, width, (7, 1))
        self.branch7x7dbl_5 = ConvBNReLU(width, 192, (1, 7))
        self.branch_pool = ConvBNReLU(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, H, W) to the same shape."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), once, twice, pooled], 1)


class InceptionD(nn.Module):
    """As figure 10, from 17x17 to 8x8: a strided 3x3, one after a factorized 7x7, max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBNReLU(768, 192, 1)
        self.branch3x3_2 = ConvBNReLU(192, 320, 3, stride=2, valid=True)
        self.branch7x7x3_1 = ConvBNReLU(768, 192, 1)
        self.branch7x7x3_2 = ConvBNReLU(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvBNReLU(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvBNReLU(192, 192, 3, stride=2, valid=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, H, W) to (B, 1280, (H - 1) / 2, (W - 1) / 2)."""
        small = self.branch3x3_2(self.branch3x3_1(x))
        large = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([small, self.branch7x7x3_4(large), F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(nn.Module):
    """Figure 7, for 8x8: 1x3 and 3x1 side by side, so that the code grows wide; pooling."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBNReLU(in_channels, 320, 1)
        self.branch3x3_1 = ConvBNReLU(in_channels, 384, 1)
        self.branch3x3_2a = ConvBNReLU(384, 384, (1, 3))
        self.branch3x3_2b = ConvBNReLU(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvBNReLU(in_channels, 448, 1)
        self.branch3x3dbl_2 = ConvBNReLU(448, 384, 3)
        self.branch3x3dbl_3a = ConvBNReLU(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvBNReLU(384, 384, (3, 1))
        self.branch_pool = ConvBNReLU(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 2048, H, W)."""
        once, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        once = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
        twice = [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        pooled = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), *once, *twice, pooled], 1)


max_pool = partial(F.max_pool2d, kernel_size=3, stride=2)


class AuxiliaryClassifier(nn.Module):
    """Section 4, figure 8: on 17x17 maps, with batch norm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv0 = ConvBNReLU(768, 128, 1)
        self.conv1 = ConvBNReLU(128, 768, 5, valid=True)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, 17, 17) to logits (B, num_classes)."""
        _check_maps(x)
        x = self.conv0(F.avg_pool2d(x, 5, stride=3))  # (B, 128, 5, 5)
        return self.fc(F.adaptive_avg_pool2d(self.conv1(x), 1).flatten(1))


def _check_maps(x: Tensor) -> None:
    if min(x.shape[2:]) < 17:
        raise InputError("InceptionV3 trains on pictures of 299 px at least (17x17 maps)")


torch.fx.wrap("_check_maps")  # a symbolic tracer keeps the call; it cannot follow the branch


class InceptionV3(ImageClassifier):
    """The released network. In training mode it returns (logits, auxiliary logits).

    Pictures of 75 px will do to predict; the auxiliary classifier needs 299 px to train.
    """

    num_features, min_px, dropout_p = 2048, 75, 0.5
    stage_layers = stages(  # in the released network's words; table 1 names no module
        Conv2d_1a_3x3=("Conv2d_1a_3x3",),  # (B, 32, 149, 149)
        **{f"Conv2d_2{i}_3x3": (f"Conv2d_2{i}_3x3",) for i in "ab"},  # (B, 64, 147, 147)
        MaxPool_3a_3x3=(max_pool,),  # (B, 64, 73, 73)
        Conv2d_3b_1x1=("Conv2d_3b_1x1",),
        Conv2d_4a_3x3=("Conv2d_4a_3x3",),  # (B, 192, 71, 71)
        MaxPool_5a_3x3=(max_pool,),  # (B, 192, 35, 35)
        **{f"Mixed_5{i}": (f"Mixed_5{i}",) for i in "bcd"},  # (B, 288, 35, 35)
        **{f"Mixed_6{i}": (f"Mixed_6{i}",) for i in "abcde"},  # (B, 768, 17, 17)
        **{f"Mixed_7{i}": (f"Mixed_7{i}",) for i in "abc"},  # (B, 2048, 8, 8)
    )
    auxiliary_classifiers, auxiliary_weight = (("Mixed_6e", "AuxLogits"),), 0.3
    auxiliary_classifier_names = ("AuxLogits.fc",)

    def __init__(self, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.Conv2d_1a_3x3 = ConvBNReLU(in_channels, 32, 3, stride=2, valid=True)
        self.Conv2d_2a_3x3 = ConvBNReLU(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = ConvBNReLU(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvBNReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBNReLU(80, 192, 3, valid=True)
        self.Mixed_5b, self.Mixed_5c = InceptionA(192, 32), InceptionA(256, 64)
        self.Mixed_5d, self.Mixed_6a = InceptionA(288, 64), InceptionB(288)
        self.Mixed_6b, self.Mixed_6c = InceptionC(128), InceptionC(160)
        self.Mixed_6d, self.Mixed_6e = InceptionC(160), InceptionC(192)
        self.AuxLogits = AuxiliaryClassifier(num_classes)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b, self.Mixed_7c = InceptionE(1280), InceptionE(2048)
        self.fc = nn.Linear(2048, num_classes)
        self.apply(init_he)


ARCHITECTURES = [
    Architecture(
        "inception_v3",
        InceptionV3,
        Takes(299, 3, 1000, min_px=InceptionV3.min_px),
        "Szegedy et al. 2015",
        "Rethinking the Inception architecture for computer vision",
        2015,
        (
            Detail("modules", "specified", "sections 3 and 5, figures 5, 6, 7 and 10"),
            Detail("widths", "inferred", "the released network's; table 1 gives stages alone"),
            Detail("stem", "deviates", "released: 1x1, two max poolings for table 1's strides"),
            Detail("35x35 modules", "deviates", "a 5x5 kernel beside the 3x3 pair, as released"),
            Detail("17x17 modules", "deviates", "four after the reduction, as released"),
            Detail("auxiliary classifier", "specified", "section 4: last 17x17 map, batch norm"),
            Detail("its weight", "inferred", "0.3 of Szegedy et al. 2014; as released: 0.4"),
            Detail("dropout", "inferred", "0.5: torchvision"),
            Detail("zeros in pooling", "inferred", "counted: torchvision; Google's are not"),
            Detail("epsilon of batch norm", "inferred", "1e-3, as released"),
            Detail("initialization", "inferred", "none in the paper; He et al. 2015b"),
        ),
    )
]
