"""Why is my mAP zero? What is wrong with boxes, anchors, rate or thresholds, before a long run.

First statistics, which need no training: labels, boxes against the pictures (see `readings`) and
against the anchors. Then the detector is trained on a handful of pictures, as the recipe has it and
at other rates: what cannot learn these by heart will learn nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from deepen.data.annotated.readings import (
    READINGS,
    UNKNOWN,
    Fit,
    extent_of,
    fit,
    read,
    told_classes,
)
from deepen.data.decode import PictureError
from deepen.data.loader import Batch, Batches
from deepen.data.randomness import permutation
from deepen.data.split import Split
from deepen.detection.settings import DetectorSettings
from deepen.detection.task import Detection
from deepen.errors import InputError
from deepen.training.build import Job, build
from deepen.training.finetuning import train_mode
from deepen.training.plan import Plan, varied
from deepen.training.recipe import build_recipe
from deepen.training.request import Here
from deepen.training.step import Step
from deepen.training.task import Outcome

PICTURES = 160
"""That statistics look at, at most."""
BETTER = 0.06
"""By how much another reading's score is above the given one's before it is believed."""
NOTHING = 0.08
"""Boxes that crops are told by no better than by boxes of other pictures have nothing to do with
their pictures; of classes the same."""
SHUFFLES = 3
UNIT = 1.5
FAR = 0.25
"""Where the best anchor of half the boxes overlaps less (IoU), no loss teaches the proposals."""
HANDFUL, STEPS, LONGER = 8, 40, 80
APART = 30.0
"""Rates that are tried beside the recipe's: so many times less and more."""
LAST = 10
"""Steps whose mean loss is compared."""


class Trouble(NamedTuple):
    """Something that will keep a detector from learning, or from showing what it learned."""

    fault: str
    words: str


class Looked(NamedTuple):
    """What was found, and the figures behind it in words."""

    troubles: list[Trouble]
    notes: list[str]


def look(plan: Plan, here: Here) -> Looked:
    """Statistics, and where these find nothing, a short training on a handful of pictures.

    Nothing is written. The plan's seed decides which pictures are looked at.

    Raises:
        InputError: the plan is no detector's.
    """
    job = build(plan, here)
    if not isinstance(job.task, Detection):
        raise InputError(f"task {plan.recipe.task}: detects no boxes")
    split = plan.source.splits["train"]
    found = of_labels(split, len(plan.source.classes))
    if not found.troubles:
        found = _plus(found, of_boxes(split, plan.recipe.seed))
    if not found.troubles:
        found = _plus(found, of_inputs(job, split))
    if not found.troubles:
        found = _plus(found, by_heart(plan, here))
    return found


def _plus(one: Looked, two: Looked) -> Looked:
    return Looked(one.troubles + two.troubles, one.notes + two.notes)


def of_labels(split: Split, num_classes: int) -> Looked:
    """Labels that are not of the classes, in one way or another."""
    labels = np.concatenate([np.asarray(target["labels"]) for target in _targets(split)])
    least, most = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    notes = [f"{len(labels):,} boxes of {num_classes} classes, labels {least} to {most}"]
    if least >= 0 and most < num_classes:
        return Looked([], notes)
    words = f"labels go from {least} to {most}, classes from 0 to {num_classes - 1}"
    if (least, most) == (1, num_classes):
        words += ": they are counted from 1"
    return Looked([Trouble("labels are off by one", words)], notes)


def of_boxes(split: Split, seed: int) -> Looked:
    """Boxes that do not lie on things, and classes that things do not show."""
    rng = np.random.default_rng(seed)
    pictures, boxes, labels = _drawn(split, seed)
    if not boxes:
        return Looked([Trouble("there are no boxes", "no training picture has one")], [])
    if len(boxes) == 1:  # there is no other picture to compare with
        return Looked([], [])
    if (most := extent_of(pictures, boxes).px.max()) <= UNIT:
        words = f"no box goes beyond {most:.2f} px"
        return Looked([Trouble("boxes are shares of the picture, 0 to 1, not px", words)], [])
    given = fit(pictures, boxes, rng)
    ways = [(reading, read(pictures, boxes, reading)) for reading in READINGS]
    found = [(reading.fault, fit(pictures, each, rng), each) for reading, each in ways]
    fault, best, mended = max(found, key=lambda each: each[1].score)
    if best.score <= given.score + BETTER:
        fault, best, mended = "", given, boxes
    others = [fit(pictures, _of_others(pictures, mended, rng), rng) for _ in range(SHUFFLES)]
    chance = float(np.mean([each.told for each in others]))
    notes = [
        f"boxes as given: {_fit_in_words(given)}; boxes of other pictures with {chance:.2f}",
    ]
    if best.told < chance + NOTHING and best.told != UNKNOWN:
        return Looked([Trouble("boxes are of other pictures", notes[0])], notes)
    if fault:
        words = f"as given {_fit_in_words(given)}; read otherwise {_fit_in_words(best)}"
        return Looked([Trouble(f"boxes: {fault}", words)], notes)
    told, by_chance = told_classes(pictures, boxes, labels, rng)
    if told < by_chance + NOTHING:
        words = (
            f"crops tell their classes with a balanced accuracy of {told:.2f}; with labels drawn "
            f"anew {by_chance:.2f}"
        )
        return Looked([Trouble("labels have nothing to do with what boxes show", words)], notes)
    return Looked([], notes)


