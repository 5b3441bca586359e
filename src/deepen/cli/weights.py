"""deepen weights: make weights files of other programs' checkpoints, and look into them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepen.cli.console import print_columns, print_json, say
from deepen.errors import InputError

if TYPE_CHECKING:
    from deepen.evaluation.intervals import Interval
    from deepen.weights.convert import Contents
    from deepen.weights.file import Card

EXAMPLE = "Example: deepen weights convert resnet50-0676ba61.pth --model resnet50_v1_5"

weights = typer.Typer(no_args_is_help=True, help="Convert, show and name weights of all kinds.")

MaxMB = Annotated[
    int, typer.Option("--max-mb", min=1, help="Read no file that is, or unpacks to, more.")
]


def _told(
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
    entry: Annotated[
        str | None,
        typer.Option(help="Which of a checkpoint's entries, where several fit: ema say."),
    ] = None,
    shortcut: Annotated[
        Literal["as-here", "pad-both"] | None,
        typer.Option(
            help="Where option A's zero maps are: after the others, or half before and half after."
        ),
    ] = None,
    max_mb: MaxMB = 2048,
    trust_model: Annotated[
        bool,
        typer.Option(
            "--trust-model",
            help="Believe --model though others call another network of the same shape so.",
        ),
    ] = False,
) -> dict[str, Any]:
    """What is said of a file without a card, as keywords of `load_foreign` and `convert`."""
    from deepen.weights.convert import Assumed, Meant, read_classes  # imports torch

    return {
        "classes": read_classes(classes) if classes else (),
        "assumed": Assumed(input_px, resize_px, _numbers("--mean", mean), _numbers("--std", std)),
        "meant": Meant(entry, shortcut, trust_model),
        "max_bytes": max_mb * 10**6,
    }


def of_foreign(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `_told` in the place of its word `foreign`."""
    told = inspect.signature(_told, eval_str=True).parameters
    own = inspect.signature(verb, eval_str=True).parameters
    keywords = [*own.values(), *told.values()]

    def command(**given: Any) -> None:
        foreign = _told(**{name: given.pop(name) for name in told})
        verb(**given, foreign=foreign)

    command.__signature__ = inspect.Signature(
        [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in keywords
            if each.name != "foreign"
        ]
    )
    command.__name__, command.__doc__ = verb.__name__, verb.__doc__
    return command


@weights.command(epilog=EXAMPLE)
@of_foreign
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
    *,
    foreign: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Make a weights file, with a card, of a checkpoint from elsewhere; no code in it is run."""
    from deepen.weights.convert import convert as write  # imports torch

    path, card, left_out = write(file, model, output, **foreign)
    if as_json:
        card_fields = card.model_dump(mode="json")
        print_json({"path": str(path), "card": card_fields, "left_out": list(left_out)})
        return
    say(str(path))
    _print_card(card)
    if left_out:
        say(f"  {'left out':10}  {', '.join(left_out)}")


@weights.command(
    epilog="Example: deepen weights check resnet20.th cifar10 --model resnet20 --stated 8.27"
)
@of_foreign
def check(
    file: Annotated[Path, typer.Argument(help="A weights file, deepen's or another program's.")],
    data: Annotated[
        str | None, typer.Argument(help="Labelled pictures; by default those of its card.")
    ] = None,
    stated: Annotated[
        float | None,
        typer.Option(help="The top-1 error in % that its author states; by default its card's."),
    ] = None,
    within: Annotated[
        float, typer.Option(min=0, help="Exit with 1 if the error is further off, in % points.")
    ] = 0.1,
    model: Annotated[
        str | None, typer.Option(help="The network; needed where the file has no card.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all; by default test, else val.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where named data sets lie.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    *,
    foreign: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Score any weights file on labelled pictures, beside the error that is stated for it."""
    from deepen import api  # imports torch

    found = api.check(
        file,
        data,
        stated=stated,
        model=model,
        foreign=foreign,
        split=split,
        data_dir=data_dir,
        device=device,
    )
    off = None if found.stated is None else abs(found.error - found.stated)
    if as_json:
        names = ("num_samples", "top1", "top1_interval", "top5", "loss", "protocol")
        scores = found.scores.model_dump(include={*names})
        told = {"stated_error": found.stated, "error": found.error, **scores}
        print_json({"path": str(file), **told})
    else:
        say(found.scores.protocol)
        for line in found.notes:
            say(line)
        if off is None:
            say(f"{found.scores.headline}; nothing is stated")
        else:
            words = "" if off <= within else f": off by {off:.2f} points"
            error = found.scores.interval.complement.in_words
            say(f"top-1 error {error}; stated {found.stated:.2f}%{words}")
    if off is not None and off > within:
        raise typer.Exit(1)


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
    for name, tensors in found.entries.tensors.items():
        values = sum(tensor.numel() for tensor in tensors.values())
        words = f"{file}: {len(tensors):,} tensors, {values:,} values"
        if len(tensors) == 1:
            words = f"{file}: one tensor, {next(iter(tensors))}"
        say(f"{words} in {name}" if name else words)
        if found.card is None and not found.torchvisions and len(tensors) > 1:
            how = " by order and shapes" if found.by_order and found.fits[name] else ""
            say(f"  fits{how} {', '.join(found.fits[name]) or 'no network of deepen'}")
    if found.card is not None:
        _print_card(found.card)
        return
    if found.entries.beside:
        say(f"beside them: {', '.join(found.entries.beside)}")
    say("no card: not deepen's; `deepen weights convert` makes a weights file of it")
    if found.torchvisions:
        (fits,) = found.fits.values()
        say(f"it is torchvision's {found.torchvisions}\nfits {', '.join(fits)}")


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
        "accuracy": "" if (found := _accuracy(card)) is None else found.in_words,
        "protocol": card.protocol,
        "source": card.source,
        "made": f"{card.created} by deepen {card.deepen_version}",
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:10}  {value}")


def _accuracy(card: Card) -> Interval | None:
    """What the card's top-1 is worth, by the pictures that its protocol counts."""
    from deepen.evaluation.intervals import interval

    counted = re.search(r", ([\d,]+) pictures?, ", card.protocol)
    if "top1" not in card.score or counted is None:
        return None
    return interval(card.score["top1"], int(counted[1].replace(",", "")))


def _document(file: Path, found: Contents) -> dict[str, Any]:
    accuracy = None if found.card is None else _accuracy(found.card)
    return {
        "path": str(file),
        "card": None if (card := found.card) is None else card.model_dump(mode="json"),
        "accuracy": accuracy and accuracy._asdict(),
        "torchvision": found.torchvisions or None,
        "fits": list(dict.fromkeys(model for each in found.fits.values() for model in each)),
        "by_order": found.by_order,
        "entries": {
            name: {
                "fits": found.fits.get(name, []),
                "tensors": {key: list(tensor.shape) for key, tensor in tensors.items()},
            }
            for name, tensors in found.entries.tensors.items()
        },
        "beside": list(found.entries.beside),
    }
