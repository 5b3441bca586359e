"""What the first layer looks for, drawn as it meets the pixels.

Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", figure 3
shows the 96 kernels of AlexNet so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from deepen.errors import InputError


def first_layer(shapes: Mapping[str, Sequence[int]], in_channels: int | None = None) -> str:
    """The name of the weight that meets the pixels, in a state dict's names and shapes.

    The first convolution, of those that take `in_channels` where any does; in a net without one,
    the first linear layer whose input is no other's output (a weights file keeps no order).

    Raises:
        InputError: no weight is of a convolution or a linear layer.
    """
    convolutions = [name for name, shape in shapes.items() if len(shape) == 4]
    fitting = [name for name in convolutions if shapes[name][1] == in_channels]
    linears = [name for name, shape in shapes.items() if len(shape) == 2]
    outputs = {shapes[name][0] for name in linears}
    leading = [name for name in linears if shapes[name][1] not in outputs]
    candidates = fitting or convolutions or leading or linears
    if not candidates:
        raise InputError("no convolution and no linear layer to draw")
    return candidates[0]


def filter_tiles(weight: Tensor, in_channels: int | None = None) -> np.ndarray:
    """The filters of one weight, each a picture: uint8 (N, h, w, 3).

    Zero is mid-grey, and the largest value of each filter, up or down, is white or black. Filters
    over three channels are drawn in colour, others plane by plane.

    Args:
        weight: (K, C, h, w), or linear (K, C * s * s), whose rows are reshaped to C x s x s.
        in_channels: C of a linear weight; tried are 1 and 3 where it is not given.

    Raises:
        InputError: the weight has another shape, or its rows are no square pictures.
    """
    weight = weight.detach().float().cpu()
    if weight.ndim == 2:
        weight = _as_pictures(weight, in_channels)
    if weight.ndim != 4:
        raise InputError(f"a weight of shape {tuple(weight.shape)} cannot be drawn as filters")
    if weight.shape[1] != 3:
        weight = weight.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)  # (K * C, 3, h, w)
    largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo().tiny)
    shades = (weight / largest + 1) * 127.5
    return shades.round().byte().permute(0, 2, 3, 1).numpy()


def _as_pictures(weight: Tensor, in_channels: int | None) -> Tensor:
    for channels in (in_channels,) if in_channels else (1, 3):
        side = math.isqrt(weight.shape[1] // channels)
        if channels * side**2 == weight.shape[1]:
            return weight.reshape(-1, channels, side, side)
    raise InputError(f"rows of {weight.shape[1]} weights are no square pictures")


def filter_grid(
    weights: Tensor | Mapping[str, Tensor],
    *,
    in_channels: int | None = None,
    tile_px: int = 32,
    gap_px: int = 4,
    columns: int | None = None,
) -> np.ndarray:
    """First-layer filters as one picture, row by row on white: uint8 (H, W, 3).

    Args:
        weights: a network's state dict, or the weight itself; see `filter_tiles`.
        in_channels: channels of the network's input, where known.
        tile_px: least side of a tile; each pixel of a filter becomes a square of whole pixels.
        gap_px: between and around the tiles.
        columns: tiles in a row; by default as many as make the grid nearly square.

    Raises:
        InputError: nothing that can be drawn.
    """
    if not isinstance(weights, Tensor):
        shapes = {name: value.shape for name, value in weights.items()}
        weights = weights[first_layer(shapes, in_channels)]
    tiles = filter_tiles(weights, in_channels)
    num, height, width, _ = tiles.shape
    scale = max(1, math.ceil(tile_px / max(height, width)))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    step_y, step_x = height * scale + gap_px, width * scale + gap_px
    grid = np.full((rows * step_y + gap_px, columns * step_x + gap_px, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = divmod(place, columns)
        top, left = gap_px + y * step_y, gap_px + x * step_x
        grid[top : top + height * scale, left : left + width * scale] = tile
    return grid
