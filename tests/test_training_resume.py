"""The same pictures by another path, a longer run, and what is refused as not the same."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepen import api
from deepen.errors import InputError, WorkError
from deepen.studies.conduct import Order, conduct
from deepen.training import pictures
from deepen.training.progress import Silent
from deepen.verification import digests

RECIPE = {"length.epochs": 2, "batch_size": 8, "input.size_px": 8, "optimizer.lr": 0.01}
WORDS = {"model": "perceptron", "recipe": "quick", "changes": RECIPE, "workers": 0}


def draw(path: Path, seed: int) -> None:
    """A picture without compression, so that all are as long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="BMP")


def fill(folder: Path) -> Path:
    for place, (split, count) in enumerate({"train": 12, "val": 4}.items()):
        for label in ("cat", "dog"):
            for i in range(count):
                draw(
                    folder / split / label / f"{i:02d}.bmp", 100 * place + i + 50 * (label == "dog")
                )
    for path in folder.rglob("*.bmp"):
        os.utime(path, (1e9, 1e9))  # long ago
    return folder


class Lines(Silent):
    """Keeps what is said, and does something after an epoch."""

    def __init__(self, then=None) -> None:
        self.lines, self.then = [], then

    def epoch(self, row, epochs) -> None:
        if self.then is not None:
            self.then()

    def message(self, text: str) -> None:
        self.lines.append(text)


class Killed(BaseException):
    """Nothing catches it: what is on the disk is what kill -9 leaves."""


def die() -> None:
    raise Killed


def stopped(data: object, output: Path, **words) -> Path:
    """A run that is killed after its first epoch."""
    with pytest.raises(Killed):
        api.train(data, output=output, reporter=Lines(die), **{**WORDS, **words})
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    return api.train(str(folder), **WORDS, output=tmp_path_factory.mktemp("whole") / "run").run


@pytest.fixture
def at_home(folder, tmp_path, monkeypatch) -> Path:
    """A working directory with the pictures in it, and another one beside."""
    shutil.copytree(folder, tmp_path / "home" / "photos")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path


@pytest.mark.parametrize(
    ("cwd", "data", "run"),
    [
        ("away", None, "../home/run"),
        ("away", "../home/photos", "../home/run"),
        ("home/photos", "../photos/", "../run"),
        ("home", "photos", "run"),
    ],
)
def test_a_run_goes_on_from_any_directory(at_home, whole, monkeypatch, cwd, data, run):
    stopped("photos", Path("run"))
    monkeypatch.chdir(at_home / cwd)
    resumed = api.train(data, resume=run, workers=0).run
    assert digests(resumed) == digests(whole)
    assert json.loads((resumed / "data.json").read_text())["name"] == "photos"
    # Beside its run a weights file knows its pictures from anywhere.
    assert api.evaluate(resumed / "best.safetensors", workers=0).confusion


def test_a_run_far_from_its_data_knows_where_they_are(at_home, whole, monkeypatch):
    """The relative word that began it leads to them from no folder that the run lies in."""
    run = stopped("photos", at_home / "far" / "run")
    monkeypatch.chdir(at_home / "away")
    assert digests(api.train(resume=run, workers=0).run) == digests(whole)


def test_a_folder_that_moved_is_named_once(at_home, whole, monkeypatch):
    stopped("photos", Path("run"))
    os.rename("photos", "pictures")
    with pytest.raises(
        InputError, match=r"run: .*photos.*if photos has moved, name it: deepen train"
    ):
        api.train(resume="run", workers=0)
    with pytest.raises(Killed):
        api.train("pictures", resume="run", workers=0, reporter=Lines(die))
    monkeypatch.chdir(at_home / "away")
    resumed = api.train(resume="../home/run", workers=0).run  # without a name the second time
    assert digests(resumed) == digests(whole)


def test_a_copy_is_the_same_by_its_contents(at_home, whole):
    """As rsync without -t leaves it: other times, other inodes."""
    stopped("photos", Path("run"))
    shutil.copytree("photos", at_home / "away" / "copy", copy_function=shutil.copyfile)
    resumed = api.train(str(at_home / "away" / "copy"), resume="run", workers=0).run
    assert digests(resumed) == digests(whole)


def test_a_run_of_before_knows_its_folder_from_where_it_was_begun(at_home, whole, monkeypatch):
    stopped("photos", Path("runs/x"))
    about = json.loads(Path("runs/x/data.json").read_text())
    del about["place"]
    Path("runs/x/data.json").write_text(json.dumps(about | {"root": "photos"}))
    Path("runs/x", pictures.NAME).unlink()
    fill(at_home / "away" / "photos" / "other")  # another folder of that name is not taken
    monkeypatch.chdir(at_home / "away")
    assert digests(api.train(resume="../home/runs/x", workers=0).run) == digests(whole)


