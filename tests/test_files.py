"""Files that are whole or not there, and documents that may hold anything."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepen.errors import InputError, WorkError
from deepen.files import parse_yaml, read_json, read_text, read_yaml, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and pipes of POSIX")


@posix
def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    target = tmp_path / "there" / "file"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "there" / "later")
    write_whole(dangling, "made")
    assert dangling.is_symlink()
    assert (tmp_path / "there" / "later").read_text() == "made"
    mask = os.umask(0o027)
    try:
        write_whole(tmp_path / "fresh", b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "dangling", "file", "fresh", "later", "link", "there",
    ]  # fmt: skip


@posix
def test_what_is_no_file_is_refused_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    kinds = {"folder": "a folder", "pipe": "a pipe", "loop": "a link that leads to itself"}
    for name, kind in kinds.items():
        with pytest.raises(InputError, match=f"{name}: is {kind}; name a file"):
            write_whole(tmp_path / name, "x")
    with pytest.raises(InputError, match="/dev/null: is a device; name a file"):
        write_whole(Path("/dev/null"), "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "loop", "pipe"]


def test_writers_at_once_leave_one_of_them_whole(tmp_path):
    """With one temporary name for both, one would rename what the other is still writing."""
    contents = [bytes([i]) * 300_000 for i in range(6)]
    threads = [
        threading.Thread(target=lambda c=c: [write_whole(tmp_path / "f", c) for _ in range(8)])
        for c in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    for name in ("n" * 255, "名" * 85):
        write_whole(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_a_failure_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")

    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(WorkError, match="file: Input/output error"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(WorkError, match="gone/file: No such file or directory"):
        write_whole(tmp_path / "gone" / "file", "x")


@posix
def test_what_a_killed_process_left_is_cleared_and_a_living_ones_stays(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from deepen.files import write_whole\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "write_whole(Path(sys.argv[1]), 'half')"
    )
    path = tmp_path / "file"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".file.")
    number = left.name.split(".")[2].partition("-")[0]
    living = left.with_name(left.name.replace(number, str(os.getpid())))
    elsewhere = left.with_name(left.name.replace("@", "@another-"))
    for other in (living, elsewhere):
        other.write_text("")
    write_whole(path, "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"file", living.name, elsewhere.name}


def test_a_name_that_is_no_utf8_survives_in_json(tmp_path):
    name = "caf\udce9"
    write_whole(tmp_path / "f", json.dumps([name], ensure_ascii=False))
    assert read_json(tmp_path / "f") == [name]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "while parsing a flow sequence"),
        ("!!python/object:os.system {}", "could not determine a constructor for the tag"),
        ("[" * 5000, "nested too deeply|expected the node content"),
        ("[" * 300 + "]" * 300, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        (BOMB, "more than 100,000 values, its anchors written out"),
        ("1" * 5000, "4300 digits"),
        ("2026-13-45", "month must be in"),
        ("a\0b", "unacceptable character"),
    ],
)
def test_no_yaml_of_plain_values_is_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=f"mine.yaml: damaged .*({message})"):
        read_yaml(tmp_path / "mine.yaml")


def test_anchors_and_plain_values_are_read():
    assert parse_yaml("a: &a [1, 2.5, yes]\nb: *a") == {"a": [1, 2.5, True], "b": [1, 2.5, True]}
    assert parse_yaml("2026-01-02").year == 2026


@posix
@pytest.mark.parametrize("read", [read_text, read_json, read_yaml])
def test_what_cannot_be_read_is_named(tmp_path, read):
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    messages = {
        "gone": "no such file",
        "folder": "is a folder, not a file",
        "device": "is a device, not a file",
        "binary": "damaged .is no text: byte 0 is no UTF-8",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=f"{name}: {message}"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "{'a': 1}", "1" * 5000])
def test_no_json_is_named(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(InputError, match="f: damaged"):
        read_json(tmp_path / "f")
