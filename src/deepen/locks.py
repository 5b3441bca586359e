"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepen.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
_FAR = 2**30  # Windows lets nobody read what is locked: a byte behind all
_held: set[Path] = set()  # by this process, to whom the system would give them again


@contextmanager
def hold(folder: Path, what: str = "") -> Iterator[None]:
    """Be the only process that writes to a folder; readers are not kept out.

    The lock is the system's on the file `.lock`, which names process and machine: POSIX record
    locks, of network file systems too, which no worker inherits, and on Windows that of a byte.
    Where the file system has no locks, or the folder cannot be written to, nobody is kept out.

    Args:
        folder: that is there.
        what: how the user named it, `--output runs/x` say; by default its path.

    Raises:
        InputError: another process, or another part of this one, holds it.
    """
    path, what = folder.resolve() / NAME, what or str(folder)
    if path in _held:
        raise InputError(f"{what}: is in use by this very process ({os.getpid()})")
    _held.add(path)
    handle = None
    try:
        handle = _locked(path, what)
        yield
    finally:
        _held.discard(path)
        if handle is not None:
            if sys.platform == "win32":  # where no open file can be removed
                os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(path)
            if sys.platform != "win32":
                os.close(handle)


def mark(handle: int, path: Path) -> bool:
    """Lock an open file for as long as this process or one forked from it has it open.

    Returns whether it is still the file under that path: `abandoned` may just have let it go.
    """
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(handle, fcntl.LOCK_EX)
    return _is(handle, path)


def abandoned(path: Path) -> bool:
    """Whether nobody has the file locked that `mark` locked; Windows removes none in use anyway."""
    if sys.platform == "win32":
        return True
    try:
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True


def _locked(path: Path, what: str) -> int | None:
    """The open file once it is locked; None where there are no locks."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _lock(handle)
        except (BlockingIOError, PermissionError) as error:
            os.close(handle)
            raise InputError(f"{what}: is in use by {_holder(path)}; wait until it ends") from error
        except OSError:
            os.close(handle)
            return None
        if _is(handle, path):
            os.truncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        os.close(handle)  # whoever held it has just ended, and removed the file


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is(handle: int, path: Path) -> bool:
    """Whether others that open the path open this file."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _holder(path: Path) -> str:
    """Who it is, by the file; a holder that has just locked it is about to say so."""
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError):
            if said := path.read_text("utf-8").strip():
                return said
        time.sleep(0.01)
    return "another process"
