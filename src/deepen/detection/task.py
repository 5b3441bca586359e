"""Detection as a task of the loop: losses of two stages, average precision, boxes handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from deepen.data.decode import PictureError
from deepen.data.geometry import Geometry
from deepen.data.loader import Batch
from deepen.data.sources import Split
from deepen.detection.mistakes import draw_worst
from deepen.errors import InputError
from deepen.evaluation.boxes import Detections
from deepen.evaluation.coco import need, run_lengths, score_boxes, score_masks
from deepen.evaluation.detection import score_detections
from deepen.evaluation.protocols import none_decoded
from deepen.training.request import Here
from deepen.training.task import Examined, Outcome, Task

if TYPE_CHECKING:
    from deepen.training.plan import Plan

LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
"""What is averaged over an epoch, and torchvision's names of it."""
TRUTH = ("boxes", "labels", "difficult", "crowd")
MASK_FROM = 0.5
"""A pixel belongs to an object from this probability on (He et al. 2017, section 3)."""


class FoundInSplit(NamedTuple):
    """What a pass over a split found.

    Attributes:
        detections: of each picture, in px of the source, in the order of `indices`.
        truth: of each picture what its split says of it.
        sizes: width and height of each source.
        indices: int64 (N,), places in the split.
        bad: what kept the other pictures out.
    """

    detections: list[Detections]
    truth: list[dict[str, Any]]
    sizes: list[tuple[int, int]]
    indices: Tensor
    bad: tuple[PictureError, ...]


