"""Where pictures come from: data sets known by name, and any folder of class folders.

Which pictures belong to which split never depends on chance: held-out pictures are chosen by fixed
hashes, in a folder by one of each picture's own path, so that adding pictures moves no other.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from deepen.data.preprocess import EXTENSIONS
from deepen.data.randomness import permutation
from deepen.errors import InputError, WorkError, unknown

SplitName = Literal["train", "val", "test"]

SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Folder names that stand for a split, and the split."""

HELD_OUT = 0.1
"""Share of a folder's pictures that is held out for each split it has no folder for."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled pictures, either in memory or as files."""

    name: SplitName
    labels: np.ndarray
    """int64 (N,), places in the data set's classes."""
    keys: tuple[str, ...]
    """What identifies each picture for good: its path relative to the folder, with forward slashes,
    or data set, original split and place there, as in `mnist/train/17`."""
    images: np.ndarray | None = None
    """uint8 (N, h, w, C)"""
    files: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        pictures = self.files if self.images is None else self.images
        assert pictures is not None and (self.images is None or self.files is None)
        assert len(pictures) == len(self.labels) == len(self.keys)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """What identifies this picture for good."""
        return self.keys[index]


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
    fingerprint: str = field(init=False)
    """SHA-256 over classes, and each split's keys, labels and image bytes (of files: sizes)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", _fingerprint(self.classes, self.splits))


def open_source(
    name_or_folder: str | Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    validation: int | None = None,
    exclude: Collection[str] = (),
) -> PictureSet:
    """Open a data set by name (`list_sources`) or a folder of pictures.

    A folder holds `train/<class>/` with `val/<class>/` (also `valid`, `validation`) and
    `test/<class>/`, or `<class>/` alone; pictures may lie at any depth below. Hidden files and
    folders do not count. Of a folder without splits 10% become the test split and 10% the
    validation split; one with `train` but no validation folder gives 10% of that.

    Args:
        name_or_folder: a known name goes before a folder of that name; `./digits` is the folder.
        data_dir: where named data sets lie, as torchvision lays them out, or under a folder of
            their name; by default the environment's DEEPEN_DATA_DIR, or ~/.cache/deepen/data.
        download: fetch a named data set that is not there.
        validation: how many training pictures are held out for validation. None: 20% of digits,
            5,000 of the other named sets, the above of folders. 0: none, and validation pictures
            that a folder has of its own are trained on too.
        exclude: keys of pictures to leave out (paths relative to the folder).

    Raises:
        InputError: unknown name, missing data, an empty class, one that training lacks, ...
        WorkError: the download failed.
    """
    word = str(name_or_folder)
    if word in _NAMED:
        root = Path(data_dir or os.environ.get("DEEPEN_DATA_DIR") or "~/.cache/deepen/data")
        if exclude:
            raise InputError(f"exclude: {word} is no folder whose files could be left out")
        return _open_named(word, root.expanduser(), download, validation)
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return _open_folder(word, folder, validation, frozenset(exclude))
    if folder.exists():
        raise InputError(f"{word}: a file; a folder of class folders is needed")
    if len(folder.parts) > 1:
        raise InputError(f"{word}: no such folder")
    raise unknown("data set or folder", word, _NAMED)


def list_sources() -> list[str]:
    """The data sets that are known by name."""
    return sorted(_NAMED)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `img2` before `img10`, and upper case beside lower case."""
    pieces = re.split(r"(\d+)", text.casefold())
    return [int(piece) if piece.isdecimal() else piece for piece in pieces], text


# Data sets known by name: the class of torchvision.datasets, and its folder below the root.
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
_NAMED = ("digits", *_TORCHVISION)


class _Arrays(NamedTuple):
    """Pictures uint8 (N, h, w, C) and labels int64 (N,) of one split, as its makers have it."""

    images: np.ndarray
    labels: np.ndarray


