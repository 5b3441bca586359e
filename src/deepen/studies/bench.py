"""Where a trial is done: its pictures, its seed, and runs that any stop leaves resumable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from deepen.data.drawn import Drawn
from deepen.data.sources import PictureSet, open_source
from deepen.evaluation.metrics import in_top
from deepen.evaluation.protocols import predict_logits
from deepen.studies.study import Arm, Pictures, Setting, Trial
from deepen.training.build import batches, build, card
from deepen.training.checkpoint import load_checkpoint
from deepen.training.environment import Began, write_environment
from deepen.training.loop import fit
from deepen.training.plan import Plan, settle
from deepen.training.progress import Passing, Reporter, Row, Silent
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.request import Here, Request
from deepen.training.run import Run
from deepen.training.state import check_plain, unpack_model
from deepen.weights import save_weights


def take(
    pictures: Pictures,
    data_dir: Path | None,
    download: bool = False,
    exclude: Collection[str] = (),
) -> PictureSet:
    """Training and test pictures of a study, as many as it asks for, but for those to exclude.

    Nothing is chosen on held-out pictures in a study, so none are held out.

    Raises:
        InputError: there is no such data set here.
    """
    word = str(Drawn(*astuple(pictures)))
    return open_source(word, data_dir=data_dir, download=download, exclude=exclude)


class Fitted(NamedTuple):
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
        model: the name of its network.
        seed: with which.
        setting: of the study.
        source: its pictures.
        folder: of this trial alone.
        here: where it runs.
        exclude: pictures and boxes that were left out of the source.
    """

    arm: Arm
    model: str
    seed: int
    setting: Setting
    source: PictureSet
    folder: Path
    here: Here
    exclude: tuple[str, ...] = ()

    def recipe(self, changes: Mapping[str, Any] | None = None) -> Recipe:
        """The setting's recipe with the arm's changes and further ones."""
        return load_recipe(self.setting.recipe, self._changes(changes))

    def _changes(self, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Errors on the test pictures are followed, as papers plot them; they choose nothing."""
        own = {"validation": 0, "scored": "test", "seed": self.seed}
        return {**self.setting.changes, **self.arm.changes, **(changes or {}), **own}

    def plan(
        self,
        changes: Mapping[str, Any] | None = None,
        model: str | None = None,
        weights: Path | None = None,
    ) -> Plan:
        """What a training of the arm's network, or of another, is going to do."""
        request = Request(
            self.source,
            model=model or self.model,
            recipe=self.setting.recipe,
            changes=self._changes(changes),
            weights=weights,
        )
        plan = settle(request, self.here.watched(Silent()))
        return replace(plan, excluded=self.exclude)

    @cached_property
    def _plain(self) -> Plan:
        return self.plan()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the arm's network sees."""
        preprocessing = self._plain.input.preprocessing
        return preprocessing.channels, *preprocessing.size_px

    def build(self) -> nn.Module:
        """The arm's network, its weights drawn from the trial's seed, in torch's own format."""
        network = build(self._plain, self.here).network
        return network.to(memory_format=torch.contiguous_format)

    def train(
        self,
        name: str = "run",
        changes: Mapping[str, Any] | None = None,
        *,
        until: Callable[[Row], bool] | None = None,
        model: str | None = None,
        start: nn.Module | None = None,
    ) -> Fitted:
        """Train by the recipe, or until a row of metrics is as wanted; goes on where it stopped.

        Args:
            name: of the run, one of its own for each training of a trial.
            changes: of the recipe.
            until: seen each epoch.
            model: another network than the arm's, by its name.
            start: the weights that it starts with, where they are not drawn from the seed.

        Raises:
            Diverged: the loss became infinite.
            WorkError: something could not be written.
            Interrupted, Preempted: asked to stop; what is done is kept.
        """
        weights = None
        if start is not None:
            weights = self.folder / f"{name}.safetensors"
            if not weights.is_file():
                plan = self.plan(changes, model)
                self.folder.mkdir(parents=True, exist_ok=True)
                save_weights(weights, start, card(plan, "", "", {}, 0), plan.input.mean_image)
        plan = self.plan(changes, model, weights)
        run = Run(self.folder / name)
        if not (run.path / "recipe.yaml").is_file():
            run = Run.begin(run.path, "", plan.about(), plan.recipe)
        watching = _Watching(self.here.reporter, until)
        here = self.here.watched(watching)
        job = build(plan, here)
        found = load_checkpoint(run.checkpoints, check_plain)
        if found is not None and until is not None:
            rows: list[Row] = found.state["progress"]["history"]
            if rows and until(rows[-1]):  # reached, and then stopped
                unpack_model(found.tensors, job.network)
                return Fitted(job.network, rows)
            watching.rows += rows
        began = Began()
        write_environment(run, here, began)
        try:
            rows = fit(job, run).history
        except _Reached:
            rows = watching.rows
        write_environment(run, here, began, ended=True)
        return Fitted(job.network, rows)

    def error(self, network: nn.Module, split: Literal["train", "test"]) -> float:
        """Share of a split's pictures, not augmented, that a network gets wrong, in %."""
        place = self.here.place
        pictures = batches(self._plain, self.here, split).epoch(0)
        found = predict_logits(network.to(place), pictures, device=place)
        return 100 * (~in_top(1, found.logits, found.labels)).float().mean().item()

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training pictures, not augmented, as a network sees them, and their labels."""
        plan = self.plan({"batch_size": count})
        first = next(iter(batches(plan, self.here, "train").epoch(0)))
        return first.images, first.labels

    def trial(self, **parts: Any) -> Trial:
        """What this arm gave with this seed."""
        return Trial(arm=self.arm.name, seed=self.seed, **parts)


class _Watching(Passing):
    """Keeps the rows, and ends the training once reached."""

    def __init__(self, shown: Reporter, until: Callable[[Row], bool] | None) -> None:
        super().__init__(shown)
        self.until = until
        self.rows: list[Row] = []

    def epoch(self, row: Row, epochs: int) -> None:
        """See `Reporter`; the checkpoint of this epoch has been written."""
        super().epoch(row, epochs)
        self.rows.append(row)
        if self.until is not None and self.until(row):
            raise _Reached


def train_and_score(bench: Bench) -> Trial:
    """The usual trial: train, and take the errors of the last epoch, as papers plot them."""
    return scored(bench, bench.train())


def scored(bench: Bench, fitted: Fitted) -> Trial:
    """The errors of the last epoch, and of all, of a network that was trained by the recipe."""
    train, test = fitted.curve("train_top1"), fitted.curve("eval_top1")
    return bench.trial(
        measures={"train_error": train[-1][1], "test_error": test[-1][1]},
        curves={"train_error": train, "test_error": test},
    )
