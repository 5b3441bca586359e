"""Names of files and classes: in words that can always be printed, and in the order expected."""

from __future__ import annotations

import re
from pathlib import PurePath

# What ends a line, moves a terminal's cursor or turns the direction of reading: C0, DEL and C1,
# separators of lines, the directions that are opened and closed; and bytes that were no UTF-8.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


_DIGITS = 4_000  # Python makes no number of more than 4,300


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `img2` before `img10`, and upper case beside lower case."""
    pieces = re.split(r"(\d+)", text.casefold())
    return [int(piece[:_DIGITS]) if piece.isdecimal() else piece for piece in pieces], text


def printable(text: str) -> str:
    r"""In one line that no terminal obeys: newline is `\n`, ESC `\x1b`, a lost byte `\udc..`.

    >>> printable("a\nb [red]")
    'a\\nb [red]'
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object) -> object:
    """`printable` for a template's `finalize`: of text, not of what is markup of our own."""
    return printable(value) if type(value) is str else value


def to_text(path: PurePath | str) -> str:
    r"""With forward slashes and `printable`, so that a list can have a name a line."""
    path = path if isinstance(path, PurePath) else PurePath(path)
    return printable(path.as_posix())
