"""How much memory a network needs at its worst moment, to predict and to learn.

Estimated from a run on the meta device that follows the life of every tensor, so the order in
which things are made and freed is the real one. Beside it, measured: what torch's allocator hands
out in a real run. Neither holds the interpreter, the libraries and their own work space.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deepen.analysis.meta import Meta, Operation, on_meta, tensors_in
from deepen.errors import DeepenError, InputError

Input = Sequence[int] | Tensor


class Ledger:
    """Bytes of the tensors alive, now and at most; told of each tensor that is made."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> bool:
        """Count a tensor's storage until it is freed; False if it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return False
        self._storages[key] = weakref.ref(storage, partial(self._free, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        return True

    def _free(self, key: int, size: int, _: object) -> None:
        del self._storages[key]
        self.live -= size


@dataclass(frozen=True)
class Memory:
    """Bytes at the worst moment.

    Attributes:
        batch_size: samples at a time.
        weights: parameters and buffers; part of both figures below.
        inference: forward without gradients, in evaluation mode.
        training: a step of SGD with momentum: forward, backward, gradients and momentum kept.
            None where a network cannot be trained so.
        measured_inference: as a real run had it; None if none was asked for.
        measured_training: likewise.
    """

    batch_size: int
    weights: int
    inference: int
    training: int | None
    measured_inference: int | None = None
    measured_training: int | None = None


def memory(module: nn.Module, *inputs: Input, batch_size: int = 1) -> Memory:
    """Estimate the memory that a network needs; nothing is allocated.

    Args:
        module: any; it may lie on the meta device.
        inputs: for each argument of its forward the shape of one sample, or a tensor as it is.
        batch_size: how many samples where a shape is given.

    Raises:
        InputError: the module does not take such an input.
    """
    weights = _weights(module)
    inference = _estimate(module, inputs, batch_size, training=False)
    try:
        training = _estimate(module, inputs, batch_size, training=True)
    except InputError:  # batch norm of a single value, an operation without a derivative
        training = None
    return Memory(batch_size, weights, inference, training)


def measured(known: Memory, module: nn.Module, *inputs: Input) -> Memory:
    """The same with figures of a real run on the CPU beside it.

    Args:
        known: the estimate; the run takes its batch size.
        module: with real weights, on the CPU; its gradients are dropped.
        inputs: as for `memory`.

    Raises:
        InputError: the module lies on the meta device.
    """
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        raise InputError(f"{type(module).__name__} has no weights: it lies on the meta device")
    inference = _measure(module, inputs, known.batch_size, training=False)
    training = None
    if known.training is not None:
        training = _measure(module, inputs, known.batch_size, training=True)
    return replace(known, measured_inference=inference, measured_training=training)


def make_inputs(
    module: nn.Module, inputs: Sequence[Input], batch_size: int, device: str | torch.device
) -> list[Tensor]:
    """Tensors for what the user said of the inputs, in the type that the module computes in."""
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    options: dict[str, Any] = {"dtype": next(types, None), "device": device}
    return [
        given.to(device)
        if isinstance(given, Tensor)
        else torch.empty((batch_size, *given), **options).fill_(1)
        for given in inputs
    ]


class in_mode:  # noqa: N801, reads as a verb, as torch.no_grad does
    """Within it, all parts of a module are in training or in evaluation mode; then as before."""

    def __init__(self, module: nn.Module, training: bool) -> None:
        self._before = [(part, part.training) for part in module.modules()]
        module.train(training)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for part, training in self._before:
            part.training = training


def run(module: nn.Module, inputs: Sequence[Any]) -> Any:
    """Call a module; what goes wrong on the meta device is said in a line.

    Raises:
        InputError: it does not take such inputs, or reads values that the meta device lacks.
    """
    try:
        return module(*inputs)
    except DeepenError:
        raise
    except Exception as error:
        name = type(module).__name__
        shapes = ", ".join("x".join(map(str, t.shape)) for t in tensors_in(inputs)) or "nothing"
        words = str(error).strip().split("\n")[0]
        raise InputError(
            f"{name} does not run on an input of {shapes}, or not without values: {words}"
        ) from error


def _weights(module: nn.Module) -> int:
    ledger = Ledger()
    for tensor in (*module.parameters(), *module.buffers()):
        ledger.add(tensor)
    return ledger.live


def _estimate(module: nn.Module, inputs: Sequence[Input], batch_size: int, training: bool) -> int:
    ledger = Ledger()

    def see(op: Operation) -> None:
        for tensor in tensors_in([op.out]):
            ledger.add(tensor)

    with on_meta(module), in_mode(module, training), Meta(see):
        kept: list[Tensor] = [*module.parameters(), *module.buffers()]
        if training:  # the momentum
            kept += [p.new_empty(p.shape) for p in module.parameters() if p.requires_grad]
        given = make_inputs(module, inputs, batch_size, "meta")
        for tensor in (*kept, *given):
            ledger.add(tensor)
        with nullcontext() if training else torch.no_grad():
            out = run(module, given)
            if training:
                run_backward(out)
        return ledger.peak


def run_backward(out: Any) -> None:
    """Gradients of the sum of all that a network gives.

    Raises:
        InputError: nothing in it depends on a weight.
    """
    losses = [t.sum() for t in tensors_in([out]) if t.requires_grad]
    if not losses:
        raise InputError("no output depends on a weight: there is nothing to train")
    try:
        sum(losses[1:], losses[0]).backward()
    except RuntimeError as error:
        raise InputError(f"it cannot be trained: {str(error).splitlines()[0]}") from error


def _measure(module: nn.Module, inputs: Sequence[Input], batch_size: int, training: bool) -> int:
    given = make_inputs(module, inputs, batch_size, "cpu")
    kept: list[Tensor] = [*module.parameters(), *module.buffers(), *given]
    if training:
        kept += [p for p in module.parameters() if p.requires_grad]  # the momentum

    def step() -> None:
        module.zero_grad(set_to_none=True)
        with nullcontext() if training else torch.no_grad():
            out = run(module, given)
            if training:
                run_backward(out)

    with in_mode(module, training):
        step()  # libraries prepare themselves
        module.zero_grad(set_to_none=True)
        grown = _profiled(step)
    module.zero_grad(set_to_none=True)
    return grown + sum(t.numel() * t.element_size() for t in kept)


def _profiled(step: Callable[[], None]) -> int:
    """The most that torch's allocator had given out during a step, over what it had before."""
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it greets on standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
