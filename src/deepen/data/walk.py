"""Going through folders: what lies there is found, or counted as left out; links never loop."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deepen.data.index import FolderIndex, Listing, ending
from deepen.data.leftout import HIDDEN, LOOP, LOOSE, NOWHERE, UNREADABLE, LeftOut
from deepen.data.names import natural_key, to_text
from deepen.errors import InputError


class File(NamedTuple):
    """A file that is named as a picture."""

    key: str
    """Its path relative to the root, in words."""
    path: Path
    size: int
    """In bytes; -1: a dangling link."""


class Walk:
    """Goes through what lies below `root`; `left` counts what it does not hand out.

    Args:
        index: of `root`.
        root: a folder.
        tables: files that are read otherwise, and so not left out.
    """

    def __init__(self, index: FolderIndex, root: Path, tables: frozenset[Path] = frozenset()):
        self.index = index
        self.root = root
        self.tables = tables
        self.left = LeftOut()
        self._above = (os.path.realpath(root),)

    def name(self, path: Path) -> str:
        """A path relative to the root, in words."""
        return to_text(path.relative_to(self.root))

    def folders(self, folder: Path, loose: str | None = LOOSE) -> list[str]:
        """The folders in `root` or a folder of it; its own pictures are left out, unless None."""
        listing = self.index.listing(folder)
        self._set_aside(listing)
        if loose is not None:
            where = "the folder itself" if folder == self.root else self.name(folder)
            self.left.add(loose, where, len(listing.pictures))
        above = self._trail(folder)
        return [name for name in listing.folders if self._inner(listing, name, above)]

    def files(self, folder: Path) -> tuple[list[File], Counter[str]]:
        """The files named as pictures in a folder, at any depth, in natural order.

        Beside them, how many other files lie there, by their ending.
        """
        before = self.left.endings.copy()
        below = list(self._below(folder))
        files = [
            File(prefix + to_text(name), listing.folder / name, size)
            for listing in below
            for prefix in [f"{self.name(listing.folder)}/" if listing.folder != self.root else ""]
            for name, size in listing.pictures
        ]
        if len(below) > 1:  # one folder's are in order
            files.sort(key=lambda file: natural_key(file.key))
        return files, self.left.endings - before

    def skip(self, folder: Path, reason: str, name: str) -> None:
        """Leave out all that lies in a folder, hidden or not; links in it are not followed."""
        pictures = others = 0
        folders = [folder]
        while folders:
            try:
                listing = self.index.listing(folders.pop())
            except InputError:  # of no one's folder nobody may be allowed to read
                self.left.add(UNREADABLE, self.name(folder))
                continue
            pictures += len(listing.pictures)
            others += len(listing.others) + len(listing.hidden) + len(listing.nowhere)
            inner = {*listing.folders, *listing.hidden_folders} - set(listing.linked)
            folders += [listing.folder / each for each in inner]
        words = f"{name} ({pictures:,} named as pictures)" if pictures else name
        self.left.add(reason, words if reason != HIDDEN else name, pictures + others)

    def _below(self, folder: Path) -> Iterator[Listing]:
        waiting = [(folder, self._trail(folder))]
        while waiting:
            here, above = waiting.pop()
            listing = self.index.listing(here)
            self._set_aside(listing)
            yield listing
            for name in reversed(listing.folders):
                if inner := self._inner(listing, name, above):
                    waiting.append((here / name, inner))

    def _set_aside(self, listing: Listing) -> None:
        """Count the files that are no pictures, by name or by place."""
        for name in listing.others:
            if listing.folder / name not in self.tables:
                self.left.endings[to_text(ending(name)) if ending(name) else "without ending"] += 1
        for name in listing.nowhere:
            self.left.add(NOWHERE, self.name(listing.folder / name))
        for name in listing.hidden:
            self.left.add(HIDDEN, to_text(name))
        for name in listing.hidden_folders:
            if name not in listing.linked:
                self.skip(listing.folder / name, HIDDEN, to_text(name))

    def _trail(self, folder: Path) -> tuple[str, ...]:
        """Where a folder and those above it truly lie."""
        return self._above if folder == self.root else (*self._above, os.path.realpath(folder))

    def _inner(self, listing: Listing, name: str, above: tuple[str, ...]) -> tuple[str, ...] | None:
        """The trail of a folder in this one; None for a link back to where it came from."""
        if name not in listing.linked:
            return (*above, os.path.join(above[-1], name))
        real = os.path.realpath(listing.folder / name)
        if any(each == real or each.startswith(real.rstrip(os.sep) + os.sep) for each in above):
            self.left.add(LOOP, self.name(listing.folder / name))
            return None
        return (*above, real)
