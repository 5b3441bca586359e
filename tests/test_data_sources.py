"""Sources: known names, folders, how they are split, and what is refused."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from deepen.data.sources import PictureSet, Split, natural_key, open_source
from deepen.data.split import Encoded
from deepen.errors import InputError, WorkError


def plant(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture " + file.encode())
    return root


def many(folder: str, count: int, suffix: str = ".jpg") -> list[str]:
    return [f"{folder}/{index}{suffix}" for index in range(count)]


def keys(source: PictureSet) -> dict[str, list[str]]:
    return {str(name): list(split.keys) for name, split in source.splits.items()}


# Known names ----------------------------------------------------------------------------------


def test_digits_are_scikit_learns_halves():
    source = open_source("digits")
    bunch: Any = load_digits()
    assert source.classes == tuple("0123456789")
    assert (source.name, source.root, source.channels) == ("digits", None, 1)
    train, val, test = (source.splits[name] for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (719, 179, 899)
    assert test.images is not None
    assert test.images.dtype == np.uint8
    assert test.images.shape == (899, 8, 8, 1)
    assert np.array_equal(test.images[..., 0], np.rint(bunch.images[898:] * 255 / 16))
    assert np.array_equal(test.labels, bunch.target[898:])
    assert test.key(0) == "digits/test/0"
    indices = []
    for split in (train, val):
        assert split.images is not None
        for i in range(len(split)):
            dataset, half, index = split.key(i).split("/")
            assert (dataset, half) == ("digits", "train")
            indices.append(int(index))
            assert np.array_equal(
                split.images[i, ..., 0], np.rint(bunch.images[int(index)] * 255 / 16)
            )
            assert split.labels[i] == bunch.target[int(index)]
    assert sorted(indices) == list(range(898))
    assert indices[:719] == sorted(indices[:719])


def test_validation_of_a_known_name():
    assert "val" not in open_source("digits", validation=0).splits
    assert len(open_source("digits", validation=0).splits["train"]) == 898
    small, large = (open_source("digits", validation=count).splits for count in (10, 20))
    assert len(small["val"]) == 10
    assert len(large["train"]) == 878
    assert set(small["val"].keys) < set(large["val"].keys)
    for count in (898, -1):
        with pytest.raises(InputError, match="there are 898 to train on"):
            open_source("digits", validation=count)


def test_fingerprints_tell_data_and_splits_apart():
    same = open_source("digits").fingerprint
    assert same == open_source("digits").fingerprint
    assert len(same) == 64
    assert same != open_source("digits", validation=0).fingerprint


def test_known_names_take_no_exclusions():
    with pytest.raises(InputError, match="exclude: digits is no folder"):
        open_source("digits", exclude=["digits/train/1"])


def _idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files, yann.lecun.com/exdb/mnist."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def _plant_mnist(root: Path, folder: str, packed: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for part, count in (("train", 12), ("t10k", 5)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
            arrays[f"{part} {name}"] = array
            data = _idx(array)
            path = raw / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return arrays


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("below", [False, True], ids=["root", "folder of its name"])
def test_mnist_and_its_kin(tmp_path, name, folder, packed, below):
    arrays = _plant_mnist(tmp_path / name if below else tmp_path, folder, packed)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(name, data_dir=tmp_path, validation=2)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked beside the data
    assert {split: len(source.splits[split]) for split in source.splits} == {
        "train": 10,
        "val": 2,
        "test": 5,
    }
    assert source.channels == 1
    assert source.classes[:2] == (("0", "1") if name == "mnist" else ("T-shirt/top", "Trouser"))
    for split, found in source.splits.items():
        part = "t10k" if split == "test" else "train"
        assert found.images is not None
        places = [int(key.split("/")[2]) for key in found.keys]
        assert np.array_equal(found.images[..., 0], arrays[f"{part} images-idx3"][places])
        assert np.array_equal(found.labels, arrays[f"{part} labels-idx1"][places])


def test_data_dir_comes_from_the_environment(tmp_path, monkeypatch):
    _plant_mnist(tmp_path, "MNIST", packed=False)
    monkeypatch.setenv("DEEPEN_DATA_DIR", str(tmp_path))
    assert len(open_source("mnist", validation=0).splits["train"]) == 12


def test_a_missing_data_set_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"cifar10: no folder cifar-10-batches-py in .*--download"):
        open_source("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("cifar10", "cifar-10-batches-py")]
)
def test_a_damaged_data_set_says_what_to_do(tmp_path, name, folder):
    (tmp_path / folder / "raw").mkdir(parents=True)
    (tmp_path / folder / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"{folder}: incomplete or damaged.*--download"):
        open_source(name, data_dir=tmp_path)


def test_a_data_set_is_downloaded_only_when_asked(tmp_path, monkeypatch):
    asked = []

    class Mnist:
        classes = ("0 - zero", "1 - one")
        data = torch.zeros((6000, 2, 2), dtype=torch.uint8)
        targets = torch.zeros(6000, dtype=torch.int64)

        def __init__(self, root: Path, train: bool, download: bool = False) -> None:
            asked.append((root, train, download))
            if download:
                (root / "MNIST").mkdir(exist_ok=True)
            elif not (root / "MNIST").exists():
                raise RuntimeError("not there")

    monkeypatch.setattr("torchvision.datasets.MNIST", Mnist)
    source = open_source("mnist", data_dir=tmp_path, download=True)
    assert len(source.splits["train"]) == 1000
    root = tmp_path / "mnist"
    assert (root, True, True) in asked
    assert (root, False, True) in asked
    asked.clear()
    open_source("mnist", data_dir=tmp_path, download=True)
    assert not any(download for _, _, download in asked)


def test_a_failed_download(tmp_path, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fail)
    with pytest.raises(WorkError, match=r"cifar10: the download to .* failed: no route to host"):
        open_source("cifar10", data_dir=tmp_path, download=True)


def _data() -> Path:
    folder = os.environ.get("DEEPEN_DATA")
    if not folder:
        pytest.skip("DEEPEN_DATA names no folder of real data")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "train", "channels", "px", "mean"),
    # The training sets' mean grey and mean red, green, blue as everybody quotes them.
    [("mnist", 55_000, 1, 28, [0.1307]), ("cifar10", 45_000, 3, 32, [0.4914, 0.4822, 0.4465])],
)
def test_real_data(name, train, channels, px, mean):
    folder = _data() / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    source = open_source(name, data_dir=folder.parent)
    assert {split: len(source.splits[split]) for split in source.splits} == {
        "train": train,
        "val": 5000,
        "test": 10_000,
    }
    assert len(source.classes) == 10
    assert source.channels == channels
    images = []
    for split in ("train", "val"):
        found = source.splits[split]
        assert found.images is not None
        assert found.images.shape[1:] == (px, px, channels)
        assert found.labels.min() == 0
        assert found.labels.max() == 9
        images.append(found.images)
    assert np.allclose(np.concatenate(images).mean((0, 1, 2)) / 255, mean, atol=1e-4)


# Folders --------------------------------------------------------------------------------------


def test_a_folder_with_its_own_splits(tmp_path):
    plant(
        tmp_path,
        *("train/cats/10.jpg", "train/cats/2.JPG", "train/cats/more/1.png", "train/dogs/1.webp"),
        *("validation/dogs/9.gif", "test/cats/3.tiff", "test/dogs/4.bmp"),
    )
    source = open_source(tmp_path)
    assert source.root == tmp_path
    assert source.channels == 3
    assert source.classes == ("cats", "dogs")
    assert keys(source) == {
        "train": [
            "train/cats/2.JPG",
            "train/cats/10.jpg",
            "train/cats/more/1.png",
            "train/dogs/1.webp",
        ],
        "val": ["validation/dogs/9.gif"],
        "test": ["test/cats/3.tiff", "test/dogs/4.bmp"],
    }
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1]
    assert source.splits["val"].labels.tolist() == [1]
    assert source.splits["train"].labels.dtype == np.int64
    for split in source.splits.values():
        assert split.files is not None
        assert split.images is None
        assert [path.relative_to(tmp_path).as_posix() for path in split.files] == list(split.keys)
    assert source.notes == ()


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_folder(tmp_path, name):
    plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg")
    source = open_source(tmp_path)
    assert keys(source)["val"] == [f"{name}/a/2.jpg"]
    assert "what is reported is measured on the validation pictures" in source.notes[0]


def test_the_folders_own_validation_pictures(tmp_path):
    plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "test/b/3.jpg")
    kept = open_source(tmp_path, validation=5000)
    assert keys(kept)["val"] == ["val/a/2.jpg"]
    assert kept.notes == ("validation: the folder's own pictures, not 5,000 held out",)
    joined = open_source(tmp_path, validation=0)
    assert keys(joined) == {
        "train": ["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg"],
        "test": ["test/b/3.jpg"],
    }
    assert joined.splits["train"].labels.tolist() == [0, 1, 0]


def test_a_folder_of_classes_is_split_by_hash(tmp_path):
    plant(tmp_path, *many("cats", 400), *many("dogs", 400))
    source = open_source(str(tmp_path))
    counts = {str(name): len(split) for name, split in source.splits.items()}
    assert sum(counts.values()) == 800
    assert 50 < counts["val"] < 110
    assert 50 < counts["test"] < 110
    for split in source.splits.values():
        assert set(split.labels.tolist()) == {0, 1}
        for key, label in zip(split.keys, split.labels, strict=True):
            assert key.startswith(("cats/", "dogs/")[label])
    # Frozen: a new version must not move a picture that somebody has trained on.
    assert keys(source)["val"][:4] == [f"cats/{index}.jpg" for index in (7, 11, 21, 24)]
    assert keys(source)["test"][:4] == [f"cats/{index}.jpg" for index in (4, 16, 19, 20)]
    assert any(note.startswith("test: ") and "hash" in note for note in source.notes)


names = st.text("abc0123456789é ", min_size=1, max_size=6).map(lambda text: f"x{text}")


@settings(max_examples=25, deadline=None)
@given(first=st.sets(names, min_size=1, max_size=30), second=st.sets(names, max_size=30))
@pytest.mark.parametrize("layout", ["", "train/"], ids=["classes", "train alone"])
def test_adding_pictures_moves_no_other(tmp_path_factory, layout, first, second):
    root = tmp_path_factory.mktemp("growing")
    base = [*many(f"{layout}a", 60), *many(f"{layout}b", 60)]
    if layout:
        base += ["test/a/1.jpg"]
    plant(root, *base, *(f"{layout}a/{name}.jpg" for name in first))
    before = keys(open_source(root))
    added = [f"{layout}{folder}/{name}.png" for name in second for folder in ("a", "b/new")]
    if second:
        added += many(f"{layout}c", 60)
    plant(root, *added)
    after = keys(open_source(root))
    new = set(added)
    assert {
        split: [key for key in found if key not in new] for split, found in after.items()
    } == before | {split: [] for split in after.keys() - before.keys()}
    shutil.rmtree(root)


def test_train_and_test_without_validation(tmp_path):
    plant(tmp_path, *many("train/a", 200), *many("train/b", 200), *many("test/a", 3))
    source = open_source(tmp_path)
    assert 20 < len(source.splits["val"]) < 65
    assert len(source.splits["train"]) + len(source.splits["val"]) == 400
    assert all(key.startswith("train/") for key in source.splits["val"].keys)
    assert len(source.splits["test"]) == 3
    exact = open_source(tmp_path, validation=100)
    assert len(exact.splits["val"]) == 100
    none = open_source(tmp_path, validation=0)
    assert len(none.splits["train"]) == 400
    assert "val" not in none.splits
    with pytest.raises(InputError, match="validation: 400 held out, but there are 400"):
        open_source(tmp_path, validation=400)


def test_hidden_and_other_files_do_not_count(tmp_path):
    plant(
        tmp_path,
        *("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"),
        *(".git/a/1.jpg", "train/.cache/1.jpg", "train/a/.hidden.jpg", "train/a/.trash/2.jpg"),
        *("train/a/notes.txt", "train/a/Thumbs.db", "train/b/deep/README", "train/loose.jpg"),
        *("val/a/2.txt", "other/c/1.jpg"),
    )
    source = open_source(tmp_path)
    assert keys(source) == {"train": ["train/a/1.jpg", "train/b/1.jpg"], "val": ["val/a/1.jpg"]}
    assert source.notes[-4:] == (
        "not taken for pictures: 2 .txt, 1 without ending",
        "left out: 5 files hidden, or of file managers, servers and archives: "
        ".git, .cache, .hidden.jpg and 2 more",
        "left out: 1 file beside the splits: other (1 named as pictures)",
        "left out: 1 picture in no class folder: train",
    )


def test_classes_and_files_are_in_natural_order(tmp_path):
    labels = ["class10", "class2", "Class1", "10", "9"]
    plant(tmp_path, *(f"train/{label}/{n}.jpg" for label in labels for n in (10, 9, 1)))
    plant(tmp_path, "val/9/1.jpg")
    source = open_source(tmp_path)
    assert source.classes == ("9", "10", "Class1", "class2", "class10")
    assert keys(source)["train"][:3] == ["train/9/1.jpg", "train/9/9.jpg", "train/9/10.jpg"]


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_numbers(numbers):
    ordered = sorted((f"img{number}.png" for number in numbers), key=natural_key)
    assert ordered == [f"img{number}.png" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), unique=True))
def test_natural_order_takes_any_text_and_tells_all_apart(texts):
    once = sorted(texts, key=natural_key)
    assert once == sorted(texts, key=natural_key)


def test_exclude(tmp_path):
    plant(tmp_path, *many("train/a", 3), *many("train/b", 2), "val/a/1.jpg", "val/b/1.jpg")
    source = open_source(tmp_path, exclude=["train/a/1.jpg", "train/b/0.jpg", "train/a/gone.jpg"])
    assert keys(source)["train"] == ["train/a/0.jpg", "train/a/2.jpg", "train/b/1.jpg"]
    assert "excluded: 2 pictures, of 3 listed" in source.notes
    with pytest.raises(InputError, match=r"train/b: the class has no picture, as all are excluded"):
        open_source(tmp_path, exclude=many("train/b", 2))


def test_fingerprint_of_a_folder(tmp_path):
    root = plant(tmp_path / "here", "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg")
    before = open_source(root).fingerprint
    shutil.copytree(root, tmp_path / "there")
    assert open_source(tmp_path / "there").fingerprint == before
    (root / "train/a/1.jpg").write_bytes(b"longer than it was before")
    assert open_source(root).fingerprint != before


def test_odd_names(tmp_path):
    plant(tmp_path, "train/é ü/ñ 1.jpg", "train/日本/雪.png", "val/日本/1.jpg")
    if sys.platform == "linux":
        path = os.fsencode(tmp_path) + b"/train/\xff\xfe/1.jpg"
        os.makedirs(os.path.dirname(path))
        Path(os.fsdecode(path)).write_bytes(b"")
    source = open_source(tmp_path)
    assert "\n".join((*source.classes, *source.splits["train"].keys)).encode()
    if sys.platform == "linux":
        assert source.splits["train"].files is not None
        assert all(file.exists() for file in source.splits["train"].files)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a right on Windows")
def test_links_are_followed(tmp_path):
    plant(tmp_path / "elsewhere", "1.jpg")
    root = plant(tmp_path / "root", "train/a/1.jpg", "val/a/1.jpg")
    (root / "train/b").symlink_to(tmp_path / "elsewhere")
    (root / "train/a/2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_source(root)
    assert keys(source)["train"] == ["train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/a/1.jpg", "train/b/x.txt", "val/a/1.jpg"], "train/b: the class has no picture"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/.x.jpg"], "val/a: the class has no picture"),
        (
            ["train/ants/1.jpg", "train/bees/1.jpg", "val/bee/1.jpg"],
            "val: unknown class of train 'bee'; nearest: bees",
        ),
        (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "test: unknown class of train 'c'"),
        (["train/a/1.jpg", "val/a/1.jpg"], "train: has one class only, a; two are needed"),
        (["a/1.jpg", "a/2.jpg"], "has one class only, a; two are needed"),
        (["train/1.jpg", "val/a/1.jpg"], "train: has no class folder"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"], "test: has no class folder"),
        (["1.jpg", ".hidden/1.jpg"], "has no class folder"),
        (["val/a/1.jpg", "val/b/1.jpg"], "has a folder val but no train"),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"],
            "valid: stands for the same split as val",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path, files, words):
    plant(tmp_path, *files)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_whose_pictures_all_have_small_hashes_is_trained_on(tmp_path):
    plant(tmp_path, "cats/4.jpg", *many("dogs", 30))  # cats/4.jpg is for the test, see above
    assert "cats/4.jpg" in keys(open_source(tmp_path))["train"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("cifar-10", "unknown data set or folder 'cifar-10'; nearest: cifar10"),
        ("no/such/folder", "no/such/folder: no such folder"),
    ],
)
def test_unknown_words(word, words):
    with pytest.raises(InputError) as caught:
        open_source(word)
    assert str(caught.value).startswith(words)


def test_a_folder_that_is_not_there_gets_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Photos" / "ants").mkdir(parents=True)
    (tmp_path / "photo.txt").write_text("no folder")
    told = {
        "photoz": "unknown data set or folder 'photoz'; nearest: Photos",
        "Phots/ants": "Phots/ants: no such folder; nearest: Photos",
        "Photos/ant": f"Photos/ant: no such folder; nearest: {Path('Photos/ants')}",
        str(tmp_path / "photo"): f"{tmp_path / 'photo'}: no such folder; "
        f"nearest: {tmp_path / 'Photos'}",
        "far/away": "far/away: no such folder",
    }
    for word, words in told.items():
        with pytest.raises(InputError) as caught:
            open_source(word)
        assert str(caught.value) == words


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="a file; a folder of class folders is needed"):
        open_source(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder(tmp_path):
    plant(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    (tmp_path / "train/b").chmod(0)
    try:
        with pytest.raises(InputError, match="train/b: cannot be read"):
            open_source(tmp_path)
    finally:
        (tmp_path / "train/b").chmod(0o700)


def test_a_split_holds_pictures_once():
    labels = np.zeros(2, np.int64)
    with pytest.raises(AssertionError):
        Split("train", labels, ("a", "b"))
    with pytest.raises(AssertionError):
        Split("train", labels, ("a", "b"), files=(Path("a"),))


def test_some_of_a_split(tmp_path):
    whole = open_source(plant(tmp_path, *many("train/a", 9), *many("train/b", 9), "val/a/1.jpg"))
    train = whole.splits["train"]
    some = train.take([12, 3])
    assert train.files is not None
    assert some.files == (train.files[12], train.files[3])
    assert (list(some.keys), some.labels.tolist()) == (["train/b/3.jpg", "train/a/3.jpg"], [1, 0])
    assert some.sizes is not None
    assert some.sizes.tolist() == [path.stat().st_size for path in some.files]
    digits = open_source("digits").splits["test"]
    assert digits.images is not None
    taken = digits.take([5, 7]).images
    assert taken is not None
    assert np.array_equal(taken, digits.images[[5, 7]])


def test_some_of_a_split_that_is_read_when_it_is_needed():
    pictures = Encoded(lambda number: bytes([number]), np.arange(9), b"")
    split = PictureSet.of("own", "ab", train=(pictures, np.arange(9) % 2)).splits["train"]
    some = split.take([5, 2, 7])
    assert [some.encoded(i) for i in range(3)] == [b"\5", b"\2", b"\7"]
    assert list(some.keys) == ["own/train/5", "own/train/2", "own/train/7"]


def test_a_set_of_ones_own(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    labels = [0, 1, 1, 0, 1, 0]
    boxes = [{"boxes": np.zeros((n, 4), np.float32)} for n in range(6)]
    source = PictureSet.of(
        "rings", ["none", "ring"], train=(images, labels), val=(images[:2], labels[:2], boxes[:2])
    )
    assert (source.name, source.classes, source.channels) == ("rings", ("none", "ring"), 1)
    train, val = source.splits["train"], source.splits["val"]
    assert train.images is not None
    assert np.array_equal(train.images[..., 0], images)
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == labels
    assert (train.key(5), val.key(1)) == ("rings/train/5", "rings/val/1")
    assert (train.targets, val.targets) == (None, boxes[:2])
    assert source.notes == ("test: none; what is reported is measured on the validation pictures",)
    paths = plant(tmp_path, "a.png", "b.png").iterdir()
    photos = PictureSet.of("photos", ("a", "b"), train=(sorted(paths), np.array([1, 0])))
    assert photos.channels == 3
    assert photos.splits["train"].files == (tmp_path / "a.png", tmp_path / "b.png")
    assert photos.splits["train"].key(1) == str(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((np.zeros((3, 4, 4), np.uint8), [0, 1]), "rings, train: 3 pictures and 2 labels"),
        ((np.zeros((0, 4, 4), np.uint8), []), "rings, train: 0 pictures and 0 labels"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 2]), "labels are whole numbers from 0 to 1"),
        ((np.zeros((2, 4, 4), np.uint8), [-1, 0]), "labels are whole numbers from 0 to 1"),
        ((np.zeros((2, 4, 4), np.uint8), [0.0, 1.0]), "labels are whole numbers from 0 to 1"),
        ((np.zeros((2, 4, 4)), [0, 1]), "not float64 .2, 4, 4, 1."),
        ((np.zeros((2, 4, 4, 2), np.uint8), [0, 1]), "1 or 3 channels, not uint8 .2, 4, 4, 2."),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1], [{}]), "2 pictures and 1 targets"),
        (([Path("a.png"), b"RIFF"], [0, 1]), "pictures are paths, or uint8 .* not object .2,."),
        (([Path("a.png"), np.zeros((4, 4))], [0, 1]), "neither paths nor arrays of one size"),
    ],
)
def test_a_set_of_ones_own_that_does_not_fit(parts, words):
    with pytest.raises(InputError, match=words):
        PictureSet.of("rings", ("none", "ring"), train=parts)


def test_a_set_of_ones_own_has_one_kind_of_colour():
    grey, colour = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(InputError, match="rings: some splits are grey and some in colour"):
        PictureSet.of("rings", ("none", "ring"), train=(grey, [0, 1]), test=(colour, [0, 1]))


def test_torchvision_is_not_imported_for_folders_and_digits():
    program = (
        "import sys; from deepen.data.sources import open_source; open_source('digits'); "
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
