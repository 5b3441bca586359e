"""The networks that claims speak of, on the meta device, counted once each.

Besides those of `deepen.models` there are the lone blocks that the lectures and papers reckon with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

from deepen.analysis.complexity import Complexity, Layer, complexity
from deepen.errors import InputError, unknown
from deepen.models import create_model, get_architecture
from deepen.models.googlenet import bottleneck_example, naive_example


def _convolutions(kernel: int, depth: int, channels: int = 64) -> nn.Sequential:
    layers = (
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False) for _ in range(depth)
    )
    return nn.Sequential(*layers)


Shape = tuple[int, ...]
BLOCKS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "two 3x3 convolutions": (partial(_convolutions, 3, 2), (64, 32, 32)),
    "three 3x3 convolutions": (partial(_convolutions, 3, 3), (64, 32, 32)),
    "one 3x3 convolution": (partial(_convolutions, 3, 1), (64, 32, 32)),
    "one 5x5 convolution": (partial(_convolutions, 5, 1), (64, 32, 32)),
    "one 7x7 convolution": (partial(_convolutions, 7, 1), (64, 32, 32)),
    "one 3x3 convolution of 256 maps": (partial(_convolutions, 3, 1, 256), (256, 32, 32)),
    # Lecture 003's two modules on 28x28 pixels of 256 maps.
    "naive inception": (naive_example, (256, 28, 28)),
    "inception": (bottleneck_example, (256, 28, 28)),
}


@cache
def network(name: str) -> nn.Module:
    """A network or block by name.

    Raises:
        InputError: there is none of that name.
    """
    with torch.device("meta"):
        return BLOCKS[name][0]() if name in BLOCKS else create_model(name)


def input_shape(name: str) -> Shape:
    """(C, H, W) of a network's paper, or of a block's example."""
    if name in BLOCKS:
        return BLOCKS[name][1]
    takes = get_architecture(name).takes
    return (takes.channels, takes.size_px, takes.size_px)


@cache
def counted(name: str) -> Complexity:
    """All that `analysis.complexity` says of a network."""
    return complexity(network(name), input_shape(name))


def part(name: str, path: str) -> nn.Module:
    """A layer or block of a network.

    Raises:
        InputError: the network has none of that path; names the nearest.
    """
    try:
        return network(name).get_submodule(path)
    except AttributeError:
        parts = [path for path, _ in network(name).named_modules() if path]
        raise unknown(f"layer of {name}", path, parts) from None


def rows(name: str, *paths: str) -> list[Layer]:
    """The counted layers of a network, of the parts named or of all.

    Raises:
        InputError: it has no such part, or a run does not come through it.
    """
    layers = counted(name).layers
    if not paths:
        return [*layers]
    for path in paths:
        part(name, path)
    chosen = [row for row in layers if any(f"{row.name}.".startswith(f"{p}.") for p in paths)]
    if not chosen:
        raise InputError(f"{name} does not run {', '.join(paths)}")
    return chosen
