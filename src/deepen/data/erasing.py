"""Random erasing (Zhong et al. 2017): a box of a training picture becomes noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepen.data.randomness import random_bytes

_TRIES = 10  # it looks this often for a box that fits, as torchvision does
ERASING_DRAWS = 2 * _TRIES + 4
"""Uniforms that a picture takes: areas and ratios to try, two for the place, whether, the noise."""
_STREAM = 2  # of the noise


def erase(
    images: Tensor,
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
    u: Tensor,
) -> Tensor:
    """Fill a box of some pictures with random bytes, the paper's RE-R (section 3.2).

    Args:
        images: uint8 (B, H, W, C).
        probability: of a picture to lose a box.
        area: least and greatest share of the picture that the box covers.
        ratio: of the box's height to its width, uniform in the logarithm (as torchvision and timm
            draw it; the paper's algorithm 1 draws the ratio itself uniformly).
        u: uniforms (B, ERASING_DRAWS).
    """
    count, height, width, channels = images.shape
    top, left, h, w = erased_box((height, width), area, ratio, u)
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    top, left, h, w = (edge[:, None, None] for edge in (top, left, h, w))
    inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
    inside &= u[:, -2, None, None] < probability
    noise = random_bytes(0, 0, (u[:, -1] * 2**24).long(), height * width * channels, _STREAM)
    return torch.where(inside[..., None], noise.view(count, height, width, channels), images)


def erased_box(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, int64 (B,), of the box in pictures of (height, width).

    The first of ten boxes that is smaller than the picture both ways; of no size if none is.
    """
    height, width = size
    u = u.double()
    areas = height * width * (area[0] + (area[1] - area[0]) * u[:, :_TRIES])
    ratios = ratio[0] * torch.exp(math.log(ratio[1] / ratio[0]) * u[:, _TRIES : 2 * _TRIES])
    h, w = (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.byte().argmax(1, keepdim=True)  # the first of equals
    any_fits = fits.any(1)
    h, w = (side.gather(1, first)[:, 0] * any_fits for side in (h, w))
    down, across = u[:, 2 * _TRIES], u[:, 2 * _TRIES + 1]
    return (down * (height - h + 1)).long(), (across * (width - w + 1)).long(), h, w
