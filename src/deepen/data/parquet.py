"""Parquet files of labelled pictures, as Hugging Face's `datasets` writes them, and of its hub.

They are read with pyarrow alone: the exact order and a resume at any batch need any row group of
any file at any time, which the streams of `datasets` do not give.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import parse_qsl

import numpy as np

from deepen.data.index import FolderIndex
from deepen.data.leftout import BESIDE_SHARDS
from deepen.data.lists import exclude_from
from deepen.data.names import natural_key, to_text
from deepen.data.shards import RowKeys, Rows, Shards, open_shard
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.data.walk import Walk
from deepen.errors import InputError, WorkError, unknown

HUB = "hf://"
"""What a data set of Hugging Face's hub begins with."""

_LABELS = ("label", "labels", "class", "target")  # taken where no column says that it is a class
_SPLIT_IN_NAME = re.compile(
    f"({'|'.join(sorted(SPLIT_FOLDERS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)


def find_shards(word: str) -> list[Path]:
    """The Parquet files that a word stands for, in natural order; none where it stands for others.

    The word is a file, several with the system's path separator between them, a pattern, or a
    folder with files in it or in folders called data, default or by a split. Spark and Dask write
    a folder in place of a file, `train.parquet/part-00000.parquet`.
    """
    words = word.partition("?")[0].split(os.pathsep)
    if all(Path(piece).suffix.lower() == ".parquet" for piece in words):
        files = [file for piece in words for file in _match(Path(piece).expanduser())]
    else:
        folder = Path(word.partition("?")[0]).expanduser()
        files = list(_below(folder)) if folder.is_dir() else []
    return sorted(files, key=lambda file: natural_key(to_text(file)))


def fetch_shards(word: str, download: bool) -> Path:
    """The folder of a data set of the hub, `hf://owner/name`: fetched if allowed, else as it is.

    Raises:
        InputError: huggingface_hub is missing, or there is nothing here and `download` is not set.
        WorkError: the download failed.
    """
    name = word.removeprefix(HUB).partition("?")[0].strip("/")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(f"{word}: needs huggingface_hub: pip install 'deepen[stream]'") from error
    for revision in (None, "refs/convert/parquet"):  # the hub converts what is none
        try:
            folder = snapshot_download(
                name,
                repo_type="dataset",
                revision=revision,
                allow_patterns=["*.parquet"],
                local_files_only=not download,
            )
        except Exception as error:  # of the network, of the hub, of the disk
            if not download:
                continue
            reason = " ".join(str(error).split())
            raise WorkError(f"{word}: the download failed: {reason}") from error
        if find_shards(folder):
            return Path(folder)
    if not download:
        raise InputError(f"{word}: is not here; fetch it with --download")
    raise InputError(f"{word}: the hub has no Parquet files of it")


def open_parquet(
    word: str, files: list[Path], root: Path, exclude: frozenset[str], *, to_train: bool = True
) -> PictureSet:
    """The pictures of Parquet files, all in `train` where they have no splits of their own.

    Other arguments and errors are those of `open_source`, and of `open_folder`.

    `word` may end in `?image=COLUMN&label=COLUMN`; keys are relative to `root`, where that is a
    folder, else to the one that all files have in common.
    """
    asked = dict(parse_qsl(word.partition("?")[2]))
    if strange := [name for name in asked if name not in ("image", "label")]:
        raise InputError(f"{word}: {unknown('setting', strange[0], ['image', 'label'])}")
    given = root if root.is_dir() else None
    if given is None or root.suffix.lower() == ".parquet":
        root = Path(os.path.commonpath([_whole(file.absolute()).parent for file in files]))
    names = [to_text(os.path.relpath(file.absolute(), root.absolute())) for file in files]
    columns = _choose_columns(files[0], asked)
    found = [_read_labels(file, columns) for file in files]
    classes = _classes(files, found)
    shards = Shards(files, names, columns.image)
    labels = np.concatenate([_places(labels, classes) for labels in found])
    keys = RowKeys(Rows(shards, np.arange(len(labels))))

    own = _split_names(files, names)
    notes = [f"pictures: column {columns.image}, labels: column {columns.label}"]
    pools: dict[SplitName, np.ndarray] = {}
    starts = np.cumsum([0, *map(len, found)])
    for split in get_args(SplitName):
        parts = [
            np.arange(starts[i], starts[i + 1])
            for i, name in enumerate(own or ["train"] * len(files))
            if name == split
        ]
        if parts:
            pools[split] = np.concatenate(parts)
            labelled = labels[pools[split]] >= 0
            if not labelled.all():
                notes.append(f"{split}: {(~labelled).sum():,} rows without a label left out")
                pools[split] = pools[split][labelled]
    if not len(pools.get("train", ())) and to_train:
        raise InputError(f"{word}: no file of training pictures with labels; it has {names[0]}")
    pools = {split: rows for split, rows in pools.items() if len(rows)}
    if exclude:
        meant, said = exclude_from(set(keys), exclude, root)
        notes += said
        for split, rows in pools.items():
            pools[split] = rows[[keys[row] not in meant for row in rows.tolist()]]
    if to_train:
        if len(classes) < 2:
            raise InputError(f"{word}: has one class only, {', '.join(classes)}; two are needed")
        trained = np.bincount(labels[pools["train"]], minlength=len(classes))
        if not trained.all():
            name = classes[int(np.flatnonzero(trained == 0)[0])]
            raise InputError(f"{word}: no row of class {name} is left to train on")
    if given is not None:
        notes += _beside(given, files)
    splits: dict[SplitName, Split] = {}
    for split in get_args(SplitName):
        if len(numbers := pools.get(split, ())):
            rows = Rows(shards, np.asarray(numbers))
            splits[split] = Split(split, labels[rows.numbers], RowKeys(rows), rows=rows)
    if not splits:
        raise InputError(f"{word}: has no row with a label")
    return PictureSet(word, root, classes, 3, splits, tuple(notes), tuple(pools) if own else ())


def _beside(root: Path, files: list[Path]) -> list[str]:
    """What else lies in a folder of Parquet files, counted."""
    with FolderIndex(root) as index:
        walk = Walk(index, root, frozenset(files))
        pictures, _ = walk.files(root)
    for picture in pictures:
        walk.left.add(BESIDE_SHARDS, picture.key)
    return walk.left.notes()


class _Columns(NamedTuple):
    image: str
    label: str


@dataclass(frozen=True, eq=False)
class _Labels:
    """Of one file: text or integers (N,), and the class names that integers stand for, if said."""

    values: np.ndarray
    known: np.ndarray  # bool (N,)
    names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.values)


