"""Inception-v4: the inception idea without residuals, cut to one pattern a grid size.

Szegedy, Ioffe, Vanhoucke & Alemi 2016, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", section 3.1, figure 9: stem (figure 3), 4 modules A on 35x35 (4), a
reduction (7), 7 modules B on 17x17 (5), a reduction (8), 3 modules C on 8x8 (6), average pooling,
dropout keeping 0.8, one linear layer. Convolutions marked V are valid, all others are padded.

Where the figures contradict themselves or the released network, the released one is taken, with
timm's keys; the order of 1xn and nx1 makes the same network on transposed pictures.

The residual networks of the paper are in `inception_resnet.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepen.layers import Branches, ConvBNReLU, ImageClassifier, init_he
from deepen.models.architecture import Architecture, Detail, Takes

Kernel = int | tuple[int, int]
Layer = tuple[int, Kernel] | tuple[int, Kernel, int]
Path = tuple[Layer, ...]


def chain(in_channels: int, path: Path) -> nn.Module:
    """Layers (maps, kernel), padded, or (maps, kernel, stride), valid, one after the other."""
    layers = []
    for width, kernel, *stride in path:
        layers.append(ConvBNReLU(in_channels, width, kernel, *stride, valid=bool(stride)))
        in_channels = width
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def branches(in_channels: int, paths: tuple[Path, ...], last: nn.Module) -> Branches:
    """Chains side by side, and one branch more, named branch0, branch1, ... in order."""
    modules = [*(chain(in_channels, path) for path in paths), last]
    return Branches(**{f"branch{i}": module for i, module in enumerate(modules)})


def inception(in_channels: int, paths: tuple[Path, ...], pool_width: int) -> Branches:
    """Chains beside an average pooling with a 1x1 convolution; the grid keeps its size."""
    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return branches(in_channels, paths, nn.Sequential(pool, ConvBNReLU(in_channels, pool_width, 1)))


def reduction(in_channels: int, paths: tuple[Path, ...]) -> Branches:
    """Chains that end in a stride of 2 beside a max pooling that does."""
    return branches(in_channels, paths, nn.MaxPool2d(3, stride=2))


def stem(in_channels: int) -> list[nn.Module]:
    """Figure 3: images (B, C, 299, 299) to (B, 384, 35, 35)."""
    tall = (64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1)
    return [
        ConvBNReLU(in_channels, 32, 3, stride=2, valid=True),  # (B, 32, 149, 149)
        ConvBNReLU(32, 32, 3, valid=True),  # (B, 32, 147, 147)
        ConvBNReLU(32, 64, 3),  # (B, 64, 147, 147)
        Branches(maxpool=nn.MaxPool2d(3, stride=2), conv=chain(64, ((96, 3, 2),))),  # 160, 73x73
        Branches(branch0=chain(160, ((64, 1), (96, 3, 1))), branch1=chain(160, tall)),  # 192, 71x71
        Branches(conv=chain(192, ((192, 3, 2),)), maxpool=nn.MaxPool2d(3, stride=2)),
    ]


# Figures 4, 5, 7 and 8, and table 1 for figure 7: a row is a branch, 1x1 first.
INCEPTION_A: tuple[Path, ...] = (
    ((96, 1),),
    ((64, 1), (96, 3)),
    ((64, 1), (96, 3), (96, 3)),
)
REDUCTION_A: tuple[Path, ...] = (
    ((384, 3, 2),),
    ((192, 1), (224, 3), (256, 3, 2)),
)
INCEPTION_B: tuple[Path, ...] = (
    ((384, 1),),
    ((192, 1), (224, (1, 7)), (256, (7, 1))),
    ((192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
)
REDUCTION_B: tuple[Path, ...] = (
    ((192, 1), (192, 3, 2)),
    ((256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)),
)


class InceptionC(nn.Module):
    """Figure 6, for 8x8: 1x3 and 3x1 side by side at the end of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvBNReLU(1536, 256, 1)
        self.branch1_0 = ConvBNReLU(1536, 384, 1)
        self.branch1_1a = ConvBNReLU(384, 256, (1, 3))
        self.branch1_1b = ConvBNReLU(384, 256, (3, 1))
        self.branch2_0 = ConvBNReLU(1536, 384, 1)
        self.branch2_1 = ConvBNReLU(384, 448, (3, 1))
        self.branch2_2 = ConvBNReLU(448, 512, (1, 3))
        self.branch2_3a = ConvBNReLU(512, 256, (1, 3))
        self.branch2_3b = ConvBNReLU(512, 256, (3, 1))
        pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.branch3 = nn.Sequential(pool, ConvBNReLU(1536, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1536, H, W) to the same shape."""
        short = self.branch1_0(x)
        long = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        short = [self.branch1_1a(short), self.branch1_1b(short)]
        long = [self.branch2_3a(long), self.branch2_3b(long)]
        return torch.cat([self.branch0(x), *short, *long, self.branch3(x)], dim=1)


class InceptionV4(ImageClassifier):
    """Figure 9."""

    classifier_name = "last_linear"
    num_features, min_px, dropout_p = 1536, 75, 0.2

    def __init__(self, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.features = nn.Sequential()
        for i, layer in enumerate(stem(in_channels), start=1):
            self._add_stage(f"stem{i}", layer)
        for i in range(1, 5):
            self._add_stage(f"inception_a{i}", inception(384, INCEPTION_A, 96))
        self._add_stage("reduction_a", reduction(384, REDUCTION_A))  # (B, 1024, 17, 17)
        for i in range(1, 8):
            self._add_stage(f"inception_b{i}", inception(1024, INCEPTION_B, 128))
        self._add_stage("reduction_b", reduction(1024, REDUCTION_B))  # (B, 1536, 8, 8)
        for i in range(1, 4):
            self._add_stage(f"inception_c{i}", InceptionC())
        self.last_linear = nn.Linear(1536, num_classes)
        self.apply(init_he)


ARCHITECTURES = [
    Architecture(
        "inception_v4",
        InceptionV4,
        Takes(299, 3, 1000, min_px=InceptionV4.min_px),
        "Szegedy et al. 2016",
        "Inception-v4, Inception-ResNet and the impact of residual connections on learning",
        2016,
        (
            Detail("modules and their number", "specified", "figure 9"),
            Detail("widths", "specified", "figures 3 to 8; table 1 for reduction A"),
            Detail("dropout", "specified", "figure 9: keep 0.8"),
            Detail(
                "stride at the end of the stem",
                "inferred",
                "2, as the pooling beside it; figure 3 has none",
            ),
            Detail("7x1 in the short branch of B", "inferred", "figure 5 prints 1x7 twice"),
            Detail("order of 1xn and nx1", "deviates", "as released, not figures 3, 5 and 6"),
            Detail("batch norm, epsilon 1e-3", "inferred", "as released"),
            Detail("zeros in average pooling", "inferred", "left out, as released"),
            Detail("initialization", "inferred", "none in the paper; He et al. 2015b"),
        ),
    )
]
