"""Which pictures trained weights are scored on: held-out ones where they were trained on the data.

What is held out is a matter of training. So a source that was not trained on is scored whole, or
in the splits that it came with; it may be of one class, or of some that the weights know.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np

from deepen.data.drawn import drawn
from deepen.data.hold_out import Held, hold_out, hold_out_again
from deepen.data.seen import seen_again
from deepen.data.sources import NAMED, SPLIT_FOLDERS, PictureSet, SplitName, lay_out, open_source
from deepen.errors import InputError
from deepen.training.request import Scoring
from deepen.training.resume import place_of
from deepen.weights import Card

Made = TypeVar("Made")


class Opened:
    """What is open already: weights that are scored one after the other share it."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made under this key; made now where nothing was."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


class Scored(NamedTuple):
    """What is scored.

    Attributes:
        source: the pictures.
        splits: of them that are scored.
        part: which that is, in words: `test split`.
    """

    source: PictureSet
    splits: list[SplitName]
    part: str

    @property
    def classes(self) -> list[str]:
        """Those that pictures are scored of."""
        labels = np.concatenate([self.source.splits[name].labels for name in self.splits])
        return [self.source.classes[label] for label in np.unique(labels)]


def open_scored(asked: Scoring, card: Card, opened: Opened | None = None) -> Scored:
    """The pictures that weights with this card are to be scored on.

    Args:
        asked: weights and pictures.
        card: of the weights.
        opened: what was opened for other weights; the same data are not opened again.

    Raises:
        InputError: there are none, or no such split.
    """
    opened = Opened() if opened is None else opened
    if isinstance(asked.data, PictureSet):
        if asked.exclude:
            raise InputError("exclude goes with a folder; leave pictures out of your own set")
        word, laid = asked.data.name, asked.data
    else:
        word = str(asked.data or place_of(asked.weights, card))
        if card.thresholds:  # several labels a picture
            word = word.replace("?labels=", "?tags=", 1)
        if word in NAMED or drawn(word):
            held = card.validation if asked.data in (None, card.data) else None

            def open_it() -> PictureSet:
                words = {"data_dir": asked.folder, "download": asked.download}
                return open_source(word, validation=held, exclude=asked.exclude, **words)

            return _split_of(opened.once((word, held), open_it), asked.split)
        out, download = asked.exclude, asked.download
        laid = opened.once(
            word, lambda: lay_out(word, download=download, exclude=out, to_train=False)
        )
    if laid.fingerprint == card.fingerprint:
        return _split_of(laid, asked.split)
    held = _held(card)
    held_out = opened.once((laid, held, card.fingerprint), lambda: _held_out(laid, card))
    if held_out is not None and held_out.fingerprint == card.fingerprint:
        return _split_of(held_out, asked.split)
    recorded = bool(card.trained_on)
    known = seen_again(laid, card.trained_on) > 0 if recorded else asked.data in (None, card.data)
    if held_out is not None and known:
        scored = _split_of(held_out, asked.split)
        return scored._replace(part=f"{scored.part} of data that changed since training")
    trained_on = "not trained on" if recorded else "unknown whether trained on"
    if known:
        trained_on = "training pictures among them"
    if laid.own:
        scored = _split_of(laid, asked.split)
        return scored._replace(part=f"its own {scored.part}, {trained_on}")
    if asked.split not in (None, "all"):
        raise InputError(
            f"--split {asked.split}: {laid.name} is not the data of training and has no splits of "
            "its own; it is scored whole"
        )
    return Scored(laid, list(laid.splits), f"all of it, {trained_on}")


def open_to_probe(asked: Scoring, card: Card) -> PictureSet:
    """Training and validation pictures for a classifier of these weights' features, of any classes.

    The network's own validation pictures where it was trained on them; where it had none, the usual
    share.

    Raises:
        InputError: as `open_source` does.
    """
    if isinstance(asked.data, PictureSet):
        return asked.data
    word = str(asked.data or place_of(asked.weights, card))
    usual = (card.validation or None) if asked.data in (None, card.data) else None
    if word in NAMED or drawn(word):
        words = {"data_dir": asked.folder, "download": asked.download}
        return open_source(word, validation=usual, exclude=asked.exclude, **words)
    laid = lay_out(word, download=asked.download, exclude=asked.exclude)
    held_out = _held_out(laid, card)
    if held_out and held_out.fingerprint == card.fingerprint and "val" in held_out.splits:
        return held_out
    return hold_out(laid, Held(usual))


def split_names(source: PictureSet, split: str | None) -> list[SplitName]:
    """The splits that a word asks for; by default the test split, else that for validation.

    Raises:
        InputError: the source has no such split.
    """
    if split == "all":
        return list(source.splits)
    order: tuple[SplitName, ...] = ("test", "val", "train")
    if split is None:
        return [next(name for name in order if name in source.splits)]
    if split not in source.splits:
        raise InputError(f"--split {split}: {source.name} has {', '.join(source.splits)} and all")
    return [SPLIT_FOLDERS[split]]


def _split_of(source: PictureSet, split: str | None) -> Scored:
    names = split_names(source, split)
    return Scored(source, names, f"{'+'.join(names)} split")


def _held_out(laid: PictureSet, card: Card) -> PictureSet | None:
    """The pictures with those held out that a training of this card holds out; None: it cannot."""
    with suppress(InputError):
        if "train" in laid.splits:
            return hold_out_again(laid, _held(card), card.fingerprint)
    return None


def _held(card: Card) -> Held:
    together = card.recipe.get("together")
    return Held(card.validation, None if together is None else str(together))
