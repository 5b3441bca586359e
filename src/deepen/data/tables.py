"""Labels in a table beside the pictures, as Kaggle and Hugging Face's imagefolder have them.

A table is CSV (separated by commas, semicolons or tabs) or JSON lines. One column names pictures,
with or without their ending; one says what they show; one may say which split they belong to.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from deepen.data.decode import EXTENSIONS
from deepen.data.index import ending
from deepen.data.leftout import NO_LABEL, NO_ROW, LeftOut, some
from deepen.data.lists import Spellings
from deepen.data.names import natural_key, printable, to_text
from deepen.data.split import SPLIT_FOLDERS, SplitName
from deepen.data.walk import File
from deepen.errors import InputError, unknown

ENDINGS = frozenset({".csv", ".tsv", ".jsonl"})
SETTINGS = ("labels", "image", "label", "split")
"""What may be said of a folder: its table, and the columns of pictures, labels and splits."""

# Letters of a column's name, small and without "_": the first that a table has is taken.
_IMAGE = (
    *("filename", "file", "filepath", "image", "imagename", "imagepath", "imagefile", "imageid"),
    *("img", "imgname", "imgpath", "imgid", "path", "picture", "photo", "fname", "id", "name"),
)
_LABEL = (
    *("label", "labels", "class", "classname", "target", "species", "category", "breed"),
    *("classid", "labelname", "diagnosis", "dx", "y"),
)
_ROLE = re.compile(r"(labels?|metadata|annotations?)?([a-z]*?)(labels?|metadata|annotations?)?")


class Table(NamedTuple):
    """What a file says: rows of cells under columns, and of whom."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]
    """Of the file, that each row begins at."""

    def column(self, name: str) -> list[str]:
        """The cells below a name."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


class Place(NamedTuple):
    """A table, which split it is of if any, and the folder of its pictures."""

    path: Path
    split: SplitName | None
    folder: Path


class Labelled(NamedTuple):
    """A picture, and what a table says of it."""

    file: File
    label: str
    split: SplitName | None
    where: str
    """Table and line."""
    row: dict[str, str]
    """All cells, by their column."""


def find_tables(
    root: Path, folders: dict[SplitName, Path], names: dict[Path, list[str]]
) -> list[Place]:
    """The tables that by their name tell the labels of a folder's pictures.

    Those are metadata.csv or labels.csv of the folder or of a split's, and train.csv,
    train_labels.csv, ... of the folder.

    Args:
        root: the folder.
        folders: of splits in it, if it has some.
        names: of the files in each of these folders.

    Raises:
        InputError: several would do.
    """
    found: list[Place] = []
    for folder in (root, *folders.values()):
        of: SplitName | None = next((s for s, each in folders.items() if each == folder), None)
        for name in names[folder]:
            known, split = _role(name)
            if known and (folder == root or split in (None, of)):
                scope = folders.get(split, root) if split else folder
                found.append(Place(folder / name, split or of, scope))
    if len(found) > 1:
        splits = [place.split for place in found]
        if None in splits or len(set(splits)) < len(splits):
            several = some([str(place.path.relative_to(root)) for place in found])
            raise InputError(f"{root}: several tables of labels, {several}; say --labels FILE")
    return found


def _role(name: str) -> tuple[bool, SplitName | None]:
    """Whether a file's name is that of a table of labels, and the split that it is of."""
    if ending(name) not in ENDINGS:
        return False, None
    letters = re.sub("[^a-z]", "", name[: -len(ending(name))].lower())
    match = _ROLE.fullmatch(letters)
    if match is None or not letters:
        return False, None
    return match[2] == "" or match[2] in SPLIT_FOLDERS, SPLIT_FOLDERS.get(match[2])


