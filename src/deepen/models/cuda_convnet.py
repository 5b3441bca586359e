"""The four-layer network that ReLU was first timed on.

Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
networks", section 3.1 and figure 1: on CIFAR-10 "a four-layer convolutional neural network with
ReLUs" reaches 25% training error six times faster than the same one with tanh. The paper says no
more of it.

Three convolutions 5x5 of 32, 32 and 64 maps with overlapping pooling, the first by the maximum, the
others by the mean; then the output.

A variant for each non-linearity of lecture 002, for the comparison that the figure makes.
"""

from __future__ import annotations

from torch import nn

from deepen.layers import ACTIVATIONS, ImageClassifier, Maxout, init_fan_in, init_he
from deepen.models.architecture import Architecture, Detail, Takes


class CudaConvNet(ImageClassifier):
    """Three convolutions and an output, with one non-linearity throughout.

    Args:
        activation: of `deepen.layers.ACTIVATIONS`; before maxout, layers have two maps for one.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the last layer's weights depend on it.
    """

    min_px, averages_maps = 8, False

    def __init__(
        self, activation: str, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        act = ACTIVATIONS[activation]
        pieces = 2 if act is Maxout else 1
        self.features = nn.Sequential()
        self._add_stage("conv1", nn.Conv2d(in_channels, 32 * pieces, 5, padding=2))
        self._add_stage("pool1", nn.MaxPool2d(3, stride=2, ceil_mode=True), act())
        self._add_stage("conv2", nn.Conv2d(32, 32 * pieces, 5, padding=2), act())
        self._add_stage("pool2", nn.AvgPool2d(3, stride=2, ceil_mode=True))
        self._add_stage("conv3", nn.Conv2d(32, 64 * pieces, 5, padding=2), act())
        self._add_stage("pool3", nn.AvgPool2d(3, stride=2, ceil_mode=True))  # (B, 64, H/8, W/8)
        height, width = input_size
        for _ in range(3):  # pooling rounds up, and no window begins outside of the map
            height, width = height // 2, width // 2
        self.num_features = 64 * height * width
        self.fc = nn.Linear(self.num_features, num_classes)
        self.apply(init_he if activation in HALF_ZERO else init_fan_in)


HALF_ZERO = ("relu", "leaky_relu", "elu", "swish")

# Lecture 002, activation functions, in its order.
VARIANTS = {f"convnet4_{activation}": activation for activation in ACTIVATIONS}


def _architecture(name: str, activation: str) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> CudaConvNet:
        return CudaConvNet(activation, num_classes, in_channels, input_size)

    plain = activation in ("relu", "tanh")
    return Architecture(
        name=name,
        build=build,
        takes=Takes(
            size_px=32, channels=3, num_classes=10, sizes="built", min_px=CudaConvNet.min_px
        ),
        paper="Krizhevsky et al. 2012",
        title="ImageNet classification with deep convolutional neural networks",
        year=2012,
        details=(
            Detail("depth", "specified", "section 3.1: four layers"),
            Detail(
                "non-linearity",
                "specified" if plain else "inferred",
                "figure 1" if plain else f"lecture 002: {activation}",
            ),
            Detail(
                "layers",
                "inferred",
                "the author's cuda-convnet, layers-18pct.cfg; Caffe, cifar10_full",
            ),
            Detail("normalization", "deviates", "none, as figure 1 compares non-linearities alone"),
            Detail(
                "initialization",
                "deviates",
                "N(0, 1/fan_in), times sqrt(2) for what is half zero; the released deviations "
                "(0.0001 in the first layer) hold tanh back (`deepen study activation` tries both)",
            ),
        ),
    )


ARCHITECTURES = [_architecture(name, activation) for name, activation in VARIANTS.items()]
