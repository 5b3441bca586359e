"""A long short-term memory that reads an image row by row.

Hochreiter & Schmidhuber 1997, "Long short-term memory": a cell carries its content from step to
step, and gates decide what enters it and what it shows; the recurrent ancestor of highway networks
(lecture 001 names both as relatives of the identity shortcut). A row of pixels is a step: 28 steps
of 28 values on MNIST. What the cells show after the last row goes to one linear layer.

`lstm` is what everyone means by the name: with the forget gate of Gers, Schmidhuber & Cummins 2000,
c = f c + i g, and tanh, as `torch.nn.LSTM`; the bias of its forget gates starts at one, so fresh
cells remember. `lstm_1997` is the paper's: c = c + i g, an input squashed to [-2, 2] and a content
squashed to [-1, 1] by logistic functions (section 4, appendix A.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_fan_in, stages
from deepen.models.architecture import Architecture, Detail, Takes


class LSTM(nn.Module):
    """A layer of memory cells.

    Args:
        num_inputs: length of a step.
        num_units: cells.
        forget: whether cells have a forget gate, and tanh; else they are those of 1997.
    """

    def __init__(self, num_inputs: int, num_units: int, forget: bool) -> None:
        super().__init__()
        self.num_units, self.forget = num_units, forget
        # Input gate, output gate, cell input, and the forget gate if there is one.
        self.input = nn.Linear(num_inputs, (4 if forget else 3) * num_units)
        self.recurrent = nn.Linear(num_units, (4 if forget else 3) * num_units, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Steps (B, T, num_inputs) to what the cells show after the last, (B, num_units)."""
        shown = content = x.new_zeros(x.shape[0], self.num_units)
        for step in self.input(x).unbind(1):
            i, o, g, *f = (step + self.recurrent(shown)).chunk(4 if self.forget else 3, dim=1)
            if self.forget:
                content = f[0].sigmoid() * content + i.sigmoid() * g.tanh()
                shown = o.sigmoid() * content.tanh()
            else:  # 4 logistic(a) - 2 = 2 tanh(a / 2), and 2 logistic(a) - 1 = tanh(a / 2)
                content = content + i.sigmoid() * 2 * (g / 2).tanh()
                shown = o.sigmoid() * (content / 2).tanh()
        return shown


def rows(x: Tensor) -> Tensor:
    """Images (B, C, H, W) to their rows (B, H, C * W)."""
    return x.transpose(1, 2).flatten(2)


class RowLSTM(ImageClassifier):
    """One LSTM over the rows of a picture, from the top, of the size that it is built for.

    Args:
        forget: whether cells have a forget gate.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) of the input; the weights depend on it.
    """

    num_features, averages_maps = 128, False
    stage_layers = stages(lstm=(rows, "lstm"))

    def __init__(
        self, forget: bool, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.input_size = in_channels, num_classes, input_size
        self.lstm = LSTM(in_channels * input_size[1], 128, forget)
        self.fc = nn.Linear(128, num_classes)
        self.apply(init_fan_in)
        if forget:
            with torch.no_grad():
                self.lstm.input.bias[3 * 128 :] = 1


# Whether cells have a forget gate.
VARIANTS: dict[str, bool] = {"lstm": True, "lstm_1997": False}


def _architecture(name: str, forget: bool) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> RowLSTM:
        return RowLSTM(forget, num_classes, in_channels, input_size)

    details = [
        Detail("memory cell, input and output gates", "specified", "section 4"),
        Detail(
            "gradient", "deviates", "through all paths; the paper cuts those at the gates' inputs"
        ),
        Detail("rows as steps, 128 units", "inferred", "the paper has no pictures"),
        Detail("initialization", "inferred", "N(0, 1/fan_in), biases 0"),
    ]
    if forget:
        details += [
            Detail("forget gate", "deviates", "Gers et al. 2000, as every LSTM since; from 1"),
            Detail("squashing", "deviates", "tanh, as every LSTM since"),
        ]
    else:
        details.append(Detail("squashing", "specified", "appendix A.1: g in [-2, 2], h in [-1, 1]"))
    takes = Takes(size_px=28, channels=1, num_classes=10, sizes="built")
    paper, title = "Hochreiter & Schmidhuber 1997", "Long short-term memory"
    return Architecture(name, build, takes, paper, title, 1997, tuple(details))


ARCHITECTURES = [_architecture(name, forget) for name, forget in VARIANTS.items()]