def read_table(path: Path) -> Table:
    """The rows of a table; cells without the space around them.

    Raises:
        InputError: it cannot be read, or its rows do not fit its columns.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 ({error}); save it as UTF-8") from error
    table = _json_lines(path, text) if ending(path.name) == ".jsonl" else _csv(path, text)
    if not table.rows:
        raise InputError(f"{path}: has no rows")
    twice = [name for name in table.columns if table.columns.count(name) > 1]
    if twice:
        raise InputError(f"{path}: has two columns {twice[0]}")
    return table


def _csv(path: Path, text: str) -> Table:
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines, start = [], [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {error}") from error
    columns = rows.pop(0) if rows else []
    for row, line in zip(rows, lines[1:], strict=True):
        if len(row) > len(columns):
            raise InputError(f"{path}, line {line}: {len(row)} cells under {len(columns)} columns")
        row += [""] * (len(columns) - len(row))
    return Table(path, columns, rows, lines[1:])


def _json_lines(path: Path, text: str) -> Table:
    columns: dict[str, None] = {}
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: is no JSON object")
        columns |= dict.fromkeys(row)
        found.append((number, row))
    cells = [[row.get(name) for name in columns] for _, row in found]
    rows = [["" if cell is None else str(cell).strip() for cell in row] for row in cells]
    return Table(path, list(columns), rows, [number for number, _ in found])


class Columns(NamedTuple):
    """The columns that say which picture, what it shows, and which split it belongs to."""

    image: str
    label: str
    split: str | None


def choose_columns(table: Table, asked: dict[str, str]) -> Columns:
    """As the user says (`SETTINGS`), or by their names.

    Raises:
        InputError: none would do, or several; their names are said.
    """
    for role in ("image", "label", "split"):
        if role in asked and asked[role] not in table.columns:
            raise InputError(f"{table.path}: {unknown('column', asked[role], table.columns)}")
    split = asked.get("split") or _split_column(table)
    image = asked.get("image") or _image_column(table)
    if "label" in asked:
        return Columns(image, asked["label"], split)
    rest = [name for name in table.columns if name not in (image, split)]
    labels = [name for name in rest if _letters(name) in _LABEL] or rest
    if len(labels) != 1:
        have = ", ".join(table.columns)
        what = "several columns of labels" if labels != rest else "no column is called label"
        raise InputError(f"{table.path}: {what}; it has {have}; {_say(table, 'label')}")
    return Columns(image, labels[0], split)


def _image_column(table: Table) -> str:
    named = [name for letters in _IMAGE for name in table.columns if _letters(name) == letters]
    whole = [c for c in table.columns if all(ending(v) in EXTENSIONS for v in table.column(c))]
    if not (named or whole):
        have = ", ".join(table.columns)
        raise InputError(
            f"{table.path}: no column names pictures; it has {have}; {_say(table, 'image')}"
        )
    both = [name for name in named if name in whole] or whole or named
    if both == whole and len(whole) > 1:
        several = ", ".join(whole)
        raise InputError(
            f"{table.path}: several columns name pictures, {several}; {_say(table, 'image')}"
        )
    return both[0]


def _split_column(table: Table) -> str | None:
    """The column called split, or the one that holds nothing but names of splits."""
    for name in table.columns:
        values = {value.lower() for value in table.column(name)}
        if _letters(name) == "split" or ("train" in values and values <= {*SPLIT_FOLDERS, ""}):
            return name
    return None


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _say(table: Table, role: str) -> str:
    return f"say --labels '{table.path.name}?{role}=COLUMN'"


def label_pictures(
    places: list[Place], root: Path, files: list[File], asked: dict[str, str], left: LeftOut
) -> tuple[list[Labelled], list[str]]:
    """The pictures that tables have a label for, in natural order, and notes on how.

    Args:
        places: of the tables; of several, each is of a split.
        root: of the pictures' keys.
        files: all pictures; those without a label are counted in `left`.
        asked: which columns, as `SETTINGS` names them.
        left: what is left out.

    Raises:
        InputError: a table cannot be read, or two rows contradict each other.
    """
    found: dict[str, Labelled] = {}
    notes: list[str] = []
    label = asked.get("label")
    for place in sorted(places, key=lambda place: place.split != "train"):
        table = read_table(place.path)
        if place.split in ("val", "test") and label is not None and label not in table.columns:
            notes.append(f"{place.path.name}: has no column {label}, so none of its rows is used")
            continue
        columns = choose_columns(table, asked)
        label = columns.label
        within = "" if place.folder == root else f"{to_text(place.folder.relative_to(root))}/"
        scope = [file for file in files if file.key.startswith(within)]
        names = Names(scope, root, _prefixes(place, root))
        name = to_text(place.path.relative_to(root) if root in place.path.parents else place.path)
        words, lost = _read_rows(table, columns, place.split, names, found)
        notes.append(f"labels: {name}, {words}")
        if lost:
            notes.append(f"rows of {name} without a picture: {len(lost):,}: {some(lost)}")
    for file in files:
        if file.key not in found:
            left.add(NO_ROW, file.key)
        elif not found[file.key].label:
            left.add(NO_LABEL, file.key)
    kept = [one for one in found.values() if one.label]
    return sorted(kept, key=lambda one: natural_key(one.file.key)), notes


def _read_rows(
    table: Table,
    columns: Columns,
    of: SplitName | None,
    names: Names,
    found: dict[str, Labelled],
) -> tuple[str, list[str]]:
    """Add what a table says to what is known; the columns in words, and names of no picture."""
    lost: list[str] = []
    named = 0
    for row, line in zip(table.rows, table.lines, strict=True):
        where = f"{table.path}, line {line}"
        cells = dict(zip(table.columns, row, strict=True))
        file = names.find(cells[columns.image], where)
        if file is None:
            lost.append(cells[columns.image] or "an empty cell")
            continue
        split = _split(cells[columns.split], where) if columns.split else of
        new = Labelled(file, printable(cells[columns.label]), split, where, cells)
        old = found.setdefault(file.key, new)
        if (old.label, old.split) != (new.label, new.split):
            one, other = (" in ".join(filter(None, (o.label, o.split))) for o in (old, new))
            raise InputError(f"{where}: {file.key} is {other}, but {one} in {old.where}")
        named += 1
    if not named:
        first = next(iter(names.by_key), None)
        have = "there is none" if first is None else f"one is called {first}"
        raise InputError(
            f"{table.path}: column {columns.image} names no picture here: {some(lost)}; {have}"
        )
    words = f"column {columns.label}; pictures: column {columns.image}"
    return words + (f"; splits: column {columns.split}" if columns.split else ""), lost


def _split(value: str, where: str) -> SplitName | None:
    if value and value.lower() not in SPLIT_FOLDERS:
        raise InputError(f"{where}: {unknown('split', value, SPLIT_FOLDERS)}")
    return SPLIT_FOLDERS.get(value.lower())


def _prefixes(place: Place, root: Path) -> list[str]:
    """What a picture's name may be relative to, below the root."""
    inside = [f for f in (place.path.parent, place.folder) if f.is_relative_to(root) and f != root]
    return ["", *(f"{folder.relative_to(root).as_posix()}/" for folder in inside)]


