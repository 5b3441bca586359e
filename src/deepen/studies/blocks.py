"""Blocks of two 3x3 convolutions that differ in the shortcut, the gate or the order of layers."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.models.resnet import BasicBlock, make_shortcut


def conv3x3(maps_in: int, maps_out: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or halves it."""
    return nn.Conv2d(maps_in, maps_out, 3, stride, padding=1, bias=bias)


class GatedBlock(nn.Module):
    """He et al. 2016, section 3.1, "exclusive gating", after Srivastava et al. 2015.

    y = g(x) F(x) + (1 - g(x)) x with g a sigmoid of a 1x1 convolution; ReLU after the sum. Where
    the shape changes, the shortcut is option A.
    """

    def __init__(self, maps_in: int, maps_out: int, stride: int, gate_bias: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(maps_in, maps_out, stride), nn.BatchNorm2d(maps_out)
        self.conv2, self.bn2 = conv3x3(maps_out, maps_out), nn.BatchNorm2d(maps_out)
        self.shortcut = make_shortcut("A", maps_in, maps_out, stride)
        self.gate = nn.Conv2d(maps_out, maps_out, 1)
        self.gate_bias = gate_bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps_in, H, W) to (B, maps_out, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        assert self.shortcut is not None
        kept = self.shortcut(x)
        # The bias is added here, so that initialization, which sets biases to 0, leaves it.
        share = (self.gate(kept) + self.gate_bias).sigmoid()
        return F.relu(share * out + (1 - share) * kept)


class SkipOne(nn.Module):
    """Two layers, each with a shortcut of its own (lecture 004: two layers are the key)."""

    def __init__(self, maps_in: int, maps_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(maps_in, maps_out, stride), nn.BatchNorm2d(maps_out)
        self.conv2, self.bn2 = conv3x3(maps_out, maps_out), nn.BatchNorm2d(maps_out)
        self.shortcut = make_shortcut("A", maps_in, maps_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps_in, H, W) to (B, maps_out, H / stride, W / stride)."""
        assert self.shortcut is not None
        x = F.relu(self.bn1(self.conv1(x)) + self.shortcut(x))
        return F.relu(self.bn2(self.conv2(x)) + x)


class NormAfterAddition(BasicBlock):
    """The Torch blog's variant: the sum is normalised, not the branch before it."""

    def __init__(self, maps_in: int, maps_out: int, stride: int) -> None:
        super().__init__(maps_in, maps_out, stride, "A")

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps_in, H, W) to (B, maps_out, H / stride, W / stride)."""
        out = self.conv2(F.relu(self.bn1(self.conv1(x))))
        assert self.downsample is not None
        return F.relu(self.bn2(out + self.downsample(x)))


class NoReluAfterAddition(BasicBlock):
    """The Torch blog's variant: the sum is handed on as it is."""

    def __init__(self, maps_in: int, maps_out: int, stride: int) -> None:
        super().__init__(maps_in, maps_out, stride, "A")

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps_in, H, W) to (B, maps_out, H / stride, W / stride)."""
        assert self.downsample is not None
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.downsample(x)


class Unnormalized(nn.Module):
    """Two convolutions with biases and without batch norm, plain."""

    def __init__(self, maps_in: int, maps_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(maps_in, maps_out, stride, bias=True)
        self.conv2 = conv3x3(maps_out, maps_out, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps_in, H, W) to (B, maps_out, H / stride, W / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))))


def gated(gate_bias: float) -> Callable[[int, int, int], GatedBlock]:
    """Blocks whose gates begin at sigmoid(gate_bias)."""
    return lambda maps_in, maps_out, stride: GatedBlock(maps_in, maps_out, stride, gate_bias)
