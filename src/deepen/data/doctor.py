"""Examine pictures: decode every one in full and name what is wrong, by path.

It opens them as training does (`deepen.data.sources`), and what training refuses is a problem: so
what passes here is trained on.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepen.data.annotated.opening import Opened, find_reader, lay_out, survey_annotated
from deepen.data.annotated.records import REFUSED, FaultKind
from deepen.data.decode import (
    DARK,
    FORMATS,
    FULL,
    MAX_PIXELS,
    Depth,
    PictureError,
    depth_of,
    detect_format,
    open_picture,
)
from deepen.data.folders import Survey, lay_out_folder, survey_folder
from deepen.data.hold_out import Held, hold_out
from deepen.data.leftout import some
from deepen.data.names import natural_key, to_text
from deepen.data.parquet import find_shards
from deepen.data.sources import folder_and_table, open_source
from deepen.data.split import PictureSet, Split
from deepen.errors import InputError

UNSPLIT = "all"
"""What counts call the one split of a folder that has none."""

Kind = Literal[
    FaultKind,
    "damaged",
    "mislabelled",
    "too_small",
    "duplicate",
    "empty_class",
    "unknown_class",
    "layout",
    "depth",
]
"""What can be wrong with a file, a box, a class folder, or with the folder as a whole."""

_TO_LEAVE_OUT: frozenset[str] = REFUSED | {"damaged", "too_small", "duplicate", "double"}

_KEPT_FIRST = ("test", "val", "train", UNSPLIT)  # of equal pictures, the one in training goes
_FILES_A_ROUND = 256


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
    """Of those, per split and class; of sets with boxes their boxes, with masks their pictures."""
    imbalance: float | None
    """Largest class over smallest, of the training classes that have files."""
    mean: tuple[float, ...] | None
    """Of red, green and blue in training pictures, 0..1; every picture weighs the same."""
    std: tuple[float, ...] | None
    ignored: dict[str, int]
    """Files that are no pictures or in no place for them, by their ending or the reason."""
    notes: list[str]
    """In words: what is left out and why, where labels come from, which classes are too small."""
    duplicates: list[list[str]]
    """Groups of files that decode to the same pixels; the first is the one to keep, if any."""
    problems: list[Problem]

    @property
    def quarantine(self) -> list[str]:
        """The files and boxes to leave out. A wrong ending alone does no harm, so those stay."""
        return list(dict.fromkeys(p.path for p in self.problems if p.kind in _TO_LEAVE_OUT))


def examine(
    data: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    min_px: int = 32,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Decode every picture of a folder, or of Parquet files, and report on all of them.

    Args:
        data: as `open_source` takes it, but for data sets known by name.
        max_pixels: pictures of more pixels than this are not decoded, and count as damaged.
        min_px: a picture whose shorter side is less is too small.
        workers: threads that decode; by default one a core.
        progress: called as (files done, files in all) every now and then.

    Raises:
        InputError: there is no such folder, or one that cannot be gone through.
    """
    tree = _open(str(data))
    seen: list[_Seen] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # decoders let go of the GIL
        for start in range(0, len(tree.files), _FILES_A_ROUND):
            files = tree.files[start : start + _FILES_A_ROUND]
            read = [_encoded(file) for file in files]  # here: shards are read by one thread
            seen += pool.map(lambda file, data: _look(file, data, max_pixels), files, read)
            if progress is not None:
                progress(len(seen), len(tree.files))

    groups = _equal_pictures(seen)
    training = "train" if "train" in tree.counts else UNSPLIT
    sizes = [size for size in tree.counts.get(training, {}).values() if size]
    mean, std = _statistics(one for one in seen if one.file.split == training)
    return Diagnosis(
        folder=to_text(tree.root),
        num_files=len(tree.files),
        counts=tree.counts,
        imbalance=max(sizes) / min(sizes) if sizes else None,
        mean=mean,
        std=std,
        ignored=tree.ignored,
        notes=tree.notes,
        duplicates=[[file.name for file in group] for group in groups],
        problems=[
            *tree.problems,
            *(problem for one in seen for problem in _file_problems(one, min_px)),
            *(problem for group in groups for problem in _duplicate_problems(group)),
            *_depth_problems(seen),
        ],
    )


@dataclass(frozen=True)
class _File:
    """A file, or a row of a shard."""

    name: str  # its key
    split: str
    label: str
    place: tuple[Split, int] | Path


@dataclass(frozen=True)
class _Tree:
    root: Path
    files: list[_File]
    counts: dict[str, dict[str, int]]
    ignored: dict[str, int]
    notes: list[str]
    problems: list[Problem]


def _open(word: str) -> _Tree:
    if find_shards(word):
        return _tree_of_shards(open_source(word))
    root, asked = folder_and_table(word)
    if reader := find_reader(root, asked):
        return _tree_of_annotated(survey_annotated(reader, root, asked))
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    return _tree_of_folder(survey_folder(root, asked))


def _tree_of_folder(survey: Survey) -> _Tree:
    files: list[_File] = []
    counts: dict[str, dict[str, int]] = {}
    for split, by_class in survey.found.items():
        name = split if survey.own else UNSPLIT
        counts[name] = {label: len(of_class) for label, of_class in by_class.items()}
        for label, of_class in by_class.items():
            files += [_File(file.key, name, label, file.path) for file in of_class]
    problems = [_problem(survey.root, *fault[:3]) for fault in survey.faults]
    notes = [*survey.notes, *survey.left_out, *_few(counts)]
    if not problems:
        try:
            hold_out(lay_out_folder(str(survey.root), survey, frozenset()), Held())
        except InputError as error:
            problems.append(_problem(survey.root, survey.root, "layout", str(error)))
    return _Tree(survey.root, files, counts, survey.ignored, notes, problems)