class Names:
    """The pictures by what a table may call them."""

    def __init__(self, files: list[File], root: Path, prefixes: list[str]) -> None:
        self.prefixes = prefixes
        self.by_key = {file.key: file for file in files}
        self._spellings = Spellings(root)
        self._by_end: defaultdict[str, list[File]] = defaultdict(list)
        for file in files:
            name = file.key.rpartition("/")[2]
            self._by_end[name].append(file)
            self._by_end[name[: -len(ending(name))]].append(file)

    def find(self, word: str, where: str) -> File | None:
        """The picture of that path, else the one whose path ends so, perhaps without its ending.

        Raises:
            InputError: several end so.
        """
        if not word:
            return None
        for spelled in self._spellings(word):
            for prefix in self.prefixes:
                if file := self.by_key.get(prefix + spelled):
                    return file
        tail = posixpath.normpath(to_text(word.replace("\\", "/")))
        near = self._by_end.get(tail.rpartition("/")[2], ())
        whole = [file for file in near if f"/{file.key}".endswith(f"/{tail}")]
        ends = whole or [f for f in near if f"/{f.key[: -len(ending(f.key))]}".endswith(f"/{tail}")]
        if len(ends) > 1:
            raise InputError(f"{where}: {word} may be {some([file.key for file in ends])}")
        return ends[0] if ends else None