def of_inputs(job: Job, split: Split) -> Looked:
    """What the network is shown: anchors against boxes, and the range of the pictures."""
    places = permutation(job.recipe.seed, 0, len(split))[:PICTURES].tolist()
    batches = Batches(
        split.take(places), job.train.preprocessing, batch_size=8, mean_image=job.train.mean_image
    )
    overlaps, spread = [], []
    for batch in batches.epoch(0):
        assert batch.geometry is not None
        assert batch.named_targets is not None
        anchors = _anchors(job.network, batch.images)
        spread += batch.images.std((1, 2, 3)).tolist()
        for place, target in enumerate(batch.named_targets):
            boxes, seen = batch.geometry.boxes(place, target["boxes"].reshape(-1, 4))
            if anchors is not None and seen.any():
                overlaps.append(box_iou(boxes[seen], anchors).amax(1))
    troubles, notes = [], []
    middle = float(np.median(spread))
    if not 0.1 < middle < 10:
        words = f"the input's standard deviation is {middle:.3g} in the median picture, not about 1"
        troubles.append(Trouble("pictures are not normalized", words))
    if overlaps:
        best = torch.cat(overlaps)
        half = best.median().item()
        notes.append(f"best anchor of a box: IoU {half:.2f} in the median")
        if half < FAR:
            sides = [math.sqrt(area) for area in _areas(job, batches)]
            words = (
                f"the best anchor of half the boxes overlaps by less than {half:.2f} (IoU); boxes "
                f"have sides of {np.quantile(sides, 0.05):.0f} to {np.quantile(sides, 0.95):.0f} "
                "px in the input: set anchor_px to that range"
            )
            troubles.append(Trouble("anchors do not fit the boxes", words))
    return Looked(troubles, notes)


def by_heart(plan: Plan, here: Here) -> Looked:
    """Train on a handful of pictures, at the recipe's rate and at others; then see its boxes."""
    rate = plan.recipe.optimizer.lr
    handful = _handful(plan, here)
    own, lower = _Short(handful, here, rate), _Short(handful, here, rate / APART)
    own.take(STEPS)
    lower.take(STEPS)
    notes = [
        f"on {len(handful.source.splits['train'])} pictures, {STEPS} steps: loss "
        f"{own.first:.2f} to {own.last:.2f}; at a rate of {rate / APART:.2g} to {lower.last:.2f}"
    ]
    if own.diverged or lower.last < 0.9 * own.last:
        words = f"loss {own.last:.3g} at {rate:.2g}, {lower.last:.3g} at {rate / APART:.2g}"
        return Looked([Trouble("the learning rate is too high", words)], notes)
    if own.last > 0.9 * own.first:
        higher = _Short(handful, here, rate * APART)
        higher.take(STEPS)
        if higher.last < 0.8 * own.last:
            words = f"loss {own.last:.3g} at {rate:.2g}, {higher.last:.3g} at {rate * APART:.2g}"
            return Looked([Trouble("the learning rate is too low", words)], notes)
    if getattr(own.job.network, "roi_heads", None) is None:  # proposals alone
        return Looked([], notes)
    own.take(LONGER)
    with_own, with_usual = own.ap50(None), own.ap50(DetectorSettings())
    notes.append(f"after {STEPS + LONGER} steps AP50 on them {with_usual:.2f}")
    if with_usual > 0.05 and with_own < 0.5 * with_usual:
        words = f"AP50 on the pictures trained on {with_own:.2f}; by usual ones {with_usual:.2f}"
        return Looked([Trouble("thresholds leave out what was found", words)], notes)
    return Looked([], notes)


