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
from deepen.weights.adopt import adopt, fitting, in_channels_of
from deepen.weights.file import Card, Loaded, read_card, save_weights
from deepen.weights.foreign import MAX_BYTES, check_size, read_tensors, sha256_of
from deepen.weights.from_timm import is_timm, load_timm
from deepen.weights.from_torchvision import (
    adopt_torchvision,
    find_torchvision,
    is_torchvision,
    load_torchvision,
)
from deepen.weights.names import TORCHVISION, namesake, variant_of

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


class Converted(NamedTuple):
    """The weights file that was written, and its card."""

    path: Path
    card: Card


def convert(
    source: str | Path,
    model: str,
    output: str | Path | None = None,
    *,
    classes: Sequence[str] = (),
    assumed: Assumed | None = None,
    max_bytes: int = MAX_BYTES,
    trust_model: bool = False,
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
        max_bytes: neither the file nor what it unpacks to may be larger.
        trust_model: take weights for `model`'s though others give its name to another network
            with the same keys and shapes.

    Raises:
        InputError: the file cannot be read, or its tensors are not `model`'s.
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
        loaded = load_named(word, model)
    else:
        loaded = _load(
            Path(source), model, tuple(classes), assumed or Assumed(), max_bytes, trust_model
        )
    save_weights(target, loaded.model, loaded.card)
    return Converted(target, loaded.card)


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
        tensors: by name, as the file has them.
        torchvisions: name and version of torchvision's checkpoint that this is, or "".
        fits: the variants that the tensors fit, of a file without a card.
    """

    card: Card | None
    tensors: dict[str, Tensor]
    torchvisions: str
    fits: tuple[str, ...]


def contents(path: str | Path, max_bytes: int = MAX_BYTES) -> Contents:
    """Look into a weights file, deepen's or another program's.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(path)
    tensors = read_tensors(path, max_bytes)
    if _has_card(path):
        return Contents(read_card(path), tensors, "", ())
    found = find_torchvision(sha256_of(path))
    if found is not None:
        theirs, member = found
        return Contents(None, tensors, repr(member), (TORCHVISION[theirs],))
    fits = fitting(tensors) or fitting(tensors, list_models())  # all of them take seconds
    return Contents(None, tensors, "", tuple(fits))


def _output(word: str, model: str) -> Path:
    if is_torchvision(word):
        return Path(f"{model}-{word.lower()}.safetensors")
    if is_timm(word):
        return Path(f"{re.split('[/@:]', word)[2]}.safetensors")
    path = Path(word)
    if path.suffix == ".safetensors":
        return path.with_name(f"{path.stem}-{model.rpartition(':')[2]}.safetensors")
    return path.with_suffix(".safetensors")


def _load(
    path: Path,
    model: str,
    classes: tuple[str, ...],
    assumed: Assumed,
    max_bytes: int,
    trust_model: bool,
) -> Loaded:
    check_size(path, max_bytes)
    if _has_card(path):
        raise InputError(f"{path}: a weights file of deepen's already, as `weights show` tells")
    digest = sha256_of(path)
    found = find_torchvision(digest)
    if found is not None:
        theirs, member = found
        variant_of(TORCHVISION, theirs, model, str(path))
        return adopt_torchvision(str(path), read_tensors(path, max_bytes), theirs, member)
    tensors = read_tensors(path, max_bytes)
    other = namesake(model)
    if other and not trust_model and fitting(tensors, [other]):
        raise InputError(
            f"{path}: fits {other}, which is what torchvision and timm call {model}; "
            f"take --model {other}, or --trust-model where these surely are {model}'s"
        )
    preprocessing = _preprocessing(model, tensors, assumed)
    return adopt(
        str(path),
        tensors,
        model,
        input_size=preprocessing.size_px,
        classes=classes,
        preprocessing=preprocessing,
        data="unknown",
        protocol=f"no score; the file does not say how pictures are prepared, so "
        f"{'as told' if any(assumed) else 'assumed'}: {preprocessing.describe()}, "
        f"mean {preprocessing.mean}, std {preprocessing.std}",
        source=f"{path.name}, SHA-256 {digest}",
    )


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


def _has_card(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "deepen.card" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False
