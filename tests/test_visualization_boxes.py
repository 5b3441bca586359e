"""Boxes and masks drawn: which pixels they colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepen.visualization.boxes import BLUE, COLORS, ORANGE, Mark, color_of, draw_marks

GREY = (128, 128, 128)


def grey(width: int = 200, height: int = 120) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def is_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (pixels == np.array(color)).all(-1)


def test_a_box_lies_on_its_own_edge_pixels():
    picture = grey()
    drawn = np.asarray(draw_marks(picture, [Mark((40, 30, 100, 90), color=ORANGE)]))
    y, x = np.nonzero(is_color(drawn, ORANGE))
    assert (x.min(), x.max(), y.min(), y.max()) == (40, 99, 30, 89)  # edges at 100 and 90
    assert (drawn[32:88, 42:98] == GREY).all()
    assert (np.asarray(picture) == GREY).all()  # a copy


def test_a_picture_is_made_as_large_as_asked_and_its_boxes_with_it():
    drawn = draw_marks(grey(), [Mark((40, 30, 100, 90), color=ORANGE)], 400)
    assert drawn.size == (400, 240)
    y, x = np.nonzero(is_color(np.asarray(drawn), ORANGE))
    assert (x.min(), x.max(), y.min(), y.max()) == (80, 199, 60, 179)
    assert draw_marks(grey(), [], 50).size == (50, 30)


def test_a_broken_line_is_broken():
    whole = is_color(np.asarray(draw_marks(grey(), [Mark((20, 20, 180, 100))])), BLUE).sum()
    marks = [Mark((20, 20, 180, 100), dashed=True)]
    broken = is_color(np.asarray(draw_marks(grey(), marks)), BLUE)
    assert 0.3 * whole < broken.sum() < 0.8 * whole
    y, x = np.nonzero(broken)
    assert (x.min(), x.max(), y.min(), y.max()) == (20, 179, 20, 99)


@pytest.mark.parametrize("box", [(60, 50, 90, 80), (0, 0, 30, 20), (190, 2, 220, 130)])
def test_words_stay_in_the_picture(box):
    """Above the box, or in it at the edge; white on the mark's colour."""
    bare = np.asarray(draw_marks(grey(), [Mark(box, color=ORANGE)]))
    drawn = np.asarray(draw_marks(grey(), [Mark(box, "platelets 0.87", ORANGE)]))
    y, x = np.nonzero((drawn != bare).any(-1))
    assert len(y)
    height, width = y.max() - y.min() + 1, x.max() - x.min() + 1
    assert 11 <= height <= 24
    assert 60 <= width <= 130  # all of the words
    assert (drawn[y.min() : y.max() + 1, x.min() : x.max() + 1] == 255).all(-1).sum() > 50


def test_masks_are_tinted():
    mask = np.zeros((120, 200), np.uint8)
    mask[10:20, 30:50] = 1
    drawn = np.asarray(draw_marks(grey(), [Mark(None, color=ORANGE, mask=mask)]))
    changed = (drawn != GREY).any(-1)
    assert np.array_equal(changed, mask.astype(bool))
    expected = 128 + 0.45 * (np.array(ORANGE) - 128)
    assert np.abs(drawn[15, 40] - expected).max() <= 1


def test_white_letters_are_legible_on_every_colour():
    """At least 3 to 1, the contrast that WCAG 2 asks of large letters."""

    def luminance(color: tuple[int, ...]) -> float:
        parts = np.array(color) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert len({*COLORS}) == len(COLORS)
    for color in COLORS:
        assert 1.05 / (luminance(color) + 0.05) >= 3
    assert color_of(len(COLORS)) == COLORS[0]
