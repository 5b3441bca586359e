"""Sets with boxes or masks, by what lies in a folder: found, checked, and made a `PictureSet`."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepen.data.annotated import coco, masks, table, voc
from deepen.data.annotated.faults import Checked, check
from deepen.data.annotated.outlines import draw_all
from deepen.data.annotated.records import REFUSED, Fault, LazyTarget, Shown, Survey
from deepen.data.annotated.safely import look_into
from deepen.data.leftout import some
from deepen.data.lists import Spellings, exclude_from
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.errors import InputError, unknown

SETTINGS = (
    *("boxes", "images", "masks", "classes", "void", "as"),
    *("image", "label", "split"),
)
"""What may be said of a set behind the `?`."""
_BOX = re.compile(r"(.*)#box (\d{1,9})")
_CLASSES_SHOWN = 12

Reader = Callable[[Path, dict[str, str]], Survey]


def find_reader(where: Path, asked: dict[str, str]) -> Reader | None:
    """What reads a folder or file as a set with boxes or masks; None where it is none.

    Args:
        where: of the word before the `?`.
        asked: what is said behind it.
    """
    if where.is_file() and where.suffix.lower() == ".json":
        return coco.read_coco
    if not where.is_dir() or "labels" in asked or "tags" in asked:
        return None
    if "masks" in asked:
        return masks.read_masks
    if "boxes" in asked:
        is_json = asked["boxes"].lower().endswith(".json")
        return coco.read_coco if is_json else table.read_boxes
    try:
        if voc.is_voc(where):
            return voc.read_voc
        if masks.is_masks(where):
            return masks.read_masks
        if coco.find_files(where):
            return coco.read_coco
        if _is_loose(where) and table.find_tables(where):
            return table.read_boxes
    except OSError:  # a folder that is closed to us: whoever goes through it says so
        pass
    return None


def _is_loose(where: Path) -> bool:
    """Whether a folder does not look like one of class folders, of which a table may tell too."""
    folders, _ = look_into(where)
    for folder in folders:
        if SPLIT_FOLDERS.get(folder.name.lower()) == "train":
            folders = look_into(folder)[0]
    return len(folders) < 2


class Opened(NamedTuple):
    """A set that was read and checked.

    Attributes:
        survey: what is said.
        checked: what was found of each picture, by key.
        faults: all, in the order of the pictures.
        notes: in words.
    """

    survey: Survey
    checked: dict[str, Checked]
    faults: list[Fault]
    notes: list[str]


def survey_annotated(reader: Reader, where: Path, asked: dict[str, str]) -> Opened:
    """Read and check a set; what is wrong with it as a whole is raised, all else is told.

    Raises:
        InputError: it is broken as a whole; the line names the file.
    """
    if strange := [name for name in asked if name not in SETTINGS]:
        raise unknown("word after the ?", strange[0], SETTINGS)
    if asked.get("as") not in (None, "localization"):
        raise unknown("as", asked["as"], ["localization"])
    survey = reader(where, asked)
    if reader is masks.read_masks and not survey.classes:
        highest = max(masks.values_of(survey.all), default=0)
        survey.classes = tuple(str(value) for value in range(highest + 1))
    checked, faults, notes = check(survey)
    faults = [fault for each in checked.values() for fault in each.faults] + faults
    return Opened(survey, checked, faults, notes)


def open_annotated(
    word: str,
    where: Path,
    asked: dict[str, str],
    exclude: frozenset[str] = frozenset(),
    *,
    to_train: bool = True,
) -> PictureSet:
    """A set with boxes or masks; all is in `train` where it has no splits of its own.

    Targets of a picture are {"boxes": float32 (n, 4), "labels": int64 (n,), "difficult" and
    "crowd": bool (n,)}, where the source has outlines of all {"masks": uint8 (n, h, w)} too;
    {"mask": uint8 (h, w)} where it has masks of classes; {"boxes"} alone for localization. All are
    in px of the upright picture. Labels of pictures are the class of the first box, and 0 without
    one; of localization they are the class.

    Args:
        word: what the user typed.
        where: a folder, or a JSON file of COCO's.
        asked: of `SETTINGS`.
        exclude: keys of pictures, and boxes as `KEY#box 3`.
        to_train: else the pictures are scored, and need not have a `train`.

    Raises:
        InputError: it is broken, or has a fault of `REFUSED` that is not excluded.
    """
    reader = find_reader(where, asked)
    assert reader is not None
    opened = survey_annotated(reader, where, asked)
    return lay_out(word, opened, exclude, to_train=to_train)


def lay_out(
    word: str, opened: Opened, exclude: frozenset[str], *, to_train: bool = True
) -> PictureSet:
    """The pictures of a set that was read and checked; arguments and errors of `open_annotated`."""
    survey = opened.survey
    out, boxes_out, notes = _exclude(opened, exclude)
    faults = [
        fault
        for fault in opened.faults
        if fault.kind in REFUSED
        and fault.file not in out
        and (fault.box is None or fault.box - 1 not in boxes_out[fault.file])
    ]
    if faults:
        raise InputError(_refusal(word, survey, faults))
    has_outlines = _has_outlines(survey)
    splits: dict[SplitName, Split] = {}
    kept: list[Shown] = []
    unboxed: list[str] = []
    for name, of_split in survey.pictures.items():
        chosen: list[Shown] = []
        for shown in of_split:
            if shown.file.key in out:
                continue
            if boxes_out[shown.file.key]:
                shown = shown.without(boxes_out[shown.file.key])
            if not survey.one_class or shown.names:
                chosen.append(shown)
            else:
                unboxed.append(shown.file.key)
        if chosen:
            splits[name] = _split(name, chosen, opened, has_outlines)
            kept += chosen
    if "train" not in splits and (to_train or not splits):
        raise InputError(f"{word}: has no picture to train on")
    if not survey.classes:
        said_in = next((shown.said_in for shown in kept), "")
        raise InputError(f"{survey.root / said_in}: says of no picture that it shows something")
    if unboxed:
        notes.append(f"left out: {len(unboxed):,} pictures without a box: {some(unboxed)}")
    notes = [*_in_words(opened, kept), *survey.notes, *opened.notes, *notes]
    notes += _told(opened.faults, survey)
    if any(shown.outlines for shown in kept) and not has_outlines:
        notes.append("masks: not every box has an outline, so none is used")
    return PictureSet(word, survey.root, survey.classes, 3, splits, tuple(notes), survey.own)


def _exclude(
    opened: Opened, exclude: frozenset[str]
) -> tuple[set[str], defaultdict[str, set[int]], list[str]]:
    """The pictures and the boxes that a list means, and notes."""
    pictures = frozenset(word for word in exclude if not _BOX.match(word.partition("\t")[0]))
    out, notes = exclude_from(opened.checked.keys(), pictures, opened.survey.root)
    boxes: defaultdict[str, set[int]] = defaultdict(set)
    strange, spellings = [], Spellings(opened.survey.root)
    for word in sorted(exclude - pictures):
        found = _BOX.match(word.partition("\t")[0])
        assert found is not None
        key = next((each for each in spellings(found[1]) if each in opened.checked), None)
        number = int(found[2])
        if key is None or not 1 <= number <= len(opened.checked[key].shown.names):
            strange.append(word)
        else:
            boxes[key].add(number - 1)
    if boxes:
        count = sum(map(len, boxes.values()))
        notes.append(f"excluded: {count:,} boxes of {len(boxes):,} pictures")
    if strange:
        notes.append(f"listed to be excluded, but no box here: {some(strange)}")
    return out, boxes, notes


def _refusal(word: str, survey: Survey, faults: list[Fault]) -> str:
    first, more = faults[0], len(faults) - 1
    rest = f" and {more:,} more" if more else ""
    help_ = f"deepen doctor {shlex.quote(word)} --quarantine bad.txt, then --exclude bad.txt"
    words = first.words if first.kind == "broken" else f"{first.name}: {first.kind}: {first.words}"
    return f"{words}{rest}; mend {'them' if more else 'it'}, or {help_}"


def _has_outlines(survey: Survey) -> bool:
    boxed = [shown for shown in survey.all if shown.names]
    return bool(boxed) and all(shown.outlines for shown in boxed)


def _split(name: SplitName, chosen: list[Shown], opened: Opened, has_outlines: bool) -> Split:
    classes = opened.survey.classes
    place = {each: i for i, each in enumerate(classes)}
    targets: list[Any] = []
    for shown in chosen:
        size = opened.checked[shown.file.key].size
        labels = np.array([place[each] for each in shown.names], np.int64)
        boxes = shown.boxes.astype(np.float32)
        if shown.mask is not None:
            later = {"mask": partial(masks.decode_mask, shown.mask, len(classes))}
            targets.append(LazyTarget({}, later, partial(_mask_bytes, shown.mask, len(classes))))
        elif opened.survey.one_class:
            targets.append({"boxes": boxes})
        else:
            ready = {
                "boxes": boxes,
                "labels": labels,
                "difficult": np.array(shown.difficult, bool),
                "crowd": np.array(shown.crowd, bool),
            }
            if has_outlines and size is not None:
                outlines = shown.outlines or []
                later = {"masks": partial(draw_all, outlines, size)}
                targets.append(LazyTarget(ready, later, partial(_outline_bytes, outlines)))
            else:
                targets.append(ready)
    return Split(
        name,
        np.array([place[shown.names[0]] if shown.names else 0 for shown in chosen], np.int64),
        tuple(shown.file.key for shown in chosen),
        files=tuple(shown.file.path for shown in chosen),
        sizes=np.array([shown.file.size for shown in chosen], np.int64),
        targets=tuple(targets),
    )


def _mask_bytes(mask: masks.MaskFile, num_classes: int) -> bytes:
    return masks.decode_mask(mask, num_classes).tobytes()


def _outline_bytes(outlines: list[Any]) -> bytes:
    return json.dumps(outlines, sort_keys=True).encode()


def _in_words(opened: Opened, kept: list[Shown]) -> list[str]:
    """How many pictures and boxes of each class there are."""
    survey = opened.survey
    if any(shown.mask for shown in kept):
        values = sum(opened.checked[shown.file.key].values for shown in kept)  # type: ignore[misc]
        total, void = int(values.sum()), int(values[255])  # type: ignore[union-attr]
        shares = [
            f"{name} {int(values[i]) / max(1, total - void):.1%}"  # type: ignore[index]
            for i, name in enumerate(survey.classes)
        ]
        return [
            f"{survey.format}: {len(kept):,} pictures ({_first(shares)}); {void / total:.1%} void"
        ]
    counts = Counter(name for shown in kept for name in shown.names)
    each = _first([f"{name} {counts[name]:,}" for name in survey.classes])
    total, empty = counts.total(), sum(not shown.names for shown in kept)
    line = f"{survey.format}: {total:,} boxes in {len(kept):,} pictures ({each})"
    if difficult := sum(sum(shown.difficult) for shown in kept):
        line += f"; {difficult:,} difficult"
    if crowds := sum(sum(shown.crowd) for shown in kept):
        line += f"; {crowds:,} crowds"
    notes = [line]
    if empty:
        bare = [shown.file.key for shown in kept if not shown.names]
        notes.append(f"without a box: {empty:,} pictures, taken to show nothing: {some(bare)}")
    return notes


def _first(words: list[str]) -> str:
    more = len(words) - _CLASSES_SHOWN
    return ", ".join(words[:_CLASSES_SHOWN]) + (f" and {more:,} classes more" if more > 0 else "")


def _told(faults: list[Fault], survey: Survey) -> list[str]:
    """Faults that are no reason to refuse, a line a kind."""
    told = {
        "double": "boxes that are drawn twice",
        "seen_once": "classes seen once",
        "no_picture": "annotations without a picture, left out",
    }
    lines = []
    for kind, words in told.items():
        if names := [fault.name for fault in faults if fault.kind == kind]:
            lines.append(f"{words}: {len(names):,}: {some(names)}")
    trained = {name for shown in survey.pictures.get("train", ()) for name in shown.names}
    never = [name for name in survey.classes if name not in trained]
    if survey.own and never and not any(shown.mask for shown in survey.all):
        lines.append(f"classes without a box to train on: {len(never):,}: {some(never)}")
    return lines
