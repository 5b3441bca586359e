"""A folder of class folders, or of splits of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from deepen.data.index import FolderIndex, Listing
from deepen.data.names import natural_key, to_text
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.errors import InputError, unknown


class _File(NamedTuple):
    key: str
    label: str
    path: Path
    size: int


def open_folder(
    word: str, root: Path, exclude: frozenset[str], *, to_train: bool = True
) -> PictureSet:
    """The pictures under `root`, all in `train` where it has no splits of its own.

    Arguments and errors are those of `open_source`; what is not `to_train` on may lack classes.
    """
    with FolderIndex(root) as index:
        folders = _split_folders(root, to_train)
        ignored: Counter[str] = Counter()
        found: dict[SplitName, dict[str, list[_File]]] = {
            split: _read_classes(index, root, folder, ignored)
            for split, folder in (folders or {"train": root}).items()
        }
    if to_train:
        _check_classes(root, folders, found, exclude)
    notes: list[str] = []
    if exclude:
        left_out = exclude & {f.key for by in found.values() for fs in by.values() for f in fs}
        notes.append(f"excluded: {len(left_out):,} pictures, of {len(exclude):,} listed")
    if ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items()))
        notes.append(f"not taken for pictures: {kinds}")

    classes = sorted({name for by in found.values() for name in by}, key=natural_key)
    places = {name: place for place, name in enumerate(classes)}
    splits: dict[SplitName, Split] = {}
    for split in get_args(SplitName):
        files = chain.from_iterable(found.get(split, {}).values())
        if chosen := [file for file in files if file.key not in exclude]:
            labels = np.array([places[file.label] for file in chosen], dtype=np.int64)
            splits[split] = Split(
                split,
                labels,
                tuple(file.key for file in chosen),
                files=tuple(file.path for file in chosen),
                sizes=np.array([file.size for file in chosen], dtype=np.int64),
            )
    if not splits:
        raise InputError(f"{root}: has no picture in a class folder")
    return PictureSet(word, root, tuple(classes), 3, splits, tuple(notes), tuple(folders))


def _split_folders(root: Path, to_train: bool) -> dict[SplitName, Path]:
    """The folders that stand for splits; none when the folders of `root` are classes."""
    folders: dict[SplitName, Path] = {}
    for name, split in SPLIT_FOLDERS.items():
        folder = root / name
        if folder.is_dir():
            if split in folders:
                raise InputError(f"{folder}: stands for the same split as {folders[split].name}")
            folders[split] = folder
    if to_train and folders and "train" not in folders:
        raise InputError(f"{root}: has a folder {next(iter(folders.values())).name} but no train")
    return folders


def _read_classes(
    index: FolderIndex, root: Path, folder: Path, ignored: Counter[str]
) -> dict[str, list[_File]]:
    """The files named as pictures in each class folder, in natural order."""
    classes: dict[str, list[_File]] = {}
    listing = index.listing(folder)
    if loose := len(listing.pictures) + sum(listing.ignored.values()):
        ignored["in no class folder"] += loose
    for name in listing.folders:
        if folder == root and name.lower() in SPLIT_FOLDERS:
            raise InputError(f"{folder / name}: if this is a split, call it {name.lower()}")
        label = to_text(name)
        below = list(_below(index, folder / name))
        for each in below:
            ignored.update(each.ignored)
        files = [
            _File(prefix + to_text(name), label, each.folder / name, size)
            for each in below
            for prefix in [to_text(each.folder.relative_to(root)) + "/"]
            for name, size in each.pictures
        ]
        if len(below) > 1:  # one folder's are in order
            files.sort(key=lambda file: natural_key(file.key))
        classes[label] = files
    return classes


def _below(index: FolderIndex, folder: Path) -> Iterator[Listing]:
    """A folder and those in it, at any depth."""
    listing = index.listing(folder)
    yield listing
    for name in listing.folders:
        yield from _below(index, folder / name)


def _check_classes(
    root: Path,
    folders: dict[SplitName, Path],
    found: dict[SplitName, dict[str, list[_File]]],
    exclude: frozenset[str],
) -> None:
    known = found["train"]
    for split, by_class in found.items():
        folder = folders.get(split, root)
        if not by_class:
            raise InputError(f"{folder}: has no class folder")
        for name, files in by_class.items():
            if name not in known:
                raise InputError(f"{folder}: {unknown('class of train', name, known)}")
            if all(file.key in exclude for file in files):
                why = ", as all are excluded" if files else ""
                raise InputError(f"{folder / name}: the class has no picture{why}")
    if len(known) < 2:
        folder = folders.get("train", root)
        raise InputError(f"{folder}: has one class only, {next(iter(known))}; two are needed")
