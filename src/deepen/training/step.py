"""One step: forward, loss, backward, clip, optimizer, average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepen.data.loader import Batch
from deepen.training.averages import build_averages
from deepen.training.build import Job
from deepen.training.optimizer import build_optimizer
from deepen.training.speed import forward_of, settings_of
from deepen.training.task import Outcome


class Notes(Protocol):
    """Where steps are noted (`deepen.training.record.Record`)."""

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """A batch, or a part of it, once its loss is known and before anything is changed."""
        ...

    def add_losses(self, losses: Sequence[tuple[Tensor, Tensor, int]], sums: Tensor) -> None:
        """Steps that have been taken: (loss, indices, number) each, and the figures' sums."""
        ...


class Step:
    """Takes steps on batches; the learning rates are the optimizer's, whoever sets them.

    Attributes:
        network: trained in place.
        optimizer: of its parameters that are trained.
        averages: of its weights, where the recipe wants them.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.recipe, self.network = job, job.recipe, job.network
        self.optimizer = build_optimizer(
            job.network, job.recipe.optimizer, job.recipe.finetune.lr_decay
        )
        self.averages = build_averages(job.network, job.recipe.ema)
        self.precision: AbstractContextManager[Any] = nullcontext()
        if settings_of(job.recipe).amp:
            self.precision = torch.autocast(job.here.place.type, torch.bfloat16)

    @property
    def shown(self) -> nn.Module:
        """What is evaluated and saved: the average where there is one."""
        return self.network if self.averages is None else self.averages.model

    @cached_property
    def forward(self) -> Callable[..., Any]:
        """The network's forward pass; of several processes, all make it at once."""
        compiled = forward_of(self.network, settings_of(self.recipe))
        return self.job.here.processes.wrap(self.network, compiled)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """An epoch's batches from one on, as `take` wants them."""
        return self.job.train.epoch(epoch, start=start)

    def take(self, batch: Batch, number: int, notes: Notes) -> None:
        """Step number `number`, counted from 0; `notes` may raise, then nothing was changed."""
        if not len(batch.labels) and not batch.elsewhere:
            return  # not one of its pictures could be decoded
        self.job.here.processes.seed(self.recipe.seed, number)
        for part, share in micro_batches(batch, self.recipe.accumulate, self.job.train.fewest):
            with self.precision:
                outputs = self.job.task.run(self.forward, part)
            outcome = self.job.task.loss_of(outputs, part, self.network)
            notes.add(part, outcome)
            outcome.loss.backward(share)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averages is not None:
            self.averages.update(number)

    def hand_over(self, notes: Notes) -> None:
        """Note those of the steps taken that are not noted yet; here all are."""


def micro_batches(
    batch: Batch, parts: int, fewest: int = 1
) -> Iterator[tuple[Batch, Tensor | None]]:
    """Up to `parts` pieces of a batch, each with its share of the pictures (None: all of them).

    None has less than `fewest` pictures (1 or 2): the last piece takes in what would be alone.
    With gradients of mean losses scaled by these shares, their sum is the whole batch's gradient.
    """
    if parts == 1 or len(batch.labels) < 2:
        yield batch, None
        return
    count = len(batch.labels)
    size = max(fewest, math.ceil(count / parts))
    starts = range(0, max(1, count + 1 - fewest), size)
    for start in starts:
        part = batch[start : count if start == starts[-1] else start + size]
        yield part, batch.images.new_tensor(len(part.labels) / count)
