"""Tensors of other programs become a network of deepen's: keys renamed, sizes found, checked."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepen import models
from deepen.errors import InputError
from deepen.layers import ImageClassifier
from deepen.version import __version__
from deepen.weights.file import Card, Loaded
from deepen.weights.mismatch import mismatch
from deepen.weights.names import TIMM, TORCHVISION

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
# Where keys differ from ours though the network is the same.
_KEYS = (
    # torchvision's DenseNet, in its checkpoints: denselayer1.norm.1.weight
    (re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    # timm's VGG, whose hidden layers are convolutions over the whole map
    (re.compile(r"^pre_logits\.fc1\."), "classifier.0."),
    (re.compile(r"^pre_logits\.fc2\."), "classifier.3."),
    (re.compile(r"^head\.fc\."), "classifier.6."),
)


def adopt(
    where: str,
    tensors: Mapping[str, Tensor],
    model: str,
    *,
    input_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] = (),
    **card: Any,
) -> Loaded:
    """Build a variant with as many classes and channels as the tensors have, and load them.

    Args:
        where: what the tensors are called in an error.
        tensors: by the names of torchvision, of timm or of deepen, wrapped or not.
        model: the variant that they belong to, or a user's `package.module:factory`.
        input_size: (height, width) in px, for a network that is built for one.
        classes: their names; 0, 1, 2, ... where nobody knows them.
        card: further fields of the card.

    Raises:
        InputError: the tensors are not this variant's; says what is missing, extra or misshapen,
            and which network they would fit.
    """
    if ":" in model and not classes:
        raise InputError(f"{where}: {model} needs the names of its classes (--classes)")
    tensors = renamed(tensors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what the file lacks starts the same each time
        network = network_for(model, tensors, input_size, len(classes) or None)
    expected = network.state_dict()
    whole, fresh = _completed(tensors, network)
    if problem := mismatch(expected, whole):
        fits = [name for name in fitting(tensors) if name != model]
        hint = f"; it fits {', '.join(fits)}" if fits else ""
        raise InputError(f"{where}: not a whole {model}: {problem}{hint}")
    network.load_state_dict(whole)
    if fresh:
        card["source"] = f"{card.get('source', where)}; without {fresh}, which starts afresh"
    num_classes = getattr(network, "num_classes", len(classes))
    if classes and len(classes) != num_classes:
        raise InputError(f"{where}: has {num_classes} classes; {len(classes)} names were given")
    channels = card["preprocessing"].channels
    if getattr(network, "in_channels", channels) != channels:
        raise InputError(f"{where}: takes pictures of {network.in_channels} channels")
    filled = Card(
        architecture=model,
        num_classes=num_classes,
        in_channels=channels,
        input_size=card["preprocessing"].size_px,
        classes=classes or tuple(map(str, range(num_classes))),
        deepen_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        **card,
    )
    return Loaded(network.eval(), filled, None)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wrappers' prefixes taken off, and keys as deepen has them.

    >>> list(renamed({"module.head.fc.bias": torch.zeros(1)}))
    ['classifier.6.bias']
    """
    found = dict(tensors)
    while found and (prefix := _shared_prefix(found)):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    ours = {}
    for key, value in found.items():
        if key.startswith("pre_logits.fc") and value.ndim == 4:
            value = value.flatten(1)
        for pattern, replacement in _KEYS:
            key = pattern.sub(replacement, key)
        ours[key] = value
    return ours


def _shared_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    shared = (p for p in _WRAPPERS if all(key.startswith(p) for key in tensors))
    return next(shared, None)


def network_for(
    model: str,
    tensors: Mapping[str, Tensor],
    input_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """A network with the tensors' number of classes and channels, not yet with their values.

    `num_classes` is for a factory of the user's own, of which nothing else is known.
    """
    if ":" in model:
        return models.create_model(model, num_classes, None, input_size)
    takes, paper = models.get_architecture(model).takes, _skeleton(model, input_size)
    classifier = tensors.get(f"{paper.classifier_name}.weight")
    rows = None if classifier is None or classifier.ndim == 0 else max(1, len(classifier))
    channels = _in_channels(tensors, paper)
    return models.create_model(
        model,
        rows if takes.any_classes else None,
        channels if takes.any_channels else None,
        input_size,
    )


def in_channels_of(model: str, tensors: Mapping[str, Tensor]) -> int:
    """Channels of the pictures that the tensors were made for."""
    if ":" in model:
        return 3
    usual = models.get_architecture(model).takes.channels
    return _in_channels(renamed(tensors), _skeleton(model)) or usual


def _skeleton(model: str, input_size: tuple[int, int] | None = None) -> ImageClassifier:
    """The paper's network, shapes without memory."""
    with torch.device("meta"):
        network = models.create_model(model, input_size=input_size)
    assert isinstance(network, ImageClassifier)
    return network


def _in_channels(tensors: Mapping[str, Tensor], paper: ImageClassifier) -> int | None:
    """1 or 3, as the first layer's weight says, where that is a convolution."""
    key, first = next(iter(paper.state_dict().items()))
    got = tensors.get(key)
    if first.ndim != 4 or got is None or got.ndim != 4 or got.shape[1] not in (1, 3):
        return None
    return got.shape[1]


def _completed(tensors: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The tensors as the network has them: its number format, counters, auxiliary classifiers.

    Batch norm's counters have no use here, and auxiliary classifiers serve training alone: where a
    file leaves them out, they are as in a new network. Says which auxiliary ones are.
    """
    expected = network.state_dict()
    whole = {
        key: value.to(expected[key].dtype)
        if key in expected and value.is_floating_point() and expected[key].is_floating_point()
        else value
        for key, value in tensors.items()
    }
    auxiliary = {
        f"{name.split('.')[0]}." for name in getattr(network, "auxiliary_classifier_names", ())
    }
    absent = sorted(p for p in auxiliary if not any(key.startswith(p) for key in tensors))
    for key, value in expected.items():
        if key.endswith("num_batches_tracked") or key.startswith(tuple(absent)):
            whole.setdefault(key, value)
    return whole, ", ".join(prefix.rstrip(".") for prefix in absent)


def fitting(tensors: Mapping[str, Tensor], among: Iterable[str] | None = None) -> list[str]:
    """The variants that the tensors fit in keys and shapes, whatever they hold.

    Args:
        tensors: by any names that `adopt` takes.
        among: the variants to try; by default those of torchvision and timm.
    """
    shapes = {
        key: torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in renamed(tensors).items()
    }
    return [model for model in among or _known() if _fits(model, shapes)]


def _known() -> list[str]:
    return list(dict.fromkeys((*TORCHVISION.values(), *TIMM.values())))


def _fits(model: str, shapes: dict[str, Tensor]) -> bool:
    network: nn.Module = _skeleton(model)
    if _completed(shapes, network)[0].keys() != network.state_dict().keys():
        return False
    try:
        with torch.device("meta"):
            network = network_for(model, shapes)
    except InputError:  # a network of one number of classes or channels alone
        return False
    whole, _ = _completed(shapes, network)
    return all(whole[key].shape == value.shape for key, value in network.state_dict().items())
