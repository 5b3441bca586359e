"""Names of files and classes: in words that can always be printed, and in the order expected."""

from __future__ import annotations

import re
from pathlib import PurePath

from deepen.display import UNPRINTABLE as UNPRINTABLE
from deepen.display import printable as printable

_DIGITS = 4_000  # Python makes no number of more than 4,300


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `img2` before `img10`, and upper case beside lower case."""
    pieces = re.split(r"(\d+)", text.casefold())
    return [int(piece[:_DIGITS]) if piece.isdecimal() else piece for piece in pieces], text


def shown(value: object) -> object:
    """`printable` for a template's `finalize`: of text, not of what is markup of our own."""
    return printable(value) if type(value) is str else value


def to_text(path: PurePath | str) -> str:
    r"""With forward slashes and `printable`, so that a list can have a name a line."""
    path = path if isinstance(path, PurePath) else PurePath(path)
    return printable(path.as_posix())
