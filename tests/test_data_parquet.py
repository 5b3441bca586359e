"""Parquet shards: the same order, bits and resume as any source, read a row group at a time."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepen.data import shards as reading
from deepen.data.augment import Augmentation
from deepen.data.decode import PictureError
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.shards import Rows, Shards
from deepen.data.sources import PictureSet, Split, open_source
from deepen.data.statistics import per_channel_stats
from deepen.errors import InputError, WorkError

pa = pytest.importorskip("pyarrow", reason="pyarrow, of deepen[stream], is not installed")
import pyarrow.parquet as pq  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning"),
]

NAMES = ("cat", "dog", "owl")
PREPROCESSING = Preprocessing(
    channels=3, size_px=(8, 8), resize="shorter", resize_px=9, mean=(0.5,) * 3, std=(0.25,) * 3
)


def picture(number: int) -> bytes:
    """A PNG whose every pixel says which it is."""
    pixels = np.full((12, 10, 3), (number % 256, number // 256, 77), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def table(numbers: range, *, names: Any = NAMES, binary: bool = False, **columns: Any) -> Any:
    """Rows as `datasets` writes them: struct and ClassLabel, with its metadata."""
    encoded = [picture(n) for n in numbers]
    image = pa.array(
        encoded
        if binary
        else [{"bytes": b, "path": f"{n}.png"} for n, b in zip(numbers, encoded, strict=True)]
    )
    labels = pa.array([n % 3 for n in numbers], pa.int64())
    found = pa.table({"image": image, "label": labels, **columns})
    if names is None:
        return found
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(names), "_type": "ClassLabel"},
    }
    about = json.dumps({"info": {"features": features}})
    return found.replace_schema_metadata({"huggingface": about})


def write(root: Path, files: dict[str, Any], group: int = 7) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, root / name, row_group_size=group)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three shards of training pictures (0 to 99), one of validation (200 to 219), groups of 7."""
    return write(
        tmp_path_factory.mktemp("shards"),
        {
            "data/train-00000-of-00003.parquet": table(range(40)),
            "data/train-00001-of-00003.parquet": table(range(40, 70)),
            "data/train-00002-of-00003.parquet": table(range(70, 100)),
            "data/validation-00000-of-00001.parquet": table(range(200, 220)),
        },
    )


@pytest.fixture
def small_pools(monkeypatch):
    """Pools of some three row groups of the test's small pictures."""
    monkeypatch.setattr(reading, "POOL_BYTES", 3 * 900)


def rows_of(split: Split) -> Rows:
    assert split.rows is not None
    return split.rows


def number(encoded: bytes) -> int:
    low, high, _ = Image.open(io.BytesIO(encoded)).getpixel((0, 0))  # pyright: ignore
    return low + 256 * high


def numbers(split: Split) -> list[int]:
    return [number(split.encoded(i)) for i in range(len(split))]  # pyright: ignore


