"""Segmentation as a task of the loop: a class for every pixel, and what of it is right.

Masks are scored in full: what a network says of its input is carried back to each source picture,
so that a network of small pictures is measured by the pixels that were annotated.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from deepen.data.decode import PictureError
from deepen.data.geometry import Geometry
from deepen.data.loader import Batch
from deepen.data.sources import Split
from deepen.detection.overlay import overlay
from deepen.errors import InputError
from deepen.evaluation.protocols import none_decoded, predicting
from deepen.evaluation.segmentation import (
    VOID,
    SegmentationScores,
    confusion_of,
    score_masks,
)
from deepen.training.optimizer import class_weights
from deepen.training.recipe import Recipe
from deepen.training.request import Here
from deepen.training.task import Examined, Outcome, Task, by_share

WORST_SHOWN = 8
WORST_PX = 192
WORDS = "; scores carried back to the full size of each picture (bilinear), void pixels left out"


class Seen(NamedTuple):
    """What is said of a picture, as JSON keeps it: its pixels counted, and no map.

    Attributes:
        picture: its place in the split.
        places: where in the flat confusion (K * K) of the picture there are pixels.
        pixels: how many.
    """

    picture: int
    places: list[int]
    pixels: list[int]


class Worst(NamedTuple):
    """A picture that much of is wrong, as JSON keeps it.

    Attributes:
        miou: over the classes that are in the picture or in what is said of it.
        picture: its place in the split.
        png: what is said of it: classes as grey values, base64.
    """

    miou: float
    picture: int
    png: str


class Segmented(NamedTuple):
    """What a pass over a split came to; no map is kept but those of the worst pictures.

    Attributes:
        seen: pictures, by their place in the split.
        loss: the mean over pictures, at the size of the network's input.
        bad: what kept the other pictures out.
        worst: the `WORST_SHOWN` pictures of the smallest mIoU, the worst first.
    """

    seen: list[Seen]
    loss: float
    bad: tuple[PictureError, ...]
    worst: list[Worst]

    @property
    def indices(self) -> Tensor:
        """int64 (N,), places in the split."""
        return torch.tensor([one.picture for one in self.seen])


class Segmentation(Task):
    """A class for every pixel, by cross-entropy.

    The pictures' targets have a `mask`, uint8 (h, w) of the source's size: places in the classes,
    and 255 where nothing is counted. A picture's loss is the mean over its pixels that count, a
    batch's the mean over pictures: so parts of a batch add up to the whole.
    """

    figures = ("pixel_accuracy",)
    columns = ("loss", "miou", "pixel_accuracy")
    chosen_by = ("miou", "pixel_accuracy", "loss")

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        super().__init__(recipe, classes)
        if recipe.loss.name != "cross_entropy":
            raise InputError(
                f"task segmentation: needs loss.name: cross_entropy, not {recipe.loss.name}"
            )
        self.spec, self.weights = recipe.loss, None

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        by = self.recipe.choose_by or self.chosen_by[0]
        return {"miou": "mIoU", "loss": "mean likelihood"}.get(by, by.replace("_", " "))

    def see(self, train: Split) -> None:
        """Weigh the classes by their pixels, if the recipe says so.

        Raises:
            InputError: the pictures have no masks, or masks of another size.
        """
        if train.targets is None or "mask" not in next(iter(train.targets), {}):
            raise InputError("task segmentation: needs pictures with a mask of classes each")
        if train.images is not None:  # of files, whoever reads the masks has seen to that
            size = train.images.shape[1:3]
            for place, target in enumerate(train.targets):
                if (own := np.shape(target["mask"])) != size:
                    raise InputError(f"{train.key(place)}: is {size}, its mask {own} (h, w)")
        if self.spec.class_weights != "none":
            counts = np.zeros(VOID + 1, np.int64)
            for target in train.targets:
                counts += np.bincount(np.asarray(target["mask"]).ravel(), minlength=VOID + 1)
            self.weights = class_weights(
                self.spec.class_weights, counts[: len(self.classes)].tolist()
            )

    def loss_of(self, outputs: Any, batch: Batch, network: nn.Module) -> Outcome:
        """Of logits (B, K, H, W).

        Raises:
            InputError: the network says something else, or a mask has a class too many.
        """
        if not len(batch.labels):
            return Outcome(outputs, None)
        masks = masks_of(batch, len(self.classes))
        shape = (len(masks), len(self.classes), *masks.shape[1:])
        if not isinstance(outputs, Tensor) or outputs.shape != shape:
            raise InputError(
                f"task segmentation: {type(network).__name__} says no class for each pixel; one "
                "that does: --model deepen.detection.networks:fcn-8s/resnet18"
            )
        right = (outputs.detach().argmax(1) == masks).sum((1, 2)) / counted(masks)
        return Outcome(self.losses(outputs, masks).mean(), right.double().sum()[None])

    def losses(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Of each picture, (B,); logits (B, K, H, W), masks int64 (B, H, W)."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        pixels = F.cross_entropy(
            logits.float() / self.spec.temperature,
            masks,
            weights,
            ignore_index=VOID,
            reduction="none",
            label_smoothing=self.spec.label_smoothing,
        )
        return pixels.sum((1, 2)) / counted(masks)

    def tally(self, kept: Sequence[Tensor]) -> Tensor:
        """The share of each picture's pixels that are right."""
        return torch.stack([*kept]).sum(0) if kept else super().tally(kept)

    def predict(self, network: nn.Module, batches: Iterable[Batch], here: Here) -> Segmented:
        """Confusions of pixels of the source pictures, summed up picture by picture.

        Raises:
            InputError: not one picture could be decoded, or a mask has a class too many.
        """
        seen, bad, worst = list[Seen](), list[PictureError](), list[Worst]()
        loss = torch.zeros(1, dtype=torch.float64)
        with predicting(network, here.place, bool(self.recipe.amp)):
            for batch in batches:
                bad += batch.bad
                if not len(batch.labels):
                    continue
                logits = network(batch.images).float()
                masks = masks_of(batch, len(self.classes))
                loss += self.losses(logits, masks).sum().double().cpu()
                for place in range(len(logits)):
                    one, miou, said = self._seen(logits[place], batch, place)
                    seen.append(one)
                    if len(worst) < WORST_SHOWN or miou < worst[-1].miou:
                        worst.append(Worst(miou, one.picture, _png(said)))
                        worst = sorted(worst)[:WORST_SHOWN]
        parts = here.processes.gather([seen, worst])
        seen = sorted(Seen(*one) for found, _ in parts for one in found)
        if not seen:
            raise none_decoded(bad)
        worst = sorted(Worst(*one) for _, found in parts for one in found)[:WORST_SHOWN]
        total = here.processes.sum(loss).item()
        return Segmented(seen, total / len(seen), tuple(bad), worst)

    def _seen(self, logits: Tensor, batch: Batch, place: int) -> tuple[Seen, float, Tensor]:
        """What is said of a picture of a batch: counted, its mIoU (1 of nothing), and the map."""
        assert batch.named_targets is not None
        assert batch.geometry is not None
        truth = batch.named_targets[place]["mask"]
        size = (truth.shape[-2], truth.shape[-1])
        said = in_source(logits, batch.geometry, place, size).max(0).indices  # argmax is slower
        confusion = confusion_of(said, truth, len(self.classes))
        flat = confusion.flatten()
        places = flat.nonzero().flatten()
        one = Seen(int(batch.indices[place]), places.tolist(), flat[places].tolist())
        miou = score_masks([confusion], self.classes, resamples=0).figures["miou"]
        return one, 1.0 if miou is None else miou, said

    def answers(
        self, outputs: Tensor, geometry: Geometry, sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """The class of each pixel of each picture, (h, w) int64.

        Args:
            outputs: (B, K, H, W), of the network in evaluation mode.
            geometry: of the pictures.
            sizes: width and height of each.
        """
        return [
            in_source(logits, geometry, place, (height, width)).max(0).indices
            for place, (logits, (width, height)) in enumerate(zip(outputs, sizes, strict=True))
        ]

    def scores(self, found: Segmented) -> dict[str, float | None]:
        """Loss, mean intersection over union, and the share of pixels that are right."""
        figures = self._score(found, resamples=0).figures
        return {name: found.loss if name == "loss" else figures[name] for name in self.columns}

    def _score(self, found: Segmented, **words: Any) -> SegmentationScores:
        def confusions() -> Iterator[Tensor]:
            number = len(self.classes)
            for one in found.seen:
                flat = torch.zeros(number * number, dtype=torch.int64)
                flat[torch.tensor(one.places, dtype=torch.int64)] = torch.tensor(one.pixels)
                yield flat.reshape(number, number)

        return score_masks(confusions(), self.classes, num_skipped=len(found.bad), **words)

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """mIoU, or what the recipe says, and of equals the smaller loss."""
        known = {column: 0.0 if value is None else value for column, value in row.items()}
        return by_share(self.recipe.choose_by or self.chosen_by[0], known)

    def examine(self, found: Segmented, split: Split, protocol: str) -> Examined:
        """All scores, and the pictures of the smallest mIoU."""
        scores = self._score(found, protocol=protocol + WORDS)
        known = {name: value for name, value in self.scores(found).items() if value is not None}
        return Examined(scores, known, {"worst.json": self._worst(found.worst, split)})

    def _worst(self, worst: Sequence[Worst], split: Split) -> list[dict[str, Any]]:
        """Small PNGs of what is said and of what is true, over the picture."""
        assert split.targets is not None
        shown = []
        for miou, index, png in worst:
            picture = split.picture(index, 3)
            picture.thumbnail((WORST_PX, WORST_PX))
            masks = {
                "predicted": Image.open(io.BytesIO(base64.b64decode(png))),
                "true": Image.fromarray(np.asarray(split.targets[index]["mask"])),
            }
            pngs = {
                name: _encoded(overlay(picture, _resized(mask, picture.size), len(self.classes)))
                for name, mask in masks.items()
            }
            shown.append({"index": index, "key": split.key(index), "miou": miou, **pngs})
        return shown


def masks_of(batch: Batch, num_classes: int) -> Tensor:
    """The masks of a batch as its pictures lie, int64 (B, H, W); void where there is no picture.

    Raises:
        InputError: a mask has a class too many.
    """
    assert batch.named_targets is not None
    assert batch.geometry is not None
    masks = torch.stack(
        [
            batch.geometry.mask(place, target["mask"], fill=VOID)
            for place, target in enumerate(batch.named_targets)
        ]
    ).long()
    wrong = (masks >= num_classes) & (masks != VOID)
    if wrong.any():
        place = int(wrong.flatten(1).any(1).nonzero()[0])
        raise InputError(
            f"picture {int(batch.indices[place])}: its mask has class {int(masks[wrong][0])}, and "
            f"there are {num_classes} (0 to {num_classes - 1}; {VOID} is void)"
        )
    return masks


def counted(masks: Tensor) -> Tensor:
    """Pixels of each picture that are not void, (B,); 1 where all are."""
    return (masks != VOID).sum((1, 2)).clamp(min=1)


def in_source(logits: Tensor, geometry: Geometry, place: int, size: tuple[int, int]) -> Tensor:
    """Scores of the network's input carried back to its source picture, bilinear.

    Args:
        logits: (K, H, W).
        geometry: of the batch.
        place: of the picture in it.
        size: height and width of the source in px.

    Returns:
        (K, height, width), at the middle of each pixel; what the input does not show has the scores
        of its nearest edge.
    """
    middle = torch.zeros(1, device=logits.device)
    rows, columns = (torch.arange(side, device=logits.device) + 0.5 for side in size)
    down = geometry.points(place, torch.cartesian_prod(middle, rows))[:, 1]
    across = geometry.points(place, torch.cartesian_prod(columns, middle))[:, 0]
    return _between(_between(logits, across, 2), down, 1)  # the rows, faster, on the larger maps


def _between(values: Tensor, edges: Tensor, dim: int) -> Tensor:
    """Linear interpolation along a dimension, at distances (n,) from its edge."""
    at = (edges - 0.5).clamp(0, values.shape[dim] - 1)
    low = at.long()
    high = (low + 1).clamp(max=values.shape[dim] - 1)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1 - dim))
    return values.index_select(dim, low).lerp(values.index_select(dim, high), share)


def _png(classes: Tensor) -> str:
    return _encoded(Image.fromarray(classes.to(torch.uint8).cpu().numpy()))


def _encoded(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def _resized(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(mask.resize(size, Image.Resampling.NEAREST))
