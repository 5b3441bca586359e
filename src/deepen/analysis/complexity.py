"""What a network costs, layer by layer: parameters, work, activations, receptive fields.

`complexity` runs any `nn.Module` once on the meta device, in evaluation mode and without gradients,
and notes each operation under the layer that runs it. Nothing is computed or allocated, and no
network is known to it by name.

A layer whose operations say more or less than the layer means (a sparse convolution that is
computed as a dense one) may say it itself, in a method

    def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]

called with meta tensors of the batch. The keys are fields of `Work`; kinds of work that it leaves
out are then none, and connections that it leaves out are as counted from its operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from deepen.analysis.memory import Input, Ledger, in_mode, make_inputs, run
from deepen.analysis.meta import Meta, Operation, on_meta, tensors_in
from deepen.analysis.receptive_field import ReceptiveField, Sights, see_input
from deepen.analysis.work import Work, count
from deepen.display import Part, Table, displayed
from deepen.errors import InputError


@dataclass(frozen=True)
class Layer:
    """One call of a layer, or work that a container does itself between its layers.

    Attributes:
        name: path in the network, as in `named_modules`; of the container for its own work.
        kind: class of the layer; names of the operations ("add+relu") for a container's own work.
        output_shape: of its first output, batch first.
        parameters: of those it uses, counted at their first use.
        work: what it computes.
        values: that it hands on in new memory; none for views and work in place.
        bytes: of those values.
        field: receptive field, None where the input has no sides or the output depends on none.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    work: Work
    values: int
    bytes: int
    field: ReceptiveField | None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and matrix products."""
        return self.work.macs


@displayed
@dataclass(frozen=True, repr=False)
class Complexity:
    """The costs of a network on one input.

    Attributes:
        layers: in the order in which they ran.
        input_shapes: of the tensors that it ran on, batch first.
        parameters: of the module, each once, used or not.
        trainable: of those, the ones that take a gradient.
        buffers: values in its buffers (running means, fixed tables).
        unused: names of parameters that the run did not touch (an auxiliary head).
        unused_parameters: how many values they hold.
        on_weights: work on weights alone, which is the same for any batch (a weight that is
            normalised, a table of positions that goes through a layer); no layer's work holds it.
        uncounted: operations that there is no rule for, and how often they ran.
        kinds: class of every part of the network, by its path.
    """

    layers: tuple[Layer, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    trainable: int
    buffers: int
    unused: tuple[str, ...]
    unused_parameters: int
    on_weights: Work
    uncounted: dict[str, int]
    kinds: dict[str, str] = field(repr=False)

    def display(self) -> list[Part]:
        """What it shows of itself: the totals, and every layer."""
        rows = [
            (
                layer.name,
                layer.kind,
                "x".join(map(str, layer.output_shape[1:])),
                *(f"{n:,}" for n in (layer.parameters, layer.macs, layer.work.connections)),
                f"{layer.values:,}",
            )
            for layer in self.layers
        ]
        header = ("layer", "kind", "output", "parameters", "MACs", "connections", "values")
        return [
            f"{self.parameters:,} parameters, {self.macs:,} MACs (1 MAC = 2 FLOPs, no biases)",
            Table(header, rows, words=3),
        ]

    @property
    def work(self) -> Work:
        """All work, kind by kind."""
        return sum((layer.work for layer in self.layers), Work())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and matrix products, no biases."""
        return self.work.macs

    @property
    def connections(self) -> int:
        """As LeCun et al. 1998 count them; see `Work`."""
        return self.work.connections

    @property
    def values(self) -> int:
        """Activation values of all layers; without the input."""
        return sum(layer.values for layer in self.layers)

    @property
    def input_values(self) -> int:
        """Values of the input."""
        return sum(map(prod, self.input_shapes))

    @property
    def units(self) -> int:
        """Outputs of convolutions and linear layers: "neurons"."""
        weighted = (la for la in self.layers if la.work.convolution or la.work.linear)
        return sum(prod(layer.output_shape) for layer in weighted)

    def at_depth(self, depth: int) -> tuple[Layer, ...]:
        """Layers with what lies deeper than `depth` names summed up under its container."""
        rows = []
        for name, group in groupby(self.layers, lambda la: _cut(la.name, depth)):
            members = [*group]
            whole = all(member.name == name for member in members)
            rows += members if whole else [_sum_up(name, self.kinds.get(name, ""), members)]
        return tuple(rows)


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth]) if name else name


