"""deepen detect: a folder of boxes to a detector, its answers in every form, and wrong words."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from annotated_sets import picture, voc_folder
from PIL import Image

import deepen
from deepen.cli import main

SETTINGS = "maps=8/hidden=16/regions=8/kept=32,32/proposals=16,16/anchor_px=8,16"
MODEL = f"deepen.detection.networks:faster-rcnn-fpn/resnet20/{SETTINGS}"


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process."""

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return run


@pytest.fixture
def run(command):
    return partial(command, "detect")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("boxes") / "voc"
    names = [f"p{i}" for i in range(12)]
    pictures = {name: [("cat", 3, 3, 18, 20), ("dog", 20, 8, 36, 26)] for name in names}
    return voc_folder(root, pictures, {"train": names[:6], "val": names[6:9], "test": names[9:]})


@pytest.fixture(scope="module")
def trained(boxes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    changes = {"length.epochs": 1, "input.size_px": [32, 48]}
    deepen.detect.train(str(boxes), model=MODEL, changes=changes, look=False, workers=0, output=out)
    return out / "best.safetensors"


def test_training_ends_with_a_score_and_a_page(run, boxes, tmp_path):
    words = ("train", boxes, "--model", MODEL, "--epochs", 1, "--no-look", "-j", 0)
    done = run(*words, "--set", "input.size_px=[32,48]", "--output", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "mAP50" in done.stdout
    assert "deepen detect predict" in done.stdout
    assert "Errors" in (tmp_path / "run" / "report.html").read_text()


def test_what_is_chosen_is_said(run, boxes, tmp_path):
    done = run("train", boxes, "--epochs", 1, "--output", tmp_path / "a" / "b", "-b", 0)
    assert done.exit_code == 2  # batch_size 0 is refused once the data are read and all is chosen
    assert "batch_size" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "a").exists()


def test_the_choice_by_what_pictures_have(boxes):
    from deepen.data.sources import open_source
    from deepen.detection.choice import choose

    choice = choose(None, open_source(str(boxes)), None, None, {})
    assert choice.model.startswith("deepen.detection.networks:faster-rcnn-fpn/resnet18/anchor_px=")
    assert choice.recipe.task == "deepen.detection.task:Detection"
    assert choice.recipe.input.size_px == (240, 320)  # 40x30 px pictures, the longer side 320
    sides = choice.model.partition("anchor_px=")[2].partition("/")[0]
    # boxes of about 16x18 px are seen 8 times as large: 128 is the nearest, and ends the range
    assert [float(side) for side in sides.split(",")] == [8, 16, 32, 64, 128]
    assert any(line.startswith("detector: faster-rcnn-fpn, since") for line in choice.words)


def test_it_is_scored_on_its_test_split(run, trained, boxes):
    done = run("evaluate", trained, boxes, "-j", 0, "--json")
    assert done.exit_code == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["num_samples"] == 3
    assert [each["support"] for each in scores["per_class"]] == [3, 3]
    shown = run("evaluate", trained, boxes, "-j", 0)
    assert "test split" in shown.stdout
    assert "cat" in shown.stdout


def test_classes_in_another_order_are_found_by_name(run, trained, tmp_path):
    pictures = {f"q{i}": [("dog", 3, 3, 18, 20)] for i in range(3)}
    other = voc_folder(tmp_path / "other", pictures)
    scores = deepen.detect.evaluate(trained, str(other), workers=0)
    assert [each.support for each in scores.per_class] == [0, 3]
    stranger = voc_folder(tmp_path / "stranger", {"q": [("bird", 3, 3, 18, 20)]})
    done = run("evaluate", trained, stranger, "-j", 0)
    assert done.exit_code == 2
    assert "bird" in done.stderr
    assert "cat, dog" in done.stderr


def test_answers_are_the_same_in_every_form(run, trained, tmp_path):
    pictures = [picture(tmp_path / "new" / f"{name}.png", (50, 40)) for name in ("a", "b")]
    (tmp_path / "new" / "c.jpg").write_bytes(b"no picture")
    words = ("predict", trained, tmp_path / "new", "--least-score", 0)
    coco, drawn = tmp_path / "found.json", tmp_path / "drawn"
    done = run(*words, "--json", "--coco", coco, "--draw", drawn)
    assert done.exit_code == 1  # one is no picture
    assert "c.jpg" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = {Path(line["path"]).name: line for line in lines}
    assert "error" in told["c.jpg"]
    document = json.loads(coco.read_text())
    assert [image["file_name"] for image in document["images"]] == list(map(str, pictures))
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for number, path in enumerate(pictures, 1):
        line = told[path.name]
        assert (line["width"], line["height"]) == (50, 40)
        boxes = np.array([each["box"] for each in line["found"]]).reshape(-1, 4)
        assert (boxes >= 0).all()
        assert (boxes <= [50, 40, 50, 40]).all()
        same = [a for a in document["annotations"] if a["image_id"] == number]
        x1, y1, width, height = np.array([a["bbox"] for a in same]).reshape(-1, 4).T
        corners = np.stack([x1, y1, x1 + width, y1 + height], 1)
        np.testing.assert_allclose(corners, boxes, atol=0.011)
    csv = run(*words, "--csv").stdout.splitlines()
    assert csv[0] == "filename,class,xmin,ymin,xmax,ymax,score"
    assert len(csv) - 1 == len(document["annotations"])
    files = sorted(path.name for path in drawn.rglob("*.png"))
    assert files == ["a.png.png", "b.png.png"]
    assert {size_of(path) for path in drawn.rglob("*.png")} == {(50, 40)}


def test_truth_and_answers_are_drawn_beside_each_other(run, trained, boxes, tmp_path):
    done = run("visualize", boxes, tmp_path, "--weights", trained, "--split", "val", "--most", 2)
    assert done.exit_code == 0, done.stderr
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == 2
    assert {size_of(path) for path in files} == {(40 + 2 + 40, 30)}


def test_a_detector_is_no_classifier_and_no_classifier_a_detector(
    run, command, trained, boxes, tmp_path
):
    new = picture(tmp_path / "a.png")
    for words in (["predict", trained, new], ["evaluate", trained, boxes]):
        done = command(*words)
        assert done.exit_code == 2
        assert f"finds things in pictures: deepen detect {words[0]}" in done.stderr
    done = run("predict", "resnet20:cifar10", new)
    assert done.exit_code == 2
    assert "deepen predict" in done.stderr
    done = run("train", boxes, "--detector", "fast-rcn", "--output", tmp_path / "r")
    assert done.exit_code == 2
    assert "fast-rcnn" in done.stderr
    photos = tmp_path / "photos"
    for name in ("ant", "bee"):
        for i in range(3):
            picture(photos / name / f"{i}.png")
    done = run("train", photos, "--output", tmp_path / "r")
    assert done.exit_code == 2
    assert "neither boxes nor masks" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_bad_box_is_left_out_of_the_score_as_of_the_training(run, trained, tmp_path):
    pictures = {"a": [("cat", 3, 3, 18, 20), ("dog", 9, 9, 3, 20)], "b": [("cat", 3, 3, 18, 20)]}
    other = voc_folder(tmp_path / "other", pictures)
    refused = run("evaluate", trained, other, "-j", 0)
    assert refused.exit_code == 2
    assert "a.png#box 2" in refused.stderr
    out = tmp_path / "out.txt"
    out.write_text("JPEGImages/a.png#box 2\n")
    done = run("evaluate", trained, other, "-j", 0, "--exclude", out, "--json")
    assert [each["support"] for each in json.loads(done.stdout)["per_class"]] == [2, 0]
    drawn = run("visualize", other, tmp_path / "drawn", "--exclude", out)
    assert drawn.exit_code == 0
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 1  # the other one is held out
    assert run("visualize", other, tmp_path / "no").exit_code == 2
    named = run("evaluate", trained, "digits", "--exclude", out)
    assert named.exit_code == 2
