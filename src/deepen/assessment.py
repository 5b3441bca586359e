"""What weights are worth: by any protocol, several beside each other, together, on worse pictures.

Logits are kept by content (weights, pictures, protocol), so that to compare or to combine networks
again takes no forward pass.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepen.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from deepen.data.decode import PictureError
from deepen.data.sources import Split, SplitName
from deepen.errors import InputError
from deepen.evaluation import ensembles
from deepen.evaluation.calibration import fit_temperature, reliability
from deepen.evaluation.comparison import Comparison, Disagreement, disagreements
from deepen.evaluation.hierarchy import hierarchical_error, read_hierarchy
from deepen.evaluation.kept import contents_of, keep, kept_file, read_kept
from deepen.evaluation.metrics import Scores, in_top, score
from deepen.evaluation.paired import compare
from deepen.evaluation.protocols import Predictions
from deepen.evaluation.tags import TagScores, score_tags
from deepen.evaluation.views import Looks, look, with_geometry
from deepen.training.build import num_workers
from deepen.training.request import Assessing, Scoring, takes
from deepen.training.scored import Opened, Scored, open_scored
from deepen.training.task import small_png
from deepen.weights import Card, Loaded, finds_things, load_weights, read_card, save_weights
from deepen.zoo import zoo_file


class Seen(NamedTuple):
    """What a network makes of the pictures that it is scored on.

    Attributes:
        name: of the weights, as the user has it.
        card: theirs.
        logits: (N, K) float32.
        labels: int64 (N,), places in the logits; (N, K) where pictures have several classes.
        keys: names of the N pictures.
        bad: the others, that could not be decoded.
        protocol: in words.
    """

    name: str
    card: Card
    logits: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    bad: tuple[PictureError, ...]
    protocol: str


@takes(Assessing)
def evaluate(asked: Assessing) -> Scores | TagScores:
    """Score a weights file on labelled pictures, by one crop each or as `crops` and `scales` say.

    Pictures that cannot be decoded are told to the reporter, and are in none of the numbers.

    Raises:
        InputError: weights and data do not go together.
    """
    return scores_of(see(asked), asked)


def see(asked: Assessing, opened: Opened | None = None) -> Seen:
    """Look at the pictures.

    Args:
        asked: weights, pictures, and how the network looks at them.
        opened: what other weights were scored on, for these to share.

    Raises:
        InputError: weights, data and protocol do not go together.
    """
    opened = Opened() if opened is None else opened
    weights = opened.once(("weights", asked.weights), lambda: _Weights(asked))
    return _see(asked, weights, open_scored(asked, weights.card, opened), opened)


def scores_of(seen: Seen, asked: Assessing, logits: Tensor | None = None) -> Scores | TagScores:
    """Every figure of what a network made of its pictures; of an ensemble, of its `logits`."""
    made = seen.logits if logits is None else logits
    card = seen.card
    rest = {"num_skipped": len(seen.bad), "protocol": seen.protocol}
    if card.thresholds:
        names, least = card.classes, card.thresholds
        return score_tags(made, seen.labels, names, least, temperature=card.temperature, **rest)
    temperature = card.temperature if logits is None else 1.0
    found = score(made, seen.labels, card.classes, temperature=temperature, **rest)
    if asked.tree is None:
        return found
    tree = read_hierarchy(Path(asked.tree), card.classes)
    far = hierarchical_error(made.argmax(1), seen.labels, tree)
    return found.model_copy(update={"hierarchical_error": far})


def _see(asked: Assessing, weights: _Weights, scored: Scored, opened: Opened) -> Seen:
    card, loaded = weights.card, None
    if finds_things(card):
        raise InputError(f"{asked.weights}: finds things in pictures: deepen detect evaluate")
    place = _label_map(scored, card.classes, asked.weights)
    looks = Looks(asked.crops, asked.scales, asked.averaging, asked.border)
    own, way = card.preprocessing, asked.interpolation
    plain = with_geometry(own, asked.shorter_side, way, asked.crop_fraction)
    parts: list[Predictions] = []
    for name in scored.splits:
        split = scored.source.splits[name]
        contents = opened.once(("contents", split), lambda split=split: contents_of(split))
        kept = None
        if contents is not None and weights.digest is not None:
            how = f"{looks} {plain}", str(asked.place), str(asked.model)
            kept = kept_file(weights.digest, contents, *how)
        part = read_kept(kept) if kept else None
        if part is None:
            loaded = weights.load() if loaded is None else loaded
            part = look(
                loaded.model.to(asked.place),
                split,
                plain,
                looks,
                batch_size=asked.batch_size,
                workers=num_workers(asked.workers, split),
                mean_image=loaded.mean_image,
                device=asked.place,
            )
            if not part.logits.isfinite().all():
                raise InputError(f"{asked.weights}: damaged: it makes NaN or infinity of a picture")
            if kept and not part.bad:
                keep(kept, part)
        parts.append(part)
        for error in part.bad:
            asked.reporter.message(f"left out: {error}")
    labels = torch.cat([part.labels for part in parts])
    if (labels.ndim == 2) != bool(card.thresholds):
        several = "several classes" if labels.ndim == 2 else "one class"
        name = scored.source.name
        raise InputError(
            f"{name}: has {several} a picture, which {asked.weights} is not trained on"
        )
    count = f"{len(labels):,} picture{'' if len(labels) == 1 else 's'}"
    return Seen(
        name=str(asked.weights),
        card=card,
        logits=torch.cat([part.logits for part in parts]),
        labels=_in_place(labels, place, len(card.classes)),
        keys=_keys(scored, parts, opened),
        bad=tuple(error for part in parts for error in part.bad),
        protocol=f"{scored.source.name}, {scored.part}, {count}, {looks.describe(plain)}",
    )


def compare_weights(
    weights: Sequence[str | Path], asked: Assessing, *, ensemble: bool = False, pictures: int = 0
) -> Comparison:
    """Score several weights files on the same pictures; compare each two, and combine them all.

    Args:
        weights: the files, of the same classes.
        asked: all else; its own `weights` are not looked at.
        ensemble: whether they are combined; which of them are worth it is chosen on validation
            pictures alone.
        pictures: of the pictures that they disagree on, how many are shown small.

    Raises:
        InputError: their classes or pictures are not the same.
    """
    each, opened = [replace(asked, weights=file) for file in weights], Opened()
    seen = [see(one, opened) for one in each]
    first = seen[0]
    for other in seen[1:]:
        if other.card.classes != first.card.classes or other.card.thresholds:
            raise InputError(f"{other.name}: has other classes than {first.name}")
        if other.keys != first.keys:
            raise InputError(
                f"{other.name}: is scored on {other.protocol}; {first.name} on {first.protocol}: "
                "name --split, or data that none of them was trained on"
            )
    scores = [found for one in seen if isinstance(found := scores_of(one, asked), Scores)]
    right = [in_top(1, one.logits, one.labels) for one in seen]
    places = combinations(range(len(seen)), 2)
    pairs = {(i, j): compare(right[i], right[j]) for i, j in places}
    combined = together = chosen_scores = None
    chosen: list[int] = []
    calibrated = [_calibrated(one) for one in seen]
    if ensemble:
        combined = ensembles.examine(calibrated, first.labels, asked.averaging)
        together = _together(first, asked, combined.logits, f"ensemble of {len(seen)}")
        chosen = _choose(each, asked, opened)
        if chosen:
            some = ensembles.combine([calibrated[i] for i in chosen], asked.averaging)
            words = f"ensemble of {len(chosen)}, chosen on validation pictures"
            chosen_scores = _together(first, asked, some, words)
    unlike = disagreements(calibrated, first.labels, first.keys, first.card.classes)
    return Comparison(
        names=[one.name for one in seen],
        scores=scores,
        pairs=pairs,
        reliability=[reliability(each, first.labels) for each in calibrated],
        ensemble=combined,
        together=together,
        chosen=chosen,
        chosen_scores=chosen_scores,
        disagreements=_pictured(unlike, pictures, open_scored(each[0], first.card, opened)),
    )


def _pictured(unlike: list[Disagreement], count: int, scored: Scored) -> list[Disagreement]:
    """The first of them with their pictures."""
    if not count:
        return unlike
    splits = [scored.source.splits[name] for name in scored.splits]
    places = {key: (split, i) for split in splits for i, key in enumerate(split.keys)}
    pictured = [one._replace(png=small_png(*places[one.key])) for one in unlike[:count]]
    return pictured + unlike[count:]


def _calibrated(seen: Seen) -> Tensor:
    return seen.logits / seen.card.temperature


def _together(first: Seen, asked: Assessing, logits: Tensor, words: str) -> Scores:
    seen = first._replace(protocol=f"{words}, {asked.averaging} averaged: {first.protocol}")
    found = scores_of(seen, asked, logits)
    assert isinstance(found, Scores)
    return found


def _choose(each: Sequence[Assessing], asked: Assessing, opened: Opened) -> list[int]:
    """Members worth having, by the validation pictures of the data; none where it has none."""
    if asked.split in ("val", "all"):
        return []
    try:
        seen = [see(replace(one, split="val"), opened) for one in each]
    except InputError:
        return []
    if any(one.keys != seen[0].keys for one in seen):
        return []
    return ensembles.greedy([_calibrated(one) for one in seen], seen[0].labels, asked.averaging)


class Robustness(NamedTuple):
    """What common corruptions make of a network.

    Attributes:
        clean: scores of the pictures as they are.
        errors: of each kind, at severities 1 to 5, in 0..1.
        baseline: the same of another network, where one was named.
    """

    clean: Scores
    errors: dict[str, list[float]]
    baseline: dict[str, list[float]] | None

    @property
    def mean_error(self) -> float:
        """The mean over kinds and severities."""
        return float(np.mean([*self.errors.values()]))

    @property
    def relative(self) -> dict[str, float] | None:
        """Of each kind the sum of errors over that of the baseline: CE of the paper, section 4.2.

        The paper's baseline is AlexNet; the mean of all is its mCE.
        """
        if self.baseline is None:
            return None
        return {kind: sum(own) / sum(self.baseline[kind]) for kind, own in self.errors.items()}


def corrupted(
    asked: Assessing,
    *,
    baseline: str | Path | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Robustness:
    """Score a network on the 15 corruptions of its pictures, each at 5 severities.

    A picture is corrupted as the network is shown it, at its size, before it is normalized.

    Args:
        asked: weights and pictures.
        baseline: other weights that errors are put in relation to.
        most: pictures at most, evenly spaced.
        seed: of the corruptions.

    Raises:
        InputError: weights and data do not go together.
    """
    weights = _Weights(asked)
    if weights.card.thresholds:
        raise InputError(f"{asked.weights}: tells several classes a picture; an error needs one")
    scored = open_scored(asked, weights.card)
    if len(scored.splits) != 1:
        raise InputError("--corruptions: name one --split")
    name = scored.splits[0]
    split = scored.source.splits[name]
    if most is not None and most < len(split):
        split = split.take([i * len(split) // most for i in range(most)])
        sources = replace(scored.source, splits={name: split})
        scored = scored._replace(source=sources, part=f"{most:,} of the {scored.part}")
    clean = scores_of(_see(asked, weights, scored, Opened()), asked)
    assert isinstance(clean, Scores)
    other = None
    if baseline is not None:
        other = _errors(replace(asked, weights=baseline), scored, name, seed)
    return Robustness(clean, _errors(asked, scored, name, seed), other)


def _errors(asked: Assessing, scored: Scored, name: SplitName, seed: int) -> dict[str, list[float]]:
    loaded = load_weights(asked.weights, model=asked.model)
    card, plain = loaded.card, loaded.card.preprocessing
    place = _label_map(scored, card.classes, asked.weights)
    split = replace(scored.source.splits[name], white=plain.white)
    fitted, kept = [], []
    for index in range(len(split)):
        with contextlib.suppress(PictureError):  # the clean ones have named it
            picture = split.picture(index, plain.channels)
            fitted.append(plain.fit(picture))
            kept.append(index)
    labels = place[torch.from_numpy(split.labels[kept])]
    shown = plain.model_copy(update={"resize": "none", "resize_px": None, "pad_px": 0})
    network = loaded.model.to(asked.place)
    errors: dict[str, list[float]] = {}
    for kind in CORRUPTIONS:
        errors[kind] = []
        for severity in range(1, SEVERITIES + 1):
            images = np.stack([corrupt(each, kind, severity, seed) for each in fitted])
            worse = Split("test", split.labels[kept], tuple(map(str, kept)), images=images)
            found = look(
                network,
                worse,
                shown,
                Looks(),
                batch_size=asked.batch_size,
                mean_image=loaded.mean_image,
                device=asked.place,
            )
            errors[kind].append(1 - in_top(1, found.logits, labels).double().mean().item())
        means = " ".join(f"{100 * each:.1f}" for each in errors[kind])
        asked.reporter.message(f"{kind}: error {means}%")
    return errors


def calibrate(asked: Assessing) -> float:
    """Fit the temperature on validation pictures, and keep it in the card of the weights file.

    Raises:
        InputError: the data have no validation pictures, or the weights tell several classes.
        WorkError: the file cannot be written.
    """
    loaded, file = load_weights(asked.weights, model=asked.model), Path(asked.weights)
    if loaded.card.thresholds:
        raise InputError(f"{file}: tells several classes a picture; it has thresholds")
    if not file.is_file():
        raise InputError(f"{file}: is no file that a temperature could be kept in")
    scored = open_scored(replace(asked, split="val"), loaded.card)
    seen = _see(asked, _Weights(asked), scored, Opened())
    temperature = fit_temperature(seen.logits, seen.labels)
    card = loaded.card.model_copy(update={"temperature": temperature})
    save_weights(file, loaded.model.cpu(), card, loaded.mean_image)
    return temperature


# Weights, and the order of their pictures and classes


class _Weights:
    """Weights whose network is built only when it must look: kept logits need their card alone."""

    def __init__(self, asked: Scoring) -> None:
        self._word, self._model = asked.weights, asked.model
        file = Path(zoo_file(str(asked.weights)) or asked.weights)
        self._file = file if file.is_file() else None

    @cached_property
    def card(self) -> Card:
        return self.load().card if self._file is None else read_card(self._file)

    @cached_property
    def digest(self) -> bytes | None:
        """SHA-256 of the file; None where there is none that can be read."""
        try:
            return None if self._file is None else hashlib.sha256(self._file.read_bytes()).digest()
        except OSError:
            return None

    def load(self) -> Loaded:
        return load_weights(self._word, model=self._model)


def _keys(scored: Scored, parts: Sequence[Predictions], opened: Opened) -> tuple[str, ...]:
    """Names of the pictures; those of a whole split are made once."""
    found: list[str] = []
    for name, part in zip(scored.splits, parts, strict=True):
        split = scored.source.splits[name]
        keys = opened.once(("keys", split), lambda split=split: tuple(split.keys))
        if len(part.indices) == len(keys) and len(parts) == 1:
            return keys
        found += [keys[index] for index in part.indices.tolist()]
    return tuple(found)


def _label_map(scored: Scored, card: tuple[str, ...], weights: str | Path) -> Tensor:
    """From the label of a class in the data to its place in the logits, by name."""
    if strange := [name for name in scored.classes if name not in card]:
        raise InputError(
            f"{scored.source.name}: has pictures of classes that {weights} does not know, "
            f"{_some(strange)}; it knows {_some(card)}"
        )
    return torch.tensor([card.index(n) if n in card else -1 for n in scored.source.classes])


def _in_place(labels: Tensor, place: Tensor, num_classes: int) -> Tensor:
    """Labels of the data as places in the logits; tags (N, K) with their columns there."""
    if labels.ndim == 1:
        return place[labels]
    return labels.new_zeros(len(labels), num_classes).index_copy(1, place, labels)


def _some(names: Sequence[str], most: int = 20) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
