"""Names that are other people's: they are printed as they are, obeyed by nobody, and lose nothing.

Class folders that rich takes for markup, a terminal for commands and a spreadsheet for a formula.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepen import cli
from deepen.cli import main
from deepen.cli.console import print_columns, print_csv_row, print_json
from deepen.data.names import printable
from deepen.weights import read_card

# A folder in a folder makes a path with what rich takes for the end of bold.
NAMES = ["[unknown]", "px[/b]", "\x1b[31mred", "=1+1", "a\nb", "é日本", "\u202egpj"]
SHOWN = ["[unknown]", "px[", "\\x1b[31mred", "=1+1", "a\\nb", "é日本", "\\u202egpj"]
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")


def command(*words: object, code: str = "", **kwargs) -> subprocess.CompletedProcess:
    start = [sys.executable, "-m", "deepen"]
    if code:
        start = [sys.executable, "-c", code]
    return subprocess.run([*start, *map(str, words)], capture_output=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Seven classes of four pictures each, one of them damaged, one of no UTF-8 in its name."""
    root = tmp_path_factory.mktemp("names") / "[photos]\x1b[2J"
    draw = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"[i]{i}\x1b[1m.png")
    (root / "train" / "a\nb" / "bad\n[b]\x9b.png").write_bytes(b"no picture")
    shutil.copy(
        root / "val" / "a\nb" / "[i]0\x1b[1m.png", os.fsencode(root / "val" / "a\nb") + b"/\xe9.png"
    )
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A run on them whose every line was written to an ASCII terminal that takes nothing else."""
    run = tmp_path_factory.mktemp("runs") / "r[/b]\x1b[2J"
    words = ["train", photos, "--model", "resnet20", "--recipe", "quick", "--size", 32]
    words += ["--epochs", 1, "--workers", 0, "--output", run, "--set", "max_bad_pictures=1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    return run, command(*words, env=environment)


@pytest.fixture
def deepen(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        for text in shown:
            assert CONTROL.search(text) is None
        return int(ended.value.code or 0), *shown

    return run


def test_a_training_ends_well_and_says_every_name(trained):
    run, done = trained
    assert done.returncode == 0, done.stderr.decode()
    assert (run / "report.html").is_file()
    told = done.stdout.decode("ascii") + done.stderr.decode("ascii")
    assert CONTROL.search(told) is None
    assert "left out: " in told
    assert "bad\\n[b]\\x9b.png" in told
    assert f"report  {printable(str(run))}/report.html" in told
    assert sorted(read_card(run / "best.safetensors").classes) == sorted(SHOWN)


def test_evaluate_shows_the_classes(trained, photos, deepen):
    weights = trained[0] / "best.safetensors"
    status, shown, _ = deepen("evaluate", weights)
    assert status == 0
    starts = [line.split("  ")[0] for line in shown.splitlines()]
    assert all(starts.count(name) == 2 for name in SHOWN)  # in the scores and in the confusions
    status, shown, _ = deepen("evaluate", weights, "--csv")
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert {row["class"] for row in rows} == {*SHOWN} - {"=1+1"} | {"'=1+1"}
    assert sum(int(row["support"]) for row in rows) == 15
    status, shown, _ = deepen("evaluate", weights, "--json")
    assert {each["name"] for each in json.loads(shown)["per_class"]} == {*SHOWN}


def test_predict_shows_paths_and_classes(trained, photos, deepen):
    weights, folder = trained[0] / "best.safetensors", photos / "val"
    status, shown, _ = deepen("predict", weights, folder, "-k", 7)
    assert status == 0
    lines = shown.splitlines()
    assert len(lines) == 15
    assert all(name in line for line in lines for name in SHOWN)
    status, shown, _ = deepen("predict", weights, folder, "--csv", "-k", 7)
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert len(rows) == 15 * 7
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    status, shown, _ = deepen("predict", weights, folder, "--json")
    found = [json.loads(line)["path"] for line in shown.splitlines()]
    assert all(Path(path).is_file() for path in found)  # in JSON every name is as it is
    status, shown, told = deepen("predict", weights, photos / "train" / "a\nb")
    assert status == 1
    assert len(told.splitlines()) == 1
    assert "bad\\n[b]\\x9b.png: " in told


def test_doctor_and_report(trained, photos, deepen, tmp_path):
    bad = tmp_path / "bad.txt"
    status, shown, _ = deepen("doctor", photos, "--quarantine", bad)
    assert status == 1
    assert "train/a\\nb/bad\\n[b]\\x9b.png: damaged: " in shown
    assert all(name in shown for name in SHOWN)
    listed = bad.read_text("ascii").splitlines()
    assert "train/a\\nb/bad\\n[b]\\x9b.png" in listed
    status, shown, _ = deepen("doctor", photos, "--json")
    assert {p["path"] for p in json.loads(shown)["problems"]} >= {*listed}
    status, shown, _ = deepen("report", trained[0])
    assert status == 0
    page = (trained[0] / "report.html").read_text("utf-8")
    assert CONTROL.search(page.replace("\t", "")) is None
    assert "[unknown]" in page


def test_a_list_of_doctors_is_one_that_train_takes(photos, tmp_path):
    from deepen.data.sources import open_source

    listed = ["train/a\\nb/bad\\n[b]\\x9b.png"]
    whole, less = open_source(str(photos)), open_source(str(photos), exclude=listed)
    assert len(whole.splits["train"]) == 29
    assert len(less.splits["train"]) == 28


def test_words_of_the_user_are_shown_too(deepen):
    for words in (
        ["train", "[bold]\x1b[2J"],
        ["train", "digits", "--model", "[/b]\u202e"],
        ["\x1b[2J"],
        ["train", "digits", "--set", "\x1b[2J=1"],
        ["report", "px[/b]\n\x9b"],
    ):
        status, _, told = deepen(*words)
        assert status == 2
        assert len(told.splitlines()) == 1


def test_json_is_the_document_on_every_terminal(capsys, monkeypatch):
    document = {"é\x9b\u202e": ["a\n\x1b", "\udce9", "日\u2028"]}
    print_json(document)
    shown = capsys.readouterr().out
    assert "é" in shown
    assert CONTROL.search(shown) is None
    assert json.loads(shown) == document
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    print_json(document)
    assert json.loads(narrow.buffer.getvalue()) == document


def test_cells_that_a_spreadsheet_would_run(capsys):
    cells = [
        "=1+1",
        "+cmd|x",
        "-2+3",
        "@SUM(1)",
        "\uff1d1",
        "\t=1",
        "a=1",
        "-0.5",
        "-1x-1",
        -3,
        1e9,
    ]
    print_csv_row(cells)
    (row,) = csv.reader(io.StringIO(capsys.readouterr().out))
    assert row == [
        "'=1+1", "'+cmd|x", "'-2+3", "'@SUM(1)", "'\uff1d1", "\\t=1", "a=1", "-0.5", "-1x-1", "-3",
        "1000000000.0",
    ]  # fmt: skip


def test_columns_are_as_wide_as_they_look(capsys):
    print_columns(("name", "n"), [("日本", "1"), ("ab", "22")])
    assert capsys.readouterr().out == "name   n\n日本   1\nab    22\n"


PRINTERS = {"print", "echo", "secho", "style", "pprint", "Console", "Table", "Progress", "open"}


def test_nothing_in_the_room_prints_but_the_console():
    files = sorted(Path(cli.__file__).parent.glob("*.py"))
    assert len(files) > 20
    strange = []
    for file in files:
        if file.name == "console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                strange += [(file.name, name)] if name in PRINTERS else []
            if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stderr__"):
                strange.append((file.name, node.attr))
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                strange += [
                    (file.name, n) for n in names if n and n.split(".")[0] in ("rich", "logging")
                ]
    assert strange == []
