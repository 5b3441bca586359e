"""Some pictures of a data set, by a fixed draw: `cifar10?train=5000&test=2000`.

Nothing is chosen on them, so none are held out for validation: the set has its training and its
test pictures alone. One without test pictures is tested on its validation pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from deepen.data.randomness import permutation
from deepen.data.split import PictureSet, Split

_NAME = re.compile(r"(?P<name>[^?]+)\?train=(?P<train>\d+|all)&test=(?P<test>\d+|all)")
_SEED = 0  # which pictures are drawn never changes


class Drawn(NamedTuple):
    """A data set and how many of its pictures are drawn; None: all."""

    name: str
    train: int | None
    test: int | None

    def __str__(self) -> str:
        """As `open_source` takes it."""
        return f"{self.name}?train={self.train or 'all'}&test={self.test or 'all'}"

    def open(self, source: Callable[[int | None], PictureSet]) -> PictureSet:
        """Draw them from the whole set, which `source` opens with so many held out."""
        whole = source(0)
        tested = whole.splits.get("test") or whole.splits.get("val")
        if tested is None:  # a folder whose validation pictures were merged into training
            whole = source(None)
            tested = whole.splits.get("test") or whole.splits["val"]
        train = _draw(whole.splits["train"], self.train)
        test = replace(_draw(tested, self.test), name="test")
        return replace(whole, name=str(self), splits={"train": train, "test": test})


def drawn(word: str) -> Drawn | None:
    """What a word asks to be drawn; None where it is a whole set's."""
    found = _NAME.fullmatch(word)
    if found is None:
        return None
    train, test = (None if found[key] == "all" else int(found[key]) for key in ("train", "test"))
    return Drawn(found["name"], train, test)


def _draw(split: Split, count: int | None) -> Split:
    if count is None or count >= len(split):
        return split
    kept = permutation(_SEED, 0, len(split))[:count].sort().values
    return split.take(kept.tolist())
