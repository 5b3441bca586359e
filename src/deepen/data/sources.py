"""Where pictures come from: data sets known by name, folders of class folders, Parquet files."""

from __future__ import annotations

import os
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import parse_qsl

from deepen.data.annotated.opening import find_reader, open_annotated
from deepen.data.drawn import drawn
from deepen.data.folders import open_folder
from deepen.data.hold_out import HELD_OUT, Held, hold_out, hold_out_again
from deepen.data.named import NAMED, open_named
from deepen.data.names import natural_key
from deepen.data.parquet import HUB, fetch_shards, find_shards, open_parquet
from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName
from deepen.data.tags import open_tagged
from deepen.errors import InputError, unknown

__all__ = [
    "HELD_OUT",
    "NAMED",
    "SPLIT_FOLDERS",
    "PictureSet",
    "Split",
    "SplitName",
    "natural_key",
    "open_source",
]


def open_source(
    name_or_folder: str | Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    validation: int | None = None,
    exclude: Collection[str] = (),
    together: str | None = None,
    begun: str | None = None,
) -> PictureSet:
    """Open a data set by name (`NAMED`), a folder of pictures, or Parquet files.

    A folder holds `train/<class>/` with `val/<class>/` and `test/<class>/` (or other names of
    `SPLIT_FOLDERS`), or `<class>/` alone; pictures may lie at any depth below. Or it holds pictures
    and a table of their labels (`deepen.data.tables`), which `?labels=FILE` at the end may name.
    Whatever is left out is counted in the notes. Of a folder without splits 10% become the test
    split and 10% the validation split; one with `train` but no validation folder gives 10% of that.

    Parquet files hold a column of pictures and one of labels: a file, several (with the system's
    path separator between them), a pattern, a folder of them, or `hf://owner/name` of Hugging
    Face's hub; `?image=COLUMN&label=COLUMN` at the end names columns. Their names or folders begin
    with the split (`train-00000-of-00005.parquet`), or they are split as folders are.

    `FOLDER?tags=FILE` is a folder of pictures with a table of their classes, of which each may have
    several (`deepen.data.tags`); `&image=`, `&label=` and `&split=` name its columns.

    Sets with boxes or masks are known by what lies in them (`deepen.data.annotated`): Pascal VOC's
    folders, COCO's JSON (or `FILE.json?images=DIR`), a table with columns of corners (or
    `FOLDER?boxes=FILE`), folders of masks (or `FOLDER?masks=DIR&classes=FILE`).

    `NAME?train=N&test=M` is a fixed draw of so many training and test pictures, `all` for all of
    them; nothing is held out then, whatever `validation` says.

    Args:
        name_or_folder: a known name goes before a folder of that name; `./digits` is the folder.
        data_dir: where named data sets lie, as torchvision lays them out, or under a folder of
            their name; by default the environment's DEEPEN_DATA_DIR, or ~/.cache/deepen/data.
        download: fetch a named data set, or one of the hub, that is not there.
        validation: how many training pictures are held out for validation. None: 20% of digits,
            5,000 of the other named sets, the above of folders. 0: none, and validation pictures
            that a folder has of its own are trained on too.
        exclude: pictures to leave out: keys, or other names that `deepen.data.lists` understands.
        together: what keeps pictures in one split, as `hold_out.Held` says.
        begun: the fingerprint of a run that these pictures may be of; an older one's splits are
            found again.

    Raises:
        InputError: unknown name, missing data, an empty class, one that training lacks, ...
        WorkError: the download failed.
    """
    word = str(name_or_folder)
    if (some := drawn(word)) is not None:
        rest = {"data_dir": data_dir, "download": download, "exclude": exclude}
        return some.open(lambda held: open_source(some.name, validation=held, **rest))
    if word in NAMED:
        root = Path(data_dir or os.environ.get("DEEPEN_DATA_DIR") or "~/.cache/deepen/data")
        if exclude:
            raise InputError(f"exclude: {word} is no folder whose files could be left out")
        if together is not None:
            raise InputError(f"together: {word} comes with its own splits")
        return open_named(word, root.expanduser(), download, validation)
    laid, held = lay_out(word, download=download, exclude=exclude), Held(validation, together)
    return hold_out(laid, held) if begun is None else hold_out_again(laid, held, begun)


def lay_out(
    word: str, *, download: bool = False, exclude: Collection[str] = (), to_train: bool = True
) -> PictureSet:
    """The pictures of a folder or of Parquet files in the splits that these have themselves.

    Where they have none, all is in `train`, and `own` is empty. What is not `to_train` on, but
    scored, may be of one class, or of some of them, and have no `train`.

    Raises:
        InputError: as `open_source` does.
    """
    where = str(fetch_shards(word, download)) if word.startswith(HUB) else word
    if shards := find_shards(where):
        root = Path(where.partition("?")[0]).expanduser()
        return open_parquet(word, shards, root, frozenset(exclude), to_train=to_train)
    folder, asked = folder_and_table(word)
    if find_reader(folder, asked):
        return open_annotated(word, folder, asked, frozenset(exclude), to_train=to_train)
    if folder.is_dir() and "tags" in asked:
        return open_tagged(word, folder, asked, frozenset(exclude))
    if folder.is_dir():
        return open_folder(word, folder, frozenset(exclude), asked, to_train=to_train)
    if folder.exists():
        raise InputError(f"{word}: a file; a folder of class folders is needed")
    near = _near(folder)
    if len(folder.parts) > 1:
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise InputError(f"{word}: no such folder{hint}")
    raise unknown("data set or folder", word, [*NAMED, *near])


def _near(folder: Path) -> list[str]:
    """Folders whose names are like that of a missing one, or of the first above it that is not."""
    missing = folder
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        beside = {each.name.lower(): each for each in missing.parent.iterdir() if each.is_dir()}
    except OSError:
        return []
    return [str(beside[each]) for each in get_close_matches(missing.name.lower(), beside)]


def folder_and_table(word: str) -> tuple[Path, dict[str, str]]:
    """The folder of `PHOTOS?labels=FILE&image=COLUMN`, and what is said of its table."""
    folder = Path(word).expanduser()
    if "?" not in word or folder.is_dir():
        return folder, {}
    return Path(word.partition("?")[0]).expanduser(), dict(parse_qsl(word.partition("?")[2]))
