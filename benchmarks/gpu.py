"""Training speed on one GPU: He et al.'s CIFAR-10 schedule, their depth suite, and ResNet-50.

    python benchmarks/gpu.py [--output FILE] [--iterations 64000] [--suite-iterations 6400]
    python benchmarks/gpu.py --dry-run        # tiny sizes, on the CPU too: does it run?

- `schedule`: ResNet-20, 64,000 iterations of 128 pictures (He et al. 2015, section 4.2), by `fit`.
- `suite`: plain and residual networks of 20, 32, 44, 56 and 110 layers, one after another and at
  once (a step of each in turn, each on its own stream). Run for `--suite-iterations` each; the
  time of 64,000 is reckoned from them.
- `resnet50`: images a second on random pictures of 224 px.

Each is compared with an eager loop in the same run: the same network, batch and pictures, float32
with torch's defaults, normalized float pictures on the GPU already, cropped and flipped together a
batch (so it does less than deepen, which draws for each picture), no loss read. Its step is timed
over a few hundred and taken times the iterations. deepen's settings are measured first, as by
`deepen train --tune`; what that takes is not in its time and is printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.models import create_model
from deepen.training.build import Job
from deepen.training.captured import step_of
from deepen.training.loop import fit
from deepen.training.optimizer import build_scheduler
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.record import Record
from deepen.training.request import Here
from deepen.training.run import Run
from deepen.training.speed import Settings, rules
from deepen.training.state import State
from deepen.training.task import Classification
from deepen.training.tuning import measure

ITERATIONS = 64_000  # He et al. 2015, section 4.2
TARGET_S = {"schedule": 60, "suite": 12 * 60}  # on one H200


class Bench:
    """Random pictures of one size on the device, and what is timed on them."""

    def __init__(
        self,
        device: torch.device,
        recipe: Recipe,
        *,
        pictures: int,
        size_px: int,
        folder: Path,
        classes: int = 10,
    ) -> None:
        self.device, self.recipe, self.folder, self.classes = device, recipe, folder, classes
        self.here = Here(device=device.type)
        self.size_px = size_px
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (pictures, size_px, size_px, 3), dtype=np.uint8)
        labels = rng.integers(0, classes, pictures)
        keys = tuple(map(str, range(pictures)))
        fits = Preprocessing(
            channels=3, size_px=(size_px, size_px), resize="none", mean=(0.5,) * 3, std=(0.25,) * 3
        )
        self.train = Batches(
            Split("train", labels, keys, images=images),
            fits,
            batch_size=recipe.batch_size,
            augmentation=recipe.augment,
            shuffle=True,
            device=device,
        )

    def network(self, name: str) -> torch.nn.Module:
        """The network of that name, the same each time."""
        torch.manual_seed(0)
        return create_model(name, self.classes, 3, self.size_px).to(self.device)

    def settle(self, name: str) -> Settings:
        """Measured, and said."""
        began = time.perf_counter()
        by_rule, _ = rules(self.recipe, self.train.preprocessing, self.train.split, self.here)
        job = self.job(name, self.recipe.length.epochs or 1, {})
        settings, words = measure(job, by_rule)
        print(f"{name}: {words}; measuring took {time.perf_counter() - began:.0f} s", flush=True)
        return settings

    def job(self, name: str, iterations: int, settings: dict[str, bool]) -> Job:
        """What `fit` needs to train it for so many iterations."""
        network = self.network(name)
        if settings.get("channels_last"):
            network = network.to(memory_format=torch.channels_last)
        length = self.recipe.length.model_copy(update={"steps": iterations, "epochs": None})
        recipe = self.recipe.model_copy(update={"length": length, **settings})
        task = Classification(recipe, range(self.classes))
        return Job(network, recipe, task, self.train, None, self.here)

    def fit(self, job: Job) -> State:
        """Train it in a folder of its own."""
        return fit(job, Run(Path(tempfile.mkdtemp(dir=self.folder))))

    def eager(self, name: str, iterations: int) -> float:
        """Seconds a step of the plain loop."""
        model, size = self.network(name), self.recipe.batch_size
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        order, draws = self.train.layout(0)
        images = torch.cat(
            [
                self.train.pick(order[start : start + size], draws[start : start + size])[0]
                for start in range(0, len(order), size)
            ]
        ).contiguous()
        labels = torch.zeros(len(images), dtype=torch.int64, device=self.device)
        pad = self.recipe.augment.pad_px if self.recipe.augment.crop == "pad" else 0
        model.train()

        def step() -> None:
            place = torch.randint(len(images), (size,), device=self.device)
            batch = images[place]
            if pad:
                top, left = torch.randint(2 * pad + 1, (2,)).tolist()
                batch = F.pad(batch, (pad,) * 4)
                batch = batch[..., top : top + self.size_px, left : left + self.size_px]
            if self.recipe.augment.flip and torch.rand(()) < 0.5:
                batch = batch.flip(3)
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels[place]).backward()
            optimizer.step()

        return self.timed(lambda: [step() for _ in range(iterations)], lambda: step()) / iterations

    def timed(self, work: Callable[[], object], first: Callable[[], object] | None = None) -> float:
        """Seconds that the work takes, on the device too; `first` warms up."""
        if first is not None:
            first()
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def schedule(bench: Bench, name: str, iterations: int, eager_steps: int) -> dict[str, object]:
    settings = bench.settle(name)
    job = bench.job(name, iterations, settings._asdict())
    states: list[State] = []
    seconds = bench.timed(lambda: states.append(bench.fit(job)))
    steps = sum(row["seconds"] or 0 for row in states[0].history)
    eager = bench.eager(name, eager_steps) * iterations
    return {
        "network": name,
        "settings": str(settings),
        "iterations": iterations,
        "seconds": round(seconds, 2),
        "seconds_without_ends_of_epochs": round(steps, 2),
        "eager_seconds": round(eager, 2),
        "ratio": round(eager / seconds, 2),
        "target_seconds": TARGET_S["schedule"] * iterations / ITERATIONS,
    }


def suite(bench: Bench, names: list[str], iterations: int, eager_steps: int) -> dict[str, object]:
    settings = {name: bench.settle(name) for name in names}
    scale = ITERATIONS / iterations

    def jobs() -> list[Job]:
        return [bench.job(name, iterations, settings[name]._asdict()) for name in names]

    alone = scale * sum(bench.timed(lambda job=job: bench.fit(job)) for job in jobs())
    together = scale * bench.timed(lambda: at_once(jobs()))
    eager = sum(bench.eager(name, eager_steps) for name in names) * ITERATIONS
    return {
        "networks": {name: str(settings[name]) for name in names},
        "iterations_run": iterations,
        "reckoned_for_iterations": ITERATIONS,
        "seconds_one_after_another": round(alone, 1),
        "seconds_at_once": round(together, 1),
        "eager_seconds": round(eager, 1),
        "ratio": round(eager / min(alone, together), 2),
        "target_seconds": TARGET_S["suite"],
    }


def at_once(jobs: list[Job]) -> None:
    """All steps of several networks, one of each in turn, each network on its own stream."""
    with ExitStack() as stack:
        lanes = []
        for job in jobs:
            stream: AbstractContextManager[object] = nullcontext()
            if job.here.place.type == "cuda":
                own = torch.cuda.Stream(job.here.place)
                own.wait_stream(torch.cuda.current_stream(job.here.place))
                stream = torch.cuda.stream(own)
            lane = steps(job)
            stack.callback(lane.close)
            lanes.append((stream, lane))
        while lanes:
            lanes = [(stream, lane) for stream, lane in lanes if stepped(stream, lane)]


def stepped(stream: AbstractContextManager[object], lane: Generator[None, None, None]) -> bool:
    """Take a step on a stream; whether there was one."""
    with stream:
        return next(lane, "ended") is None


def steps(job: Job) -> Generator[None, None, None]:
    """The steps of a job, without what the loop does at the ends of epochs."""
    step, state = step_of(job), State()
    scheduler = build_scheduler(step.optimizer, job.recipe.schedule, job.recipe.length.steps or 1)
    job.network.train()
    while True:
        record = Record(job, state)
        for batch in step.batches(state.epoch, start=0):
            step.take(batch, state.step, record)
            scheduler.step()
            state.step += 1
            yield
            if state.step == job.recipe.length.steps:
                return
        step.hand_over(record)
        record.flush()
        state.epoch += 1


def throughput(bench: Bench, name: str, iterations: int) -> dict[str, object]:
    settings, batch = bench.settle(name), bench.recipe.batch_size
    job = bench.job(name, iterations, settings._asdict())
    rows = bench.fit(job).history[1:]  # the first epoch compiles and captures
    took = sum(row["seconds"] or 0 for row in rows) / (len(rows) * bench.train.num_batches)
    eager = bench.eager(name, iterations)
    return {
        "network": name,
        "settings": str(settings),
        "batch_size": batch,
        "images_per_s": round(batch / took, 1),
        "eager_images_per_s": round(batch / eager, 1),
        "ratio": round(eager / took, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--suite-iterations", type=int, default=6400)
    parser.add_argument("--batch-size", type=int, default=256, help="of ResNet-50")
    parser.add_argument("--only", choices=["schedule", "suite", "resnet50"], action="append")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, any device")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.dry_run):
        parser.error("no CUDA GPU here; --dry-run shows on any machine that the script works")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = arguments.only or ["schedule", "suite", "resnet50"]
    tiny = arguments.dry_run
    cifar = load_recipe("resnet-cifar", {"compile": False, "batch_size": 8} if tiny else None)
    photos = load_recipe(
        "quick",
        {"batch_size": 2, "compile": False} if tiny else {"batch_size": arguments.batch_size},
    )
    names = ["plain20", "resnet20"] if tiny else [
        f"{kind}{depth}" for depth in (20, 32, 44, 56, 110) for kind in ("plain", "resnet")
    ]  # fmt: skip
    figures: dict[str, object] = {**provenance(), "device": device.type, "dry_run": tiny}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if {"schedule", "suite"} & set(parts):
            count = 20 if tiny else 45_000
            bench = Bench(device, cifar, pictures=count, size_px=32, folder=folder)
            if "schedule" in parts:
                iterations, eager = (4, 1) if tiny else (arguments.iterations, 500)
                figures["schedule"] = schedule(bench, "resnet20", iterations, eager)
                print(figures["schedule"], flush=True)
            if "suite" in parts:
                iterations, eager = (4, 1) if tiny else (arguments.suite_iterations, 100)
                figures["suite"] = suite(bench, names, iterations, eager)
                print(figures["suite"], flush=True)
        if "resnet50" in parts:
            count, size = (4, 32) if tiny else (8 * arguments.batch_size, 224)
            bench = Bench(device, photos, pictures=count, size_px=size, folder=folder, classes=1000)
            figures["resnet50"] = throughput(bench, "resnet50", 4 if tiny else 104)
            print(figures["resnet50"], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
