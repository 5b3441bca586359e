"""Folders of pictures and of masks, in which each pixel's value is its class.

- Pascal VOC's JPEGImages/ and SegmentationClass/, with lists in ImageSets/Segmentation;
- CamVid as SegNet's authors give it, train/ and trainannot/, val/ and valannot/, test/ ...;
- any folder of pictures, and one of masks that `?masks=DIR` names.

Values are places of classes, 255 is none; or colours, which a table of classes explains.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from deepen.data.annotated.records import VOID, Fault, MaskFile, Shown, Survey
from deepen.data.annotated.safely import number, read_bytes
from deepen.data.annotated.voc import read_lists
from deepen.data.decode import PictureError, open_mask
from deepen.data.index import FolderIndex
from deepen.data.leftout import some
from deepen.data.names import printable
from deepen.data.split import SPLIT_FOLDERS, SplitName
from deepen.data.walk import File, Walk
from deepen.errors import InputError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
    "bicyclist",
)
"""The 11 of SegNet (Badrinarayanan et al. 2015, table 1) by their values; 11 is of no class."""
_CAMVID = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+$")  # CamVid's four films
_BESIDE = ("annot", "_annot", "_labels", "_masks")
"""What a folder of masks is called after that of the pictures."""
_TAILS = ("", "_L", "_mask", "_masks", "_label", "_labels", "_P", "_gt")
"""What may follow a picture's name in its mask's."""
_NO_CLASS = frozenset({"void", "unlabelled", "unlabeled", "ignore", "__ignore__"})
_TABLES = ("classes.csv", "class_dict.csv", "label_colors.txt", "class_names.txt", "classes.txt")


class Classes(NamedTuple):
    """The classes by their places, and how the values or colours of masks stand for them."""

    names: tuple[str, ...]
    void: int | None = None
    colours: tuple[tuple[int, int, int], ...] | None = None
    ignored: tuple[tuple[int, int, int], ...] = ()
    table: str = ""


def is_masks(root: Path) -> bool:
    """Whether a folder is laid out as VOC's segmentation or CamVid."""
    voc = (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()
    return voc or any((root / "train").is_dir() and (root / f"train{t}").is_dir() for t in _BESIDE)


def read_masks(root: Path, asked: dict[str, str]) -> Survey:
    """The pictures that have a mask; others are left out.

    Args:
        root: the folder.
        asked: `masks`, the folder of masks, where none is plain; `classes`, a table of their names,
            a line each, or of names and colours (`name,r,g,b`, or `r g b name`); `void`, a value
            that is of no class, beside 255.

    Raises:
        InputError: no picture has a mask, or the table is broken.
    """
    survey = Survey(root, "masks")
    with FolderIndex(root) as index:
        walk = Walk(index, root)
        files, _ = walk.files(root)
    pairs, splits = _pair(survey, files, asked)
    classes = _classes(root, asked, [file for file, _ in pairs])
    survey.format = f"masks of {len(classes.names) or 'some'} classes"
    found: dict[str, Shown] = {}
    for file, mask in pairs:
        shown = Shown(file, mask.key)
        shown.mask = MaskFile(mask.path, mask.key, *classes[1:])
        found[file.key] = shown
    if splits:
        survey.own = tuple(split for split in get_args(SplitName) if split in splits)
        survey.pictures = {s: [found[k] for k in splits[s] if k in found] for s in survey.own}
        survey.own = tuple(split for split in survey.own if survey.pictures[split])
        survey.pictures = {split: survey.pictures[split] for split in survey.own}
        inside = {shown.file.key for shown in survey.all}
        for key in found:
            if key not in inside:
                walk.left.add("picture|in no split", key)
    else:
        survey.pictures = {"train": [*found.values()]}
    survey.classes = classes.names
    survey.notes += walk.left.notes()
    return survey


def _pair(
    survey: Survey, files: list[File], asked: dict[str, str]
) -> tuple[list[tuple[File, File]], dict[SplitName, list[str]]]:
    """Pictures with their masks, and the keys of each split, none where there are no splits."""
    root = survey.root
    beside: dict[str, str] = {}
    folders = {file.key.partition("/")[0] for file in files}
    if "masks" in asked:
        where = asked["masks"].strip("/")
        if not (root / where).is_dir():
            raise InputError(f"masks={asked['masks']}: no such folder in {root}")
        seen = "JPEGImages" if "JPEGImages" in folders and where != "JPEGImages" else ""
        beside = {seen: where}
    elif {"JPEGImages", "SegmentationClass"} <= folders:
        beside = {"JPEGImages": "SegmentationClass"}
    else:
        both = [(name, name + tail) for name in folders for tail in _BESIDE]
        beside = {name: mask for name, mask in both if mask in folders}
    masks = {folder: _under(files, folder) for folder in beside.values()}
    of_masks = {file.key for each in masks.values() for file in each.values()}
    pairs: list[tuple[File, File]] = []
    bare: list[str] = []
    used: set[str] = set()
    for folder, where in beside.items():
        for stem, file in _under(files, folder).items():
            if file.key in of_masks:
                continue
            mask = _mask_of(stem, masks[where])
            if mask is None:
                bare.append(file.key)
            else:
                pairs.append((file, mask))
                used.add(mask.key)
    if not pairs:
        raise InputError(f"{root}: no picture has a mask of its name in {', '.join(masks) or 'it'}")
    if bare:
        survey.notes.append(f"left out: {len(bare):,} pictures without a mask: {some(bare)}")
    for key in sorted(of_masks - used):
        survey.faults.append(Fault(key, None, "no_picture", "a mask of no picture"))
    keys = {stem: file for folder in beside for stem, file in _under(files, folder).items()}
    lists = read_lists(survey, root / "ImageSets" / "Segmentation", keys)
    splits = {split: [keys[name].key for name in names] for split, names in lists.items()}
    return pairs, splits or _by_folder(survey, [file.key for file, _ in pairs])


def _under(files: list[File], folder: str) -> dict[str, File]:
    """The pictures in a folder, by their path in it without its ending."""
    start = f"{folder}/" if folder else ""
    return {
        f.key[len(start) :].removesuffix(f.path.suffix): f for f in files if f.key.startswith(start)
    }


def _mask_of(stem: str, masks: dict[str, File]) -> File | None:
    """Of a picture: `images/train/1` has `train/1`, or `1`, perhaps with a tail."""
    parts = stem.split("/")
    names = ("/".join(parts[start:]) + tail for start in range(len(parts)) for tail in _TAILS)
    return next((masks[name] for name in names if name in masks), None)


def _by_folder(survey: Survey, keys: list[str]) -> dict[SplitName, list[str]]:
    """By the folders of splits that all pictures lie in; none where one lies in none."""
    splits: dict[SplitName, list[str]] = {}
    for key in keys:
        known = [
            SPLIT_FOLDERS[p.lower()] for p in key.split("/")[:-1] if p.lower() in SPLIT_FOLDERS
        ]
        if not known:
            return {}
        splits.setdefault(known[0], []).append(key)
    survey.notes.append("splits: by folders, " + ", ".join(splits))
    return splits if "train" in splits else {}


def _classes(root: Path, asked: dict[str, str], files: list[File]) -> Classes:
    """By a table, else by the set that this is; no names where neither is known."""
    void = None
    if "void" in asked:
        value = number(asked["void"])
        if not (value.is_integer() and 0 <= value <= 255):
            raise InputError(f"void={asked['void']}: a value from 0 to 255")
        void = int(value)
    if "classes" in asked:
        inside = root / asked["classes"]
        path = inside if inside.is_file() else Path(asked["classes"]).expanduser()
        return _with_void(read_classes(path), void)
    for name in _TABLES:
        if (root / name).is_file():
            return _with_void(read_classes(root / name), void)
    if all(_CAMVID.match(file.path.stem) for file in files):
        return Classes(CAMVID_CLASSES, 11 if void is None else void)
    if (root / "SegmentationClass").is_dir() and (root / "ImageSets" / "Segmentation").is_dir():
        return Classes(VOC_CLASSES, void)
    return Classes((), void)


def _with_void(classes: Classes, void: int | None) -> Classes:
    return classes if void is None else classes._replace(void=void)


def read_classes(path: Path) -> Classes:
    """A table of classes: a name a line, or names with red, green and blue.

    Lines may be `name,r,g,b` (with or without a head) or `r g b name`; names like void and
    unlabelled stand for no class.

    Raises:
        InputError: a line is neither, or a name or a colour comes twice.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = [_row(line) for line in text.splitlines() if line.strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no table of classes ({error})") from error
    found = [(name, colour) for name, colour in rows if name]
    coloured = [(name, colour) for name, colour in found if colour is not None]
    if coloured and len(coloured) == len(found) - 1 and found[0][1] is None:
        found = coloured  # the head of the columns
    names = [name for name, _ in found]
    colours = [colour for _, colour in found if colour is not None]
    if colours and len(colours) < len(found):
        line = next(name for name, colour in found if colour is None)
        raise InputError(f"{path}: {line!r} has no red, green and blue from 0 to 255")
    for each in (names, colours):
        if twice := [one for one in each if each.count(one) > 1]:
            raise InputError(f"{path}: {twice[0]!r} comes twice")
    real = [name for name in names if name.lower() not in _NO_CLASS]
    if not real:
        raise InputError(f"{path}: names no class")
    if not colours:
        names = names[names[0] == "__ignore__" :]  # labelme's, whose value is -1
        void = next((i for i, name in enumerate(names) if name.lower() in _NO_CLASS), None)
        names = names[:-1] if void == len(names) - 1 else names
        return Classes(tuple(names), void, table=path.name)
    by_name = dict(zip(names, colours, strict=True))
    ignored = tuple(by_name[name] for name in names if name not in real)
    return Classes(tuple(real), None, tuple(by_name[name] for name in real), ignored, path.name)


def _row(line: str) -> tuple[str, tuple[int, int, int] | None]:
    cells = next(csv.reader(io.StringIO(line.replace("\0", ""))), [])
    if len(cells) < 4:
        cells = line.split() if len(line.split()) > 3 else [line]
    for numbers, rest in ((cells[1:4], cells[:1]), (cells[:3], cells[3:])):
        values = [number(cell) for cell in numbers]
        if len(values) == 3 and all(v.is_integer() and 0 <= v <= 255 for v in values):
            return printable(" ".join(rest).strip()), (
                int(values[0]),
                int(values[1]),
                int(values[2]),
            )
    return printable((cells[0] if len(cells) > 3 else line).strip()), None


def decode_mask(mask: MaskFile, num_classes: int) -> np.ndarray:
    """A mask in places of classes, uint8 (h, w), 255 where there is none.

    Raises:
        PictureError: it cannot be decoded.
        InputError: a value or a colour is of no class.
    """
    values = open_mask(mask.path, name=mask.name)
    if values.ndim == 3:
        return _of_colours(values, mask)
    if mask.colours is not None:
        raise InputError(f"{mask.name}: has values, not the colours of {mask.table}")
    if values.dtype != np.uint8:
        values = values.astype(np.int64)
    if mask.void is not None:
        values[values == mask.void] = VOID
    strange = values[(values != VOID) & ((values < 0) | (values >= num_classes))]
    if strange.size:
        words = f"value {strange[0]} in {strange.size:,} pixels, above the {num_classes} classes"
        words += f" of {mask.table}" if mask.table else ""
        raise InputError(f"{mask.name}: {words}")
    return values.astype(np.uint8)


def _of_colours(pixels: np.ndarray, mask: MaskFile) -> np.ndarray:
    if mask.colours is None:
        raise InputError(
            f"{mask.name}: is in colours; say what they are, ?classes=FILE of name,r,g,b"
        )
    codes = pixels.astype(np.int64) @ [65_536, 256, 1]
    table = [*mask.colours, *mask.ignored]
    known = np.array(table, np.int64) @ [65_536, 256, 1]
    places = np.array([*range(len(mask.colours)), *[VOID] * len(mask.ignored)], np.uint8)
    order = np.argsort(known)
    at = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    strange = known[order][at] != codes
    if strange.any():
        red, green, blue = pixels[strange][0].tolist()
        words = f"{red},{green},{blue} in {int(strange.sum()):,} pixels"
        raise InputError(f"{mask.name}: {words}, none of the colours of {mask.table}")
    return places[order][at]


def values_of(shown: Iterator[Shown]) -> set[int]:
    """All values that masks without names of classes have, but void."""
    found: set[int] = set()
    for each in shown:
        assert each.mask is not None
        try:
            values = open_mask(each.mask.path, name=each.mask.name)
        except PictureError:  # told of with the picture
            continue
        if values.ndim == 3:
            raise InputError(f"{each.mask.name}: is in colours; say ?classes=FILE of name,r,g,b")
        found |= {int(value) for value in np.unique(values)} - {VOID, each.mask.void}
    return found
