"""What a plan becomes: the network on its device, the batches that feed it, its card."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deepen.analysis.memory import in_mode, make_inputs, run
from deepen.analysis.meta import on_meta
from deepen.data.augment import Augmentation
from deepen.data.loader import Batch, Batches
from deepen.data.mixing import Mixing
from deepen.data.sources import Split, SplitName
from deepen.errors import InputError
from deepen.evaluation.protocols import describe_one_crop
from deepen.training.choice import size_in_words
from deepen.training.finetuning import freeze, train_mode
from deepen.training.initialization import build_network
from deepen.training.plan import Plan
from deepen.training.progress import Row
from deepen.training.recipe import Recipe
from deepen.training.request import Here
from deepen.training.resume import identity
from deepen.training.speed import amp_warning, settings_of, why_no_graph
from deepen.training.task import Task, task_of
from deepen.version import __version__
from deepen.weights import Card, save_weights

EVALUATION_BATCHES = 8
"""Small pictures are evaluated so many batches at once on a GPU: no activation is kept there."""


def _kept_nowhere(path: Path, network: nn.Module, row: Row) -> None:
    """Of a job that is not to leave weights."""


@dataclass(frozen=True)
class Job:
    """What runs: the loop needs a job and a folder.

    Attributes:
        network: on its device; its weights are trained in place.
        recipe: how.
        task: what is learned.
        train: batches of the training pictures.
        validation: batches that are scored after each epoch, if any.
        here: where it runs, and who watches.
        keep: writes a network to a file, with the scores of this row in its card.
        identity: what a checkpoint to go on from must agree with.
        notes: where the first weights come from, and how large the network is, in words.
    """

    network: nn.Module
    recipe: Recipe
    task: Task
    train: Batches
    validation: Batches | None
    here: Here
    keep: Callable[[Path, nn.Module, Row], None] = _kept_nowhere
    identity: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build(plan: Plan, here: Here) -> Job:
    """Build the network from the recipe's seed, and what feeds it.

    Raises:
        InputError: the recipe asks for something that these data or this device cannot have.
    """
    recipe, source, preprocessing = plan.recipe, plan.source, plan.input.preprocessing
    settings = settings_of(recipe)
    no_graph = why_no_graph(recipe, source.splits["train"], here.processes.size)
    if settings.cuda_graph and no_graph:
        raise InputError(f"cuda_graph: {no_graph}")
    torch.manual_seed(recipe.seed)
    network, origin = build_network(
        plan.model,
        source.classes,
        preprocessing.channels,
        preprocessing.size_px,
        recipe.init,
        plan.start,
    )
    network = network.to(here.place)
    freeze(network, recipe.finetune.freeze)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if warning := amp_warning(settings, here.place):
        here.reporter.message(warning)

    input_shape = (preprocessing.channels, *preprocessing.size_px)
    fewest = fewest_at_once(network, input_shape, recipe.finetune.freeze)
    _check_batches(plan, fewest)

    scored: SplitName = recipe.scored

    def keep(path: Path, network: nn.Module, row: Row) -> None:
        scores = {k.removeprefix("eval_"): v for k, v in row.items() if k[:5] == "eval_" and v}
        words = protocol(plan, scored, len(source.splits[scored])) if scores else ""
        written = card(plan, origin, words, scores, int(row["epoch"] or 0))
        written = written.model_copy(update=task.about())
        save_weights(path, network, written, plan.input.mean_image)

    task = task_of(recipe, source.classes)
    task.see(source.splits["train"])
    size = size_in_words(network, input_shape, here.place.type)
    notes = (origin, size and f"{plan.model}: {size}")
    return Job(
        network=network,
        recipe=recipe,
        task=task,
        train=batches(plan, here, "train", augmented=True, fewest=fewest),
        validation=batches(plan, here, scored) if scored in source.splits else None,
        here=here,
        keep=keep,
        identity=identity(plan.about(), recipe),
        notes=tuple(note for note in notes if note),
    )


def fewest_at_once(network: nn.Module, input_shape: tuple[int, ...], frozen: Sequence[str]) -> int:
    """How many pictures (C, H, W) a network needs at once to be trained: 1 or 2.

    It is 2 where batch norm, of a picture alone, would see one value a channel: it has no variance,
    and torch refuses it. Nothing is computed; a network that cannot be followed without values is
    taken at its word, 1.
    """
    if not any(isinstance(part, _BatchNorm) for part in network.modules()):
        return 1
    for count in (1, 2):
        with (
            suppress(InputError),
            on_meta(network),
            in_mode(network, training=True),
            torch.random.fork_rng([]),
            torch.no_grad(),
        ):
            train_mode(network, frozen)
            run(network, make_inputs(network, [input_shape], count, "meta"))
            return count
    return 1


def _check_batches(plan: Plan, fewest: int) -> None:
    """Refuse batches that the network cannot be trained on.

    Raises:
        InputError: names the field, and what would do.
    """
    size, count = plan.recipe.batch_size, len(plan.source.splits["train"])
    why = f"{plan.model} ends in batch norm over single pixels, which needs {fewest} at once"
    if size < fewest:
        raise InputError(f"batch_size: {size} picture a step, but {why}: -b {fewest} or more")
    if 0 < count < fewest:
        raise InputError(f"{plan.data}: {count} picture to train on, but {why}")


def batches(
    plan: Plan, here: Here, split: SplitName, *, augmented: bool = False, fewest: int = 1
) -> Batches:
    """Batches of a split; `augmented` means shuffled and augmented, for training."""
    recipe, pictures = plan.recipe, plan.source.splits[split]
    batch_size = recipe.batch_size
    if not augmented and here.place.type == "cuda" and pictures.images is not None:
        batch_size *= EVALUATION_BATCHES
    return Batches(
        pictures,
        plan.input.preprocessing,
        batch_size=batch_size,
        augmentation=recipe.augment if augmented else Augmentation(),
        mixing=recipe.mix if augmented else Mixing(),
        num_classes=len(plan.source.classes),
        seed=recipe.seed,
        shuffle=augmented,
        sampling=recipe.sampling,
        workers=num_workers(here.workers, pictures),
        cache_bytes=here.cache_bytes if augmented else 0,
        fewest=fewest,
        mean_image=plan.input.mean_image,
        device=here.place,
        rank=here.processes.rank,
        world_size=here.processes.size,
        tell=here.reporter.message,
    )


def views(plan: Plan, here: Here, pictures: Split) -> Iterator[Batch]:
    """One pass over any pictures as they are scored, in this process alone."""
    return Batches(
        pictures,
        plan.input.preprocessing,
        batch_size=plan.recipe.batch_size,
        workers=num_workers(here.workers, pictures),
        mean_image=plan.input.mean_image,
        device=here.place,
    ).epoch(0)


def protocol(plan: Plan, split: str, num_samples: int) -> str:
    """How a split is scored, in words."""
    return describe_one_crop(
        plan.input.preprocessing, data=plan.data, part=f"{split} split", num_samples=num_samples
    )


def card(plan: Plan, origin: str, protocol: str, scores: dict[str, float], epoch: int) -> Card:
    """The card of weights after an epoch; `origin`: where the first ones came from, in words."""
    source, preprocessing = plan.source, plan.input.preprocessing
    return Card(
        architecture=plan.model,
        num_classes=len(source.classes),
        in_channels=preprocessing.channels,
        input_size=preprocessing.size_px,
        classes=source.classes,
        preprocessing=preprocessing,
        temperature=plan.recipe.loss.temperature,
        protocol=protocol,
        score=scores,
        data=plan.data,
        fingerprint=source.fingerprint,
        trained_on=plan.trained_on,
        validation=plan.recipe.validation,
        recipe=plan.recipe.model_dump(mode="json", exclude_none=True),
        epoch=epoch,
        source=origin,
        deepen_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    )


def num_workers(asked: int | None, split: Split) -> int:
    """As asked; of its own accord a process for each core, for pictures that must be decoded."""
    if asked is not None:
        return asked
    return 0 if split.images is not None else min(8, os.cpu_count() or 1)
