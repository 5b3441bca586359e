"""Which files a run was begun with, and whether they are still those: names, sizes, contents.

The fingerprint of a data set says names, labels and sizes of files. What it does not say is noted
with the run, in pictures.json.gz: of each file its times and, of at most `HASHED_BYTES` in all, the
SHA-256 of its bytes. A file whose size and times are as they were is taken for the same; any other
is read again, and its bytes decide. So a folder that was copied or moved is the same, and a picture
that was overwritten is not, though it be as long.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from deepen.data.sources import PictureSet
from deepen.errors import InputError

NAME = "pictures.json.gz"
HASHED_BYTES = 4 * 2**30
"""Of larger data no contents are noted: to read them once more would take minutes."""
_THREADS = 8
_SETTLED_NS = 2 * 10**9  # a file system's clock may tick this slowly


class Changes(NamedTuple):
    """What is not as it was; each in the order of the splits.

    Attributes:
        more: files that there were not.
        gone: files that there are no more.
        other: files with other bytes.
        touched: files of the same size that were written to since, and whose bytes are not known.
    """

    more: list[str]
    gone: list[str]
    other: list[str]
    touched: list[str]

    def __str__(self) -> str:
        """All but `touched` in words, "" where there is nothing to say."""
        parts = (
            (self.more, "more", "more"),
            (self.gone, "gone", "gone"),
            (self.other, "has other bytes", "have other bytes"),
        )
        return ", ".join(
            f"{_counted(files)} {one if len(files) == 1 else many} ({_some(files)})"
            for files, one, many in parts
            if files
        )

    def unsure(self) -> str:
        """What is to be said of those that were touched."""
        return (
            f"{_counted(self.touched)} written to since the run began ({_some(self.touched)}), of "
            "the same size; of so much data no contents were noted that could be compared"
        )


def note(source: PictureSet) -> bytes | None:
    """What to keep of the files of a data set; None of pictures in memory.

    Every file is looked at, and read where all together are at most `HASHED_BYTES`.
    """
    files = _files(source)
    if not files:
        return None
    now = time.time_ns()
    stats = [_stat(path) for path in files.values()]
    hashed = sum(max(0, size) for size, *_ in stats) <= HASHED_BYTES
    digests = _digests(files.values()) if hashed else [""] * len(files)
    kept = {
        # What was written to just now may be written to again within the same tick of the clock.
        key: [size, *(0 if at > now - _SETTLED_NS else at for at in times), digest]
        for key, (size, *times), digest in zip(files, stats, digests, strict=True)
    }
    document = json.dumps({"format": 1, "files": kept}, separators=(",", ":"))
    return gzip.compress(document.encode(), compresslevel=1, mtime=0)


def changes(run: Path, source: PictureSet) -> Changes | None:
    """How the files of a data set differ from those that a run was begun with.

    None where the run has no note of them: pictures in memory, or a run of an older version.

    Raises:
        InputError: the note is damaged.
    """
    have = _read(run / NAME)
    if have is None:
        return None
    files = _files(source)
    suspects = {
        key: _stat(path)
        for key, path in files.items()
        if key in have and list(_stat(path)) != have[key][:3]
    }
    known = [key for key, (size, *_) in suspects.items() if size == have[key][0] and have[key][3]]
    found = dict(zip(known, _digests(files[key] for key in known), strict=True))
    same_size = [key for key, (size, *_) in suspects.items() if size == have[key][0]]
    return Changes(
        more=[key for key in files if key not in have],
        gone=[key for key in have if key not in files],
        other=[
            key
            for key, (size, *_) in suspects.items()
            if size != have[key][0] or (key in found and found[key] != have[key][3])
        ],
        touched=[key for key in same_size if key not in found and suspects[key][1] != have[key][1]],
    )


def _read(path: Path) -> dict[str, list[Any]] | None:
    try:
        files = json.loads(gzip.decompress(path.read_bytes()))["files"]
        if not all(len(each) == 4 for each in files.values()):
            raise ValueError("of a file it has not four fields")
    except FileNotFoundError:
        return None
    except Exception as error:  # gzip, zlib and json each have their own for damage
        words = " ".join(str(error).split())
        raise InputError(f"{path}: is damaged ({words}); delete it to do without") from error
    return files


def _files(source: PictureSet) -> dict[str, Path]:
    """The files that pictures lie in, by what identifies them wherever the data set lies."""
    found: dict[str, Path] = {}
    for split in source.splits.values():
        if split.files is not None:
            found |= zip(split.keys, split.files, strict=True)
        elif split.rows is not None:
            found |= zip(split.rows.shards.names, split.rows.shards.files, strict=True)
    return found


def _stat(path: Path) -> tuple[int, int, int]:
    """Size in bytes (-1: there is none), times of the last writing and of the last change."""
    try:
        about = os.stat(path)
    except OSError:
        return -1, 0, 0
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _digests(paths: Iterable[Path]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:  # decoding will name it
        return error.strerror or type(error).__name__


def _counted(files: list[str]) -> str:
    return f"{len(files):,} picture{'' if len(files) == 1 else 's'}"


def _some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
