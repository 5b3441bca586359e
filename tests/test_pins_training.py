"""Ten steps of training against a second loop, in NumPy and float64.

Only the network's own gradient with respect to its weights is autograd's, in float64, and the
batches are `Batches`'. Losses and their gradients, clipping, decay, momentum, the learning rate,
the weight average and what a line of metrics.csv says are written out here.
"""

from __future__ import annotations

import csv
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import deepen
from deepen.data.augment import Augmentation
from deepen.data.loader import Batch, Batches
from deepen.data.mixing import Mixing
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import open_source
from deepen.training.checkpoint import load_checkpoint
from deepen.weights import load_weights, read_card

STEPS, SEED = 10, 4
HELD_OUT, TRAINED = 641, 257  # of 898 digits
BATCH = 48  # six batches an epoch, the last of 17: the ten steps reach into the second
MODULE = "pins_smooth"
Arrays = dict[str, np.ndarray]


class Smooth(nn.Module):
    """A residual net with batch norm of which rounding cannot shut a unit."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(200, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.softplus(self.bn1(self.conv1(x)))
        x = x + nn.functional.softplus(self.bn2(self.conv2(x)))
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    """The network can be named, and small work is not spread over threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.modules[MODULE] = types.ModuleType(MODULE)
    sys.modules[MODULE].Smooth = Smooth  # type: ignore[attr-defined]
    yield
    del sys.modules[MODULE]
    torch.set_num_threads(threads)


class Case(NamedTuple):
    """A network, what its input is, the recipe, and the rate's factor at each of steps 0 to 10."""

    model: str
    size_px: int
    border_px: int
    changes: dict[str, Any]
    factors: list[float]
    tolerance: float = 1e-4  # of the way that the weights went


def cosine(step: int, of: int) -> float:
    return (1 + math.cos(math.pi * step / of)) / 2


