"""Examine a folder of pictures: decode every file in full and name what is wrong, by path.

It walks the layouts that `deepen.data.sources` reads (`train/<class>/`, `val/<class>/`, ... or
`<class>/` alone), but goes on where a source would refuse: each refusal becomes a problem.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepen.data.decode import (
    EXTENSIONS,
    FORMATS,
    MAX_PIXELS,
    PictureError,
    detect_format,
    open_picture,
)
from deepen.data.names import natural_key, to_text
from deepen.data.split import SPLIT_FOLDERS
from deepen.errors import InputError

UNSPLIT = "all"
"""What counts call the one split of a folder that has none."""

Kind = Literal[
    "damaged", "mislabelled", "too_small", "duplicate", "empty_class", "unknown_class", "layout"
]
"""What can be wrong with a file, with a class folder, or with the folder as a whole."""

_KEPT_FIRST = ("test", "val", "train", UNSPLIT)  # of equal pictures, the one in training goes
_FILES_A_ROUND = 1024


class Problem(BaseModel):
    """One thing that is wrong: where (relative to the folder), of which kind, in words."""

    model_config = ConfigDict(frozen=True)

    path: str
    kind: Kind
    detail: str


class Diagnosis(BaseModel):
    """What `examine` found; paths are relative to `folder`, with forward slashes."""

    model_config = ConfigDict(frozen=True)

    folder: str
    num_files: int
    """Files that are named as pictures, the damaged ones included."""
    counts: dict[str, dict[str, int]]
    """Of those, per split and class."""
    imbalance: float | None
    """Largest class over smallest, of the training classes that have files."""
    mean: tuple[float, ...] | None
    """Of red, green and blue in training pictures, 0..1; every picture weighs the same."""
    std: tuple[float, ...] | None
    ignored: dict[str, int]
    """Files that no source would take, counted by their ending."""
    duplicates: list[list[str]]
    """Groups of files that decode to the same pixels; the first is the one to keep, if any."""
    problems: list[Problem]

    @property
    def quarantine(self) -> list[str]:
        """The files to leave out. A wrong ending alone does no harm, so those stay."""
        out = ("damaged", "too_small", "duplicate")
        return list(dict.fromkeys(p.path for p in self.problems if p.kind in out))


def examine(
    folder: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    min_px: int = 32,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Decode every picture under `folder` and report on all of them.

    Args:
        folder: of classes, or of splits of classes. Hidden files and folders are skipped.
        max_pixels: pictures of more pixels than this are not decoded, and count as damaged.
        min_px: a picture whose shorter side is less is too small.
        workers: threads that decode; by default one a core.
        progress: called as (files done, files in all) every now and then.

    Raises:
        InputError: `folder` is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    tree = _walk(root)
    seen: list[_Seen] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # decoders let go of the GIL
        for start in range(0, len(tree.files), _FILES_A_ROUND):
            files = tree.files[start : start + _FILES_A_ROUND]
            seen += pool.map(lambda file: _look(file, max_pixels), files)
            if progress is not None:
                progress(len(seen), len(tree.files))

    groups = _equal_pictures(seen)
    training = "train" if "train" in tree.counts else UNSPLIT
    sizes = [size for size in tree.counts.get(training, {}).values() if size]
    mean, std = _statistics(one for one in seen if one.file.split == training)
    return Diagnosis(
        folder=to_text(root),
        num_files=len(tree.files),
        counts=tree.counts,
        imbalance=max(sizes) / min(sizes) if sizes else None,
        mean=mean,
        std=std,
        ignored=dict(sorted(tree.ignored.items())),
        duplicates=[[file.name for file in group] for group in groups],
        problems=[
            *tree.problems,
            *(problem for one in seen for problem in _file_problems(one, min_px)),
            *(problem for group in groups for problem in _duplicate_problems(group)),
        ],
    )


@dataclass(frozen=True)
class _File:
    path: Path
    name: str  # relative to the folder
    split: str
    label: str


@dataclass(frozen=True)
class _Tree:
    files: list[_File]
    counts: dict[str, dict[str, int]]
    ignored: Counter[str]
    problems: list[Problem]


def _walk(root: Path) -> _Tree:
    tree = _Tree([], {}, Counter(), [])
    for split, split_folder in _split_folders(root, tree.problems):
        counts = tree.counts.setdefault(split, {})
        for entry in _visible(split_folder):
            if not entry.is_dir():
                tree.ignored["in no class folder"] += 1
                continue
            label = to_text(Path(entry.name))
            if split == UNSPLIT and label.lower() in SPLIT_FOLDERS:
                detail = f"if this is a split, call it {label.lower()}"
                tree.problems.append(_problem(entry, root, "layout", detail))
            paths = list(_pictures(entry, tree.ignored))
            tree.files.extend(
                _File(path, to_text(path.relative_to(root)), split, label) for path in paths
            )
            counts[label] = counts.get(label, 0) + len(paths)
            if not paths:
                tree.problems.append(_problem(entry, root, "empty_class", "has no picture"))
            if label not in tree.counts.get("train", counts):
                detail = f"a class of {split} that train lacks"
                tree.problems.append(_problem(entry, root, "unknown_class", detail))
    training = tree.counts.get("train", tree.counts.get(UNSPLIT))
    if training is None:
        tree.problems.append(Problem(path=".", kind="layout", detail="has no folder train"))
    elif len(training) < 2:
        found = f"the one class {next(iter(training))}" if training else "no class folder"
        folder = "train" if "train" in tree.counts else "."
        detail = f"has {found}; at least two are needed"
        tree.problems.append(Problem(path=folder, kind="layout", detail=detail))
    return tree


def _split_folders(root: Path, problems: list[Problem]) -> list[tuple[str, Path]]:
    """The folders that hold classes, training first, each with the split it stands for."""
    folders = [root / name for name in SPLIT_FOLDERS if (root / name).is_dir()]
    if not folders:
        return [(UNSPLIT, root)]
    for earlier, later in pairwise(folders):
        if SPLIT_FOLDERS[earlier.name] == SPLIT_FOLDERS[later.name]:
            detail = f"stands for the same split as {earlier.name}"
            problems.append(_problem(later, root, "layout", detail))
    return [(SPLIT_FOLDERS[folder.name], folder) for folder in folders]


def _visible(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def _pictures(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """The files named as pictures, at any depth; the others are counted by their ending."""
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _pictures(entry, ignored)
        elif entry.suffix.lower() in EXTENSIONS:
            yield entry
        else:
            ignored[Path(to_text(entry)).suffix.lower() or "without ending"] += 1


def _problem(path: Path, root: Path, kind: Kind, detail: str) -> Problem:
    return Problem(path=to_text(path.relative_to(root)), kind=kind, detail=detail)


@dataclass(frozen=True)
class _Seen:
    """What one file showed; when `damage` says why not, only the file is known."""

    file: _File
    damage: str | None = None
    picture_format: str | None = None
    size_px: tuple[int, int] = (0, 0)  # width, height
    digest: bytes = b""
    moments: np.ndarray | None = None  # (2, 3): mean of x and of x^2 per channel, x in 0..1


def _look(file: _File, max_pixels: int) -> _Seen:
    try:
        picture_format = detect_format(file.path)
        picture = open_picture(file.path, max_pixels=max_pixels)
    except PictureError as error:
        return _Seen(file, error.reason)
    digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
    shares = np.array(picture.histogram()).reshape(3, 256) / (picture.width * picture.height)
    values = np.arange(256) / 255
    moments = np.stack([shares @ values, shares @ values**2])
    return _Seen(file, None, picture_format, picture.size, digest, moments)


def _statistics(seen: Iterable[_Seen]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    moments = [one.moments for one in seen if one.moments is not None]
    if not moments:
        return None, None
    mean, square = np.mean(moments, axis=0)
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def _file_problems(seen: _Seen, min_px: int) -> Iterator[Problem]:
    path = seen.file.name
    if seen.damage is not None:
        yield Problem(path=path, kind="damaged", detail=seen.damage)
        return
    suffix = seen.file.path.suffix
    if suffix.lower() not in FORMATS[str(seen.picture_format)]:
        detail = f"{seen.picture_format} by its content, {suffix} by its name"
        yield Problem(path=path, kind="mislabelled", detail=detail)
    width, height = seen.size_px
    if min(width, height) < min_px:
        detail = f"{width}x{height} px; the shorter side is under {min_px} px"
        yield Problem(path=path, kind="too_small", detail=detail)


def _equal_pictures(seen: list[_Seen]) -> list[list[_File]]:
    """Groups of files with the same pixels, in each the one to keep first."""
    by_pixels: defaultdict[bytes, list[_File]] = defaultdict(list)
    for one in seen:
        if one.damage is None:
            by_pixels[one.digest].append(one.file)
    groups = [group for group in by_pixels.values() if len(group) > 1]
    return [sorted(group, key=_merit) for group in groups]


def _merit(file: _File) -> tuple[int, int]:
    """Sorts the one to keep first; "ant.jpg" comes before "ant (copy).jpg"."""
    return _KEPT_FIRST.index(file.split), len(file.name)


def _duplicate_problems(group: list[_File]) -> Iterator[Problem]:
    """Of equal pictures all but one are problems; under different classes, all are."""
    kept, *rest = group
    labels = sorted({file.label for file in group}, key=natural_key)
    if len(labels) > 1:
        for file in group:
            detail = f"the same picture lies under different classes: {', '.join(labels)}"
            yield Problem(path=file.name, kind="duplicate", detail=detail)
        return
    for file in rest:
        same_bytes = filecmp.cmp(kept.path, file.path, shallow=False)
        how = "same file" if same_bytes else "same pixels"
        across = f", across {file.split} and {kept.split}" if file.split != kept.split else ""
        detail = f"{how} as {kept.name}{across}"
        yield Problem(path=file.name, kind="duplicate", detail=detail)
