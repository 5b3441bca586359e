"""What the steps of an epoch came to: losses, the task's figures, bad pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepen.data.decode import PictureError
from deepen.data.loader import Batch
from deepen.errors import Diverged, InputError
from deepen.training.build import Job
from deepen.training.state import State
from deepen.training.task import Outcome


class Record:
    """Sums up the steps of an epoch, and stops the run at a loss that is no number.

    On the CPU it reads each loss before the step is taken; elsewhere reading would make the device
    wait, so losses are read fifty at a time, as those of several processes are. The task's figures
    are always summed up fifty steps at a time.
    """

    EVERY = 50

    def __init__(self, job: Job, state: State) -> None:
        self.job, self.state = job, state
        self.processes = job.here.processes
        self.at_once = job.here.place.type == "cpu" and self.processes.size == 1
        self.first = state.step  # of those not summed up yet
        self.kept: list[Any] = []
        self.unread: list[tuple[Tensor, Tensor, int]] = []  # loss, indices, step

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """Note a step, or a part of one, before it is taken."""
        if self.state.step >= self.first + self.EVERY:
            self.flush()
        if self.at_once:
            count = len(batch.indices)
            self._read(outcome.loss.item() * count, count, [batch.indices], self.state.step)
        else:
            self.unread.append((outcome.loss.detach(), batch.indices, self.state.step))
        if len(batch.labels):
            self.kept.append(outcome.kept)

    def add_losses(self, losses: Sequence[tuple[Tensor, Tensor, int]], sums: Tensor) -> None:
        """Note steps that have been taken: (loss, indices, step) each, and the figures' sums."""
        self.unread += losses
        self.flush()
        self._sum(sums)

    def flush(self) -> None:
        """Bring the state up to date.

        Raises:
            Diverged: a loss is NaN or infinite; names epoch, step and the pictures of the batch.
        """
        first, steps = self.first, self.state.step - self.first
        if steps and (self.unread or not self.at_once):
            sums = torch.zeros(2, steps, dtype=torch.float64)  # loss and pictures of each step
            places: list[list[Tensor]] = [[] for _ in range(steps)]
            if self.unread:
                losses, indices, at = zip(*self.unread, strict=True)
                where = torch.tensor(at) - first
                pictures = torch.tensor([len(each) for each in indices], dtype=torch.float64)
                values = torch.stack(losses).double().cpu()  # waits for the device, once
                sums[0].index_add_(0, where, values * pictures)
                sums[1].index_add_(0, where, pictures)
                for each, step in zip(indices, at, strict=True):
                    places[step - first].append(each)
            totals, counts = self.processes.sum(sums).tolist()
            for step in range(steps):
                self._read(totals[step], int(counts[step]), places[step], first + step)
        if steps:
            self._sum(self.job.task.tally(self.kept))
        self.first += steps
        self.unread.clear()
        self.kept.clear()

    def _sum(self, sums: Tensor) -> None:
        totals = self.processes.sum(sums.cpu()).tolist()
        for name, total in zip(self.job.task.figures, totals, strict=True):
            self.state.sums[name] = self.state.sums.get(name, 0.0) + total

    def _read(self, total: float, count: int, indices: list[Tensor], step: int) -> None:
        if not math.isfinite(total):
            raise Diverged(self._diverged(total, indices, step))
        self.state.loss_sum += total
        self.state.images += count
        if count:
            self.job.here.reporter.batch(count, total / count)

    def note_bad(self, errors: Sequence[PictureError], *, training: bool) -> None:
        """Name the pictures that could not be decoded, once each.

        Raises:
            InputError: they have become more than the recipe's share of the training pictures.
        """
        state, limit = self.state, self.job.recipe.max_bad_pictures
        for error in errors:
            if error.path not in state.bad:
                state.bad[error.path] = error.reason
                state.num_bad_training += training
                self.job.here.reporter.message(f"left out: {error}")
        if errors and state.num_bad_training > limit * self.job.train.num_images:
            raise InputError(
                f"{state.num_bad_training} of {self.job.train.num_images} training pictures cannot "
                f"be decoded, more than max_bad_pictures {limit:.0%}; the last: {errors[-1]}; "
                f"see them all with: deepen doctor"
            )

    def _diverged(self, value: float, indices: list[Tensor], step: int) -> str:
        split = self.job.train.split
        parts = self.processes.gather(torch.cat(indices).tolist())
        names = [split.key(i) for part in parts for i in part]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f"the loss is {value} in epoch {self.state.epoch + 1}, step {step + 1}; "
            f"nothing was overwritten; pictures of the batch: {shown}; try a smaller --lr"
        )