class _Short:
    """A detector trained for a few steps at one rate."""

    def __init__(self, plan: Plan, here: Here, rate: float) -> None:
        self.job, self.here, self.rate = build(plan, here), here, rate
        self.step, self.losses = Step(self.job), list[float]()
        self.shares = [
            group["lr"] / plan.recipe.optimizer.lr for group in self.step.optimizer.param_groups
        ]
        train = self.job.train
        self.batches = itertools.chain.from_iterable(map(train.epoch, itertools.count()))

    def take(self, count: int) -> None:
        """Take so many steps, or up to a loss that is no number."""
        train_mode(self.job.network, self.job.recipe.finetune.freeze)
        for batch in itertools.islice(self.batches, count):
            if self.diverged:
                return
            for group, share in zip(self.step.optimizer.param_groups, self.shares, strict=True):
                group["lr"] = self.rate * share
            self.step.take(batch, len(self.losses), self)

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """See `deepen.training.step.Notes`."""
        self.losses.append(outcome.loss.item())

    def add_losses(self, losses: Sequence[tuple[Tensor, Tensor, int]], sums: Tensor) -> None:
        """Nothing: each loss is wanted as it comes."""

    @property
    def diverged(self) -> bool:
        """Whether the last loss is no number."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    @property
    def first(self) -> float:
        """The loss of the first step."""
        return self.losses[0]

    @property
    def last(self) -> float:
        """The mean loss of the last steps; infinite where one is no number."""
        mean = float(np.mean(self.losses[-LAST:]))
        return mean if math.isfinite(mean) else math.inf

    def ap50(self, settings: DetectorSettings | None) -> float:
        """Of the pictures trained on, by one's own thresholds (None) or others."""
        assert isinstance(self.job.task, Detection)
        assert self.job.validation is not None
        with _thresholds(self.job.network, settings):
            found = self.job.task.predict(self.job.network, self.job.validation.epoch(0), self.here)
            return self.job.task.scores(found)["ap50"] or 0.0


@contextmanager
def _thresholds(network: nn.Module, settings: DetectorSettings | None) -> Any:
    heads: Any = network.roi_heads
    names = {"score_thresh": "least_score", "nms_thresh": "nms", "detections_per_img": "detections"}
    before = {name: getattr(heads, name) for name in names}
    for name, field in names.items() if settings is not None else ():
        setattr(heads, name, getattr(settings, field))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(heads, name, value)


def _handful(plan: Plan, here: Here) -> Plan:
    """The plan on a handful of its training pictures, to be learned by heart."""
    split = plan.source.splits["train"]
    drawn = permutation(plan.recipe.seed, 1, len(split)).tolist()
    full = [place for place in drawn if len(_targets(split)[place]["boxes"])][:HANDFUL]
    few = split.take(full)
    source = replace(plan.source, splits={"train": few, "val": replace(few, name="val")})
    fields = plan.recipe.model_dump(mode="json", exclude_none=True)
    changes = {"schedule.name": "constant", "length.epochs": 1000, "augment": {}}
    changes |= {"batch_size": min(plan.recipe.batch_size, HANDFUL // 2), "accumulate": 1}
    changes["scored"] = "val"  # the handful itself
    recipe = build_recipe("by heart", fields, changes)
    return varied(replace(plan, source=source), recipe, here)


def _targets(split: Split) -> Sequence[Any]:
    if split.targets is None:
        raise InputError("these pictures have no boxes")
    return split.targets


def _drawn(split: Split, seed: int) -> tuple[list[Image.Image], list[np.ndarray], list[np.ndarray]]:
    """Pictures with boxes, these and their labels; those that cannot be decoded are not drawn."""
    pictures, boxes, labels = [], [], []
    for place in permutation(seed, 0, len(split)).tolist():
        target = _targets(split)[place]
        if len(pictures) == PICTURES or not len(target["boxes"]):
            continue
        try:
            pictures.append(split.picture(place, 3))
        except PictureError:
            continue
        boxes.append(np.asarray(target["boxes"], np.float64).reshape(-1, 4))
        labels.append(np.asarray(target["labels"]))
    return pictures, boxes, labels


def _of_others(
    pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """Boxes of the pictures in another order, each as a share of its picture."""
    order = np.roll(np.arange(len(pictures)), 1 + rng.integers(len(pictures) - 1))
    scales = [np.tile(picture.size, 2) for picture in pictures]
    return [
        boxes[other] / scales[other] * scales[place] for place, other in enumerate(order.tolist())
    ]


def _fit_in_words(found: Fit) -> str:
    return f"{100 * found.inside:.0f}% lie in their pictures, crops told with {found.told:.2f}"


def _anchors(network: nn.Module, images: Tensor) -> Tensor | None:
    """All anchors of a picture, (A, 4) in px of the input; None where there are none."""
    rpn, backbone = getattr(network, "rpn", None), getattr(network, "backbone", None)
    if rpn is None or backbone is None:
        return None
    was = network.training
    network.eval()
    with torch.no_grad():
        maps = list(backbone(images[:1]).values())
    network.train(was)
    pictures = ImageList(images[:1], [(images.shape[2], images.shape[3])])
    return rpn.anchor_generator(pictures, maps)[0]


def _areas(job: Job, batches: Batches) -> list[float]:
    """Of the boxes in px² of the input."""
    areas: list[float] = []
    for batch in batches.epoch(0):
        assert batch.geometry is not None
        assert batch.named_targets is not None
        for place, target in enumerate(batch.named_targets):
            boxes, seen = batch.geometry.boxes(place, target["boxes"].reshape(-1, 4))
            areas += (boxes[:, 2:] - boxes[:, :2]).prod(1)[seen].tolist()
    return areas
