"""Where the weights of a run start: drawn, copied layer by layer, or trained before.

Simonyan & Zisserman 2014, section 3.1: the nets too deep to begin with random weights took the
first four convolutions and the last three layers of the net of 11 layers. `--init-from` does that
for any two networks; `--weights` goes on with a trained network whole, but for its last layer where
the classes are others.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from deepen.errors import InputError
from deepen.layers import ImageClassifier, init_he, init_normal
from deepen.models import create_model
from deepen.training.blocks import Init
from deepen.weights import Loaded, load_weights


class Start(NamedTuple):
    """Trained weights that a run starts from.

    Attributes:
        path: a file, or words for weights of others ("imagenet"), as the user gave them.
        whole: whether the run goes on with that very network, rather than copies layers of it.
        sha256: of the file; of card and tensors where there is only a word.
        loaded: network, card and mean picture.
    """

    path: str
    whole: bool
    sha256: str
    loaded: Loaded

    def about(self) -> dict[str, object]:
        """What a resume must find again, from any working directory."""
        path = str(Path(self.path).absolute()) if Path(self.path).is_file() else self.path
        return {"path": path, "whole": self.whole, "sha256": self.sha256}


def read_start(path: str | Path, model: str | None, *, whole: bool) -> Start:
    """Read trained weights to start from.

    Args:
        path: what `load_weights` takes.
        model: the network expected of weights to go on with; of layers to copy any may have them.
        whole: see `Start`.

    Raises:
        InputError: they cannot be read, or are another network's.
        WorkError: weights of others could not be fetched.
    """
    loaded = load_weights(path, model=model if whole else None)
    file = Path(path)
    if file.is_file():
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    else:
        digest = _digest(loaded)
    return Start(str(path), whole, digest, loaded)


def _digest(loaded: Loaded) -> str:
    """SHA-256 of the architecture's name and all tensors."""
    found = hashlib.sha256(loaded.card.architecture.encode())
    for name, tensor in loaded.model.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def build_network(
    model: str,
    classes: tuple[str, ...],
    in_channels: int,
    input_size: tuple[int, int],
    init: Init,
    start: Start | None,
) -> tuple[nn.Module, str]:
    """A network with its first weights, and where they come from, in words ("" for its paper's).

    Raises:
        InputError: the network cannot be so, or does not fit the weights to start from.
    """
    network = create_model(model, len(classes), in_channels, input_size)
    if init.name == "he":
        network.apply(init_he)
    elif init.name == "normal":
        network.apply(partial(init_normal, std=init.std))
    if start is None:
        return network, ""
    if start.whole:
        return network, _adopt(network, classes, start)
    copied = copy_layers(start.loaded.model, network, init, start.path)
    return network, f"copied from {start.path} ({start.loaded.card.architecture}): {copied}"


def _adopt(network: nn.Module, classes: tuple[str, ...], start: Start) -> str:
    """All of the weights, or all but the last layers' where the classes are others."""
    card, state = start.loaded.card, start.loaded.model.state_dict()
    words = f"weights: {start.path} ({card.architecture}"
    if "top1" in card.score:
        words += f", {100 * card.score['top1']:.2f}% top-1, {card.protocol}"
    fresh = network.state_dict()
    heads = _heads(network) if classes != card.classes else ()
    kept = {key: fresh[key] for key in fresh if key.rpartition(".")[0] in heads}
    for key in fresh:
        if key not in kept and (key not in state or state[key].shape != fresh[key].shape):
            have = tuple(state[key].shape) if key in state else "not there"
            raise InputError(
                f"--weights {start.path}: {key} is {have}, the network needs "
                f"{tuple(fresh[key].shape)}; it was trained on {card.input_size[0]} px, "
                f"{card.in_channels} channels, {card.num_classes} classes"
            )
    network.load_state_dict({key: kept.get(key, state.get(key)) for key in fresh})
    if not kept:
        return f"{words}), whole"
    return f"{words}), all but {', '.join(heads)}, which starts afresh for {len(classes)} classes"


def _heads(network: nn.Module) -> tuple[str, ...]:
    """The last linear layers, main and auxiliary; those that a network of one's own names.

    One that names none (`classifier_names`) has its last layer.
    """
    if (named := getattr(network, "classifier_names", None)) is not None:
        return tuple(named)
    if isinstance(network, ImageClassifier):
        return network.classifier_name, *network.auxiliary_classifier_names
    return tuple(_layers(network))[-1:]


def copy_layers(source: nn.Module, target: nn.Module, init: Init, where: str) -> str:
    """Copy layers of one network to another, and say which: "conv1 -> conv1, ...".

    With `init.first` and `init.last` each of the first weight layers of `source` goes to the next
    layer of `target` that has its shape, and each of the last to the layer at the same place from
    the end; else every layer goes to that of the same name and shape.

    Raises:
        InputError: a layer has no counterpart, or none is copied at all.
    """
    if init.first is None or init.last is None:
        pairs = _namesakes(source, target)
    else:
        pairs = _ends(source, target, init.first, init.last, where)
    if not pairs:
        raise InputError(f"--init-from {where}: no layer of the network has its name and shape")
    modules, others = dict(source.named_modules()), dict(target.named_modules())
    for ours, theirs in pairs:
        others[theirs].load_state_dict(modules[ours].state_dict())
    return ", ".join(ours if ours == theirs else f"{ours} -> {theirs}" for ours, theirs in pairs)


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    """Modules with weights of their own, fixed ones too, in the order in which they were made."""
    return {
        name: module
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        or "weight" in dict(module.named_buffers(recurse=False))  # a batch norm that is fixed
    }


def _namesakes(source: nn.Module, target: nn.Module) -> list[tuple[str, str]]:
    """Layers of one name and shape; where there is none, those of the classifiers in the target.

    So a classifier's layers find their places in a detector: `conv1` is `backbone.body.conv1`.
    """
    ours, theirs = _layers(source), _layers(target)
    found = [(name, name) for name in ours if name in theirs]
    if not found:
        inner = [name for name, part in target.named_modules() if isinstance(part, ImageClassifier)]
        places = ((name, f"{part}.{name}") for part in inner for name in ours)
        found = [pair for pair in places if pair[1] in theirs]
    return [pair for pair in found if _shapes(ours[pair[0]]) == _shapes(theirs[pair[1]])]


def _ends(
    source: nn.Module, target: nn.Module, first: int, last: int, where: str
) -> list[tuple[str, str]]:
    ours = [*_layers(source).items()]
    theirs = [*_layers(target).items()]
    if first + last > min(len(ours), len(theirs)):
        raise InputError(
            f"init.first {first} and init.last {last}: {where} has {len(ours)} weight layers, "
            f"the network {len(theirs)}"
        )
    pairs, place = [], 0
    for name, layer in ours[:first]:
        free = theirs[place : len(theirs) - last]
        fits = [i for i, (_, other) in enumerate(free) if _shapes(layer) == _shapes(other)]
        if not fits:
            raise InputError(f"--init-from {where}: {name} fits no layer of the network")
        pairs.append((name, free[fits[0]][0]))
        place += fits[0] + 1
    for (name, layer), (other_name, other) in zip(
        ours[len(ours) - last :], theirs[len(theirs) - last :], strict=True
    ):
        if _shapes(layer) != _shapes(other):
            raise InputError(f"--init-from {where}: {name} does not fit {other_name}")
        pairs.append((name, other_name))
    return pairs


def _shapes(layer: nn.Module) -> list[torch.Size]:
    state = layer.state_dict()
    return [state[name].shape for name in state if name != "num_batches_tracked"]
