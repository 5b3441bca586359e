"""What is wrong with boxes and masks, by picture and box, before anything is trained on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from deepen.data.annotated.masks import decode_mask
from deepen.data.annotated.outlines import OutlineError, check_outline
from deepen.data.annotated.records import Fault, FaultKind, Shown, Survey
from deepen.data.decode import Header, PictureError, header_of
from deepen.data.leftout import some
from deepen.errors import InputError

CLIPPED_PX = 1.0
"""Boxes that stick out of the picture by at most this are cut to it."""
DOUBLE_IOU = 0.95
"""Of two boxes of a class in a picture from which on they are taken for one drawn twice."""
_THREADS = 8


class Checked(NamedTuple):
    """What was found about a picture.

    Attributes:
        shown: with its boxes cut to the picture.
        size: width and height of the upright picture; None where it cannot be read.
        faults: of it and its boxes.
        clipped: boxes that were cut.
        turned: whether EXIF turns it.
        values: pixels of each class in its mask, int64 (256,).
    """

    shown: Shown
    size: tuple[int, int] | None
    faults: list[Fault]
    clipped: int = 0
    turned: bool = False
    values: np.ndarray | None = None


def check(survey: Survey) -> tuple[dict[str, Checked], list[Fault], list[str]]:
    """Check all pictures of a survey.

    Pictures whose header cannot be read are not at fault here: decoding names them.

    Returns:
        By key what was found of each picture; faults that take all pictures to see; notes.

    Raises:
        InputError: the numbers of all boxes are no pixels.
    """
    boxed = [shown for shown in survey.all if len(shown.boxes)]
    if boxed and all((shown.boxes >= 0).all() and (shown.boxes <= 1).all() for shown in boxed):
        words = f"all {sum(len(shown.boxes) for shown in boxed):,} boxes lie within 0 to 1"
        where = survey.root / boxed[0].said_in
        raise InputError(f"{where}: {words}: they are shares of the picture, and wanted are pixels")
    with ThreadPoolExecutor(_THREADS) as pool:  # files are waited for
        found = list(pool.map(lambda each: _check(each, survey), survey.all))
    checked = {each.shown.file.key: each for each in found}
    faults = [*survey.faults, *_seen_once(survey)]
    if survey.one_class:
        faults += _several(survey)
    notes = []
    if clipped := sum(each.clipped for each in found):
        notes.append(f"cut to the picture: {clipped:,} boxes that stuck out by a pixel or less")
    if turned := [each.shown.file.key for each in found if each.turned]:
        words = "boxes and masks are taken to be of the upright picture"
        notes.append(f"turned upright by EXIF: {len(turned):,} pictures, {words}: {some(turned)}")
    return checked, faults, notes


def _check(shown: Shown, survey: Survey) -> Checked:
    key = shown.file.key
    if shown.broken is not None:
        return Checked(shown, None, [Fault(key, None, "broken", shown.broken)])
    try:
        header = header_of(shown.file.path)
    except PictureError:
        header = None
    size = shown.stated if header is None else header.size
    faults = [] if header is None else list(_of_size(shown, header))
    turned = header is not None and header.turned
    if shown.mask is not None:
        faults_of_mask, values = _of_mask(shown, size, survey)
        return Checked(shown, size, faults_of_mask, turned=turned, values=values)
    with np.errstate(over="ignore", invalid="ignore"):
        shown.boxes = shown.boxes.astype(np.float32).astype(np.float64)  # as they are handed out
        cut, of_boxes = _of_boxes(shown, None if faults else size)
        clipped = int((np.abs(cut - shown.boxes) > 1e-3).any(1).sum())
    shown.boxes = cut
    return Checked(shown, size, faults + of_boxes, clipped, turned)


def _of_size(shown: Shown, header: Header) -> Iterator[Fault]:
    """Whether the picture is as large as it is said to be."""
    if shown.stated is None or shown.stated == header.size:
        return
    (width, height), (wide, high) = shown.stated, header.size
    words = f"{shown.said_in} says {width}x{height} px, the picture has {wide}x{high}"
    turned = header.turned and (height, width) == header.size
    if turned:
        words += " when EXIF has turned it upright: its boxes may be of the picture as it lies"
    yield Fault(shown.file.key, None, "turned" if turned else "size", words)


def _of_mask(
    shown: Shown, size: tuple[int, int] | None, survey: Survey
) -> tuple[list[Fault], np.ndarray | None]:
    assert shown.mask is not None
    key = shown.file.key
    try:
        mask = decode_mask(shown.mask, len(survey.classes))
    except PictureError as error:
        return [Fault(key, None, "broken", f"its mask: {error}")], None
    except InputError as error:
        return [Fault(key, None, "label", f"its mask: {error}")], None
    (height, width), values = mask.shape, np.bincount(mask.ravel(), minlength=256)
    if size is not None and (width, height) != size:
        words = (
            f"its mask {shown.mask.name} has {width}x{height} px, the picture {size[0]}x{size[1]}"
        )
        return [Fault(key, None, "size", words)], values
    return [], values


def _of_boxes(shown: Shown, size: tuple[int, int] | None) -> tuple[np.ndarray, list[Fault]]:
    """The boxes cut to the picture where they stick out by `CLIPPED_PX` at most; their faults."""
    found: dict[int, tuple[FaultKind, str]] = {}
    boxes, cut = shown.boxes, shown.boxes.copy()
    sides = boxes[:, 2:] - boxes[:, :2] - shown.pixel
    strange = ~(sides > 0).all(1)  # so is NaN
    if size is not None:
        cut = boxes.clip(0, [*size, *size])
        strange |= ~(np.abs(cut - boxes) <= CLIPPED_PX).all(1)
        strange |= ~(cut[:, 2:] > cut[:, :2]).all(1)
    for place in np.flatnonzero(strange | ~np.isfinite(boxes).all(1)).tolist():
        found[place] = _flaw(boxes[place], cut[place], sides[place], shown.pixel, size)
    found |= shown.flaws
    if shown.outlines is not None and size is not None:
        for place, outline in enumerate(shown.outlines):
            try:
                check_outline(outline, size)
            except OutlineError as error:
                found.setdefault(place, ("outline", f"its outline {error}"))
    sound = [place for place in range(len(boxes)) if place not in found]
    faults = [_fault(shown, place, *found[place]) for place in sorted(found)]
    cut[[*found]] = boxes[[*found]]
    return cut, faults + [
        _fault(shown, two, "double", f"the same {shown.names[two]} as box {one + 1}, IoU {iou:.2f}")
        for one, two, iou in _doubles(shown, cut, sound)
    ]


def _flaw(
    box: np.ndarray,
    cut: np.ndarray,
    sides: np.ndarray,
    pixel: int,
    size: tuple[int, int] | None,
) -> tuple[FaultKind, str]:
    """What is wrong with a box that is not as it should be."""
    left, top, right, bottom = box.tolist()
    corners = f"{left + pixel:g},{top + pixel:g} to {right:g},{bottom:g}"
    if not np.isfinite(box).all():
        return "not_finite", f"{corners} is not four numbers"
    if (sides < 0).any():
        return "inverted", f"{corners} ends before it begins"
    if (sides == 0).any():
        return "degenerate", f"{corners} is {sides[0]:g}x{sides[1]:g} px"
    assert size is not None
    inside = f"{size[0]}x{size[1]} px"
    if not (cut[2:] > cut[:2]).all():
        return "outside", f"{corners} lies outside {inside}"
    return "outside", f"{corners} sticks out of {inside} by {np.abs(cut - box).max():g}"


def _doubles(shown: Shown, boxes: np.ndarray, sound: list[int]) -> Iterator[tuple[int, int, float]]:
    """Boxes of one class that are the same or nearly, but for crowds: earlier, later, IoU."""
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for place in sound:
        if not shown.crowd[place]:
            by_name[shown.names[place]].append(place)
    for places in by_name.values():
        if len(places) < 2:
            continue
        some_boxes = boxes[places]
        low = np.maximum(some_boxes[:, None, :2], some_boxes[None, :, :2])
        high = np.minimum(some_boxes[:, None, 2:], some_boxes[None, :, 2:])
        common = (high - low).clip(0).prod(-1)
        area = (some_boxes[:, 2:] - some_boxes[:, :2]).prod(-1)
        iou = common / (area[:, None] + area[None] - common)
        told: set[int] = set()
        for one, two in np.argwhere(np.triu(iou >= DOUBLE_IOU, 1)).tolist():
            if two not in told:
                told.add(two)
                yield places[one], places[two], float(iou[one, two])


def _seen_once(survey: Survey) -> Iterator[Fault]:
    """Classes of which the whole set has one box."""
    if survey.one_class:
        return
    counts = Counter(name for shown in survey.all for name in shown.names if name)
    if 1 not in counts.values():
        return
    for shown in survey.all:
        for place, name in enumerate(shown.names):
            if counts[name] == 1:
                yield _fault(shown, place, "seen_once", f"the only {name} there is")


def _several(survey: Survey) -> Iterator[Fault]:
    """Pictures of several classes where each is to show one."""
    for shown in survey.all:
        names = sorted({*shown.names} - {""})
        if len(names) > 1:
            words = f"{shown.said_in}: shows {some(names)}, and localization wants one class"
            yield Fault(shown.file.key, None, "several", words)


def _fault(shown: Shown, place: int, kind: FaultKind, words: str) -> Fault:
    return Fault(
        shown.file.key,
        place + 1,
        kind,
        f"{shown.names[place]} {words} ({shown.where(place)})".strip(),
    )
