"""Training speed on the CPU: deepen's loop, the plain eager loop, timm's and Lightning's.

    python benchmarks/training.py [--rounds 7] [--output FILE]

All train the same network from the same weights on the same pictures with the same batch size,
augmentation and optimizer. Each runs in a process of its own, since settings of the C library and
of torch are a process's; the processes take turns, one at a time, and medians over the turns are
compared. A turn is timed over whole epochs of steps, without what happens at their ends.

- `plain`: channels first, a DataLoader over a TensorDataset of normalized float pictures (with
  augmentation: each cropped and flipped as it is fetched), torch.optim.SGD as it comes,
  `loss.item()` each step.
- `deepen`: the real `fit`, with the settings of the rules.
- `timm`: train.py's `train_one_epoch` without what is off by default, on timm's own loader
  (pictures to PIL, transforms, fast_collate, PrefetchLoader), optimizer and schedule. The
  script is no part of the package, so its loop stands here; with 0 and with 2 workers.
- `lightning`: its Trainer without logger, checkpoints and bar, fed like `plain`. Left out where it
  is not installed.
- `bare step`: forward, backward and SGD on one batch that is there already.

The loop's own cost is what `fit` takes beyond the same fetching and step written out with nothing
around them: metrics, the learning rate, the watch for NaN and signals, the progress bar.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from provenance import provenance
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.models import create_model
from deepen.training.build import Job
from deepen.training.loop import fit
from deepen.training.optimizer import Objective, build_optimizer
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.request import Here
from deepen.training.run import Run
from deepen.training.speed import keep_memory, rules
from deepen.training.task import Classification

BATCH = 128
MEAN, STD = 0.5, 0.25
Turn = Callable[[], float]  # trains for a turn; seconds a step


class Case(NamedTuple):
    """What all loops are to train, and for how many steps a turn."""

    model: str
    channels: int
    augmented: bool
    steps: int

    def network(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(0)
        return create_model(self.model, 10, self.channels, 32)

    def pictures(self) -> Split:
        """Random ones: what they show does not change the time."""
        rng, count = np.random.default_rng(0), BATCH * self.steps
        images = rng.integers(0, 256, (count, 32, 32, self.channels), dtype=np.uint8)
        labels = rng.integers(0, 10, count)
        return Split("train", labels, tuple(map(str, range(count))), images=images)

    def recipe(self) -> Recipe:
        """For deepen: the same optimizer as the others have."""
        changes = {
            "length.epochs": 1,
            "batch_size": BATCH,
            "optimizer.lr": 0.01,
            "optimizer.momentum": 0.9,
            "optimizer.weight_decay": 1e-4,
            "optimizer.nesterov": False,
            "optimizer.decay_vectors": True,
            "schedule.warmup_steps": 0,
            "loss.label_smoothing": 0.0,
            "clip_norm": None,
        }
        if self.augmented:
            changes |= {"augment.crop": "pad", "augment.flip": True}
        return load_recipe("quick", changes)

    def batches(self) -> Batches:
        """For deepen: the same pictures and augmentation as the others have."""
        half, quarter = (MEAN,) * self.channels, (STD,) * self.channels
        fit_32 = Preprocessing(
            channels=self.channels, size_px=(32, 32), resize="none", mean=half, std=quarter
        )
        augmentation = self.recipe().augment
        return Batches(
            self.pictures(), fit_32, batch_size=BATCH, augmentation=augmentation, shuffle=True
        )


class Augmented(TensorDataset):
    """Cropped at random and flipped half of the time, as tutorials do; padded before."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image, label = super().__getitem__(index)
        top, left = torch.randint(9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        return (image.flip(2) if torch.rand(()) < 0.5 else image), label


def plain_loader(case: Case) -> DataLoader[tuple[Tensor, ...]]:
    split = case.pictures()
    assert split.images is not None
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous().float()
    images, labels = (images / 255 - MEAN) / STD, torch.from_numpy(split.labels)
    if case.augmented:
        return DataLoader(Augmented(F.pad(images, (4,) * 4), labels), BATCH, shuffle=True)
    return DataLoader(TensorDataset(images, labels), BATCH, shuffle=True)


def plain(case: Case) -> Turn:
    loader, model = plain_loader(case), case.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def run() -> float:
        model.train()
        began = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        return (time.perf_counter() - began) / len(loader)

    return run


def deepen(case: Case) -> Turn:
    """The real `fit`, an epoch a turn; the writing at its end is left out of the time."""
    batches, here = case.batches(), Here(device="cpu")
    settings, _ = rules(case.recipe(), batches.preprocessing, batches.split, here)
    recipe = case.recipe().model_copy(update=settings._asdict())
    model = case.network()
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    job = Job(model, recipe, Classification(recipe, range(10)), batches, None, here)

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            seconds = fit(job, Run(Path(folder))).history[0]["seconds"]
        assert seconds is not None
        return seconds / batches.num_batches

    return run


class Pictures(Dataset[tuple[np.ndarray, int]]):
    """Pictures in memory as timm's data sets hand them out: PIL, then its transform."""

    transform: Callable[[Image.Image], np.ndarray]

    def __init__(self, split: Split) -> None:
        assert split.images is not None
        self.images, self.labels = split.images, split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image), self.labels[index]


