"""Twelve faults planted in sound sets are named, and sound sets raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen.data.annotated.readings import fit, inside
from deepen.data.split import PictureSet
from deepen.detection import trouble
from deepen.detection.made import Drawing, made_pictures
from deepen.detection.networks import model_of
from deepen.errors import InputError
from deepen.training.build import build
from deepen.training.plan import settle
from deepen.training.request import Here, Request

PX = 96


@pytest.fixture(scope="module")
def sound() -> PictureSet:
    drawing = Drawing("detection", PX, (1, 2), seed=3)
    return made_pictures(drawing, train=120, val=0, test=0)


def changed(source: PictureSet, change) -> PictureSet:
    """The set with other targets; `change` takes boxes, labels and the generator."""
    train, rng = source.splits["train"], np.random.default_rng(0)
    targets = []
    for target in train.targets or ():
        boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4)
        boxes, labels = change(boxes, np.asarray(target["labels"]), rng)
        targets.append({"boxes": boxes.astype(np.float32), "labels": labels})
    return replace(source, splits={"train": replace(train, targets=tuple(targets))})


def of_sizes(boxes):
    return boxes[:, 2:] - boxes[:, :2]


FAULTS = {
    "swapped": (lambda b, y, r: (b[:, [1, 0, 3, 2]], y), "x and y are swapped"),
    "corner and size": (
        lambda b, y, r: (np.concatenate([b[:, :2], of_sizes(b)], 1), y),
        "x, y, width, height",
    ),
    "centre and size": (
        lambda b, y, r: (np.concatenate([(b[:, :2] + b[:, 2:]) / 2, of_sizes(b)], 1), y),
        "centre, width, height",
    ),
    "shares": (lambda b, y, r: (b / PX, y), "shares of the picture"),
    "another size": (lambda b, y, r: (b / 2, y), "another size"),
    "mirrored": (
        lambda b, y, r: (np.stack([PX - b[:, 2], b[:, 1], PX - b[:, 0], b[:, 3]], 1), y),
        "left and right",
    ),
    "from 1": (lambda b, y, r: (b, y + 1), "off by one"),
    "drawn labels": (lambda b, y, r: (b, r.integers(0, 10, len(y))), "labels have nothing to do"),
}


def looked(source: PictureSet) -> trouble.Looked:
    found = trouble.of_labels(source.splits["train"], len(source.classes))
    return found if found.troubles else trouble.of_boxes(source.splits["train"], 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_boxes_or_labels_is_named(sound, fault):
    change, words = FAULTS[fault]
    (found,) = looked(changed(sound, change)).troubles
    assert words in found.fault


def test_boxes_of_other_pictures_are_named(sound):
    train = sound.splits["train"]
    moved = (train.targets or ())[1:] + (train.targets or ())[:1]
    other = replace(sound, splits={"train": replace(train, targets=moved)})
    (found,) = looked(other).troubles
    assert found.fault == "boxes are of other pictures"


def test_a_sound_set_raises_no_alarm(sound):
    assert looked(sound).troubles == []


def test_few_boxes_are_not_judged(sound):
    few = replace(sound, splits={"train": sound.splits["train"].take(range(4))})
    assert looked(few).troubles == []


def plan_of(source: PictureSet, anchors: str, **changes):
    words = ("maps=16", "hidden=32", "regions=32", "proposals=64,64", "kept=128,128")
    model = model_of("faster-rcnn-fpn", "resnet20", f"anchor_px={anchors}", *words)
    changes = {"input.size_px": PX, "validation": 0, **changes}
    return settle(Request(source, model=model, recipe="detect", changes=changes), Here())


def test_anchors_far_from_the_boxes_are_named(sound):
    fitting, far = plan_of(sound, "16,32"), plan_of(sound, "160,320")
    train = sound.splits["train"]
    assert trouble.of_inputs(build(fitting, Here()), train).troubles == []
    (found,) = trouble.of_inputs(build(far, Here()), train).troubles
    assert found.fault == "anchors do not fit the boxes"


def test_a_rate_that_is_too_high_is_named(sound, monkeypatch):
    monkeypatch.setattr(trouble, "STEPS", 12)
    monkeypatch.setattr(trouble, "LONGER", 2)
    plan = plan_of(sound, "16,32", **{"optimizer.lr": 0.2})
    (found,) = trouble.by_heart(plan, Here()).troubles
    assert found.fault == "the learning rate is too high"


def test_a_new_run_is_refused_with_the_fault_and_nothing_is_written(sound, tmp_path):
    from deepen import detect

    with pytest.raises(InputError, match=r"swapped.*--no-look trains anyway"):
        detect.train(
            changed(sound, FAULTS["swapped"][0]), output=tmp_path / "run", changes={"validation": 0}
        )
    assert not (tmp_path / "run").exists()


def test_a_box_without_area_or_outside_is_not_inside():
    boxes = np.array([[0, 0, 8, 8], [4, 4, 4, 9], [5, 5, 3, 9], [0, 0, 30, 8], [np.nan, 0, 8, 8]])
    assert inside(boxes.astype(float), (10, 10)).tolist() == [True, False, False, False, False]


def test_crops_of_nothing_are_told_by_chance():
    rng = np.random.default_rng(0)
    from PIL import Image

    noise = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(40)]
    boxes = [np.sort(rng.uniform(0, 40, (2, 2, 2)), 1).reshape(2, 4) for _ in noise]
    assert abs(fit(noise, boxes, rng).told - 0.5) < 0.2


def test_one_picture_alone_is_not_judged(sound):
    one = replace(sound, splits={"train": sound.splits["train"].take([0])})
    assert looked(one).troubles == []


def test_what_a_recipe_says_of_scores_and_parts_does_not_stop_the_look(sound, monkeypatch):
    """Scored on the test split, and in more parts than a handful has pictures."""
    monkeypatch.setattr(trouble, "STEPS", 2)
    monkeypatch.setattr(trouble, "LONGER", 1)
    monkeypatch.setattr(trouble, "APART", 1.0)
    plan = plan_of(sound, "16,32", scored="test", batch_size=16, accumulate=8)
    assert trouble.by_heart(plan, Here(device="cpu")).notes
