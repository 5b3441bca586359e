"""Whatever is given to whatever verb: status 2, one line that names it, no traceback."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

import pytest

from deepen.cli import app, main

KINDS = ("gone", "folder", "empty", "binary", "device", "unreadable")
CONTENTS = ("text", "deep")  # that a file may have, and that a folder may not be
NAME = "wrong"
ZOO = resources.files("deepen.zoo") / "resnet20-cifar10.safetensors"

DIGITS = ("digits", "--model", "mlp", "--epochs", "1")
# What is written in place of {} is of each kind; the others are right.
FILES = {
    "recipe": ("train", *DIGITS, "--recipe", "{}.yaml"),
    "exclude": ("train", *DIGITS, "--exclude", "{}"),
    "weights": ("train", "digits", "--weights", "{}"),
    "init-from": ("train", *DIGITS, "--init-from", "{}"),
    "evaluate": ("evaluate", "{}", "digits"),
    "predict": ("predict", "{}", "picture.png"),
    "probe": ("probe", "{}", "digits", "--layer", "layer3"),
    "convert": ("weights", "convert", "{}", "--model", "resnet20"),
    "show": ("weights", "show", "{}"),
    "classes": ("weights", "convert", "{zoo}", "--model", "resnet20", "--classes", "{}"),
    "study": ("study", "{}.yaml"),
    "recipes": ("recipes", "{}.yaml"),
}
FOLDERS = {
    "train": ("train", "{}", "--model", "resnet20"),
    "evaluate data": ("evaluate", "{zoo}", "{}"),
    "probe data": ("probe", "{zoo}", "{}", "--layer", "layer3"),
    "doctor": ("doctor", "{}"),
    "find-lr": ("find-lr", "{}", "--model", "resnet20"),
    "search": ("search", "{}", "--model", "resnet20"),
    "verify-resume": ("verify-resume", "{}", "--model", "resnet20"),
    "study data": ("study", "depth", "--data", "{}"),
    "report": ("report", "{}"),
    "resume": ("train", "--resume", "{}"),
    "search resume": ("search", "--resume", "{}"),
}
# Right in their way: a list may be empty, and `doctor` finds a folder without pictures and says so.
RIGHT = {
    *(("exclude", "empty"), ("exclude", "text"), ("exclude", "deep"), ("doctor", "folder")),
    *(("classes", "text"), ("classes", "deep"), ("exclude", "binary"), ("exclude", "device")),
}
TABLE = [(what, kind) for what in FILES for kind in (*KINDS, *CONTENTS)]
TABLE += [(what, kind) for what in FOLDERS for kind in KINDS]


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def said(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err.splitlines()

    return said


def make(path: Path, kind: str) -> None:
    contents = {
        "empty": b"",
        "binary": bytes(range(256)) * 4,
        "text": b"no such thing\n",
        "deep": b"[" * 50_000,
        "unreadable": b"{}",
    }
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind != "gone":
        path.write_bytes(contents[kind])
        if kind == "unreadable":
            path.chmod(0)


@pytest.mark.parametrize(("what", "kind"), [pair for pair in TABLE if pair not in RIGHT])
def test_one_line_and_status_2(said, tmp_path, what, kind):
    if kind in ("device", "unreadable") and os.name != "posix":
        pytest.skip("of POSIX")
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read anything")
    words = FILES.get(what) or FOLDERS[what]
    name = next(word for word in words if word.startswith("{}")).replace("{}", NAME)
    make(tmp_path / name, kind)
    before = {*tmp_path.iterdir()}
    status, lines = said(*(w.replace("{zoo}", str(ZOO)).replace("{}", NAME) for w in words))
    assert status == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("deepen")
    assert NAME in lines[0]
    assert len(lines[0]) < 1000
    assert {*tmp_path.iterdir()} == before


HUGE = "9" * 400


@pytest.mark.parametrize(
    "words",
    [
        ("train", *DIGITS, "--set", "!!python/object/apply:os.system {}"),
        ("train", *DIGITS, "--set", "optimizer.lr=!!python/object:os.system {}"),
        ("train", *DIGITS, "--set", "optimizer.lr=&a [*a]"),
        ("train", *DIGITS, "--set", "optimizer.lr=" + "[" * 3000),
        ("train", *DIGITS, "--set", "optimizer.lr=1e999"),
        ("train", *DIGITS, "--set", "optimizer.lr=.nan"),
        ("train", *DIGITS, "--set", f"seed={HUGE}"),
        ("train", *DIGITS, "--set", f"seed={HUGE * 20}"),
        ("train", *DIGITS, "--set", f"length.epochs={HUGE}"),
        ("train", *DIGITS, "--set", f"length.steps={HUGE}"),
        ("train", *DIGITS, "--set", f"batch_size={HUGE}"),
        ("train", *DIGITS, "--set", "=1"),
        ("train", *DIGITS, "--set", "a..b=1"),
        ("train", *DIGITS, "--set", "optimizer=1"),
        ("train", *DIGITS, "--set", f"input.size_px={HUGE}"),
        ("train", *DIGITS, "--seed", "9" * 30),
        ("train", *DIGITS, "--validation", HUGE),
        ("train", *DIGITS, "--workers", HUGE),
        ("train", *DIGITS, "--cache", f"{HUGE}G"),
        ("train", *DIGITS, "--output", "/dev/null"),
        ("info", "resnet20", "--input", f"3x{HUGE}x32"),
        ("info", "resnet20", "--input", "3xx32"),
        ("info", "os:getcwd"),
        ("info", "no.such:thing"),
        ("compare", "nope*"),
        ("compare", "resnet20", "--output", "chart.txt"),
        ("doctor", ".", "--quarantine", "/dev/null"),
        ("byhand", "nope"),
        ("claims", "nope"),
        ("claims", "--verdict", "nope"),
        ("models", "nope"),
        ("recipes", "nope"),
        ("study", "nope"),
        ("find-lr", *DIGITS[:3], "--output", "chart.txt"),
    ],
)
def test_wrong_words(said, tmp_path, words):
    status, lines = said(*words)
    assert status == 2, lines
    assert [line.startswith("deepen") for line in lines].count(True) == 1, lines  # beside notes
    assert lines[-1].startswith("deepen")
    assert len(lines[-1]) < 2000, lines
    assert [*tmp_path.iterdir()] == []


def test_every_verb_that_reads_is_here():
    verbs = {info.callback.__name__.replace("_", "-") for info in app.registered_commands}
    tried = {words[0] for words in (*FILES.values(), *FOLDERS.values())}
    assert verbs - tried == {"models", "info", "compare", "demo", "byhand", "claims"}
