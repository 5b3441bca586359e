"""A pickled checkpoint to safetensors, in a process of its own: nothing in it is trusted.

Run by `deepen.weights.foreign` as `python -P unpickle.py FILE OUTPUT MAX_BYTES`; torch and
safetensors are all that it imports. Prints one JSON object: {} when OUTPUT is written, else
{"error": words}. Pickled objects other than tensors and plain containers are never made, and
memory is limited to a few times what the file says that it holds.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
import zipfile
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

ENTRIES = ("state_dict", "model_state_dict", "model", "net")
"""Where training programs put the weights in a checkpoint that holds more than them."""

_SLACK_BYTES = 512 * 1024**2
# As torch's unpickler words it: the global that it met and did not look up.
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)|but got <class '([^']+)'>")


class Refused(Exception):
    """Why the file is not read, in words."""


def main(path: str, output: str, max_bytes: int) -> dict[str, str]:
    """Read FILE, write OUTPUT, say what went wrong."""
    warnings.simplefilter("ignore")
    try:
        holds = unpacked_bytes(path, max_bytes)
        # Read, copied apart, and laid out for writing: four times over at most.
        limit_memory(4 * holds + _SLACK_BYTES)
        tensors = state_dict(load(path), max_bytes)
        safetensors.torch.save_file(tensors, output)
    except Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needs more memory than its size allows; it is not read"}
    except Exception as error:
        if "allocate memory" in str(error):
            return {"error": "needs more memory than its size allows; it is not read"}
        return {"error": f"truncated or damaged, or no checkpoint of PyTorch's ({_brief(error)})"}
    return {}


def unpacked_bytes(path: str, max_bytes: int) -> int:
    """What the file holds, as its own table of contents says."""
    with open(path, "rb") as file:
        head = file.read(4)
    if not zipfile.is_zipfile(path):
        if head.startswith(b"PK"):
            raise Refused("truncated: a zip archive without its end")
        return os.path.getsize(path)
    entries = zipfile.ZipFile(path).infolist()
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise Refused("a TorchScript program, which is not run; save its state_dict() instead")
    if "data.pkl" not in names:
        raise Refused("a zip archive, but no checkpoint of PyTorch's")
    holds = sum(entry.file_size for entry in entries)
    if holds > max_bytes:
        raise Refused(f"unpacks to {holds / 1e6:,.0f} MB, above the cap")
    return holds


def limit_memory(more_bytes: int) -> None:
    """Let this process take `more_bytes` more than it has, where the system can say and hold it."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
    except (ImportError, OSError, ValueError):
        return  # Windows, macOS: the file's table of contents and its size are checked anyway


def load(path: str) -> Any:
    """Tensors and plain containers."""
    try:
        # The one pickle that deepen reads: tensors alone, in this process, which does nothing else.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)  # noqa: TID251
    except Exception as error:
        if found := _REFUSED.search(str(error)):
            what = found[1] or found[2]
            raise Refused(
                f"carries a pickled {what}, which is not run; only tensors are read: "
                "save the state_dict() instead"
            ) from error
        raise


def state_dict(checkpoint: Any, max_bytes: int) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, each whole and by itself."""
    if not isinstance(checkpoint, dict):
        raise Refused(f"holds a {type(checkpoint).__name__}, no tensors by name")
    found = _tensors(checkpoint)
    if not found:
        inner = (checkpoint[name] for name in ENTRIES if isinstance(checkpoint.get(name), dict))
        found = next((tensors for entry in inner if (tensors := _tensors(entry))), {})
    if not found:
        has = ", ".join(map(str, list(checkpoint)[:5])) or "nothing"
        raise Refused(
            f"has no tensors by name, at the top or in {', '.join(ENTRIES)}; it has {has}"
        )
    total = sum(tensor.numel() * tensor.itemsize for tensor in found.values())
    if total > max_bytes:  # one value can be stretched to any shape
        raise Refused(f"its tensors take {total / 1e6:,.0f} MB, above the cap")
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
    }


def _tensors(entries: dict[Any, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in entries.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise Refused(
                    f"{name} is sparse, quantized or empty of values; plain ones are read"
                )
            found[name] = value
    return found


def _brief(error: Exception) -> str:
    """The first words of an error, torch's advice to trust the file left out."""
    words = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2]
    words = re.split(r"\. (?=[A-Z])| Check the documentation| \(function", words)[0]
    return words[:120] or type(error).__name__


if __name__ == "__main__":
    json.dump(main(sys.argv[1], sys.argv[2], int(sys.argv[3])), sys.stdout)