CASES = {
    "sgd, clipped, milestones after a warm-up": Case(
        "lenet5",
        32,
        0,
        {
            "optimizer.lr": 0.05,
            "optimizer.momentum": 0.8,
            "optimizer.weight_decay": 0.02,
            "schedule.name": "steps",
            "schedule.milestones": [0.4, 0.75],  # steps 4 and 8: 7.5 rounds to even
            "schedule.gamma": 0.3,
            "schedule.warmup_steps": 50,  # a fifth of so short a run at most: two
            "schedule.warmup_factor": 0.2,
            "loss.temperature": 8.0,
            "loss.label_smoothing": 0.15,
            "clip_norm": 0.2,
        },
        [0.2, 0.6, 1, 1, 0.3, 0.3, 0.3, 0.3, 0.09, 0.09, 0.09],
    ),
    "the paper's loss, Nesterov, an average": Case(
        "lenet5",
        32,
        0,
        {
            "optimizer.lr": 0.1,
            "optimizer.nesterov": True,
            "optimizer.weight_decay": 0.05,
            "optimizer.decay_vectors": False,
            "schedule.name": "cosine",
            "loss.name": "map",
            "loss.rubbish": 1.5,
            "loss.temperature": 10.0,
            "ema.decay": 0.8,
        },
        [cosine(step, 10) for step in range(11)],
    ),
    "a residual net, in two parts, with an average that warms up": Case(
        f"{MODULE}:Smooth",
        12,
        2,
        {
            "optimizer.lr": 0.03,
            "optimizer.nesterov": True,
            "optimizer.weight_decay": 0.1,
            "optimizer.decay_vectors": False,
            "schedule.name": "cosine",
            "schedule.warmup_steps": 2,
            "schedule.warmup_factor": 0.1,
            "augment.crop": "pad",
            "augment.pad_px": 1,
            "loss.label_smoothing": 0.1,
            "accumulate": 2,
            "clip_norm": 1.0,
            "ema.decay": 0.45,
            "ema.warmup": True,  # (1 + t) / (10 + t) is below it up to step 6
        },
        [0.1, 0.55, *(cosine(step, 8) for step in range(9))],
    ),
    "ResNet-20, in two parts, with an average that warms up": Case(
        "resnet20",
        8,
        0,
        {
            "optimizer.lr": 0.002,
            "optimizer.nesterov": True,
            "optimizer.weight_decay": 0.1,
            "optimizer.decay_vectors": False,
            "schedule.name": "cosine",
            "schedule.warmup_steps": 2,
            "schedule.warmup_factor": 0.1,
            "augment.crop": "pad",
            "augment.pad_px": 1,
            "loss.label_smoothing": 0.1,
            "accumulate": 2,
            "clip_norm": 1.0,
            "ema.decay": 0.99,
            "ema.warmup": True,
        },
        [0.1, 0.55, *(cosine(step, 8) for step in range(9))],
        tolerance=0.05,  # a ReLU that rounding opens is seen in maps of 2 by 2 pixels
    ),
    "adamw on mixed pictures, each class by itself": Case(
        f"{MODULE}:Smooth",
        12,
        2,
        {
            "optimizer.name": "adamw",
            "optimizer.lr": 0.003,
            "optimizer.eps": 1e-4,
            "optimizer.weight_decay": 0.5,
            "schedule.warmup_steps": 2,
            "schedule.warmup": "constant",
            "schedule.warmup_factor": 0.25,
            "mix.mixup": 0.5,
            "mix.cutmix": 1.0,
            "loss.name": "bce",
            "loss.threshold": 0.3,
            "loss.temperature": 0.7,
            "accumulate": 3,
        },
        [0.25, 0.25, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ),
    "rmsprop on mixed pictures, smoothed": Case(
        f"{MODULE}:Smooth",
        12,
        2,
        {
            "optimizer.name": "rmsprop",
            "optimizer.lr": 0.001,
            "optimizer.alpha": 0.9,
            "optimizer.eps": 1e-2,
            "optimizer.momentum": 0.7,
            "optimizer.weight_decay": 0.02,
            "optimizer.decay_vectors": False,
            "mix.mixup": 1.0,
            "loss.label_smoothing": 0.2,
            "clip_norm": 0.5,
        },
        [1] * 11,
    ),
}


# What a recipe says, written out


def cross_entropy(z: np.ndarray, shares: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over (B, K) and its gradient."""
    z = z - z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return -(shares * np.log(p)).sum(1).mean(), (p * shares.sum(1, keepdims=True) - shares) / len(z)


def loss_and_gradient(
    logits: np.ndarray, shares: np.ndarray, changes: dict[str, Any]
) -> tuple[float, np.ndarray]:
    """Of logits (B, K) and the shares of the classes (B, K)."""
    temperature = changes.get("loss.temperature", 1.0)
    smoothing = changes.get("loss.label_smoothing", 0.0)
    z, (count, k) = logits / temperature, logits.shape
    if changes.get("loss.name") == "bce":
        wanted = (shares > changes["loss.threshold"]).astype(float)
        p = 1 / (1 + np.exp(-z))
        loss = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()
        return loss, (p - wanted) / (count * k) / temperature
    if changes.get("loss.name") == "map":  # eq. 9: one more class, of a constant penalty
        z = np.concatenate([z, np.full((count, 1), -changes["loss.rubbish"])], 1)
        shares = np.concatenate([shares, np.zeros((count, 1))], 1)
    loss, gradient = cross_entropy(z, (1 - smoothing) * shares + smoothing / k * (z.shape[1] == k))
    return loss, gradient[:, :k] / temperature


class Optimizer:
    """Steps on arrays by name."""

    def __init__(self, changes: dict[str, Any]) -> None:
        def of(key: str, otherwise: Any) -> Any:
            return changes.get(f"optimizer.{key}", otherwise)

        self.name, self.momentum = of("name", "sgd"), of("momentum", 0.9)
        self.nesterov, self.decay = of("nesterov", False), of("weight_decay", 0.0)
        self.decay_vectors = of("decay_vectors", True)
        self.alpha, self.eps = of("alpha", 0.99), of("eps", 1e-8)
        self.lr, self.clip = changes["optimizer.lr"], changes.get("clip_norm")
        self.buffers: Arrays = {}
        self.squares: Arrays = {}
        self.clipped = self.steps = 0

    def step(self, weights: Arrays, gradients: Arrays, factor: float) -> None:
        self.steps += 1
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        if self.clip is not None and norm > self.clip:
            self.clipped += 1
            gradients = {name: g * self.clip / norm for name, g in gradients.items()}
        lr = self.lr * factor
        for name, g in gradients.items():
            w = weights[name]
            decay = self.decay if self.decay_vectors or w.ndim > 1 else 0.0
            if self.name == "adamw":  # Loshchilov & Hutter 2019, algorithm 2
                first = 0.9 * self.buffers.get(name, 0.0) + 0.1 * g
                second = 0.999 * self.squares.get(name, 0.0) + 0.001 * g**2
                self.buffers[name], self.squares[name] = first, second
                first = first / (1 - 0.9**self.steps)
                second = second / (1 - 0.999**self.steps)
                weights[name] = w - lr * decay * w - lr * first / (np.sqrt(second) + self.eps)
                continue
            g = g + decay * w
            if self.name == "rmsprop":  # Tieleman & Hinton 2012, with momentum as in Graves 2013
                square = self.alpha * self.squares.get(name, 0.0) + (1 - self.alpha) * g**2
                self.squares[name] = square
                g = g / (np.sqrt(square) + self.eps)
            buffer = self.momentum * self.buffers.get(name, 0.0) + g
            self.buffers[name] = buffer
            weights[name] = w - lr * (g + self.momentum * buffer if self.nesterov else buffer)


class Reference(NamedTuple):
    """Weights before and after, the average of them, and each epoch's mean loss and top-1."""

    first: Arrays
    last: Arrays
    average: Arrays | None
    optimizer: Optimizer
    epochs: list[tuple[float, float]]


def shares_of(batch: Batch) -> np.ndarray:
    if batch.shares is not None:
        return batch.shares.double().numpy()
    return np.eye(10)[batch.labels.numpy()]


def load(network: nn.Module, weights: Arrays) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))


