"""Faster R-CNN in four steps, as the paper trained it first; each is a run like any other.

Ren, He, Girshick & Sun 2015, section 3.2, "4-step alternating training": (1) a proposal network;
(2) a Fast R-CNN on its proposals, which shares nothing with it; (3) a proposal network on the maps
of that, which stay as they are; (4) the layers for regions again, on the new proposals and the same
maps. Both then share their maps, and are one network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepen.data.sources import PictureSet, SplitName, open_source
from deepen.data.split import Split
from deepen.detection.fast_rcnn import GivenProposals
from deepen.detection.faster_rcnn import Detector
from deepen.detection.networks import model_of
from deepen.detection.proposals import RegionProposals, propose, with_proposals
from deepen.detection.task import Detection, FoundInSplit
from deepen.errors import InputError, WorkError
from deepen.evaluation.boxes import ignored, overlaps
from deepen.files import read_json, write_whole
from deepen.models import create_model
from deepen.training.task import Examined, Task
from deepen.weights import Loaded, load_weights, save_weights

FOUND_FROM = 0.5
"""The overlap from which on a proposal counts for an object (Ren et al. 2015, section 4.1)."""


class Proposals(Detection):
    """Where something is, of whatever class: the recall of the proposals is what counts."""

    figures = ("objectness", "rpn_box")
    columns = ("recall",)
    chosen_by = ("recall",)

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        return "recall"

    def scores(self, found: FoundInSplit) -> dict[str, float | None]:
        """The share of objects that a proposal overlaps by `FOUND_FROM`."""
        hits = []
        for one, target in zip(found.detections, found.truth, strict=True):
            boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4)[~ignored(target)]
            best = overlaps(one.boxes.numpy(), boxes).max(0, initial=0)
            hits += (best >= FOUND_FROM).tolist()
        return {"recall": float(np.mean(hits)) if hits else None}

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """The recall."""
        return (row["eval_recall"] or 0.0,)

    def examine(self, found: FoundInSplit, split: Split, protocol: str) -> Examined:
        """The recall alone."""
        return Task.examine(self, found, split, protocol)


def train_in_four_steps(
    train: Callable[..., Any],
    data: PictureSet | str,
    backbone: str,
    *settings: str,
    output: str | Path,
    changes: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    **words: Any,
) -> Path:
    """Train a Faster R-CNN on one map (C4) in four runs, `output`/step-1 to step-4, and join them.

    Called again, it goes on where it was stopped, with the same bits at the end.

    Args:
        train: `deepen.train`.
        data: pictures with boxes, or where they lie.
        backbone: a classifier of `deepen.models`.
        settings: of `DetectorSettings`, as in a detector's name: "anchor_px=32,64,128".
        output: a folder.
        changes: of the recipe, for each of the four.
        init_from: the classifier's trained weights, for the first two (the paper: ImageNet's).
        words: others for `train`: recipe, device, ... .

    Returns:
        The weights of `deepen.detection.networks:faster-rcnn-c4/...`.

    Raises:
        InputError, WorkError: as in training.
    """
    folder = Path(output)
    source = open_source(data) if isinstance(data, str) else data
    _of_these(source, folder / "pictures.json")
    rpn = model_of("rpn-c4", backbone, *settings)
    fast = model_of("fast-rcnn-c4", backbone, *settings)

    def step(
        number: int,
        model: str,
        task: type[Detection],
        pictures: PictureSet,
        start: str | Path | None,
    ) -> Path:
        run = folder / f"step-{number}"
        if not (run / "scores.json").is_file():
            frozen = {"finetune.freeze": ["backbone"]} if number > 2 else {}
            named = {"task": f"{task.__module__}:{task.__name__}"}
            train(
                pictures,
                model=model,
                output=run,
                resume="auto",
                init_from=start,
                changes={**(changes or {}), **named, **frozen},
                **{"recipe": "detect", "look": number == 1, **words},
            )
        return run / "best.safetensors"

    first = step(1, rpn, Proposals, source, init_from)
    proposed = _proposed(source, first, rpn)
    second = step(2, fast, GivenProposals, proposed, init_from)
    third = step(3, rpn, Proposals, source, second)
    proposed = _proposed(source, third, rpn)
    fourth = step(4, fast, GivenProposals, proposed, second)
    whole = model_of("faster-rcnn-c4", backbone, *settings)
    return _join(load_weights(third, model=rpn), load_weights(fourth, model=fast), whole, folder)


def _of_these(source: PictureSet, note: Path) -> None:
    """Note whose steps a folder has; refuse to go on with those of other pictures.

    Raises:
        InputError: it has some.
        WorkError: it cannot be written.
    """
    now = {"fingerprint": source.fingerprint}
    if note.is_file() and read_json(note) != now:
        raise InputError(f"{note.parent}: has steps on other pictures than {source.name}'s")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(now).encode())


def _proposed(source: PictureSet, weights: Path, model: str) -> PictureSet:
    """The pictures with what a trained network proposes, as many as in training and at evaluation.

    Kept beside the weights, so that they are made once.
    """
    loaded = load_weights(weights, model=model)
    card = loaded.card
    found: dict[SplitName, Any] = {}
    for name, split in source.splits.items():
        trained: Any = loaded.model  # a Detector
        most = trained.settings.proposals[name != "train"]
        named = f"{model}/proposals={most},{most}"
        network = create_model(named, card.num_classes, card.in_channels, card.input_size)
        assert isinstance(network, Detector)
        network.load_state_dict(loaded.model.state_dict())
        proposer = RegionProposals(network, card.preprocessing)
        found[name] = propose(split, proposer, weights.parent / f"proposals-{name}.safetensors")
    return with_proposals(source, found)


def _join(rpn: Loaded, fast: Loaded, model: str, folder: Path) -> Path:
    """One network of both, on the maps that they share."""
    state, other = fast.model.state_dict(), rpn.model.state_dict()
    for name in state.keys() & other.keys():
        if not torch.equal(state[name], other[name]):
            raise WorkError(f"{folder}: steps 3 and 4 differ over {name}, which they share")
    card = fast.card
    network = create_model(model, card.num_classes, card.in_channels, card.input_size)
    network.load_state_dict({**other, **state})
    about = {"architecture": model, "score": {}, "protocol": "", "source": "joined of four steps"}
    path = folder / "best.safetensors"
    save_weights(path, network, card.model_copy(update=about), fast.mean_image)
    return path
