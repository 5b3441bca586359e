"""What goes through a network, layer by layer: responses, gradients, and what blocks add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def layer_profiles(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Of each convolution, from the input on, on one batch in training mode; nothing is changed.

    Args:
        network: a classifier with convolutions.
        images: (B, C, H, W).
        labels: (B,).

    Returns:
        "response": standard deviation of what each convolution hands on, after batch norm where
        one follows, before the non-linearity and the addition (He et al. 2015, section 4.2, figure
        7); "gradient": the norm of the loss's gradient by each convolution's weights.
    """
    before = {name: value.clone() for name, value in network.state_dict().items()}
    mode = network.training
    network.train()
    seen: dict[nn.Module, float] = {}
    with _watched(network, seen):
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()
    gradients = [
        0.0 if module.weight.grad is None else module.weight.grad.norm().item()
        for module in _convolutions(network)
    ]
    network.zero_grad()
    network.load_state_dict(before)  # batch norm has moved its statistics
    network.train(mode)
    responses = [seen[m] for m in _convolutions(network) if m in seen]
    return {"response": responses, "gradient": gradients}


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """Those with a window: a 1x1 in a shortcut is no layer of the path."""
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return [m for m in convolutions if m.kernel_size != (1, 1)]


@contextmanager
def _watched(network: nn.Module, seen: dict[nn.Module, float]) -> Iterator[None]:
    """Note the spread behind each convolution, or behind the batch norm that comes next."""
    last: list[nn.Module] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            last[:] = [module]
        if last:
            seen[last[0]] = output.detach().std().item()
        if isinstance(module, nn.BatchNorm2d):
            last.clear()

    watched = {*_convolutions(network)}
    handles = [
        module.register_forward_hook(note)
        for module in network.modules()
        if module in watched or isinstance(module, nn.BatchNorm2d)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
