"""XML and JSON of strangers, read so that whatever they hold ends in data or in one `InputError`.

Of XML no entity is declared or fetched, so none can grow (the billion laughs) or read a file; no
DTD is needed for what annotations say. Depth and size have limits.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from deepen.data.names import printable
from deepen.errors import InputError, is_scarcity

MAX_XML_BYTES = 32 * 2**20
"""Of a file that describes one picture."""
MAX_DEPTH = 64


class Node:
    """An element: its tag, text and children, and the line that it begins in."""

    __slots__ = ("children", "line", "tag", "text")

    def __init__(self, tag: str, line: int) -> None:
        self.tag, self.line, self.text = tag, line, ""
        self.children: list[Node] = []

    def all(self, tag: str) -> Iterator[Node]:
        """The children of that tag."""
        return (child for child in self.children if child.tag == tag)

    def find(self, *path: str) -> Node | None:
        """The first child of the first tag, its first child of the second, ...; or None."""
        node: Node | None = self
        for tag in path:
            node = None if node is None else next(node.all(tag), None)
        return node

    def said(self, *path: str) -> str:
        """The text of what `find` finds, in one line; "" where there is none."""
        node = self.find(*path)
        return "" if node is None else printable(" ".join(node.text.split()))


def look_into(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, hidden ones left out, by their names."""
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    folders = [folder / name for name, is_folder in found if is_folder]
    return folders, [folder / name for name, is_folder in found if not is_folder]


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        data = path.read_bytes() if path.is_file() else None
    except (OSError, ValueError) as error:
        if is_scarcity(error):
            raise
        words = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {words}") from error
    if data is None:
        raise InputError(f"{path}: no such file")
    if not data.strip():
        raise InputError(f"{path}: is empty")
    return data


def read_xml(path: Path) -> Node:
    """The root element of an XML file.

    Raises:
        InputError: it is not well formed, declares entities, or is too large or too deep.
    """
    data = read_bytes(path)
    if len(data) > MAX_XML_BYTES:
        raise InputError(f"{path}: {len(data):,} bytes of XML, above the cap of {MAX_XML_BYTES:,}")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    top = Node("", 0)
    open_nodes = [top]

    def start(tag: str, _: dict[str, str]) -> None:
        if len(open_nodes) > MAX_DEPTH:
            raise InputError(f"elements lie more than {MAX_DEPTH} deep")
        node = Node(tag, parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_: str) -> None:
        open_nodes.pop()

    def text(data: str) -> None:
        open_nodes[-1].text += data

    def refuse(*_: Any) -> None:
        raise InputError("declares entities, which are not read")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(data, True)
    except InputError as error:
        raise InputError(f"{path}, line {parser.CurrentLineNumber}: {error}") from None
    except expat.ExpatError as error:
        words = expat.ErrorString(error.code)
        raise InputError(f"{path}, line {error.lineno}: is no XML ({words})") from None
    except Exception as error:  # of an encoding's codec
        if is_scarcity(error):
            raise
        words = printable(" ".join(str(error).split()))
        raise InputError(f"{path}: is no XML ({words})") from error
    return top.children[0]


def read_json(path: Path) -> Any:
    """What a JSON file holds; NaN and Infinity are numbers.

    Raises:
        InputError: it is no JSON, no UTF-8, or nested too deep.
    """
    data = read_bytes(path)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: is no JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 ({error.reason} at byte {error.start:,})") from None
    except (ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{path}: is no JSON that is read ({words})") from None


def number(value: Any) -> float:
    """A number as text or JSON has it; NaN for whatever is none."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def whole(value: Any) -> int | None:
    """A whole number above 0, as sizes are; None for whatever is none."""
    found = number(value)
    return int(found) if found.is_integer() and 0 < found < 2**31 else None
