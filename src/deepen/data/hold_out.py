"""Which training pictures are held out for validation and test, where a source does not say.

Chance has no part in it. What is held out together, a picture or a group of them, has a fixed hash
of its name, from 0 to 1: below 0.1 it goes to the test, below 0.2 to validation (where the source
has a test split of its own: below 0.1 to validation). Then classes get their due, by as few moves
as do it:

1. each class keeps a unit to train on: where all are held out, that of the greatest hash goes back;
2. each class with as many units as there are splits has one in each: where one is missing, the
   training unit of the least hash goes there;
3. a split that would be empty gets the training unit of the least hash.

So a picture's split is a matter of its own name, whatever others there are, but for the few that
were moved. Of a class of n pictures the second rule moves one with probability 0.9^n for each split
(n = 50: 1 in 200), and only such a one can change its split when others are added.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from deepen.data.split import SPLIT_FOLDERS, PictureSet, Split, SplitName, note_on_test
from deepen.data.tags import tags_of
from deepen.errors import InputError

HELD_OUT = 0.1
"""Share of a source's pictures that is held out for each split it has none of its own for."""

TOGETHER = "subfolder, pattern:REGEX or column:NAME"
"""What `together` may be."""

_TRAIN, _VAL, _TEST = 0, 1, 2


class Held(NamedTuple):
    """What of a source is held out for validation.

    Attributes:
        validation: how many pictures; None: as many as the hash says. 0: none, and the source's own
            validation pictures are trained on.
        together: what keeps pictures in one split: `subfolder`, that of a class folder;
            `pattern:REGEX`, what its first group (or all of it) finds in their keys; `column:NAME`,
            a table's. None: nothing does.
    """

    validation: int | None = None
    together: str | None = None


def hold_out(laid: PictureSet, held: Held, *, by_class: bool = True) -> PictureSet:
    """Hold out what no split of the source's own stands for.

    Args:
        laid: with its own splits, or all in `train` where it has none.
        held: how many, and what stays together.
        by_class: whether classes get their due; of old, the hash alone decided.

    Raises:
        InputError: more are to be held out than there are, or nothing can be.
    """
    splits, notes = dict(laid.splits), []
    if "val" in laid.own and held.validation == 0:
        splits["train"] = splits["train"].plus(splits.pop("val"))
        notes.append("validation: none, the folder's own validation pictures are trained on")
    elif "val" in laid.own and held.validation is not None:
        notes.append(f"validation: the folder's own pictures, not {held.validation:,} held out")
    wanted = [
        code
        for code, out in ((_TEST, not laid.own), (_VAL, "val" not in laid.own))
        if out and not (code == _VAL and held.validation == 0)
    ]
    if wanted:
        train = splits.pop("train")
        try:
            groups = _groups(train, laid.classes, held.together)
            if tags_of(train) is None:
                units = _Units(train, groups, len(laid.classes))
            else:  # each of several classes: a picture cannot be held out for one of them
                units = _Units(replace(train, labels=train.labels * 0), groups, 1)
            units.hold_out(wanted, held.validation, by_class)
        except InputError as error:
            raise InputError(f"{laid.name}: {error}") from None
        places = units.places()
        splits = {"train": train.take(places[_TRAIN]), **splits}
        for code in wanted:
            split = SPLIT_FOLDERS["test" if code == _TEST else "val"]
            if len(places[code]):
                splits[split] = replace(train.take(places[code]), name=split)
        notes += units.notes(wanted, held)
        if held.together is None:
            notes += _note_on_subfolders(splits.values(), laid.classes)
    elif held.together is not None:
        notes.append(
            f"together: {held.together} says nothing here, the splits are the folder's own"
        )
    order: tuple[SplitName, ...] = ("train", "val", "test")
    splits = {name: splits[name] for name in order if name in splits}
    notes += note_on_test(splits)
    return replace(laid, splits=splits, notes=(*notes, *laid.notes))


def hold_out_again(laid: PictureSet, held: Held, fingerprint: str) -> PictureSet:
    """Hold out what a run of this fingerprint did, which may be older than the rules on classes.

    Where neither way gives that fingerprint, the pictures are not those, and are held out as ever.

    Raises:
        InputError: as `hold_out` does.
    """
    for by_class in (True, False):
        with suppress(InputError):
            found = hold_out(laid, held, by_class=by_class)
            if found.fingerprint == fingerprint:
                return found
    return hold_out(laid, held)


def check_held_out(held: int, count: int) -> None:
    """Refuse to hold out all or less than none.

    Raises:
        InputError: says how many there are.
    """
    if not 0 <= held < count:
        raise InputError(f"validation: {held:,} held out, but there are {count:,} to train on")


