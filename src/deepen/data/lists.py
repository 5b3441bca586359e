"""Lists of pictures, as this library, other tools and other systems write them."""

from __future__ import annotations

import codecs
import posixpath
from collections.abc import Iterator, Set
from pathlib import Path

from deepen.data.leftout import some
from deepen.data.names import to_text
from deepen.errors import InputError


def read_list(path: Path) -> tuple[str, ...]:
    """The pictures that a list names, a line each.

    Raises:
        InputError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"--exclude {path}: {error}") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes
    try:  # names are bytes where they are not UTF-8, and find writes them so
        text = data.decode("utf-16") if utf16 else data.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError as error:
        raise InputError(f"--exclude {path}: {error}") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return tuple(line for line in lines if line.strip())


class Spellings:
    r"""The keys of pictures below `root` that a name may mean, the most literal first.

    `./a/1.png`, `a\1.png`, `photos/a/1.png` and `/home/me/photos/a/1.png` of the folder photos are
    `a/1.png`; so is a line of a run's quarantine.txt, which goes on with a tab and a reason.
    """

    def __init__(self, root: Path) -> None:
        self._ends = {root.absolute().parts, root.resolve().parts}

    def __call__(self, word: str) -> Iterator[str]:
        """The keys, each perhaps more than once."""
        yield word
        for text in (word.strip(), word.partition("\t")[0]):
            for written in (text, text.replace("\\", "/")):
                key = posixpath.normpath(to_text(written))
                yield key
                parts = tuple(key.split("/"))
                parts = ("/", *parts[1:]) if key.startswith("/") else parts
                for count in range(1, len(parts)):
                    if any(parts[:count] == end[-count:] for end in self._ends):
                        yield "/".join(parts[count:])


def exclude_from(keys: Set[str], exclude: frozenset[str], root: Path) -> tuple[set[str], list[str]]:
    """The keys that a list means, and notes: how many, and which names are no picture's."""
    if not exclude:
        return set(), []
    meant, strange, spellings = set(), [], Spellings(root)
    for word in sorted(exclude):
        key = next((each for each in spellings(word) if each in keys), None)
        if key is None:
            strange.append(word)
        else:
            meant.add(key)
    notes = [f"excluded: {len(meant):,} pictures, of {len(exclude):,} listed"]
    if strange:
        notes.append(f"listed to be excluded, but no picture here: {some(strange)}")
    return meant, notes
