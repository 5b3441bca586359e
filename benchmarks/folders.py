"""Folders as people have them, and what happens to each: `python benchmarks/folders.py`.

It makes every folder of `ODD` with files of a few bytes, opens it as `deepen train` does, and
prints the table of docs/folders.md.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepen.data.folders import survey_folder
from deepen.data.parquet import find_shards
from deepen.data.sources import PictureSet, folder_and_table, open_source
from deepen.errors import InputError


class Odd(NamedTuple):
    """A folder, in words and as it is made."""

    about: str
    files: str
    """Paths, `{a,b}/{0..9}.jpg` for many."""
    tables: dict[str, str] = {}  # noqa: RUF012 - never changed
    """Texts by their path."""
    make: Callable[[Path], None] = lambda root: None
    """What else is done."""
    asked: str = ""
    """Said after the folder's name."""
    exclude: tuple[str, ...] = ()


def expand(pattern: str) -> Iterator[str]:
    """The paths of `{a,b}/{0..9}.jpg`."""
    pieces = re.split(r"\{(.*?)\}", pattern)
    choices: list[Sequence[str]] = []
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            choices.append([piece])
        elif found := re.fullmatch(r"(\d+)\.\.(\d+)", piece):
            choices.append([str(n) for n in range(int(found[1]), int(found[2]) + 1)])
        else:
            choices.append(piece.split(","))
    return map("".join, itertools.product(*choices))


def plant(root: Path, odd: Odd) -> Path:
    """Make the folder; the files are of no picture, which opening does not look at."""
    root.mkdir(parents=True)
    for path in (each for pattern in odd.files.split() for each in expand(pattern)):
        file = root / path.replace("_SPACE_", " ").replace("_NL_", "\n")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no picture: " + path.encode())
    for path, text in odd.tables.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    odd.make(root)
    return root


def link(path: str, target: str) -> Callable[[Path], None]:
    """A link in the folder."""
    return lambda root: (root / path).symlink_to(target)


def folders(*paths: str) -> Callable[[Path], None]:
    """Empty folders."""
    return lambda root: [(root / path).mkdir(parents=True) for path in paths] and None


