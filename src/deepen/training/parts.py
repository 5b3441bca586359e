"""A plan put together: the network, what feeds it, and the card of its weights."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split, SplitName
from deepen.errors import InputError
from deepen.evaluation.protocols import describe_one_crop
from deepen.models import get_architecture
from deepen.training.choice import size_in_words
from deepen.training.distributed import Processes
from deepen.training.finetuning import freeze
from deepen.training.initialization import build_network
from deepen.training.inputs import adopt, prepare
from deepen.training.loop import Job
from deepen.training.plan import Plan
from deepen.training.progress import Reporter, Row
from deepen.training.recipe import Recipe
from deepen.training.run import Run
from deepen.training.speed import Settings, amp_warning, rules, settings_of, stated, why_no_graph
from deepen.training.tuning import measure
from deepen.version import __version__
from deepen.weights import Card, save_weights

EVALUATION_BATCHES = 8
"""Small pictures are evaluated so many batches at once on a GPU: no activation is kept there."""


@dataclass
class Parts:
    """A plan put together: the network on its device, and what feeds it.

    `origin` says where the first weights come from, where that is not the network's own paper.
    """

    plan: Plan
    network: nn.Module
    preprocessing: Preprocessing
    mean_image: Tensor | None
    device: torch.device
    workers: int | None
    cache_bytes: int = 0
    processes: Processes = field(default_factory=Processes)
    origin: str = ""

    @property
    def size(self) -> str:
        """How large the network is, and how fast it should be here, in words."""
        shape = (self.preprocessing.channels, *self.preprocessing.size_px)
        words = size_in_words(self.network, shape, self.device.type)
        return words and f"{self.plan.model}: {words}"

    def batches(self, split: SplitName, augmented: bool = False) -> Batches:
        """Batches of a split; `augmented` means shuffled and augmented, for training."""
        recipe, pictures = self.plan.recipe, self.plan.source.splits[split]
        batch_size = recipe.batch_size
        if not augmented and self.device.type == "cuda" and pictures.images is not None:
            batch_size *= EVALUATION_BATCHES
        return Batches(
            pictures,
            self.preprocessing,
            batch_size=batch_size,
            augmentation=recipe.augment if augmented else None,
            mixing=recipe.mix if augmented else None,
            num_classes=len(self.plan.source.classes),
            seed=recipe.seed,
            shuffle=augmented,
            workers=num_workers(self.workers, pictures),
            cache_bytes=self.cache_bytes if augmented else 0,
            mean_image=self.mean_image,
            device=self.device,
            rank=self.processes.rank,
            world_size=self.processes.size,
        )

    @cached_property
    def train(self) -> Batches:
        """Batches to train on."""
        return self.batches("train", augmented=True)

    def protocol(self, split: str, num_samples: int) -> str:
        """How a split is scored, in words."""
        return describe_one_crop(
            self.preprocessing, data=self.plan.data, split=split, num_samples=num_samples
        )

    def card(self, protocol: str, scores: dict[str, float], epoch: int) -> Card:
        """The card of the network as it stands."""
        source = self.plan.source
        return Card(
            architecture=self.plan.model,
            num_classes=len(source.classes),
            in_channels=self.preprocessing.channels,
            input_size=self.preprocessing.size_px,
            classes=source.classes,
            preprocessing=self.preprocessing,
            temperature=self.plan.recipe.loss.temperature,
            protocol=protocol,
            score=scores,
            data=self.plan.data,
            fingerprint=source.fingerprint,
            validation=self.plan.recipe.validation,
            recipe=self.plan.recipe.model_dump(mode="json", exclude_none=True),
            epoch=epoch,
            source=self.origin,
            deepen_version=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        )

    def job(self, run: Run) -> Job:
        """What the loop needs."""

        def save(name: str, row: Row, network: nn.Module) -> None:
            scores = {k.removeprefix("eval_"): v for k, v in row.items() if k[:5] == "eval_" and v}
            words = self.protocol("val", len(self.plan.source.splits["val"])) if scores else ""
            card = self.card(words, scores, int(row["epoch"] or 0))
            save_weights(run.path / f"{name}.safetensors", network, card, self.mean_image)

        return Job(
            model=self.network,
            recipe=self.plan.recipe,
            train=self.train,
            validation=self.batches("val") if "val" in self.plan.source.splits else None,
            run=run,
            device=self.device,
            save_weights=save,
            identity=self.plan.identity(),
            processes=self.processes,
        )


def assemble(
    plan: Plan,
    device: torch.device,
    workers: int | None,
    reporter: Reporter,
    processes: Processes | None = None,
    *,
    cache_bytes: int = 0,
    tune: bool = False,
) -> Parts:
    """Build the network from the recipe's seed and settle its preprocessing on the data.

    With trained weights to go on with, their preprocessing is taken over. What the recipe leaves
    open of its speed settings is settled too, by rules, or with `tune` by measuring, and said.

    Raises:
        InputError: the recipe asks for something that these data or this device cannot have.
    """
    recipe, start = plan.recipe, plan.start
    if start is not None and start.whole:
        card, mean_image = start.loaded.card, start.loaded.mean_image
        preprocessing, mean_image = adopt(recipe.input, plan.source, card, mean_image)
    else:
        takes = None if ":" in plan.model else get_architecture(plan.model).takes
        preprocessing, mean_image = prepare(recipe.input, plan.source, takes)
    torch.manual_seed(recipe.seed)
    channels, size = preprocessing.channels, preprocessing.size_px
    network, origin = build_network(
        plan.model, plan.source.classes, channels, size, recipe.init, start
    )
    network = network.to(device)
    freeze(network, recipe.finetune.freeze)
    alone = processes or Processes()
    parts = Parts(
        plan, network, preprocessing, mean_image, device, workers, cache_bytes, alone, origin
    )
    if len(stated(recipe)) < len(Settings._fields):
        parts.plan = plan._replace(recipe=_settle(parts, reporter, tune))
    settings = settings_of(parts.plan.recipe)
    if settings.channels_last:
        parts.network = network.to(memory_format=torch.channels_last)
    if settings.cuda_graph and (reason := why_no_graph(parts.plan.recipe, parts.train)):
        raise InputError(f"cuda_graph: {reason}")
    if warning := amp_warning(settings, device):
        reporter.message(warning)
    return parts


def _settle(parts: Parts, reporter: Reporter, tune: bool) -> Recipe:
    """The recipe with its speed settings complete."""
    recipe = parts.plan.recipe
    settings, words = rules(recipe, parts.train, parts.device)
    if tune:
        if parts.processes.size > 1:
            raise InputError("--tune measures one process; give its recipe to the others")
        settings, words = measure(parts.network, recipe, parts.train, settings)
    reporter.message(words)
    return recipe.model_copy(update=settings._asdict())


def num_workers(asked: int | None, split: Split) -> int:
    """As asked; of its own accord a process for each core, for pictures that must be decoded."""
    if asked is not None:
        return asked
    return 0 if split.images is not None else min(8, os.cpu_count() or 1)
