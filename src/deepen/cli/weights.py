"""deepen weights: make weights files of other programs' checkpoints, and look into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepen.cli.console import print_columns, print_json, say
from deepen.errors import InputError

if TYPE_CHECKING:
    from deepen.weights.convert import Contents
    from deepen.weights.file import Card

EXAMPLE = "Example: deepen weights convert resnet50-0676ba61.pth --model resnet50_v1_5"

weights = typer.Typer(no_args_is_help=True, help="Convert, show and name weights of all kinds.")

MaxMB = Annotated[
    int, typer.Option("--max-mb", min=1, help="Read no file that is, or unpacks to, more.")
]


@weights.command(epilog=EXAMPLE)
def convert(
    file: Annotated[
        str,
        typer.Argument(
            help="A .pth or .safetensors file; or imagenet (torchvision's weights, fetched), "
            "or hf-hub:OWNER/NAME (timm's, fetched)."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="The very network they belong to: a name of `deepen models`.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default FILE, with .safetensors.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="A list of the classes' names in order, one a line.")
    ] = None,
    input_px: Annotated[
        int | None, typer.Option(min=1, help="Height and width of what the network sees.")
    ] = None,
    resize_px: Annotated[
        int | None, typer.Option(min=1, help="Shorter side of a picture before it is cropped.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted, of each channel: 0.485,0.456,0.406 say.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Divided by, of each channel.")] = None,
    max_mb: MaxMB = 2048,
    trust_model: Annotated[
        bool,
        typer.Option(
            "--trust-model",
            help="Believe --model though others call another network of the same shape so.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Make a weights file, with a card, of a checkpoint from elsewhere; no code in it is run."""
    from deepen.weights.convert import Assumed, read_classes  # imports torch
    from deepen.weights.convert import convert as write

    path, card = write(
        file,
        model,
        output,
        classes=read_classes(classes) if classes else (),
        assumed=Assumed(input_px, resize_px, _numbers("--mean", mean), _numbers("--std", std)),
        max_bytes=max_mb * 10**6,
        trust_model=trust_model,
    )
    if as_json:
        print_json({"path": str(path), "card": card.model_dump(mode="json")})
    else:
        say(str(path))
        _print_card(card)


@weights.command(epilog="Example: deepen weights show runs/PHOTOS-resnet20-1/best.safetensors")
def show(
    file: Annotated[Path, typer.Argument(help="A weights file, deepen's or another program's.")],
    max_mb: MaxMB = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what a weights file holds: its card, or the networks that its tensors fit."""
    from deepen.weights.convert import contents  # imports torch

    found = contents(file, max_mb * 10**6)
    if as_json:
        print_json(_document(file, found))
        return
    values = sum(tensor.numel() for tensor in found.tensors.values())
    say(f"{file}: {len(found.tensors):,} tensors, {values:,} values")
    if found.card is not None:
        _print_card(found.card)
        return
    say("no card: not deepen's; `deepen weights convert` makes a weights file of it")
    if found.torchvisions:
        say(f"it is torchvision's {found.torchvisions}")
    say(f"fits {', '.join(found.fits) or 'no network of deepen'}")


@weights.command(epilog="Example: deepen weights names --json")
def names(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the names that torchvision and timm have for networks of deepen's."""
    from deepen.weights.names import TIMM, TORCHVISION

    zoos = {"torchvision": TORCHVISION, "timm": TIMM}
    if as_json:
        print_json(zoos)
        return
    rows = [(zoo, theirs, ours) for zoo, table in zoos.items() for theirs, ours in table.items()]
    print_columns(("", "name there", "name here"), rows, words=3)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(f"{flag} {text}: numbers with commas between, 0.5,0.5,0.5 say") from error


def _print_card(card: Card) -> None:
    pictures = card.preprocessing
    rows = {
        "network": card.architecture,
        "classes": f"{card.num_classes}: {', '.join(card.classes[:5])}"
        + (", ..." if card.num_classes > 5 else ""),
        "pictures": pictures.describe(),
        "mean, std": "of each pixel" if pictures.mean_image else f"{pictures.mean}, {pictures.std}",
        "trained on": card.data,
        "score": ", ".join(f"{name} {value:.4f}" for name, value in card.score.items()),
        "protocol": card.protocol,
        "source": card.source,
        "made": f"{card.created} by deepen {card.deepen_version}",
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:10}  {value}")


def _document(file: Path, found: Contents) -> dict[str, Any]:
    return {
        "path": str(file),
        "card": None if found.card is None else found.card.model_dump(mode="json"),
        "torchvision": found.torchvisions or None,
        "fits": list(found.fits),
        "tensors": {name: list(tensor.shape) for name, tensor in found.tensors.items()},
    }
