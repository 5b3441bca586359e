"""COCO's JSON: images, categories and annotations with boxes, outlines and crowds.

Boxes are [left, top, width, height] in px, edges counted from 0 (cocodataset.org, data format).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from deepen.data.annotated.records import Fault, Shown, Survey
from deepen.data.annotated.safely import look_into, read_json, whole
from deepen.data.annotated.safely import number as to_number
from deepen.data.index import FolderIndex
from deepen.data.leftout import NO_ROW, some
from deepen.data.names import printable, to_text
from deepen.data.split import SPLIT_FOLDERS, SplitName
from deepen.data.tables import Names
from deepen.data.walk import File, Walk
from deepen.errors import InputError

_NAMED = re.compile(r"instances.*\.json|.*[._]coco\.json", re.IGNORECASE)
_SPLIT_IN_NAME = re.compile(
    f"(?<![a-z])({'|'.join(sorted(SPLIT_FOLDERS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)


def find_files(root: Path) -> list[Path]:
    """The files of a folder that by their names are COCO's: instances_*.json, *.coco.json.

    They lie in it, in its folder `annotations`, or in folders of splits.
    """
    folders, files = look_into(root)
    for folder in folders:
        if folder.name.lower() in ("annotations", *SPLIT_FOLDERS):
            files += look_into(folder)[1]
    return [file for file in files if _NAMED.fullmatch(file.name)]


def read_coco(root: Path, asked: dict[str, str]) -> Survey:
    """The pictures that JSON files tell of.

    Args:
        root: a folder that holds pictures and files of `find_files`, each of the split that its
            name (`instances_train2017.json`) or folder says; or one such file.
        asked: `images`, the folder of the pictures, and `boxes`, the file.

    Raises:
        InputError: a file is broken, two stand for one split, or none of its pictures is there.
    """
    if root.is_dir():
        files = [_inside(root, asked["boxes"])] if "boxes" in asked else find_files(root)
    else:
        files, root = [root], root.parent
    folder = _inside(root, asked["images"]) if "images" in asked else root
    if not folder.is_dir():
        raise InputError(f"images={asked['images']}: no such folder, here or in {root}")
    splits: dict[SplitName, Path] = {}
    for path in files:
        split = _split_of(path) if len(files) > 1 else (_split_of(path) or "train")
        if split is None or split in splits:
            names = some([to_text(each.relative_to(root)) for each in files])
            raise InputError(f"{root}: which split is which of {names}? say ?boxes=FILE")
        splits[split] = path
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    survey = Survey(folder, "COCO", own=())
    with FolderIndex(folder) as index:
        walk = Walk(index, folder, frozenset(files))
        pictures, _ = walk.files(folder)
    told: set[str] = set()
    for split in get_args(SplitName):
        if split in splits:
            path = splits[split]
            names = Names(pictures, folder, _prefixes(path, folder, pictures))
            survey.pictures[split] = list(_Reader(survey, path, names).pictures())
            told |= {shown.file.key for shown in survey.pictures[split]}
    survey.own = tuple(survey.pictures) if len(splits) > 1 else ()
    for file in pictures:
        if file.key not in told:
            walk.left.add(NO_ROW.replace("row in the table", "place in the JSON"), file.key)
    survey.notes += walk.left.notes()
    return survey


def _inside(root: Path, word: str) -> Path:
    """A path in the folder, else as it stands."""
    inside = root / word
    return inside if inside.exists() else Path(word).expanduser()


def _split_of(path: Path) -> SplitName | None:
    found = _SPLIT_IN_NAME.search(re.sub("[0-9_]", " ", path.stem))
    if found:
        return SPLIT_FOLDERS[found[1].lower()]
    return SPLIT_FOLDERS.get(path.parent.name.lower())


def _prefixes(path: Path, root: Path, pictures: list[File]) -> list[str]:
    """The folders, with a slash behind, that names in a file may be relative to, the likely first.

    Of instances_train2017.json these are `train2017` wherever it lies, its own, and any.
    """
    ending = path.stem.partition("_")[2].lower()
    folders = list(dict.fromkeys(each.key.rpartition("/")[0] for each in pictures))
    near = [each for each in folders if each.rpartition("/")[2].lower() == ending]
    if path.parent.is_relative_to(root) and path.parent != root:
        near.append(to_text(path.parent.relative_to(root)))
    return [*(f"{each}/" for each in near), "", "images/"]


class _Reader:
    """Reads one file; what is wrong with all of it is an `InputError` that names the place."""

    def __init__(self, survey: Survey, path: Path, names: Names) -> None:
        self.survey, self.path, self.names = survey, path, names
        self.name = (
            to_text(path.relative_to(survey.root)) if survey.root in path.parents else path.name
        )
        document = read_json(path)
        if not isinstance(document, dict):
            raise InputError(f"{path}: is no COCO file: its top is no object")
        self.parts = {
            part: self._part(document, part) for part in ("categories", "images", "annotations")
        }
        self.classes = self._classes()

    def _part(self, document: dict[str, Any], part: str) -> list[dict[str, Any]]:
        entries = document.get(part)
        if not isinstance(entries, list):
            raise InputError(f"{self.path}: is no COCO file: it has no list of {part}")
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(f"{self.path}: {part}[{place}]: is no object")
        return entries

    def _id(self, part: str, place: int, key: str = "id") -> int | str:
        value = self.parts[part][place].get(key)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InputError(f"{self.path}: {part}[{place}]: {key} is {value!r:.40}, no number")
        return value

    def _classes(self) -> dict[int | str, str]:
        """The name of each id, in the order of the ids."""
        found: dict[int | str, str] = {}
        for place, entry in enumerate(self.parts["categories"]):
            number, name = self._id("categories", place), entry.get("name")
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"{self.path}: categories[{place}]: has no name")
            if number in found or printable(name) in found.values():
                raise InputError(
                    f"{self.path}: categories[{place}]: {name!r} or its id comes twice"
                )
            found[number] = printable(name)
        known = self.survey.classes
        if not found:
            raise InputError(f"{self.path}: has no categories")
        order = sorted(found, key=lambda number: (isinstance(number, str), number))
        new = [found[number] for number in order if found[number] not in known]
        if known and new:
            self.survey.notes.append(f"classes that {self.name} alone has: {some(new)}")
        self.survey.classes = (*known, *new)
        return found

    def pictures(self) -> Iterator[Shown]:
        """The pictures that are there, in the order of the file."""
        found: dict[int | str, Shown | None] = {}
        seen: set[str] = set()
        lost: list[str] = []
        for place, entry in enumerate(self.parts["images"]):
            number, name = self._id("images", place), entry.get("file_name")
            where = f"{self.path}: images[{place}]"
            if number in found:
                raise InputError(f"{where}: id {number} comes twice")
            if not isinstance(name, str) or not name:
                raise InputError(f"{where}: has no file_name")
            file = self.names.find(name, where)
            if file is None:
                found[number] = None
                lost.append(printable(name))
                continue
            if file.key in seen:
                raise InputError(f"{where}: {file.key} comes twice")
            seen.add(file.key)
            size = whole(entry.get("width")), whole(entry.get("height"))
            stated = None if None in size else size
            found[number] = Shown(file, self.name, stated, unit="annotation", outlines=[])  # type: ignore[arg-type]
        shown = [each for each in found.values() if each is not None]
        if not shown:
            some_lost = f": {some(lost)}" if lost else ""
            raise InputError(
                f"{self.path}: none of its pictures is in {self.survey.root}{some_lost}"
            )
        for name in lost:
            words = f"{self.name} tells of it, and there is no such picture"
            self.survey.faults.append(Fault(name, None, "no_picture", words))
        corners = self._annotations(found)
        for each in shown:
            each.boxes = np.array(corners.get(id(each), []), np.float64).reshape(-1, 4)
            if each.outlines is not None and not all(each.outlines):
                each.outlines = None
        yield from shown

    def _annotations(self, found: dict[int | str, Shown | None]) -> dict[int, list[list[float]]]:
        """Add each annotation to its picture; the corners of the boxes, by the picture's `id`."""
        corners: dict[int, list[list[float]]] = {}
        for place, entry in enumerate(self.parts["annotations"]):
            number, of = entry.get("id", place), entry.get("image_id")
            if isinstance(of, bool) or not isinstance(of, int | str) or of not in found:
                words = (
                    f"annotation {number!r:.20} is of the picture {of!r:.20}, which images lacks"
                )
                self.survey.faults.append(Fault(self.name, place + 1, "no_picture", words))
                continue
            shown = found[of]
            if shown is None:
                continue
            label, box, here = entry.get("category_id"), entry.get("bbox"), len(shown.names)
            known = isinstance(label, int | str) and not isinstance(label, bool)
            name = self.classes.get(label, "") if known else ""  # type: ignore[arg-type]
            if not name:
                shown.flaws[here] = (
                    "label",
                    f"category_id {label!r:.20} is none of the categories",
                )
            if not isinstance(box, list) or len(box) != 4:
                shown.flaws[here] = ("not_finite", f"bbox is {box!r:.40}, not four numbers")
                box = [None] * 4
            left, top, width, height = map(to_number, box)
            corners.setdefault(id(shown), []).append([left, top, left + width, top + height])
            shown.names.append(name)
            shown.places.append(printable(str(number)[:20]))
            shown.difficult.append(False)
            shown.crowd.append(entry.get("iscrowd") in (1, True))
            if shown.outlines is not None:
                shown.outlines.append(entry.get("segmentation"))
        return corners
