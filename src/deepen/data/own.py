"""A user's own data, from Python: arrays, a torch `Dataset`, a `Dataset` of Hugging Face's.

All of it is read once, so that its fingerprint is that of its contents. What fits one array stays
in memory; other pictures are asked for again when they are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deepen.data.decode import to_channels, to_image
from deepen.data.split import SPLIT_FOLDERS, Encoded, PictureSet, Split, SplitName, own_split
from deepen.errors import InputError

IN_MEMORY_BYTES = 2**31
"""Pictures of one size stay in memory up to this."""

_TAKEN = "a folder, images and labels, a torch or Hugging Face Dataset, or a dict of these by split"


def pictures_of(data: Any) -> PictureSet:
    """The pictures of what a user has in hand.

    Args:
        data: `(images, labels)`; a torch `Dataset` of (picture, label); a Hugging Face `Dataset`
            with a column of images and one of `ClassLabel`s; or a dict of these by split, `train`,
            `val` and `test`. Without splits, pictures are held out as of a folder. Images are uint8
            (N, h, w) or (N, h, w, C), floats from 0 to 1, tensors (N, C, h, w), or pictures of
            Pillow's; labels are whole numbers from 0, or names.

    Raises:
        InputError: it is none of these, or its parts do not fit each other.
    """
    if isinstance(data, PictureSet):
        return data
    given: dict[SplitName, Any] = {"train": data}
    if isinstance(data, Mapping):
        given = {}
        for key, value in data.items():
            if str(key).lower() not in SPLIT_FOLDERS:
                raise InputError(f"data: {key!r} is no split; these are train, val and test")
            given[SPLIT_FOLDERS[str(key).lower()]] = value
        if "train" not in given:
            raise InputError("data: a dict of splits needs train")
    heaps: dict[SplitName, _Heap] = {split: _read(value, split) for split, value in given.items()}
    classes = _classes(list(heaps.values()))
    name = heaps["train"].name
    splits: dict[SplitName, Split] = {
        split: own_split(name, split, len(classes), heap.pictures, _places(heap, classes))
        for split, heap in heaps.items()
    }
    channels = {3 if s.images is None else s.images.shape[-1] for s in splits.values()}
    if len(channels) > 1:
        raise InputError(f"{name}: some splits are grey and some in colour")
    own = tuple(splits) if isinstance(data, Mapping) else ()
    return PictureSet(name, None, classes, channels.pop(), splits, (), own)


class _Heap(NamedTuple):
    """Pictures that were read, uint8 (N, h, w, C) or encoded; their labels, and classes if said."""

    name: str
    pictures: np.ndarray | Encoded
    labels: np.ndarray
    classes: tuple[str, ...] | None


def _read(data: Any, split: str) -> _Heap:
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return _read_columns(data)
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "__len__"):
        return _read_arrays(*data, where=f"data, {split}")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, bytes):
        return _read_items(data)
    raise InputError(f"data: {type(data).__name__} is not taken; give {_TAKEN}")


def _read_arrays(images: Any, labels: Any, *, where: str) -> _Heap:
    if len(images) != len(labels) or not len(labels):
        raise InputError(f"{where}: {len(images):,} pictures and {len(labels):,} labels")
    numbers = np.asarray(labels)
    if all(isinstance(image, Image.Image) for image in images):
        return _read_items(_Pairs(images, numbers))._replace(name="arrays")
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise InputError(f"{where}: images are of several sizes; give Pillow's pictures") from error
    if _is_tensor(images) and array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
    return _Heap("arrays", _whole_numbers(array, where), numbers, None)


class _Pairs(Sequence[Any]):
    def __init__(self, images: Sequence[Any], labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]


def _read_items(data: Any) -> _Heap:
    """A torch `Dataset`: each picture once, and the first twice."""
    name = type(data).__name__
    if not len(data):
        raise InputError(f"{name}: is empty")
    digest, labels, size = hashlib.sha256(), [], 0
    kept: list[np.ndarray] | None = []
    for index in range(len(data)):
        pixels, label = _item(data, index)
        if index == 0 and not np.array_equal(pixels, _item(data, 0)[0]):
            raise InputError(f"{name}: its pictures change from reading to reading; no chance here")
        digest.update(f"{pixels.shape}".encode() + pixels.tobytes())
        labels.append(label)
        size += pixels.size
        if kept is not None:
            kept.append(pixels)
            if pixels.shape != kept[0].shape or size > IN_MEMORY_BYTES:
                kept = None
    pictures: np.ndarray | Encoded = Encoded(_Item(data), np.arange(len(data)), digest.digest())
    if kept is not None:
        pictures = np.stack(kept)
    classes = getattr(data, "classes", None)
    names = tuple(map(str, classes)) if isinstance(classes, list | tuple) else None
    return _Heap(name, pictures, np.array(labels), names)


class _Item:
    """A picture of a torch `Dataset`, encoded; as a class it crosses to workers."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, index: int) -> bytes:
        written = BytesIO()
        to_image(_item(self.data, index)[0]).save(written, "BMP")
        return written.getvalue()


