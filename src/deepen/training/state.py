"""Where a training run stands: what a checkpoint holds beside weights, and how it is put back."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from deepen.data.decode import decoder
from deepen.training.blocks import Length
from deepen.training.progress import Row
from deepen.training.recipe import Recipe
from deepen.training.request import Here
from deepen.training.speed import settings_of

if TYPE_CHECKING:
    from deepen.training.step import Step
    from deepen.training.task import Task

Plain = dict[str, Any]
"""As JSON has it."""


@dataclass
class State:
    """A run between two steps.

    Attributes:
        epoch: passes finished.
        batch: batches done of the pass under way.
        step: optimizer steps taken in all.
        loss_sum: of the pass under way, over its pictures; so are `sums` and `images`.
        sums: of the task's figures.
        seconds: spent on training in the pass under way.
        best_epoch: that was the best so far, 0 before.
        stopped_early: no epoch had been the best for long enough.
        history: a row of metrics.csv for each finished pass.
        bad: pictures that could not be decoded, with the reason.
        num_bad_training: how many of them were to be trained on.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    stopped_early: bool = False
    history: list[Row] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    num_bad_training: int = 0

    @property
    def best(self) -> Row | None:
        """The best epoch's row of metrics."""
        return self.history[self.best_epoch - 1] if self.best_epoch else None

    @property
    def averages(self) -> dict[str, float]:
        """Loss and the task's figures of the pass under way, averaged over its pictures."""
        sums = {"loss": self.loss_sum, **self.sums}
        return {name: total / max(1, self.images) for name, total in sums.items()}

    def choose(self, row: Row, task: Task, recipe: Recipe) -> None:
        """Whether the epoch of this row is the best so far, and whether to go on.

        Nothing is chosen on the test pictures, where those are what is scored.
        """
        if recipe.scored == "test":
            return
        if task.better(row, self.best):
            self.best_epoch = self.epoch + 1
        waited = self.epoch + 1 - self.best_epoch
        self.stopped_early = recipe.early_stopping is not None and waited >= recipe.early_stopping

    def next_epoch(self, row: Row) -> None:
        """A pass has ended, and this is its row; the sums are of the next one."""
        self.history.append(row)
        self.epoch += 1
        self.batch, self.loss_sum, self.sums, self.images, self.seconds = 0, 0.0, {}, 0, 0.0


_STATES = TypeAdapter(State)


def machine(recipe: Recipe, here: Here) -> Plain:
    """What bits depend on beside the recipe and the data; a resume elsewhere is not bit-exact."""
    device = here.place
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **settings_of(recipe)._asdict(),
        "decoder": decoder(),
        "processes": here.processes.size,
    }


def pack(step: Step, scheduler: LRScheduler, state: State) -> tuple[dict[str, Tensor], Plain]:
    """Tensors and plain JSON of all that an exact resume needs."""
    tensors = {f"model.{name}": value for name, value in step.network.state_dict().items()}
    if step.averages is not None:
        averaged = step.averages.model.state_dict()
        tensors |= {f"averages.{name}": value for name, value in averaged.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    packed = step.optimizer.state_dict()
    for index, values in packed["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    plain = {
        "tensors": sorted(tensors),
        "progress": dataclasses.asdict(state),
        "optimizer": packed["param_groups"],
        "scheduler": scheduler.state_dict(),
    }
    return {name: value.detach().cpu() for name, value in tensors.items()}, plain


def unpack(tensors: dict[str, Tensor], plain: Plain, step: Step, scheduler: LRScheduler) -> State:
    """Put a checkpoint back into freshly built parts; the inverse of `pack`."""
    unpack_model(tensors, step.network)
    if step.averages is not None:
        step.averages.model.load_state_dict(_under("averages.", tensors))
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            by_parameter.setdefault(int(index), {})[key] = value
    step.optimizer.load_state_dict({"state": by_parameter, "param_groups": plain["optimizer"]})
    for parameter, values in step.optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:  # as dense in memory as it was: channels last too
                values[key] = torch.empty_like(parameter).copy_(value)
    scheduler.load_state_dict(plain["scheduler"])
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return State(**_of_today(plain["progress"]))


def check_plain(tensors: dict[str, Tensor], plain: Plain) -> None:
    """See that a checkpoint says all that it must, of whatever network it is.

    Raises:
        ValueError: names file and field.
    """
    needed = {"progress": dict, "optimizer": list, "scheduler": dict, "machine": dict, "run": dict}
    for name, kind in needed.items():
        if not isinstance(_dict(plain).get(name), kind):
            there = f"{plain[name]!r:.40}" if name in plain else "missing"
            raise ValueError(f"state.json: {name} is {there}")
    _same_names("state.json", "", plain, plain.keys() & {*needed, "tensors"})
    try:
        progress = _of_today(plain["progress"])
        fields = [each.name for each in dataclasses.fields(State)]
        _same_names("state.json", "progress.", progress, fields)
        found = _STATES.validate_json(json.dumps(progress), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, ("progress", *first["loc"])))
        raise ValueError(f"state.json: {field}: {first['msg']}") from error
    except KeyError as error:
        raise ValueError(f"state.json: progress.{error.args[0]} is missing") from error
    recipe = _dict(plain["run"].get("recipe", {}))
    try:
        Length.model_validate(recipe.get("length", {"steps": 1}))
    except ValidationError as error:
        raise ValueError(f"state.json: run.recipe.length is {recipe['length']!r:.40}") from error
    counts = (found.epoch, found.batch, found.step, found.images, found.best_epoch)
    if min(counts) < 0 or len(found.history) != found.epoch or found.best_epoch > found.epoch:
        raise ValueError(
            f"state.json: progress: {found.epoch} epochs with {len(found.history)} rows of "
            f"history, the best {found.best_epoch}"
        )
    for row in found.history:
        columns = {"epoch", "step", "lr", "images_per_s", "seconds"} | found.history[0].keys()
        _same_names("state.json", "progress.history: ", row, columns)
    if "tensors" in plain:
        _same_names("tensors.safetensors", "", tensors, plain["tensors"])