def _match(path: Path) -> list[Path]:
    found = [path] if path.exists() else []
    if not found and path.parent.is_dir():
        found = list(path.parent.glob(path.name))
    if not found:
        raise InputError(f"{path}: no such file")
    files = [file for each in found for file in (_parts(each) if each.is_dir() else [each])]
    if not files:
        raise InputError(f"{path}: a folder without Parquet files")
    return files


def _parts(folder: Path) -> list[Path]:
    """The files of a folder that stands for one; those that begin with _ or . describe it."""
    found = folder.rglob("*.parquet")
    return [
        file
        for file in found
        if not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
        and file.is_file()
    ]


def _below(folder: Path) -> Iterator[Path]:
    """Only into folders that shards are put in: others may be of a million photographs."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # whoever reads the folder as one of pictures will say so
        return
    for entry in entries:
        if entry.name.lower().endswith(".parquet") and not entry.name.startswith(("_", ".")):
            yield from _parts(Path(entry.path)) if entry.is_dir() else [Path(entry.path)]
        elif entry.is_dir() and entry.name.lower() in ("data", "default", *SPLIT_FOLDERS):
            yield from _below(Path(entry.path))


def _whole(file: Path) -> Path:
    """The folder train.parquet/ that a file is a part of, else the file."""
    above = [folder for folder in file.parents if folder.suffix.lower() == ".parquet"]
    return above[-1] if above else file


def _split_names(files: list[Path], names: list[str]) -> list[SplitName] | None:
    """The split that each file stands for by its name or its folder's, or None: there are none."""
    found: list[SplitName | None] = []
    for name in names:
        *folders, file = name.split("/")
        above = (re.sub(r"\.parquet$", "", name, flags=re.I) for name in reversed(folders))
        pieces = [_SPLIT_IN_NAME.match(file), *map(_SPLIT_IN_NAME.fullmatch, above)]
        word = next((piece[1].lower() for piece in pieces if piece), None)
        found.append(None if word is None else SPLIT_FOLDERS[word])
    if not any(found):
        return None
    splits: list[SplitName] = [split for split in found if split is not None]
    if len(splits) < len(found):
        lost = files[found.index(None)]
        raise InputError(f"{lost}: stands for no split; begin its name with train, val or test")
    return splits


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What `datasets` notes on each column; empty where another wrote the file."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: about for name, about in noted.items() if isinstance(about, dict)}
    except (KeyError, TypeError, ValueError):
        return {}


