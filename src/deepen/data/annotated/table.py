"""Tables of boxes, CSV or JSON lines: a row a box, with its picture, class and corners.

Numbers are edges in px, counted from 0. A row whose box is empty says that its picture shows
nothing; several rows of a picture are its boxes, numbered in the order of the table.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from deepen.data.annotated.records import Shown, Survey
from deepen.data.annotated.safely import look_into, number, read_bytes, whole
from deepen.data.index import FolderIndex, ending
from deepen.data.leftout import NO_ROW, some
from deepen.data.names import natural_key, printable, to_text
from deepen.data.split import SPLIT_FOLDERS, SplitName
from deepen.data.tables import ENDINGS, Names, Table, choose_columns, read_table
from deepen.data.walk import File, Walk
from deepen.errors import InputError, unknown

_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
    ("bboxx1", "bboxy1", "bboxx2", "bboxy2"),
)
_SIZED = (
    ("x", "y", "w", "h"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
    ("left", "top", "boxwidth", "boxheight"),
    ("x", "y", "width", "height"),
)
"""Left, top, width and height; the last only where nothing else is a box."""
_SIZES = (("width", "height"), ("imagewidth", "imageheight"), ("imgwidth", "imgheight"))
_SPLIT_IN_NAME = re.compile("|".join(sorted(SPLIT_FOLDERS, key=len, reverse=True)))


class BoxColumns(NamedTuple):
    """The columns of a box, whether its last two are width and height, and the picture's size."""

    box: list[str]
    sized: bool
    size: list[str]


def box_columns(columns: list[str]) -> BoxColumns | None:
    """Those of a table by their names; None where it has no boxes."""
    by_letters = {re.sub("[^a-z0-9]", "", name.lower()): name for name in reversed(columns)}

    def first(groups: tuple[tuple[str, ...], ...]) -> list[str]:
        known = (group for group in groups if all(each in by_letters for each in group))
        return [by_letters[each] for each in next(known, ())]

    corners, sized = first(_CORNERS), first(_SIZED)
    box = corners or sized
    if not box:
        return None
    return BoxColumns(box, not corners, [n for n in first(_SIZES) if n not in box])


def find_tables(root: Path) -> list[Path]:
    """The tables in a folder, or in folders of splits in it, that have columns of boxes."""
    folders, files = look_into(root)
    for folder in folders:
        if folder.name.lower() in SPLIT_FOLDERS:
            files += look_into(folder)[1]
    return [file for file in files if ending(file.name) in ENDINGS and box_columns(_head(file))]


