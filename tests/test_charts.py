"""Charts as files: whole, the same each time, and untouched by the user's own matplotlib style."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepen import charts
from deepen.errors import InputError, WorkError


def drawn(path: Path) -> bytes:
    with charts.plain():
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([1, 2, 3], [1, 4, 9], label="squares")
        axes.fill_between([1, 3], [1, 9], hatch="/")  # its id is a salted hash
        axes.legend()
        charts.save(figure, path)
    return path.read_bytes()


def test_an_svg_is_the_same_each_time_and_for_every_user(tmp_path):
    first = drawn(tmp_path / "new" / "a.svg")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        assert drawn(tmp_path / "b.SVG") == first
        assert matplotlib.rcParams["font.size"] == 30
    texts = [t.text for t in ElementTree.fromstring(first).iter("{http://www.w3.org/2000/svg}text")]
    assert "squares" in texts
    assert b"Date" not in first
    assert b"matplotlib.org" not in first.split(b"<svg")[1]


def test_a_png_has_150_dots_an_inch(tmp_path):
    drawn(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (450, 300))


def test_what_cannot_be_written_gets_one_line(tmp_path):
    with pytest.raises(InputError, match=r"--output a.pdf: the chart is an .svg or a .png"):
        charts.check_path(Path("a.pdf"))
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match=r"a.svg: "):
        drawn(tmp_path / "file" / "a.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match=r"folder.svg: is a folder"):
        drawn(tmp_path / "folder.svg")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.svg"]


def test_the_lowest_rooms_import_nothing_that_takes_time():
    code = (
        "import sys, deepen.charts, deepen.errors, deepen.files, deepen.version;"
        "print({'matplotlib', 'pydantic', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
