"""Training speed on the CPU: deepen's loop against a plain textbook loop, and its own cost a step.

    python benchmarks/training.py [--rounds 7] [--output FILE]

Both train the same network with the same weights, batch size, augmentation and optimizer, in turns
within one process; a turn is timed over whole steps, and medians over the turns are compared.

- The textbook loop: NCHW, a DataLoader over a TensorDataset of normalized float pictures (with
  augmentation: each cropped and flipped as it is fetched), torch.optim.SGD as it comes,
  `loss.item()` each step.
- The bare step: forward, backward and SGD on one batch that is there already, with deepen's memory
  format and optimizer.
- The loop's own cost is what `fit` takes beyond the same fetching and step written out with
  nothing around them: metrics, the learning rate, the watch for NaN and signals, the progress bar.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch.utils.data import DataLoader, TensorDataset

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.models import create_model
from deepen.training.loop import Job, fit
from deepen.training.optimizer import Objective, build_optimizer
from deepen.training.progress import Silent
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.run import Run

BATCH = 128
CASES = {
    # the network, its input channels and what its pictures undergo
    "LeNet (ReLU form), MNIST": ("lenet5_relu", 1, {}),
    "ResNet-20, CIFAR-10": ("resnet20", 3, {"augment.crop": "pad", "augment.flip": True}),
}


def recipe_of(augment: dict[str, object], epochs: int) -> Recipe:
    changes = {
        "length.epochs": epochs,
        "batch_size": BATCH,
        "optimizer.lr": 0.01,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "optimizer.nesterov": False,
        "optimizer.decay_vectors": True,
        "schedule.warmup_steps": 0,
        "loss.label_smoothing": 0.0,
        "clip_norm": None,
        **augment,
    }
    return load_recipe("quick", changes)


def pictures(channels: int, count: int) -> Split:
    """Random pictures: what they show does not change the time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)
    labels = rng.integers(0, 10, count)
    return Split("train", labels, tuple(map(str, range(count))), images=images)


class Augmented(TensorDataset):
    """Cropped at random and flipped half of the time, as tutorials do; padded before."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image, label = super().__getitem__(index)
        top, left = torch.randint(9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        return (image.flip(2) if torch.rand(()) < 0.5 else image), label


def textbook_loop(
    model_name: str, split: Split, augmented: bool, channels: int
) -> Callable[[], float]:
    assert split.images is not None
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous().float()
    images = (images / 255 - 0.5) / 0.25
    labels = torch.from_numpy(split.labels)
    data = (
        Augmented(F.pad(images, (4,) * 4), labels) if augmented else TensorDataset(images, labels)
    )
    loader = DataLoader(data, BATCH, shuffle=True)
    torch.manual_seed(0)
    model = create_model(model_name, 10, channels, 32)
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


def preprocessing(channels: int) -> Preprocessing:
    half, quarter = (0.5,) * channels, (0.25,) * channels
    return Preprocessing(channels=channels, size_px=(32, 32), resize="none", mean=half, std=quarter)


def deepen_loop(
    model_name: str, split: Split, augment: dict[str, object], channels: int, folder: Path
) -> Callable[[], float]:
    """The real `fit`, an epoch a turn; the writing at its end is left out of the time."""
    recipe = recipe_of(augment, 1)
    torch.manual_seed(0)
    model = create_model(model_name, 10, channels, 32).to(memory_format=torch.channels_last)
    batches = Batches(
        split,
        preprocessing(channels),
        batch_size=BATCH,
        augmentation=recipe.augment,
        shuffle=True,
    )

    def run() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as run_folder:
            job = Job(
                model=model,
                recipe=recipe,
                train=batches,
                validation=None,
                run=Run(Path(run_folder)),
                device=torch.device("cpu"),
                save_weights=lambda name, row: None,
            )
            state = fit(job, Silent())
        seconds = state.history[0]["seconds"]
        assert seconds is not None
        return seconds / batches.num_batches

    return run


def bare_step(
    model_name: str, augment: dict[str, object], channels: int, split: Split
) -> Callable[[], float]:
    recipe = recipe_of(augment, 1)
    torch.manual_seed(0)
    model = create_model(model_name, 10, channels, 32).to(memory_format=torch.channels_last)
    optimizer, objective = build_optimizer(model, recipe.optimizer), Objective(recipe.loss)
    batches = Batches(split, preprocessing(channels), batch_size=BATCH)
    batch = next(batches.epoch(0))
    steps = batches.num_batches

    def run() -> float:
        model.train()
        began = time.perf_counter()
        for _ in range(steps):
            loss = objective(model(batch.images), batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - began) / steps

    return run


def fetch_and_step(model_name: str, channels: int, split: Split) -> Callable[[], float]:
    """What `fit` wraps, without the wrapping."""
    recipe = recipe_of({}, 1)
    torch.manual_seed(0)
    model = create_model(model_name, 10, channels, 32).to(memory_format=torch.channels_last)
    optimizer, objective = build_optimizer(model, recipe.optimizer), Objective(recipe.loss)
    batches = Batches(split, preprocessing(channels), batch_size=BATCH, shuffle=True)

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


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def compare(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds a step of each, in turns; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, run in turns.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def loop_cost(rounds: int) -> float:
    """Microseconds a step that the loop itself costs.

    Measured on a network that does next to nothing, so that the difference is not lost in the noise
    of the network's own step.
    """
    split = pictures(1, BATCH * 100)
    with scratch() as folder:
        turns = {
            "loop": deepen_loop("perceptron", split, {}, 1, folder),
            "bare": fetch_and_step("perceptron", 1, split),
        }
        medians = compare(turns, 4 * rounds)
    return 1e6 * (medians["loop"] - medians["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="steps a turn")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    figures: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.platform(),
        "cpu": next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "rounds": arguments.rounds,
    }
    for name, (model_name, channels, augment) in CASES.items():
        steps = arguments.steps if channels == 3 else 10 * arguments.steps
        split = pictures(channels, BATCH * steps)
        with scratch() as folder:
            turns = {
                "textbook": textbook_loop(model_name, split, bool(augment), channels),
                "deepen": deepen_loop(model_name, split, augment, channels, folder),
                "bare step": bare_step(model_name, augment, channels, split),
            }
            medians = compare(turns, arguments.rounds)
        ratio = medians["textbook"] / medians["deepen"]
        figures[name] = {
            "images_per_s": {key: round(BATCH / value) for key, value in medians.items()},
            "deepen_over_textbook": round(ratio, 3),
        }
        print(f"{name}: {figures[name]}", flush=True)
    figures["loop_cost_us"] = round(loop_cost(arguments.rounds), 1)
    print(f"loop's own cost a step: {figures['loop_cost_us']} microseconds")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
