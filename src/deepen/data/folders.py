"""A folder of class folders, of splits of class folders, or of pictures with a table of labels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from deepen.data.decode import EXTENSIONS
from deepen.data.index import FolderIndex, ending
from deepen.data.leftout import BESIDE, NO_SPLIT, in_words, some
from deepen.data.lists import exclude_from
from deepen.data.names import natural_key, to_text
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.data.tables import ENDINGS, SETTINGS, Place, find_tables, label_pictures
from deepen.data.walk import File, Walk
from deepen.errors import InputError, unknown

Flaw = Literal["empty_class", "unknown_class", "layout"]

_SPLITS = "splits are called train, val and test"
_SPLIT_IN_NAME = re.compile(
    f"(?<![a-z])({'|'.join(sorted(SPLIT_FOLDERS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)


class Fault(NamedTuple):
    """Why a folder cannot be trained on."""

    path: Path
    kind: Flaw
    detail: str
    of_training: bool = False
    """Pictures that are scored alone may have it."""


@dataclass
class Survey:
    """What lies in a folder: every file of it is found, or counted as left out."""

    root: Path
    own: dict[SplitName, Path] = field(default_factory=dict)
    """The splits that it comes with, each with its folder or table."""
    found: dict[SplitName, dict[str, list[File]]] = field(default_factory=dict)
    """The pictures by split and class; all are `train` where there are no splits."""
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    """What a table says of each picture, by key and column."""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How labels were found."""
    ignored: dict[str, int] = field(default_factory=dict)
    """What is left out, by its ending or the reason."""
    left_out: list[str] = field(default_factory=list)
    """The same, a line for each reason."""


def open_folder(
    word: str,
    root: Path,
    exclude: frozenset[str],
    asked: dict[str, str] | None = None,
    *,
    to_train: bool = True,
) -> PictureSet:
    """The pictures under `root`, all in `train` where it has no splits of its own.

    Arguments and errors are those of `open_source`; what is not `to_train` on may lack classes.
    """
    survey = survey_folder(root, asked or {})
    for fault in survey.faults:
        if to_train or not fault.of_training:
            raise InputError(f"{fault.path}: {fault.detail}")
    return lay_out_folder(word, survey, exclude, to_train=to_train)


def survey_folder(root: Path, asked: dict[str, str]) -> Survey:
    """Go through all of a folder.

    Args:
        root: the folder.
        asked: its table and columns, as `deepen.data.tables.SETTINGS` names them.

    Raises:
        InputError: what lies there cannot be read; what can be read but not be trained on are
            faults of the survey.
    """
    if strange := [name for name in asked if name not in SETTINGS]:
        raise InputError(f"{root}: {unknown('setting', strange[0], SETTINGS)}")
    survey = Survey(root)
    with FolderIndex(root) as index:
        folders = _split_folders(survey, index.listing(root).folders)
        places = _tables(index, root, folders, asked)
        walk = Walk(index, root, frozenset(place.path for place in places))
        if places:
            _read_tables(survey, walk, folders, places, asked)
        else:
            _read_classes(survey, walk, folders)
    survey.ignored, survey.left_out = walk.left.counts(), walk.left.notes()
    return survey


