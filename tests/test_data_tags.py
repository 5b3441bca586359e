"""Tables of pictures that have several classes each, as people write them, right and wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet, open_source
from deepen.data.tags import NAME, tagged, tags_of
from deepen.errors import InputError

ANIMALS = {  # of pictures 0 to 5
    "0": ("cat", "dog"),
    "1": ("dog",),
    "2": (),
    "3": ("bird", "cat", "dog"),
    "4": ("bird",),
    "5": ("cat",),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures, two of them in a folder, and what is no picture."""
    root = tmp_path / "animals"
    (root / "more").mkdir(parents=True)
    for i in range(6):
        name = f"more/{i}.png" if i > 3 else f"{i}.png"
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / name)
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("none of them is a table")
    return root


def names(i: str) -> str:
    return f"more/{i}.png" if int(i) > 3 else f"{i}.png"


def labels_of(source: PictureSet) -> dict[str, tuple[str, ...]]:
    found = {}
    for split in source.splits.values():
        tags = tags_of(split)
        assert tags is not None
        for key, row, label in zip(split.keys, tags, split.labels, strict=True):
            has = tuple(source.classes[place] for place in row.nonzero()[0])
            found[Path(key).stem] = has
            assert label == (source.classes.index(has[0]) if has else 0)
    return found


def joined(separator: str) -> str:
    rows = [f'{names(i)},"{separator.join(has)}"' for i, has in ANIMALS.items()]
    return "\n".join(["image,labels", *rows, ""])


