"""deepen info: what a network is, where each of its details comes from, and what it costs."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepen.cli.console import print_columns, print_csv, print_json, say
from deepen.errors import InputError

if TYPE_CHECKING:
    from deepen.analysis.complexity import Complexity, Layer
    from deepen.analysis.memory import Memory
    from deepen.analysis.subject import Subject

EXAMPLE = (
    "Example: deepen info resnet50 --depth 1   |   deepen info torchvision.models:vit_b_16 "
    "--input 3x224x224 --csv"
)


def parse_input(word: str | None) -> tuple[int, ...] | None:
    """The shape in "3x224x224"."""
    if word is None:
        return None
    parts = word.lower().split("x")
    if not all(re.fullmatch(r"[1-9]\d{0,5}", part) for part in parts):
        raise InputError(f"--input {word}: write it as CxHxW, 3x224x224 say")
    return tuple(map(int, parts))


def info(
    model: Annotated[
        str,
        typer.Argument(help="A name of `deepen models`, or package.module:factory of your own."),
    ],
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="Of one picture; by default the paper's."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Sum up the layers below this many names.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="For the memory; counts are for one.")
    ] = 32,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run it and measure the memory (CPU).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the layers as CSV.")] = False,
) -> None:
    """Say where a network comes from and count what it costs, layer by layer."""
    from deepen.analysis.complexity import complexity  # imports torch
    from deepen.analysis.memory import measured, memory
    from deepen.analysis.subject import subject, with_weights

    counted = subject(model, parse_input(input))
    costs = complexity(counted.module, counted.input_shape)
    layers = costs.layers if depth is None else costs.at_depth(depth)
    if as_csv:
        print_csv(_CSV_HEADER, map(_csv_row, layers))
        return
    needs = memory(counted.module, counted.input_shape, batch_size=batch_size)
    if measure:
        needs = measured(needs, with_weights(counted), counted.input_shape)
    if as_json:
        print_json(_document(counted, costs, needs, layers))
        return
    _print_origin(counted)
    say()
    _print_totals(costs, needs)
    say()
    print_columns(_HEADER, (_row(layer, counted) for layer in layers), words=3)


def _print_origin(counted: Subject) -> None:
    from deepen.analysis.subject import takes_in_words

    architecture = counted.architecture
    if architecture is None:
        say(f"{counted.name}: {type(counted.module).__name__}")
    else:
        say(f'{architecture.name}: {architecture.paper}, "{architecture.title}"')
        say(f"takes  {takes_in_words(architecture.takes)}")
    say(f"input  {_by(counted.input_shape)}")
    if architecture is not None and architecture.details:
        say()
        print_columns(
            ("field", "", "source"),
            [(d.field, d.kind, d.source) for d in architecture.details],
            words=3,
        )


def _print_totals(costs: Complexity, needs: Memory) -> None:
    work = costs.work
    unused = (
        f" ({costs.unused_parameters:,} of them not used in a prediction)"
        if costs.unused_parameters
        else ""
    )
    parts = {"convolution": work.convolution, "linear": work.linear, "matmul": work.matmul}
    inside = " + ".join(f"{kind} {n:,}" for kind, n in parts.items() if n) or "none"
    rows = [
        ("parameters", f"{costs.parameters:,}{unused}"),
        ("MACs", f"{work.macs:,} = {inside}; no biases (1 MAC = 2 FLOPs)"),
        (
            "beside them",
            f"norm {work.norm:,}, pooling {work.pooling:,}, "
            f"element-wise {work.elementwise:,} operations",
        ),
        ("connections", f"{work.connections:,} (inputs of the units, and their biases)"),
        ("units", f"{costs.units:,} (outputs of convolutions and linear layers)"),
        ("activations", f"{costs.values:,} values, and {costs.input_values:,} of the input"),
        (
            "memory",
            f"at batch {needs.batch_size}: prediction {_size(needs.inference)}, training "
            f"{_size(needs.training)}, weights {_size(needs.weights)} (estimated; SGD, momentum)",
        ),
    ]
    if needs.measured_inference is not None:
        rows.append(
            (
                "",
                f"measured: prediction {_size(needs.measured_inference)}, training "
                f"{_size(needs.measured_training)}",
            )
        )
    if costs.on_weights.macs:
        rows.append(("on weights", f"{costs.on_weights.macs:,} MACs more, whatever the batch"))
    if costs.uncounted:
        names = ", ".join(f"{name} ({n})" for name, n in costs.uncounted.items())
        rows.append(("not counted", names))
    print_columns(*_headless(rows), words=2)


def _headless(rows: list[tuple[str, str]]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    return rows[0], rows[1:]


def _size(count: int | None) -> str:
    if count is None:
        return "not possible"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


_HEADER = (
    *("layer", "kind", "output", "parameters", "MACs", "connections", "values"),
    *("field", "stride", "start"),
)


def _row(layer: Layer, counted: Subject) -> tuple[str, ...]:
    seen = layer.field
    return (
        layer.name or f"({type(counted.module).__name__})",
        layer.kind,
        _by(layer.output_shape[1:]),
        f"{layer.parameters:,}",
        f"{layer.macs:,}",
        f"{layer.work.connections:,}",
        f"{layer.values:,}",
        *(("", "", "") if seen is None else _seen(seen.size_px, seen.stride_px, seen.start_px)),
    )


def _seen(size: tuple[int, ...], stride: tuple[float, ...], start: tuple[float, ...]):
    return tuple(_by(v if len(set(v)) > 1 else v[:1]) for v in (size, stride, start))


def _by(sizes: tuple[float, ...]) -> str:
    return "x".join(f"{size:g}" for size in sizes)


_CSV_HEADER = (
    *("layer", "kind", "output_shape", "parameters", "macs"),
    *("convolution", "linear", "matmul", "norm", "pooling", "elementwise", "connections"),
    *("values", "bytes", "field_px", "stride_px", "start_px"),
)


def _csv_row(layer: Layer) -> tuple[Any, ...]:
    seen = layer.field
    return (
        layer.name,
        layer.kind,
        _by(layer.output_shape),
        layer.parameters,
        layer.macs,
        *asdict(layer.work).values(),
        layer.values,
        layer.bytes,
        *(("", "", "") if seen is None else map(_by, asdict(seen).values())),
    )


def _document(
    counted: Subject, costs: Complexity, needs: Memory, layers: tuple[Layer, ...]
) -> dict[str, Any]:
    known = counted.architecture
    origin = {} if known is None else {k: getattr(known, k) for k in ("paper", "title", "year")}
    return {
        "model": counted.name,
        **origin,
        "takes": None if known is None else asdict(known.takes),
        "details": [asdict(detail) for detail in known.details] if known else [],
        "input": counted.input_shape,
        "totals": {
            "parameters": costs.parameters,
            "trainable": costs.trainable,
            "unused_parameters": costs.unused_parameters,
            "buffers": costs.buffers,
            "macs": costs.macs,
            **asdict(costs.work),
            "units": costs.units,
            "values": costs.values,
            "input_values": costs.input_values,
        },
        "on_weights": asdict(costs.on_weights),
        "uncounted": costs.uncounted,
        "memory": asdict(needs),
        "layers": [{**asdict(layer), "macs": layer.macs} for layer in layers],
    }
