"""What a network is trained to do: its loss, its figures, and when one epoch is better.

The loop knows no labels and no logits: it asks a `Task`. Classification is the first; a recipe's
`task` names it, or a factory of the user's own.
"""

from __future__ import annotations

import base64
import importlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from deepen.data.loader import Batch
from deepen.data.sampling import UNEVEN, imbalance
from deepen.data.sources import Split
from deepen.data.tags import tags_of
from deepen.errors import InputError, unknown
from deepen.evaluation.metrics import Figures, in_top, over_classes, score
from deepen.evaluation.protocols import Predictions, predict_logits
from deepen.training.optimizer import Objective, class_weights
from deepen.training.progress import Row
from deepen.training.recipe import Recipe
from deepen.training.request import Here

MEANS = ("balanced", "macro_f1")
"""Columns of figures in which each class weighs the same."""
MISTAKES_SHOWN = 24
MISTAKE_PX = 96


class Outcome(NamedTuple):
    """What a forward pass of a training batch came to.

    Attributes:
        loss: a scalar, the mean over the pictures of the batch; backward begins here.
        kept: what `Task.tally` needs of it, detached.
    """

    loss: Tensor
    kept: Any


class Examined(NamedTuple):
    """What the chosen weights are worth on the split that a run is reported on.

    Attributes:
        scores: for scores.json and the report.
        card: the figures that the weights' card keeps.
        files: further files of the run folder, by name.
    """

    scores: BaseModel
    card: dict[str, float]
    files: dict[str, bytes | list[Any]]


class Task:
    """What is learned; a task of one's own overrides what differs.

    Made of (recipe, classes).

    Attributes:
        figures: what is averaged over the training pictures beside the loss: train_<name>.
        columns: what is scored after each epoch: eval_<name>.
        tunes: whether something is chosen on validation pictures when the training is over.
        chosen_by: those of them that a recipe's `choose_by` may name; the first is the usual one.
    """

    figures: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("loss",)
    chosen_by: tuple[str, ...] = ("loss",)
    tunes = False

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        self.recipe, self.classes = recipe, tuple(classes)

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        return "rank"

    def see(self, train: Split) -> None:
        """Learn what it must know of the training pictures, before the first step."""

    def run(self, forward: Callable[..., Any], batch: Batch) -> Any:
        """What the network makes of a batch, in training mode, for `loss_of`.

        Its `forward` may be wrapped (several processes, compiling); one whose losses are a part of
        it takes the targets here.
        """
        return forward(batch.images)

    def loss_of(self, outputs: Any, batch: Batch, network: nn.Module) -> Outcome:
        """The loss of what the network made of a batch, in training mode.

        A process that has no picture of the batch gets a 0 that all parameters are a part of.
        """
        raise TypeError(f"{type(self).__name__} does not say what its loss is")

    def tally(self, kept: Sequence[Any]) -> Tensor:
        """Sums over the pictures of several outcomes, a number for each of `figures`, float64."""
        return torch.zeros(len(self.figures), dtype=torch.float64)

    def predict(self, network: nn.Module, batches: Iterable[Batch], here: Here) -> Any:
        """All predictions of a pass over a split, in evaluation mode.

        They have `bad`, the pictures that could not be decoded, and `indices` of the others.
        """
        raise TypeError(f"{type(self).__name__} does not say what it predicts")

    def scores(self, found: Any) -> dict[str, float | None]:
        """A value for each of `columns`, of what `predict` found."""
        raise TypeError(f"{type(self).__name__} does not say how it is scored")

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """What epochs are compared by, from a row of metrics; the greatest is the best.

        The first number is what a plateau is told by, and what a search maximises.
        """
        return (-_number(row, "eval_loss"),)

    def better(self, row: Row, than: Row | None) -> bool:
        """Whether an epoch is better than the best so far; of equals the first stays."""
        return than is None or self.rank(row) > self.rank(than)

    def tune(self, found: Any) -> None:
        """Choose what is to be chosen by the chosen weights' predictions of validation pictures."""

    def about(self) -> dict[str, Any]:
        """Fields of the weights' card that are the task's."""
        return {}

    def examine(self, found: Any, split: Split, protocol: str) -> Examined:
        """The scores of a split, and what else of it is to be kept."""
        figures = self.scores(found)
        known = {name: value for name, value in figures.items() if value is not None}
        scores = Figures(
            num_samples=len(found.indices),
            num_skipped=len(found.bad),
            figures=figures,
            protocol=protocol,
        )
        return Examined(scores, known, {})


