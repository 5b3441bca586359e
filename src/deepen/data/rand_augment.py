"""RandAugment (Cubuk, Zoph, Shlens & Le 2019): a few operations at random, all equally strong.

An operation's strength is magnitude / 10 of the greatest that AutoAugment (Cubuk et al. 2018, table
6) has for it: the paper's "integer scale from 0 to 10". Moved pictures are filled with mid grey, as
in the authors' code, and sampled to the nearest pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from PIL import Image, ImageEnhance, ImageOps

OPERATION_DRAWS = 2
"""Uniforms that one operation takes: which it is, and its sign."""
MAX_MAGNITUDE = 10

Operation = Callable[[Image.Image, float], Image.Image]

_GREY = 128
_TRANSLATION = 150 / 331  # of the side: 150 of 331 px


class _Enhancer(Protocol):
    def enhance(self, factor: float) -> Image.Image: ...


def _enhance(kind: Callable[[Image.Image], _Enhancer]) -> Operation:
    return lambda image, level: kind(image).enhance(1 + 0.9 * level)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    grey = _GREY if image.mode == "L" else (_GREY,) * 3
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=grey
    )


def _rotate(image: Image.Image, level: float) -> Image.Image:
    grey = _GREY if image.mode == "L" else (_GREY,) * 3
    return image.rotate(30 * level, Image.Resampling.NEAREST, fillcolor=grey)


def _translate_x(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, 0, -int(_TRANSLATION * level * image.width), 0, 1, 0)


def _translate_y(image: Image.Image, level: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, -int(_TRANSLATION * level * image.height))


OPERATIONS: dict[str, Operation] = {  # in the paper's order (section 3)
    "identity": lambda image, level: image,
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": lambda image, level: ImageOps.solarize(image, 255 - int(255 * abs(level))),
    "color": _enhance(ImageEnhance.Color),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level: _affine(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: _affine(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""Each takes a picture (mode L or RGB) and a strength in -1..1; some have no use for the sign."""


def rand_augment(image: Image.Image, magnitude: float, u: list[float]) -> Image.Image:
    """Apply an operation for each pair of the uniforms `u`, one after the other."""
    operations = list(OPERATIONS.values())
    for which, sign in zip(u[::OPERATION_DRAWS], u[1::OPERATION_DRAWS], strict=True):
        level = magnitude / MAX_MAGNITUDE
        image = operations[int(which * len(operations))](image, level if sign < 0.5 else -level)
    return image