class _Units:
    """What is held out as one, pictures or groups of them, and the split each is in."""

    def __init__(self, train: Split, groups: Sequence[str] | None, num_classes: int) -> None:
        names = train.keys if groups is None else groups
        if groups is None:
            self.names, self.unit = list(map(str, names)), np.arange(len(names))
        else:
            place = {name: i for i, name in enumerate(dict.fromkeys(names))}
            self.names, self.unit = list(place), np.array([place[name] for name in names])
        self.hashes = np.array([_hash(name) for name in self.names])
        self.sizes = np.bincount(self.unit, minlength=len(self.names))
        self.split = np.full(len(self.names), _TRAIN)
        self.num_classes = num_classes
        # Each class's units, and each unit's classes, are neighbours in these.
        pairs = np.unique(train.labels * len(self.names) + self.unit)
        classes, units = np.divmod(pairs, len(self.names))
        order = np.lexsort((self.hashes[units], classes))
        self._classes, self._units = classes[order], units[order]
        self._first = np.searchsorted(self._classes, np.arange(num_classes + 1))
        by_unit = np.argsort(units, kind="stable")
        self._of_unit = classes[by_unit]
        self._first_of_unit = np.searchsorted(units[by_unit], np.arange(len(self.names) + 1))

    def hold_out(self, wanted: list[int], count: int | None, by_class: bool) -> None:
        """Put each unit into a split; `wanted` are those that are held out, the test first.

        Raises:
            InputError: more are to be held out than there are, or nothing can be.
        """
        if _TEST in wanted:
            self.split[self.hashes < HELD_OUT] = _TEST
        if _VAL in wanted and count is None:
            below = HELD_OUT * len(wanted)  # the first tenth has gone to the test
            self.split[(self.hashes < below) & (self.split == _TRAIN)] = _VAL
        self._recount()
        if by_class:
            self._keep_in_training()
            for code in wanted:
                if code == _TEST or count is None:
                    self._cover(code, 1 + len(wanted))
        if count is not None and _VAL in wanted:
            self._take(count, by_class)
        if by_class:
            for code in reversed(wanted):  # validation first: the epoch is chosen by it
                self._fill(code, counted=count is not None)

    def places(self) -> list[np.ndarray]:
        """The pictures of each split, int64, in order: training, validation, test."""
        return [np.flatnonzero(self.split[self.unit] == code) for code in (_TRAIN, _VAL, _TEST)]

    def notes(self, wanted: list[int], held: Held) -> list[str]:
        """How many were held out, and of how many."""
        left, lines = len(self.unit), []
        for code in wanted:
            name = "validation" if code == _VAL else "test"
            number = int(self.sizes[self.split == code].sum())
            how = "by a fixed hash of each path"
            if held.together is not None:
                groups = f"{(self.split == code).sum():,} of {len(self.split):,} groups"
                how = f"{groups}, by a fixed hash of each ({held.together} stays together)"
            lines.append(f"{name}: {number:,} of {left:,} pictures, {how}")
            if number and (missing := int((self.counts[code] == 0).sum())):
                lines[-1] += f"; of {missing:,} of {self.num_classes:,} classes none"
            left -= number
        return lines

    def _recount(self) -> None:
        """Units of each class in each split, int64 (3, num_classes)."""
        there = self.split[self._units] * self.num_classes + self._classes
        counts = np.bincount(there, minlength=3 * self.num_classes)
        self.counts = counts.reshape(3, self.num_classes)

    def _put(self, unit: int, code: int) -> None:
        classes = self._classes_of(unit)
        self.counts[self.split[unit], classes] -= 1
        self.counts[code, classes] += 1
        self.split[unit] = code

    def _of(self, label: int) -> list[int]:
        """A class's units, the least hash first."""
        return self._units[self._first[label] : self._first[label + 1]].tolist()

    def _keep_in_training(self) -> None:
        there = np.diff(self._first) > 0
        for label in np.flatnonzero(there & (self.counts[_TRAIN] == 0)).tolist():
            if not self.counts[_TRAIN, label]:  # else a group of two classes came with the other
                self._put(self._of(label)[-1], _TRAIN)

    def _cover(self, code: int, needed: int) -> None:
        """A unit for each class that has `needed` of them and none in that split."""
        enough = np.diff(self._first) >= needed
        for label in np.flatnonzero(enough & (self.counts[code] == 0)).tolist():
            spared = [unit for unit in self._of(label) if self._spared(unit)]
            if spared and not self.counts[code, label]:
                self._put(min(spared, key=lambda unit: self.split[unit] != _TRAIN), code)

    def _take(self, count: int, by_class: bool) -> None:
        """So many pictures, or groups of at least so many: the least hash first."""
        left = np.flatnonzero(self.split == _TRAIN)
        pictures = int(self.sizes[left].sum())
        check_held_out(count, pictures)
        left = left[np.argsort(self.hashes[left], kind="stable")]
        if not by_class:
            self.split[left[:count]] = _VAL
            return
        first: list[int] = []  # of each class, where there is room for all
        if count >= (self.counts[_TRAIN] > 1).sum():
            seen: set[int] = set()
            for unit in left.tolist():
                if fresh := set(self._classes_of(unit).tolist()) - seen:
                    seen |= fresh
                    first.append(unit)
        for unit in dict.fromkeys([*first, *left.tolist()]):
            if count <= 0:
                return
            if self._spared(unit):
                self._put(unit, _VAL)
                count -= int(self.sizes[unit])
        if count > 0:
            most = int(self.sizes[self.split == _VAL].sum())
            raise InputError(
                f"validation: {most + count:,} held out would leave a class without training "
                f"pictures; at most {most:,} can be"
            )

    def _fill(self, code: int, counted: bool) -> None:
        """Something for a split that would be empty: of the training units, else of the other's.

        Raises:
            InputError: there is nothing for validation.
        """
        if (self.split == code).any():
            return
        order = np.argsort(self.hashes, kind="stable").tolist()
        spared = [u for u in order if self.split[u] == _TRAIN and self._spared(u)]
        held = [unit for unit in reversed(order) if self.split[unit] != _TRAIN]
        if code == _TEST:  # it may take neither validation's last, nor of a number that was said
            held = [] if counted else held[1:]
        if spared or held:
            self._put((spared or held)[0], code)
        elif code == _VAL:
            raise InputError(self._nothing_spared())

    def _nothing_spared(self) -> str:
        what = "picture" if (self.sizes == 1).all() else "group of pictures"
        return (
            f"no picture can be held out for validation: each of its {self.num_classes:,} classes "
            f"has one {what}; add some, or train on all with --validation 0"
        )

    def _classes_of(self, unit: int) -> np.ndarray:
        return self._of_unit[self._first_of_unit[unit] : self._first_of_unit[unit + 1]]

    def _spared(self, unit: int) -> bool:
        """Whether its split keeps something of each of its classes without it."""
        return bool((self.counts[self.split[unit], self._classes_of(unit)] > 1).all())


