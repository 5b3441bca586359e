"""Weights: files with a card, and what torchvision, timm and others have trained.

Weights belong to a variant, which the card names; nothing loads those of another one, not even
where keys and shapes are the same.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from deepen import models
from deepen.errors import InputError
from deepen.weights.convert import load_named
from deepen.weights.file import (
    Card,
    Loaded,
    card_of,
    finds_things,
    read_card,
    read_weights,
    save_weights,
)
from deepen.weights.from_timm import is_timm
from deepen.weights.from_torchvision import is_torchvision
from deepen.zoo import zoo_file

__all__ = [
    "Card",
    "Loaded",
    "card_of",
    "create_model",
    "finds_things",
    "load",
    "load_weights",
    "read_card",
    "save_weights",
]


def load_weights(path: str | Path, *, model: str | None = None) -> Loaded:
    """Build the network that weights belong to and load them.

    Args:
        path: a file of deepen's; or a name of `deepen.zoo`, "resnet20:cifar10" say; or "imagenet"
            for those that torchvision has for `model`
            ("imagenet1k_v1" and the like for a version); or "hf-hub:timm/resnet50.tv_in1k" and the
            like for timm's. The latter two fetch what is not at hand.
        model: the variant expected; needed for "imagenet", and for a user's own
            `package.module:factory`, which a file alone must not make deepen import.

    Raises:
        InputError: weights that are missing, cut, damaged, another variant's, or hold NaN.
        WorkError: they could not be fetched.
    """
    word = path if isinstance(path, str) else path.as_posix()
    if is_torchvision(word) or is_timm(word):
        return load_named(word, model)
    return read_weights(zoo_file(word) or path, model)


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

    `weights` is what `load_weights` takes, and must be of the same variant. With another number of
    classes than theirs, all is loaded but the last layer, which starts afresh.

    Raises:
        InputError: an unknown name, something the network cannot be, or weights that do not fit.
        WorkError: weights of others could not be fetched.
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
