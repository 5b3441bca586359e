"""Logits that are kept by content: of weights, pictures and protocol, below the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from deepen.data.split import Split
from deepen.evaluation.protocols import Predictions
from deepen.files import write_whole
from deepen.version import __version__

FEWEST_PICTURES = 500
"""Fewer are looked at each time: that takes no time worth the disk."""


def contents_of(split: Split) -> bytes | None:
    """SHA-256 of labels and pictures; None where no logits are kept of them.

    Of files it has place, size and times: one that is written to has another time of change.
    """
    if len(split) < FEWEST_PICTURES:
        return None
    digest = hashlib.sha256(split.labels.tobytes())
    files = split.files if split.rows is None else split.rows.shards.files
    if split.images is not None:
        digest.update(np.ascontiguousarray(split.images).data)
    elif files is not None:
        try:
            for file in files:
                now = os.stat(file)
                times = now.st_mtime_ns, now.st_ctime_ns
                digest.update(f"{file} {now.st_size} {times}\n".encode())
        except OSError:
            return None
        if split.rows is not None:
            digest.update(split.rows.numbers.tobytes())
    else:
        return None
    return digest.digest()


def kept_file(weights: bytes, contents: bytes, *protocol: str) -> Path | None:
    """Where the logits of these weights on these pictures by this protocol lie; None: nowhere.

    Args:
        weights: SHA-256 of their file.
        contents: of the pictures, as `contents_of` has it.
        protocol: all else that they hang on: looks, device, ... .
    """
    try:
        home = Path(os.environ.get("DEEPEN_CACHE_DIR") or "~/.cache/deepen").expanduser()
    except RuntimeError:  # nobody's home is known
        return None
    about = (__version__, torch.__version__, *protocol)
    digest = hashlib.sha256(weights + contents + json.dumps(about).encode())
    return home / "logits" / f"{digest.hexdigest()}.safetensors"


def read_kept(file: Path) -> Predictions | None:
    """What lies there, where it is whole."""
    try:
        found = safetensors.torch.load_file(file)
        return Predictions(found["logits"], found["labels"], found["indices"], ())
    except (OSError, KeyError, safetensors.SafetensorError):
        return None


def keep(file: Path, part: Predictions) -> None:
    """Whoever has no room or right there does without."""
    tensors = {"logits": part.logits, "labels": part.labels, "indices": part.indices}
    with contextlib.suppress(Exception):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, safetensors.torch.save(tensors))
