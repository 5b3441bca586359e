"""Folders as Pascal VOC has them: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt.

ILSVRC's localization is laid out alike (Annotations/CLS-LOC, Data/CLS-LOC), by folders of splits.

Corners are pixels counted from 1, and both belong to the box (the devkit's documentation of 2007;
py-faster-rcnn subtracts 1 of all four): the edges of `xmin` to `xmax` are xmin - 1 and xmax.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import get_args

import numpy as np

from deepen.data.annotated.records import Fault, Shown, Survey
from deepen.data.annotated.safely import number, read_xml, whole
from deepen.data.index import FolderIndex
from deepen.data.leftout import NO_SPLIT, some
from deepen.data.names import natural_key, printable, to_text
from deepen.data.split import SPLIT_FOLDERS, SplitName
from deepen.data.walk import File, Walk
from deepen.errors import InputError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
FOLDERS = (("Annotations", "JPEGImages", "Main"), ("Annotations/CLS-LOC", "Data/CLS-LOC", ""))
"""Of annotations, of pictures, and of lists in ImageSets."""


def is_voc(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return any((root / said).is_dir() and (root / seen).is_dir() for said, seen, _ in FOLDERS)


def read_voc(root: Path, asked: dict[str, str]) -> Survey:
    """The pictures of a folder, and what its XML files say of them.

    Pictures of its lists (`ImageSets/Main/train.txt`, `val.txt`, `trainval.txt`, `test.txt`) are in
    these splits, and others are left out; without lists, a folder that all pictures of a split lie
    in stands for it.

    Args:
        root: the folder.
        asked: `as=localization` where each picture shows one class, as ILSVRC's do.

    Raises:
        InputError: lists contradict each other or name no picture.
    """
    said, seen, lists = next(
        each for each in FOLDERS if (root / each[0]).is_dir() and (root / each[1]).is_dir()
    )
    one_class = asked.get("as") == "localization" or not lists
    survey = Survey(root, "ILSVRC" if not lists else "Pascal VOC", one_class=one_class)
    with FolderIndex(root) as index:
        walk = Walk(index, root)
        files, _ = walk.files(root / seen)
        texts = _below(index, root / said)
    pictures = _by_id(files, seen)
    splits = read_lists(survey, root / "ImageSets" / lists, pictures) if lists else {}
    if not splits:
        splits = _by_folder(survey, pictures)
    inside = {name for names in splits.values() for name in names}
    for name, file in pictures.items():
        if name not in inside:
            walk.left.add(NO_SPLIT, file.key)
    for split, names in splits.items():
        survey.pictures[split] = [_read(pictures[n], root, texts.get(n), survey) for n in names]
    strange = [to_text(texts[name].relative_to(root)) for name in texts if name not in pictures]
    survey.faults += [
        Fault(file, None, "no_picture", "there is no such picture") for file in strange
    ]
    survey.classes = tuple(sorted({n for s in survey.all for n in s.names if n}, key=natural_key))
    survey.notes += walk.left.notes()
    return survey


def _below(index: FolderIndex, folder: Path) -> dict[str, Path]:
    """The XML files in a folder at any depth, by their path in it without its ending."""
    found: dict[str, Path] = {}
    waiting = [folder]
    while waiting:
        listing = index.listing(waiting.pop())
        waiting += [listing.folder / n for n in listing.folders if n not in listing.linked]
        for name in listing.others:
            path = listing.folder / name
            if path.suffix.lower() == ".xml":
                found[to_text(path.relative_to(folder).with_suffix(""))] = path
    return dict(sorted(found.items(), key=lambda item: natural_key(item[0])))


def _by_id(files: list[File], seen: str) -> dict[str, File]:
    """The pictures by their path in the pictures' folder without its ending."""
    found: dict[str, File] = {}
    for file in files:
        name = file.key.removeprefix(f"{seen}/")
        name = name[: -len(file.path.suffix)] if file.path.suffix else name
        if name in found:
            raise InputError(f"{file.path}: its annotation would be that of {found[name].key} too")
        found[name] = file
    return found


