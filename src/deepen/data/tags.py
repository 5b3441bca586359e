"""Pictures that may show several things at once: which classes each has, as a vector of 0 and 1.

They are a split's `targets`, {"classes": uint8 (K,)} of each picture. A table tells them: a row a
picture (or a row a picture and class), with a cell of several labels, or a column of 0 and 1 for
each class.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from deepen.data.decode import EXTENSIONS
from deepen.data.names import natural_key, to_text
from deepen.data.split import (
    SPLIT_FOLDERS,
    PictureSet,
    Pools,
    Split,
    SplitName,
    hold_out,
    note_on_test,
)
from deepen.errors import InputError, unknown

NAME = "classes"
"""Of the target."""
SEPARATORS = ("|", ";", ",")
"""Of labels in a cell; where a column has none of them, it is white space."""
_LABELS = ("labels", "label", "tags", "tag", "classes", "class", "categories", "targets", "target")
_ZERO, _ONE = {"0", "0.0", "false", ""}, {"1", "1.0", "true"}


def tagged(matrix: Any) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Labels and targets of pictures that may have several classes.

        PictureSet.of("scenes", names, train=(pictures, *tagged(matrix)))

    Args:
        matrix: (N, K) of 0 and 1, or of False and True.

    Returns:
        Labels, int64 (N,), the first class of each picture or 0, and its targets.

    Raises:
        InputError: it is no such matrix.
    """
    given = np.asarray(matrix)
    if given.ndim != 2 or given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
        raise InputError(f"classes of pictures are 0 or 1, (N, K); got {given.dtype} {given.shape}")
    tags = given.astype(np.uint8)
    return tags.argmax(1).astype(np.int64), [{NAME: row} for row in tags]


def tags_of(split: Split) -> np.ndarray | None:
    """Which classes each picture has, uint8 (N, K); None where each has one, or other targets."""
    if not split.targets or any({*target} != {NAME} for target in split.targets):
        return None
    return np.stack([np.asarray(target[NAME], np.uint8) for target in split.targets])


def open_tagged(
    word: str, root: Path, said: Mapping[str, str], validation: int | None, exclude: frozenset[str]
) -> PictureSet:
    """The pictures below `root` that a table names, with the classes that it gives them.

    Args:
        word: what the user typed.
        root: a folder.
        said: `tags`, the table, below `root` or anywhere; and if it is not plain which they are,
            the columns `image`, `column` (of labels) and `split`.
        validation: as of `deepen.data.sources.open_source`.
        exclude: likewise.

    Raises:
        InputError: the table or its columns are off, or it names no picture.
    """
    table = _read(root, said["tags"])
    pictures = _Pictures(root)
    columns = _choose(table, pictures, said)
    names, tags = _classes(table, columns)
    rows: dict[str, list[int]] = defaultdict(list)
    lost: list[str] = []
    for place, cell in enumerate(table.column(columns.image)):
        key = pictures.find(cell, f"{table.path}, line {table.lines[place]}")
        if key is None:
            lost.append(cell or "an empty cell")
        else:
            rows[key].append(place)
    keys = [key for key in pictures.keys if key in rows and key not in exclude]
    if not keys:
        raise InputError(f"{table.path}: column {columns.image} names no picture of {root}")
    matrix = np.stack([tags[rows[key]].max(0) for key in keys])
    pools, own = _splits(table, columns, [rows[key] for key in keys])
    notes = [
        f"labels: {columns.words} of {table.path.name}; {len(names)} classes, "
        f"{matrix.sum() / len(keys):.2f} a picture, {(~matrix.any(1)).sum():,} pictures have none",
        *hold_out(pools, own, keys, validation),
        *note_on_test(pools),
    ]
    counted = {
        "pictures with several rows, whose labels count together": [
            key for key in keys if len(rows[key]) > 1
        ],
        f"pictures without a row in {table.path.name}, left out": [
            key for key in pictures.keys if key not in rows
        ],
        f"rows of {table.path.name} without a picture": lost,
        "excluded": [key for key in rows if key in exclude],
        "columns that are not used": columns.unused,
    }
    notes += [f"{what}: {len(some):,}, {some[0]} say" for what, some in counted.items() if some]
    trained = matrix[pools["train"]].any(0)
    if not trained.all():
        raise InputError(f"{table.path}: no training picture has {names[int(trained.argmin())]}")
    labels, targets = tagged(matrix)
    splits: dict[SplitName, Split] = {}
    for split in get_args(SplitName):
        if len(chosen := pools.get(split, np.empty(0, np.int64))):
            splits[split] = Split(
                split,
                labels[chosen],
                tuple(keys[i] for i in chosen),
                files=tuple(pictures.keys[keys[i]] for i in chosen),
                targets=tuple(targets[i] for i in chosen),
            )
    return PictureSet(word, root, tuple(names), 3, splits, tuple(notes))


class _Table(NamedTuple):
    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        place = self.names.index(name)
        return [row[place] for row in self.rows]


def _read(root: Path, name: str) -> _Table:
    path = root / name if (root / name).is_file() else Path(name).expanduser()
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no UTF-8"
        raise InputError(f"labels {path}: {why}") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, lines = [], []
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path}: has no rows below its header")
    header = rows[0]
    if twice := [column for column, n in Counter(header).items() if n > 1]:
        raise InputError(f"{path}: has two columns {twice[0]!r}")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: {len(row)} cells, but {len(header)} columns")
    return _Table(path, header, rows[1:], lines[1:])


