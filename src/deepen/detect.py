"""What `deepen detect` does, as one call each: train, evaluate, predict, visualize."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepen import api
from deepen.data.annotated import outlines
from deepen.data.decode import PictureError, open_picture
from deepen.data.loader import Batches
from deepen.data.sources import SPLIT_FOLDERS, open_source
from deepen.data.split import Split
from deepen.deployment.finder import Finder, Found, task_in
from deepen.deployment.pictures import Source, find_pictures
from deepen.detection.choice import choose
from deepen.errors import InputError, WorkError
from deepen.files import write_whole
from deepen.training.build import num_workers
from deepen.training.request import Detecting, Here, Scoring, Training, pick_device, takes
from deepen.training.scored import Scored, open_scored
from deepen.visualization.boxes import Mark, beside, color_of, draw_marks
from deepen.weights import Card, load_weights

__all__ = ["Found", "draw", "evaluate", "predict", "train", "visualize"]


@takes(Detecting)
def train(asked: Detecting) -> api.Trained:
    """Train a detector, or a network that tells a class of each pixel, by what the pictures have.

    What is left open is chosen by the data and said; before a new run it is looked at what would
    keep a detector from learning (`look`).

    Raises:
        DeepenError: whatever can be said in one line.
    """
    words: dict[str, Any] = {each.name: getattr(asked, each.name) for each in fields(Training)}
    words["chooser"] = partial(choose, asked.detector)
    return api.train(**words)


@takes(Scoring)
def evaluate(asked: Scoring) -> Any:
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
    exclude: Collection[str] = (),
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
        exclude: pictures and boxes to leave out, as for `train`.
        device: the fastest there is when left out.

    Returns:
        The files.

    Raises:
        InputError: there are no such pictures, or nothing to draw.
    """
    folder = _folder(output)
    finder = None if weights is None else Finder(weights, device=str(pick_device(device)))
    source = open_source(str(data), exclude=exclude)
    if split is not None and split not in source.splits:
        raise InputError(f"--split {split}: {data} has {', '.join(source.splits)}")
    pictures = source.splits[SPLIT_FOLDERS[split or "train"]]
    if pictures.targets is None:
        raise InputError(f"{data}: its pictures have neither boxes nor masks")
    files = []
    for index in pictures.sample(most):
        image = pictures.picture(index, 3)
        drawn = draw_marks(image, _true_marks(pictures.targets[index], source.classes))
        if finder is not None:
            found = next(iter(finder([image], least_score=least_score)))
            assert isinstance(found, Found)
            drawn = beside(drawn, draw_marks(image, _marks(found)))
        files.append(_write(drawn, folder, pictures.key(index)))
    return files


def draw(found: Found, output: str | Path) -> Path:
    """Draw what was found in a picture's file into a folder, as a PNG file named like it.

    Raises:
        InputError: the picture has no file.
        WorkError: it cannot be written.
    """
    if not Path(found.path).is_file():
        raise InputError(f"{found.path}: is no file that could be drawn on")
    image = open_picture(Path(found.path), name=found.path, channels=3)
    return _write(draw_marks(image, _marks(found)), _folder(output), found.path)


def _folder(output: str | Path) -> Path:
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is no folder")
    return folder


def _write(image: Image.Image, folder: Path, key: str) -> Path:
    """As `folder`/PATH.jpg.png, so that no two pictures have one name."""
    inner = [part for part in Path(key).parts if part not in (Path(key).anchor, "..")]
    file = folder.joinpath(*inner[:-1], f"{inner[-1]}.png")
    data = io.BytesIO()
    image.save(data, "PNG")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"{file.parent}: {error.strerror}") from error
    write_whole(file, data.getvalue())
    return file


def _marks(found: Found) -> list[Mark]:
    """Boxes with class and score, the surest on top; or a mask of each class."""
    if found.mask is not None:
        return _class_marks(found.mask, found.classes)
    assert found.detections is not None
    masks = found.detections.masks
    marks = []
    for place in reversed(range(len(found.detections.scores))):
        label = int(found.detections.labels[place])
        words = f"{found.classes[label]} {found.detections.scores[place]:.0%}"
        mask = None if masks is None else _mask(masks[place], found.size)
        box = found.detections.boxes[place].tolist()
        marks.append(Mark(box, words, color_of(label), mask=mask))
    return marks


def _mask(given: Any, size: tuple[int, int]) -> np.ndarray:
    return outlines.draw(given, size) if isinstance(given, Mapping) else np.asarray(given)


def _true_marks(target: Mapping[str, Any], classes: Sequence[str]) -> list[Mark]:
    if "mask" in target:
        return _class_marks(np.asarray(target["mask"]), classes)
    boxes = np.asarray(target["boxes"]).reshape(-1, 4)
    known = "labels" in target
    labels = np.asarray(target["labels"]).tolist() if known else [0] * len(boxes)
    masks = target["masks"] if "masks" in target else [None] * len(boxes)
    return [
        Mark(box.tolist(), classes[label] if known else "", color_of(label), mask=mask)
        for box, label, mask in zip(boxes, labels, masks, strict=True)
    ]


def _class_marks(mask: np.ndarray, classes: Sequence[str]) -> list[Mark]:
    return [
        Mark(None, "", color_of(label), mask=mask == label)
        for label in range(len(classes))
        if (mask == label).any()
    ]


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
