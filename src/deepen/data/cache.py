"""Decoded pictures, kept in one file that all workers of a loader map into their memory.

What was put first stays: an epoch sees each picture once, so anything that made room for newer
ones would throw each out before it is asked for again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import multiprocessing
import os
import platform
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from deepen.data.decode import Pixels
from deepen.errors import WorkError
from deepen.locks import abandoned, mark

_ENTRY = np.dtype(
    [
        ("offset", "<i8"),
        ("shape", "<i4", 2),
        ("full_size", "<i4", 2),
        ("factor", "<i4"),
        ("reducible", "<i4"),
    ]
)
_FORMS = {1: 0, 2: 1, 4: 2, 8: 3}  # a picture may be kept once for each factor of reduction


class DecodedPictures:
    """At most `capacity` bytes of pixels, of `num_pictures` pictures of `channels` channels.

    The file lies in `folder` (by default the system's for temporary files) for as long as this
    object lives in the process that made it; one that a killed process left is cleared away by the
    next. It crosses to workers however they are started.

    Raises:
        WorkError: the folder has no room for it, or cannot be written to.
    """

    def __init__(
        self, capacity: int, num_pictures: int, channels: int, folder: Path | None = None
    ) -> None:
        folder = Path(tempfile.gettempdir() if folder is None else folder)
        self.capacity = capacity
        self.channels = channels
        self.num_pictures = num_pictures
        self._head = 8 + num_pictures * len(_FORMS) * _ENTRY.itemsize
        try:
            self._lock = multiprocessing.Lock()
            folder.mkdir(parents=True, exist_ok=True)
            _clear_left_behind(folder)
            while True:
                handle, name = tempfile.mkstemp(_suffix(), "decoded-", folder)
                if mark(handle, Path(name)):
                    break
                os.close(handle)  # cleared away before it was marked
            self._remove = weakref.finalize(self, _remove, os.getpid(), name, handle)
            _reserve(handle, self._head, capacity, folder)
        except OSError as error:
            if hasattr(self, "_remove"):
                self._remove()
            words = error.strerror or error
            raise WorkError(f"cache of {capacity:,} bytes in {folder}: {words}") from error
        self.path = Path(name)
        self._map()

    def get(self, index: int, factor: int) -> Pixels | None:
        """The picture as it was put under `factor`; not to be written to."""
        with self._lock:
            entry = self._entries[index, _FORMS[factor]].copy()
        if not entry["offset"]:
            return None
        height, width = (int(side) for side in entry["shape"])
        start, count = int(entry["offset"]), height * width * self.channels
        array = np.frombuffer(self._bytes, np.uint8, count, start)
        full_width, full_height = (int(side) for side in entry["full_size"])
        return Pixels(
            array.reshape(height, width, self.channels),
            (full_width, full_height),
            int(entry["factor"]),
            bool(entry["reducible"]),
        )

    def full_size(self, index: int) -> tuple[int, int] | None:
        """Width and height of a picture that is here in any form."""
        with self._lock:
            for entry in self._entries[index]:
                if entry["offset"]:
                    width, height = entry["full_size"]
                    return int(width), int(height)
        return None

    def put(self, index: int, factor: int, pixels: Pixels) -> None:
        """Keep a picture under the factor that was asked for, if there is room.

        One that is decoded in full whatever the factor will be found under each.
        """
        forms = [_FORMS[factor]] if pixels.reducible else list(_FORMS.values())
        count = pixels.array.size
        with self._lock:
            used = int(self._used[0])
            if used + count > self.capacity or self._entries[index, _FORMS[factor]]["offset"]:
                return
            self._used[0] = used + count
        start = self._head + used
        np.frombuffer(self._bytes, np.uint8, count, start)[:] = pixels.array.reshape(-1)
        about = (pixels.full_size, pixels.factor, pixels.reducible)
        entry = np.array((start, pixels.array.shape[:2], *about), _ENTRY)
        with self._lock:  # seen by nobody before it is whole
            self._entries[index, forms] = entry

    def __getstate__(self) -> dict[str, Any]:
        kept = ("capacity", "channels", "num_pictures", "path", "_lock", "_head")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def _map(self) -> None:
        with open(self.path, "r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)
        self._used = np.frombuffer(self._bytes, "<i8", 1)
        entries = np.frombuffer(self._bytes, _ENTRY, self.num_pictures * len(_FORMS), 8)
        self._entries = entries.reshape(self.num_pictures, len(_FORMS))


def _reserve(handle: int, head: int, capacity: int, folder: Path) -> None:
    """Make the file that long; where the disk fills up later, a mapped write would kill us."""
    if shutil.disk_usage(folder).free < head + capacity:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(handle, head + capacity)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, head, capacity)


def _remove(owner: int, name: str, handle: int) -> None:
    if os.getpid() != owner:  # a worker that was forked
        return
    with contextlib.suppress(OSError):
        os.close(handle)
    with contextlib.suppress(OSError):  # Windows keeps what workers still map; the next one clears
        os.unlink(name)


def _suffix() -> str:
    return f"@{platform.node()}.deepen-pictures"  # not all file systems have locks across machines


def _clear_left_behind(folder: Path) -> None:
    """Remove the files of processes that are no more."""
    for path in folder.iterdir():
        if not path.name.endswith(_suffix()):
            continue
        if abandoned(path):
            with contextlib.suppress(OSError):
                path.unlink()
