"""Which tensors of another program are a network's: by their names, else by order and shapes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepen import models
from deepen.analysis.meta import Meta
from deepen.errors import InputError
from deepen.layers import ImageClassifier
from deepen.weights.names import TIMM, TORCHVISION

_COUNTER = "num_batches_tracked"  # of batch norm
# No part of a network: the weights of a loss, states of metrics, what a profiler (thop) leaves.
_ASIDE = re.compile(
    r"^(criterion|loss\w*|\w+_loss|metrics?|\w+_(metrics?|acc|accuracy))\."
    r"|(^|\.)(total_ops|total_params)$"
)
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


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wrappers' prefixes taken off, and keys as deepen has them.

    >>> list(renamed({"module.head.fc.bias": torch.zeros(1)}))
    ['classifier.6.bias']
    """
    found = dict(tensors)
    while found and (prefix := _shared_prefix(found)):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return {_rename(key): _flat(key, value) for key, value in found.items()}


def _rename(key: str) -> str:
    for pattern, replacement in _KEYS:
        key = pattern.sub(replacement, key)
    return key


def _flat(key: str, value: Tensor) -> Tensor:
    """A matrix of timm's convolution over the whole map."""
    whole_map = value.ndim == 4 and re.search(r"(^|\.)pre_logits\.fc", key)
    return value.flatten(1) if whole_map else value


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

    `num_classes` is for a factory of the user's own, of which nothing else is known; where it is
    left out, the last layer says it.
    """
    if ":" in model:
        return models.create_model(model, num_classes or num_outputs(tensors), None, input_size)
    takes, paper = models.get_architecture(model).takes, _paper(model, input_size)
    classifier = tensors.get(f"{paper.classifier_name}.weight")
    rows = None if classifier is None or classifier.ndim == 0 else max(1, len(classifier))
    channels = _in_channels(tensors, paper)
    return models.create_model(
        model,
        rows if takes.any_classes else None,
        channels if takes.any_channels else None,
        input_size,
    )


def num_outputs(tensors: Mapping[str, Tensor]) -> int | None:
    """Outputs of the last layer, where nothing but the tensors' order says which that is."""
    rows = [len(t) for key, t in tensors.items() if key.endswith("weight") and t.ndim in (2, 4)]
    return rows[-1] if rows else None


def in_channels_of(model: str, tensors: Mapping[str, Tensor]) -> int:
    """Channels of the pictures that the tensors were made for."""
    if ":" in model:
        return 3
    usual = models.get_architecture(model).takes.channels
    return _in_channels(renamed(tensors), _paper(model)) or usual


@lru_cache(maxsize=256)  # `weights show` asks twice for each
def _paper(model: str, input_size: tuple[int, int] | None = None) -> ImageClassifier:
    """The paper's network, shapes without memory."""
    with torch.device("meta"), Meta():
        network = models.create_model(model, input_size=input_size)
    assert isinstance(network, ImageClassifier)
    return network


def _skeleton(model: str, input_size: tuple[int, int] | None, num_classes: int | None) -> nn.Module:
    """The paper's network, shapes without memory; or the user's own, with so many classes."""
    if ":" not in model:
        return _paper(model, input_size)
    return models.create_model(model, num_classes)


def _in_channels(tensors: Mapping[str, Tensor], paper: ImageClassifier) -> int | None:
    """1 or 3, as the first layer's weight says, where that is a convolution."""
    key, first = next(iter(paper.state_dict().items()))
    got = tensors.get(key)
    if first.ndim != 4 or got is None or got.ndim != 4 or got.shape[1] not in (1, 3):
        return None
    return got.shape[1]


def completed(tensors: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], str]:
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
    absent = sorted(p for p in _auxiliary(network) if not any(key.startswith(p) for key in tensors))
    for key, value in expected.items():
        if key.endswith(_COUNTER) or key.startswith(tuple(absent)):
            whole.setdefault(key, value)
    return whole, ", ".join(prefix.rstrip(".") for prefix in absent)


def _auxiliary(network: nn.Module) -> set[str]:
    names = getattr(network, "auxiliary_classifier_names", ())
    return {f"{name.split('.')[0]}." for name in names}


def fitting(tensors: Mapping[str, Tensor], among: Iterable[str] | None = None) -> list[str]:
    """The variants that the tensors fit in keys and shapes, whatever they hold.

    Args:
        tensors: by any names that `adopt` takes, or all of them below one prefix more.
        among: the variants to try; by default those of torchvision and timm.
    """
    shapes = on_meta(tensors)
    return [model for model in among or _known() if any(readings(shapes, model))]


