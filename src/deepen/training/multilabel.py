"""Several classes a picture: a sigmoid and binary cross-entropy for each, and its own threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from deepen.data.loader import Batch
from deepen.data.sources import Split
from deepen.data.tags import tags_of
from deepen.errors import InputError
from deepen.evaluation.protocols import Predictions
from deepen.evaluation.tags import best_threshold, score_tags
from deepen.training.blocks import Loss
from deepen.training.optimizer import Objective, binary_targets
from deepen.training.recipe import Recipe
from deepen.training.task import Classification, Examined, by_share

USUAL = 0.5
"""The threshold until one is chosen."""


class TagLoss(Objective):
    """Binary cross-entropy, averaged over pictures and classes.

    Args:
        spec: a recipe's `bce`.
        weights: of each class, float32 (K,), how many times a picture that has it counts.
    """

    def __init__(self, spec: Loss, weights: Tensor | None = None) -> None:
        if spec.name != "bce":
            raise InputError(f"task multilabel: needs loss.name: bce, not {spec.name}")
        super().__init__(spec, weights)
        self.bce = spec

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar in float32, of logits (B, K) and classes (B, K), 0 or 1."""
        logits = logits.float() / self.spec.temperature
        wanted = binary_targets(targets, logits.shape[1], self.bce)
        weights = self._weights(logits)
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights)


class Multilabel(Classification):
    """Any number of classes for each picture; the pictures have targets of `deepen.data.tags`."""

    figures = ("exact",)
    columns = ("loss", "map", "micro_f1", "macro_f1", "exact")
    chosen_by = ("map", "loss", "micro_f1", "macro_f1", "exact")
    tunes = True

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        super(Classification, self).__init__(recipe, classes)
        self.objective = TagLoss(recipe.loss)
        self.thresholds = (USUAL,) * len(self.classes)

    def see(self, train: Split) -> None:
        """Weigh the classes, if the recipe says so: balanced is n without it over n with it.

        Raises:
            InputError: each picture has one class, or the recipe asks for what needs that; or no
                training picture has one of the classes.
        """
        tags = tags_of(train)
        if tags is None:
            raise InputError("task multilabel: needs pictures of several classes: --labels FILE")
        if self.recipe.sampling == "balanced":
            raise InputError("sampling: balanced goes with one class a picture; weigh the classes")
        have, count = tags.sum(0, dtype=np.int64), len(tags)
        if not have.all():
            raise InputError(f"no training picture has {self.classes[int(have.argmin())]}")
        said = self.objective.bce.class_weights
        if said == "none":
            return
        weights = (count - have) / have if said == "balanced" else np.array(said)
        if len(weights) != len(self.classes):
            raise InputError(f"loss.class_weights: {len(weights)} for {len(self.classes)} classes")
        self.objective = TagLoss(self.recipe.loss, torch.from_numpy(weights).float())

    def truth(self, batch: Batch) -> Tensor:
        """The classes of each picture, (B, K)."""
        return batch.targets

    def tally(self, kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Pictures that all classes are right of, at the usual threshold."""
        if not kept:
            return super().tally(kept)
        logits, tags = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return ((logits >= 0) == (tags == 1)).all(1).sum()[None].double()

    def scores(self, found: Predictions) -> dict[str, float | None]:
        """Figures of `TagScores`, at the usual threshold."""
        return self._score(found, (USUAL,) * len(self.classes), "").figures

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """Mean average precision, or what the recipe says, and of equals the smaller loss."""
        figure = self.recipe.choose_by or self.chosen_by[0]
        known = {column: 0.0 if value is None else value for column, value in row.items()}
        return by_share(figure, known)

    def tune(self, found: Predictions) -> None:
        """Choose the thresholds on validation pictures: where each class's F1 is the greatest."""
        shares = (found.logits.double() / self.recipe.loss.temperature).sigmoid().numpy()
        tags = found.labels.numpy()
        self.thresholds = tuple(
            best_threshold(shares[:, c], tags[:, c]) for c in range(len(self.classes))
        )

    def about(self) -> dict[str, Any]:
        """The thresholds."""
        return {"thresholds": self.thresholds}

    def examine(self, found: Predictions, split: Split, protocol: str) -> Examined:
        """All scores, by the chosen thresholds, and the predictions."""
        scores = self._score(found, self.thresholds, protocol)
        known = {name: value for name, value in scores.figures.items() if value is not None}
        tensors = {"logits": found.logits, "labels": found.labels, "indices": found.indices}
        return Examined(scores, known, {"predictions.safetensors": safetensors.torch.save(tensors)})

    def _score(self, found: Predictions, thresholds: Sequence[float], protocol: str) -> Any:
        return score_tags(
            found.logits,
            found.labels,
            self.classes,
            thresholds,
            temperature=self.recipe.loss.temperature,
            protocol=protocol,
            num_skipped=len(found.bad),
        )
