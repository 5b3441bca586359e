"""Checkpoints: all that an exact resume needs, whole or not there, two generations of it.

A checkpoint is a folder of `tensors.safetensors`, `state.json` and `SHA256SUMS`, written beside and
renamed. The sums are those of `sha256sum`, and are compared byte for byte: a flipped bit or a cut
of any of the three files is noticed, and the generation before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from deepen.errors import WorkError
from deepen.files import sync_folder, write_whole

Check = Callable[[dict[str, Tensor], dict[str, Any]], None]

GENERATIONS = 2
TENSORS, STATE, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
_BESIDE = ".writing"


class Checkpoint(NamedTuple):
    """What was saved, and the damaged generations that were passed over for it, with reasons."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    damaged: tuple[str, ...]
    generation: int


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Add a generation to `folder`, then drop those that are too old.

    Raises:
        WorkError: it could not be written; the generations before are untouched.
    """
    beside = folder / _BESIDE
    try:
        folder.mkdir(exist_ok=True)  # not its parents: a run folder that vanished stays so
        shutil.rmtree(beside, ignore_errors=True)
        number = max((int(path.name) for path in _generations(folder)), default=0) + 1
        files = {
            TENSORS: safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}),
            STATE: json.dumps({"generation": number, "state": state}).encode(),
        }
        beside.mkdir()
        for name, data in (*files.items(), (SUMS, b"".join(_sums(files).values()))):
            write_whole(beside / name, data)
        os.replace(beside, folder / f"{number:06d}")
        sync_folder(folder)
    except BaseException as error:  # a second Ctrl-C too
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            raise WorkError(f"{folder}: {error.strerror or error}") from error
        raise
    _drop_old(folder)


def load_checkpoint(folder: Path, check: Check | None = None) -> Checkpoint | None:
    """The newest whole generation, or None where there is none at all.

    Args:
        folder: of the generations.
        check: raises a ValueError that names the field where tensors and state are not what is
            needed, though their sums are right (`deepen.training.state`).

    Raises:
        WorkError: there are generations, but not one of them is whole.
    """
    damaged: list[str] = []
    for path in _generations(folder):
        try:
            tensors, state = _read(path)
            if check is not None:
                check(tensors, state)
        except OSError as error:
            damaged.append(f"{error.filename or path}: {error.strerror}")
        except ValueError as error:
            damaged.append(f"{path}: {error}")
        else:
            return Checkpoint(tensors, state, tuple(damaged), int(path.name))
    if damaged:
        raise WorkError(f"no whole checkpoint: {'; '.join(damaged)}")
    return None


def tidy(folder: Path, generation: int) -> None:
    """Clear what faults left, once the run goes on from `generation`.

    Newer ones, which are damaged, are set aside as `<number>.damaged`, so that they count for none
    of the generations that are kept; what a killed save left half written or half deleted goes.

    Raises:
        WorkError: the folder cannot be changed.
    """
    try:
        for path in _generations(folder):
            if int(path.name) > generation:
                aside = path.with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
    except OSError as error:
        raise WorkError(f"{folder}: {error.strerror or error}") from error
    shutil.rmtree(folder / _BESIDE, ignore_errors=True)
    _drop_old(folder)


def _drop_old(folder: Path) -> None:
    for old in _generations(folder)[GENERATIONS:]:
        shutil.rmtree(old, ignore_errors=True)


def _generations(folder: Path) -> list[Path]:
    """Newest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    files = {name: (path / name).read_bytes() for name in (TENSORS, STATE)}
    lines, stated = _sums(files), (path / SUMS).read_bytes()
    if stated != b"".join(lines.values()):
        wrong = [name for name, line in lines.items() if line not in stated]
        raise ValueError(f"{' and '.join(wrong) or SUMS} is damaged (differs from its checksum)")
    try:
        document = json.loads(files[STATE])
        generation, state = document["generation"], document["state"]
    except KeyError as error:
        raise ValueError(f"{STATE} has no field {error.args[0]}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{STATE} is damaged ({' '.join(str(error).split())})") from error
    if generation != int(path.name):
        raise ValueError(f"is generation {generation} under another name")
    try:
        return safetensors.torch.load(files[TENSORS]), state
    except Exception as error:  # safetensors' own is no ValueError
        raise ValueError(f"{TENSORS} is damaged ({' '.join(str(error).split())})") from error


def _sums(files: dict[str, bytes]) -> dict[str, bytes]:
    """The line of each file, as `sha256sum` prints it."""
    return {
        name: f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()
        for name, data in files.items()
    }
