"""How deep a network is, as papers count: layers with weights on the longest way through it.

A projection beside two convolutions adds nothing, the two branches of an inception module count
once, and so ResNet-50 has 50 layers and GoogLeNet 22.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepen.analysis.meta import Meta, Operation, tensors_in, words

_WEIGHTED = words("convolution mm addmm bmm baddbmm")
_POOLING = words("max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d mean")


def depth(module: nn.Module, shape: tuple[int, ...], poolings: bool = False) -> int:
    """Layers with weights on the longest way; with `poolings` pooling layers count too.

    Args:
        module: on the meta device.
        shape: (C, H, W) of its input.
        poolings: whether pooling layers are layers.
    """
    paths = _Paths(module, poolings)
    with torch.no_grad(), Meta(paths.see):
        module.eval()(torch.empty(1, *shape, device="meta"))
    return paths.longest


class _Paths:
    """The longest way to each tensor, kept by storage so that views and work in place follow."""

    def __init__(self, module: nn.Module, poolings: bool) -> None:
        self.longest = 0
        self._layers = _WEIGHTED | _POOLING if poolings else _WEIGHTED
        self._depths: dict[int, int] = {}
        self._weights = {_storage(t) for t in (*module.parameters(), *module.buffers())}
        self._alive: list[Tensor] = []  # a freed storage's address would be given again

    def see(self, op: Operation) -> None:
        given = {*map(_storage, tensors_in((op.args, op.kwargs)))}
        results = [*tensors_in([op.out])]
        self._alive += results
        if given and given <= self._weights:
            self._weights.update(map(_storage, results))
            return
        reached = max((self._depths.get(key, 0) for key in given), default=0)
        if op.name in self._layers and (given & self._weights or op.name in _POOLING):
            reached += 1
        for key in map(_storage, results):
            self._depths[key] = reached
        self.longest = max(self.longest, reached)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