def seen(batches: list[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.indices]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


# What is in them -----------------------------------------------------------------------------


def test_a_folder_of_shards(data):
    source = open_source(data)
    assert source.classes == NAMES
    assert (source.channels, source.name) == (3, str(data))
    assert {str(name): len(split) for name, split in source.splits.items()} == {
        "train": 100,
        "val": 20,
    }
    train = source.splits["train"]
    assert numbers(train) == list(range(100))
    assert train.labels.tolist() == [n % 3 for n in range(100)]
    assert train.key(45) == "data/train-00001-of-00003.parquet/5"
    assert list(train.keys[98:]) == [f"data/train-00002-of-00003.parquet/{n}" for n in (28, 29)]
    assert "pictures: column image, labels: column label" in source.notes
    assert any(note.startswith("test: none") for note in source.notes)


@pytest.mark.parametrize("kind", ["file", "pattern", "several", "settings", "folders"])
def test_words_for_shards(tmp_path, kind):
    root = write(tmp_path, {"a-1.parquet": table(range(60)), "a-2.parquet": table(range(60, 90))})
    word = {
        "file": "a-1.parquet",
        "pattern": "a-*.parquet",
        "several": f"a-2.parquet{os.pathsep}{root}/a-1.parquet",
        "settings": "a-*.parquet?image=image&label=label",
        "folders": "folders",
    }[kind]
    if kind == "folders":
        write(root / "folders", {"default/train/0.parquet": table(range(90))})
    source = open_source(f"{root}/{word}")
    count = sum(map(len, source.splits.values()))
    assert count == (60 if kind == "file" else 90)
    assert sorted(source.splits) == (
        ["train", "val"] if kind == "folders" else sorted(source.splits)
    )


def test_without_splits_a_hash_of_each_row_decides(tmp_path):
    write(tmp_path, {"a.parquet": table(range(300))})
    before = open_source(tmp_path)
    held = {name: set(split.keys) for name, split in before.splits.items()}
    assert all(15 <= len(held[name]) <= 50 for name in ("val", "test"))
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == 300
    for split in before.splits.values():
        assert [int(key.split("/")[1]) for key in split.keys] == numbers(split)
        assert [n % 3 for n in numbers(split)] == split.labels.tolist()
    write(tmp_path, {"b.parquet": table(range(300, 400))})
    after = open_source(tmp_path)
    for name, split in after.splits.items():
        assert held[name] == {key for key in split.keys if key.startswith("a.")}
    assert len(open_source(tmp_path, validation=17).splits["val"]) == 17
    with pytest.raises(InputError, match="500 held out"):
        open_source(tmp_path, validation=500)


def test_the_source_is_split_as_its_validation_says(data):
    assert "val" not in open_source(data, validation=0).splits
    joined = open_source(data, validation=0).splits["train"]
    assert numbers(joined) == [*range(100), *range(200, 220)]
    assert sorted(joined.order(0, 0).tolist()) == list(range(120))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("labels", ["names", "numbers", "text"])
def test_kinds_of_columns(tmp_path, binary, labels):
    content = table(range(90), binary=binary, names=NAMES if labels == "names" else None)
    if labels == "text":
        text = pa.array([NAMES[n % 3] for n in range(90)])
        content = content.set_column(1, "label", text)
    source = open_source(write(tmp_path, {"train.parquet": content}))
    assert source.classes == (("0", "1", "2") if labels == "numbers" else NAMES)
    for split in source.splits.values():
        assert split.labels.tolist() == [n % 3 for n in numbers(split)]


def test_columns_can_be_named(tmp_path):
    mirrored = pa.array([{"bytes": picture(n + 500)} for n in range(60)])
    content = table(range(60), names=None, mirrored=mirrored, kind=pa.array(["a", "b"] * 30))
    write(tmp_path, {"train.parquet": content})
    with pytest.raises(InputError, match=r"several columns of pictures, image, mirrored; add \?im"):
        open_source(tmp_path)
    source = open_source(f"{tmp_path}?image=mirrored&label=kind")
    assert source.classes == ("a", "b")
    train = source.splits["train"]
    assert min(numbers(train)) >= 500
    assert source.fingerprint != open_source(f"{tmp_path}?image=image&label=kind").fingerprint


def test_rows_without_a_label_are_left_out_and_said(tmp_path):
    train = table(range(60))
    labels = pa.array([None if n == 5 else n % 3 for n in range(60)], pa.int64())
    test = table(range(60, 80)).set_column(1, "label", pa.array([-1] * 20, pa.int64()))
    write(tmp_path, {"train.parquet": train.set_column(1, "label", labels), "test.parquet": test})
    source = open_source(tmp_path)
    assert sorted(source.splits) == ["train", "val"]
    held = {n for split in source.splits.values() for n in numbers(split)}
    assert held == set(range(60)) - {5}
    assert "train: 1 rows without a label left out" in source.notes
    assert "test: 20 rows without a label left out" in source.notes


def test_rows_can_be_excluded(data):
    listed = [f"data/train-0000{n}-of-00003.parquet/{m}" for n, m in ((0, 3), (2, 0), (9, 1))]
    source = open_source(data, exclude=listed)
    assert set(range(100)) - set(numbers(source.splits["train"])) == {3, 70}
    assert "excluded: 2 pictures, of 3 listed" in source.notes


def test_the_fingerprint_follows_the_data(tmp_path):
    files = {"train-0.parquet": table(range(60)), "train-1.parquet": table(range(60, 90))}
    before = open_source(write(tmp_path / "a", files)).fingerprint
    assert open_source(write(tmp_path / "b", files)).fingerprint == before
    changed = {**files, "train-1.parquet": table(range(63, 93))}  # as long, the same labels
    assert open_source(write(tmp_path / "c", changed)).fingerprint != before
    assert open_source(write(tmp_path / "d", files, group=8)).fingerprint != before


# Order, workers, resume ------------------------------------------------------------------------


def test_an_epoch_is_a_shuffle_of_files_groups_and_rows(data, small_pools):
    rows = rows_of(open_source(data).splits["train"])
    orders = [rows.order(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert rows.order(1, 1).tolist() == orders[3]
    firsts = Counter(rows.order(seed, 0)[0].item() // 10 for seed in range(300))
    assert len(firsts) == 10  # any part of the data may come first


def test_rows_are_mixed_within_pools_and_a_pool_is_few_groups(data, small_pools):
    rows = rows_of(open_source(data).splits["train"])
    order = rows.order(3, 5).numpy()
    group = np.searchsorted(rows.shards.first, order, "right") - 1
    spans = [(np.flatnonzero(group == g)[0], np.flatnonzero(group == g)[-1]) for g in set(group)]
    open_at_once = [sum(first <= i <= last for first, last in spans) for i in range(100)]
    assert max(open_at_once) <= 4
    assert np.mean(np.array(open_at_once) > 1) > 0.5  # mixed they are


def test_each_row_group_is_read_once_an_epoch_and_memory_is_bounded(data, small_pools, monkeypatch):
    rows = rows_of(open_source(data).splits["train"])
    reads: Counter[int] = Counter()
    held: list[int] = []
    read = Shards._read

    def counted(self: Shards, group: int) -> Any:
        reads[group] += 1
        held.append(sum(self.bytes[list(self._pool)]) + self.bytes[group])
        return read(self, group)

    monkeypatch.setattr(Shards, "_read", counted)
    for index in rows.order(3, 5).tolist():
        rows.read(index)
    assert set(reads.values()) == {1}
    assert len(reads) == 6 + 5 + 5
    assert max(held) <= reading.POOL_BYTES + rows.shards.bytes.max()


@settings(max_examples=30)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4),
    weights=st.randoms(use_true_random=False),
    pool=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_no_group_is_read_twice_whatever_their_sizes(sizes, weights, pool, seed):
    shards = object.__new__(Shards)
    shards.files = tuple(Path(str(i)) for i in range(len(sizes)))
    shards.groups = np.array([(i, j) for i, counts in enumerate(sizes) for j in range(len(counts))])
    counts = [count for file in sizes for count in file]
    shards.first = np.concatenate([[0], np.cumsum(counts)])
    shards.bytes = np.array([weights.randint(1, 40) for _ in counts])
    shards._pool = {}
    reads: Counter[int] = Counter()

    def read(group: int) -> Any:
        reads[group] += 1
        return pa.chunked_array([[b"x"] * counts[group]])

    shards._read = read
    rows = Rows(shards, np.arange(sum(counts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "POOL_BYTES", pool)
        order = rows.order(seed, 0).tolist()
        assert sorted(order) == list(range(sum(counts)))
        for index in order:
            rows.read(index)
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_workers_and_a_resume_change_no_bit(data, small_pools, crop):
    split = open_source(data).splits["train"]
    options: dict[str, Any] = {
        "batch_size": 9,
        "augmentation": Augmentation(crop=crop, flip=True),
        "seed": 4,
        "shuffle": True,
    }
    loaders = [Batches(split, PREPROCESSING, workers=workers, **options) for workers in (0, 1, 4)]
    whole = {epoch: list(loaders[0].epoch(epoch)) for epoch in (0, 1)}
    assert sorted(seen(whole[0])) == list(range(100))
    assert seen(whole[0]) != seen(whole[1])
    for loader in loaders[1:]:
        for epoch in (0, 1):
            assert same(list(loader.epoch(epoch)), whole[epoch])
        assert same(list(loader.epoch(1, start=5)), whole[1][5:])
    for start in range(len(whole[0]) + 1):
        assert same(list(loaders[0].epoch(0, start=start)), whole[0][start:])


def test_shards_and_files_of_the_same_pictures_agree_bit_for_bit(data, tmp_path):
    source = open_source(data).splits["val"]
    files = []
    for index in range(len(source)):
        files.append(tmp_path / f"{index}.png")
        files[-1].write_bytes(source.encoded(index))  # pyright: ignore
    of_files = Split("val", source.labels, [p.name for p in files], files=tuple(files))
    loaders = [Batches(split, PREPROCESSING, batch_size=6) for split in (source, of_files)]
    assert same(*(list(loader.epoch(0)) for loader in loaders))
    stats = [per_channel_stats(split, PREPROCESSING) for split in (source, of_files)]
    assert stats[0] == stats[1]


def test_some_rows_of_a_split(data):
    train = open_source(data).splits["train"]
    some = train.take([80, 3, 41])
    assert numbers(some) == [80, 3, 41]
    assert list(some.keys) == [train.key(i) for i in (80, 3, 41)]
    assert sorted(some.order(0, 0).tolist()) == [0, 1, 2]


def test_statistics_are_of_whole_groups_evenly_spaced(data):
    rows = rows_of(open_source(data).splits["train"])
    assert rows.sample(100) == list(range(100))
    places = rows.sample(30)
    groups = np.searchsorted(rows.shards.first, np.array(places), "right") - 1
    assert 20 <= len(places) <= 30
    assert len(set(groups)) == 4
    assert min(groups) == 0
    assert max(groups) >= 10


# What is wrong with them -----------------------------------------------------------------------


def test_a_row_that_holds_no_picture_is_named(tmp_path, monkeypatch):
    encoded: list[Any] = [{"bytes": picture(n), "path": None} for n in range(60)]
    encoded[4] = {"bytes": None, "path": "elsewhere.jpg"}
    encoded[8] = None
    encoded[11] = {"bytes": picture(11)[:-30], "path": None}
    content = table(range(60)).set_column(0, "image", pa.array(encoded))
    source = open_source(write(tmp_path, {"train.parquet": content}), validation=0)
    batches = list(Batches(source.splits["train"], PREPROCESSING, batch_size=60).epoch(0))
    assert sorted(str(error).split(": ")[0] for error in batches[0].bad) == [
        "train.parquet/11",
        "train.parquet/4",
        "train.parquet/8",
    ]
    assert len(batches[0].labels) == 57
    reasons = {error.reason for error in batches[0].bad}
    assert "the row holds no picture's bytes" in reasons


def test_a_damaged_row_group_is_named(tmp_path):
    root = write(tmp_path, {"train.parquet": table(range(60))}, group=20)
    file = root / "train.parquet"
    content = bytearray(file.read_bytes())
    about = pq.ParquetFile(file).metadata.row_group(1).column(0)
    start = about.dictionary_page_offset or about.data_page_offset
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    split = open_source(root, validation=0).splits["train"]
    assert number(split.encoded(3)) == 3  # pyright: ignore
    with pytest.raises(PictureError, match=r"train.parquet/2\d: cannot be read: \S"):
        split.encoded(25)


@pytest.mark.parametrize(
    ("columns", "word", "message"),
    [
        (["label"], "", "no column of pictures; it has label (int64); add ?image=COLUMN"),
        (["image"], "", "no column of labels; it has image (struct<"),
        (["image", "label"], "?label=kind", "has no column kind; it has image (struct<"),
        (["image", "label"], "?image=photo", "has no column photo; it has image (struct<"),
        (["image", "label"], "?image=label", "column label holds no pictures but int64"),
        (["image", "label"], "?label=image", "column image holds no labels but struct<"),
        (["image", "label"], "?labels=label", "unknown setting 'labels'; nearest: label"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, word, message):
    write(tmp_path, {"train.parquet": table(range(9)).select(columns)})
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        open_source(f"{tmp_path}/train.parquet{word}")
    assert str(tmp_path / "train.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_go_together(tmp_path):
    root = write(tmp_path / "a", {"train-0.parquet": table(range(9))})
    write(root, {"train-1.parquet": table(range(9), names=("cat", "dog", "wolf"))})
    with pytest.raises(InputError, match=r"train-1.parquet: other classes than .*train-0.parquet"):
        open_source(root)
    root = write(tmp_path / "b", {"train-0.parquet": table(range(9))})
    write(root, {"more.parquet": table(range(9))})
    with pytest.raises(InputError, match=r"more\.parquet: stands for no split"):
        open_source(root)
    root = write(tmp_path / "c", {"test-0.parquet": table(range(9))})
    with pytest.raises(InputError, match="no file of training pictures"):
        open_source(root)
    root = write(tmp_path / "d", {"train.parquet": table(range(9), names=("cat", "dog"))})
    with pytest.raises(InputError, match="label 2, but 2 classes are named"):
        open_source(root)
    root = write(tmp_path / "e", {"train.parquet": table(range(90), names=(*NAMES, "yak"))})
    with pytest.raises(InputError, match="no row of class yak"):
        open_source(root)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.parquet: no such file"):
        open_source(tmp_path / "nothing.parquet")
    whole = write(tmp_path, {"train.parquet": table(range(60))}) / "train.parquet"
    content = whole.read_bytes()
    for damaged in (b"", content[:100], content[:-9], b"PAR1"):
        whole.write_bytes(damaged)
        with pytest.raises(InputError, match=r"train.parquet: no whole Parquet file: \S"):
            open_source(whole)


def test_without_pyarrow_it_is_said_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=re.escape("pip install 'deepen[stream]'")):
        open_source(data)


# The hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(data, monkeypatch) -> list[dict[str, Any]]:
    """A hub with one data set, of which nothing is here before it is downloaded."""
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        here = any(not call["local_files_only"] for call in calls)
        if name != "owner/pets" or not here:
            raise OSError("Cannot\nfind it")
        return str(data)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_the_hub_is_asked_only_with_download(hub):
    with pytest.raises(InputError, match="hf://owner/pets: is not here; fetch it with --download"):
        open_source("hf://owner/pets")
    assert all(call["local_files_only"] for call in hub)
    source = open_source("hf://owner/pets?label=label", download=True)
    assert hub[-1]["repo_type"] == "dataset"
    assert hub[-1]["allow_patterns"] == ["*.parquet"]
    assert len(source.splits["train"]) == 100
    again = open_source("hf://owner/pets")  # now it is here
    assert hub[-1]["local_files_only"]
    assert again.fingerprint == source.fingerprint
    with pytest.raises(WorkError, match="hf://owner/none: the download failed: Cannot find it"):
        open_source("hf://owner/none", download=True)


def test_what_datasets_writes_is_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    images = [Image.open(io.BytesIO(picture(n))) for n in range(50)]
    made = datasets.Dataset.from_dict(
        {"image": images, "label": [n % 3 for n in range(50)]}, features=features
    )
    made.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"), batch_size=10)
    source: PictureSet = open_source(tmp_path, validation=0)
    assert source.classes == NAMES
    assert numbers(source.splits["train"]) == list(range(50))
    assert len(rows_of(source.splits["train"]).shards.groups) >= 1
    theirs = datasets.Dataset.from_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    assert [row["label"] for row in theirs] == source.splits["train"].labels.tolist()
