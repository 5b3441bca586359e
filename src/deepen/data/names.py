"""Names of files and classes: in words that can always be printed, and in the order expected."""

from __future__ import annotations

import re
from pathlib import PurePath


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `img2` before `img10`, and upper case beside lower case."""
    pieces = re.split(r"(\d+)", text.casefold())
    return [int(piece) if piece.isdecimal() else piece for piece in pieces], text


def to_text(path: PurePath | str) -> str:
    r"""With forward slashes; bytes of a name that are not UTF-8 become `\\udc..`."""
    path = path if isinstance(path, PurePath) else PurePath(path)
    return path.as_posix().encode(errors="backslashreplace").decode()
