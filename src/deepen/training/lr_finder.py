"""A learning-rate range test (Smith 2015, section 3.3): a short run at rates that rise all along.

The rates rise geometrically, step by step, until the loss has grown far beyond its best. The
network is trained on the way, so a fresh one is taken for it and nothing of it is kept.
"""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from deepen import charts
from deepen.data.loader import Batches
from deepen.errors import InputError, WorkError
from deepen.training.finetuning import train_mode
from deepen.training.loop import combine
from deepen.training.optimizer import Objective, build_optimizer
from deepen.training.recipe import Recipe

_SMOOTHING = 0.9
_DIVERGED = 4.0
"""The test ends at a smoothed loss of so many times the least."""


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


def sweep(
    model: nn.Module,
    train: Batches,
    recipe: Recipe,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
) -> Sweep:
    """Train `model` in place at rising rates; the recipe's own rate and schedule are not used.

    Args:
        model: on the device of the batches.
        train: goes through its epochs for as long as needed.
        recipe: optimizer, loss, freezing, clipping and precision.
        lowest: first learning rate.
        highest: last learning rate.
        steps: from one to the other.

    Raises:
        InputError: rates that do not rise, or fewer than two steps.
        WorkError: the loss is no number from the start.
    """
    if not 0 < lowest < highest < math.inf or steps < 2:
        raise InputError("the rates must rise from above 0, in two steps at least")
    optimizer = build_optimizer(model, recipe.optimizer, recipe.finetune.lr_decay)
    shares = [group["lr"] / recipe.optimizer.lr for group in optimizer.param_groups]
    objective = Objective(recipe.loss)
    precision = torch.autocast(train.device.type, torch.bfloat16) if recipe.amp else nullcontext()
    train_mode(model, recipe.finetune.freeze)
    rates: list[float] = []
    losses: list[float] = []
    average, least = 0.0, math.inf
    batches = itertools.chain.from_iterable(map(train.epoch, itertools.count()))
    for step, batch in zip(range(steps), batches, strict=False):
        if not len(batch.labels):
            continue
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        with precision:
            outputs = model(batch.images)
        loss = combine(outputs, batch.targets, objective, model)[1]
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss.item()
        smooth = average / (1 - _SMOOTHING ** (len(losses) + 1))
        if not smooth <= _DIVERGED * least:  # NaN too
            break
        rates.append(rate)
        losses.append(smooth)
        least = min(least, smooth)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    if not losses:
        raise WorkError("the loss is no finite number from the start, at any learning rate")
    best = rates[losses.index(least)]
    return Sweep(tuple(rates), tuple(losses), best, best / 10, len(losses) < steps)


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