class Detection(Task):
    """What is where: a box and a class for each object.

    The pictures' targets have `boxes` (n, 4), x1 y1 x2 y2 in px of the source, and `labels` (n,),
    places in the classes; perhaps `crowd` and `difficult`, bool (n,): those are not trained on
    (crowds) or not missed where they are not found.
    """

    figures = ("objectness", "rpn_box", "class", "box")
    columns = ("ap", "ap50")
    chosen_by = ("ap", "ap50")
    masks = False

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        return {"ap": "AP", "ap50": "AP50"}[self.recipe.choose_by or self.chosen_by[0]]

    def see(self, train: Split) -> None:
        """See that there are boxes.

        Raises:
            InputError: the pictures have none at all, or only a class each; or what scores boxes
                is not installed.
        """
        need()
        if train.targets is None or "boxes" not in next(iter(train.targets), {}):
            raise InputError("task detection: these pictures have classes, but no boxes")
        if not any(len(target["boxes"]) for target in train.targets):
            raise InputError("task detection: no training picture has a box")

    def look(self, plan: Plan, here: Here) -> None:
        """Boxes against pictures and anchors, then a few steps (`deepen.detection.trouble`).

        Raises:
            InputError: names what would keep the detector from learning.
        """
        from deepen.detection.trouble import look  # which trains detectors, this task's

        found = look(plan, here)
        for note in found.notes:
            here.reporter.message(note)
        if found.troubles:
            first = found.troubles[0]
            raise InputError(f"{plan.data}: {first.fault}: {first.words}; --no-look trains anyway")

    def run(self, forward: Callable[..., Any], batch: Batch) -> Any:
        """Losses, by name."""
        return forward(batch.images, targets_of(batch, self.masks))

    def loss_of(self, outputs: Any, batch: Batch, network: nn.Module) -> Outcome:
        """The sum of all losses, each with the weight 1 (Ren et al. 2015, section 3.1.2)."""
        if not len(batch.labels):
            return Outcome(outputs, None)
        kept = {name: outputs[key].detach() for name, key in LOSSES.items() if key in outputs}
        total: Any = sum(outputs.values())
        return Outcome(total, (len(batch.labels), kept))

    def tally(self, kept: Sequence[tuple[int, dict[str, Tensor]]]) -> Tensor:
        """Sums of each loss over the pictures."""
        sums = super().tally(kept)
        for count, losses in kept:
            for place, name in enumerate(self.figures):
                if name in losses:
                    sums[place] += count * losses[name].double().cpu()
        return sums

    def predict(self, network: nn.Module, batches: Iterable[Batch], here: Here) -> FoundInSplit:
        """All that is found in a split, in px of the source pictures.

        Raises:
            InputError: not one picture could be decoded.
        """
        pictures, bad = list[_Picture](), list[PictureError]()
        trained, amp = network.training, bool(self.recipe.amp)
        network.eval()
        try:
            with torch.no_grad(), torch.autocast(here.place.type, torch.bfloat16, enabled=amp):
                for batch in batches:
                    pictures += self._found(network, batch)
                    bad += batch.bad
        finally:
            network.train(trained)
        parts = here.processes.gather(pictures)
        pictures = sorted((_Picture(*one) for part in parts for one in part), key=_by_index)
        if not pictures:
            raise none_decoded(bad)
        return FoundInSplit(
            [detections_of(one.found) for one in pictures],
            [one.truth for one in pictures],
            [one.size for one in pictures],
            torch.tensor([one.place for one in pictures]),
            tuple(bad),
        )

    def _found(self, network: nn.Module, batch: Batch) -> list[_Picture]:
        """Of each picture of a batch what is found and what is there, as JSON keeps it."""
        if not len(batch.labels):
            return []
        assert batch.named_targets is not None
        assert batch.geometry is not None
        given = [targets_of(batch, False)] if "proposals" in batch.named_targets[0] else []
        found = network(batch.images, *given)
        pictures = []
        for place, (one, target) in enumerate(zip(found, batch.named_targets, strict=True)):
            width, height = (round(side) for side in batch.geometry.window[place, 2:].tolist())
            plain = in_source(one, batch.geometry, place, (width, height))
            truth = {key: target[key].tolist() for key in TRUTH if key in target}
            if self.masks:
                truth["masks"] = run_lengths(target["masks"])
            index = int(batch.indices[place])
            pictures.append(_Picture(index, (width, height), plain, truth))
        return pictures

    def answers(
        self, outputs: Any, geometry: Geometry, sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """What the network says of each picture, in px of it.

        Args:
            outputs: of the network, in evaluation mode.
            geometry: of the pictures.
            sizes: width and height of each.
        """
        return [
            detections_of(in_source(found, geometry, place, size))
            for place, (found, size) in enumerate(zip(outputs, sizes, strict=True))
        ]

    def scores(self, found: FoundInSplit) -> dict[str, float | None]:
        """COCO's AP, and that at an overlap of 0.5."""
        scored = score_boxes(found.detections, found.truth, len(self.classes))
        return {"ap": scored.ap, "ap50": scored.ap50}

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """AP, or what the recipe says, and of equals the other."""
        first = self.recipe.choose_by or self.chosen_by[0]
        return tuple(
            row[f"eval_{name}"] or 0.0 for name in (first, *self.chosen_by) if name in self.columns
        )

    def examine(self, found: FoundInSplit, split: Split, protocol: str) -> Examined:
        """All scores, and what was found in each picture."""
        scores = score_detections(
            found.detections,
            found.truth,
            self.classes,
            sizes=found.sizes,
            keys=[split.key(index) for index in found.indices.tolist()],
            protocol=protocol,
            num_skipped=len(found.bad),
        )
        card = {name: value for name, value in self.scores(found).items() if value is not None}
        files: dict[str, bytes | list[Any]] = {
            "detections.json": self._listed(found, split),
            "worst.json": draw_worst(scores.worst, split, found.indices.tolist()),
        }
        return Examined(scores, card, files)

    def _listed(self, found: FoundInSplit, split: Split) -> list[dict[str, Any]]:
        """What was found, for detections.json."""
        return [
            {
                "picture": split.key(index),
                "boxes": [[round(side, 2) for side in box] for box in one.boxes.tolist()],
                "scores": [round(score, 5) for score in one.scores.tolist()],
                "labels": [self.classes[label] for label in one.labels.tolist()],
            }
            for index, one in zip(found.indices.tolist(), found.detections, strict=True)
        ]


class Instances(Detection):
    """What is where, to the pixel: targets have `masks` (n, h, w) too."""

    figures = (*Detection.figures, "mask")
    columns = (*Detection.columns, "mask_ap")
    chosen_by = ("mask_ap", *Detection.chosen_by)
    masks = True

    def see(self, train: Split) -> None:
        """See that there are masks.

        Raises:
            InputError: the pictures have none.
        """
        super().see(train)
        assert train.targets is not None
        if "masks" not in train.targets[0]:
            raise InputError("task instances: these pictures have boxes, but no masks")

    def scores(self, found: FoundInSplit) -> dict[str, float | None]:
        """COCO's figures of boxes and of masks."""
        masks = score_masks(found.detections, found.truth, len(self.classes))
        return {**super().scores(found), "mask_ap": masks.ap}


def targets_of(batch: Batch, masks: bool) -> list[dict[str, Tensor]]:
    """The targets of a batch as torchvision has them: px of the input, labels from 1 on.

    Crowds, and what the crop cut away, are left out; so is a box that an author drew without an
    area, which `deepen doctor` names. A picture that nothing is left of is one of background.
    """
    assert batch.named_targets is not None
    assert batch.geometry is not None
    found = []
    for place, target in enumerate(batch.named_targets):
        boxes, kept = batch.geometry.boxes(place, target["boxes"].reshape(-1, 4))
        if "crowd" in target:
            kept = kept & ~target["crowd"].bool()
        one = {"boxes": boxes[kept], "labels": target["labels"].long()[kept] + 1}
        if masks:
            one["masks"] = batch.geometry.mask(place, target["masks"][kept])
        if "proposals" in target:
            regions, seen = batch.geometry.boxes(place, target["proposals"].reshape(-1, 4))
            one["proposals"] = regions[seen]
        found.append(one)
    return found


def in_source(
    found: Mapping[str, Tensor], geometry: Geometry, place: int, size: tuple[int, int]
) -> list[Any]:
    """What a detector found in its input, carried back to the source picture, as JSON keeps it.

    Args:
        found: boxes (n, 4), scores (n,), labels (n,) from 1 on, perhaps masks (n, 1, 28, 28).
        geometry: of the batch.
        place: of the picture in it.
        size: width and height of the source.

    Returns:
        boxes, scores, labels from 0 on, and run lengths of the masks or None.
    """
    corners = geometry.source_points(place, found["boxes"].reshape(-1, 2, 2))
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    limit = boxes.new_tensor([*size, *size])
    boxes = boxes.clamp(min=0).minimum(limit)
    masks = None
    if "masks" in found:
        whole = paste_masks_in_image(found["masks"], boxes, (size[1], size[0]))
        masks = run_lengths((whole[:, 0] >= MASK_FROM).to(torch.uint8))
    return [boxes.tolist(), found["scores"].tolist(), (found["labels"] - 1).tolist(), masks]


def detections_of(plain: Sequence[Any]) -> Detections:
    """The same as a record."""
    boxes, scores, labels, masks = plain
    return Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
        masks,
    )


class _Picture(NamedTuple):
    """What is found and what is there, as JSON keeps it; `place` in the split."""

    place: int
    size: tuple[int, int]
    found: list[Any]
    truth: dict[str, Any]


def _by_index(picture: _Picture) -> int:
    return picture.place
