"""The index of large folders: nothing is gone through twice, and no change is missed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from deepen.data import index as module
from deepen.data.sources import PictureSet, open_source


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEEPEN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def any_size(monkeypatch):
    """Small folders are indexed too, and their clocks taken to be exact."""
    monkeypatch.setattr(module, "MIN_FILES", 1)
    monkeypatch.setattr(module, "_SETTLED_NS", 0)


def plant(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"picture " + file.encode())
    return root


@pytest.fixture
def photos(tmp_path) -> Path:
    files = [f"train/{c}/{part}{i}.jpg" for c in "ab" for part in ("", "deep/") for i in range(20)]
    return plant(
        tmp_path / "photos",
        *files,
        "train/b/larger.jpg",
        "val/a/1.jpg",
        "val/b/2.png",
        "train/b/notes.txt",
    )


class Calls:
    """How often the file system is asked for what."""

    def __init__(self, monkeypatch) -> None:
        self.stats: Counter[str] = Counter()
        self.scans: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        stat, scandir, size = os.stat, os.scandir, module._size

        def counted_stat(path, *args, **options):
            self.stats[str(path)] += 1
            return stat(path, *args, **options)

        def counted_scandir(path="."):
            self.scans[str(path)] += 1
            return scandir(path)

        def counted_size(entry):
            self.sizes[entry.path] += 1
            return size(entry)

        monkeypatch.setattr(os, "stat", counted_stat)
        monkeypatch.setattr(os, "scandir", counted_scandir)
        monkeypatch.setattr(module, "_size", counted_size)

    def clear(self) -> None:
        for counter in (self.stats, self.scans, self.sizes):
            counter.clear()


def same(first: PictureSet, second: PictureSet) -> bool:
    return (first.classes, first.notes, first.fingerprint) == (
        second.classes,
        second.notes,
        second.fingerprint,
    ) and all(
        first.splits[name].files == second.splits[name].files
        and first.splits[name].keys == second.splits[name].keys
        and first.splits[name].labels.tolist() == second.splits[name].labels.tolist()
        for name in first.splits
    )


def anew(root: Path, monkeypatch) -> PictureSet:
    """What is found without any index."""
    with monkeypatch.context() as patch:
        patch.setenv("DEEPEN_CACHE_DIR", str(root / "none" / "there"))
        patch.setattr(module, "MIN_FILES", 10**9)
        return open_source(root)


def test_a_large_folder_is_gone_through_once(tmp_path, monkeypatch, cache):
    root = tmp_path / "large"
    for number in range(20):
        folder = root / "train" / f"class{number}"
        folder.mkdir(parents=True)
        for i in range(1000):
            (folder / f"{i}.jpg").touch()
    old = 10**9 * 1_500_000_000
    for folder in [root, root / "train", *(root / "train").iterdir()]:
        os.utime(folder, ns=(old, old))
    monkeypatch.setattr(module, "_SETTLED_NS", 0)  # of the change time, which cannot be set
    calls = Calls(monkeypatch)
    first = open_source(root)
    assert sum(calls.sizes.values()) == 20_000
    calls.clear()
    second = open_source(root)
    assert same(first, second)
    assert len(second.splits["train"]) + len(second.splits["val"]) == 20_000
    assert sum(calls.sizes.values()) == 0
    assert not any(".jpg" in path for path in calls.stats)
    assert sum(calls.stats.values()) < 100  # the 22 folders, and the few that any run asks for
    # Parquet files are looked for in these two; no folder of pictures is read.
    assert set(calls.scans) <= {str(root), str(root / "train")}
    assert len(list(cache.rglob("*.json"))) == 1

    calls.clear()
    (root / "train" / "class7" / "new.jpg").touch()
    third = open_source(root)
    assert sum(calls.sizes.values()) == 1001
    assert sum(map(len, third.splits.values())) == 20_001
    assert same(third, anew(root, monkeypatch))


def test_small_folders_are_not_indexed(photos, cache):
    open_source(photos)
    assert not cache.exists()


def test_a_folder_that_became_small_is_forgotten(photos, cache, any_size, monkeypatch):
    open_source(photos)
    assert len(list(cache.rglob("*.json"))) == 1
    monkeypatch.setattr(module, "MIN_FILES", 1000)
    (photos / "train/a/1.jpg").unlink()
    open_source(photos)
    assert list(cache.rglob("*.json")) == []


CHANGES = {
    "added": lambda root: plant(root, "train/a/new.jpg"),
    "added deep": lambda root: plant(root, "train/b/deep/new.jpg"),
    "added folder": lambda root: plant(root, "train/b/other/new.jpg"),
    "added class": lambda root: plant(root, "train/c/1.jpg", "train/c/2.jpg"),
    "removed": lambda root: (root / "train/a/3.jpg").unlink(),
    "removed folder": lambda root: shutil.rmtree(root / "train/a/deep"),
    "renamed": lambda root: (root / "train/a/3.jpg").rename(root / "train/a/x.jpg"),
    "moved": lambda root: (root / "train/a/3.jpg").rename(root / "train/b/x.jpg"),
    "replaced": lambda root: os.replace(plant(root, ".new") / ".new", root / "train/a/3.jpg"),
    "classes changed over": lambda root: [
        (root / "train" / old).rename(root / "train" / new) for old, new in ("ax", "ba", "xb")
    ],
    "hidden": lambda root: (root / "train/a/3.jpg").rename(root / "train/a/.3.jpg"),
    "ignored": lambda root: plant(root, "train/a/list.csv"),
    "loose": lambda root: plant(root, "train/loose.jpg"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_are_noticed(photos, any_size, monkeypatch, change):
    before = open_source(photos)
    assert same(open_source(photos), before)
    change(photos)
    after = open_source(photos)
    assert same(after, anew(photos, monkeypatch))
    assert not same(after, before)
    assert same(open_source(photos), after)


def test_a_change_with_the_old_times_put_back_is_noticed(photos, any_size, monkeypatch):
    folder = photos / "train/a"
    before, about = open_source(photos), os.stat(folder)
    (folder / "3.jpg").unlink()
    os.utime(folder, ns=(about.st_atime_ns, about.st_mtime_ns))
    after = open_source(photos)
    assert not same(after, before)
    assert same(after, anew(photos, monkeypatch))


def test_what_changed_a_moment_ago_is_not_trusted(photos, monkeypatch):
    """Within one tick of a coarse clock a second change leaves the same time."""
    monkeypatch.setattr(module, "MIN_FILES", 1)
    calls = Calls(monkeypatch)
    open_source(photos)
    calls.clear()
    open_source(photos)
    assert sum(calls.sizes.values()) == 83


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a right on Windows")
def test_what_links_lead_to_is_looked_at(photos, any_size, tmp_path, monkeypatch):
    plant(tmp_path / "elsewhere", "1.jpg")
    plant(tmp_path / "other", "1.jpg", "2.jpg")
    (photos / "train/c").symlink_to(tmp_path / "elsewhere")
    open_source(photos, validation=0)
    plant(tmp_path / "elsewhere", "5.jpg")
    assert same(open_source(photos), anew(photos, monkeypatch))
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "other").rename(tmp_path / "elsewhere")
    assert same(open_source(photos), anew(photos, monkeypatch))
    shutil.rmtree(tmp_path / "elsewhere")  # now a file that leads nowhere, in no class folder
    assert same(open_source(photos), anew(photos, monkeypatch))


def test_a_damaged_index_is_rebuilt(photos, any_size, cache):
    before = open_source(photos)
    (file,) = cache.rglob("*.json")
    whole = file.read_bytes()
    places = range(0, len(whole), len(whole) // 40)
    damaged = [whole[:place] for place in places]
    damaged += [bytes([*whole[:i], whole[i] ^ 1, *whole[i + 1 :]]) for i in places]
    for content in [*damaged, b"", b"\xff\xfe", b"{}"]:
        file.write_bytes(content)
        assert same(open_source(photos), before)
        assert file.read_bytes() == whole


def test_an_index_that_cannot_be_written_is_done_without(photos, any_size, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    assert same(open_source(photos), anew(photos, monkeypatch))
    assert cache.read_text() == "a file where the folder should be"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache(photos, any_size, cache, monkeypatch):
    open_source(photos)
    (cache / "index").chmod(0o500)
    plant(photos, "train/a/new.jpg")
    try:
        assert same(open_source(photos), anew(photos, monkeypatch))
    finally:
        (cache / "index").chmod(0o700)


def test_nothing_is_written_among_the_pictures(photos, any_size):
    before = sorted(photos.rglob("*"))
    open_source(photos)
    assert sorted(photos.rglob("*")) == before


def test_folders_do_not_share_an_index(photos, any_size, tmp_path, monkeypatch):
    other = tmp_path / "copy"
    shutil.copytree(photos, other)
    plant(other, "train/a/more.jpg")
    for _ in range(2):
        for root in (photos, other):
            assert same(open_source(root), anew(root, monkeypatch))