def check_parts(
    tensors: dict[str, Tensor], plain: Plain, step: Step, scheduler: LRScheduler
) -> None:
    """See that a checkpoint fits freshly built parts, so that `unpack` will take all of it.

    Raises:
        ValueError: names file and field.
    """
    fresh, built = pack(step, scheduler, State())
    parameters = [p for group in step.optimizer.param_groups for p in group["params"]]
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        shapes = [fresh[name].shape] if name in fresh else []
        if kind == "optimizer" and (index := rest.partition(".")[0]).isdecimal():
            known = parameters[int(index) : int(index) + 1]
            shapes = [torch.Size(), *(p.shape for p in known)] if known else []
        if not shapes and name != "rng.cuda":
            raise ValueError(f"tensors.safetensors: {name} belongs to no part of the run")
        if shapes and value.shape not in shapes:
            shape = tuple(shapes[-1])
            raise ValueError(f"tensors.safetensors: {name} is {tuple(value.shape)}, not {shape}")
    for name in fresh:
        if name not in tensors and name != "rng.cuda":
            raise ValueError(f"tensors.safetensors: {name} is missing")
    if tensors["rng.cpu"].dtype != torch.uint8:
        raise ValueError("tensors.safetensors: rng.cpu is no state of torch's generator")
    built = json.loads(json.dumps(built))
    have, wanted = plain["optimizer"], built["optimizer"]
    if len(have) != len(wanted):
        raise ValueError(f"state.json: optimizer has {len(have)} groups, not {len(wanted)}")
    for said, group in zip(have, wanted, strict=True):
        if _dict(said).get("params") != group["params"] or "lr" not in said:
            raise ValueError("state.json: optimizer: lr is missing, or params are others")
    pairs = [("optimizer: ", *pair) for pair in zip(have, wanted, strict=True)]
    for where, said, known in (*pairs, ("scheduler: ", plain["scheduler"], built["scheduler"])):
        if plain["machine"].get("torch") == torch.__version__:  # others have fields of their own
            _same_names("state.json", where, said, known)
        for name, value in known.items():
            if name in said and not _alike(said[name], value):
                raise ValueError(f"state.json: {where}{name} is {said[name]!r:.40}")


def _alike(one: Any, other: Any) -> bool:
    """Whether both are numbers, or of one kind; None goes with all."""
    kinds = [float if isinstance(each, int | float) else type(each) for each in (one, other)]
    return kinds[0] is kinds[1] or None in (one, other)


def _dict(value: Any) -> Plain:
    if not isinstance(value, dict):
        raise ValueError(f"state.json: {value!r:.40} is no mapping")
    return value


def _same_names(file: str, prefix: str, have: Collection[str], known: Collection[str]) -> None:
    for name in known:
        if name not in have:
            raise ValueError(f"{file}: {prefix}{name} is missing")
    for name in have:
        if name not in known:
            raise ValueError(f"{file}: {prefix}{name} is nothing that this version knows")


def _of_today(progress: Plain) -> Plain:
    """Version 0.1.0 knew classification alone: `correct`, and copies of the best row's figures."""
    if "correct" not in progress:
        return progress
    progress = dict(progress)
    correct, _, _ = (progress.pop(key) for key in ("correct", "best_top1", "best_loss"))
    return {**progress, "sums": {"top1": correct} if progress["images"] else {}}


def unpack_model(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Put the weights of a checkpoint back, and nothing else of it."""
    model.load_state_dict(_under("model.", tensors))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
