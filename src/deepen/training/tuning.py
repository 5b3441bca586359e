"""Speed settings by measurement: candidates take turns at the real step, the fastest is kept."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch

from deepen.data.loader import Batch, Batches
from deepen.data.sources import Split
from deepen.errors import InputError, WorkError
from deepen.training.build import Job, build
from deepen.training.captured import step_of
from deepen.training.finetuning import train_mode
from deepen.training.plan import Plan
from deepen.training.progress import Silent
from deepen.training.recipe import Recipe
from deepen.training.record import Record
from deepen.training.request import Here
from deepen.training.speed import (
    Settings,
    cpu_has_bfloat16,
    keep_memory,
    settings_of,
    why_no_graph,
)
from deepen.training.state import State
from deepen.training.stop import StopRequest

ROUNDS = 5
TURN_S = 0.3
GPU_BLOCK = 20
"""Steps that are timed as one on a GPU, which works behind Python's back."""
GAIN = 1.03
"""What the fastest must gain on the rules' choice to be taken instead: less is noise."""


def tuned(plan: Plan, here: Here) -> Plan:
    """The plan with the fastest of the settings that it left open, where `here` wants them so.

    Raises:
        InputError: there are several processes.
        WorkError: no setting runs.
    """
    if not here.tune or not plan.left_open:
        return plan
    if here.processes.size > 1:
        raise InputError("--tune measures one process; give its recipe to the others")
    open_again = plan.recipe.model_copy(update=dict.fromkeys(plan.left_open))
    job = build(plan, here.watched(Silent()))
    settings, words = measure(replace(job, recipe=open_again), settings_of(plan.recipe))
    recipe = open_again.model_copy(update=settings._asdict())
    return replace(plan, recipe=recipe, speed=words)


def measure(job: Job, by_rule: Settings) -> tuple[Settings, str]:
    """The fastest settings for this network and batch on this machine, and all medians in a line.

    Each candidate trains a copy of the network by the real step, in turns with the others:
    network and random numbers are left as they were. What the recipe states is not varied; plain
    eager torch is among the candidates wherever the recipe allows it.

    Raises:
        WorkError: no candidate ran; the reason of the first is given.
    """
    keep_memory()
    times: dict[Settings, list[float]] = {}
    failed: dict[Settings, str] = {}
    device = job.here.place
    job = replace(job, train=job.train if job.train.resident else _Repeated(job.train))
    with (
        ExitStack() as stack,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        StopRequest() as stop,
    ):
        trials: dict[Settings, Generator[None, None, None]] = {}
        for settings in candidates(job.recipe, job.train.split, by_rule, device):
            trial = _steps(job, settings)
            try:
                next(trial)  # compiles, captures
            except Exception as error:
                # Whatever a backend raises, a missing C++ compiler say: this one is not for here.
                failed[settings] = str(error).strip().split("\n")[0]
            else:
                stack.callback(trial.close)
                trials[settings] = trial
                times[settings] = []
        if not trials:
            raise WorkError(f"--tune: no setting runs here: {next(iter(failed.values()))}")
        for _ in range(ROUNDS):
            for settings, trial in trials.items():
                times[settings] += _turn(trial, device)
                if stop.signal is not None:
                    raise stop.error("nothing was written yet; start again")
    medians = {settings: statistics.median(values) for settings, values in times.items()}
    best = min(medians, key=medians.__getitem__)
    if by_rule in medians and medians[by_rule] < GAIN * medians[best]:
        best = by_rule
    listed = [f"{settings} {1e3 * seconds:.2f} ms" for settings, seconds in medians.items()]
    listed += [f"{settings} failed ({why})" for settings, why in failed.items()]
    return best, f"speed: {best} (measured, a step: {'; '.join(listed)})"


def candidates(
    recipe: Recipe, train: Split, by_rule: Settings, device: torch.device
) -> list[Settings]:
    """The rules' choice, plain eager torch, and the rules' choice with one thing changed at a time.

    On a GPU, where a graph is possible, all of these both with it and without.
    """
    on_gpu = device.type == "cuda"
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bfloat16()
    found = [by_rule, Settings(), by_rule._replace(channels_last=not by_rule.channels_last)]
    if bf16:
        found += [by_rule._replace(amp=True), by_rule._replace(amp=True, compile=True)]
    found.append(by_rule._replace(compile=True))
    if on_gpu and why_no_graph(recipe, train, 1) is None:
        found += [one._replace(cuda_graph=not one.cuda_graph) for one in found]
    return [one for one in dict.fromkeys(found) if one.keeps(recipe)]


class _Repeated(Batches):
    """The first batch of other batches for ever: what fetches them is the same for all settings."""

    def __init__(self, batches: Batches) -> None:
        self.__dict__.update(batches.__dict__)
        self.first = next(batch for batch in batches.epoch(0) if len(batch.labels))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return itertools.repeat(self.first)


def _steps(job: Job, settings: Settings) -> Generator[None, None, None]:
    """Steps without end on a copy of the network."""
    network = copy.deepcopy(job.network)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    recipe = job.recipe.model_copy(update=settings._asdict())
    job = replace(job, network=network, recipe=recipe)
    step, state = step_of(job), State()
    train_mode(network, recipe.finetune.freeze)
    for epoch in itertools.count():
        record = Record(job, state)
        for batch in step.batches(epoch, start=0):
            step.take(batch, state.step, record)
            state.step += 1
            yield
        step.hand_over(record)
        record.flush()


def _turn(trial: Iterator[None], device: torch.device) -> list[float]:
    """Seconds a step, over and over for `TURN_S`."""
    found: list[float] = []
    count = GPU_BLOCK if device.type == "cuda" else 1
    while sum(found) * count < TURN_S:
        _wait(device)
        began = time.perf_counter()
        for _ in range(count):
            next(trial)
        _wait(device)
        found.append((time.perf_counter() - began) / count)
    return found


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