def _choose_columns(file: Path, asked: dict[str, str]) -> _Columns:
    with open_shard(file) as opened:
        schema = opened.schema_arrow
    features = _features(schema)
    pictures = [column.name for column in schema if _holds_bytes(column.type)]
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = classes or [name for name in _LABELS if name in schema.names]
    image = _choose(file, schema, "image", "picture", pictures, asked)
    return _Columns(image, _choose(file, schema, "label", "label", labels, asked))


def _choose(
    file: Path, schema: Any, role: str, what: str, found: list[str], asked: dict[str, str]
) -> str:
    have = ", ".join(f"{column.name} ({column.type})" for column in schema)
    if role in asked:
        if asked[role] not in schema.names:
            raise InputError(f"{file}: has no column {asked[role]}; it has {have}")
        return asked[role]
    if not found:
        raise InputError(f"{file}: no column of {what}s; it has {have}; add ?{role}=COLUMN")
    if len(found) > 1:
        several = ", ".join(found)
        raise InputError(f"{file}: several columns of {what}s, {several}; add ?{role}=COLUMN")
    return found[0]


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(child.name == "bytes" and _holds_bytes(child.type) for child in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read_labels(file: Path, columns: _Columns) -> _Labels:
    import pyarrow as pa

    with open_shard(file) as opened:
        schema = opened.schema_arrow
        for column in columns:
            if column not in schema.names:
                have = ", ".join(schema.names)
                raise InputError(f"{file}: has no column {column}; it has {have}")
        if not _holds_bytes(schema.field(columns.image).type):
            kind = schema.field(columns.image).type
            raise InputError(f"{file}: column {columns.image} holds no pictures but {kind}")
        kind = schema.field(columns.label).type
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            raise InputError(f"{file}: column {columns.label} holds no labels but {kind}")
        column = opened.read(columns=[columns.label], use_threads=False).column(0)
    known = np.asarray(column.is_valid())
    if _is_text(kind):
        return _Labels(np.array([v or "" for v in column.to_pylist()], object), known, None)
    values = column.fill_null(-1).to_numpy().astype(np.int64)
    names = _features(schema).get(columns.label, {}).get("names")
    return _Labels(values, known & (values >= 0), None if names is None else tuple(names))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _classes(files: list[Path], found: list[_Labels]) -> tuple[str, ...]:
    """The class names: as the files say, or the labels that occur, in natural order."""
    first = found[0]
    for file, labels in zip(files, found, strict=True):
        if labels.names != first.names or labels.values.dtype != first.values.dtype:
            raise InputError(f"{file}: other classes than {files[0]}")
    if first.names is None:
        occurring = {str(value) for each in found for value in each.values[each.known].tolist()}
        return tuple(sorted(occurring, key=natural_key))
    for file, labels in zip(files, found, strict=True):
        if len(labels) and labels.values.max() >= len(first.names):
            highest = int(labels.values.max())
            raise InputError(f"{file}: label {highest}, but {len(first.names)} classes are named")
    return first.names


def _places(labels: _Labels, classes: tuple[str, ...]) -> np.ndarray:
    """The place of each label in the classes, int64 (N,); -1 where it is not known."""
    if labels.names is not None:
        return np.where(labels.known, labels.values, -1)
    place = {name: i for i, name in enumerate(classes)}
    pairs = zip(labels.values.tolist(), labels.known.tolist(), strict=True)
    return np.array([place[str(v)] if known else -1 for v, known in pairs], dtype=np.int64)
