"""Four steps: each starts where the paper says, and both halves end on the same maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deepen
from deepen.detection.alternating import train_in_four_steps
from deepen.detection.networks import model_of
from deepen.errors import InputError
from tests.test_detection_task import SHORT, boxes_set

FEW = ("kept=60,60", "proposals=30,20", "regions=16", "pool_px=8", "anchor_px=12,24")


def test_four_steps_share_their_maps_and_go_on_after_a_stop(tmp_path: Path) -> None:
    source, calls = boxes_set(8), list[Path]()

    def train(*given: object, **words: object) -> object:
        output = words["output"]
        assert isinstance(output, Path)
        calls.append(output)
        if len(calls) == 3:  # once
            raise KeyboardInterrupt
        return deepen.train(*given, **words)  # type: ignore[arg-type]

    def go() -> Path:
        return train_in_four_steps(
            train, source, "resnet20", *FEW, output=tmp_path / "four", changes=SHORT
        )

    with pytest.raises(KeyboardInterrupt):
        go()
    with pytest.raises(InputError, match="has steps on other pictures"):
        train_in_four_steps(train, boxes_set(9), "resnet20", *FEW, output=tmp_path / "four")
    weights = go()
    assert [path.name for path in calls] == ["step-1", "step-2", "step-3", "step-3", "step-4"]
    words = {"rpn-c4": (1, 3), "fast-rcnn-c4": (2, 4)}
    first, third, second, fourth = (
        deepen.load(
            tmp_path / "four" / f"step-{step}" / "best.safetensors",
            model=model_of(kind, "resnet20", *FEW),
        ).state_dict()
        for kind, steps in words.items()
        for step in steps
    )
    whole = deepen.load(weights, model=model_of("faster-rcnn-c4", "resnet20", *FEW))
    state = whole.state_dict()
    maps = [name for name in state if name.startswith("backbone.")]
    assert len(maps) > 100
    for name in maps:  # of step 2 in all that follows
        assert torch.equal(state[name], second[name])
        assert torch.equal(third[name], second[name])
        assert torch.equal(fourth[name], second[name])
    assert not all(torch.equal(first[name], second[name]) for name in maps)
    rpn = [name for name in state if name.startswith("rpn.")]
    heads = [name for name in state if name.startswith("roi_heads.")]
    assert len(rpn) == 6
    assert {*maps, *rpn, *heads} == state.keys()
    assert all(torch.equal(state[name], third[name]) for name in rpn)
    assert all(torch.equal(state[name], fourth[name]) for name in heads)
    assert "recall" in (tmp_path / "four" / "step-1" / "metrics.csv").read_text()
    (found,) = whole.eval()(torch.rand(1, 3, 64, 64))
    assert found["boxes"].shape[1] == 4
