"""What a source of pictures hands out: labelled pictures, split into training and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from deepen.data.decode import (
    PictureError,
    Pixels,
    open_picture,
    open_pixels,
    to_channels,
    to_image,
    to_pixels,
)
from deepen.data.randomness import permutation
from deepen.data.shards import RowKeys, Rows
from deepen.errors import InputError, unknown

SplitName = Literal["train", "val", "test"]

SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that stand for a split, in any case of their letters, and the split."""


class Encoded:
    """Encoded pictures of a user's own that are asked for when they are needed.

    Args:
        read: from a picture's number to its bytes; crosses to workers.
        numbers: int64 (N,), of these pictures.
        digest: of the contents of all.
    """

    def __init__(self, read: Callable[[int], bytes], numbers: np.ndarray, digest: bytes) -> None:
        self.read, self.numbers, self.digest = read, numbers, digest

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> bytes:
        return self.read(int(self.numbers[index]))

    def take(self, places: Sequence[int] | np.ndarray) -> Encoded:
        """Those alone, in that order."""
        return Encoded(self.read, self.numbers[places], self.digest)


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled pictures: in memory, as files, as rows of Parquet shards, or of a user's own."""

    name: SplitName
    labels: np.ndarray
    """int64 (N,), places in the data set's classes."""
    keys: Sequence[str]
    """What identifies each picture for good: its path relative to the folder, with forward slashes,
    or data set, original split and place there, as in `mnist/train/17`, or shard and row."""
    images: np.ndarray | None = None
    """uint8 (N, h, w, C)"""
    files: tuple[Path, ...] | None = None
    sizes: np.ndarray | None = None
    """int64 (N,), of the files in bytes where they are known already; -1 where there is none."""
    rows: Rows | None = None
    blobs: Encoded | None = None
    targets: Sequence[Mapping[str, Any]] | None = None
    """Of each picture what is to be learned where that is more than a class: a mapping of names to
    arrays or numbers, as torchvision's detection has it, {"boxes": float32 (n, 4), "labels": int64
    (n,)}. Boxes, points and masks are in px of the upright picture in full size."""
    white: int | None = None
    """Of pictures of more than 8 bits, the value that is white, as `Preprocessing.white` says."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What else a table says of each picture, by the column's name; N values each."""

    def __post_init__(self) -> None:
        given = [p for p in (self.images, self.files, self.rows, self.blobs) if p is not None]
        assert len(given) == 1
        assert len(given[0]) == len(self.labels) == len(self.keys)
        assert self.targets is None or len(self.targets) == len(self.labels)
        assert all(len(values) == len(self.labels) for values in self.columns.values())

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """What identifies this picture for good."""
        return self.keys[index]

    def encoded(self, index: int) -> Path | bytes:
        """The picture as `open_picture` takes it; not of pictures in memory.

        Raises:
            PictureError: the row of a shard holds none, or cannot be read.
        """
        if self.files is not None:
            return self.files[index]
        if self.rows is not None:
            return self.rows.read(index)
        assert self.blobs is not None
        try:
            return self.blobs[index]
        except Exception as error:  # of the user's code
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PictureError(self.key(index), f"cannot be read: {reason}") from error

    def picture(self, index: int, channels: int) -> Image.Image:
        """A picture decoded in full; errors are those of `open_picture`."""
        if self.images is not None:
            return to_channels(to_image(self.images[index]), channels)
        name = self.key(index)
        return open_picture(self.encoded(index), name=name, channels=channels, white=self.white)

    def pixels(
        self, index: int, channels: int, reduction: Callable[[tuple[int, int]], int]
    ) -> Pixels:
        """A picture decoded for training; arguments and errors are those of `open_pixels`."""
        if self.images is not None:
            return to_pixels(self.picture(index, channels))
        return open_pixels(
            self.encoded(index),
            name=self.key(index),
            channels=channels,
            reduction=reduction,
            white=self.white,
        )

    def order(self, seed: int, epoch: int) -> Tensor:
        """The pictures shuffled for an epoch, int64 (N,): shards as `Rows.order` says."""
        if self.rows is not None:
            return self.rows.order(seed, epoch)
        return permutation(seed, epoch, len(self))

    def sample(self, count: int) -> list[int]:
        """At most `count` pictures for statistics, evenly spaced; of shards, whole row groups."""
        if self.rows is not None:
            return self.rows.sample(count)
        count = min(len(self), count)
        return [i * len(self) // count for i in range(count)]

    def take(self, places: Sequence[int] | np.ndarray) -> Split:
        """Those pictures alone, in that order."""
        rows = None if self.rows is None else Rows(self.rows.shards, self.rows.numbers[places])
        return replace(
            self,
            labels=self.labels[places],
            keys=tuple(str(self.keys[i]) for i in places) if rows is None else RowKeys(rows),
            images=None if self.images is None else self.images[places],
            files=None if self.files is None else tuple(self.files[i] for i in places),
            sizes=None if self.sizes is None else self.sizes[places],
            rows=rows,
            blobs=None if self.blobs is None else self.blobs.take(places),
            targets=None if self.targets is None else tuple(self.targets[i] for i in places),
            columns={name: [values[i] for i in places] for name, values in self.columns.items()},
        )

    def plus(self, other: Split) -> Split:
        """These pictures, then another split's of the same source."""

        def both(one: Any, two: Any) -> Any:
            return None if one is None or two is None else np.concatenate([one, two])

        rows, blobs = None, None
        if self.rows is not None and other.rows is not None:
            rows = Rows(self.rows.shards, both(self.rows.numbers, other.rows.numbers))
        if self.blobs is not None and other.blobs is not None:
            numbers = both(self.blobs.numbers, other.blobs.numbers)
            blobs = Encoded(self.blobs.read, numbers, self.blobs.digest)
        return replace(
            self,
            labels=both(self.labels, other.labels),
            keys=(*self.keys, *other.keys) if rows is None else RowKeys(rows),
            images=both(self.images, other.images),
            files=None if self.files is None or other.files is None else self.files + other.files,
            sizes=both(self.sizes, other.sizes),
            rows=rows,
            blobs=blobs,
            targets=None if self.targets is None else (*self.targets, *(other.targets or ())),
            columns={
                name: [*values, *other.columns[name]]
                for name, values in self.columns.items()
                if name in other.columns
            },
        )

    def column(self, name: str) -> Sequence[Any]:
        """What a table says of each picture.

        Raises:
            InputError: it has no such column.
        """
        if name in self.columns:
            return self.columns[name]
        if self.rows is not None and name in self.rows.shards.columns:
            return self.rows.column(name)
        have = self.columns if self.rows is None else self.rows.shards.columns
        raise unknown("column", name, have) if have else InputError("there is no table of columns")

    def feed(self, digest: hashlib._Hash) -> None:
        """Add keys, labels and image bytes (files: sizes; shards: sizes and footers), targets."""
        digest.update("\n".join((self.name, *self.keys)).encode())
        digest.update(self.labels.tobytes())
        if self.images is not None:
            digest.update(np.ascontiguousarray(self.images).data)
        elif self.files is not None:
            sizes = self.sizes
            if sizes is None:
                sizes = np.array([file_size(path) for path in self.files])
            digest.update(sizes.astype("<i8").tobytes())
        elif self.rows is not None:
            digest.update(self.rows.shards.digest)
        else:
            assert self.blobs is not None
            digest.update(self.blobs.digest + self.blobs.numbers.astype("<i8").tobytes())
        for target in () if self.targets is None else self.targets:
            digest.update(f"\n{len(target)} targets".encode())
            if (written := getattr(target, "written", None)) is not None:
                digest.update(written())
                continue
            for name, value in sorted(target.items()):
                array = np.asarray(value)
                digest.update(f"\n{name} {array.dtype.str} {array.shape} ".encode())
                digest.update(array.tobytes())


@dataclass(frozen=True, eq=False)
class PictureSet:
    """A data set, split and ready to be loaded."""

    name: str
    """What the user typed."""
    root: Path | None
    """The folder of the pictures; None for a data set known by name."""
    classes: tuple[str, ...]
    channels: int
    splits: dict[SplitName, Split]
    """`train` always, the others where there are pictures for them."""
    notes: tuple[str, ...] = ()
    """In words: how it was split, what is missing, what was left out."""
    own: tuple[SplitName, ...] = ()
    """The splits that it came with; what others there are was held out of training pictures. None:
    it came as one heap."""

    def seen_with(self, white: int | None) -> PictureSet:
        """The same, where that value is white of pictures of more than 8 bits."""
        if white is None:
            return self
        splits = {name: replace(split, white=white) for name, split in self.splits.items()}
        return replace(self, splits=splits)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over classes, and each split's keys, labels, targets, bytes of images in memory.

        Of files it has their sizes (`Split.feed`); `deepen.training.pictures` compares the bytes.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for split in self.splits.values():
            split.feed(digest)
        return digest.hexdigest()

    @classmethod
    def of(
        cls,
        name: str,
        classes: Sequence[str],
        *,
        train: Sequence[Any],
        val: Sequence[Any] | None = None,
        test: Sequence[Any] | None = None,
    ) -> PictureSet:
        """A data set of one's own, in memory or as files.

            PictureSet.of("rings", ("none", "ring"), train=(images, labels), val=(more, theirs))

        Args:
            name: what it is called; `name/train/17` identifies a picture in memory.
            classes: their names.
            train: pictures, labels and perhaps targets. Pictures are uint8 (N, h, w) or
                (N, h, w, C), of 1 or 3 channels, or a list of N paths; labels N places in
                `classes`; targets as `Split.targets` says.
            val: the same, held out to choose the best epoch by.
            test: the same, for the score that is reported.

        Raises:
            InputError: the three do not fit each other, or the classes.
        """
        given: dict[SplitName, Sequence[Any] | None] = {"train": train, "val": val, "test": test}
        splits: dict[SplitName, Split] = {
            split: own_split(name, split, len(classes), *parts)
            for split, parts in given.items()
            if parts is not None
        }
        channels = {3 if s.images is None else s.images.shape[-1] for s in splits.values()}
        if len(channels) > 1:
            raise InputError(f"{name}: some splits are grey and some in colour")
        notes = tuple(note_on_test(splits))
        return cls(name, None, tuple(classes), channels.pop(), splits, notes, tuple(splits))


def own_split(
    name: str,
    split: SplitName,
    num_classes: int,
    pictures: Any,
    labels: Any,
    targets: Sequence[Mapping[str, Any]] | None = None,
) -> Split:
    """A split of a user's own; arguments and errors are those of `PictureSet.of`."""
    where, labels = f"{name}, {split}", np.asarray(labels)
    if not len(pictures) or len(pictures) != len(labels):
        raise InputError(f"{where}: {len(pictures):,} pictures and {len(labels):,} labels")
    if targets is not None and len(targets) != len(labels):
        raise InputError(f"{where}: {len(labels):,} pictures and {len(targets):,} targets")
    whole = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(f"{where}: labels are whole numbers from 0 to {num_classes - 1}")
    labels = labels.astype(np.int64)
    if not isinstance(pictures, np.ndarray | Encoded) and all(
        isinstance(picture, str | Path) for picture in pictures
    ):
        files = tuple(map(Path, pictures))
        return Split(split, labels, tuple(map(str, files)), files=files, targets=targets)
    keys = tuple(f"{name}/{split}/{place}" for place in range(len(labels)))
    if isinstance(pictures, Encoded):
        return Split(split, labels, keys, blobs=pictures, targets=targets)
    try:
        images = np.asarray(pictures)
    except ValueError as error:
        raise InputError(
            f"{where}: pictures are neither paths nor arrays of one size; a torch Dataset may have "
            "several"
        ) from error
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"{where}: pictures are paths, or uint8 (N, h, w) or (N, h, w, C) of 1 or 3 channels, "
            f"not {images.dtype} {images.shape}"
        )
    return Split(split, labels, keys, images=images, targets=targets)


def note_on_test(splits: Collection[str]) -> list[str]:
    """What to say where there is no test split."""
    if "test" in splits:
        return []
    measured = "what is reported is measured on the validation pictures"
    return [f"test: none; {measured if 'val' in splits else 'no picture is held out'}"]


def file_size(path: Path) -> int:
    """In bytes; -1 for a dangling link, which decoding will name."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