def lay_out_folder(
    word: str, survey: Survey, exclude: frozenset[str], *, to_train: bool = True
) -> PictureSet:
    """The pictures of a survey without fault, in order, all in `train` where it has no splits.

    Raises:
        InputError: a class has no picture left to train on, or there is none at all.
    """
    root, found = survey.root, survey.found
    classes = sorted({name for by_class in found.values() for name in by_class}, key=natural_key)
    places = {name: place for place, name in enumerate(classes)}
    keys = {f.key for by_class in found.values() for files in by_class.values() for f in files}
    left_out, notes_on_list = exclude_from(keys, exclude, root)
    splits: dict[SplitName, Split] = {}
    for split, by_class in found.items():
        labels: list[int] = []
        chosen: list[File] = []
        for name, of_class in by_class.items():
            kept = [file for file in of_class if file.key not in left_out]
            if not kept and to_train:
                where = survey.own.get(split, root) / name
                raise InputError(f"{where}: the class has no picture, as all are excluded")
            chosen += kept
            labels += [places[name]] * len(kept)
        if chosen:
            rows = [survey.rows.get(file.key, {}) for file in chosen]
            columns = dict.fromkeys(name for row in rows for name in row)
            splits[split] = Split(
                split,
                np.array(labels, dtype=np.int64),
                tuple(file.key for file in chosen),
                files=tuple(file.path for file in chosen),
                sizes=np.array([file.size for file in chosen], dtype=np.int64),
                columns={name: [row.get(name) for row in rows] for name in columns},
            )
    if not splits:
        raise InputError(f"{root}: has no picture in a class folder")
    notes = (*survey.notes, *notes_on_list, *survey.left_out)
    return PictureSet(word, root, tuple(classes), 3, splits, notes, tuple(survey.own))


def _split_folders(survey: Survey, names: list[str]) -> dict[SplitName, Path]:
    """The folders that stand for splits, train first; none when all are classes."""
    root = survey.root
    folders: dict[SplitName, Path] = {}
    known = list(SPLIT_FOLDERS)
    for name in sorted(names, key=lambda name: (name.lower() not in known, name)):
        split = SPLIT_FOLDERS.get(name.lower())
        if split in folders:
            detail = f"stands for the same split as {folders[split].name}; {_SPLITS}"
            survey.faults.append(Fault(root / name, "layout", detail))
        elif split is not None:
            folders[split] = root / name
    if folders and "train" not in folders:
        name = next(iter(folders.values())).name
        detail = f"has a folder {name} but no train; {_SPLITS}, and a class {name} lies in train"
        survey.faults.append(Fault(root, "layout", detail, of_training=True))
    alike: defaultdict[str, dict[SplitName, str]] = defaultdict(dict)
    for name in [] if folders else names:
        if match := _SPLIT_IN_NAME.search(name):
            rest = f"{name[: match.start()]}*{name[match.end() :]}".lower()
            alike[rest][SPLIT_FOLDERS[match[1].lower()]] = name
    for split_names in alike.values():
        if "train" in split_names and len(split_names) > 1:
            detail = f"if {' and '.join(sorted(split_names.values()))} are splits, rename them: "
            survey.faults.append(Fault(root / split_names["train"], "layout", detail + _SPLITS))
    return {split: folders[split] for split in get_args(SplitName) if split in folders}


# Class folders -----------------------------------------------------------------------------------


def _read_classes(survey: Survey, walk: Walk, folders: dict[SplitName, Path]) -> None:
    """The files named as pictures in each class folder."""
    survey.own = folders
    beside = walk.folders(walk.root)
    names = {folder.name for folder in folders.values()}
    for name in beside if folders else ():
        if name not in names:
            walk.skip(walk.root / name, BESIDE, to_text(name))
    for split, folder in (folders or {"train": walk.root}).items():
        by_class = survey.found.setdefault(split, {})
        for name in walk.folders(folder) if folders else beside:
            files, others = walk.files(folder / name)
            by_class.setdefault(to_text(name), []).extend(files)
            if not files:
                survey.faults.append(Fault(folder / name, "empty_class", _why_none(others), True))
            elif not folders:
                _check_no_splits_below(survey, walk, folder / name)
        _check_classes(survey, walk, split, folder)


def _why_none(others: Counter[str]) -> str:
    if not others:
        return "the class has no picture"
    unread = f"{others.total():,} files, none read ({in_words(others)})"
    return f"the class has no picture: {unread}; read are {' '.join(sorted(EXTENSIONS))}"


def _check_no_splits_below(survey: Survey, walk: Walk, folder: Path) -> None:
    """Pictures of <class>/train and <class>/test would be mixed."""
    names = walk.index.listing(folder).folders
    below = {SPLIT_FOLDERS[name.lower()]: name for name in names if name.lower() in SPLIT_FOLDERS}
    if "train" in below and len(below) > 1:
        moved = f"{below['train']}/{folder.name}"
        detail = f"splits lie above the classes: make it {moved}; {_SPLITS}"
        survey.faults.append(Fault(folder / below["train"], "layout", detail))