class _Pictures:
    """The pictures below a folder, by what a table may call them."""

    def __init__(self, root: Path) -> None:
        self.keys: dict[str, Path] = {}
        for folder, below, files in os.walk(root):
            below[:] = sorted((d for d in below if not d.startswith(".")), key=natural_key)
            for name in sorted(files, key=natural_key):
                path = Path(folder, name)
                if path.suffix.lower() in EXTENSIONS and not name.startswith("."):
                    self.keys[to_text(path.relative_to(root))] = path
        self._called: defaultdict[str, list[str]] = defaultdict(list)
        for key in self.keys:
            name = key.rpartition("/")[2]
            for called in {name, name.rpartition(".")[0], key.rpartition(".")[0]} - {key}:
                self._called[called].append(key)

    def find(self, cell: str, where: str) -> str | None:
        """The key of the picture that a cell means: its path, its name, either without ending."""
        if cell in self.keys:
            return cell
        for called in (cell, cell.replace("\\", "/").rpartition("/")[2]):
            if len(found := self._called.get(called, [])) > 1:
                raise InputError(f"{where}: {cell} may be {found[0]} or {found[1]}; say the path")
            if found:
                return found[0]
        return None


class _Columns(NamedTuple):
    image: str
    labels: list[str]  # one of labels, or several of 0 and 1
    split: str | None
    unused: list[str]
    words: str


def _choose(table: _Table, pictures: _Pictures, said: Mapping[str, str]) -> _Columns:
    """The columns as they are said, or as their cells show.

    Raises:
        InputError: there are none such, or several would do.
    """
    for key in ("image", "column", "split"):
        if key in said and said[key] not in table.names:
            raise InputError(f"{table.path}: {unknown('column', said[key], table.names)}")
    have = ", ".join(table.names)
    if (image := said.get("image")) is None:
        found = {name: _named(table.column(name), pictures) for name in table.names}
        image = max(table.names, key=lambda name: found[name])
        if not found[image][0]:
            raise InputError(f"{table.path}: no column names pictures below the folder; has {have}")
    rest = [name for name in table.names if name != image]
    split = said.get("split")
    if split is None:
        split = next((n for n in rest if _values(table, n) <= {*SPLIT_FOLDERS}), None)
    rest = [name for name in rest if name != split]
    binary = [name for name in rest if _is_binary(table, name)]
    called = [name for name in rest if name.lower() in _LABELS and name not in binary]
    if "column" in said:
        labels = [said["column"]]
    elif len(called) == 1 or (len(rest) == 1 and not binary):
        labels = called or rest
    elif binary and not called:
        labels = binary
    else:
        raise InputError(
            f"{table.path}: which column holds the labels? it has {have}; say ?column="
        )
    words = f"columns {labels[0]} to {labels[-1]}" if labels == binary else f"column {labels[0]}"
    return _Columns(image, labels, split, [n for n in rest if n not in labels], words)


def _values(table: _Table, name: str) -> set[str]:
    return {cell.lower() for cell in table.column(name)}


def _is_binary(table: _Table, name: str) -> bool:
    values = _values(table, name)
    return values <= _ZERO | _ONE and values != {""}


def _named(cells: Sequence[str], pictures: _Pictures) -> tuple[int, int]:
    """How many cells name a picture, whichever it be, and how many cells differ."""
    count = 0
    for cell in cells:
        try:
            count += bool(cell) and pictures.find(cell, "") is not None
        except InputError:
            count += 1
    return count, len({*cells})


def _classes(table: _Table, columns: _Columns) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and which of them each row has, uint8 (rows, K)."""
    if _is_binary(table, columns.labels[0]):
        cells = [[cell.lower() in _ONE for cell in table.column(n)] for n in columns.labels]
        return columns.labels, np.array(cells, np.uint8).T
    cells = table.column(columns.labels[0])
    separator = next((s for s in SEPARATORS if any(s in cell for cell in cells)), None)
    parts = [re.split(re.escape(separator), cell) if separator else cell.split() for cell in cells]
    found = [{part.strip() for part in row} - {""} for row in parts]
    names = sorted(set().union(*found), key=natural_key)
    if not names:
        raise InputError(f"{table.path}: column {columns.labels[0]} has no label")
    return names, np.array([[name in row for name in names] for row in found], np.uint8)


def _splits(
    table: _Table, columns: _Columns, rows: Sequence[Sequence[int]]
) -> tuple[Pools, list[SplitName]]:
    """Which pictures belong to which split, and the splits that the table has.

    Raises:
        InputError: a picture is in two splits, or there is none to train on.
    """
    if columns.split is None:
        return {"train": np.arange(len(rows))}, []
    cells = table.column(columns.split)
    pools: dict[SplitName, list[int]] = {}
    for place, its in enumerate(rows):
        known = {SPLIT_FOLDERS.get(cells[row].lower()) for row in its}
        if None in known or len(known) > 1:
            where = f"{table.path}, line {table.lines[its[-1]]}"
            raise InputError(f"{where}: column {columns.split} says {cells[its[-1]] or 'nothing'}")
        pools.setdefault(known.pop(), []).append(place)  # type: ignore[arg-type]
    if "train" not in pools:
        raise InputError(f"{table.path}: column {columns.split} has no train")
    return {split: np.array(each) for split, each in pools.items()}, list(pools)
