"""Small weights that we trained, each with its card: NETWORK:DATA, "resnet20:cifar10" say."""

from __future__ import annotations

import re
from pathlib import Path

from deepen.errors import unknown

_FOLDER = Path(__file__).parent


def list_zoo() -> list[str]:
    """The names that there are weights for."""
    return sorted(file.stem.replace("-", ":", 1) for file in _FOLDER.glob("*.safetensors"))


def zoo_file(word: str) -> Path | None:
    """The file of a name; None where the word is none of the form NETWORK:DATA.

    Raises:
        InputError: it is, but there are no such weights; says the nearest.
    """
    if not re.fullmatch(r"[a-z]\w+:[\w-]+", word):  # one letter and a colon is a drive of Windows
        return None
    if word not in list_zoo():
        raise unknown("weights", word, list_zoo())
    return _FOLDER / f"{word.replace(':', '-', 1)}.safetensors"
