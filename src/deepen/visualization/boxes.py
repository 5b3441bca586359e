"""Boxes and masks drawn on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BLUE, ORANGE = (59, 116, 230), (226, 106, 24)
"""Of right and wrong in reports; legible on white and on black."""
COLORS = (
    BLUE,
    ORANGE,
    (26, 137, 95),
    (176, 66, 158),
    (138, 107, 12),
    (17, 133, 163),
    (205, 53, 74),
    (107, 93, 196),
)
"""Of classes, in turn; white letters are legible on each."""
_TINT = 0.45  # of a mask's pixels


class Mark(NamedTuple):
    """What is drawn.

    Attributes:
        box: x1 y1 x2 y2 in px of the picture, edges; None where there is but a mask.
        words: beside the box; none where they are empty.
        color: red, green, blue.
        dashed: whether the line is broken, as of what was missed.
        mask: (h, w) of 0 and 1, of the picture's size.
    """

    box: Sequence[float] | None
    words: str = ""
    color: tuple[int, int, int] = BLUE
    dashed: bool = False
    mask: np.ndarray | None = None


def color_of(label: int) -> tuple[int, int, int]:
    """The colour of a class, by its place."""
    return COLORS[label % len(COLORS)]


def draw_marks(
    image: Image.Image, marks: Sequence[Mark], longest_px: int | None = None
) -> Image.Image:
    """A copy of the picture in RGB with masks, boxes and, above all of them, their words.

    Args:
        image: in full size, in which boxes and masks are given.
        marks: the last lies on top.
        longest_px: the longer side of what is handed back; the picture is made larger or smaller to
            it, and lines and letters stay as thick. As it is by default.
    """
    scale = 1.0 if longest_px is None else longest_px / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    picture = _tinted(image.convert("RGB"), marks).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(size) / 240))
    font = ImageFont.load_default(max(11, round(max(size) / 34)))
    boxes = [None if mark.box is None else _scaled(mark.box, scale) for mark in marks]
    for mark, box in zip(marks, boxes, strict=True):
        if box is not None:
            _outline(pen, box, mark, line)
    for mark, box in zip(marks, boxes, strict=True):
        if box is not None and mark.words:
            _write(pen, mark, box, font, size)
    return picture


def _scaled(box: Sequence[float], scale: float) -> tuple[int, int, int, int]:
    """Whole pixels, of which the last is in."""
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _tinted(picture: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    masked = [mark for mark in marks if mark.mask is not None]
    if not masked:
        return picture
    pixels = np.array(picture, np.float32)
    for mark in masked:
        assert mark.mask is not None
        inside = mark.mask.astype(bool)
        pixels[inside] += _TINT * (np.array(mark.color, np.float32) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _outline(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], mark: Mark, line: int
) -> None:
    """With a thin dark line outside, so that it shows on any ground."""
    left, top, right, bottom = box
    if not mark.dashed:
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0))
        pen.rectangle(box, outline=mark.color, width=line)
        return
    step = 4 * line
    for start in range(left, right, 2 * step):
        for y in (top, bottom - line + 1):
            pen.rectangle((start, y, min(start + step, right), y + line - 1), fill=mark.color)
    for start in range(top, bottom, 2 * step):
        for x in (left, right - line + 1):
            pen.rectangle((x, start, x + line - 1, min(start + step, bottom)), fill=mark.color)


def _write(
    pen: ImageDraw.ImageDraw,
    mark: Mark,
    box: tuple[int, int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """White letters on the mark's colour, above the box, or in it at the picture's upper edge."""
    left, top, right, bottom = pen.textbbox((0, 0), mark.words, font=font)
    width, height = round(right - left) + 6, round(bottom - top) + 6
    x = min(max(0, box[0]), max(0, size[0] - width))
    y = box[1] - height if box[1] >= height else min(max(0, box[1]), max(0, size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=mark.color)
    pen.text((x + 3 - left, y + 3 - top), mark.words, font=font, fill=(255, 255, 255))