def read_lists(survey: Survey, folder: Path, known: dict[str, File]) -> dict[SplitName, list[str]]:
    """The pictures of each split by the lists of a folder; none where it has no list."""
    lists: dict[str, list[str]] = {}
    for name in ("train", "val", "trainval", "test"):
        path = folder / f"{name}.txt"
        if path.is_file():
            lists[name] = _read_list(path)
    if not lists:
        return {}
    if "trainval" in lists and "train" not in lists:
        val = set(lists.get("val", ()))
        lists["train"] = [each for each in lists["trainval"] if each not in val]
    splits: dict[SplitName, list[str]] = {s: lists[s] for s in get_args(SplitName) if s in lists}
    words = ", ".join(f"{len(names):,} in {split}" for split, names in splits.items())
    where = to_text(folder.relative_to(survey.root))
    survey.notes.append(f"splits: {where}/*.txt, {words}")
    seen: dict[str, SplitName] = {}
    for split, names in splits.items():
        both = [name for name in names if name in seen]
        if both:
            other = seen[both[0]]
            raise InputError(
                f"{folder / split}.txt: {len(both):,} pictures are in {other}.txt too: {some(both)}"
            )
        seen |= dict.fromkeys(names, split)
        for lost in (name for name in names if name not in known):
            words = f"{where}/{split}.txt names {printable(lost)}, and there is no such picture"
            survey.faults.append(Fault(printable(lost), None, "no_picture", words))
    if not any(name in known for name in seen):
        raise InputError(f"{folder}: its lists name no picture of {survey.root}: {some([*seen])}")
    rest = (
        set(lists.get("trainval", ())) - seen.keys() - set(lists["train"]) if "val" in lists else {}
    )
    if rest:
        survey.notes.append(f"splits: {len(rest):,} of trainval.txt are in neither train nor val")
    found = {split: [name for name in names if name in known] for split, names in splits.items()}
    survey.own = tuple(split for split, names in found.items() if names)
    return {split: found[split] for split in survey.own}


def _read_list(path: Path) -> list[str]:
    """The first word of each line, once: lists of a class go on with 1 or -1."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return list(dict.fromkeys(line.split()[0] for line in text.splitlines() if line.strip()))


def _by_folder(survey: Survey, pictures: dict[str, File]) -> dict[SplitName, list[str]]:
    """The pictures by the folder of a split that each lies in; all in `train` without such."""
    found: defaultdict[SplitName, list[str]] = defaultdict(list)
    for name in pictures:
        if split := SPLIT_FOLDERS.get(name.partition("/")[0].lower()):
            found[split].append(name)
    if "train" not in found:
        return {"train": [*pictures]}
    survey.own = tuple(split for split in get_args(SplitName) if split in found)
    survey.notes.append("splits: by folders, " + ", ".join(survey.own))
    return {split: found[split] for split in survey.own}


def _read(file: File, root: Path, path: Path | None, survey: Survey) -> Shown:
    """What the XML file of a picture says of it."""
    if path is None:
        return Shown(file, "")
    shown = Shown(file, to_text(path.relative_to(root)), pixel=1)
    try:
        top = read_xml(path)
        if top.tag != "annotation":
            raise InputError(f"{path}: its root is {printable(top.tag)}, not annotation")
    except InputError as error:
        shown.broken = str(error)
        return shown
    size = whole(top.said("size", "width")), whole(top.said("size", "height"))
    shown.stated = None if None in size else size  # type: ignore[assignment]
    corners = []
    for place, thing in enumerate(top.all("object")):
        words = [thing.said("bndbox", name) for name in CORNERS]
        corners.append([number(word) for word in words])
        if lost := [name for name, word in zip(CORNERS, words, strict=True) if not word]:
            shown.flaws[place] = ("not_finite", f"has no {' and no '.join(lost)}")
        shown.names.append(thing.said("name"))
        if not shown.names[-1]:
            shown.flaws[place] = ("label", "has no name")
        shown.places.append(thing.line)
        shown.difficult.append(thing.said("difficult") not in ("", "0"))
        shown.crowd.append(False)
    shown.boxes = np.array(corners).reshape(-1, 4) - [1, 1, 0, 0]
    return shown