def timm(case: Case, workers: int) -> Turn:
    from timm.data.loader import create_loader
    from timm.data.transforms import ToNumpy
    from timm.optim import create_optimizer_v2
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.utils.metrics import AverageMeter
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

    pictures, channels = Pictures(case.pictures()), case.channels
    loader = create_loader(
        pictures,  # type: ignore[arg-type]
        input_size=(channels, 32, 32),
        batch_size=BATCH,
        is_training=True,
        no_aug=True,
        mean=(MEAN,) * channels,
        std=(STD,) * channels,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    shifts = [RandomCrop(32, padding=4), RandomHorizontalFlip()] if case.augmented else []
    pictures.transform = Compose([*shifts, ToNumpy()])
    model = case.network()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4)
    scheduler = CosineLRScheduler(optimizer, t_initial=10**6, t_in_epochs=False)
    loss_of, updates = nn.CrossEntropyLoss(), 0

    def run() -> float:
        nonlocal updates
        model.train()
        update_time, data_time, losses = AverageMeter(), AverageMeter(), AverageMeter()
        iterator = iter(loader)
        began = start = time.time()
        for images, labels in iterator:
            data_time.update(time.time() - start)
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), images.size(0))
            updates += 1
            optimizer.zero_grad()
            update_time.update(time.time() - start)
            scheduler.step_update(num_updates=updates, metric=losses.avg)
            start = time.time()
        return (time.time() - began) / len(loader)

    return run


def lightning(case: Case) -> Turn:
    warnings.filterwarnings("ignore")
    import lightning

    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it tells of itself at each turn

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.network()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            images, labels = batch
            return F.cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            rates = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
            return torch.optim.SGD(self.model.parameters(), **rates)

        def on_train_epoch_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds = time.perf_counter() - self.began

    module, loader = Module(), plain_loader(case)

    def run() -> float:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
        return module.seconds / len(loader)

    return run


def bare_step(case: Case) -> Turn:
    keep_memory()
    model = case.network().to(memory_format=torch.channels_last)
    optimizer, objective = build_optimizer(model, case.recipe().optimizer), Objective(load_loss())
    batch = next(case.batches().epoch(0))

    def run() -> float:
        model.train()
        began = time.perf_counter()
        for _ in range(case.steps):
            loss = objective(model(batch.images), batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - began) / case.steps

    return run


def fetch_and_step(case: Case) -> Turn:
    """What `fit` wraps, without the wrapping."""
    keep_memory()
    model = case.network().to(memory_format=torch.channels_last)
    optimizer, objective = build_optimizer(model, case.recipe().optimizer), Objective(load_loss())
    batches = case.batches()

    def run() -> float:
        model.train()
        began = time.perf_counter()
        for batch in batches.epoch(0):
            loss = objective(model(batch.images), batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - began) / batches.num_batches

    return run


def load_loss():
    return load_recipe("quick", {"loss.label_smoothing": 0.0}).loss


LOOPS: dict[str, Callable[[Case], Turn]] = {
    "plain": plain,
    "deepen": deepen,
    "timm": lambda case: timm(case, 0),
    "timm, 2 workers": lambda case: timm(case, 2),
    "lightning": lightning,
    "bare step": bare_step,
}


def serve(name: str, case: Case, threads: int, pipe: Connection) -> None:
    """In a process of its own: a turn whenever it is asked for."""
    torch.set_num_threads(threads)
    run = LOOPS[name](case)
    while pipe.recv():
        pipe.send(run())


def in_processes(names: list[str], case: Case, rounds: int) -> dict[str, float]:
    """Median seconds a step of each, in turns; the first round warms up and does not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        words = (name, case, torch.get_num_threads(), theirs)
        context.Process(target=serve, args=words).start()
        theirs.close()

    def turn(name: str) -> float:
        pipes[name].send(True)
        return pipes[name].recv()

    try:
        return in_turns({name: lambda name=name: turn(name) for name in names}, rounds)
    finally:
        for pipe in pipes.values():
            pipe.send(False)


def in_turns(turns: dict[str, Turn], rounds: int) -> dict[str, float]:
    times = all_turns(turns, rounds)
    return {name: statistics.median(values) for name, values in times.items()}


def all_turns(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, run in turns.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def loop_cost(rounds: int, steps: int) -> float:
    """Microseconds a step that the loop itself costs.

    Measured on a network that does next to nothing, so that the difference is not lost in the noise
    of the network's own step; of neighbouring turns, as the machine's speed drifts by more than it.
    """
    case = Case("perceptron", 1, False, steps)
    times = all_turns({"loop": deepen(case), "bare": fetch_and_step(case)}, 8 * rounds)
    costs = (loop - bare for loop, bare in zip(times["loop"], times["bare"], strict=True))
    return 1e6 * statistics.median(costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="steps a turn; LeNet takes ten times")
    parser.add_argument("--only", action="append", help="loops to compare with plain, by name")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    names = [name for name in LOOPS if name in ("plain", *(arguments.only or LOOPS))]
    packages = ["timm"]
    if find_spec("lightning") is None:
        names = [name for name in names if name != "lightning"]
    else:
        packages.append("lightning")
    cases = {
        "LeNet (ReLU form), MNIST": Case("lenet5_relu", 1, False, 10 * arguments.steps),
        "ResNet-20, CIFAR-10": Case("resnet20", 3, True, arguments.steps),
    }
    figures = {**provenance(*packages), "rounds": arguments.rounds, "batch_size": BATCH}
    for title, case in cases.items():
        medians = in_processes(names, case, arguments.rounds)
        figures[title] = {
            "images_per_s": {name: round(BATCH / seconds) for name, seconds in medians.items()},
            "deepen_over": {
                name: round(seconds / medians["deepen"], 3)
                for name, seconds in medians.items()
                if "deepen" in medians and name != "deepen"
            },
        }
        print(f"{title}: {figures[title]}", flush=True)
    costs = sorted(loop_cost(arguments.rounds, 10 * arguments.steps) for _ in range(3))
    figures["loop_cost_us"] = [round(cost, 1) for cost in costs]
    print(f"loop's own cost a step: {figures['loop_cost_us']} microseconds in three measurements")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