class Classification(Task):
    """One class for each picture, by the loss of the recipe."""

    figures = ("top1",)
    columns = ("loss", "top1", "top5")
    chosen_by = ("top1", "loss", *MEANS)

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        super().__init__(recipe, classes)
        self.objective = Objective(recipe.loss)
        if recipe.choose_by in MEANS:
            self.columns = (*Classification.columns, *MEANS)

    def see(self, train: Split) -> None:
        """Weigh the classes, if the recipe says so; where they are uneven, score their means."""
        if tags_of(train) is not None:
            raise InputError("these pictures have several classes each: --task multilabel")
        if train.targets is not None and type(self).loss_of is Classification.loss_of:
            raise InputError(
                "these pictures have boxes or masks, which `deepen detect train` learns"
            )
        counts = np.bincount(train.labels, minlength=len(self.classes)).tolist()
        weights = class_weights(getattr(self.recipe.loss, "class_weights", "none"), counts)
        self.objective = Objective(self.recipe.loss, weights)
        if imbalance(train.labels) >= UNEVEN:
            self.columns = (*Classification.columns, *MEANS)

    @property
    def figure(self) -> str:
        """What the first number of a rank is, in words."""
        by = self.recipe.choose_by or self.chosen_by[0]
        return {"loss": "mean likelihood", "top1": "top-1", "map": "mAP"}.get(by, by)

    def loss_of(self, outputs: Any, batch: Batch, network: nn.Module) -> Outcome:
        """Of logits (B, K), or (logits, *auxiliary logits).

        Auxiliary classifiers, where a network has some, add their losses with its own weight
        (Szegedy et al. 2014, section 5: 0.3).
        """
        if not len(batch.labels):
            return Outcome(outputs, None)
        targets = batch.targets
        if isinstance(outputs, Tensor):
            loss, logits = self.objective(outputs, targets), outputs
        else:
            logits, *auxiliary = outputs
            extra = sum((self.objective(one, targets) for one in auxiliary), logits.new_zeros(()))
            weight = getattr(network, "auxiliary_weight", 0.0)
            loss = self.objective(logits, targets) + weight * extra
        return Outcome(loss, (logits.detach(), self.truth(batch)))

    def truth(self, batch: Batch) -> Tensor:
        """What `tally` compares with: the labels."""
        return batch.labels

    def tally(self, kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Pictures whose largest logit is the right one."""
        if not kept:
            return super().tally(kept)
        logits, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return in_top(1, logits, labels).sum()[None].double()

    def predict(self, network: nn.Module, batches: Iterable[Batch], here: Here) -> Predictions:
        """Logits and labels."""
        return predict_logits(
            network,
            batches,
            device=here.place,
            amp=bool(self.recipe.amp),
            gather=here.processes.gather_predictions,
        )

    def scores(self, found: Predictions) -> dict[str, float | None]:
        """Cross-entropy after the temperature, top-1, and top-5 with more than five classes."""
        logits, labels = found.logits, found.labels
        top5 = in_top(5, logits, labels) if logits.shape[1] > 5 else None
        means: dict[str, float | None] = {}
        if MEANS[0] in self.columns:
            over = over_classes(labels, logits.argmax(1), len(self.classes))
            means = dict(zip(MEANS, over, strict=True))
        return {
            "loss": F.cross_entropy(logits / self.recipe.loss.temperature, labels).item(),
            "top1": in_top(1, logits, labels).float().mean().item(),
            "top5": None if top5 is None else top5.float().mean().item(),
            **means,
        }

    def rank(self, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
        """Top-1, or what the recipe says, and of equals the smaller loss."""
        return by_share(self.recipe.choose_by or self.chosen_by[0], row)

    def examine(self, found: Predictions, split: Split, protocol: str) -> Examined:
        """All scores; the predictions, and the most confident mistakes with their pictures."""
        temperature, figures = self.recipe.loss.temperature, self.scores(found)
        scores = score(
            found.logits,
            found.labels,
            self.classes,
            temperature=temperature,
            protocol=protocol,
            num_skipped=len(found.bad),
        )
        tensors = {"logits": found.logits, "labels": found.labels, "indices": found.indices}
        files = {
            "predictions.safetensors": safetensors.torch.save(tensors),
            "mistakes.json": _mistakes(found, self.classes, split, temperature),
        }
        card = {"top1": scores.top1, "loss": scores.loss}
        card |= {name: value for name in MEANS if (value := figures.get(name)) is not None}
        return Examined(scores, card, files)


def task_of(recipe: Recipe, classes: Sequence[str]) -> Task:
    """The recipe's task.

    Raises:
        InputError: there is none of that name, or it is no task.
    """
    task = _made(recipe, classes)
    if recipe.choose_by not in (None, *task.chosen_by):
        raise unknown("choose_by", str(recipe.choose_by), task.chosen_by)
    return task


def _made(recipe: Recipe, classes: Sequence[str]) -> Task:
    if recipe.task == "classification":
        return Classification(recipe, classes)
    if recipe.task == "multilabel":
        from deepen.training.multilabel import Multilabel

        return Multilabel(recipe, classes)
    module, _, factory = recipe.task.partition(":")
    try:
        task = getattr(importlib.import_module(module), factory)(recipe, classes)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"task {recipe.task}: {error}") from error
    if not isinstance(task, Task):
        raise InputError(f"task {recipe.task}: made a {type(task).__name__}, not a Task")
    return task


def by_share(figure: str, row: Mapping[str, float | int | None]) -> tuple[float, ...]:
    """A rank by a figure in 0..1, and of equals by the smaller loss.

    By the loss itself, it is the mean likelihood exp(-loss): in 0..1 too, and the greater the
    better, as a search has it, which gives 0 to what diverged.
    """
    loss = _number(row, "eval_loss")
    return math.exp(-loss) if figure == "loss" else _number(row, f"eval_{figure}"), -loss


def _number(row: Mapping[str, float | int | None], column: str) -> float:
    value = row[column]
    assert value is not None, f"{column} was not scored"
    return value


def _mistakes(
    found: Predictions, classes: Sequence[str], split: Split, temperature: float
) -> list[dict[str, Any]]:
    """The most confident mistakes, each with a small PNG."""
    shares = (found.logits.double() / temperature).softmax(1)
    confidence, predicted = shares.max(1)
    wrong = (predicted != found.labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES_SHOWN]
    return [
        {
            "index": (index := int(found.indices[i])),
            "key": split.key(index),
            "true": classes[int(found.labels[i])],
            "predicted": classes[int(predicted[i])],
            "confidence": confidence[i].item(),
            "png": _small_png(split, index),
        }
        for i in order.tolist()
    ]


def _small_png(split: Split, index: int) -> str:
    """At most MISTAKE_PX a side, base64."""
    image = split.picture(index, 3)
    image.thumbnail((MISTAKE_PX, MISTAKE_PX))
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