def _groups(split: Split, classes: Sequence[str], together: str | None) -> list[str] | None:
    """The name of each picture's group; those of none are called by their own keys."""
    kind, _, word = (together or "").partition(":")
    keys = [str(key) for key in split.keys]
    if together is None:
        return None
    if together == "subfolder":
        found = _subfolders(split, classes)
        none = "no class folder has subfolders"
    elif kind == "pattern" and word:
        try:
            pattern = re.compile(word)
        except re.error as error:
            raise InputError(f"together: {word} is no regular expression: {error}") from error
        matches = [pattern.search(key) for key in keys]
        found = [m and (m[1] if pattern.groups else m[0]) for m in matches]
        none = f"{word} is found in no picture's name, {keys[0]} say"
    elif kind == "column" and word:
        try:
            found = [None if v is None or v == "" else str(v) for v in split.column(word)]
        except InputError as error:
            raise InputError(f"together: {together}: {error}") from None
        none = f"column {word} is empty"
    else:
        raise InputError(f"together: {together} is none of {TOGETHER}")
    if not any(found):
        raise InputError(f"together: {together}: {none}")
    return [name or key for name, key in zip(found, keys, strict=True)]


def _subfolders(split: Split, classes: Sequence[str]) -> list[str | None]:
    """The folder below the class folder that each picture of a folder lies in, if any."""
    if split.files is None:
        return [None] * len(split)
    found: list[str | None] = []
    for key, label in zip(split.keys, split.labels.tolist(), strict=True):
        folders = key.split("/")[:-1]
        name = str(classes[label])
        below = folders[folders.index(name) + 1 :] if name in folders else []
        found.append(below[0] if below else None)
    return found


def _note_on_subfolders(splits: Iterable[Split], classes: Sequence[str]) -> list[str]:
    """What to say where pictures of one subfolder have fallen into several splits."""
    seen: dict[str, set[str]] = {}
    for split in splits:
        for name in set(_subfolders(split, classes)) - {None}:
            seen.setdefault(str(name), set()).add(split.name)
    torn = sum(len(names) > 1 for names in seen.values())
    if not torn:
        return []
    return [
        f"subfolders: pictures of {torn:,} of {len(seen):,} lie in several splits; where one shows "
        "one thing, --together subfolder keeps it in one"
    ]


def _hash(name: str) -> float:
    """Where a unit falls between 0 and 1, whatever others there are."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
