"""deepen predict: the classes of pictures, one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import complain, print_csv_row, print_json, say
from deepen.data.names import printable

EXAMPLE = "Example: deepen predict runs/PHOTOS-resnet20-1/best.safetensors holiday.jpg NEW_PHOTOS/"


def predict(
    weights: Annotated[Path, typer.Argument(help="A weights file of `deepen train`.")],
    paths: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes a picture.")] = 5,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Pictures at a time.")
    ] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Needed for package.module:factory of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a class.")] = False,
) -> None:
    """Print the most probable classes of each picture; a bad file is named and the rest goes on."""
    from deepen import api  # imports torch
    from deepen.data.decode import PictureError

    failed = 0
    if as_csv:
        print_csv_row(("path", "rank", "class", "probability"))
    for found in api.predict(
        weights, paths, top_k=top_k, batch_size=batch_size, device=device, model=model
    ):
        if isinstance(found, PictureError):
            failed += 1
            complain(f"{printable(found.path)}: {found.reason}", name="deepen predict")
            if as_json:
                print_json({"path": found.path, "error": found.reason}, indent=None)
        elif as_json:
            top = [{"class": name, "probability": share} for name, share in found.top]
            print_json({"path": found.path, "top": top}, indent=None)
        elif as_csv:
            for rank, (name, share) in enumerate(found.top or [("", 0.0)], bool(found.top)):
                print_csv_row((found.path, rank, name, f"{share:.6f}"))
        else:
            words = "  ".join(f"{name} {share:.1%}" for name, share in found.top)
            say(f"{found.path}  {words or 'no class is above its threshold'}")
    if failed:
        raise typer.Exit(1)
