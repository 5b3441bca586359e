"""deepen models: the networks there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deepen.cli.console import print_json, say
from deepen.errors import unknown

EXAMPLE = "Example: deepen models 'resnet*'"
LINE = "{:25} {:28} {:>12} {:>15}  {:9} {}"


def models(
    pattern: Annotated[str, typer.Argument(help="Names, * standing for anything.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the networks, with paper, parameters, multiply-accumulates and input."""
    from deepen.models import list_models  # imports torch

    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models())
    if as_json:
        print_json([_about(name) for name in names])
        return
    say(LINE.format("name", "paper", "parameters", "macs", "input", "classes"))
    for name in names:  # each is counted as it is printed
        row = _about(name)
        counts = f"{row['parameters']:,}", f"{row['macs']:,}"
        say(LINE.format(name, row["paper"], *counts, row["input"], row["classes"]))


def _about(name: str) -> dict[str, Any]:
    from deepen.analysis.complexity import complexity
    from deepen.analysis.subject import subject

    counted = subject(name)  # shapes without memory
    architecture = counted.architecture
    assert architecture is not None
    takes, costs = architecture.takes, complexity(counted.module, counted.input_shape)
    return {
        "name": architecture.name,
        "paper": architecture.paper,
        "title": architecture.title,
        "year": architecture.year,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "input": f"{takes.channels}x{takes.size_px}x{takes.size_px}",
        "sizes": takes.sizes,
        "min_px": takes.min_px,
        "classes": takes.num_classes,
        "any_classes": takes.any_classes,
        "any_channels": takes.any_channels,
        "details": [
            {"field": d.field, "kind": d.kind, "source": d.source} for d in architecture.details
        ],
    }
