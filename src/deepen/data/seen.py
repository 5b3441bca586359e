"""Whether pictures are those that a network was trained on, by what its weights keep of them.

They keep a sample of the training pictures: those whose hash of class, file name and size is
least, each with a hash of its content. A folder that moved, has grown or lost some is known
by it again; a name and a size alone never make two pictures the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from deepen.data.decode import PictureError
from deepen.data.split import PictureSet, Split, file_size

SAMPLE = 16
"""Of a set that holds half of the training pictures, one in 65,536 shows none of so many."""

_DIGITS = 16


def sample_of(split: Split, classes: Sequence[str]) -> tuple[str, ...]:
    """Of at most `SAMPLE` pictures the hash of what they are called, and of what they show."""
    names = np.array(_names(split, classes))
    return tuple(str(names[i]) + _content(split, i) for i in names.argsort()[:SAMPLE].tolist())


def seen_again(source: PictureSet, sample: Sequence[str]) -> int:
    """How many of a sample are among these pictures, in whichever split."""
    known = {each[:_DIGITS]: each for each in sample}
    found = {
        name
        for split in source.splits.values()
        for index, name in enumerate(_names(split, source.classes))
        if name in known and known[name] == name + _content(split, index)
    }
    return len(found)


def _names(split: Split, classes: Sequence[str]) -> list[str]:
    """A hash of each picture's class, own name and size in bytes, as hexadecimal digits."""
    sizes: Sequence[int] = [0] * len(split)
    if split.files is not None:
        known = split.sizes
        sizes = known.tolist() if known is not None else [*map(file_size, split.files)]
    return [
        hashlib.sha256(f"{classes[label]}\n{key.rpartition('/')[2]}\n{size}".encode()).hexdigest()[
            :_DIGITS
        ]
        for key, label, size in zip(split.keys, split.labels.tolist(), sizes, strict=True)
    ]


def _content(split: Split, index: int) -> str:
    """A hash of a picture's bytes; of one that cannot be read, nothing."""
    try:
        content = split.encoded(index) if split.images is None else split.images[index].tobytes()
        content = content if isinstance(content, bytes) else content.read_bytes()
    except (PictureError, OSError):
        return ""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
