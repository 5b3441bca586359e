"""Pictures in, what is in them out: boxes, masks, or a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deepen.data.augment import Augmentation, geometry_of
from deepen.data.decode import PictureError
from deepen.deployment.pictures import Source, in_batches, open_source_picture
from deepen.errors import InputError
from deepen.evaluation.boxes import Detections
from deepen.training.recipe import build_recipe
from deepen.training.task import Task, task_of
from deepen.weights import Card, load_weights


class Found(NamedTuple):
    """What was found in one picture.

    Attributes:
        path: of the picture, as it was given or found; "picture 2" for the second of those that
            have none.
        size: width and height in px, upright.
        classes: names of the labels.
        detections: in px of the picture, the surest first; of a network that tells a class of each
            pixel None.
        mask: uint8 (h, w), the class of each pixel; of a detector None.
    """

    path: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    detections: Detections | None
    mask: np.ndarray | None

    def document(self) -> dict[str, Any]:
        """As JSON keeps it: boxes x1 y1 x2 y2 in px; of masks of classes the share of each."""
        about: dict[str, Any] = {"path": self.path, "width": self.size[0], "height": self.size[1]}
        if self.mask is not None:
            counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
            shares = counts[: len(self.classes)] / self.mask.size
            return about | {"shares": dict(zip(self.classes, shares.tolist(), strict=True))}
        assert self.detections is not None
        boxes, scores, labels, *_ = self.detections
        rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
        found = [
            {"class": self.classes[label], "score": score, "box": [round(px, 2) for px in box]}
            for box, score, label in rows
        ]
        return about | {"found": found}


def coco_of(found: Sequence[Found]) -> dict[str, Any]:
    """What was found as COCO's JSON: images, categories from 1 on, annotations with scores.

    Boxes are [left, top, width, height] in px, masks run lengths.
    """
    annotations: list[dict[str, Any]] = []
    for image, one in enumerate(found, 1):
        if one.detections is None:
            continue
        masks = one.detections.masks
        rows = zip(
            one.detections.boxes.tolist(),
            one.detections.scores.tolist(),
            one.detections.labels.tolist(),
            strict=True,
        )
        for place, ((x1, y1, x2, y2), score, label) in enumerate(rows):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": label + 1,
                "bbox": [round(px, 2) for px in (x1, y1, x2 - x1, y2 - y1)],
                "area": round((x2 - x1) * (y2 - y1), 2),
                "score": score,
                "iscrowd": 0,
            }
            if masks is not None:
                annotation["segmentation"] = masks[place]
            annotations.append(annotation)
    classes = found[0].classes if found else ()
    return {
        "images": [
            {"id": image, "file_name": one.path, "width": one.size[0], "height": one.size[1]}
            for image, one in enumerate(found, 1)
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(classes, 1)],
        "annotations": annotations,
    }


class Finder:
    """A network that finds things, with its weights, its preprocessing and its classes.

    Args:
        weights: a file of `deepen detect train`'s.
        device: where it runs.
        model: needed for a user's own `package.module:factory`.

    Raises:
        InputError: the weights cannot be loaded, or tell classes of whole pictures.
    """

    def __init__(
        self, weights: str | Path, *, device: str = "cpu", model: str | None = None
    ) -> None:
        loaded = load_weights(weights, model=model)
        self.card, self.device, self.model = loaded.card, torch.device(device), loaded.model
        self.model.to(self.device)
        self.task = task_in(self.card)
        if not hasattr(self.task, "answers"):
            raise InputError(f"{weights}: tells a class of each picture: deepen predict")
        width = self.card.preprocessing.size_px[1]
        self._normalize = self.card.preprocessing.normalization(
            width, self.device, loaded.mean_image
        )

    def __call__(
        self,
        pictures: Iterable[Source],
        *,
        least_score: float | None = None,
        batch_size: int = 8,
    ) -> Iterator[Found | PictureError]:
        """Look at pictures in batches, in order; a bad one comes back as its error, in place."""
        for batch in in_batches(pictures, batch_size):
            yield from self._look(batch, least_score)

    def _look(
        self, pictures: list[tuple[str, Source]], least_score: float | None
    ) -> Iterator[Found | PictureError]:
        preprocessing = self.card.preprocessing
        pixels, sizes, errors = [], dict[int, tuple[int, int]](), dict[int, PictureError]()
        for place, (name, source) in enumerate(pictures):
            try:
                picture = open_source_picture(
                    source, name, preprocessing.channels, preprocessing.white
                )
                pixels.append(preprocessing.fit(picture))
                sizes[place] = picture.size
            except PictureError as error:
                errors[place] = error
        answers: dict[int, Any] = {}
        if pixels:
            images = self._normalize(torch.from_numpy(np.stack(pixels)).to(self.device))
            still = Augmentation()
            draws = torch.zeros(len(pixels), still.draws)
            geometry = geometry_of(still, preprocessing, [*sizes.values()], draws)
            with torch.inference_mode():
                outputs = self.model(images)
            told: Any = self.task  # whose answers are boxes or masks
            found = told.answers(outputs, geometry, [*sizes.values()])
            answers = dict(zip(sizes, found, strict=True))
        for place, (name, _) in enumerate(pictures):
            if place in errors:
                yield errors[place]
                continue
            one = answers[place]
            if isinstance(one, Detections):
                kept = one if least_score is None else _above(one, least_score)
                yield Found(name, sizes[place], self.card.classes, kept, None)
            else:
                mask = one.cpu().numpy().astype(np.uint8)
                yield Found(name, sizes[place], self.card.classes, None, mask)


def task_in(card: Card) -> Task:
    """The task that weights were trained for.

    Raises:
        InputError: the card does not say.
    """
    if not card.recipe:
        raise InputError("these weights have no recipe in their card: it is not known what they do")
    return task_of(build_recipe("of the card", dict(card.recipe), None), card.classes)


def _above(found: Detections, least: float) -> Detections:
    kept = found.scores >= least
    masks: Any = found.masks
    if masks is not None:
        masks = [mask for mask, keep in zip(masks, kept.tolist(), strict=True) if keep]
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept], masks)
