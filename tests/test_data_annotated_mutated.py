"""Thousands of broken annotations: a valid reading, or one `InputError` that names the file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotated_sets import coco_document, picture, voc_folder
from PIL import Image

from deepen.data.doctor import examine
from deepen.data.sources import open_source
from deepen.errors import InputError

ODD = [
    *(
        b"nan",
        b"-inf",
        b"1e999",
        b"-1",
        b"0",
        b"",
        b"9" * 400,
        b"1" * 5000,
        b"x",
        b"\0",
        b"\xff\xfe",
    ),
    *(b"true", b"null", b"[]", b"{}", b'""', b"<a>", b"&b;", b"&#0;", b"]]>", b"<![CDATA[", b"\r"),
    *(b"[" * 3000, b"<a>" * 300, b'"', b",", b"\n\n", "日本\u202e".encode(), b"\xed\xa0\x80"),
    *(
        b"\\ud800",
        b"\\u0000",
        b"../../etc/passwd",
        b"/",
        b"C:\\",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
    ),
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes: bytes, numbers, words, pieces moved, doubled or cut off."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 1, 4, 20, 200]))
        tokens = [i for i in range(1, len(data)) if data[i : i + 1].isalnum()] or [0]
        match rng.randrange(9):
            case 0:
                data = data[:start]
            case 1:
                data = data[:start] + data[end:]
            case 2:
                data = data[:end] + data[start:]
            case 3:
                data = data[:start] + rng.randbytes(rng.choice([1, 3])) + data[end:]
            case 4 | 5 | 6:  # a word or a number for another
                at = rng.choice(tokens)
                stop = at
                while data[stop : stop + 1].isalnum() or data[stop : stop + 1] in (b".", b"-"):
                    stop += 1
                data = data[:at] + rng.choice(ODD) + data[stop:]
            case 7:
                data = data[:start] + rng.choice(ODD) + data[start:]
            case _:
                other = rng.randrange(len(data) + 1)
                data = data[:start] + data[other : other + 60] + data[start:]
    return rng.choice(
        [data] * 30 + [b"\xef\xbb\xbf" + data, data.decode("latin1").encode("utf-16")]
    )


def xml_of(root: Path) -> tuple[Path, Callable[[], str]]:
    boxes = [("cat", 1, 1, 20, 20), ("dog", 5, 5, 30, 28), ("cow", 2.5, 3, 9, 9)]
    voc_folder(root, {"a": boxes, "b": boxes}, {"train": ["a", "b"]})
    return root / "Annotations" / "a.xml", lambda: str(root)


def json_of(root: Path) -> tuple[Path, Callable[[], str]]:
    for name in ("a.png", "b.png"):
        picture(root / "photos" / name)
    path = root / "truth.json"
    path.write_text(
        json.dumps(coco_document(["a.png", "b.png"], np.random.default_rng(0)), indent=1)
    )
    return path, lambda: f"{root}/truth.json?images=photos"


def csv_of(root: Path) -> tuple[Path, Callable[[], str]]:
    rows = [f"{n}.png,40,30,cat,{i},1,{i + 9},2{i},train" for n in "ab" for i in range(1, 5)]
    for name in ("a.png", "b.png"):
        picture(root / name)
    path = root / "boxes.csv"
    head = "filename,width,height,class,xmin,ymin,xmax,ymax,split"
    path.write_text("\n".join([head, *rows, ""]))
    return path, lambda: f"{root}?boxes=boxes.csv"


def table_of_classes(root: Path) -> tuple[Path, Callable[[], str]]:
    picture(root / "images" / "a.png")
    (root / "masks").mkdir()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(root / "masks" / "a.png")
    path = root / "table.csv"
    path.write_text("name,r,g,b\nroad,1,2,3\nwall,4,5,6\nvoid,0,0,0\n")
    return path, lambda: f"{root}?masks=masks&classes=table.csv"


MAKERS = {"xml": xml_of, "json": json_of, "csv": csv_of, "classes": table_of_classes}


def read(word: str) -> str:
    """Take all that there is to be taken; what it is refused for, if it is."""
    try:
        source = open_source(word, validation=0)
        for split in source.splits.values():
            for target in split.targets:
                for name in target:
                    np.asarray(target[name])
                boxes = target["boxes"] if "boxes" in target else np.array([[0, 0, 1, 1]])
                assert np.isfinite(boxes).all()
                assert (boxes[:, 2:] > boxes[:, :2]).all()
                assert ((boxes >= 0) & (boxes <= [40, 30, 40, 30])).all()
        assert len(source.fingerprint) == 64
    except InputError as error:
        return str(error)
    return ""


def examined(word: str) -> str:
    """What doctor cannot open it for."""
    try:
        examine(word, workers=1)
    except InputError as error:
        return str(error)
    return ""


def try_them(root: Path, kind: str, count: int) -> None:
    path, word = MAKERS[kind](root)
    assert read(word()) == ""
    whole = path.read_bytes()
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    refused = 0
    for number in range(count):
        path.write_bytes(mutated(whole, rng))
        try:
            lines = [read(word()), examined(word()) if number % 10 == 0 else ""]
        except Exception as error:
            raise AssertionError(f"seed {seed}, number {number}: {error!r}") from error
        refused += lines[0] != ""
        for line in filter(None, lines):
            assert path.name in line, (seed, number, line)
            assert len(line.splitlines()) == 1, (seed, number, line)
    assert count / 20 < refused < count


@pytest.mark.parametrize("kind", MAKERS)
def test_mutated_annotations_are_read_or_refused(tmp_path, kind):
    try_them(tmp_path / "set", kind, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_two_thousand_mutated_annotations_are_read_or_refused(tmp_path, kind):
    try_them(tmp_path / "set", kind, 2000)
