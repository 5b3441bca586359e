"""Weights files: safetensors with a card in the metadata, enough to predict with no other file."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from deepen import models
from deepen.analysis.meta import Meta
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, first_problem
from deepen.files import write_whole
from deepen.weights.kinds import misnomer
from deepen.weights.mismatch import mismatch

_CARD = "deepen.card"
_OWN = re.compile(r"deepen\.detection\.networks:[\w-]+/[^:]+")  # on backbones of the registry alone
_MEAN_IMAGE = "preprocessing.mean_image"
PICKLES = frozenset({".pth", ".pt", ".th", ".bin", ".ckpt", ".pkl", ".tar"})
"""Endings that pickled checkpoints go by."""

# What a card may ask for; memory is taken by what it says before its network is run.
_MAX_PX, _MAX_RESIZE_PX, _MAX_CLASSES = 2048, 4096, 1_000_000
_LEAST, _MOST = 1e-6, 1e6  # of mean, std and temperature: beyond them float32 overflows


class Card(BaseModel):
    """What a weights file says of itself.

    Attributes:
        architecture: the variant that the weights belong to, or a user's `package.module:factory`.
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: (height, width) in px that it was trained at.
        classes: names, in the order of the logits.
        preprocessing: how a picture becomes the input.
        temperature: what logits are divided by to become probabilities.
        thresholds: where a picture may have several classes, the probability of each from which on
            it has it, which is a sigmoid's; none where it has one class, by a softmax.
        protocol: data, split, crops and number of pictures behind `score`, in words.
        score: {"top1": 0.9, "loss": 0.3, ...}; shares in 0..1, the loss in nats.
        data: what it was trained on, as the user named it.
        fingerprint: SHA-256 of that data's names, labels and pictures.
        trained_on: of a few training pictures, by which the data are known again, hashes of name
            and content (`deepen.data.seen`).
        validation: pictures that were held out of training, where the recipe says it.
        recipe: the whole recipe, as plain fields.
        epoch: passes over the training pictures behind these weights.
        source: where another program's weights came from, in words, with the file's SHA-256; or
            which weights these were trained from.
        deepen_version: of the program that wrote the file.
        created: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    num_classes: int
    in_channels: int
    input_size: tuple[int, int]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    protocol: str = ""
    score: dict[str, float] = {}
    data: str = ""
    fingerprint: str = ""
    trained_on: tuple[str, ...] = ()
    validation: int | None = None
    recipe: dict[str, object] = {}
    epoch: int = 0
    source: str = ""
    deepen_version: str = ""
    created: str = ""


def finds_things(card: Card) -> bool:
    """Whether weights tell boxes or a class of each pixel, and not of the whole picture."""
    return str(card.recipe.get("task", "")).startswith("deepen.detection.")


class Loaded(NamedTuple):
    """A network in evaluation mode, its card, and its mean picture if it has one."""

    model: nn.Module
    card: Card
    mean_image: Tensor | None