def _head(path: Path) -> list[str]:
    """The columns of a table by its first line; none where it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = file.readline(65_536)
    except (OSError, UnicodeDecodeError):
        return []
    if ending(path.name) == ".jsonl":
        return re.findall(r'"([^"]*)"\s*:', line)
    separator = max(",;\t", key=line.count)
    return next(csv.reader([line.replace("\0", "")], delimiter=separator), [])


def read_boxes(root: Path, asked: dict[str, str]) -> Survey:
    """The pictures below a folder, and the boxes that tables say they show.

    Args:
        root: the folder.
        asked: `boxes`, the table, in the folder or anywhere; and if it is not plain which they are,
            its columns `image`, `label` and `split`. Without `boxes` the tables are those of
            `find_tables`; of several each is of the split that its name or folder says.

    Raises:
        InputError: a table is broken, or lacks columns, or names no picture.
    """
    tables = find_tables(root)
    if "boxes" in asked:
        inside = root / asked["boxes"]
        tables = [inside if inside.is_file() else Path(asked["boxes"]).expanduser()]
    splits = {path: _split_of(path, root) if len(tables) > 1 else None for path in tables}
    if len(tables) > 1 and (None in splits.values() or len({*splits.values()}) < len(tables)):
        names = some([to_text(path.relative_to(root)) for path in tables])
        raise InputError(f"{root}: several tables of boxes, {names}; say ?boxes=FILE")
    with FolderIndex(root) as index:
        walk = Walk(index, root, frozenset(tables))
        files, _ = walk.files(root)
    survey = Survey(root, "a table")
    found: dict[str, tuple[Shown, SplitName | None]] = {}
    for path, split in splits.items():
        _read(survey, path, files, split, asked, found)
    if not found:
        raise InputError(f"{tables[0]}: names no picture of {root}")
    by_folder = [SPLIT_FOLDERS.get(key.partition("/")[0].lower()) for key in found]
    if all(split is None for _, split in found.values()) and "train" in by_folder:
        pairs = zip(found.items(), by_folder, strict=True)
        found = {key: (shown, split) for (key, (shown, _)), split in pairs}
    own = any(split is not None for _, split in found.values())
    for key in sorted(found, key=natural_key):
        shown, split = found[key]
        if own and split is None:
            walk.left.add("picture|in no split", key)
        else:
            survey.pictures.setdefault(split or "train", []).append(shown)
    survey.own = tuple(s for s in get_args(SplitName) if own and s in survey.pictures)
    survey.pictures = {s: survey.pictures[s] for s in get_args(SplitName) if s in survey.pictures}
    for file in files:
        if file.key not in found:
            walk.left.add(NO_ROW, file.key)
    survey.classes = tuple(sorted({n for s in survey.all for n in s.names if n}, key=natural_key))
    survey.notes += walk.left.notes()
    return survey


def _split_of(path: Path, root: Path) -> SplitName | None:
    if path.parent != root:
        return SPLIT_FOLDERS.get(path.parent.name.lower())
    found = _SPLIT_IN_NAME.search(path.stem.lower())
    return SPLIT_FOLDERS[found[0]] if found else None


def _read(
    survey: Survey,
    path: Path,
    files: list[File],
    of: SplitName | None,
    asked: dict[str, str],
    found: dict[str, tuple[Shown, SplitName | None]],
) -> None:
    """Add what a table says to what is known of the pictures."""
    read_bytes(path)  # says what is wrong with the file itself
    table, root = read_table(path), survey.root
    columns = box_columns(table.columns)
    if columns is None:
        have = printable(", ".join(table.columns))
        raise InputError(
            f"{path}: has no columns xmin, ymin, xmax, ymax (or x, y, w, h); has {have}"
        )
    rest = [name for name in table.columns if name not in (*columns.box, *columns.size)]
    places = [table.columns.index(name) for name in rest]
    others = Table(path, rest, [[row[i] for i in places] for row in table.rows], table.lines)
    chosen = choose_columns(others, asked)
    said_in = to_text(path.relative_to(root)) if root in path.parents else path.name
    inside = f"{to_text(path.parent.relative_to(root))}/" if root in path.parent.parents else ""
    names = Names(files, root, ["", inside] if inside else [""])
    lost: dict[str, None] = {}
    corners: dict[str, list[list[float]]] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        cells, where = dict(zip(table.columns, row, strict=True)), f"{path}, line {line}"
        file = names.find(cells[chosen.image], where)
        if file is None:
            lost[printable(cells[chosen.image]) or "an empty cell"] = None
            continue
        word = cells[chosen.split].lower() if chosen.split else ""
        if word and word not in SPLIT_FOLDERS:
            raise InputError(f"{where}: {unknown('split', word, SPLIT_FOLDERS)}")
        split = SPLIT_FOLDERS[word] if word else of
        shown, before = found.setdefault(file.key, (Shown(file, said_in), split))
        if before != split:
            raise InputError(f"{where}: {file.key} is in {split}, but before in {before}")
        _add(shown, cells, columns, printable(cells[chosen.label]), line, corners)
    for key, rows in corners.items():
        shown = found[key][0]
        shown.boxes = np.concatenate([shown.boxes, np.array(rows)])
    words = f"boxes: {said_in}, columns {', '.join(columns.box)}; class: {chosen.label}"
    survey.notes.append(f"{words}; pictures: {chosen.image}")
    if lost:
        survey.notes.append(
            f"rows of {said_in} without a picture: of {len(lost):,}: {some([*lost])}"
        )


def _add(
    shown: Shown,
    cells: dict[str, str],
    columns: BoxColumns,
    label: str,
    line: int,
    corners: dict[str, list[list[float]]],
) -> None:
    """A row's box; one without numbers and class says that there is none."""
    size = [whole(cells[name]) for name in columns.size]
    if len(size) == 2 and None not in size:
        shown.stated = size[0], size[1]  # type: ignore[assignment]
    said = [cells[name] for name in columns.box]
    if not any(said):
        return
    here, box = len(shown.names), [number(word) for word in said]
    if columns.sized:
        box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    corners.setdefault(shown.file.key, []).append(box)
    if lacks := [name for name, word in zip(columns.box, said, strict=True) if not word]:
        shown.flaws[here] = ("not_finite", f"has no {' and no '.join(lacks)}")
    if not label:
        shown.flaws[here] = ("label", "has no class")
    shown.names.append(label)
    shown.places.append(line)
    shown.difficult.append(False)
    shown.crowd.append(False)
