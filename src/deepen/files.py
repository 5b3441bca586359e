"""Files that are whole or not there: written beside, flushed to the disk, then renamed.

And documents, which are read with one line for all that can be wrong with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepen.errors import InputError, WorkError

MAX_VALUES, MAX_DEPTH = 100_000, 100  # of a YAML document, its anchors written out
_BESIDE = ".writing"


def write_whole(path: Path, data: bytes | str) -> None:
    r"""Write a file so that a crash at any instant leaves the old one or the new one, whole.

    A link stays one, and what it leads to is written; a file's permissions stay. What a process
    that was killed left beside it is cleared away. What has no UTF-8 becomes `\udc..`, which JSON
    reads as it was.

    Raises:
        InputError: `path` is a folder, a device or a pipe.
        WorkError: the disk is full, the folder is gone or read-only; the old file is untouched.
    """
    data = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path}: is {_kind(mode)}; name a file")
    # 48 characters at most: of a name as long as the system allows there is no longer one.
    stem = f".{target.name[:48]}."
    beside = target.with_name(f"{stem}{os.getpid()}-{secrets.token_hex(8)}{_suffix()}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            if mode is not None:
                os.chmod(beside, stat.S_IMODE(mode))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
        sync_folder(target.parent)
    except BaseException as error:  # a second Ctrl-C too
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WorkError(f"{path}: {error.strerror or error}") from error
        raise
    _clear_left_behind(target.parent, stem)


def _mode(path: Path) -> int | None:
    """Kind and permissions of what is there."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"{path}: {error.strerror or error}") from error


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link that leads to itself",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _suffix() -> str:
    """Of this machine, and of the container in it: processes are known there alone."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"@{platform.node()}-{space}{_BESIDE}"


def _clear_left_behind(folder: Path, stem: str) -> None:
    """Remove what processes that are no more left half written beside a file."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(stem) and entry.name.endswith(_suffix()):
                number = entry.name.removeprefix(stem).partition("-")[0]
                if number.isdecimal() and not alive(int(number)):
                    os.unlink(entry.path)


def alive(process: int) -> bool:
    """Whether a process of this machine is still there."""
    if os.name == "nt":  # signal 0 would end it; a file in use cannot be removed there anyway
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut (POSIX only)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_text(path: Path) -> str:
    """A file of UTF-8.

    Raises:
        InputError: it is not there, is no file, or cannot be read.
    """
    try:
        if path.is_dir() or path.is_char_device() or path.is_block_device():  # a pipe may be read
            raise InputError(f"{path}: is {_kind(path.stat().st_mode)}, not a file")
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged (is no text: byte {error.start} is no UTF-8)") from error


def read_json(path: Path) -> Any:
    """A document of JSON.

    Raises:
        InputError: as for `read_text`, or it is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error})") from error
    except RecursionError as error:
        raise InputError(f"{path}: damaged (nested too deeply)") from error


def parse_yaml(text: str) -> Any:
    """Plain values as YAML has them; no tag makes anything else of them.

    Raises:
        ValueError: in one line why not: no YAML, nested deeply, anchors that multiply.
    """
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    left, count = [(document, 1)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values, its anchors written out")
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(inner, Iterable) and not isinstance(inner, str | bytes):
            left += [(each, depth + 1) for each in inner]
    return document


def read_yaml(path: Path) -> Any:
    """A document of YAML; see `parse_yaml`.

    Raises:
        InputError: as for `read_text`, or it is no YAML of plain values.
    """
    text = read_text(path)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error})") from error
