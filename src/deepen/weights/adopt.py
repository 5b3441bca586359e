"""Tensors of other programs become a network of deepen's: chosen, built, checked."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepen.errors import InputError
from deepen.version import __version__
from deepen.weights.file import Card, Loaded
from deepen.weights.foreign import Entries
from deepen.weights.match import (
    Reading,
    completed,
    fitting,
    in_order,
    network_for,
    num_outputs,
    readings,
    rekeyed,
    renamed,
)
from deepen.weights.mismatch import mismatch, some


class Chosen(NamedTuple):
    """The tensors of a checkpoint that are a network's.

    Attributes:
        tensors: by the network's names.
        words: where they were, and how they were found: "state_dict, below module." say; "" where
            there is nothing else.
        left_out: what else the checkpoint holds.
    """

    tensors: dict[str, Tensor]
    words: str = ""
    left_out: tuple[str, ...] = ()


def choose(
    where: str,
    entries: Entries,
    model: str,
    entry: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> Chosen:
    """Find the network in a checkpoint.

    By names, where they are a variant's below any one prefix; else by order and shapes, where all
    of an entry's are the network's one after the other.

    Args:
        where: what the checkpoint is called in an error.
        entries: its tensors.
        model: the variant, or a user's `package.module:factory`.
        entry: the one that is meant, where several fit: "ema", or with the prefix "ema/module".
        input_size: (height, width) in px, for a network that is built for one.

    Raises:
        InputError: there is no such entry, or several fit. Where none does, the likeliest comes
            back, for `adopt` to say what is wrong with it.
    """
    found = _all(entries, model, input_size)
    if entry is not None:
        found = {label: way for label, way in found.items() if entry in (label, way[0])}
        if not found and entry not in entries.tensors:
            have = ", ".join(filter(None, entries.tensors)) or "one alone, without a name"
            raise InputError(f"{where}: --entry {entry}: no tensors there; it has {have}")
    networks = [rekeyed(entries.tensors[name], way.keys) for name, way in found.values()]
    if len(found) > 1 and not _same(networks):
        raise InputError(
            f"{where}: several entries are a whole {model}: {', '.join(found)}; "
            "--entry says which is meant"
        )
    if not found:
        name = entry if entry is not None else entries.main()
        return Chosen(renamed(entries.tensors[name]), name)
    name, reading = next(iter(found.values()))
    below = f"below {reading.prefix}" if reading.prefix else ""
    words = ", ".join(filter(None, (name, below, _how(reading))))
    return Chosen(networks[0], words, _left_out(entries, name, reading))


def _all(
    entries: Entries, model: str, input_size: tuple[int, int] | None
) -> dict[str, tuple[str, Reading]]:
    """Each way to read the network, by the words that name it."""
    found: dict[str, tuple[str, Reading]] = {}
    for name, tensors in entries.tensors.items():
        for reading in readings(tensors, model, input_size):
            label = "/".join(filter(None, (name, reading.prefix.rstrip("."))))
            found[label or "the top"] = name, reading
    if not found and entries.in_order:
        for name, tensors in entries.tensors.items():
            way = in_order(tensors, model, input_size)
            if way is not None:
                found[name or "the top"] = name, way
    return found


def _same(networks: list[dict[str, Tensor]]) -> bool:
    first, *others = networks
    return all(
        one.keys() == first.keys() and all(torch.equal(one[key], first[key]) for key in one)
        for one in others
    )


def _how(reading: Reading) -> str:
    """What was found otherwise than by the network's own names."""
    if reading.by_order:
        return "found by order and shapes, not by names"
    layers = dict.fromkeys(
        (theirs.removeprefix(reading.prefix).rpartition(".")[0], ours.rpartition(".")[0])
        for theirs, ours in reading.keys.items()
    )
    moved = [f"{theirs} -> {ours}" for theirs, ours in layers if theirs != ours]
    return f"found by names but for {some(moved)}" if moved else ""


def _left_out(entries: Entries, name: str, reading: Reading) -> tuple[str, ...]:
    beside = [key for key in entries.tensors[name] if key not in reading.keys]
    if reading.by_order:
        beside = []  # counters
    for other, tensors in entries.tensors.items():
        if other != name:
            count = f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'}"
            beside += [f"{other} ({count})"] if other else list(tensors)
    return (*beside, *entries.beside)


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
        model: the variant that they belong to; or a user's `package.module:factory`, whose names
            the tensors must have.
        input_size: (height, width) in px, for a network that is built for one.
        classes: their names; 0, 1, 2, ... where nobody knows them, which fine-tuning needs not.
        card: further fields of the card.

    Raises:
        InputError: the tensors are not this variant's; says what is missing, extra or misshapen,
            and which network they would fit.
    """
    tensors = tensors if ":" in model else renamed(tensors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what the file lacks starts the same each time
        network = network_for(model, tensors, input_size, len(classes) or None)
    expected = network.state_dict()
    whole, fresh = completed(tensors, network)
    if problem := mismatch(expected, whole):
        fits = [name for name in fitting(tensors) if name != model]
        hint = f"; it fits {', '.join(fits)}" if fits else ""
        raise InputError(f"{where}: not a whole {model}: {problem}{hint}")
    network.load_state_dict(whole)
    if fresh:
        card["source"] = f"{card.get('source', where)}; without {fresh}, which starts afresh"
    num_classes = getattr(network, "num_classes", len(classes) or num_outputs(tensors))
    if num_classes is None:
        raise InputError(f"{where}: {model} needs the names of its classes (--classes)")
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
