"""An exponential moving average of a network's weights, after Polyak & Juditsky 1992."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from deepen.training.blocks import Ema


class Averages:
    """A copy of a network that follows its weights; buffers (batch norm's statistics) are copied.

    torch's AveragedModel counts its updates on the device and waits for that count at each; here
    the step is known.

    Attributes:
        model: the copy, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._averages: list[Tensor] = [*self.model.parameters()]
        self._weights: list[Tensor] = [*model.parameters()]
        self._buffers = [*zip(self.model.buffers(), model.buffers(), strict=True)]

    def update(self, step: int) -> None:
        """Follow the network after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, step)
        for average, current in self._buffers:
            average.copy_(current)


def build_averages(model: nn.Module, spec: Ema) -> Averages | None:
    """The recipe's average, or None where it asks for none."""
    return None if spec.decay is None else Averages(model, spec.decay, spec.warmup)