def train_again(case: Case, batches: Batches) -> Reference:
    changes, optimizer = case.changes, Optimizer(case.changes)
    torch.manual_seed(SEED)
    network = deepen.create_model(case.model, 10, 1, case.size_px).train()
    network = network.double()
    weights = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    first = dict(weights)
    average = dict(weights) if "ema.decay" in changes else None
    parts = changes.get("accumulate", 1)
    step, epochs = 0, []
    for epoch in (0, 1):
        losses, hits, seen = 0.0, 0, 0
        for batch in batches.epoch(epoch):
            if step == STEPS:
                break
            count = len(batch.labels)
            size = -(-count // parts)
            gradients = {name: np.zeros_like(w) for name, w in weights.items()}
            for begin in range(0, count, size):
                share = slice(begin, min(begin + size, count))
                logits = network(batch.images[share].double())
                z = logits.detach().numpy()
                loss, gradient = loss_and_gradient(z, shares_of(batch)[share], changes)
                network.zero_grad()
                logits.backward(torch.from_numpy(gradient))
                of_batch = len(z) / count
                for name, parameter in network.named_parameters():
                    assert parameter.grad is not None
                    gradients[name] += of_batch * parameter.grad.numpy()
                losses += loss * len(z)
                hits += int((z.argmax(1) == batch.labels[share].numpy()).sum())
                seen += len(z)
            optimizer.step(weights, gradients, case.factors[step])
            load(network, weights)
            if average is not None:
                decay = changes["ema.decay"]
                if changes.get("ema.warmup"):
                    decay = min(decay, (1 + step) / (10 + step))
                average = {n: decay * average[n] + (1 - decay) * weights[n] for n in weights}
            step += 1
        epochs.append((losses / seen, hits / seen))
    statistics = {n: b.numpy() for n, b in network.named_buffers() if "running" in n}
    weights |= statistics
    return Reference(first, weights, average, optimizer, epochs)


# Against the product


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def run(case, tmp_path_factory) -> Path:
    recipe = tmp_path_factory.mktemp("recipe") / "bare.yaml"  # nothing but defaults
    recipe.write_text("length: {steps: 1}\n", "utf-8")
    changes = {
        "length.steps": STEPS,
        "batch_size": BATCH,
        "seed": SEED,
        "validation": HELD_OUT,
        "input.size_px": case.size_px,
        **case.changes,
    }
    output = tmp_path_factory.mktemp("run") / "run"
    words = {"model": case.model, "recipe": str(recipe), "device": "cpu"}
    return deepen.train("digits", **words, changes=changes, output=output).run


@pytest.fixture(scope="module")
def preprocessing(case, run) -> Preprocessing:
    """That of the weights' card; its mean and deviation are those of the training pictures."""
    found = read_card(run / "last.safetensors").preprocessing
    assert found.size_px == (case.size_px, case.size_px)
    assert found.pad_px == case.border_px
    images = open_source("digits", validation=HELD_OUT).splits["train"].images
    assert images is not None
    x = np.stack([found.fit_arrays(images[i : i + 1])[0] for i in range(len(images))]) / 255
    assert found.mean == pytest.approx((x.mean(),))
    assert found.std == pytest.approx((x.std(),))
    return found


@pytest.fixture(scope="module")
def again(case, preprocessing) -> Reference:
    def block(name: str) -> dict[str, Any]:
        of = f"{name}."
        return {k.removeprefix(of): v for k, v in case.changes.items() if k.startswith(of)}

    batches = Batches(
        open_source("digits", validation=HELD_OUT).splits["train"],
        preprocessing,
        batch_size=BATCH,
        augmentation=Augmentation(**block("augment")),
        mixing=Mixing(**block("mix")),
        num_classes=10,
        seed=SEED,
        shuffle=True,
    )
    return train_again(case, batches)


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_moved_alike(found: Arrays, expected: Arrays, first: Arrays, tolerance: float) -> None:
    """Each tensor is off by no more than that share of the way that it went."""
    off = {
        name: norm(found[name] - expected[name]) / norm(expected[name] - first[name])
        for name in first
    }
    assert max(off.values()) < tolerance, off


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))


