"""A learning-rate range test (Smith 2015, section 3.3): a short run at rates that rise all along.

The rates rise geometrically, step by step, until the loss has grown far beyond its best. The
network is trained on the way, so a fresh one is taken for it and nothing of it is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from deepen import charts
from deepen.data.loader import Batch
from deepen.display import Part, Table, displayed
from deepen.errors import InputError, WorkError
from deepen.training.build import Job
from deepen.training.finetuning import train_mode
from deepen.training.step import Step
from deepen.training.task import Outcome

_SMOOTHING = 0.9
_ROWS = 20  # shown
_DIVERGED = 4.0
"""The test ends at a smoothed loss of so many times the least."""


@displayed
class Sweep(NamedTuple):
    """What a range test found.

    Attributes:
        rates: the learning rate of each step taken.
        losses: of each step, an exponential average of those so far (0.9, corrected for its start).
        best: the rate at which that average was least.
        suggestion: a tenth of it, where the loss still falls fast.
        diverged: whether the loss grew to four times its least before the highest rate.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    best: float
    suggestion: float
    diverged: bool

    def display(self) -> list[Part]:
        """What it shows of itself: some of the steps, and what is suggested."""
        every = -(-len(self.rates) // _ROWS)
        some = zip(self.rates[::every], self.losses[::every], strict=True)
        rows = [(f"{rate:.3g}", f"{loss:.4f}") for rate, loss in some]
        return [
            Table(("learning rate", "loss"), rows, words=0),
            "",
            f"least at {self.best:.3g}{'; it diverged beyond' if self.diverged else ''}",
            f"suggested  --lr {self.suggestion:.2g}",
        ]


class _Diverged(Exception):
    """The loss has grown far beyond its best, or is no number."""


class _Smoothed:
    """Losses of the steps so far, averaged; ends the test before a step that has diverged."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.average, self.least = 0.0, math.inf

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """See `deepen.training.step.Notes`."""
        self.average = _SMOOTHING * self.average + (1 - _SMOOTHING) * outcome.loss.item()
        smooth = self.average / (1 - _SMOOTHING ** (len(self.losses) + 1))
        if not smooth <= _DIVERGED * self.least:  # NaN too
            raise _Diverged
        self.losses.append(smooth)
        self.least = min(self.least, smooth)

    def add_losses(self, losses: Sequence[tuple[Tensor, Tensor, int]], sums: Tensor) -> None:
        """Nothing: each loss is wanted before its step is taken."""


def sweep(job: Job, *, lowest: float = 1e-6, highest: float = 10.0, steps: int = 100) -> Sweep:
    """Train a network in place at rising rates; the recipe's own rate and schedule are not used.

    Args:
        job: goes through its epochs for as long as needed; no run of it is kept.
        lowest: first learning rate.
        highest: last learning rate.
        steps: from one to the other.

    Raises:
        InputError: rates that do not rise, or fewer than two steps.
        WorkError: the loss is no number from the start.
    """
    if not 0 < lowest < highest < math.inf or steps < 2:
        raise InputError("the rates must rise from above 0, in two steps at least")
    # Each loss is read before the step that follows from it, of whole batches.
    recipe = job.recipe.model_copy(update={"accumulate": 1, "cuda_graph": False})
    step, notes = Step(replace(job, recipe=recipe)), _Smoothed()
    shares = [group["lr"] / recipe.optimizer.lr for group in step.optimizer.param_groups]
    train_mode(job.network, recipe.finetune.freeze)
    rates = [lowest * (highest / lowest) ** (number / (steps - 1)) for number in range(steps)]
    taken: list[float] = []
    batches = itertools.chain.from_iterable(map(job.train.epoch, itertools.count()))
    for number, (rate, batch) in enumerate(zip(rates, batches, strict=False)):
        for group, share in zip(step.optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        try:
            step.take(batch, number, notes)
        except _Diverged:
            break
        if len(notes.losses) > len(taken):
            taken.append(rate)
    if not taken:
        raise WorkError("the loss is no finite number from the start, at any learning rate")
    best = taken[notes.losses.index(notes.least)]
    return Sweep(tuple(taken), tuple(notes.losses), best, best / 10, len(taken) < steps)


def check_chart(path: Path) -> None:
    """Refuse what `draw` cannot write.

    Raises:
        InputError: another ending.
    """
    charts.check_path(path)


def draw(found: Sweep, path: Path) -> None:
    """The smoothed loss against the rate as an .svg or a .png, written over.

    Raises:
        InputError: another ending.
        WorkError: it could not be written.
    """
    from matplotlib.figure import Figure  # takes a second

    with charts.plain():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(found.rates, found.losses)
        axes.axvline(found.suggestion, color="grey", linestyle=":", label=f"{found.suggestion:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed")
        axes.legend(title="suggested")
        charts.save(figure, path)
