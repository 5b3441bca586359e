"""Where a training run stands: what a checkpoint holds beside weights, and how it is put back."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from deepen.data.decode import decoder
from deepen.training.averages import Averages
from deepen.training.progress import Row
from deepen.training.speed import Settings


@dataclass
class State:
    """A run between two steps.

    Attributes:
        epoch: passes finished.
        batch: batches done of the pass under way.
        step: optimizer steps taken in all.
        loss_sum: of the pass under way, over its pictures; so are `correct` and `images`.
        seconds: spent on training in the pass under way.
        best_epoch: with the best validation top-1 so far (the smaller loss where equal), 0 before.
        best_top1: that share, in 0..1.
        best_loss: the loss beside it.
        stopped_early: no epoch had been the best for long enough.
        history: a row of metrics.csv for each finished pass.
        bad: pictures that could not be decoded, with the reason.
        num_bad_training: how many of them were to be trained on.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_top1: float = -1.0
    best_loss: float = float("inf")
    stopped_early: bool = False
    history: list[Row] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    num_bad_training: int = 0

    def begin_epoch(self) -> None:
        """Clear the sums of the pass that has just ended."""
        self.batch, self.loss_sum, self.correct, self.images, self.seconds = 0, 0.0, 0, 0, 0.0


def machine(device: torch.device, settings: Settings, processes: int) -> dict[str, Any]:
    """What bits depend on beside the recipe and the data; a resume elsewhere is not bit-exact."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **settings._asdict(),
        "decoder": decoder(),
        "processes": processes,
    }


def pack(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    averages: Averages | None,
    state: State,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain JSON of all that an exact resume needs."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if averages is not None:
        averaged = averages.model.state_dict()
        tensors |= {f"averages.{name}": value for name, value in averaged.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    packed = optimizer.state_dict()
    for index, values in packed["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    plain = {
        "progress": dataclasses.asdict(state),
        "optimizer": packed["param_groups"],
        "scheduler": scheduler.state_dict(),
    }
    return {name: value.detach().cpu() for name, value in tensors.items()}, plain


def unpack(
    tensors: dict[str, Tensor],
    plain: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    averages: Averages | None,
) -> State:
    """Put a checkpoint back into freshly built parts; the inverse of `pack`."""
    unpack_model(tensors, model)
    if averages is not None:
        averages.model.load_state_dict(_under("averages.", tensors))
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            by_parameter.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": by_parameter, "param_groups": plain["optimizer"]})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:  # as dense in memory as it was: channels last too
                values[key] = torch.empty_like(parameter).copy_(value)
    scheduler.load_state_dict(plain["scheduler"])
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return State(**plain["progress"])


def unpack_model(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Put the weights of a checkpoint back, and nothing else of it."""
    model.load_state_dict(_under("model.", tensors))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