def _check_classes(survey: Survey, walk: Walk, split: SplitName, folder: Path) -> None:
    """Whether a split's class folders are those of train, and enough."""
    listing, by_class = walk.index.listing(folder), survey.found[split]
    if not by_class:
        detail = "has no class folder"
        if loose := len(listing.pictures):
            tables = [n for n in walk.index.listing(walk.root).others if ending(n) in ENDINGS]
            table = tables[0] if len(tables) == 1 else "FILE"
            detail += f"; {loose:,} pictures lie in it: make a folder for each class, or name a "
            detail += f"table of their labels, --labels {table}"
        survey.faults.append(Fault(folder, "layout", detail))
    _check_known(survey, split, folder)
    if split == "train" and len(by_class) == 1:
        detail = f"has one class only, {next(iter(by_class))}; two are needed"
        inner = [n for name in listing.folders for n in walk.index.listing(folder / name).folders]
        if len(inner) > 1 and not survey.own:
            whole = folder / listing.folders[0]
            detail += f"; if {some([to_text(name) for name in inner])} are, name {whole}"
        survey.faults.append(Fault(folder, "layout", detail, of_training=True))


def _check_known(survey: Survey, split: SplitName, where: Path) -> None:
    known = survey.found.get("train", {})
    for name in survey.found[split] if known else ():
        if name not in known:
            detail = str(unknown("class of train", name, known))
            survey.faults.append(Fault(where, "unknown_class", detail, True))


# A table -----------------------------------------------------------------------------------------


def _tables(
    index: FolderIndex, root: Path, folders: dict[SplitName, Path], asked: dict[str, str]
) -> list[Place]:
    """The tables that labels are read from: that asked for, or where there are no classes any."""
    if "labels" in asked:
        inside = root / asked["labels"]
        path = inside if inside.is_file() else Path(asked["labels"]).expanduser()
        if not path.is_file():
            raise InputError(f"--labels {asked['labels']}: no such file, here or in {root}")
        return [Place(path, None, root)]
    classes = index.listing(folders.get("train", root)).folders
    if len(classes) > 1 and not asked:
        return []
    names = {folder: index.listing(folder).others for folder in (root, *folders.values())}
    found = find_tables(root, folders, names)
    if asked and not found:
        raise InputError(f"{root}: has no table of labels; say which: --labels FILE")
    return found


def _read_tables(
    survey: Survey,
    walk: Walk,
    folders: dict[SplitName, Path],
    places: list[Place],
    asked: dict[str, str],
) -> None:
    """The pictures that have a label in a table."""
    files, _ = walk.files(walk.root)
    labelled, survey.notes = label_pictures(places, walk.root, files, asked, walk.left)
    table = places[0].path
    by_folder: dict[str, SplitName] = {folder.name: split for split, folder in folders.items()}
    survey.rows = {one.file.key: one.row for one in labelled}
    splits: list[SplitName | None] = [
        one.split or by_folder.get(one.file.key.partition("/")[0]) for one in labelled
    ]
    is_split = any(splits)
    for one, split in zip(labelled, splits, strict=True):
        if split is None and is_split:
            walk.left.add(NO_SPLIT, one.file.key)
            continue
        by_class = survey.found.setdefault(split or "train", {})
        by_class.setdefault(one.label, []).append(one.file)
    survey.found = {
        split: {name: of[name] for name in sorted(of, key=natural_key)}
        for split in get_args(SplitName)
        if (of := survey.found.get(split))
    }
    survey.own = dict.fromkeys(survey.found, table) if is_split else {}
    if "train" not in survey.found:
        survey.faults.append(Fault(table, "layout", "labels no picture of train", True))
    elif len(survey.found["train"]) == 1:
        detail = f"has one class only, {next(iter(survey.found['train']))}; two are needed"
        survey.faults.append(Fault(table, "layout", detail, of_training=True))
    for split in survey.found:
        _check_known(survey, split, table)
