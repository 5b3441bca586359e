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
    """
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
    cut, of_boxes = _of_boxes(shown, None if faults else size)
    clipped = int((cut != shown.boxes).any(1).sum())
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
    boxes, spare = shown.boxes, shown.pixel
    cut = boxes.copy()
    if size is not None:
        cut[:, 0::2] = boxes[:, 0::2].clip(0, size[0])
        cut[:, 1::2] = boxes[:, 1::2].clip(0, size[1])
    for place in range(len(boxes)):
        left, top, right, bottom = boxes[place].tolist()
        wide, high = right - left - spare, bottom - top - spare
        corners = f"{left + spare:g},{top + spare:g} to {right:g},{bottom:g}"
        if not np.isfinite(boxes[place]).all():
            found[place] = "not_finite", f"{corners} is not four numbers"
        elif wide < 0 or high < 0:
            found[place] = "inverted", f"{corners} ends before it begins"
        elif wide == 0 or high == 0:
            found[place] = "degenerate", f"{corners} is {wide:g}x{high:g} px"
        elif size is not None:
            x1, y1, x2, y2 = cut[place].tolist()
            out = np.abs(cut[place] - boxes[place]).max()
            if x1 >= x2 or y1 >= y2:
                found[place] = "outside", f"{corners} lies outside {size[0]}x{size[1]} px"
            elif out > CLIPPED_PX:
                words = f"{corners} sticks out of {size[0]}x{size[1]} px by {out:g}"
                found[place] = "outside", words
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


def _doubles(shown: Shown, boxes: np.ndarray, sound: list[int]) -> Iterator[tuple[int, int, float]]:
    """Boxes of one class that are the same or nearly, but for crowds: earlier, later, IoU."""
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for place in sound:
        if not shown.crowd[place]:
            by_name[shown.names[place]].append(place)
    for places in by_name.values():
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
