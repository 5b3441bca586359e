"""Tensors in the files of other programs, read with care: safetensors, or pickled checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from deepen.errors import InputError, WorkError
from deepen.weights import unpickle

MAX_BYTES = 2 * 1024**3
"""Above this no file is read unless more is asked for: the largest network here has 0.6 GB."""

_TIMEOUT_S = 600


def read_tensors(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    A pickle is read by `torch.load(weights_only=True)` in a process of its own whose memory is
    limited; what it carries beside tensors is never run.

    Args:
        path: safetensors, or what `torch.save` wrote: named tensors, or a checkpoint with them.
        max_bytes: neither the file nor what it unpacks to may be larger.

    Raises:
        InputError: no such file, too large, cut, damaged, or with other objects than tensors.
        WorkError: the process that reads it could not be run.
    """
    path = Path(path)
    check_size(path, max_bytes)
    if _is_safetensors(path):
        return load_safetensors(path)
    with tempfile.TemporaryDirectory(prefix="deepen-") as folder:
        output = Path(folder) / "tensors.safetensors"
        _unpickle(path, output, max_bytes)
        return safetensors.torch.load(output.read_bytes())  # whole in memory: the file goes away


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is cut or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (
        safetensors.SafetensorError,
        OSError,
        KeyError,
    ) as error:  # KeyError: a kind torch lacks
        raise InputError(f"{path}: no whole safetensors file ({error})") from error


def check_size(path: Path, max_bytes: int) -> None:
    """Refuse what is no file, is empty, or is above the cap.

    Raises:
        InputError: any of these.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: is empty")
    if size > max_bytes:
        raise InputError(
            f"{path}: {size / 1e6:,.0f} MB, above the cap of {max_bytes / 1e6:,.0f} MB (--max-mb)"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_safetensors(path: Path) -> bool:
    """By its name, or as its first bytes say: the length of a JSON header, and the header."""
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{")


def _unpickle(path: Path, output: Path, max_bytes: int) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_FORCE_")}
    # One thread, one heap: what they reserve would count as memory.
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    words = [sys.executable, "-P", unpickle.__file__, str(path), str(output), str(max_bytes)]
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: not read within {_TIMEOUT_S} s; given up") from error
    except OSError as error:
        raise WorkError(f"{words[0]}: {error.strerror or error}") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.splitlines() or [""])[-1]
        raise InputError(
            f"{path}: the process that read it died with status {done.returncode} {last}".rstrip()
        ) from None
    if error := answer.get("error"):
        raise InputError(f"{path}: {error}")
