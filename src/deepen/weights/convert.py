"""A checkpoint from elsewhere becomes, once, a weights file with a card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
from pydantic import ValidationError
from torch import Tensor

from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, first_problem
from deepen.models import get_architecture, list_models
from deepen.weights.adopt import adopt, choose
from deepen.weights.file import Card, Loaded, read_card, save_weights
from deepen.weights.foreign import MAX_BYTES, Entries, check_size, read_entries, sha256_of
from deepen.weights.from_timm import is_timm, load_timm
from deepen.weights.from_torchvision import (
    adopt_torchvision,
    find_torchvision,
    is_torchvision,
    load_torchvision,
)
from deepen.weights.match import fitting, in_channels_of, in_order
from deepen.weights.names import TORCHVISION, namesake, variant_of
from deepen.weights.padding import Padding, settle

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CROP = 0.875  # of the shorter side, as torchvision and timm have it where they say nothing else
_SMALL_PX = 64  # pictures up to this are shown whole


class Assumed(NamedTuple):
    """How pictures are prepared for weights that do not say it; None: as is usual.

    Attributes:
        input_px: height = width of what the network sees.
        resize_px: the shorter side before the crop.
        mean: a value a channel, on the 0..1 scale.
        std: likewise.
    """

    input_px: int | None = None
    resize_px: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Meant(NamedTuple):
    """What is meant where a checkpoint leaves it open.

    Attributes:
        entry: which of its entries, where several fit.
        shortcut: where option A's zero maps are: see `padding`.
        trust_model: that weights are `model`'s though others give its name to another network of
            the same keys and shapes. No trust is asked for in what torchvision's SHA-256 refutes.
    """

    entry: str | None = None
    shortcut: Padding | None = None
    trust_model: bool = False


class Converted(NamedTuple):
    """The weights file that was written, its card, and what of the checkpoint is not in it."""

    path: Path
    card: Card
    left_out: tuple[str, ...] = ()


def convert(
    source: str | Path,
    model: str,
    output: str | Path | None = None,
    *,
    classes: Sequence[str] = (),
    assumed: Assumed | None = None,
    meant: Meant | None = None,
    max_bytes: int = MAX_BYTES,
) -> Converted:
    """Write a checkpoint as a weights file, bound to its variant.

    A checkpoint of torchvision's is known by its SHA-256, and gets its preprocessing, class names
    and scores. Of any other one deepen knows the tensors alone: the card says what was assumed.

    Args:
        source: safetensors, or what `torch.save` wrote; or the words that `load_weights` takes,
            "imagenet" and "hf-hub:OWNER/NAME".
        model: the variant that they belong to, or a user's `package.module:factory`.
        output: by default `source` with the ending .safetensors.
        classes: names in the order of the logits, where nobody else knows them.
        assumed: how pictures are prepared, where nobody else knows it.
        meant: what the file leaves open.
        max_bytes: neither the file nor what it unpacks to may be larger.

    Raises:
        InputError: the file cannot be read, its tensors are not `model`'s, or it leaves open what
            `meant` does not say.
        WorkError: the output could not be written.
    """
    word = source if isinstance(source, str) else source.as_posix()
    if ":" not in model:
        get_architecture(model)  # before anything large is read or fetched
    target = Path(output) if output is not None else _output(word, model)
    if target.exists():
        raise InputError(f"{target}: there is such a file; another --output")
    if not target.parent.is_dir():
        raise InputError(f"{target}: no such folder")
    if is_torchvision(word) or is_timm(word):
        loaded, left_out = load_named(word, model), ()
    else:
        loaded, left_out = load_foreign(
            Path(source), model, classes, assumed=assumed, meant=meant, max_bytes=max_bytes
        )
    save_weights(target, loaded.model, loaded.card)
    return Converted(target, loaded.card, left_out)


def load_named(word: str, model: str | None) -> Loaded:
    """Weights that others publish, by the words for them; see `load_weights`."""
    return load_timm(word, model) if is_timm(word) else load_torchvision(word, model)


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Names of classes, one a line, in the order of the logits.

    Raises:
        InputError: the list cannot be read, or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {path}: cannot be read: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise InputError(f"--classes {path}: is empty")
    return names


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        card: of a weights file of deepen's; None for another one.
        entries: its tensors, by the entry and the name that the file has for them.
        torchvisions: name and version of torchvision's checkpoint that this is, or "".
        fits: for each entry, the variants that its tensors fit, of a file without a card.
        by_order: whether they fit by order and shapes alone, not by their names.
    """

    card: Card | None
    entries: Entries
    torchvisions: str
    fits: dict[str, list[str]]
    by_order: bool = False