def _sum_up(name: str, kind: str, layers: list[Layer]) -> Layer:
    return Layer(
        name,
        kind,
        layers[-1].output_shape,
        sum(layer.parameters for layer in layers),
        sum((layer.work for layer in layers), Work()),
        sum(layer.values for layer in layers),
        sum(layer.bytes for layer in layers),
        layers[-1].field,
    )


def complexity(module: nn.Module, *inputs: Input) -> Complexity:
    """Count what a network costs, for one sample.

    Args:
        module: any; it may lie on the meta device, and is left as it was.
        inputs: for each argument of its forward the shape of one sample, (3, 224, 224) say, or a
            tensor to be taken as it is, with its batch and its type.

    Raises:
        InputError: the module does not take such an input, or cannot be followed without values.
    """
    with on_meta(module), in_mode(module, training=False), torch.no_grad():
        owned = dict(module.named_parameters())
        given = make_inputs(module, inputs, 1, "meta")
        trace = _Trace(module, given)
        with trace, Meta(trace.see):
            run(module, given)
        unused = {name: p.numel() for name, p in owned.items() if id(p) in trace.unused}
        return Complexity(
            layers=tuple(trace.rows),
            input_shapes=tuple(tuple(tensor.shape) for tensor in given),
            parameters=sum(p.numel() for p in owned.values()),
            trainable=sum(p.numel() for p in owned.values() if p.requires_grad),
            buffers=sum(b.numel() for b in module.buffers()),
            unused=tuple(unused),
            unused_parameters=sum(unused.values()),
            on_weights=trace.on_weights,
            uncounted=trace.uncounted,
            kinds={name: type(part).__name__ for name, part in module.named_modules()},
        )


# Where a layer's class comes from says what its work is for, whatever it is made of.
_FAMILIES = {
    "torch.nn.modules.batchnorm": "norm",
    "torch.nn.modules.instancenorm": "norm",
    "torch.nn.modules.normalization": "norm",
    "torch.nn.modules.pooling": "pooling",
}


@dataclass
class _Call:
    """A module that is running: what began with it, and what is not in a row yet."""

    name: str
    first_row: int
    first_op: int
    has_children: bool = False
    parameters: int = 0
    chain: Tensor | None = None  # what a chain of element-wise operations has come to
    chain_op: int = 0  # where it began


