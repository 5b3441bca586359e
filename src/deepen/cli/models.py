"""deepen models: the networks there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deepen.cli.console import out, print_json
from deepen.errors import unknown

EXAMPLE = "Example: deepen models 'resnet*'"


def models(
    pattern: Annotated[str, typer.Argument(help="Names, * standing for anything.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the networks, with paper, parameters and input."""
    from deepen.models import get_architecture, list_models  # imports torch

    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models())
    rows = [_about(get_architecture(name)) for name in names]
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("name", "paper", "parameters", "input", "classes", box=None)
    for row in rows:
        table.add_row(
            row["name"], row["paper"], f"{row['parameters']:,}", row["input"], str(row["classes"])
        )
    out.print(table)


def _about(architecture: Any) -> dict[str, Any]:
    import torch

    takes = architecture.takes
    with torch.device("meta"):  # shapes without memory
        network = architecture.build(
            num_classes=takes.num_classes,
            in_channels=takes.channels,
            input_size=(takes.size_px, takes.size_px),
        )
    return {
        "name": architecture.name,
        "paper": architecture.paper,
        "title": architecture.title,
        "year": architecture.year,
        "parameters": sum(p.numel() for p in network.parameters()),
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
