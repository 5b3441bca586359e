"""Pictures that may show several things at once: which classes each has, as a vector of 0 and 1.

They are a split's `targets`, {"tags": uint8 (K,)} of each picture. A table tells them: a row a
picture (or a row a picture and class), with a cell of several labels, or a column of 0 and 1 for
each class.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from deepen.data.index import FolderIndex
from deepen.data.leftout import NO_ROW, some
from deepen.data.lists import exclude_from
from deepen.data.names import natural_key
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.data.tables import Names, Table, read_table
from deepen.data.walk import Walk
from deepen.errors import InputError, unknown

SETTINGS = ("tags", "image", "label", "split")
"""What may be said of a folder: its table, and the columns of pictures, labels and splits."""
NAME = "tags"
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
    word: str, root: Path, said: Mapping[str, str], exclude: frozenset[str]
) -> PictureSet:
    """The pictures below `root` that a table names, with the classes that it gives them.

    All are in `train` where neither table nor folders have splits.

    Args:
        word: what the user typed.
        root: a folder.
        said: `tags`, the table, in `root` or anywhere; and if it is not plain which they are, the
            columns `image`, `label` and `split`.
        exclude: as of `deepen.data.sources.open_source`.

    Raises:
        InputError: the table or its columns are off, or it names no picture.
    """
    if strange := [key for key in said if key not in SETTINGS]:
        raise unknown("word after the ?", strange[0], SETTINGS)
    inside = root / said["tags"]
    path = inside if inside.is_file() else Path(said["tags"]).expanduser()
    table = read_table(path)
    with FolderIndex(root) as index:
        walk = Walk(index, root, frozenset({path}))
        files, _ = walk.files(root)
    pictures = Names(files, root, [""])
    columns = _choose(table, pictures, said)
    names, tags = _classes(table, columns)
    rows: dict[str, list[int]] = defaultdict(list)
    lost: list[str] = []
    for place, cell in enumerate(table.column(columns.image)):
        file = pictures.find(cell, f"{path}, line {table.lines[place]}")
        if file is None:
            lost.append(cell or "an empty cell")
        else:
            rows[file.key].append(place)
    for file in files:
        if file.key not in rows:
            walk.left.add(NO_ROW, file.key)
    left_out, on_list = exclude_from({file.key for file in files}, exclude, root)
    files = [file for file in files if file.key in rows and file.key not in left_out]
    if not files:
        raise InputError(f"{path}: column {columns.image} names no picture of {root}")
    matrix = np.stack([tags[rows[file.key]].max(0) for file in files])
    pools, own = _splits(table, columns, {file.key: rows[file.key] for file in files})
    notes = [
        f"labels: {columns.words} of {path.name}; {len(names)} classes, "
        f"{matrix.sum() / len(files):.2f} a picture, {(~matrix.any(1)).sum():,} pictures have none",
    ]
    counted = {
        "pictures with several rows, whose labels count together": [
            file.key for file in files if len(rows[file.key]) > 1
        ],
        f"rows of {path.name} without a picture": lost,
        "columns that are not used": columns.unused,
    }
    notes += [f"{what}: {len(each):,}: {some(each)}" for what, each in counted.items() if each]
    notes += [*on_list, *walk.left.notes()]
    trained = matrix[pools["train"]].any(0)
    if not trained.all():
        raise InputError(f"{path}: no training picture has {names[int(trained.argmin())]}")
    labels, targets = tagged(matrix)
    splits: dict[SplitName, Split] = {}
    for split in get_args(SplitName):
        if len(chosen := pools.get(split, np.empty(0, np.int64))):
            splits[split] = Split(
                split,
                labels[chosen],
                tuple(files[i].key for i in chosen),
                files=tuple(files[i].path for i in chosen),
                sizes=np.array([files[i].size for i in chosen], dtype=np.int64),
                targets=tuple(targets[i] for i in chosen),
            )
    return PictureSet(word, root, tuple(names), 3, splits, tuple(notes), tuple(own))


class _Columns(NamedTuple):
    image: str
    labels: list[str]  # one of labels, or several of 0 and 1
    split: str | None
    unused: list[str]
    words: str


def _choose(table: Table, pictures: Names, said: Mapping[str, str]) -> _Columns:
    """The columns as they are said, or as their cells show.

    Raises:
        InputError: there are none such, or several would do.
    """
    for key in ("image", "label", "split"):
        if key in said and said[key] not in table.columns:
            raise InputError(f"{table.path}: {unknown('column', said[key], table.columns)}")
    have = ", ".join(table.columns)
    if (image := said.get("image")) is None:
        found = {name: _named(table.column(name), pictures) for name in table.columns}
        image = max(table.columns, key=lambda name: found[name])
        if not found[image][0]:
            raise InputError(f"{table.path}: no column names pictures below the folder; has {have}")
    rest = [name for name in table.columns if name != image]
    split = said.get("split")
    if split is None:
        split = next((n for n in rest if _values(table, n) <= {*SPLIT_FOLDERS}), None)
    rest = [name for name in rest if name != split]
    binary = [name for name in rest if _is_binary(table, name)]
    called = [name for name in rest if name.lower() in _LABELS and name not in binary]
    if "label" in said:
        labels = [said["label"]]
    elif len(called) == 1 or (len(rest) == 1 and not binary):
        labels = called or rest
    elif binary and not called:
        labels = binary
    else:
        raise InputError(f"{table.path}: which column holds the labels? it has {have}; say ?label=")
    words = f"columns {labels[0]} to {labels[-1]}" if labels == binary else f"column {labels[0]}"
    return _Columns(image, labels, split, [n for n in rest if n not in labels], words)


def _values(table: Table, name: str) -> set[str]:
    return {cell.lower() for cell in table.column(name)}


def _is_binary(table: Table, name: str) -> bool:
    values = _values(table, name)
    return values <= _ZERO | _ONE and values != {""}


def _named(cells: Sequence[str], pictures: Names) -> tuple[int, int]:
    """How many cells name a picture, whichever it be, and how many cells differ."""
    count = 0
    for cell in cells:
        try:
            count += bool(cell) and pictures.find(cell, "") is not None
        except InputError:
            count += 1
    return count, len({*cells})


def _classes(table: Table, columns: _Columns) -> tuple[list[str], np.ndarray]:
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
    table: Table, columns: _Columns, rows: Mapping[str, Sequence[int]]
) -> tuple[dict[SplitName, np.ndarray], list[SplitName]]:
    """Which pictures belong to which split, and the splits that there are.

    They are those of the table's column, else those of the folders that all pictures lie in.

    Raises:
        InputError: a picture is in two splits, or there is none to train on.
    """
    pools: dict[SplitName, list[int]] = {}
    if columns.split is None:
        folders = [SPLIT_FOLDERS.get(key.partition("/")[0]) for key in rows]
        if None in folders or "train" not in folders:
            return {"train": np.arange(len(rows))}, []
        for place, split in enumerate(folders):
            pools.setdefault(split, []).append(place)  # type: ignore[arg-type]
        return {split: np.array(each) for split, each in pools.items()}, list(pools)
    cells = table.column(columns.split)
    for place, its in enumerate(rows.values()):
        known = {SPLIT_FOLDERS.get(cells[row].lower()) for row in its}
        if None in known or len(known) > 1:
            where = f"{table.path}, line {table.lines[its[-1]]}"
            raise InputError(f"{where}: column {columns.split} says {cells[its[-1]] or 'nothing'}")
        pools.setdefault(known.pop(), []).append(place)  # type: ignore[arg-type]
    if "train" not in pools:
        raise InputError(f"{table.path}: column {columns.split} has no train")
    return {split: np.array(each) for split, each in pools.items()}, list(pools)