def _tree_of_annotated(opened: Opened) -> _Tree:
    survey = opened.survey
    files: list[_File] = []
    counts: dict[str, dict[str, int]] = {}
    for split, pictures in survey.pictures.items():
        name = split if survey.own else UNSPLIT
        of_split = Counter(label for shown in pictures for label in shown.names)
        for shown in pictures:
            if (values := opened.checked[shown.file.key].values) is not None:
                of_split.update(c for c, n in zip(survey.classes, values, strict=False) if n)
            files.append(_File(shown.file.key, name, "", shown.file.path))
        counts[name] = {label: of_split[label] for label in survey.classes}
    problems = [Problem(path=f.name, kind=f.kind, detail=f.words) for f in opened.faults]
    laid, notes = frozenset(f.name for f in opened.faults if f.kind in REFUSED), []
    try:
        source = hold_out(lay_out(str(survey.root), opened, laid), Held())
        without = "counted without what training refuses: "
        notes = [note.replace("excluded: ", without) for note in source.notes]
    except InputError as error:
        problems.append(Problem(path=".", kind="layout", detail=str(error)))
    return _Tree(survey.root, files, counts, {}, notes, problems)


def _tree_of_shards(source: PictureSet) -> _Tree:
    files: list[_File] = []
    counts: dict[str, dict[str, int]] = {}
    for split, pictures in source.splits.items():
        numbers = np.bincount(pictures.labels, minlength=len(source.classes)).tolist()
        counts[split] = dict(zip(source.classes, numbers, strict=True))
        for i, label in enumerate(pictures.labels.tolist()):
            files.append(_File(pictures.key(i), split, source.classes[label], (pictures, i)))
    assert source.root is not None
    return _Tree(source.root, files, counts, {}, list(source.notes), [])


def _few(counts: dict[str, dict[str, int]]) -> list[str]:
    """A warning of classes that cannot have a picture in each split that is made of theirs."""
    training = counts.get("train", counts.get(UNSPLIT, {}))
    needed = 3 if UNSPLIT in counts else 1 if "val" in counts else 2
    few = [f"{name} ({count})" for name, count in training.items() if count < needed]
    words = f"fewer pictures than the {needed} splits made of them need: {some(few)}"
    return [f"{len(few):,} classes have {words}"] if few else []


def _problem(root: Path, path: Path, kind: Kind, detail: str) -> Problem:
    inside = path.is_relative_to(root)
    return Problem(
        path=to_text(path.relative_to(root) if inside else path), kind=kind, detail=detail
    )


def _encoded(file: _File) -> Path | bytes | PictureError:
    if isinstance(file.place, Path):
        return file.place
    split, index = file.place
    try:
        return split.encoded(index)
    except PictureError as error:
        return error


@dataclass(frozen=True)
class _Seen:
    """What one file showed; when `damage` says why not, only the file is known."""

    file: _File
    damage: str | None = None
    picture_format: str | None = None
    size_px: tuple[int, int] = (0, 0)  # width, height
    digest: bytes = b""
    moments: np.ndarray | None = None  # (2, 3): mean of x and of x^2 per channel, x in 0..1
    peak: int | None = None  # the greatest value of a picture of 16 bits


def _look(file: _File, data: Path | bytes | PictureError, max_pixels: int) -> _Seen:
    try:
        if isinstance(data, PictureError):
            raise data
        picture_format = detect_format(data)
        depth = depth_of(data)
        white = None if depth is None else FULL
        picture = open_picture(data, name=file.name, max_pixels=max_pixels, white=white)
    except PictureError as error:
        return _Seen(file, error.reason)
    values = picture.tobytes() if depth is None else depth.values
    digest = hashlib.sha256(f"{picture.size}".encode() + values).digest()
    shares = np.array(picture.histogram()).reshape(3, 256) / (picture.width * picture.height)
    values = np.arange(256) / 255
    moments = np.stack([shares @ values, shares @ values**2])
    peak = None if depth is None else depth.peak
    return _Seen(file, None, picture_format, picture.size, digest, moments, peak)


def _depth_problems(seen: list[_Seen]) -> list[Problem]:
    """Pictures of 16 bits that training would take for black."""
    peaks = [one.peak for one in seen if one.peak is not None]
    if not peaks or not 0 < max(peaks) < DARK:
        return []
    bits = Depth(max(peaks), b"").bits
    detail = (
        f"{len(peaks):,} 16-bit files whose values end at {max(peaks):,}: {bits} bits; say what is "
        f"white, --set input.white={2**bits - 1} ({FULL} where they are meant so dark)"
    )
    return [Problem(path=".", kind="depth", detail=detail)]


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
    suffix = seen.file.place.suffix if isinstance(seen.file.place, Path) else None
    if suffix is not None and suffix.lower() not in FORMATS[str(seen.picture_format)]:
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
        how = "same file" if _same_bytes(kept, file) else "same pixels"
        across = f", across {file.split} and {kept.split}" if file.split != kept.split else ""
        detail = f"{how} as {kept.name}{across}"
        yield Problem(path=file.name, kind="duplicate", detail=detail)


def _same_bytes(one: _File, other: _File) -> bool:
    if isinstance(one.place, Path) and isinstance(other.place, Path):
        return filecmp.cmp(one.place, other.place, shallow=False)
    return _encoded(one) == _encoded(other)
