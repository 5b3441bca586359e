"""LeNet-5.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition",
section II-B: the convolutional network as the paper has it, 60,000 trainable parameters and 340,908
connections. C3 sees only some maps of S2 (Table I), subsampling is trained, the output compares the
84 units of F6 with a fixed 7x12 drawing of each digit.

`lenet5_relu` is the modern form that people mean by the name: ReLU, max pooling, full C3, linear
output, softmax; it is no network of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, flatten, init_he, stages
from deepen.models.architecture import Architecture, Detail, Takes

# Table I: the maps of S2 that each of the sixteen maps of C3 sees.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# Figure 3: the digits on 7x12 pixels, # for +1 and . for -1; row by row, one digit a column.
BITMAPS = """
.#####.  ...##..  .#####.  #######  .#####.  .#####.  ..####.  #######  .#####.  .#####.
.......  ..###..  .......  .....##  .......  .......  .##....  .....##  ##...##  ##..###
..###..  .####..  .#####.  ....##.  .......  #######  ##.....  .....##  ##...##  ##...##
.##.##.  ...##..  ##...##  ...##..  .##..##  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  #....##  ..####.  .##..##  ##.....  ######.  ...##..  .#####.  ##..###
##...##  ...##..  ....##.  .....##  ###..##  .####..  ###..##  ...##..  ##...##  .######
##...##  ...##..  ..###..  .....##  ##...##  ..####.  ##...##  ..##...  ##...##  .....##
##...##  ...##..  .##....  .....##  ##...##  .....##  ##...##  ..##...  ##...##  .....##
.##.##.  ...##..  ##.....  ##...##  ##..###  ##...##  ###..##  ..##...  ##...##  ....##.
..###..  .######  #######  .#####.  .######  .#####.  .#####.  ..##...  .#####.  .####..
.......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
.......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
"""


def squash(x: Tensor) -> Tensor:
    """Appendix A: f(a) = A tanh(S a) with A = 1.7159 and S = 2/3, so that f(1) = 1."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class Subsampling(nn.Module):
    """The sum of each 2x2 window, times a trainable coefficient, plus a trainable bias."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(num_maps))
        self.bias = nn.Parameter(torch.zeros(num_maps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) to (B, maps, H/2, W/2)."""
        sums = F.avg_pool2d(x, 2) * 4  # exact; an export drops `divisor_override`
        return sums * self.coefficient[:, None, None] + self.bias[:, None, None]

    def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]:
        """What a count of its operations cannot know: a unit has four inputs and a bias."""
        return {"connections": 5 * output.numel()}


class SparseConv2d(nn.Module):
    """A convolution in which each output map sees only the input maps that a table names.

    Holds one kernel for each connected pair (60 of 96 in C3), so the others are not merely zero:
    they do not exist.

    Args:
        table: for each output map the input maps that it sees.
        kernel_size: height and width of a kernel.
    """

    pairs: Tensor

    def __init__(self, table: tuple[tuple[int, ...], ...], kernel_size: int) -> None:
        super().__init__()
        pairs = [(out, in_) for out, inputs in enumerate(table) for in_ in inputs]
        self.shape = (len(table), max(in_ for _, in_ in pairs) + 1, kernel_size, kernel_size)
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(len(table)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in maps, H, W) to (B, out maps, H - k + 1, W - k + 1)."""
        dense = self.weight.new_zeros(self.shape)
        dense = dense.index_put((self.pairs[:, 0], self.pairs[:, 1]), self.weight)
        return F.conv2d(x, dense, self.bias)

    def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]:
        """What a count of its operations cannot know: only the pairs in the table exist."""
        macs = self.weight.numel() * output[:, 0].numel()
        return {"convolution": macs, "connections": macs + output.numel()}


class EuclideanRBF(nn.Module):
    """Logits = minus the squared distance between F6 and the drawing of each digit (eq. 7)."""

    bitmaps: Tensor

    def __init__(self) -> None:
        super().__init__()
        rows = [line.split() for line in BITMAPS.split("\n") if line]
        drawings = ["".join(row[digit] for row in rows) for digit in range(10)]
        signs = [[1.0 if pixel == "#" else -1.0 for pixel in drawing] for drawing in drawings]
        self.register_buffer("bitmaps", torch.tensor(signs), persistent=False)  # (10, 84)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 84) to (B, 10)."""
        return -(x[:, None, :] - self.bitmaps).square().sum(2)

    def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]:
        """Each unit squares and adds its difference from each input; it has no bias."""
        macs = output.numel() * input.shape[1]
        return {"linear": macs, "connections": macs}