def _open_named(name: str, data_dir: Path, download: bool, validation: int | None) -> PictureSet:
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
    _check_held_out(held, count)
    order = permutation(0, 0, count).numpy()

    def take(split: SplitName, indices: np.ndarray) -> Split:
        keys = tuple(f"{name}/train/{index}" for index in indices)
        return Split(split, train.labels[indices], keys, images=train.images[indices])

    splits: dict[SplitName, Split] = {"train": take("train", np.sort(order[held:]))}
    if held:
        splits["val"] = take("val", np.sort(order[:held]))
        notes.append(f"validation: {held:,} of {count:,} training pictures, by a fixed shuffle")
    keys = tuple(f"{name}/test/{index}" for index in range(len(test.images)))
    splits["test"] = Split("test", test.labels, keys, images=test.images)
    return PictureSet(name, None, classes, train.images.shape[-1], splits, tuple(notes))


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
        train, test = load(folder.parent, train=True), load(folder.parent, train=False)
    classes = tuple(word.split(" - ")[0] for word in train.classes)  # MNIST has "0 - zero"
    return classes, _arrays(train), _arrays(test)


def _arrays(dataset: Any) -> _Arrays:
    """What a data set of torchvision holds in memory: MNIST and its kin, or CIFAR."""
    images = np.asarray(dataset.data)
    images = images[..., None] if images.ndim == 3 else images
    return _Arrays(images, np.asarray(dataset.targets, dtype=np.int64))


class _File(NamedTuple):
    key: str
    label: str
    path: Path


def _open_folder(
    word: str, root: Path, validation: int | None, exclude: frozenset[str]
) -> PictureSet:
    folders = _split_folders(root)
    ignored: Counter[str] = Counter()
    found: dict[SplitName, dict[str, list[_File]]] = {
        split: _read_classes(root, folder, ignored)
        for split, folder in (folders or {"train": root}).items()
    }
    classes = sorted(found["train"], key=natural_key)
    _check_classes(root, folders, found, exclude)
    pools: dict[SplitName, list[_File]] = {
        split: [file for files in by_class.values() for file in files if file.key not in exclude]
        for split, by_class in found.items()
    }
    notes: list[str] = []
    if not folders:
        _hold_out("test", pools, HELD_OUT, None, notes)
    if "val" not in folders:
        below = HELD_OUT if folders else 2 * HELD_OUT  # the first tenth has gone to the test
        _hold_out("val", pools, below, validation, notes)
    elif validation == 0:
        pools["train"] += pools.pop("val")
        notes.append("validation: none, the folder's own validation pictures are trained on")
    elif validation is not None:
        notes.append(f"validation: the folder's own pictures, not {validation:,} held out")
    trained = {file.label for file in pools["train"]}
    for name in classes:
        if name not in trained:
            raise InputError(
                f"{root / name}: so few pictures that none is left to train on; add some, "
                "or split the folder into train and val yourself"
            )
    if not pools.get("test"):
        instead = "what is reported is measured on the validation pictures"
        notes.append(f"test: none; {instead if pools.get('val') else 'no picture is held out'}")
    if exclude:
        left_out = exclude & {f.key for by in found.values() for fs in by.values() for f in fs}
        notes.append(f"excluded: {len(left_out):,} pictures, of {len(exclude):,} listed")
    if ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items()))
        notes.append(f"not taken for pictures: {kinds}")

    places = {name: place for place, name in enumerate(classes)}
    splits: dict[SplitName, Split] = {}
    for split in get_args(SplitName):
        if files := pools.get(split):
            labels = np.array([places[file.label] for file in files], dtype=np.int64)
            keys, paths = tuple(file.key for file in files), tuple(file.path for file in files)
            splits[split] = Split(split, labels, keys, files=paths)
    return PictureSet(word, root, tuple(classes), 3, splits, tuple(notes))


def _split_folders(root: Path) -> dict[SplitName, Path]:
    """The folders that stand for splits; none when the folders of `root` are classes."""
    folders: dict[SplitName, Path] = {}
    for name, split in SPLIT_FOLDERS.items():
        folder = root / name
        if folder.is_dir():
            if split in folders:
                raise InputError(f"{folder}: stands for the same split as {folders[split].name}")
            folders[split] = folder
    if folders and "train" not in folders:
        raise InputError(f"{root}: has a folder {next(iter(folders.values())).name} but no train")
    return folders


