"""Speed settings by measurement: candidates take turns at the real loop, the fastest is kept."""

from __future__ import annotations

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from deepen.data.loader import Batch, Batches
from deepen.errors import WorkError
from deepen.training.loop import Job, course
from deepen.training.progress import Silent
from deepen.training.recipe import Length, Recipe
from deepen.training.run import Run
from deepen.training.speed import Settings, cpu_has_bfloat16, keep_memory, why_no_graph
from deepen.training.state import State
from deepen.training.stop import StopRequest

ROUNDS = 5
TURN_S = 0.3
GPU_BLOCK = 20
"""Steps that are timed as one on a GPU, which works behind Python's back."""
ENDLESS = 10**9
GAIN = 1.03
"""What the fastest must gain on the rules' choice to be taken instead: less is noise."""


def measure(
    network: nn.Module, recipe: Recipe, train: Batches, by_rule: Settings
) -> tuple[Settings, str]:
    """The fastest settings for this network and batch on this machine, and all medians in a line.

    Each candidate trains a copy of the network by the loop itself, in turns with the others:
    network and random numbers are left as they were. What the recipe states is not varied; plain
    eager torch is among the candidates wherever the recipe allows it.

    Raises:
        WorkError: no candidate ran; the reason of the first is given.
    """
    keep_memory()
    times: dict[Settings, list[float]] = {}
    failed: dict[Settings, str] = {}
    cuda = [train.device] if train.device.type == "cuda" else []
    data = train if train.resident else _Repeated(train)
    with ExitStack() as stack, torch.random.fork_rng(cuda):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stop = stack.enter_context(StopRequest())
        trials: dict[Settings, Generator[State, None, None]] = {}
        for settings in candidates(recipe, train, by_rule):
            trial = _trial(network, recipe, data, settings, folder / str(len(trials)), stop)
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
                times[settings] += _turn(trial, data.num_batches, train.device)
                if stop.signal is not None:
                    raise stop.error("nothing was written yet; start again")
    medians = {settings: statistics.median(values) for settings, values in times.items()}
    best = min(medians, key=medians.__getitem__)
    if by_rule in medians and medians[by_rule] < GAIN * medians[best]:
        best = by_rule
    listed = [f"{settings} {1e3 * seconds:.2f} ms" for settings, seconds in medians.items()]
    listed += [f"{settings} failed ({why})" for settings, why in failed.items()]
    return best, f"speed: {best} (measured, a step: {'; '.join(listed)})"


def candidates(recipe: Recipe, train: Batches, by_rule: Settings) -> list[Settings]:
    """The rules' choice, plain eager torch, and the rules' choice with one thing changed at a time.

    On a GPU, where a graph is possible, all of these both with it and without.
    """
    on_gpu = train.device.type == "cuda"
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bfloat16()
    found = [by_rule, Settings(), by_rule._replace(channels_last=not by_rule.channels_last)]
    if bf16:
        found += [by_rule._replace(amp=True), by_rule._replace(amp=True, compile=True)]
    found.append(by_rule._replace(compile=True))
    if on_gpu and why_no_graph(recipe, train) is None:
        found += [one._replace(cuda_graph=not one.cuda_graph) for one in found]
    return [one for one in dict.fromkeys(found) if one.keeps(recipe)]


class _Repeated(Batches):
    """The first batch of other batches for ever: what fetches them is the same for all settings."""

    def __init__(self, batches: Batches) -> None:
        self.__dict__.update(batches.__dict__)
        self.num_batches = ENDLESS
        self.first = next(batch for batch in batches.epoch(0) if len(batch.labels))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return itertools.repeat(self.first)


def _trial(
    network: nn.Module,
    recipe: Recipe,
    train: Batches,
    settings: Settings,
    folder: Path,
    stop: StopRequest,
) -> Generator[State, None, None]:
    endless = {"length": Length(steps=ENDLESS), "early_stopping": None, **settings._asdict()}
    folder.mkdir()
    network = copy.deepcopy(network)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    job = Job(
        model=network,
        recipe=recipe.model_copy(update=endless),
        train=train,
        validation=None,
        run=Run(folder),
        device=train.device,
        save_weights=lambda *words: None,
    )
    return course(job, Silent(), stop)


def _turn(trial: Iterator[State], num_batches: int, device: torch.device) -> list[float]:
    """Seconds a step, over and over for `TURN_S`, without what happens at the ends of epochs."""
    found: list[float] = []
    left_s = TURN_S
    state = next(trial)
    while left_s > 0:
        if state.batch >= num_batches > 1:
            next(trial)  # ends the epoch, begins another
        _wait(device)
        within = num_batches - state.batch
        count = max(1, min(GPU_BLOCK if device.type == "cuda" else 1, within))
        began = time.perf_counter()
        for _ in range(count):
            next(trial)
        _wait(device)
        took = time.perf_counter() - began
        left_s -= took
        found.append(took / count)
    return found


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
