"""Option A with its zero maps on both sides of the others, as some public CIFAR networks have it.

He et al. 2015, section 3.3, says that the shortcut of option A pads the new maps with zeros, and
not where they lie. fb.resnet.torch has them after the others, and so has deepen; the network of
akamaster/pytorch_resnet_cifar10, whose weights are widely used, has half of them before and half
after. Keys and shapes are the same. Map c of the old ones is then map c + new / 2 of the next
stage, so each network is the other with its maps in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.models.preresnet import ResidualUnit
from deepen.models.resnet import BasicBlock, Bottleneck, ZeroPadShortcut

Padding = Literal["as-here", "pad-both"]


def pads(network: nn.Module) -> bool:
    """Whether a network has shortcuts of option A."""
    return any(isinstance(module, ZeroPadShortcut) for module in network.modules())


def settle(
    where: str, model: str, network: nn.Module, tensors: Mapping[str, Tensor], told: Padding | None
) -> dict[str, Tensor]:
    """The tensors as deepen's network takes them, if it has been told where the zero maps are.

    Args:
        where: what the tensors are called in an error.
        model: the network's name.
        network: its modules, whatever they hold.
        tensors: that fit the network in keys and shapes.
        told: "as-here": after the others; "pad-both": half before them and half after.

    Raises:
        InputError: nothing was told where it matters, or something where it does not.
    """
    if pads(network):
        if told is None:
            raise InputError(
                f"{where}: does not say where option A's zero maps are, and the answers are two "
                f"networks: after the others, as in deepen's {model} (--shortcut as-here), or half "
                "before and half after, as in akamaster/pytorch_resnet_cifar10 (--shortcut "
                "pad-both)"
            )
    elif told is not None:
        raise InputError(f"--shortcut {told}: {model} has no shortcut of option A")
    return reordered(tensors, network) if told == "pad-both" else dict(tensors)


def reordered(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network padded on both sides with the maps in deepen's order."""
    found = dict(tensors)
    order = torch.arange(0)

    def take(layer: str, dim: int, order: Tensor) -> None:
        """Put what a layer makes (dim 0) or reads (dim 1) in order."""
        if len(order):
            for key in ("weight", "bias", "running_mean", "running_var")[: 1 if dim else 4]:
                if (name := f"{layer}.{key}") in found:
                    found[name] = found[name].index_select(dim, order)

    for name, block in network.named_modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last = 2 if isinstance(block, BasicBlock) else 3
            reads, ends = ["conv1"], [f"conv{last}", f"bn{last}"]
            norms, shortcut = [], block.downsample
        elif isinstance(block, ResidualUnit):
            last = len(block.residual) - 1  # type: ignore[arg-type]
            reads, ends = ["residual.0"], [f"residual.{last}"]
            norms, shortcut = ["act"], block.shortcut
        else:
            continue
        for layer in reads:
            take(f"{name}.{layer}", 1, order)
        for layer in norms:
            take(f"{name}.{layer}", 0, order)
        if isinstance(shortcut, ZeroPadShortcut):
            order = _widened(order, found[f"{name}.{ends[0]}.weight"], shortcut.new_channels)
        for layer in ends:
            take(f"{name}.{layer}", 0, order)
    take("act2", 0, order)  # the last activation of pre-activation nets
    take(network.classifier_name, 1, order)  # type: ignore[arg-type]
    return found


def _widened(order: Tensor, weight: Tensor, new: int) -> Tensor:
    """Which of their maps ours are, after `new` ones came: the old ones first, then the new."""
    old = order if len(order) else torch.arange(len(weight) - new)
    kept = old + new // 2
    rest = torch.ones(len(weight), dtype=torch.bool)
    rest[kept] = False
    return torch.cat([kept, rest.nonzero().flatten()])