def shards(*paths: str) -> Callable[[Path], None]:
    """Parquet files of 30 rows each."""

    def make(root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            rows = {"image": [b"no picture"] * 30, "label": [*"ab"] * 15}
            pq.write_table(pa.table(rows), root / path)

    return make


def deep(root: Path) -> None:
    """A picture below hundreds of folders."""
    here = os.open(root / "a", os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (root / "a" / ("d/" * 400) / "1.jpg").write_bytes(b"deep")


def undecodable(root: Path) -> None:
    """A name that is not UTF-8."""
    (root / "a" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"no picture")


def rows(names: str, labels: str = "ab", head: str = "image,label") -> str:
    """CSV of names and labels in turns."""
    pairs = zip(expand(names), itertools.cycle(labels))
    return f"{head}\n" + "".join(f"{name},{label}\n" for name, label in pairs)


AB = "{a,b}/{0..19}.jpg"
SPLIT = "train/{a,b}/{0..19}.jpg test/{a,b}/{0..4}.jpg"

ODD = [
    # Splits
    Odd("`train`, `val`, `test`", "{train,val,test}/{a,b}/{0..9}.jpg"),
    Odd("class folders alone", AB),
    Odd("`train` alone", "train/{a,b}/{0..19}.jpg"),
    Odd("`training`, `validation`, `testing`", "{training,validation,testing}/{a,b}/{0..9}.jpg"),
    Odd("`TRAIN`, `Dev`, `Test`", "{TRAIN,Dev,Test}/{a,b}/{0..9}.jpg"),
    Odd("`train` and `eval`", "{train,eval}/{a,b}/{0..19}.jpg"),
    Odd("`train` and `testing`", "{train,testing}/{a,b}/{0..19}.jpg"),
    Odd("both `train` and `training`", "{train,training}/{a,b}/{0..9}.jpg"),
    Odd("both `train` and `Train`", "{train,Train}/{a,b}/{0..9}.jpg"),
    Odd("both `val` and `valid`", "{train,val,valid}/{a,b}/{0..9}.jpg"),
    Odd("`test` beside class folders", "{a,b,test}/{0..9}.jpg"),
    Odd("`val` and `test`, no `train`", "{val,test}/{a,b}/{0..9}.jpg"),
    Odd("`seg_train` and `seg_test`", "seg_{train,test}/{a,b}/{0..9}.jpg"),
    Odd("`train2017` and `val2017`", "{train,val}2017/{a,b}/{0..9}.jpg"),
    Odd("`training_set` and `test_set`", "{training,test}_set/{a,b}/{0..9}.jpg"),
    Odd("splits below the classes", "{a,b}/{train,test}/{0..9}.jpg"),
    Odd("classes called train, test and car, in `train`", "train/{train,test,car}/{0..19}.jpg"),
    Odd("classes `valid` and `invalid`", "{valid,invalid}/{0..19}.jpg"),
    Odd("other folders beside the splits", f"{SPLIT} extra/{{a,b}}/{{0..4}}.jpg notes/x.txt"),
    Odd("a class in `test` alone", f"{SPLIT} test/c/{{0..4}}.jpg"),
    Odd("a class in another case in `test`", "train/{Cat,Dog}/{0..9}.jpg test/{cat,Dog}/1.jpg"),
    Odd("a class in `train` alone", f"{SPLIT} train/c/{{0..19}}.jpg"),
    Odd("a folder around all", "photos/{a,b}/{0..9}.jpg"),
    Odd("one class", "a/{0..9}.jpg"),
    # Places
    Odd("pictures beside the class folders", f"{AB} {{0..4}}.jpg"),
    Odd("pictures beside the class folders of `train`", f"{SPLIT} train/{{0..4}}.jpg"),
    Odd("pictures at any depth", "{a,b}/x/y/{0..19}.jpg"),
    Odd("a picture 400 folders deep", AB, make=deep),
    Odd("an empty class folder", AB, make=folders("c")),
    Odd("an empty folder in a class folder", AB, make=folders("a/x")),
    Odd("a class of texts", f"{AB} c/{{0..3}}.txt c/readme"),
    Odd("an empty folder", ""),
    Odd("pictures alone", "{0..9}.jpg"),
    Odd("pictures alone in `train` and `test`", "{train,test}/{0..9}.jpg"),
    # Leftovers
    Odd("`@eaDir` of a NAS in each class", f"{AB} {{a,b}}/@eaDir/{{0..19}}.jpg/SYNO_THUMB.jpg"),
    Odd("`#recycle` and `#snapshot`", f"{AB} #recycle/{{0..3}}.jpg #snapshot/a/1.jpg"),
    Odd("`__MACOSX` of an archive", f"{AB} __MACOSX/a/._{{0..19}}.jpg"),
    Odd("`lost+found`", AB, make=folders("lost+found")),
    Odd("`.DS_Store`, `Thumbs.db`, `desktop.ini`", f"{AB} .DS_Store a/Thumbs.db b/desktop.ini"),
    Odd(
        "`$RECYCLE.BIN`, `System Volume Information`",
        f"{AB} $RECYCLE.BIN/$R1.jpg System_SPACE_Volume_SPACE_Information/x.dat",
    ),
    Odd("`.ipynb_checkpoints`", f"{AB} .ipynb_checkpoints/x a/.ipynb_checkpoints/1-checkpoint.jpg"),
    Odd("AppleDouble beside each picture", f"{AB} {{a,b}}/._{{0..19}}.jpg"),
    Odd("`.Trash-1000`, `.thumbnails`", f"{AB} .Trash-1000/files/1.jpg a/.thumbnails/1.jpg"),
    Odd("a repository", f"{AB} .git/objects/0a/{{0..3}} .gitattributes README.md LICENSE"),
    Odd("a class of hidden files alone", f"{AB} c/.1.jpg"),
    # Endings
    Odd("`.jfif` and `.jpe`", "{a,b}/{0..9}.{jfif,jpe}"),
    Odd("`.ppm` and `.pgm`", "{a,b}/{0..9}.{ppm,pgm}"),
    Odd("`.tga`, `.jp2`, `.avif`", "{a,b}/{0..9}.{tga,jp2,avif}"),
    Odd("`.JPG` and `.Png`", "{a,b}/{0..9}.{JPG,Png}"),
    Odd("two thirds of a class `.xyz`", f"{AB} a/{{0..39}}.xyz"),
    Odd("a class of `.xyz` alone", f"{AB} c/{{0..5}}.xyz"),
    Odd("`.mp4`, `.pdf`, `.psd` among the pictures", f"{AB} a/{{1.mp4,1.pdf,1.psd}}"),
    Odd("`.jpg.txt`, `.jpg~`, `.jpg.part`", f"{AB} a/{{1.jpg.txt,1.jpg~,1.jpg.part}}"),
    Odd("pictures without ending", f"{AB} a/IMG_{{0..4}}"),
    # Links and names
    Odd("a picture's link that leads nowhere", AB, make=link("a/lost.jpg", "gone.jpg")),
    Odd("a class's link that leads nowhere", AB, make=link("c", "gone")),
    Odd("a link to the folder above", AB, make=link("a/up", "..")),
    Odd("a link of a class folder to itself", AB, make=link("a/again", ".")),
    Odd("a link to itself", AB, make=link("a/me", "me")),
    Odd("a class folder that is a link", f"{AB} .store/{{0..19}}.jpg", make=link("c", ".store")),
    Odd("a link from one class into another", AB, make=link("a/more", "../b")),
    Odd("a pipe called `x.jpg`", AB, make=lambda root: os.mkfifo(root / "a" / "x.jpg")),
    Odd("spaces and letters of the world", "{a_SPACE_b,é,日本}/{0..9}_SPACE_x.jpg"),
    Odd("a name that is not UTF-8", AB, make=undecodable),
    Odd("a newline in a name", f"{AB} a/1_NL_2.jpg"),
    # Labels in a table
    Odd("`train.csv` beside `train`", "train/{0..19}.jpg", {"train.csv": rows("{0..19}.jpg")}),
    Odd(
        "names without ending", "train/{0..19}.jpg", {"train.csv": rows("{0..19}", head="id,breed")}
    ),
    Odd(
        "`test` without labels beside it",
        "{train,test}/{0..19}.jpg",
        {
            "train.csv": rows("{0..19}.jpg"),
            "test.csv": "image\n" + "".join(f"{i}.jpg\n" for i in range(20)),
            "sample_submission.csv": rows("{0..19}.jpg", "a"),
        },
    ),
    Odd(
        "`metadata.csv` in `train` and `test`",
        "{train,test}/{0..19}.jpg",
        dict.fromkeys(
            ("train/metadata.csv", "test/metadata.csv"), rows("{0..19}.jpg", head="file_name,label")
        ),
    ),
    Odd(
        "`metadata.jsonl`",
        "{0..19}.jpg",
        {
            "metadata.jsonl": "".join(
                f'{{"file_name": "{i}.jpg", "label": {i % 2}}}\n' for i in range(20)
            )
        },
    ),
    Odd(
        "`labels.csv` of Excel: semicolons and a mark before",
        "images/{0..19}.jpg",
        {"labels.csv": "\ufeff" + rows("{0..19}.jpg").replace(",", ";").replace("\n", "\r\n")},
    ),
    Odd(
        "`train.csv` and `test.csv` over `images`",
        "images/{0..29}.jpg",
        {"train.csv": rows("{0..19}.jpg"), "test.csv": rows("{20..29}.jpg")},
    ),
    Odd(
        "`labels.csv` over splits and another folder",
        "{train,test,extra}/{0..9}.jpg",
        {"labels.csv": rows("{train,test,extra}/{0..9}.jpg")},
    ),
    Odd(
        "a column `split`",
        "images/{0..19}.jpg",
        {
            "labels.csv": "file,label,split\n"
            + "".join(f"{i}.jpg,{'ab'[i % 2]},{'test' if i > 15 else 'train'}\n" for i in range(20))
        },
    ),
    Odd(
        "a column `split` that says `extra`",
        "images/{0..2}.jpg",
        {"labels.csv": "file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,extra\n"},
    ),
    Odd(
        "two labels for a picture",
        "{0..9}.jpg",
        {"labels.csv": rows("{0..9}.jpg") + "0.jpg,b\n"},
    ),
    Odd(
        "rows without picture, pictures without row",
        "{0..19}.jpg x.jpg y.jpg",
        {"labels.csv": rows("{0..22}.jpg")},
    ),
    Odd("rows without label", "{0..19}.jpg", {"labels.csv": rows("{0..18}.jpg") + "19.jpg,\n"}),
    Odd(
        "a name in two folders",
        "{x,y}/1.jpg",
        {"labels.csv": rows("1.jpg")},
        asked="?labels=labels.csv",
    ),
    Odd(
        "a table of no such pictures",
        "{0..9}.jpg",
        {"labels.csv": rows("IMG_{0..9}.jpg")},
    ),
    Odd(
        "columns that say nothing",
        "{0..9}.jpg",
        {"labels.csv": "image,width,height\n0.jpg,40,40\n"},
    ),
    Odd(
        "the same, and the column named",
        "{0..19}.jpg",
        {"labels.csv": "image,width,kind\n" + "".join(f"{i}.jpg,40,k{i % 2}\n" for i in range(20))},
        asked="?labels=labels.csv&label=kind",
    ),
    Odd("a table that is not UTF-8", "{0..9}.jpg", {"labels.csv": rows("{0..9}.jpg", "\udcff")}),
    Odd("a cell too many", "{0..9}.jpg", {"labels.csv": "image,label\n0.jpg,a,b\n"}),
    Odd("two tables", "{0..9}.jpg", dict.fromkeys(("labels.csv", "metadata.csv"), rows("0.jpg"))),
    Odd("a table of another name", "{0..9}.jpg", {"styles.csv": rows("{0..9}.jpg")}),
    Odd(
        "the same, and said",
        "{0..19}.jpg",
        {"styles.csv": rows("{0..19}.jpg")},
        asked="?labels=styles.csv",
    ),
    Odd("class folders and a table", AB, {"labels.csv": rows("a/{0..19}.jpg")}),
    # Parquet
    Odd(
        "Spark's `train.parquet/`",
        "train.parquet/_SUCCESS",
        make=shards("train.parquet/part-0.parquet"),
    ),
    Odd(
        "Spark's `train.parquet/` and `test.parquet/`",
        "",
        make=shards("train.parquet/part-0.snappy.parquet", "test.parquet/part-0.parquet"),
    ),
    Odd("Parquet beside class folders", AB, make=shards("train-0.parquet")),
    # Lists
    Odd(
        "a list of `find` and of Windows",
        AB,
        exclude=("./a/0.jpg", "PHOTOS/a/1.jpg", "a\\2.jpg", "a/3.jpg ", "b/gone.jpg"),
    ),
    Odd("a list of a whole class", AB, exclude=tuple(f"a/{i}.jpg" for i in range(20))),
]


def word(root: Path, odd: Odd) -> str:
    """What is said to `deepen train`."""
    return f"{root}{odd.asked}"


def what_happens(root: Path, odd: Odd) -> str:
    """In words: what is trained on, and all notes but those on chance; or the refusal."""
    try:
        source = open_source(word(root, odd), exclude=odd.exclude)
    except InputError as error:
        said = re.sub(r"read are \.[.\w ]+", "read are ...", str(error))  # more with deepen[heic]
        return f"**refused**: {said}".replace(str(root), root.name)
    counts = _counts(word(root, odd), source)
    about = f"{', '.join(source.classes)}: {counts}"
    notes = [n for n in source.notes if not n.startswith(("test:", "validation:", "subfolders:"))]
    return "; ".join([about, *notes]).replace(str(root), root.name)


def _counts(said: str, source: PictureSet) -> str:
    """Pictures of each split before any are held out; of shards, in all."""
    if find_shards(said):
        own = f", in {' and '.join(source.own)}" if source.own else ""
        return f"{sum(map(len, source.splits.values()))} rows{own}"
    found = survey_folder(*folder_and_table(said)).found
    counts = {split: sum(map(len, by_class.values())) for split, by_class in found.items()}
    return ", ".join(f"{split} {count}" for split, count in counts.items())


def page() -> str:
    """docs/folders.md."""
    lines = [
        "# Folders as people have them",
        "",
        "What `deepen train PHOTOS` does with each; `deepen doctor PHOTOS` says the same. Counted",
        "in `train` are the pictures before any are held out. `python benchmarks/folders.py` makes",
        "this page, and a test holds it.",
        "",
        "| folder | what happens |",
        "|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for number, odd in enumerate(ODD):
            root = plant(Path(temporary, str(number), "PHOTOS"), odd)
            happens = what_happens(root, odd).replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {odd.about} | {happens} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