class LeNet5(ImageClassifier):
    """LeNet-5 of 1998: digits of 32x32 px, ten classes."""

    in_channels, num_classes, num_features = 1, 10, 84
    input_size = (32, 32)
    classifier_name, averages_maps = "output", False
    stage_layers = stages(
        C1=("c1", squash),  # (B, 6, 28, 28)
        S2=("s2", squash),  # (B, 6, 14, 14)
        C3=("c3", squash),  # (B, 16, 10, 10)
        S4=("s4", squash),  # (B, 16, 5, 5)
        C5=("c5", squash),  # (B, 120, 1, 1)
        F6=(flatten, "f6", squash),  # (B, 84)
    )

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = SparseConv2d(C3_TABLE, 5)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = EuclideanRBF()
        self._initialize()

    def _initialize(self) -> None:
        """Appendix A: uniform in +-2.4 / F, with F the number of inputs to a unit."""
        fans = {self.c1: 25, self.s2: 4, self.s4: 4, self.c5: 400, self.f6: 120}
        for layer, fan in fans.items():
            weight = layer.coefficient if isinstance(layer, Subsampling) else layer.weight
            nn.init.uniform_(weight, -2.4 / fan, 2.4 / fan)
            nn.init.zeros_(layer.bias)
        for inputs, kernels in zip(
            C3_TABLE, self.c3.weight.split([*map(len, C3_TABLE)]), strict=True
        ):
            bound = 2.4 / (25 * len(inputs))
            nn.init.uniform_(kernels, -bound, bound)


class LeNet5ReLU(ImageClassifier):
    """The modern form: two 5x5 convolutions with ReLU and max pooling, three linear layers."""

    num_features, min_px, averages_maps = 84, 16, False
    stage_layers = stages(
        C1=("conv1", F.relu),  # (B, 6, 28, 28)
        S2=(partial(F.max_pool2d, kernel_size=2),),  # (B, 6, 14, 14)
        C3=("conv2", F.relu),  # (B, 16, 10, 10)
        S4=(partial(F.max_pool2d, kernel_size=2),),  # (B, 16, 5, 5)
        C5=(flatten, "fc1", F.relu),  # (B, 120)
        F6=("fc2", F.relu),  # (B, 84)
    )

    def __init__(self, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        height, width = (((px - 4) // 2 - 4) // 2 for px in input_size)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc = nn.Linear(84, num_classes)
        self.apply(init_he)


def _lenet5(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> LeNet5:
    return LeNet5()


def _architecture(
    name: str, build: Callable[..., nn.Module], takes: Takes, *details: Detail
) -> Architecture:
    title = "Gradient-based learning applied to document recognition"
    return Architecture(name, build, takes, "LeCun et al. 1998", title, 1998, details)


ARCHITECTURES = [
    _architecture(
        "lenet5",
        _lenet5,
        Takes(32, 1, 10, sizes="fixed", any_channels=False, any_classes=False),
        Detail("layers C1 to F6", "specified", "section II-B"),
        Detail("connections of C3", "specified", "Table I"),
        Detail("subsampling", "specified", "section II-B: sum, coefficient, bias, squash"),
        Detail("squashing function", "specified", "appendix A: 1.7159 tanh(2a/3)"),
        Detail("squash after C1 and C3", "inferred", "said of a map's units in section II-A"),
        Detail("output", "specified", "eq. 7, Euclidean RBF on figure 3's drawings"),
        Detail("pixels of the drawings", "inferred", "transcriptions of figure 3, printed small"),
        Detail("sign of the output", "deviates", "minus the distance, so that the largest wins"),
        Detail("initialization", "specified", "appendix A: uniform in +-2.4/F"),
    ),
    _architecture(
        "lenet5_relu",
        LeNet5ReLU,
        Takes(32, 1, 10, sizes="built", min_px=LeNet5ReLU.min_px),
        Detail("widths", "specified", "section II-B: 6, 16, 120, 84"),
        Detail("non-linearity, pooling, output", "deviates", "ReLU, max, linear: modern usage"),
        Detail("connections of C3", "deviates", "all maps of S2, as modern forms have it"),
        Detail("initialization", "deviates", "He et al. 2015b, for ReLU"),
    ),
]
