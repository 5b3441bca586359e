"""The perceptron and the multi-layer perceptron.

Rosenblatt 1958, "The perceptron: a probabilistic model for information storage and organization
in the brain"; Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating
errors".
Lecture 003 opens with both: a weighted sum, then layers of them with a sigmoid in between, applied
to handwritten digits of 28 x 28 = 784 pixels (it prints "24 x 24 = 784").
"""

from __future__ import annotations

import torch
from torch import nn

from deepen.layers import ImageClassifier, flatten, init_fan_in
from deepen.models.architecture import Architecture, Detail, Takes


class Perceptron(ImageClassifier):
    """Fully connected layers over all pixels, a sigmoid after each but the last.

    Args:
        hidden: units of each hidden layer; none for the perceptron itself.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights depend on it.
    """

    averages_maps = False

    def __init__(
        self,
        hidden: tuple[int, ...],
        num_classes: int,
        in_channels: int,
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        widths = (in_channels * input_size[0] * input_size[1], *hidden)
        self.num_features = widths[-1]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden, strict=False))
        self.fc = nn.Linear(widths[-1], num_classes)
        self.stage_layers = {
            "input": (flatten,),
            **{f"hidden{i + 1}": (f"hidden.{i}", torch.sigmoid) for i in range(len(hidden))},
        }
        self.apply(init_fan_in)


# Hidden units: lecture 003 draws three layers (input, hidden, output); LeCun et al. 1998,
# section III-C.5, measures the 300-unit form on MNIST (4.7% test error).
VARIANTS: dict[str, tuple[int, ...]] = {
    "perceptron": (),
    "mlp": (300,),
}


def _architecture(name: str, hidden: tuple[int, ...]) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> Perceptron:
        return Perceptron(hidden, num_classes, in_channels, input_size)

    step = Detail(
        "output", "deviates", "logits for a step, which has no gradient; argmax decides as it"
    )
    width = Detail("hidden units", "inferred", "300, from LeCun et al. 1998, section III-C.5")
    sigmoid = Detail("non-linearity", "specified", "sigmoid, lecture 003")
    init = Detail("initialization", "inferred", "N(0, 1/fan_in), biases 0, lecture 002")
    return Architecture(
        name=name,
        build=build,
        takes=Takes(size_px=28, channels=1, num_classes=10, sizes="built"),
        paper="Rumelhart et al. 1986" if hidden else "Rosenblatt 1958",
        title=(
            "Learning representations by back-propagating errors"
            if hidden
            else "The perceptron: a probabilistic model for information storage"
        ),
        year=1986 if hidden else 1958,
        details=(sigmoid, width, init) if hidden else (step, init),
    )


ARCHITECTURES = [_architecture(name, hidden) for name, hidden in VARIANTS.items()]
