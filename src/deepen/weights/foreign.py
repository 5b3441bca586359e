"""Tensors in the files of other programs, read with care: safetensors, or pickled checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from deepen.errors import InputError, WorkError
from deepen.weights import unpickle
from deepen.weights.kinds import misnomer

MAX_BYTES = 2 * 1024**3
"""Above this no file is read unless more is asked for: the largest network here has 0.6 GB."""

_TIMEOUT_S = 600


ENTRIES = (
    *("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights"),
    *("params", "params_ema", "ema", "model_ema", "state_dict_ema", "ema_state_dict"),
)
"""Where training programs put a network's tensors, the likelier ones first."""


class Entries(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tensors: the sets of tensors by name, by where they are: "state_dict", "ema/model"; "" is
            the top.
        beside: what else there is at the top: epoch, optimizer, ...
        in_order: whether the tensors come as the network has them; safetensors sorts by name.
    """

    tensors: dict[str, dict[str, Tensor]]
    beside: tuple[str, ...] = ()
    in_order: bool = False

    def main(self) -> str:
        """The entry that is likely to be meant: a well-known name, else the most tensors."""
        known = [name for name in ENTRIES if len(self.tensors.get(name, ())) > 1]
        return known[0] if known else max(self.tensors, key=lambda name: len(self.tensors[name]))


def read_entries(path: str | Path, max_bytes: int = MAX_BYTES) -> Entries:
    """All tensors of a file, by name.

    A pickle is followed in a process of its own whose memory is limited; nothing in it is run.

    Args:
        path: safetensors, or what `torch.save` wrote: named tensors, or a checkpoint with them.
        max_bytes: neither the file nor what it unpacks to may be larger.

    Raises:
        InputError: no such file, too large, cut, damaged, something else, or without tensors.
        WorkError: the process that reads it could not be run.
    """
    path = Path(path)
    check_size(path, max_bytes)
    if _is_safetensors(path):
        return Entries({"": load_safetensors(path)})
    with tempfile.TemporaryDirectory(prefix="deepen-") as folder:
        output = Path(folder) / "tensors.safetensors"
        answer = _unpickle(path, output, max_bytes)
        flat = safetensors.torch.load(output.read_bytes())  # whole in memory: the file goes away
    found = {
        entry: {name: flat[f"{number}|{name}"] for name in names}
        for number, (entry, names) in enumerate(answer["entries"].items())
    }
    return Entries(found, tuple(answer["beside"]), in_order=True)


def read_tensors(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Of a file's tensors those that are likely to be meant; see `read_entries`."""
    entries = read_entries(path, max_bytes)
    return entries.tensors[entries.main()]


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
    """Refuse what is no file, is empty, is something else than weights, or is above the cap.

    Raises:
        InputError: any of these.
    """
    if kind := misnomer(path):
        raise InputError(f"{path}: {kind}")
    if not path.is_file():
        raise InputError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    size = path.stat().st_size
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


def _unpickle(path: Path, output: Path, max_bytes: int) -> dict[str, Any]:
    # One thread, one heap: what they reserve would count as memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
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
    return answer
