"""Every arm of the study does a trial; its networks are a quarter as wide; its verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deepen.data.sources import PictureSet
from deepen.errors import InputError
from deepen.models import create_model
from deepen.studies.bench import Bench
from deepen.studies.features_matter import (
    COMMONEST,
    FAST_VGG,
    FASTER_RESNET,
    HOG,
    RCNN_ALEXNET,
    STUDY,
    conclude,
)
from deepen.studies.study import Results, Trial
from deepen.training.request import Here

SMALL = STUDY.settings["small"]


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[int], list[dict[str, np.ndarray]]]:
    """A red square of 40 px in each picture of grey noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 156, (count, 96, 128, 3)).astype(np.uint8)
    targets = []
    for image in images:
        x, y = rng.integers(2, 80), rng.integers(2, 50)
        image[y : y + 40, x : x + 40, 0] = 250
        box = np.array([[x, y, x + 40, y + 40]], np.float32)
        targets.append({"boxes": box, "labels": np.array([0])})
    return images, [0] * count, targets


@pytest.mark.parametrize("arm", SMALL.arms, ids=lambda arm: arm.name)
def test_each_arm_does_a_trial(arm, tmp_path):
    source = PictureSet.of("squares", ("red",), train=drawn(4, 0), test=drawn(2, 1))
    short = {"length.epochs": 1}
    if arm.name == RCNN_ALEXNET:
        short["input.size_px"] = 72
    setting = replace(SMALL, changes={**SMALL.changes, **short, "input.size_px": [96, 128]})
    arm = replace(arm, changes={**arm.changes, **short})
    here = Here(device="cpu", workers=0)
    folder = tmp_path / "trials" / "one"
    done = STUDY.trial(Bench(arm, arm.model or "", 0, setting, source, folder, here))
    assert done.arm == arm.name
    assert set(done.measures) == {"map07", "map50", "coco_ap"}
    assert all(0 <= value <= 100 for value in done.measures.values())
    runs = [path.parent.name for path in folder.glob("*/recipe.yaml")]
    networks = {RCNN_ALEXNET: ["features"], FAST_VGG: ["run"], FASTER_RESNET: ["run"]}
    assert runs == networks.get(arm.name, [])
    proposals = list(folder.parent.glob("proposals-*.safetensors"))
    assert len(proposals) == (2 if arm.name in (RCNN_ALEXNET, FAST_VGG) else 0)
    if arm.name == HOG:  # sure of a red square, even so
        assert done.measures["map50"] > 50


@pytest.mark.parametrize("name", ["alexnet", "vgg16_bn", "resnet18"])
def test_a_quarter_of_the_width_is_all_that_changes(name):
    size = (112, 112)
    with torch.device("meta"):
        whole = create_model(name, 4, 3, size)
    small = create_model(f"deepen.studies.quarter:{name}", 4, 3, size)
    theirs, ours = dict(whole.named_modules()), dict(small.named_modules())
    assert ours.keys() == theirs.keys()
    assert whole.num_features == 4 * small.num_features
    for path, layer in theirs.items():
        if isinstance(layer, nn.Conv2d):
            same = ("kernel_size", "stride", "padding", "groups")
            assert all(getattr(layer, each) == getattr(ours[path], each) for each in same)
            assert layer.out_channels == 4 * ours[path].out_channels
            assert (layer.bias is None) == (ours[path].bias is None)
    last = small.get_submodule(small.classifier_name)
    assert (last.in_features, last.out_features) == (small.num_features, 4)
    assert small.eval()(torch.zeros(1, 3, *size)).shape == (1, 4)
    with pytest.raises(InputError, match="resnet18"):
        create_model("deepen.studies.quarter:resnet-18")


def results_of(figures: dict[str, list[float]]) -> Results:
    trials = [
        Trial(arm=arm, seed=seed, measures={"map07": value})
        for arm, values in figures.items()
        for seed, value in enumerate(values)
    ]
    return Results(study="features-matter", setting="small", about={}, trials=trials)


def test_verdicts_are_the_steps_of_the_bars_and_each_bar_answers_its_claim():
    figures = {
        COMMONEST: [5.0, 5, 5],
        HOG: [30.0, 31, 32],
        RCNN_ALEXNET: [29.0, 32, 33],
        FAST_VGG: [20.0, 21, 22],
        FASTER_RESNET: [60.0, 61, 62],
    }
    found = conclude(results_of(figures))
    assert [one.verdict for one in found] == [
        "holds",
        "seeds disagree",
        "does not hold",
        "holds",
    ]
    claims = ["detection-hog", "detection-alexnet", "detection-vgg", "detection-resnet"]
    assert [one.claim for one in found] == claims
    assert found[-1].figures == {0: 60, 1: 61, 2: 62}
    assert "mAP 61.0 against 21.0" in found[-1].found
    del figures[RCNN_ALEXNET]
    assert [one.claim for one in conclude(results_of(figures))] == [claims[0], *claims[2:]]