def on_meta(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names, shapes and kinds, without values."""
    return {
        key: torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in tensors.items()
    }


def _known() -> list[str]:
    return list(dict.fromkeys((*TORCHVISION.values(), *TIMM.values())))


class Reading(NamedTuple):
    """A way in which tensors are a network's.

    Attributes:
        prefix: what stands before all of their names in the file: "module." say.
        keys: the network's name of each, by that in the file.
        by_order: whether their order decided, not their names.
    """

    prefix: str
    keys: dict[str, str]
    by_order: bool = False


def readings(
    tensors: Mapping[str, Tensor], model: str, input_size: tuple[int, int] | None = None
) -> Iterator[Reading]:
    """The ways in which some of the tensors, all below one prefix, are the whole of a variant.

    Names decide: they are the network's below the prefix, with the class layer alone under another
    name perhaps, and with nothing else there but what is no part of any network (a loss's weights,
    a profiler's counts). Shapes must agree.

    Args:
        tensors: by the names of the file; their values are not looked at.
        model: the variant, or a user's `package.module:factory`.
        input_size: (height, width) in px, for a network that is built for one.
    """
    paper = _skeleton(model, input_size, num_outputs(tensors))
    needed = _needed(paper)
    for prefix in _prefixes(tensors, len(needed)):
        keys = _below(tensors, prefix, own=":" in model)
        keys = _with_class_layer(keys, tensors, paper)
        if needed <= {*keys.values()} and _fits(model, rekeyed(tensors, keys), input_size):
            yield Reading(prefix, keys)


def in_order(
    tensors: Mapping[str, Tensor], model: str, input_size: tuple[int, int] | None = None
) -> Reading | None:
    """The tensors as a variant's by their order and shapes, whatever they are called.

    Each must be of the same kind (weight, bias, running_mean, ...) and of the same shape as the one
    at its place in the network, so there is one way at most; and names that differ in their numbers
    alone must come in the order of these.
    """
    found = {key: t for key, t in tensors.items() if not key.endswith(_COUNTER)}
    weights = [key for key in found if key.endswith("weight")]
    if not weights or not _counted_up(found):
        return None
    paper = _skeleton(model, input_size, num_outputs(found))
    state = paper.state_dict()
    if sum(not key.endswith(_COUNTER) for key in state) != len(found):
        return None
    told = {next(iter(state)): found[weights[0]]}
    told[f"{getattr(paper, 'classifier_name', '')}.weight"] = found[weights[-1]]
    try:
        with torch.device("meta"), Meta():
            state = network_for(model, told, input_size, num_outputs(found)).state_dict()
    except InputError:
        return None
    ours = {key: value for key, value in state.items() if not key.endswith(_COUNTER)}
    if _looks(ours) != _looks(found):
        return None
    return Reading("", dict(zip(found, ours, strict=True)), by_order=True)


def _counted_up(keys: Iterable[str]) -> bool:
    """Whether layer1 comes before layer2, and 9 before 10, wherever both are."""
    last: dict[str, list[int]] = {}
    for key in keys:
        numbers = [int(digits) for digits in re.findall(r"\d+", key)]
        pattern = re.sub(r"\d+", "#", key)
        if last.get(pattern, []) > numbers:
            return False
        last[pattern] = numbers
    return True


def _looks(tensors: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
    return [(key.rpartition(".")[2], value.shape) for key, value in tensors.items()]


def rekeyed(tensors: Mapping[str, Tensor], keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Those of the tensors that have a key, by that."""
    return {ours: _flat(theirs, tensors[theirs]) for theirs, ours in keys.items()}


def _needed(network: nn.Module) -> set[str]:
    """Keys that no file of the network's is without."""
    aside = tuple(_auxiliary(network))
    return {
        key
        for key in network.state_dict()
        if not key.endswith(_COUNTER) and not (aside and key.startswith(aside))
    }


def _prefixes(tensors: Mapping[str, Tensor], at_least: int) -> list[str]:
    """All that stands before a dot in as many names as a network has, the shortest first."""
    counts = Counter(key[: dot.end()] for key in tensors for dot in re.finditer(r"\.", key))
    return sorted(("", *(p for p, count in counts.items() if count >= at_least)), key=len)


def _below(tensors: Mapping[str, Tensor], prefix: str, own: bool) -> dict[str, str]:
    """deepen's names of the tensors below a prefix, without what is no part of a network.

    A user's own network has names of its own, which stay.
    """
    found = {}
    for key in tensors:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not _ASIDE.search(name):
            found[key] = name if own else _rename(name)
    return found


def _with_class_layer(
    keys: dict[str, str], tensors: Mapping[str, Tensor], network: nn.Module
) -> dict[str, str]:
    """The class layer by its name here, where it is all that is missing and all that is left."""
    ours, state = getattr(network, "classifier_name", None), network.state_dict()
    if ours is None:
        return keys
    parts = {key for key in state if key.rpartition(".")[0] == ours}
    spare = {key: name for key, name in keys.items() if name not in state}
    layers = {name.rpartition(".")[0] for name in spare.values()}
    if _needed(network) - {*keys.values()} != parts or len(layers) != 1:
        return keys
    moved = {key: f"{ours}.{name.rpartition('.')[2]}" for key, name in spare.items()}
    same = all(
        name in state and tensors[key].shape[1:] == state[name].shape[1:]
        for key, name in moved.items()
    )
    return {**keys, **moved} if same and {*moved.values()} == parts else keys


def _fits(model: str, tensors: dict[str, Tensor], input_size: tuple[int, int] | None) -> bool:
    shapes = on_meta(tensors)
    network = _skeleton(model, input_size, num_outputs(shapes))
    if completed(shapes, network)[0].keys() != network.state_dict().keys():
        return False
    try:
        with torch.device("meta"), Meta():
            network = network_for(model, shapes, input_size)
    except InputError:  # a network of one number of classes or channels alone
        return False
    whole, _ = completed(shapes, network)
    return all(whole[key].shape == value.shape for key, value in network.state_dict().items())
