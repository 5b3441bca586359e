"""Highway networks.

Srivastava, Greff & Schmidhuber 2015, "Highway networks" and "Training very deep networks": a layer
is y = H(x) T(x) + x (1 - T(x)), where H is an ordinary layer and T a sigmoid gate of its shape. The
bias of the gate starts negative, so a fresh network carries its input through.

Fully connected (section 3.1 of the first paper): a plain layer to 50 units, then 9, 19, 49 or 99
highway layers on MNIST, and a softmax. Convolutional: 10 layers of 16 or 32 maps on MNIST (table 1
of the second paper: 39K and 151K parameters) and 19 layers on CIFAR-10 (table 2: ~2.3M, "Highway
B", after FitNet 4).

The convolutional nets have plain convolutions where the number of maps changes, max pooling, and
dropout before each stage and the last layer; they count 38,986, 151,690 and 2,256,838 parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, flatten, init_fan_in, stages
from deepen.models.architecture import Architecture, Detail, Takes


class Highway(nn.Module):
    """Equation 3: y = H(x) T(x) + x (1 - T(x)); H ends in ReLU, T in a sigmoid.

    Args:
        transform: the weights of H; its output has the shape of its input.
        gate: the weights of T, of the same kind.
        gate_bias: where T's bias starts; negative: carry.
    """

    def __init__(
        self, transform: nn.Linear | nn.Conv2d, gate: nn.Linear | nn.Conv2d, gate_bias: float
    ) -> None:
        super().__init__()
        self.transform, self.gate, self.gate_bias = transform, gate, gate_bias

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the weights take, to the same shape."""
        t = self.gate(x).sigmoid()
        return F.relu(self.transform(x)) * t + x * (1 - t)


def linear(units: int, gate_bias: float) -> Highway:
    """A fully connected highway layer."""
    return Highway(nn.Linear(units, units), nn.Linear(units, units), gate_bias)


def conv3x3(maps: int, gate_bias: float) -> Highway:
    """A convolutional highway layer: H and T are 3x3 convolutions that keep the size."""
    h, t = (nn.Conv2d(maps, maps, 3, padding=1) for _ in range(2))
    return Highway(h, t, gate_bias)


halve = partial(F.max_pool2d, kernel_size=2)


def initialize(net: nn.Module) -> None:
    """Weights N(0, 1/fan_in), biases 0, and the gates' biases where they shall start."""
    net.apply(init_fan_in)
    for layer in net.modules():
        if isinstance(layer, Highway) and layer.gate.bias is not None:
            nn.init.constant_(layer.gate.bias, layer.gate_bias)


