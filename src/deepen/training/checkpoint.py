"""Checkpoints: all that an exact resume needs, whole or not there, two generations of it.

A checkpoint is a folder of `tensors.safetensors` and `state.json`, written beside and renamed. The
JSON holds the SHA-256 of the tensors and of itself, so a flipped bit or a cut file is noticed, and
the generation before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from deepen.errors import WorkError
from deepen.files import sync_folder, write_whole

GENERATIONS = 2


class Checkpoint(NamedTuple):
    """What was saved, and the damaged generations that were passed over for it, with reasons."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    damaged: tuple[str, ...]


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Add a generation to `folder`, then drop those that are too old.

    Raises:
        WorkError: it could not be written; the generations before are untouched.
    """
    blob = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})
    body = {"state": state, "tensors_sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps({**body, "sha256": _digest(body)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in _generations(folder)), default=0) + 1
        beside = folder / ".writing"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        write_whole(beside / "tensors.safetensors", blob)
        write_whole(beside / "state.json", text)
        os.replace(beside, folder / f"{number:06d}")
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(folder / ".writing", ignore_errors=True)
        raise WorkError(f"{folder}: {error.strerror or error}") from error
    except WorkError:
        shutil.rmtree(folder / ".writing", ignore_errors=True)
        raise
    for old in _generations(folder)[GENERATIONS:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole generation, or None where there is none at all.

    Raises:
        WorkError: there are generations, but not one of them is whole.
    """
    damaged: list[str] = []
    for path in _generations(folder):
        try:
            tensors, state = _read(path)
        except (OSError, ValueError) as error:
            damaged.append(f"{path}: {error}")
        else:
            return Checkpoint(tensors, state, tuple(damaged))
    if damaged:
        raise WorkError(f"no whole checkpoint: {'; '.join(damaged)}")
    return None


def _generations(folder: Path) -> list[Path]:
    """Newest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    document = json.loads((path / "state.json").read_text("utf-8"))
    if not isinstance(document, dict):
        raise ValueError("state.json is damaged")
    stated = document.pop("sha256", None)
    if stated != _digest(document):
        raise ValueError("state.json is damaged (its checksum differs)")
    blob = (path / "tensors.safetensors").read_bytes()
    if document["tensors_sha256"] != hashlib.sha256(blob).hexdigest():
        raise ValueError("tensors.safetensors is damaged (its checksum differs)")
    return safetensors.torch.load(blob), document["state"]


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