def contents(path: str | Path, max_bytes: int = MAX_BYTES) -> Contents:
    """Look into a weights file, deepen's or another program's.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(path)
    entries = read_entries(path, max_bytes)
    if has_card(path):
        return Contents(read_card(path), entries, "", {})
    found = find_torchvision(sha256_of(path))
    if found is not None:
        theirs, member = found
        return Contents(None, entries, repr(member), {entries.main(): [TORCHVISION[theirs]]})
    for among in (None, list_models()):  # all of them take seconds
        fits = {name: fitting(tensors, among) for name, tensors in entries.tensors.items()}
        if any(fits.values()):
            return Contents(None, entries, "", fits)
    if not entries.in_order:
        return Contents(None, entries, "", fits)
    fits = {
        name: [model for model in list_models() if in_order(tensors, model)]
        for name, tensors in entries.tensors.items()
    }
    return Contents(None, entries, "", fits, any(fits.values()))


def _output(word: str, model: str) -> Path:
    if is_torchvision(word):
        return Path(f"{model}-{word.lower()}.safetensors")
    if is_timm(word):
        return Path(f"{re.split('[/@:]', word)[2]}.safetensors")
    path = Path(word)
    if path.suffix == ".safetensors":
        return path.with_name(f"{path.stem}-{model.rpartition(':')[2]}.safetensors")
    return path.with_suffix(".safetensors")


def load_foreign(
    path: Path,
    model: str,
    classes: Sequence[str] = (),
    *,
    assumed: Assumed | None = None,
    meant: Meant | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[Loaded, tuple[str, ...]]:
    """A checkpoint as `convert` writes it, and what of it is left out.

    Raises:
        InputError: as `convert`.
    """
    assumed, meant = assumed or Assumed(), meant or Meant()
    check_size(path, max_bytes)
    if has_card(path):
        raise InputError(f"{path}: a weights file of deepen's already, as `weights show` tells")
    entries = read_entries(path, max_bytes)
    digest = sha256_of(path)
    found = find_torchvision(digest)
    if found is not None:
        theirs, member = found
        variant_of(TORCHVISION, theirs, model, str(path))
        return adopt_torchvision(str(path), entries.tensors[entries.main()], theirs, member), ()
    size = assumed.input_px or (224 if ":" in model else get_architecture(model).takes.size_px)
    chosen = choose(str(path), entries, model, meant.entry, (size, size))
    other = namesake(model)
    if other and not meant.trust_model and fitting(chosen.tensors, [other]):
        raise InputError(
            f"{path}: fits {other}, which is what torchvision and timm call {model}; "
            f"take --model {other}, or --trust-model where these surely are {model}'s"
        )
    preprocessing = _preprocessing(model, chosen.tensors, assumed)
    loaded = adopt(
        str(path),
        chosen.tensors,
        model,
        input_size=preprocessing.size_px,
        classes=tuple(classes),
        preprocessing=preprocessing,
        data="unknown",
        protocol=f"no score; the file does not say how pictures are prepared, so "
        f"{'as told' if any(assumed) else 'assumed'}: {preprocessing.describe()}, "
        f"mean {preprocessing.mean}, std {preprocessing.std}",
        source="; ".join(filter(None, (f"{path.name}, SHA-256 {digest}", chosen.words))),
    )
    state = loaded.model.state_dict()
    loaded.model.load_state_dict(settle(str(path), model, loaded.model, state, meant.shortcut))
    if meant.shortcut is not None:
        padding = f"{loaded.card.source}; --shortcut {meant.shortcut}"
        loaded = loaded._replace(card=loaded.card.model_copy(update={"source": padding}))
    return loaded, chosen.left_out


def _preprocessing(model: str, tensors: dict[str, Tensor], assumed: Assumed) -> Preprocessing:
    """As told; else as is usual for the network: ImageNet's mean, Inceptions' halves."""
    channels = in_channels_of(model, tensors)
    size = assumed.input_px or (224 if ":" in model else get_architecture(model).takes.size_px)
    halves = channels == 1 or model.startswith(("inception", "googlenet_bn"))
    mean = assumed.mean or ((0.5,) * channels if halves else IMAGENET_MEAN)
    std = assumed.std or ((0.5,) * channels if halves else IMAGENET_STD)
    shorter = assumed.resize_px or (None if size <= _SMALL_PX else round(size / _CROP))
    try:
        return Preprocessing(
            channels=channels,  # type: ignore[arg-type]  # checked by pydantic
            size_px=(size, size),
            resize="shorter" if shorter else "squash",
            resize_px=shorter,
            mean=mean,
            std=std,
        )
    except ValidationError as error:
        reason = first_problem(error, Preprocessing)
        raise InputError(f"--input-px, --resize-px, --mean, --std: {reason}") from error


def has_card(path: Path) -> bool:
    """Whether a file is deepen's own."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "deepen.card" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False