class HighwayMLP(ImageClassifier):
    """A plain layer to 50 units, then fully connected highway layers.

    Args:
        num_layers: highway layers.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights depend on it.
    """

    num_features, averages_maps = 50, False
    stage_layers = stages(plain=(flatten, "fc1", F.relu), highway=("layers",))

    def __init__(
        self, num_layers: int, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        self.fc1 = nn.Linear(in_channels * input_size[0] * input_size[1], 50)
        self.layers = nn.Sequential(*(linear(50, gate_bias=-2.0) for _ in range(num_layers)))
        self.fc = nn.Linear(50, num_classes)
        initialize(self)


class HighwayMnist(ImageClassifier):
    """Ten layers: a 5x5 convolution, eight highway layers of as many maps, one linear layer.

    Args:
        maps: of every layer.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights depend on it.
    """

    min_px, averages_maps = 16, False

    def __init__(
        self, maps: int, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        self.features = nn.Sequential()
        conv = nn.Conv2d(in_channels, maps, 5)
        self._add_stage("conv1", nn.Dropout(0.2), conv, nn.ReLU())  # (B, maps, 24, 24)
        rows = (((2, 3), 3, 0.3), ((4, 5, 6), 3, 0.4), ((7, 8, 9), 2, 0.5))
        for stage, (layers, window, dropout_p) in enumerate(rows, start=1):
            for i in layers:
                self._add_stage(f"highway{i}", conv3x3(maps, gate_bias=-1.0))
            pool = nn.MaxPool2d(window, 2, ceil_mode=True)
            self._add_stage(f"pool{stage}", pool, nn.Dropout(dropout_p))  # at last (B, maps, 3, 3)
        height, width = (((px - 4) // 4 + 1) // 2 for px in input_size)
        self.num_features = maps * height * width
        self.fc = nn.Linear(self.num_features, num_classes)
        initialize(self)


class Highway19(ImageClassifier):
    """Nineteen layers: three stages of 32, 80, 128 maps, a 1x1 convolution, one linear layer."""

    num_features, min_px = 100, 8
    stage_layers = stages(
        stage1=("stage1", halve),  # (B, 32, H/2, W/2)
        stage2=("stage2", halve),  # (B, 80, H/4, W/4)
        stage3=("stage3",),  # (B, 128, H/4, W/4)
        conv18=("conv18", F.relu),  # (B, 100, H/4, W/4)
    )

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.stage1 = self._stage(in_channels, 32, 4)
        self.stage2 = self._stage(32, 80, 5)
        self.stage3 = self._stage(80, 128, 5)
        self.conv18 = nn.Conv2d(128, 100, 1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(100, num_classes)
        initialize(self)

    @staticmethod
    def _stage(in_channels: int, maps: int, num_highways: int) -> nn.Sequential:
        plain = nn.Conv2d(in_channels, maps, 3, padding=1)
        highways = (conv3x3(maps, gate_bias=-2.0) for _ in range(num_highways))
        return nn.Sequential(nn.Dropout(0.2), plain, nn.ReLU(), *highways)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits (B, num_classes); with `pre_logits` to (B, 100)."""
        pooled = self.dropout(super().forward_head(features, pre_logits=True))
        return pooled if pre_logits else self.fc(pooled)


class Variant(NamedTuple):
    """Which of the three kinds, and highway layers (fully connected) or maps (MNIST)."""

    kind: Literal["mlp", "mnist", "cifar"]
    number: int = 0


# "Highway networks", section 3.1 (layers, the softmax not counted); "Training very deep networks",
# table 1 (width) and table 2 (Highway B).
VARIANTS: dict[str, Variant] = {
    "highway_mlp10": Variant("mlp", 9),
    "highway_mlp20": Variant("mlp", 19),
    "highway_mlp50": Variant("mlp", 49),
    "highway_mlp100": Variant("mlp", 99),
    "highway10_16": Variant("mnist", 16),
    "highway10_32": Variant("mnist", 32),
    "highway19": Variant("cifar"),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    kind, number = variant

    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> nn.Module:
        if kind == "cifar":
            return Highway19(num_classes, in_channels)
        network = HighwayMLP if kind == "mlp" else HighwayMnist
        return network(number, num_classes, in_channels, input_size)

    gate = Detail("gate", "specified", "equation 3: carry gate 1 - T; its bias starts negative")
    init = Detail("initialization", "inferred", "N(0, 1/fan_in), the variance of Caffe's xavier")
    if kind == "mlp":
        takes = Takes(size_px=28, channels=1, num_classes=10, sizes="built")
        details = (
            gate,
            Detail("layers and units", "specified", "section 3.1: 50 units, first layer plain"),
            Detail("non-linearity", "inferred", "ReLU; the paper searched over ReLU and tanh"),
            Detail("bias of the gates", "inferred", "-2; the paper searched -1 to -10"),
            init,
        )
    else:
        takes = Takes(28, 1, 10, sizes="built", min_px=HighwayMnist.min_px)
        if kind == "cifar":
            takes = Takes(size_px=32, channels=3, num_classes=10, min_px=Highway19.min_px)
        file = "cifar10-19layers" if kind == "cifar" else "mnist-10layers"
        details = (
            gate,
            Detail("layers, maps, pooling, dropout", "inferred", f"released Caffe code: {file}"),
            Detail("bias of the gates", "inferred", "the authors' released code: -1, CIFAR -2"),
            init,
        )
        if kind == "cifar":
            last = "as many units as classes; the released file has 100 for ten"
            details += (Detail("last layer", "deviates", last),)
    title = "Highway networks" if kind == "mlp" else "Training very deep networks"
    return Architecture(name, build, takes, "Srivastava et al. 2015", title, 2015, details)


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
