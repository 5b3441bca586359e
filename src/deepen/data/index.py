"""What lies in a folder, remembered: a large one is opened again without going through its files.

A folder's own entry changes when a file is added to it, removed, renamed or replaced by renaming,
so those that have not changed are not read again. A file that is overwritten in place leaves no
trace there: in folders of `MIN_FILES` pictures or more that alone goes unnoticed, until the index,
in ~/.cache/deepen/index or below the environment's DEEPEN_CACHE_DIR, is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from deepen.data.decode import EXTENSIONS
from deepen.data.leftout import no_persons
from deepen.data.names import natural_key, to_text
from deepen.errors import InputError
from deepen.files import write_whole

MIN_FILES = 10_000
"""Fewer pictures are looked up each time: that takes no second, and misses no change."""

_FORMAT = [2, *sorted(EXTENSIONS)]  # which files are pictures depends on what is installed
_SETTLED_NS = 2 * 10**9  # a file system's clock may tick this slowly


class Listing(NamedTuple):
    """What lies in one folder, each in natural order."""

    folder: Path
    folders: list[str]
    pictures: list[tuple[str, int]]
    """Name, and size in bytes (-1: a dangling link)."""
    others: list[str]
    """Files of other endings."""
    hidden: list[str]
    """Files that no person put there (`no_persons`)."""
    hidden_folders: list[str]
    linked: list[str]
    """Those of the folders that are links."""
    nowhere: list[str]
    """Links that lead nowhere, and have no picture's name."""


class FolderIndex:
    """Lists folders below `root`; as a context, it keeps what it saw for the next time.

    A cache that is damaged, or that cannot be written, is done without.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = _cache_file(root)
        self._known = {} if self._file is None else _load(self._file)
        self._seen: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> FolderIndex:
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        if error is not None or self._file is None or self._seen == self._known:
            return
        with contextlib.suppress(Exception):
            if sum(len(folder["names"]) for folder in self._seen.values()) >= MIN_FILES:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                _save(self._file, self._seen)
            else:
                self._file.unlink(missing_ok=True)

    def listing(self, folder: Path) -> Listing:
        """What lies in `root` or a folder below it.

        Raises:
            InputError: it cannot be read.
        """
        key = "" if folder == self._root else str(folder.relative_to(self._root))
        if key not in self._seen:
            try:
                state = _state(folder)
                known = self._known.get(key)
                if known is None or known["state"] != state:
                    known = {"state": state, **_read(folder)}
            except OSError as error:
                raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
            self._seen[key] = known
        known = self._seen[key]
        pictures = list(zip(known["names"], known["sizes"], strict=True))
        return Listing(folder, known["folders"], pictures, *(known[name] for name in _ASIDE))


def _state(folder: Path) -> list[int]:
    """What of a folder's own entry changes with its contents."""
    about = os.stat(folder)
    return [about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


_ASIDE = Listing._fields[3:]


def _read(folder: Path) -> dict[str, Any]:
    began = time.time_ns()
    sizes: dict[str, int] = {}
    named: dict[str, list[str]] = {kind: [] for kind in ("folders", *_ASIDE)}
    with os.scandir(folder) as entries:
        for entry in entries:
            name, is_folder, linked = entry.name, _is_folder(entry), entry.is_symlink()
            if no_persons(name):
                named["hidden_folders" if is_folder else "hidden"].append(name)
            elif is_folder:
                named["folders"].append(name)
            elif ending(name) in EXTENSIONS:
                sizes[name] = _size(entry)
            else:
                named["nowhere" if linked and _size(entry) < 0 else "others"].append(name)
            if linked and is_folder:
                named["linked"].append(name)
    found: dict[str, Any] = {kind: sorted(names, key=_order) for kind, names in named.items()}
    found["names"] = sorted(sizes, key=_order)
    found["sizes"] = [sizes[name] for name in found["names"]]
    changed = max(_state(folder)[:2])
    if found["linked"] or found["nowhere"] or changed > began - _SETTLED_NS:
        # Where a link leads to, or what comes within the clock's same tick, may change unseen.
        found["state"] = None
    return found


def ending(name: str) -> str:
    """Of a file's name, in lower case and with its dot; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def _order(name: str) -> Any:
    return natural_key(to_text(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed to us
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling link: decoding will name it
        return -1


def _cache_file(root: Path) -> Path | None:
    try:
        folder = Path(os.environ.get("DEEPEN_CACHE_DIR") or "~/.cache/deepen").expanduser()
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    except (OSError, RuntimeError):  # no home, a loop of links
        return None
    return folder / "index" / f"{name}.json"


def _load(file: Path) -> dict[str, dict[str, Any]]:
    try:
        checksum, _, text = file.read_text("ascii").partition("\n")
        if checksum != _checksum(text):
            return {}
        content = json.loads(text)
        return content["folders"] if content["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError):
        return {}


def _save(file: Path, folders: dict[str, dict[str, Any]]) -> None:
    text = json.dumps({"format": _FORMAT, "folders": folders}, separators=(",", ":"))
    write_whole(file, f"{_checksum(text)}\n{text}")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