def test_weights_to_start_from_are_found_from_any_directory(at_home, whole, monkeypatch):
    shutil.copy(whole / "best.safetensors", "start.safetensors")
    words = {"weights": "start.safetensors", "model": None, "recipe": "finetune"}
    stopped("photos", Path("run"), **words)
    monkeypatch.chdir(at_home / "away")
    assert api.train(resume="../home/run", workers=0).scores


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda: draw(Path("photos/train/cat/new.bmp"), 1),
            r"1 picture more \(train/cat/new.bmp\)",
        ),
        (
            lambda: [draw(Path(f"photos/val/dog/n{i}.bmp"), i) for i in range(5)],
            r"5 pictures more \(val/dog/n0.bmp, val/dog/n1.bmp, val/dog/n2.bmp, ...\)",
        ),
        (lambda: os.remove("photos/val/dog/03.bmp"), r"1 picture gone \(val/dog/03.bmp\)"),
        (
            lambda: os.rename("photos/val/dog/03.bmp", "photos/val/dog/3.bmp"),
            r"1 picture more \(val/dog/3.bmp\), 1 picture gone \(val/dog/03.bmp\)",
        ),
        (
            lambda: draw(Path("photos/train/cat/05.bmp"), 999),  # as long as before
            r"1 picture has other bytes \(train/cat/05.bmp\)",
        ),
    ],
)
def test_data_that_changed_are_refused_with_what_changed(at_home, change, said):
    stopped("photos", Path("run"))
    change()
    with pytest.raises(InputError, match=f"run: data photos changed since the run began: {said}"):
        api.train(resume="run", workers=0)


def test_a_run_of_before_still_counts(at_home):
    stopped("photos", Path("run"))
    Path("run", pictures.NAME).unlink()
    draw(Path("photos/train/cat/new.bmp"), 1)
    with pytest.raises(InputError, match="since the run began: 1 picture more"):
        api.train("photos", resume="run", workers=0)
    for path in ("cat/new", "dog/03"):
        os.remove(f"photos/train/{path}.bmp")
    os.rename("photos", "other")
    with pytest.raises(InputError, match="its data is photos, not other: 1 picture fewer"):
        api.train("other", resume="run", workers=0)


def test_pictures_swapped_while_a_run_trains_end_it_with_a_line(at_home):
    """Two of them change places, with the same size, and the times are put back."""

    def swap() -> None:
        one, other = Path("photos/train/cat/00.bmp"), Path("photos/train/dog/00.bmp")
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        for path in (one, other):
            os.utime(path, (1e9, 1e9))

    told = Lines(swap)
    with pytest.raises(WorkError, match=r"run: data photos changed while the run trained: 2 pict"):
        api.train(
            "photos",
            output="run",
            reporter=told,
            **{**WORDS, "changes": RECIPE | {"length.epochs": 1}},
        )
    line = "photos changed while the run trained: 2 pictures have other bytes"
    assert any(line in each for each in told.lines)
    assert line in Path("run/report.html").read_text()
    assert json.loads(Path("run/scores.json").read_text())["scores"]  # nothing is lost
    with pytest.raises(InputError, match="2 pictures have other bytes"):
        api.train(resume="run", workers=0)


def test_what_is_noted_of_files_is_theirs(folder, tmp_path):
    noted = pictures.note(api.open_source(str(folder)))
    files = json.loads(gzip.decompress(noted))["files"]
    assert set(files) == {p.relative_to(folder).as_posix() for p in folder.rglob("*.bmp")}
    for key, (size, _, _, digest) in files.items():
        content = (folder / key).read_bytes()
        assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert pictures.note(api.open_source("digits")) is None
    (tmp_path / pictures.NAME).write_bytes(noted[:-9])
    with pytest.raises(InputError, match=r"pictures.json.gz: is damaged"):
        pictures.changes(tmp_path, api.open_source(str(folder)))


def test_of_large_data_times_alone_are_compared_and_it_is_said(at_home, monkeypatch, whole):
    monkeypatch.setattr(pictures, "HASHED_BYTES", 100)
    stopped("photos", Path("run"))
    path = Path("photos/train/cat/00.bmp")
    path.write_bytes(path.read_bytes())
    told = Lines()
    resumed = api.train(resume="run", workers=0, reporter=told).run
    assert digests(resumed) == digests(whole)
    said = [line for line in told.lines if line.startswith("1 picture written to since")]
    assert len(said) == 2  # when it goes on, and at the end
    assert said[0] in (resumed / "data.json").read_text()


LONG = {"length.epochs": 4, "batch_size": 256, "validation": 100, "schedule.warmup_steps": 0}
DIGITS = {"model": "perceptron", "recipe": "quick"}


