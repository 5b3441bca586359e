"""Classes of pixels as colours laid over their picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

SHARE = 0.55
"""How much of an overlaid pixel is its class's colour."""


def palette(num_classes: int) -> np.ndarray:
    """A colour for each class, uint8 (K, 3): VOC's, whose first, the background's, is black.

    The bits of a class's number are dealt out to red, green and blue in turn, from the highest bit
    of a colour down (PASCAL VOC's development kit, `VOClabelcolormap`).
    """
    number = np.arange(num_classes)
    colors = np.zeros((num_classes, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def overlay(picture: Image.Image, mask: np.ndarray, num_classes: int) -> Image.Image:
    """The picture with each pixel tinted by its class; what is no class, void say, is left.

    Args:
        picture: RGB or grey.
        mask: places of classes, (h, w), of the picture's size.
        num_classes: how many there are.
    """
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    known = mask < num_classes
    colors = palette(num_classes)[np.where(known, mask, 0)]
    share = np.where(known, SHARE, 0.0)[..., None]
    return Image.fromarray(np.rint(pixels + share * (colors - pixels)).astype(np.uint8))
