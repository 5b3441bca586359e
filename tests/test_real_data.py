"""The main job on real data: 398 photographs of ants and bees, MNIST, CIFAR-10."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from deepen import api
from deepen.cli import main
from deepen.data.sources import open_source
from deepen.training.progress import Silent


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


QUICK = {"length.epochs": 1, "input.size_px": 32}


def test_photographs_train(real_data, tmp_path):
    seen = Lines()
    trained = api.train(
        str(real_data / "hymenoptera"),
        model="resnet20",
        changes=QUICK,
        output=tmp_path / "run",
        reporter=seen,
    )
    assert trained.scores.num_samples == 153
    assert not [line for line in seen.lines if "left out" in line]
    about = json.loads((trained.run / "data.json").read_text())
    assert about["classes"] == ["ants", "bees"]
    assert sum(about["counts"].values()) == 398
    assert "not resized" not in trained.scores.protocol


@pytest.fixture
def planted(real_data, tmp_path) -> Path:
    """The photographs with a cut JPEG, an empty file, a text named .jpg and a hidden folder."""
    folder = tmp_path / "hymenoptera"
    shutil.copytree(real_data / "hymenoptera", folder, copy_function=shutil.copyfile)
    ants = folder / "train" / "ants"
    whole = next(p for p in sorted(ants.iterdir()) if p.suffix == ".jpg")
    (ants / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (ants / "empty.jpg").write_bytes(b"")
    (ants / "text.jpg").write_text("these are not the ants you are looking for\n")
    (folder / "val" / "bees" / "cut.jpg").write_bytes(whole.read_bytes()[:2000])
    hidden = folder / "train" / ".cache"
    hidden.mkdir()
    shutil.copyfile(whole, hidden / "a.jpg")
    return folder


def test_damage_is_named_and_nothing_is_replaced(planted, tmp_path):
    seen = Lines()
    trained = api.train(
        str(planted), model="resnet20", changes=QUICK, output=tmp_path / "run", reporter=seen
    )
    bad = ["train/ants/cut.jpg", "train/ants/empty.jpg", "train/ants/text.jpg", "val/bees/cut.jpg"]
    for path in bad:
        assert [path in line for line in seen.lines if "left out" in line].count(True) == 1
    listed = (trained.run / "quarantine.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == bad
    about = json.loads((trained.run / "data.json").read_text())
    assert about["classes"] == ["ants", "bees"]
    assert (trained.scores.num_samples, trained.scores.num_skipped) == (153, 1)
    for path in bad:
        assert path in (trained.run / "report.html").read_text()


def test_doctor_names_the_damage(planted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["deepen", "doctor", str(planted), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)["problems"]
    damaged = {p["path"] for p in found if p["kind"] == "damaged"}
    assert damaged == {
        "train/ants/cut.jpg", "train/ants/empty.jpg", "train/ants/text.jpg", "val/bees/cut.jpg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "counts", "channels"),
    [
        ("mnist", {"train": 55_000, "val": 5_000, "test": 10_000}, 1),
        ("cifar10", {"train": 45_000, "val": 5_000, "test": 10_000}, 3),
    ],
)
def test_named_sets_are_read_and_split(real_data, name, counts, channels):
    source = open_source(name, data_dir=real_data)
    assert {split: len(pictures) for split, pictures in source.splits.items()} == counts
    assert source.channels == channels
    keys = [key for split in source.splits.values() for key in split.keys]
    assert len(set(keys)) == len(keys)