@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule.name": "constant"},
        {"schedule.name": "plateau", "schedule.patience": 1},
        {"schedule.name": "steps", "schedule.milestones": [0.75]},
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_made_longer_is_the_longer_run(tmp_path, schedule, finished):
    """To the bit; milestones ahead of what was done move away with the end."""
    longer = {**LONG, **schedule}
    whole = api.train("digits", **DIGITS, changes=longer, output=tmp_path / "whole").run
    short = {**longer, "length.epochs": 2}
    words = {"changes": short, "output": tmp_path / "run"}
    if finished:
        api.train("digits", **DIGITS, **words)
    else:
        with pytest.raises(Killed):
            api.train("digits", **DIGITS, **words, reporter=Lines(die))
    ask = {"resume": tmp_path / "run", "changes": {"length.epochs": 4}}
    if schedule["schedule.name"] == "steps" and finished:
        with pytest.raises(
            InputError, match=r"2 epochs, not 4 epochs: so far its schedule, steps, .*--weights"
        ):
            api.train(**ask)
        return
    told = Lines(die)
    with pytest.raises(Killed):
        api.train(**ask, reporter=told)
    assert "the run is now of 4 epochs, not 2 epochs" in told.lines
    assert not (tmp_path / "run" / "scores.json").exists()  # those of the shorter run
    resumed = api.train(resume=tmp_path / "run").run  # its recipe says now how long it is
    assert digests(resumed) == digests(whole)
    with pytest.raises(InputError, match="4 epochs, not 3 epochs: 16 of 12 steps are done"):
        api.train(resume=resumed, changes={"length.epochs": 3})


def test_a_length_that_changes_what_was_done_is_refused_with_a_way_on(tmp_path):
    cosine = {**LONG, "length.epochs": 2, "schedule.name": "cosine"}
    run = api.train("digits", **DIGITS, changes=cosine, output=tmp_path / "run").run
    papers = (run / "recipe.yaml").read_bytes()
    said = rf"2 epochs, not 4 epochs: so far its schedule, cosine.*--weights {run}/last"
    with pytest.raises(InputError, match=said):
        api.train(resume=run, changes={"length.epochs": 4})
    with pytest.raises(InputError, match=r"its length\.epochs is 2, not 30"):
        api.train(
            resume=run,
            recipe="quick",
            changes={k: v for k, v in cosine.items() if "length" not in k},
        )
    with pytest.raises(InputError, match=r"its optimizer\.lr is"):
        api.train(resume=run, changes={"length.epochs": 4, "optimizer.lr": 0.5})
    assert (run / "recipe.yaml").read_bytes() == papers
    steps = {"length.steps": 7, "batch_size": 256, "validation": 100, "schedule.name": "constant"}
    run = api.train("digits", **DIGITS, changes=steps, output=tmp_path / "steps").run
    with pytest.raises(InputError, match="7 steps, not 20 steps: its last epoch ended before all"):
        api.train(resume=run, changes={"length.steps": 20})


def test_a_clock_that_is_set_back_lengthens_nothing(tmp_path, monkeypatch):
    hours = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(hours))
    run = api.train(
        "digits", **DIGITS, changes={**LONG, "length.epochs": 1}, output=tmp_path / "r"
    ).run
    assert 0 < json.loads((run / "environment.json").read_text())["seconds"] < 3600


def test_a_search_goes_on_after_its_data_moved_and_refuses_others(at_home, monkeypatch):
    pytest.importorskip("optuna", reason="optuna is not installed: deepen[search]")
    one = RECIPE | {"length.epochs": 1}
    words = {**WORDS, "changes": one, "pruner": "none"}
    whole = api.search("photos", **words, trials=2, output="whole").found
    api.search("photos", **words, trials=1, output="parts")
    os.rename("photos", at_home / "away" / "pictures")
    monkeypatch.chdir(at_home / "away")
    again = {"resume": "../home/parts", "trials": 2, "pruner": "none", "workers": 0}
    found = api.search("pictures", **again)
    assert [t.values for t in found.found.trials] == [t.values for t in whole.trials]
    assert found.trained is not None
    draw(Path("pictures/train/cat/05.bmp"), 999)
    with pytest.raises(InputError, match=r"1 picture has other bytes \(train/cat/05.bmp\)"):
        api.search(**again | {"trials": 3})


def test_a_study_goes_on_after_its_data_moved(at_home, monkeypatch):
    Path("s.yaml").write_text(
        "{title: t, data: {name: photos}, recipe: quick, nets: {p: perceptron},"
        " set: {length.epochs: 1, input.size_px: 8}}"
    )
    first = conduct(Order("s.yaml", "small", 1, None, None, "cpu", Path("study"), 1), Silent())
    os.rename("photos", "pictures")
    again = Order("s.yaml", "small", 2, "pictures", None, "cpu", Path("study"), 1)
    assert conduct(again, Silent()).trials[:1] == first.trials
    draw(Path("pictures/train/cat/new.bmp"), 1)
    with pytest.raises(InputError, match="holds a study with another train; name a new folder"):
        conduct(again, Silent())
