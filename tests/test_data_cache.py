"""The cache of decoded pictures: the same bits, bounded, shared, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepen.data.augment import Augmentation
from deepen.data.cache import DecodedPictures
from deepen.data.decode import Pixels
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.errors import WorkError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

RNG = np.random.default_rng(0)
N = 14
PREPROCESSING = Preprocessing(
    channels=3,
    size_px=(16, 16),
    resize="shorter",
    resize_px=18,
    pad_px=2,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)
AUGMENTATIONS = {
    "random_resized": Augmentation(crop="random_resized", flip=True),
    "scale": Augmentation(crop="scale", scale_px=(12, 30)),
    "pad": Augmentation(crop="pad", pad_px=2, flip=True),
    "none": Augmentation(),
}


@pytest.fixture(autouse=True)
def folder(tmp_path_factory, monkeypatch) -> Path:
    """Where temporary files go; its name is short, as those of sockets must be."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Split:
    """JPEG files, some turned, a PNG and one that is cut short."""
    root = tmp_path_factory.mktemp("photos")
    files = []
    for index in range(N):
        y, x = np.mgrid[: 100 + 7 * index, : 160 - 5 * index]
        pixels = np.stack([x, y, x + y + index], -1).astype(np.uint8)
        path = root / (f"{index}.png" if index == 3 else f"{index}.jpg")
        exif = Image.Exif()
        exif[0x0112] = 6 if index % 4 == 1 else 1
        Image.fromarray(pixels).save(path, exif=exif)
        files.append(path)
    files[5].write_bytes(files[5].read_bytes()[:-400])
    keys = tuple(path.name for path in files)
    return Split("train", np.arange(N) % 3, keys, files=tuple(files))


def loader(split: Split, augmentation: Augmentation, **options) -> Batches:
    return Batches(
        split, PREPROCESSING, batch_size=4, augmentation=augmentation, shuffle=True, **options
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and [str(error) for error in a.bad] == [str(error) for error in b.bad]
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_the_cache_changes_no_bit(photos, augmentation):
    plain = loader(photos, augmentation)
    cached = [
        loader(photos, augmentation, workers=workers, cache_bytes=room)
        for workers, room in ((0, 10**7), (2, 10**7), (0, 40_000), (0, 1))
    ]
    for epoch in range(3):
        expected = list(plain.epoch(epoch))
        assert sum(len(batch.bad) for batch in expected) == 1
        for batches in cached:
            assert same(list(batches.epoch(epoch)), expected)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_what_is_cached_is_not_decoded_again(photos, augmentation, monkeypatch):
    from deepen.data import split as loading

    opened: list[str] = []
    for name in ("open_picture", "open_pixels"):
        function = getattr(loading, name)

        def counted(path: Path, *, function=function, **options) -> Any:
            opened.append(path.name)
            return function(path, **options)

        monkeypatch.setattr(loading, name, counted)
    batches = loader(photos, augmentation, cache_bytes=10**7)
    for epoch in range(6):
        list(batches.epoch(epoch))
    assert opened.count("5.jpg") == 6  # the damaged one is never kept
    assert opened.count("3.png") == 1  # no JPEG: decoded in full whatever the window
    forms = 4 if augmentation.resizes else 1
    assert all(opened.count(path.name) <= forms for path in photos.files if path.name != "5.jpg")
    opened.clear()
    if not augmentation.resizes:
        list(batches.epoch(9))
        assert opened == ["5.jpg"]


def noise(height: int, width: int, channels: int = 3, **about: Any) -> Pixels:
    array = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Pixels(array, **{"full_size": (width, height), **about})


def test_it_is_bounded_and_what_was_first_stays():
    kept = DecodedPictures(3 * 8 * 8 * 2 + 5, 5, 3)
    pictures = [noise(8, 8) for _ in range(3)]
    for index, picture in enumerate(pictures):
        kept.put(index, 1, picture)
    for index in (0, 1):
        found = kept.get(index, 1)
        assert found is not None
        assert np.array_equal(found.array, pictures[index].array)
        assert kept.full_size(index) == (8, 8)
        assert kept.get(index, 8) is not None  # decoded in full whatever the factor
    assert kept.get(2, 1) is None
    assert kept.full_size(2) is None


def test_each_form_is_kept_by_itself():
    kept = DecodedPictures(10**5, 2, 1)
    small = noise(5, 7, 1, full_size=(14, 10), factor=2, reducible=True)
    kept.put(1, 4, small)  # asked for by 4, decoded by 2
    assert kept.get(1, 2) is None
    assert kept.get(0, 4) is None
    found = kept.get(1, 4)
    assert found is not None
    assert np.array_equal(found.array, small.array)
    assert (found.full_size, found.factor, found.reducible) == ((14, 10), 2, True)
    assert kept.full_size(1) == (14, 10)


def _put(kept: DecodedPictures) -> None:
    kept.put(0, 1, Pixels(np.full((2, 3, 3), [1, 2, 3], np.uint8), (3, 2)))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_share_it_however_they_are_started(method, folder):
    pictures = DecodedPictures(10**4, 1, 3)
    pictures._lock = multiprocessing.get_context(method).Lock()
    process = multiprocessing.get_context(method).Process(target=_put, args=(pictures,))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = pictures.get(0, 1)
    assert found is not None
    assert np.array_equal(found.array, np.full((2, 3, 3), [1, 2, 3]))
    assert pictures.path.exists()  # the other process ended and removed nothing


def test_nothing_is_left_behind(folder):
    pictures = DecodedPictures(10**4, 1, 3)
    assert [path.stat().st_size > 10**4 for path in folder.iterdir()] == [True]
    del pictures
    gc.collect()
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_a_living_ones_is_not(folder):
    living = DecodedPictures(10**4, 1, 3)
    program = (
        "import os, signal, tempfile; from deepen.data.cache import DecodedPictures;"
        f"tempfile.tempdir = {str(folder)!r}; kept = DecodedPictures(10**4, 1, 3);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    (folder / "another's").touch()
    assert len(list(folder.iterdir())) == 3
    second = DecodedPictures(10**4, 1, 3)
    assert {path.name for path in folder.iterdir()} == {
        "another's",
        living.path.name,
        second.path.name,
    }


def test_no_room_is_said_in_one_line(folder):
    with pytest.raises(WorkError, match=rf"cache of .* bytes in {folder}: No space left"):
        DecodedPictures(10**18, 1, 3)
    assert list(folder.iterdir()) == []


def test_pictures_in_memory_take_no_cache(folder):
    images = RNG.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    split = Split("train", np.zeros(4, np.int64), tuple("abcd"), images=images)
    batches = loader(split, AUGMENTATIONS["random_resized"], cache_bytes=10**6)
    assert sum(len(batch.labels) for batch in batches.epoch(0)) == 4
    assert list(folder.iterdir()) == []