class _Trace:
    """Hooks on every module and an eye on every operation, which together write the rows."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.rows: list[Layer] = []
        self.on_weights = Work()
        self.uncounted: dict[str, int] = {}
        self.unused = {id(p): p.numel() for p in module.parameters()}
        self._names = {part: name for name, part in module.named_modules()}
        self._hooks: list[Any] = []
        self._calls = [_Call("", 0, 0)]
        self._num_ops = 0
        self._ledger = Ledger()
        self._born: dict[int, int] = {}  # the operation that made a storage
        self._weights: set[int] = set()  # storages of weights, and of what is made of them alone
        for tensor in (*module.parameters(), *module.buffers()):
            self._ledger.add(tensor)
            self._weights.add(_storage(tensor))
        self._sights = Sights()
        for tensor in inputs:
            self._ledger.add(tensor)
            self._sights.set(tensor, see_input(tensor))
        self._paused = False

    def __enter__(self) -> None:
        for part in self._names:
            self._hooks.append(part.register_forward_pre_hook(self._begin))
            self._hooks.append(part.register_forward_hook(self._end, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, part: nn.Module, args: Any) -> None:
        self._calls[-1].has_children = True
        self._calls[-1].chain = None
        self._calls.append(_Call(self._names[part], len(self.rows), self._num_ops + 1))

    def _end(self, part: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        call, parent = self._calls.pop(), self._calls[-1]
        own = self._declared(part, args, kwargs, out)
        if call.has_children and own is None:
            parent.parameters += call.parameters
            return
        parts, self.rows[call.first_row :] = self.rows[call.first_row :], []
        work = _in_family(part, sum((row.work for row in parts), Work()))
        self._write(
            call.name,
            type(part).__name__,
            [*tensors_in([out])],
            call.parameters + sum(row.parameters for row in parts),
            work if own is None else work.declared(own),
            since=call.first_op,
        )

    def _declared(self, part: nn.Module, args: Any, kwargs: Any, out: Any) -> dict[str, int] | None:
        if not callable(getattr(type(part), "complexity", None)):
            return None
        given = next(tensors_in((*args, *kwargs.values())), None)
        self._paused = True
        own = part.complexity(given, next(tensors_in([out]), None))  # type: ignore[operator]
        self._paused = False
        known = {f.name for f in fields(Work)}
        if not isinstance(own, dict) or own.keys() - known:
            raise InputError(
                f"{type(part).__name__}.complexity must give a dict with keys of "
                f"{', '.join(sorted(known))}; gave {own!r}"
            )
        return own

    def see(self, op: Operation) -> None:
        """Note an operation under the module that runs."""
        results = [*tensors_in([op.out])]
        if self._paused or not results:
            return
        self._num_ops += 1
        call = self._calls[-1]
        given = [*tensors_in((op.args, op.kwargs))]
        for tensor in given:
            call.parameters += self.unused.pop(id(tensor), 0)
        made = False
        for tensor in results:
            if self._ledger.add(tensor):
                made = True
                self._born[_storage(tensor)] = self._num_ops
                self._sights.forget(tensor)
        work = count(op, self._is_weight)
        if work is None:
            self.uncounted[op.name] = self.uncounted.get(op.name, 0) + 1
        if given and all(map(self._is_weight, given)):
            self._weights.update(map(_storage, results))
            self.on_weights += work or Work()
            return
        self._weights.difference_update(map(_storage, results))  # made, or written to in place
        self._sights.follow(op)
        if work is None or made or work != Work():
            self._note(call, op.name, given, results, work or Work())

    def _note(
        self, call: _Call, name: str, given: list[Tensor], results: list[Tensor], work: Work
    ) -> None:
        kind, since = _spoken(name, work), self._num_ops
        simple = work == Work(elementwise=work.elementwise) and work.elementwise > 0
        if simple and call.chain is not None and any(t is call.chain for t in given):
            before = self.rows.pop()
            kind, work, since = f"{before.kind}+{kind}", before.work + work, call.chain_op
            call.parameters += before.parameters
        self._write(call.name, kind, results[:1], call.parameters, work, since)
        call.parameters = 0
        call.chain, call.chain_op = (results[0], since) if simple else (None, 0)

    def _write(
        self,
        name: str,
        kind: str,
        results: list[Tensor],
        parameters: int,
        work: Work,
        since: int,
    ) -> None:
        new = {
            key: tensor
            for tensor in results
            if (key := _storage(tensor)) not in self._weights and self._born.get(key, -1) >= since
        }
        sight = self._sights.get(results[0]) if results else None
        self.rows.append(
            Layer(
                name,
                kind,
                tuple(results[0].shape) if results else (),
                parameters,
                work,
                values=sum(t.numel() for t in new.values()),
                bytes=sum(t.numel() * t.element_size() for t in new.values()),
                field=None if sight is None else sight.field,
            )
        )

    def _is_weight(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._weights


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _in_family(part: nn.Module, work: Work) -> Work:
    for home in (cls.__module__ for cls in type(part).__mro__):
        if home in _FAMILIES:
            rest = {"norm": 0, "pooling": 0, "elementwise": 0}
            return replace(work, **{**rest, _FAMILIES[home]: work.operations})
    return work


def _spoken(name: str, work: Work) -> str:
    if work.linear or work.matmul:
        return "linear" if work.linear else "matmul"
    return name.lstrip("_").removeprefix("native_").removesuffix("_with_indices")
