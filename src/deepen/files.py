"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from deepen.errors import WorkError


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that a crash at any instant leaves the old one or the new one, whole.

    Raises:
        WorkError: the disk is full, the folder is gone or read-only; the old file is untouched.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    beside = path.with_name(f".{path.name}.writing")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:  # a second Ctrl-C too
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WorkError(f"{path}: {error.strerror or error}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut (POSIX only)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