TABLES = {
    "bars": joined("|"),
    "semicolons": joined("; "),
    "commas": joined(", "),
    "spaces": joined(" "),
    "a column each": "\n".join(
        ["cat;dog;bird;file"]
        + [
            ";".join([*(str(int(c in has)) for c in ("cat", "dog", "bird")), names(i)])
            for i, has in ANIMALS.items()
        ]
    ),
    "a row each": "\n".join(
        ["filename\tlabel"] + [f"{names(i)}\t{c}" for i, h in ANIMALS.items() for c in h or [""]]
    ),
    "without endings, with other columns": "\n".join(
        ["id,photographer,tags"]
        + [f"{i},{n},{'|'.join(ANIMALS[i])}" for n, i in enumerate("543210")]
    ),
    "with a byte order mark": "\ufeff" + joined("|"),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_table_is_read_as_it_is_meant(folder, table):
    (folder / "labels.csv").write_text(table, "utf-8")
    source = open_source(f"{folder}?tags=labels.csv", validation=0)
    assert sorted(source.classes) == ["bird", "cat", "dog"]
    assert labels_of(source) == {
        i: tuple(sorted(h, key=source.classes.index)) for i, h in ANIMALS.items()
    }
    assert source.root == folder
    [said] = [note for note in source.notes if note.startswith("labels: ")]
    assert said.endswith("of labels.csv; 3 classes, 1.33 a picture, 1 pictures have none")


def test_splits_are_the_tables_or_held_out_by_the_paths(folder):
    rows = [
        f"{names(i)},{'|'.join(h)},{s}"
        for (i, h), s in zip(ANIMALS.items(), ["train"] * 4 + ["val", "test"], strict=True)
    ]
    (folder / "labels.csv").write_text("\n".join(["image,labels,part", *rows]))
    source = open_source(f"{folder}?tags=labels.csv")
    assert {name: split.keys for name, split in source.splits.items()} == {
        "train": ("0.png", "1.png", "2.png", "3.png"),
        "val": ("more/4.png",),
        "test": ("more/5.png",),
    }
    (folder / "labels.csv").write_text(TABLES["bars"])
    held = open_source(f"{folder}?tags=labels.csv", validation=1)
    assert len(held.splits["val"]) == 1
    again = open_source(f"{folder}?tags=labels.csv", validation=1)
    assert again.fingerprint == held.fingerprint
    (folder / "labels.csv").write_text(TABLES["bars"].replace('"bird"', '"dog"'))
    other = open_source(f"{folder}?tags=labels.csv", validation=1)
    assert other.fingerprint != held.fingerprint


def test_folders_of_splits_are_splits(folder):
    for name, i in (("train", 0), ("train", 1), ("valid", 2)):
        (folder / name).mkdir(exist_ok=True)
        (folder / f"{i}.png").rename(folder / name / f"{i}.png")
    (folder / "labels.csv").write_text("image,labels\n0,cat\n1,dog|cat\n2,dog\n")
    source = open_source(f"{folder}?tags=labels.csv")
    assert {name: split.keys for name, split in source.splits.items()} == {
        "train": ("train/0.png", "train/1.png"),
        "val": ("valid/2.png",),
    }


def test_what_is_not_used_is_counted(folder):
    Image.new("RGB", (8, 8)).save(folder / "6.png")
    (folder / "labels.csv").write_text(TABLES["bars"] + "gone.png,cat\n0.png,bird\n")
    source = open_source(f"{folder}?tags=labels.csv", validation=0, exclude=["1.png"])
    assert labels_of(source)["0"] == ("bird", "cat", "dog")
    assert "1" not in labels_of(source)
    for note in (
        "pictures with several rows, whose labels count together: 1: 0.png",
        "left out: 1 picture without a row in the table: 6.png",
        "rows of labels.csv without a picture: 1: gone.png",
        "excluded: 1 pictures, of 1 listed",
        "not taken for pictures: 1 .txt",
    ):
        assert note in source.notes


def test_columns_may_be_named(folder):
    rows = [f"{names(i)},{names(i)},{'|'.join(h)},x" for i, h in ANIMALS.items()]
    (folder / "labels.csv").write_text("\n".join(["one,two,seen,maker", *rows]))
    with pytest.raises(InputError, match="which column holds the labels"):
        open_source(f"{folder}?tags=labels.csv")
    source = open_source(f"{folder}?tags=labels.csv&image=two&label=seen", validation=0)
    assert labels_of(source)["3"] == ("bird", "cat", "dog")
    with pytest.raises(InputError, match=r"unknown column 'sen'; nearest: seen"):
        open_source(f"{folder}?tags=labels.csv&label=sen")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("image,labels\n", "has no rows"),
        ("image,labels\nnone.png,cat\n", "no column names pictures below the folder"),
        ("image,image\n0.png,cat\n", "has two columns image"),
        ("image,labels\n0.png,cat,dog\n", "line 2: 3 cells under 2 columns"),
        ("image,labels\n0.png,\n1.png,\n", "column labels has no label"),
        ("image,labels,split\n0.png,cat,train\n0.png,dog,val\n", "line 3: column split says val"),
        ("image,labels,split\n0.png,cat,val\n1.png,dog,val\n", "column split has no train"),
        ("image,labels,split\n0.png,cat,train\n1.png,dog,val\n", "no training picture has dog"),
    ],
)
def test_what_is_off_is_said_in_a_line(folder, table, told):
    (folder / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=told) as failure:
        open_source(f"{folder}?tags=labels.csv")
    assert "labels.csv" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_two_pictures_of_a_name_are_not_guessed(folder):
    Image.new("RGB", (8, 8)).save(folder / "more" / "0.png")
    (folder / "labels.csv").write_text("image,labels\n0,cat\nmore/4,dog\n")
    with pytest.raises(InputError, match=r"line 2: 0 may be 0.png, more/0.png"):
        open_source(f"{folder}?tags=labels.csv", validation=0)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("{0}?tags=no.csv", "no.csv: No such file"),
        ("{0}x?tags=labels.csv", "no such folder"),
        ("{0}?tags=labels.csv&lable=a", r"unknown word after the \? 'lable'; nearest: label"),
    ],
)
def test_a_wrong_word_is_refused(folder, word, told):
    (folder / "labels.csv").write_text(TABLES["bars"])
    with pytest.raises(InputError, match=told):
        open_source(word.format(folder))


def test_a_matrix_is_labels_and_targets():
    labels, targets = tagged([[0, 1, 1], [0, 0, 0], [True, False, True]])
    assert labels.tolist() == [1, 0, 0]
    assert [target[NAME].tolist() for target in targets] == [[0, 1, 1], [0, 0, 0], [1, 0, 1]]
    for wrong in ([0, 1], [[0, 2]], [["a"]]):
        with pytest.raises(InputError, match="are 0 or 1"):
            tagged(wrong)


def test_a_batch_has_the_classes_of_its_pictures_in_memory_or_as_files(folder):
    (folder / "labels.csv").write_text(TABLES["bars"])
    on_disk = open_source(f"{folder}?tags=labels.csv", validation=0).splits["train"]
    images = np.stack([np.asarray(on_disk.picture(i, 3)) for i in range(len(on_disk))])
    tags = tags_of(on_disk)
    in_memory = PictureSet.of("own", "abc", train=(images, *tagged(tags))).splits["train"]
    assert tags is not None
    fit = Preprocessing(channels=3, size_px=(8, 8), resize="none", mean=(0.5,) * 3, std=(1.0,) * 3)
    for split in (on_disk, in_memory):
        for batch in Batches(split, fit, batch_size=2, shuffle=True).epoch(0):
            assert batch.named_targets is None
            assert np.array_equal(batch.targets.numpy(), tags[batch.indices.numpy()])
