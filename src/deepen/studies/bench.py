"""Where a trial is done: its pictures, its seed, and a training that any stop leaves resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import permutation
from deepen.data.sources import PictureSet, Split, open_source
from deepen.evaluation.protocols import predict_logits
from deepen.models.architecture import Takes
from deepen.studies.study import Arm, Pictures, Setting, Trial
from deepen.training.checkpoint import load_checkpoint
from deepen.training.inputs import PHOTO_PX, prepare
from deepen.training.loop import Job, fit
from deepen.training.parts import Parts
from deepen.training.plan import Plan
from deepen.training.progress import Reporter, Row
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.run import Run
from deepen.training.speed import rules
from deepen.training.state import unpack_model

_SUBSET_SEED = 0  # which pictures are taken never changes


def take(pictures: Pictures, data_dir: Path | None, download: bool = False) -> PictureSet:
    """Training and test pictures of a study, as many as it asks for.

    Nothing is chosen on held-out pictures in a study, so none are held out; a folder without a
    test split is tested on its validation pictures.

    Raises:
        InputError: there is no such data set here.
    """
    source = open_source(pictures.name, data_dir=data_dir, download=download, validation=0)
    tested = source.splits.get("test") or source.splits.get("val")
    if tested is None:  # a folder whose validation pictures were merged into training
        source = open_source(pictures.name, data_dir=data_dir, download=download)
        tested = source.splits.get("test") or source.splits["val"]
    train = _subset(source.splits["train"], pictures.train)
    test = replace(_subset(tested, pictures.test), name="test")
    return replace(source, splits={"train": train, "test": test})


def _subset(split: Split, count: int | None) -> Split:
    if count is None or count >= len(split):
        return split
    kept = permutation(_SUBSET_SEED, 0, len(split))[:count].sort().values
    return split.take(kept.tolist())


class Trained(NamedTuple):
    """A network after training, and its line of metrics for each epoch."""

    network: nn.Module
    rows: list[Row]

    def curve(self, column: str) -> list[tuple[float, float]]:
        """Points (step, error in %) of train_top1 or eval_top1."""
        return [
            (float(row["step"] or 0), 100 - 100 * value)
            for row in self.rows
            if (value := row[column]) is not None
        ]


class _Reached(Exception):
    """The end that a trial waited for has come before the recipe's."""


@dataclass
class Bench:
    """All that a trial needs.

    Attributes:
        arm: what is tried.
        seed: with which.
        setting: of the study.
        source: its pictures.
        folder: of this trial alone.
        device: to train on.
        reporter: shown what happens.
    """

    arm: Arm
    seed: int
    setting: Setting
    source: PictureSet
    folder: Path
    device: torch.device
    reporter: Reporter

    def recipe(self, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The setting's recipe with the arm's changes and further ones."""
        own = {"validation": 0, "seed": self.seed}
        merged = {**self.setting.changes, **self.arm.changes, **(changes or {}), **own}
        return load_recipe(self.setting.recipe, merged)

    @cached_property
    def inputs(self) -> tuple[Preprocessing, Tensor | None]:
        """How pictures are prepared, by the recipe and what the arm's network takes."""
        spec = self.recipe().input
        size = spec.size_px or _side(self.source)
        free = Takes(size, self.source.channels, len(self.source.classes))
        return prepare(spec, self.source, self.arm.takes or free)

    def build(self) -> nn.Module:
        """The arm's network, its weights drawn from the trial's seed."""
        assert self.arm.build is not None
        preprocessing, _ = self.inputs
        torch.manual_seed(self.seed)
        return self.arm.build(
            len(self.source.classes), preprocessing.channels, preprocessing.size_px
        )

    def train(
        self,
        network: nn.Module,
        name: str = "run",
        changes: Mapping[str, Any] | None = None,
        until: Callable[[Row], bool] | None = None,
    ) -> Trained:
        """Train by the recipe, or until a row of metrics is as wanted; goes on where it stopped.

        Args:
            network: as it starts; trained in place.
            name: of the run, one of its own for each training of a trial.
            changes: of the recipe.
            until: seen each epoch.

        Raises:
            Diverged: the loss became infinite.
            WorkError: something could not be written.
            Interrupted, Preempted: asked to stop; what is done is kept.
        """
        recipe = self.recipe(changes)
        run = Run(self.folder / name)
        run.path.mkdir(parents=True, exist_ok=True)
        network.to(self.device)
        parts = self._parts(network, recipe)
        settings, _ = rules(recipe, parts.train, self.device)
        recipe = recipe.model_copy(update=settings._asdict())
        if settings.channels_last:
            network.to(memory_format=torch.channels_last)
        watching = _Watching(self.reporter, until)
        found = load_checkpoint(run.checkpoints)
        if found is not None and until is not None:
            rows: list[Row] = found.state["progress"]["history"]
            if rows and until(rows[-1]):  # reached, and then stopped
                unpack_model(found.tensors, network)
                return Trained(network, rows)
            watching.rows += rows
        job = Job(
            model=network,
            recipe=recipe,
            train=parts.train,
            validation=parts.batches("test"),
            run=run,
            device=self.device,
            save_weights=lambda kind, row, model: None,
        )
        try:
            rows = fit(job, watching, resume=True).history
        except _Reached:
            rows = watching.rows
        return Trained(network, rows)

    def error(self, network: nn.Module, split: Literal["train", "test"]) -> float:
        """Share of a split's pictures, not augmented, that a network gets wrong, in %."""
        batches = self._parts(network.to(self.device), self.recipe()).batches(split)
        found = predict_logits(network, batches.epoch(0), device=self.device)
        return 100 * (found.logits.argmax(1) != found.labels).float().mean().item()

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training pictures, not augmented, as a network sees them, and their labels."""
        recipe = self.recipe({"batch_size": count})
        first = next(iter(self._parts(nn.Identity(), recipe).batches("train").epoch(0)))
        return first.images, first.labels

    def trial(self, **parts: Any) -> Trial:
        """What this arm gave with this seed."""
        return Trial(arm=self.arm.name, seed=self.seed, **parts)

    def _parts(self, network: nn.Module, recipe: Recipe) -> Parts:
        preprocessing, mean_image = self.inputs
        plan = Plan(self.source.name, None, (), self.arm.name, recipe, self.source, ())
        return Parts(plan, network, preprocessing, mean_image, self.device, None)


class _Watching:
    """Passes all on to another reporter, keeps the rows, and ends the training once reached."""

    def __init__(self, shown: Reporter, until: Callable[[Row], bool] | None) -> None:
        self.shown, self.until = shown, until
        self.rows: list[Row] = []
        self.start, self.batch = shown.start, shown.batch
        self.message, self.close = shown.message, shown.close

    def epoch(self, row: Row, epochs: int) -> None:
        """See `Reporter`; the checkpoint of this epoch has been written."""
        self.shown.epoch(row, epochs)
        self.rows.append(row)
        if self.until is not None and self.until(row):
            raise _Reached


def train_and_score(bench: Bench, network: nn.Module | None = None) -> Trial:
    """The usual trial: train, and take the errors of the last epoch, as papers plot them."""
    trained = bench.train(bench.build() if network is None else network)
    train, test = trained.curve("train_top1"), trained.curve("eval_top1")
    return bench.trial(
        measures={"train_error": train[-1][1], "test_error": test[-1][1]},
        curves={"train_error": train, "test_error": test},
    )


def _side(source: PictureSet) -> int:
    """Height of the pictures of a data set that is in memory."""
    images = source.splits["train"].images
    return PHOTO_PX if images is None else images.shape[1]