def _item(data: Any, index: int) -> tuple[np.ndarray, Any]:
    """Pixels uint8 (h, w, C) and the label of an item."""
    where = f"{type(data).__name__}[{index}]"
    item = data[index]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise InputError(f"{where}: is no (picture, label)")
    picture, label = item[0], item[1]
    if isinstance(picture, Image.Image):
        channels = 1 if picture.mode in ("1", "L") else 3
        array = np.asarray(to_channels(picture, channels))
    elif _is_tensor(picture) or isinstance(picture, np.ndarray):
        array = np.asarray(picture)
        if _is_tensor(picture) and array.ndim == 3:
            array = array.transpose(1, 2, 0)
        array = _whole_numbers(array, where)
    else:
        raise InputError(f"{where}: {type(picture).__name__} is no picture, array or tensor")
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise InputError(f"{where}: {array.dtype} {array.shape} is no picture of 1 or 3 channels")
    return array, label.item() if hasattr(label, "item") else label


def _read_columns(data: Any) -> _Heap:
    """A `Dataset` of Hugging Face's, its pictures as they are stored."""
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    found = {}
    for what in ("Image", "ClassLabel"):
        columns = [name for name, kind in kinds.items() if kind == what]
        if len(columns) != 1:
            have = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise InputError(f"data: needs one column of {what}, and has {have}")
        found[what] = columns[0]
    feature = type(data.features[found["Image"]])
    stored = data.cast_column(found["Image"], feature(decode=False))
    read, digest = _Stored(stored, found["Image"]), hashlib.sha256()
    for index in range(len(data)):
        content = read(index)
        digest.update(len(content).to_bytes(8, "big") + content)
    labels = np.array([-1 if v is None else v for v in data[found["ClassLabel"]]])
    info = getattr(data, "info", None)
    return _Heap(
        getattr(info, "dataset_name", None) or "dataset",
        Encoded(read, np.arange(len(data)), digest.digest()),
        labels,
        tuple(data.features[found["ClassLabel"]].names),
    )


class _Stored:
    """A picture of a column, as it is stored; as a class it crosses to workers."""

    def __init__(self, data: Any, column: str) -> None:
        self.data, self.column = data, column

    def __call__(self, index: int) -> bytes:
        stored = self.data[index][self.column]
        if stored["bytes"] is not None:
            return stored["bytes"]
        with open(stored["path"], "rb") as file:
            return file.read()


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("torch", "torchvision")


def _whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """uint8 as it is; floats from 0 to 1 as of 255."""
    if values.dtype.kind != "f":
        return values
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"{where}: floats from {low:.4g} to {high:.4g}; pictures are uint8, or floats from 0 "
            "to 1 (training normalizes them itself)"
        )
    return np.rint(values * 255).astype(np.uint8)


def _classes(heaps: list[_Heap]) -> tuple[str, ...]:
    """The names that the data have, the labels where they are words, or their numbers."""
    said = [heap.classes for heap in heaps if heap.classes is not None]
    if said:
        if any(classes != said[0] for classes in said) or len(said) < len(heaps):
            raise InputError("data: its splits have different classes")
        return said[0]
    labels = np.concatenate([heap.labels for heap in heaps])
    if labels.dtype.kind == "U":
        return tuple(sorted({str(label) for label in labels}))
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError("data: labels are whole numbers from 0, or names")
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def _places(heap: _Heap, classes: tuple[str, ...]) -> np.ndarray:
    if heap.labels.dtype.kind != "U":
        return heap.labels
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[str(label)] for label in heap.labels])
