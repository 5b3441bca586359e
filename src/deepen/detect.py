"""What `deepen detect` does, as one call each: train, evaluate, predict, visualize."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from deepen import api
from deepen.data.decode import PictureError
from deepen.data.loader import Batches
from deepen.data.split import Split
from deepen.deployment.finder import Finder, Found, task_in
from deepen.deployment.pictures import Source, find_pictures
from deepen.detection.choice import choose
from deepen.errors import InputError
from deepen.training.build import num_workers
from deepen.training.request import Detecting, Here, Scoring, Training, pick_device, takes
from deepen.training.scored import Scored, open_scored
from deepen.weights import Card, load_weights

__all__ = ["Found", "evaluate", "predict", "train", "visualize"]


@takes(Detecting)
def train(asked: Detecting) -> api.Trained:
    """Train a detector, or a network that tells a class of each pixel, by what the pictures have.

    What is left open is chosen by the data and said; before a new run it is looked at what would
    keep a detector from learning (`look`).

    Raises:
        DeepenError: whatever can be said in one line.
    """
    words = {each.name: getattr(asked, each.name) for each in fields(Training)}
    return api.train(**words | {"chooser": partial(choose, asked.detector)})


@takes(Scoring)
def evaluate(asked: Scoring) -> BaseModel:
    """Score a detector's weights on pictures with boxes or masks.

    Pictures that cannot be decoded are told to the reporter, and are in none of the numbers.

    Returns:
        `DetectionScores`, `SegmentationScores` or `LocalizationScores`, by what it was trained for.

    Raises:
        InputError: weights and data do not go together.
    """
    loaded = load_weights(asked.weights, model=asked.model)
    scored = open_scored(asked, loaded.card)
    if len(scored.splits) != 1:
        raise InputError("--split all: name one split")
    split = _known_by(scored, scored.source.splits[scored.splits[0]], loaded.card, asked)
    task = task_in(loaded.card)
    task.see(split)
    batches = Batches(
        split,
        loaded.card.preprocessing,
        batch_size=asked.batch_size,
        workers=num_workers(asked.workers, split),
        mean_image=loaded.mean_image,
        device=asked.place,
    )
    here = Here(device=asked.device, reporter=asked.reporter)
    found = task.predict(loaded.model.to(asked.place), batches.epoch(0), here)
    for error in found.bad:
        asked.reporter.message(f"left out: {error}")
    count = f"{len(found.indices):,} pictures"
    shown = loaded.card.preprocessing.describe()
    return task.examine(
        found, split, f"{scored.source.name}, {scored.part}, {count}, {shown}"
    ).scores


def predict(
    weights: str | Path,
    pictures: Source | Iterable[Source],
    *,
    least_score: float | None = None,
    batch_size: int = 8,
    device: str | None = None,
    model: str | None = None,
) -> Iterator[Found | PictureError]:
    """Find things in pictures, one or many; folders are gone through as they are read.

    Args:
        weights: a file of `deepen detect train`'s.
        pictures: as of `deepen.predict`.
        least_score: what is less probable is left out; by default the detector's own bound.
        batch_size: pictures at a time.
        device: the fastest there is when left out.
        model: needed for a user's own `package.module:factory`.

    Returns:
        In order what is found in each picture, in px of it; in the place of one that cannot be
        decoded its `PictureError`.

    Raises:
        InputError: the weights cannot be loaded, or find nothing in pictures.
    """
    finder = Finder(weights, device=str(pick_device(device)), model=model)
    return finder(find_pictures(pictures), least_score=least_score, batch_size=batch_size)


def visualize(
    data: Any,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    split: str | None = None,
    most: int = 24,
    least_score: float = 0.5,
    data_dir: str | Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Draw what is said of pictures, and beside it what a detector finds, as PNG files.

    Args:
        data: pictures with boxes or masks.
        output: a folder, new or with files that are written over.
        weights: of a detector whose boxes are drawn beside the true ones.
        split: train, val, test; the training pictures when left out.
        most: pictures at most, evenly spaced.
        least_score: of what is drawn.
        data_dir: where named data sets lie.
        device: the fastest there is when left out.

    Returns:
        The files.

    Raises:
        InputError: there are no such pictures, or nothing to draw.
    """
    from deepen.detection.drawing import draw_split

    asked = Scoring(weights=weights, data=data, split=split, data_dir=data_dir, device=device)
    finder = None if weights is None else Finder(weights, device=str(pick_device(device)))
    return draw_split(asked, Path(output), finder, most, least_score)


def _known_by(scored: Scored, split: Split, card: Card, asked: Scoring) -> Split:
    """The pictures with labels as the weights have them.

    Raises:
        InputError: they have classes that the weights do not know.
    """
    names = scored.source.classes
    if names == card.classes or split.targets is None:
        return split
    if strange := [name for name in names if name not in card.classes]:
        raise InputError(
            f"{scored.source.name}: has {strange[0]}, which {asked.weights} does not know; "
            f"it knows {', '.join(card.classes)}"
        )
    place = np.array([card.classes.index(name) for name in names])
    targets = tuple(_Relabelled(target, place) for target in split.targets)
    return replace(split, labels=place[split.labels], targets=targets)


class _Relabelled(Mapping[str, Any]):
    """A target whose labels, and masks of classes, are those of other weights."""

    def __init__(self, target: Mapping[str, Any], place: np.ndarray) -> None:
        self.target = target
        self.places = np.full(256, 255, np.int64)  # void stays void
        self.places[: len(place)] = place

    def __getitem__(self, name: str) -> Any:
        value = self.target[name]
        if name == "labels":
            return self.places[np.asarray(value)]
        return self.places[np.asarray(value)].astype(np.uint8) if name == "mask" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.target)

    def __len__(self) -> int:
        return len(self.target)
