"""Anyone's folder: every file is used, named or counted, and the doctor says what training does."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from deepen.cli import app
from deepen.data.doctor import examine
from deepen.data.folders import survey_folder
from deepen.data.lists import read_list
from deepen.data.sources import folder_and_table, open_source
from deepen.errors import InputError

ROOT = Path(__file__).parents[1]


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("odd_folders", ROOT / "benchmarks/folders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd_folders"] = module
    spec.loader.exec_module(module)
    return module


folders = _load()
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")


def plant(root: Path, *patterns: str, **tables: str) -> Path:
    """Files of no picture, and tables by their stem."""
    odd = folders.Odd("", " ".join(patterns), {f"{n}.csv": text for n, text in tables.items()})
    return folders.plant(root / "PHOTOS", odd)


def keys(root: Path | str, **said: Any) -> dict[str, list[str]]:
    source = open_source(root, **said)
    return {str(name): list(split.keys) for name, split in source.splits.items()}


def labels(root: Path | str) -> dict[str, str]:
    source = open_source(root)
    return {
        str(key): source.classes[label]
        for split in source.splits.values()
        for key, label in zip(split.keys, split.labels, strict=True)
    }


# Odd folders -----------------------------------------------------------------------------------


@linux
def test_the_page_of_odd_folders_is_what_happens():
    pytest.importorskip("pyarrow")
    assert len(folders.ODD) >= 60
    assert folders.page() == (ROOT / "docs/folders.md").read_text("utf-8")


@linux
@pytest.mark.parametrize("odd", folders.ODD, ids=lambda odd: odd.about)
def test_the_doctor_says_of_odd_folders_what_training_does(tmp_path, odd):
    pytest.importorskip("pyarrow")
    agree(f"{folders.plant(tmp_path / 'PHOTOS', odd)}{odd.asked}")


def agree(word: str) -> None:
    """The doctor names a fault of the layout exactly where training refuses, in the same words."""
    try:
        source, refused = open_source(word), None
    except InputError as error:
        source, refused = None, str(error)
    try:
        diagnosis, named = examine(word, workers=1), None
    except InputError as error:
        diagnosis, named = None, str(error)
    if diagnosis is None:
        assert named == refused
        return
    layout = ("layout", "empty_class", "unknown_class")
    faults = [problem for problem in diagnosis.problems if problem.kind in layout]
    if source is None:
        assert refused is not None
        assert faults[0].detail in refused
        return
    assert faults == []
    used = sorted(str(key) for split in source.splits.values() for key in split.keys)
    assert diagnosis.num_files == len(used)
    said = [note for note in source.notes if note.startswith(("left out", "not taken"))]
    assert [note for note in diagnosis.notes if note.startswith(("left out", "not taken"))] == said


# Every file is used, named or counted ----------------------------------------------------------

tops = ["train", "Train", "training", "val", "test", "dev", "a", "b", "extra", "@eaDir", ".git", ""]
middles = ["a", "b", "a/deep", "b/x/y", "c", "a/@eaDir", "b/.cache", "__MACOSX", "train", ""]
files = [
    *("1.jpg", "2.PNG", "3.jfif", "é 4.webp", "n_NL_l.jpg", "5.xyz", "notes.txt", "README"),
    *("._1.jpg", ".hidden.png", "Thumbs.db", "desktop.ini", "labels.csv", "6.jpg~", "x.tar.gz"),
]
paths = st.tuples(st.sampled_from(tops), st.sampled_from(middles), st.sampled_from(files))
links = st.tuples(
    st.sampled_from([".", "a", "train/a", "train"]),
    st.sampled_from(["lnk", "lnk.jpg", ".lnk"]),
    st.sampled_from(["gone", "..", ".", "{elsewhere}"]),
)
bases = st.sampled_from(
    ["{a,b}/{0..12}.jpg", "", "train/{a,b}/{0..9}.jpg", "train/{a,b}/{0..9}.jpg test/a/1.jpg"]
)


@linux
@settings(max_examples=120, deadline=None)
@given(
    base=bases,
    planted=st.sets(paths, max_size=12),
    linked=st.one_of(st.just(set()), st.sets(links, min_size=1, max_size=3)),
    empty=st.sets(st.sampled_from(["a/none", "none", "train/none", "val"]), max_size=2),
    table=st.sampled_from([None, None, "a", "ab"]),
)
def test_every_file_is_used_or_counted(tmp_path_factory, base, planted, linked, empty, table):
    home = tmp_path_factory.mktemp("tree")
    root, elsewhere = home / "PHOTOS", home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.jpg").touch()
    names = ["/".join(filter(None, path)).replace(" ", "_SPACE_") for path in sorted(planted)]
    tables = {} if table is None else {"metadata.csv": folders.rows("{a,b}/{0..12}.jpg", table)}
    try:
        folders.plant(root, folders.Odd("", " ".join([base, *names]), tables))
        for folder in empty:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for where, name, target in sorted(linked):
            if (root / where).is_dir() and not os.path.lexists(root / where / name):
                (root / where / name).symlink_to(target.format(elsewhere=elsewhere))
        agree(str(root))
        count(root, sum("elsewhere" in target for _, _, target in linked))
    finally:
        shutil.rmtree(home)


def count(root: Path, links: int) -> None:
    """Used and left out are all files that os.walk finds, and one for each link elsewhere."""
    try:
        survey = survey_folder(root, {})
    except InputError:
        return  # a table that cannot be read: named in the refusal
    used = [file for of in survey.found.values() for fs in of.values() for file in fs]
    assert len({file.key for file in used}) == len(used)
    left = {why: n for why, n in survey.ignored.items() if why != "back to a folder above"}
    tables = [note for note in survey.notes if re.match(r"labels: |.*has no column", note)]
    walked = sum(len(names) for _, _, names in os.walk(root))
    assert walked <= len(used) + sum(left.values()) + len(tables) <= walked + links
    told = [
        int(number.replace(",", ""))
        for note in survey.left_out
        for number in re.findall(r"(?:^|, )([\d,]+) ", note.partition(": ")[2])
        if "back to a folder" not in note
    ]
    assert sum(told) == sum(left.values())


# Tables ----------------------------------------------------------------------------------------


def test_kaggles_table(tmp_path):
    root = plant(tmp_path, "train/{0..19}.jpg", "test/{0..3}.jpg", train=folders.rows("{0..19}"))
    found = labels(root)
    assert found == {f"train/{i}.jpg": "ab"[i % 2] for i in range(20)}
    assert any(
        "4 pictures without a row in the table: test/0.jpg" in n for n in open_source(root).notes
    )


def test_a_table_that_is_named_goes_before_folders(tmp_path):
    root = plant(tmp_path, "{x,y}/{0..19}.jpg", kinds=folders.rows("{x,y}/{0..19}.jpg"))
    assert set(labels(root).values()) == {"x", "y"}
    found = labels(f"{root}?labels=kinds.csv")
    assert found == {f"{c}/{i}.jpg": "ab"[i % 2] for c in "xy" for i in range(20)}
    moved = shutil.move(root, tmp_path / "moved")
    assert labels(f"{moved}?labels=kinds.csv") == found
    outside = tmp_path / "kinds.csv"
    shutil.move(f"{moved}/kinds.csv", outside)
    assert labels(f"{moved}?labels={outside}") == found


@pytest.mark.parametrize(
    "name", ["x/1.jpg", "./x/1.jpg", "x\\1.jpg", "1.jpg", "1", "x/1", "PHOTOS/x/1.jpg"]
)
def test_what_a_table_may_call_a_picture(tmp_path, name):
    rows = f"file,label\n{name},a\n" + "".join(f"x/{i}.jpg,{'ab'[i % 2]}\n" for i in range(2, 20))
    root = plant(tmp_path, "x/{1..19}.jpg x/11.png.jpg", labels=rows)
    assert labels(root)["x/1.jpg"] == "a"


def test_a_column_of_splits_goes_before_folders(tmp_path):
    rows = "file,label,part\n" + "".join(
        f"{i}.jpg,{'ab'[i % 2]},{'Test' if i < 4 else 'validation' if i < 8 else 'train'}\n"
        for i in range(20)
    )
    root = plant(tmp_path, "images/{0..19}.jpg", labels=rows)
    found = {split: len(of) for split, of in keys(root).items()}
    assert found == {"train": 12, "val": 4, "test": 4}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("?labels=none.csv", "--labels none.csv: no such file"),
        ("?labels=labels.csv&label=kind", "unknown column 'kind'; known: image, label"),
        ("?table=labels.csv", "unknown setting 'table'"),
        ("/a?label=label", "has no table of labels"),
    ],
)
def test_words_of_tables_that_are_wrong(tmp_path, word, said):
    root = plant(tmp_path, "{a,b}/{0..9}.jpg", labels=folders.rows("a/{0..9}.jpg"))
    with pytest.raises(InputError, match=re.escape(said)):
        open_source(f"{root}{word}")


def test_the_word_for_a_folder_and_its_table(tmp_path):
    assert folder_and_table("in/A?labels=a b.csv&image=id") == (
        Path("in/A"),
        {"labels": "a b.csv", "image": "id"},
    )
    (tmp_path / "what?").mkdir()
    assert folder_and_table(f"{tmp_path}/what?") == (tmp_path / "what?", {})


def test_a_table_is_part_of_what_is_asked(tmp_path):
    from deepen.training.request import Request, Scoring, Training

    root = plant(tmp_path, "{0..9}.jpg", kinds=folders.rows("{0..9}.jpg"))
    for words in (Request, Training):
        asked = words(str(root), labels=f"{root}/kinds.csv?label=label")
        assert (asked.data, asked.labels) == (f"{root}?labels=kinds.csv&label=label", None)
    assert Scoring("w", "photos", labels="t.csv").data == "photos?labels=t.csv"
    with pytest.raises(InputError, match=r"--labels t.csv: goes with a folder"):
        Request(labels="t.csv")


def test_a_table_with_pictures_and_masks(tmp_path):
    rows = "mask,image,label\n" + "".join(f"m/{i}.png,{i}.jpg,{'ab'[i % 2]}\n" for i in range(20))
    root = plant(tmp_path, "{0..19}.jpg m/{0..19}.png", labels=rows)
    assert set(labels(root)) == {f"{i}.jpg" for i in range(20)}
    (root / "labels.csv").write_text(rows.replace("image", "view"))
    with pytest.raises(InputError, match="several columns name pictures, mask, view; say --labels"):
        open_source(root)


def test_what_else_a_table_says_goes_with_each_picture(tmp_path):
    rows = "file,label,patient\n" + "".join(f"{i}.jpg,{'ab'[i % 2]},p{i // 4}\n" for i in range(40))
    source = open_source(plant(tmp_path, "{0..39}.jpg", labels=rows), together="column:patient")
    seen: dict[str, set[str]] = {}
    for name, split in source.splits.items():
        for key, patient in zip(split.keys, split.column("patient"), strict=True):
            assert patient == f"p{int(key[:-4]) // 4}"
            seen.setdefault(patient, set()).add(name)
    assert all(len(names) == 1 for names in seen.values())
    assert set.union(*seen.values()) == {"train", "val", "test"}


# Lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        b"./a/1.jpg\r\n",
        b"a\\1.jpg\r\n",
        b"PHOTOS/a/1.jpg\n",
        b"\xef\xbb\xbfa/1.jpg\n",
        "a/1.jpg\r\n".encode("utf-16"),
        b"  a/1.jpg  \n\n",
        b"a/1.jpg\tdamaged JPEG: cut\n",
        b"a//b/../1.jpg\n",
    ],
    ids=["find", "Windows", "relative", "mark", "PowerShell", "spaces", "quarantine.txt", "detour"],
)
def test_lists_of_other_tools(tmp_path, written):
    root = plant(tmp_path, "{a,b}/{0..19}.jpg")
    (tmp_path / "list.txt").write_bytes(written)
    source = open_source(root, exclude=read_list(tmp_path / "list.txt"))
    found = {key for split in source.splits.values() for key in split.keys}
    assert {f"{c}/{i}.jpg" for c in "ab" for i in range(20)} - found == {"a/1.jpg"}
    assert "excluded: 1 pictures, of 1 listed" in source.notes


def test_absolute_names_and_names_that_are_no_pictures(tmp_path):
    root = plant(tmp_path, "{a,b}/{0..19}.jpg")
    said = [f"{root}/a/1.jpg", "a/gone.jpg", "/elsewhere/a/2.jpg", "a/3"]
    source = open_source(root, exclude=said)
    assert "excluded: 1 pictures, of 4 listed" in source.notes
    assert (
        "listed to be excluded, but no picture here: /elsewhere/a/2.jpg, a/3, a/gone.jpg"
        in source.notes
    )


@linux
def test_odd_names_come_back_from_the_doctors_list(tmp_path):
    root = plant(tmp_path, "{a,b}/{0..19}.jpg")
    names = ["n\nl.jpg", " space .jpg", "tab\t.jpg", "back\\slash.jpg", "\u2028.jpg", '"q".jpg']
    for name in [*names, os.fsdecode(b"\xff.jpg")]:
        (root / "a" / name).write_bytes(b"no picture")
    quarantine = [
        path for path in examine(root).quarantine if path.rpartition("/")[2][:-4].isdigit() is False
    ]
    assert len(quarantine) == len(names) + 1
    (tmp_path / "bad.txt").write_text("".join(f"{path}\n" for path in quarantine))
    source = open_source(root, exclude=read_list(tmp_path / "bad.txt"))
    assert sum(map(len, source.splits.values())) == 40
    assert f"excluded: {len(names) + 1} pictures, of {len(names) + 1} listed" in source.notes


# What the doctor prints ------------------------------------------------------------------------


def test_the_doctor_prints_what_is_left_out_and_which_classes_are_small(tmp_path):
    root = plant(tmp_path, "{a,b}/{0..9}.jpg", "c/{0..1}.jpg", "a/{0..23}.xyz", "a/@eaDir/1.jpg")
    shown = CliRunner().invoke(app, ["doctor", str(root)]).output
    assert "not taken for pictures: 24 .xyz" in shown
    assert "left out: 1 file hidden, or of file managers, servers and archives: @eaDir" in shown
    assert "1 classes have fewer pictures than the 3 splits made of them need: c (2)" in shown
    table = tmp_path / "t.csv"
    table.write_text(folders.rows("{a,b}/{0..9}.jpg"))
    shown = CliRunner().invoke(app, ["doctor", str(root), "--labels", str(table), "--json"]).output
    found = json.loads(shown)
    assert found["counts"] == {"all": {"a": 10, "b": 10}}
    assert found["ignored"]["without a row in the table"] == 2


def test_the_doctor_reads_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures = []
    for i in range(40):
        data = io.BytesIO()
        Image.new("RGB", (40, 40), (i, 0, 0)).save(data, "PNG")
        pictures.append(data.getvalue())
    pictures[3], pictures[7], pictures[9] = b"no picture", pictures[6], None
    (tmp_path / "train.parquet").mkdir()
    table = pa.table({"image": pictures, "label": ["a", "a", "b", "b"] * 10})
    pq.write_table(table, tmp_path / "train.parquet/part-0.parquet")
    found = {p.path: p.kind for p in examine(tmp_path / "train.parquet").problems}
    row = "train.parquet/part-0.parquet"
    assert found == {f"{row}/3": "damaged", f"{row}/9": "damaged", f"{row}/7": "duplicate"}


# Ordinary folders ------------------------------------------------------------------------------


def test_an_ordinary_folder_keeps_its_order_and_fingerprint(tmp_path):
    """Written down from the version before: runs of then go on."""
    root = plant(tmp_path, "train/{b,a10,a9}/{10,9,1}.jpg val/{a9,b}/x/{2,1}.png", "val/a10/1.jpg")
    source = open_source(root)
    assert source.classes == ("a9", "a10", "b")
    assert source.fingerprint == FINGERPRINT
    assert source.notes == ("test: none; what is reported is measured on the validation pictures",)


FINGERPRINT = "dd0abb3a1c6b56ae9401fd3495edc58dcb98b90bcd1cf83cd13cad448355eedc"
