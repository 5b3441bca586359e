"""Outlines of instances as COCO writes them: polygons and run lengths, to masks and back.

Runs go down the columns, background first. Compressed counts are text: 5 bits a character from
48 on, and from the fourth on differences to the last but one. (cocodataset/cocoapi, maskApi.c,
whose pixels polygons give to the bit.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_SCALE = 5  # points a pixel along the edges of a polygon


class OutlineError(ValueError):
    """Why an outline cannot be drawn, in words."""


def check_outline(outline: Any, size: tuple[int, int]) -> None:
    """Refuse what cannot be drawn in a picture, before anything is made of it.

    Args:
        outline: a list of polygons [x1, y1, x2, y2, ...], or {"size": [h, w], "counts": ...}.
        size: width and height of the picture.

    Raises:
        OutlineError: it is neither, or not of that picture.
    """
    width, height = size
    if isinstance(outline, dict):
        if outline.get("size") != [height, width]:
            raise OutlineError(
                f"is of a picture of {outline.get('size')!r:.40}, not [{height}, {width}]"
            )
        runs = _runs(outline.get("counts"))
        if (runs < 0).any() or int(runs.sum()) != width * height:
            raise OutlineError(f"its runs are not the {width * height:,} pixels of the picture")
        return
    if not isinstance(outline, list) or not outline:
        raise OutlineError("is neither polygons nor runs")
    for polygon in outline:
        points = _points(polygon)
        if (points < -1).any() or (points > [width + 1, height + 1]).any():
            raise OutlineError("has a point outside the picture")


def draw(outline: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask of an outline that `check_outline` has passed, uint8 (h, w) of 0 and 1."""
    width, height = size
    if isinstance(outline, dict):
        runs = _runs(outline["counts"])
        flat = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs)
        return np.ascontiguousarray(flat.reshape(width, height).T)
    masks = [_fill(_points(polygon), width, height) for polygon in outline]
    return np.bitwise_or.reduce(masks)


def draw_all(outlines: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """The masks of several, uint8 (n, h, w)."""
    masks = [draw(outline, size) for outline in outlines]
    return np.stack(masks) if masks else np.empty((0, size[1], size[0]), np.uint8)


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """A mask (h, w) as uncompressed runs."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [int(n) for n in mask.shape], "counts": counts}


def _points(polygon: Any) -> np.ndarray:
    """Of a polygon, float64 (k, 2)."""
    try:
        points = np.array(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise OutlineError("has a polygon that is no list of three points or more")
    if not np.isfinite(points).all():
        raise OutlineError("has a point that is no number")
    return points.reshape(-1, 2)


def _runs(counts: Any) -> np.ndarray:
    """Lengths of the runs, int64."""
    if isinstance(counts, str):
        return np.array(_decompress(counts), np.int64)
    whole = isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts)
    if not whole:
        raise OutlineError("has runs that are no counts")
    return np.array(counts, np.int64)


def _decompress(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 30:
            raise OutlineError("has runs that cannot be decompressed")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    if shift:
        raise OutlineError("has runs that end too soon")
    return runs


def _fill(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixels in a polygon, by the parity of its edges above them (`rleFrPoly`)."""
    corners = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    pieces = [
        _line(start, end) for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    u, v = np.concatenate(pieces, axis=1)
    steps = np.flatnonzero(np.diff(u)) + 1  # where the edge enters another column
    x = (np.minimum(u[steps], u[steps - 1]) + 0.5) / _SCALE - 0.5
    right = u[steps] > u[steps - 1]
    x = np.where(right, (u[steps] - 1 + 0.5) / _SCALE - 0.5, x)
    y = (np.minimum(v[steps], v[steps - 1]) + 0.5) / _SCALE - 0.5
    seen = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[seen], 0, height)).astype(np.int64)
    toggles = x[seen].astype(np.int64) * height + rows
    changes = np.bincount(toggles, minlength=width * height + 1)[: width * height]
    inside = (np.cumsum(changes) % 2).astype(np.uint8)
    return np.ascontiguousarray(inside.reshape(width, height).T)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The points from one corner to the next, int64 (2, k), in that order."""
    span = np.abs(end - start)
    along = 0 if span[0] >= span[1] else 1  # the axis on which each step is one point
    count = int(span[along])
    if count == 0:
        return start[:, None]
    flip = start[along] > end[along]
    first, last = (end, start) if flip else (start, end)
    steps = np.arange(count + 1)
    other = first[1 - along] + (last[1 - along] - first[1 - along]) / count * steps + 0.5
    line = np.empty((2, count + 1), np.int64)
    line[along], line[1 - along] = first[along] + steps, np.trunc(other).astype(np.int64)
    return line[:, ::-1] if flip else line
