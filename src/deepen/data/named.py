"""Data sets known by name: digits of scikit-learn, and those that torchvision reads."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from deepen.data.hold_out import check_held_out
from deepen.data.randomness import permutation
from deepen.data.split import PictureSet, Split, SplitName
from deepen.errors import InputError, WorkError

# Data sets known by name: the class of torchvision.datasets, and its folder below the root.
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
NAMED = ("digits", *_TORCHVISION)
"""What `open_named` knows."""


class _Arrays(NamedTuple):
    """Pictures uint8 (N, h, w, C) and labels int64 (N,) of one split, as its makers have it."""

    images: np.ndarray
    labels: np.ndarray


def open_named(name: str, data_dir: Path, download: bool, validation: int | None) -> PictureSet:
    """A data set by its name, of `NAMED`; the arguments are those of `open_source`."""
    if name == "digits":
        classes, train, test = _digits()
        default = len(train.images) // 5
        notes = ["test: the second half, unshuffled, as in scikit-learn's own example"]
    else:
        classes, train, test = _from_torchvision(name, data_dir, download)
        default = 5000  # as He et al. 2015, section 4.2, hold out of CIFAR-10
        notes = []
    count = len(train.images)
    held = default if validation is None else validation
    check_held_out(held, count)
    order = permutation(0, 0, count).numpy()

    def take(split: SplitName, indices: np.ndarray) -> Split:
        keys = tuple(f"{name}/train/{index}" for index in indices)
        return Split(split, train.labels[indices], keys, images=train.images[indices])

    splits: dict[SplitName, Split] = {"train": take("train", np.sort(order[held:]))}
    if held:
        splits["val"] = take("val", np.sort(order[:held]))
        notes.append(f"validation: {held:,} of {count:,} training pictures, by a fixed shuffle")
    own: tuple[SplitName, ...] = ("train", "test")
    keys = tuple(f"{name}/test/{index}" for index in range(len(test.images)))
    splits["test"] = Split("test", test.labels, keys, images=test.images)
    return PictureSet(name, None, classes, train.images.shape[-1], splits, tuple(notes), own)


def _digits() -> tuple[tuple[str, ...], _Arrays, _Arrays]:
    """The 1,797 digits of 8x8 pixels and 17 greys embedded in scikit-learn, halved."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int64)
    half = len(images) // 2
    train, test = _Arrays(images[:half], labels[:half]), _Arrays(images[half:], labels[half:])
    return tuple("0123456789"), train, test


def _from_torchvision(
    name: str, data_dir: Path, download: bool
) -> tuple[tuple[str, ...], _Arrays, _Arrays]:
    dataset, folder = _TORCHVISION[name]
    roots = [root for root in (data_dir, data_dir / name) if (root / folder).is_dir()]
    if not (roots or download):
        raise InputError(
            f"{name}: no folder {folder} in {data_dir}; say where it is with --data-dir, "
            "or fetch it with --download"
        )
    root = roots[0] if roots else data_dir / name
    try:
        return _read(dataset, root / folder)
    except Exception as error:  # each reader has its own
        if not download:
            message = f"{root / folder}: incomplete or damaged; fetch it anew with --download"
            raise InputError(message) from error
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            getattr(datasets, dataset)(root, train=train, download=True)
        return _read(dataset, root / folder)
    except Exception as error:  # of the network, of the disk, of a wrong checksum
        raise WorkError(f"{name}: the download to {root} failed: {error}") from error


def _read(dataset: str, folder: Path) -> tuple[tuple[str, ...], _Arrays, _Arrays]:
    """Classes, train and test of a data set of torchvision that lies in `folder`."""
    from torchvision import datasets

    with TemporaryDirectory() as unpacked:
        packed = list(folder.glob("raw/*.gz"))
        if any(not path.with_suffix("").exists() for path in packed):
            # As its makers serve it. torchvision would unpack it beside, where we may not write.
            folder = Path(unpacked, folder.name)
            (folder / "raw").mkdir(parents=True)
            for path in packed:
                (folder / "raw" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        load = getattr(datasets, dataset)
        # The first compares the checksums of all files; to do so again takes a third of a second.
        unchecked = type(dataset, (load,), {"_check_integrity": lambda self: True})
        train, test = load(folder.parent, train=True), unchecked(folder.parent, train=False)
    classes = tuple(word.split(" - ")[0] for word in train.classes)  # MNIST has "0 - zero"
    return classes, _arrays(train), _arrays(test)


def _arrays(dataset: Any) -> _Arrays:
    """What a data set of torchvision holds in memory: MNIST and its kin, or CIFAR."""
    images = np.asarray(dataset.data)
    images = images[..., None] if images.ndim == 3 else images
    return _Arrays(images, np.asarray(dataset.targets, dtype=np.int64))
