"""What sets with boxes or masks are read into, whatever their format, and what may be wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from deepen.data.split import SplitName
from deepen.data.walk import File

VOID = 255
"""Of a mask: a pixel that is of no class and is not counted."""

FaultKind = Literal[
    "degenerate",
    "inverted",
    "not_finite",
    "outside",
    "label",
    "outline",
    "size",
    "turned",
    "broken",
    "several",
    "double",
    "seen_once",
    "no_picture",
]
REFUSED: frozenset[FaultKind] = frozenset(
    {
        *("degenerate", "inverted", "not_finite", "outside", "label", "outline"),
        *("size", "turned", "broken", "several"),
    }
)
"""With one of these a set is not trained on; the others are told."""


class Fault(NamedTuple):
    """One thing that is wrong with what is said of a picture.

    Attributes:
        file: key of the picture; or the file that says something of a picture that is not there.
        box: its number in the order of that file, from 1; None: the picture as a whole.
        kind: which it is.
        words: where it is said and what, in a line.
    """

    file: str
    box: int | None
    kind: FaultKind
    words: str

    @property
    def name(self) -> str:
        """What a list of `--exclude` calls it."""
        return self.file if self.box is None else box_name(self.file, self.box)


def box_name(file: str, box: int) -> str:
    """What a list calls one box of a picture."""
    return f"{file}#box {box}"


@dataclass
class Shown:
    """A picture and what is said of it; n boxes, or one mask."""

    file: File
    said_in: str
    """The annotation file, in words."""
    stated: tuple[int, int] | None = None
    """Width and height as they are said."""
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    """float64 (n, 4): x1 y1 x2 y2, edges in px."""
    names: list[str] = field(default_factory=list)
    """The class of each; "" where it is not known."""
    places: list[Any] = field(default_factory=list)
    """Of each its line or its id in the annotation file."""
    unit: str = "line"
    """What `places` count."""
    pixel: int = 0
    """By how much numbers of corners count more than edges: 1 where both are pixels, from 1 on."""
    difficult: list[bool] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    outlines: list[Any] | None = None
    """Of each box its instance's outline as COCO writes it; None: the source has none."""
    flaws: dict[int, tuple[FaultKind, str]] = field(default_factory=dict)
    """What the reader found wrong with a box, by its place."""
    broken: str | None = None
    """Why nothing can be read of it."""
    mask: MaskFile | None = None

    def where(self, place: int) -> str:
        """Where in the annotation file a box is said."""
        return f"{self.said_in}, {self.unit} {self.places[place]}"

    def without(self, places: set[int]) -> Shown:
        """The same without those boxes."""
        kept = [i for i in range(len(self.names)) if i not in places]
        new = Shown(self.file, self.said_in, self.stated, unit=self.unit, pixel=self.pixel)
        new.boxes = self.boxes[kept]
        for name in ("names", "places", "difficult", "crowd"):
            setattr(new, name, [getattr(self, name)[i] for i in kept])
        if self.outlines is not None:
            new.outlines = [self.outlines[i] for i in kept]
        return new


@dataclass(frozen=True)
class MaskFile:
    """A mask of classes in a file, and how its values are to be read."""

    path: Path
    name: str
    void: int | None = None
    """The value that is of no class, beside 255."""
    colours: tuple[tuple[int, int, int], ...] | None = None
    """Of each class, where the mask is in colours."""
    ignored: tuple[tuple[int, int, int], ...] = ()
    """Colours that are of no class."""
    table: str = ""
    """What explains them, in words; "" where nothing does."""


@dataclass
class Survey:
    """What lies in a set with boxes or masks."""

    root: Path
    format: str
    """Its name, in words."""
    classes: tuple[str, ...] = ()
    pictures: dict[SplitName, list[Shown]] = field(default_factory=dict)
    """All are in `train` where the set has no splits of its own."""
    own: tuple[SplitName, ...] = ()
    one_class: bool = False
    """Localization: a picture shows one class, which is its label."""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def all(self) -> Iterator[Shown]:
        """The pictures of all splits."""
        return (shown for each in self.pictures.values() for shown in each)


class LazyTarget(Mapping[str, Any]):
    """A target whose large arrays are made when they are asked for, and not kept.

    Args:
        ready: arrays by name.
        later: what makes the others; crosses to other processes.
        stands_for: what makes the bytes that stand for what `later` makes.
    """

    def __init__(
        self,
        ready: dict[str, np.ndarray],
        later: dict[str, Callable[[], np.ndarray]],
        stands_for: Callable[[], bytes],
    ) -> None:
        self._ready, self._later, self._stands_for = ready, later, stands_for

    def __getitem__(self, name: str) -> Any:
        return self._ready[name] if name in self._ready else self._later[name]()

    def __iter__(self) -> Iterator[str]:
        yield from self._ready
        yield from self._later

    def __len__(self) -> int:
        return len(self._ready) + len(self._later)

    def written(self) -> bytes:
        """Bytes that stand for all of it, for a fingerprint."""
        digest = hashlib.sha256(self._stands_for())
        for name, array in sorted(self._ready.items()):
            digest.update(f"\n{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
        return digest.digest()
