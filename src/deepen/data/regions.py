"""Regions of a picture as pictures of one size, with some of what is around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align


def warp(
    image: np.ndarray,
    boxes: Tensor,
    size_px: tuple[int, int],
    context_px: int,
    fill: Sequence[float],
) -> np.ndarray:
    """Regions squashed to one size, whatever their shape (Girshick et al. 2014, appendix A).

    Bilinear; a shrunk region's pixel is the mean of the samples that fall into it.

    Args:
        image: uint8 (H, W, C).
        boxes: (n, 4), x1 y1 x2 y2 in px of the picture.
        size_px: height and width of a warped region, the context included.
        context_px: of these, what is shown on each side beyond the box.
        fill: what lies beyond the picture, a value of 0..255 for each channel.

    Returns:
        uint8 (n, height, width, C).
    """
    inner = torch.tensor([size_px[1], size_px[0]]) - 2 * context_px
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = half * (inner + 2 * context_px) / inner
    outer = torch.cat([middle - half, middle + half], 1).float()
    shift = torch.tensor(fill, dtype=torch.float32)
    pixels = (torch.tensor(image).float() - shift).permute(2, 0, 1)
    warped = roi_align(pixels[None], [outer], size_px, aligned=True)  # 0 beyond the picture
    return (warped.permute(0, 2, 3, 1) + shift).round().clamp(0, 255).byte().numpy()


def mean_colour(images: Sequence[np.ndarray]) -> list[float]:
    """The mean of each channel, of 0..255, of pictures uint8 (H, W, C)."""
    means = [image.reshape(-1, image.shape[-1]).mean(0) for image in images]
    return np.mean(means, axis=0).tolist()
