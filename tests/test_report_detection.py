"""The report of a detector and of a segmentation: numbers, curves, mistakes as pictures."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepen.data.sources import Split
from deepen.detection.mistakes import draw_worst
from deepen.errors import InputError
from deepen.evaluation.boxes import Detections
from deepen.evaluation.detection import DetectionScores, score_detections
from deepen.evaluation.localization import score_localization
from deepen.evaluation.segmentation import score_masks
from deepen.report.page import write_report
from deepen.visualization.boxes import BLUE, ORANGE


def _beside(name: str):
    """A module of the tests, which are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


whole = _beside("test_report")
made = _beside("test_evaluation_detection")
CLASSES = ["<b>platelets</b>", "red", "white"]


def make_pictures(count: int) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(100, 140, (count, 90, 120, 3), dtype=np.uint8)
    return Split(
        "test",
        labels=np.zeros(count, np.int64),
        images=images,
        keys=[f"JPEGImages/blood_{i:03d}.jpg" for i in range(count)],
    )


def make_run(run: Path, scores: object, worst: list | None = None) -> Path:
    whole.make_run(run, CLASSES)
    (run / "mistakes.json").unlink()
    found = {"split": "test", "choice": "The best epoch", "scores": scores.model_dump()}
    (run / "scores.json").write_text(json.dumps(found), "utf-8")
    if worst is not None:
        (run / "worst.json").write_text(json.dumps(worst), "utf-8")
    return run


def percent(value: float | None, digits: int = 2) -> str:
    return whole.percent(value, digits)


@pytest.fixture(scope="module")
def scored() -> tuple[DetectionScores, list]:
    found, truth = made.make_set(0)
    split = make_pictures(len(found))
    keys = [split.key(i) for i in range(len(found))]
    scores = score_detections(found, truth, CLASSES, keys=keys, protocol="made, test split")
    return scores, draw_worst(scores.worst, split, range(len(found)))


def test_page_shows_the_numbers_of_a_detector(tmp_path, scored):
    scores, worst = scored
    path = write_report(make_run(tmp_path / "run", scores, worst))
    page = whole.Page(path)
    whole.check_self_contained(page)
    whole.check_pictures(page)
    assert page.text("headline") == scores.headline
    results = {row[0]: row[1] for row in page.tables["results"]}
    assert results["mAP at 0.5 (VOC 2010)"] == percent(scores.figures["map50"])
    assert results["COCO AP"] == percent(scores.figures["coco_ap"])
    assert len(results) == len(scores.figures) + 1
    for row, each in zip(page.tables["per-class"][1:], scores.per_class, strict=True):
        between = f"{percent(each.ap_interval[0], 1)} – {percent(each.ap_interval[1], 1)}"
        figures = [percent(v) for v in (each.ap07, each.coco_ap, each.coco_ap75, each.best_f1)]
        assert row == [
            each.name,
            str(each.support),
            percent(each.ap),
            between,
            *figures,
            f"{each.best_score:.3f}",
        ]
    kinds = [[e.kind, str(e.count), percent(e.cost)] for e in scores.errors]
    assert page.tables["error-kinds"][1:] == kinds
    assert page.text("errors").count("mAP gained") == 1
    shots = [a for tag, a in page.tags if tag == "img" and "jpeg" in (a["src"] or "")]
    assert len(shots) == len(worst) > 10
    assert scores.worst[0].key in page.text("mistakes")
    text = path.read_text("utf-8")
    assert text.count('<svg viewBox="') == 2 + len(CLASSES) + 1  # loss, top-1, curves, bars
    assert "#0000" not in text
    assert page.ids.count("classes") == 1


def test_drawn_mistakes_show_what_was_said_and_what_is_true(scored):
    scores, worst = scored
    for each, drawn in zip(scores.worst, worst, strict=True):
        assert drawn["kind"] == each.kind
        picture = Image.open(io.BytesIO(base64.b64decode(drawn["jpeg"]))).convert("RGB")
        assert picture.size == (480, 360)
        pixels = np.asarray(picture).astype(int)
        for box, color in ((each.true_box, BLUE), (each.box, ORANGE)):
            near = np.abs(pixels - color).max(-1) < 60
            assert near.any() == (box is not None)


def test_without_mistakes_drawn_there_is_no_gallery(tmp_path, scored):
    page = whole.Page(write_report(make_run(tmp_path / "run", scored[0])))
    assert "mistakes" not in page.ids
    assert "errors" in page.ids


def test_a_detector_that_finds_nothing_has_a_page(tmp_path):
    _, truth = made.make_set(1)
    scores = score_detections([made.said()] * len(truth), truth, [*CLASSES, "none"])
    page = whole.Page(write_report(make_run(tmp_path / "run", scores)))
    assert page.tables["per-class"][1][2] == "0.00%"
    assert page.tables["per-class"][4][2] == "–"


def test_damaged_mistakes_are_named(tmp_path, scored):
    run = make_run(tmp_path / "run", scored[0], [{"key": "a"}])
    with pytest.raises(InputError, match=r"worst\.json: damaged"):
        write_report(run)


def test_page_of_a_segmentation(tmp_path):
    scores = score_masks([torch.tensor([[4, 2, 0], [0, 2, 0], [0, 0, 0]])] * 3, CLASSES)
    page = whole.Page(write_report(make_run(tmp_path / "run", scores)))
    assert page.text("headline") == scores.headline
    assert page.tables["per-class"][1] == [CLASSES[0], "18", "66.67%", "66.67%", "100.00%"]
    assert page.tables["per-class"][3][2:] == ["–", "–", "–"]
    assert {row[0]: row[1] for row in page.tables["results"]}["Mean IoU"] == "58.33%"


def test_page_of_a_localization(tmp_path):
    box = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    found = [Detections(box, torch.ones(1), torch.tensor([i % 2])) for i in range(4)]
    scores = score_localization(found, [{"boxes": box}] * 4, [0] * 4, 3)
    page = whole.Page(write_report(make_run(tmp_path / "run", scores)))
    results = {row[0]: row[1] for row in page.tables["results"]}
    assert results["Top-1 localization error"] == "50.00%"
    assert page.text("headline") == scores.headline
