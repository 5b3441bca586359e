"""Weights files: safetensors with a card in the metadata, enough to predict with no other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from deepen import models
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError
from deepen.files import write_whole

_CARD = "deepen.card"
_MEAN_IMAGE = "preprocessing.mean_image"


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
        protocol: data, split, crops and number of pictures behind `score`, in words.
        score: {"top1": 0.9, "loss": 0.3, ...}; shares in 0..1, the loss in nats.
        data: what it was trained on, as the user named it.
        fingerprint: SHA-256 of that data's names, labels and pictures.
        validation: pictures that were held out of training, where the recipe says it.
        recipe: the whole recipe, as plain fields.
        epoch: passes over the training pictures behind these weights.
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
    protocol: str = ""
    score: dict[str, float] = {}
    data: str = ""
    fingerprint: str = ""
    validation: int | None = None
    recipe: dict[str, object] = {}
    epoch: int = 0
    deepen_version: str = ""
    created: str = ""


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
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if _CARD not in metadata:
            raise InputError(f"{path}: has no card; it is no weights file of deepen's")
        return Card.model_validate_json(metadata[_CARD])
    except ValidationError as error:
        raise InputError(f"{path}: its card is damaged: {error.errors()[0]['msg']}") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: no whole safetensors file ({error})") from error


def load_weights(path: str | Path, *, model: str | None = None) -> Loaded:
    """Build the network that a file's card names and load its weights.

    Args:
        path: as `save_weights` wrote it.
        model: the variant expected; needed for a user's own `package.module:factory`, which a file
            alone must not make deepen import.

    Raises:
        InputError: a file that is missing, cut, damaged, another variant's, or holds NaN.
    """
    card = read_card(path)
    if ":" in card.architecture and model != card.architecture:
        raise InputError(f"{path}: made by --model {card.architecture}; say so to load it")
    if model is not None and model != card.architecture:
        raise InputError(f"{path}: holds {card.architecture}, not {model}")
    network = models.create_model(
        card.architecture, card.num_classes, card.in_channels, card.input_size
    )
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: no whole safetensors file ({error})") from error
    mean_image = tensors.pop(_MEAN_IMAGE, None)
    if (mean_image is not None) != card.preprocessing.mean_image:
        raise InputError(f"{path}: its card and its tensors differ over {_MEAN_IMAGE}")
    _check_tensors(path, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    return Loaded(network.eval(), card, mean_image)


def _check_tensors(path: str | Path, expected: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    problems = []
    if missing := sorted(expected.keys() - got.keys()):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(got.keys() - expected.keys()):
        problems.append(f"unexpected {_some(extra)}")
    shapes = [
        f"{name} is {tuple(got[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & got.keys()
        if got[name].shape != expected[name].shape
    ]
    if shapes:
        problems.append(_some(sorted(shapes)))
    if bad := sorted(name for name, t in got.items() if not torch.isfinite(t).all()):
        problems.append(f"NaN or infinite values in {_some(bad)}")
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def load(path: str | Path, *, model: str | None = None) -> nn.Module:
    """A trained network in evaluation mode; `load_weights` hands back its card as well."""
    return load_weights(path, model=model).model


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """`deepen.models.create_model`, with trained features where `weights` is given.

    The weights must be of the same variant. With another number of classes than theirs, all is
    loaded but the last layer, which starts afresh.

    Raises:
        InputError: an unknown name, something the network cannot be, or weights that do not fit.
    """
    if weights is None:
        return models.create_model(name, num_classes, in_channels, input_size)
    network, card, _ = load_weights(weights, model=name)
    asked = {"in_channels": in_channels, "input_size": input_size}
    for field, value in asked.items():
        have = getattr(card, field)
        want = (value, value) if field == "input_size" and isinstance(value, int) else value
        if want is not None and want != have and not (field == "input_size" and _free(name)):
            raise InputError(f"{weights}: has {field} {have}, asked for {want}")
    if num_classes is not None and num_classes != card.num_classes:
        network.reset_classifier(num_classes)  # type: ignore[operator]
    return network


def _free(name: str) -> bool:
    return ":" in name or models.get_architecture(name).takes.sizes == "free"


def card_of(path: str | Path) -> dict[str, object]:
    """The card as plain JSON, for printing."""
    return json.loads(read_card(path).model_dump_json())