def save_weights(
    path: Path, model: nn.Module, card: Card, mean_image: Tensor | None = None
) -> None:
    """Write weights and card, whole or not at all.

    Raises:
        WorkError: the file could not be written; the old one is untouched.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    if mean_image is not None:
        tensors[_MEAN_IMAGE] = mean_image.cpu().contiguous()
    metadata = {"format": "pt", _CARD: card.model_dump_json()}
    write_whole(path, safetensors.torch.save(tensors, metadata))


def read_card(path: str | Path) -> Card:
    """The card alone, without loading the weights.

    Raises:
        InputError: no such file, no weights of deepen, or a damaged one.
    """
    path = Path(path)
    if kind := misnomer(path):
        raise InputError(f"{path}: {kind}")
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if _CARD not in metadata:
            raise InputError(
                f"{path}: has no card; it is no weights file of deepen's "
                f"(`deepen weights convert {path} --model M` makes one of it)"
            )
        card = Card.model_validate_json(metadata[_CARD])
    except ValidationError as error:
        raise InputError(f"{path}: its card is damaged: {first_problem(error, Card)}") from error
    except (safetensors.SafetensorError, OSError) as error:
        if path.suffix in PICKLES:
            raise InputError(
                f"{path}: a pickle is not loaded; `deepen weights convert {path} --model M` "
                "makes a weights file of it"
            ) from error
        raise InputError(f"{path}: no whole safetensors file ({error})") from error
    if problem := _nonsense(card):
        raise InputError(f"{path}: its card is damaged: {problem}")
    return card


def _nonsense(card: Card) -> str:
    """What no network can be or no number come of, in words; "" where the card is sound."""
    pictures = card.preprocessing
    sizes = {"input_size": card.input_size, "preprocessing.size_px": pictures.size_px}
    for name, size in sizes.items():
        if not all(1 <= side <= _MAX_PX for side in size):
            return f"{name}: {size}; sides of 1 to {_MAX_PX} px are known"
    if pictures.resize_px is not None and pictures.resize_px > _MAX_RESIZE_PX:
        return f"preprocessing.resize_px: {pictures.resize_px}; {_MAX_RESIZE_PX} px at most"
    if card.input_size != pictures.size_px:
        return f"input_size: {card.input_size}, and pictures of {pictures.size_px}"
    if not 1 <= card.num_classes <= _MAX_CLASSES:
        return f"num_classes: {card.num_classes:,}; 1 to {_MAX_CLASSES:,} are known"
    if len(card.classes) != card.num_classes:
        return f"classes: {len(card.classes):,} names for num_classes {card.num_classes:,}"
    if card.in_channels != pictures.channels:
        return f"in_channels: {card.in_channels}, and pictures of {pictures.channels}"
    if not _LEAST <= card.temperature <= _MOST:  # NaN fails too
        return f"temperature: {card.temperature:g}; it divides, so it must be finite and above 0"
    if not all(_LEAST <= value <= _MOST for value in pictures.std):
        return f"preprocessing.std: {pictures.std}; {_LEAST:g} to {_MOST:g} are known"
    if not all(abs(value) <= _MOST for value in pictures.mean):
        return f"preprocessing.mean: {pictures.mean}; {_MOST:g} at most"
    if strange := [name for name, value in card.score.items() if not math.isfinite(value)]:
        return f"score.{strange[0]}: no finite number"
    return ""


def read_weights(path: str | Path, model: str | None = None) -> Loaded:
    """Build the network that a file's card names and load its weights.

    Args:
        path: as `save_weights` wrote it.
        model: the variant expected; needed for a user's own `package.module:factory`, which a file
            alone must not make deepen import. Deepen's own detectors have such names too, and need
            no word.

    Raises:
        InputError: a file that is missing, cut, damaged, another variant's, or holds NaN.
    """
    card = read_card(path)
    foreign = ":" in card.architecture and not _OWN.fullmatch(card.architecture)
    if foreign and model != card.architecture:
        raise InputError(f"{path}: made by --model {card.architecture}; say so to load it")
    if model is not None and model != card.architecture:
        raise InputError(f"{path}: holds {card.architecture}, not {model}")
    wanted = card.num_classes, card.in_channels, card.input_size
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError) as error:  # KeyError: no kind of torch
        raise InputError(f"{path}: no whole safetensors file ({error})") from error
    mean_image = tensors.pop(_MEAN_IMAGE, None)
    if (mean_image is not None) != card.preprocessing.mean_image:
        raise InputError(f"{path}: its card and its tensors differ over {_MEAN_IMAGE}")
    if mean_image is not None:
        size = torch.empty(*card.preprocessing.size_px, card.in_channels, device="meta")
        if problem := mismatch({_MEAN_IMAGE: size}, {_MEAN_IMAGE: mean_image}):
            raise InputError(f"{path}: {problem}")
    try:
        if problem := mismatch(_shapes(card.architecture, *wanted), tensors):
            raise InputError(problem)
        network = models.create_model(card.architecture, *wanted)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    network.load_state_dict(tensors)
    return Loaded(network.eval(), card, mean_image)


def _shapes(model: str, *wanted: Any) -> dict[str, Tensor]:
    """What a network needs, before it takes memory for it; in full of a user's own network."""
    if ":" not in model:
        odd = (TypeError, NotImplementedError, RuntimeError)  # one that reads values as it builds
        with contextlib.suppress(*odd), torch.device("meta"), Meta():
            return models.create_model(model, *wanted).state_dict()
    return models.create_model(model, *wanted).state_dict()


def card_of(path: str | Path) -> dict[str, object]:
    """The card as plain JSON, for printing."""
    return json.loads(read_card(path).model_dump_json())