def arrays(tensors: dict[str, torch.Tensor], prefix: str) -> Arrays:
    of = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return {name: tensor.double().numpy() for name, tensor in of.items()}


def test_weights_after_ten_steps(case, run, again):
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    weights = arrays(found.tensors, "model.")
    assert_moved_alike(weights, again.last, again.first, case.tolerance)
    averages = arrays(found.tensors, "averages.")
    assert bool(averages) == (again.average is not None)
    if again.average is not None:
        assert_moved_alike(averages, again.average, again.first, case.tolerance)
    for name in again.last.keys() - again.first.keys():  # batch norm's statistics, not averaged
        for statistics in [weights, averages] if averages else [weights]:
            off = norm(statistics[name] - again.last[name])
            assert off < case.tolerance * norm(again.last[name]), name
    if again.optimizer.clip is not None:
        assert again.optimizer.clipped >= 8  # so that clipping is seen


def test_what_is_saved_is_what_was_trained(case, run, again):
    """The average where there is one."""
    found = arrays(load_weights(run / "last.safetensors", model=case.model).model.state_dict(), "")
    expected = again.last if again.average is None else again.average
    assert_moved_alike(found, expected, again.first, case.tolerance)


def test_momentum_is_in_the_checkpoint(case, run, again):
    """In the order of the parameters, those that are decayed first where vectors are not."""
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    names = list(again.first)
    if not case.changes.get("optimizer.decay_vectors", True):
        names.sort(key=lambda name: again.first[name].ndim <= 1)
    kind = "exp_avg" if again.optimizer.name == "adamw" else "momentum_buffer"
    for index, name in enumerate(names):
        buffer = again.optimizer.buffers[name]
        saved = found.tensors[f"optimizer.{index}.{kind}"].double().numpy()
        assert norm(saved - buffer) < 2 * case.tolerance * norm(buffer), name


def test_training_columns_of_the_metrics(case, run, again):
    table = rows(run)
    assert [(row["epoch"], row["step"]) for row in table] == [("1", "6"), ("2", "10")]
    rates = [float(row["lr"]) for row in table]  # that of the step to come
    lr = case.changes["optimizer.lr"]
    assert rates == pytest.approx([lr * case.factors[6], lr * case.factors[10]], abs=1e-12)
    for row, (loss, top1) in zip(table, again.epochs, strict=True):
        assert float(row["train_loss"]) == pytest.approx(loss, rel=1e-4)
        assert float(row["train_top1"]) == pytest.approx(top1, abs=1.5 / TRAINED)


@pytest.mark.parametrize("name", ["last", "best"])
def test_validation_columns_of_the_metrics(name, case, run, preprocessing):
    """From the saved weights, in float64: cross-entropy after the temperature, not smoothed."""
    network, card, _ = load_weights(run / f"{name}.safetensors", model=case.model)
    row = rows(run)[card.epoch - 1]
    assert name == "best" or card.epoch == 2
    split = open_source("digits", validation=HELD_OUT).splits["val"]
    (batch,) = Batches(split, preprocessing, batch_size=HELD_OUT).epoch(0)
    with torch.no_grad():
        logits = network.double()(batch.images.double()).numpy()
    labels = batch.labels.numpy()
    loss, _ = cross_entropy(logits / case.changes.get("loss.temperature", 1.0), np.eye(10)[labels])
    ranks = (logits > logits[np.arange(HELD_OUT), labels][:, None]).sum(1)
    assert float(row["eval_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(row["eval_top1"]) == pytest.approx((ranks == 0).mean(), abs=1e-6)
    assert float(row["eval_top5"]) == pytest.approx((ranks < 5).mean(), abs=1e-6)
    assert card.temperature == case.changes.get("loss.temperature", 1.0)