def _read_classes(root: Path, folder: Path, ignored: Counter[str]) -> dict[str, list[_File]]:
    """The files named as pictures in each class folder, in natural order."""
    classes: dict[str, list[_File]] = {}
    for entry in sorted(_visible(folder), key=lambda entry: natural_key(entry.name)):
        if not entry.is_dir():
            ignored["in no class folder"] += 1
            continue
        if folder == root and entry.name.lower() in SPLIT_FOLDERS:
            raise InputError(f"{entry.path}: if this is a split, call it {entry.name.lower()}")
        label = _text(Path(entry.name))
        paths = (Path(path) for path in _pictures(entry.path, ignored))
        files = [_File(_text(path.relative_to(root)), label, path) for path in paths]
        classes[label] = sorted(files, key=lambda file: natural_key(file.key))
    return classes


def _pictures(folder: str, ignored: Counter[str]) -> Iterator[str]:
    """The files named as pictures, at any depth; the others are counted by their ending."""
    for entry in _visible(folder):
        ending = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            yield from _pictures(entry.path, ignored)
        elif ending in EXTENSIONS:
            yield entry.path
        else:
            ignored[_text(Path(ending)) if ending else "without ending"] += 1


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error


def _check_classes(
    root: Path,
    folders: dict[SplitName, Path],
    found: dict[SplitName, dict[str, list[_File]]],
    exclude: frozenset[str],
) -> None:
    known = found["train"]
    for split, by_class in found.items():
        folder = folders.get(split, root)
        if not by_class:
            raise InputError(f"{folder}: has no class folder")
        for name, files in by_class.items():
            if name not in known:
                raise InputError(f"{folder}: {unknown('class of train', name, known)}")
            if all(file.key in exclude for file in files):
                why = ", as all are excluded" if files else ""
                raise InputError(f"{folder / name}: the class has no picture{why}")
    if len(known) < 2:
        folder = folders.get("train", root)
        raise InputError(f"{folder}: has one class only, {next(iter(known))}; two are needed")


def _hold_out(
    split: Literal["val", "test"],
    pools: dict[SplitName, list[_File]],
    below: float,
    count: int | None,
    notes: list[str],
) -> None:
    """Move the training files whose hash is below, or the `count` with the least, to a split."""
    files = pools["train"]
    hashes = {file.key: _hash(file.key) for file in files}
    if count is None:
        held = {key for key, value in hashes.items() if value < below}
    else:
        _check_held_out(count, len(files))
        held = set(sorted(hashes, key=hashes.__getitem__)[:count])
    pools[split] = [file for file in files if file.key in held]
    pools["train"] = [file for file in files if file.key not in held]
    name = {"val": "validation", "test": "test"}[split]
    notes.append(f"{name}: {len(held):,} of {len(files):,} pictures, by a fixed hash of each path")


def _hash(key: str) -> float:
    """Where a picture falls between 0 and 1, whatever other pictures there are."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _check_held_out(held: int, count: int) -> None:
    if not 0 <= held < count:
        raise InputError(f"validation: {held:,} held out, but there are {count:,} to train on")


def _text(path: Path) -> str:
    r"""With forward slashes; bytes of a name that are not UTF-8 become `\\udc..`."""
    return path.as_posix().encode(errors="backslashreplace").decode()


def _fingerprint(classes: tuple[str, ...], splits: dict[SplitName, Split]) -> str:
    digest = hashlib.sha256("\n".join(classes).encode())
    for name, split in splits.items():
        digest.update("\n".join((name, *split.keys)).encode())
        digest.update(split.labels.tobytes())
        if split.images is not None:
            digest.update(np.ascontiguousarray(split.images).data)
        else:
            assert split.files is not None
            digest.update(np.array([_size(path) for path in split.files], dtype="<i8").tobytes())
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link: decoding will name it
        return -1
