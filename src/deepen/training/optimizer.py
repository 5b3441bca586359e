"""Optimizer, learning rate and loss of a recipe: torch's own, put together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from deepen.errors import InputError
from deepen.training.blocks import Bce, Constant, Cosine, Loss, Optimizer, Schedule, Steps
from deepen.training.finetuning import stages


def build_optimizer(
    model: nn.Module, spec: Optimizer, lr_decay: float = 1.0
) -> torch.optim.Optimizer:
    """torch.optim's, fused if it can be; with `decay_vectors` false, biases and scales are spared.

    With an `lr_decay` below 1, the head learns at `spec.lr` and each stage below it at that share
    of the rate of the one above.
    """
    parts = [[*model.parameters()]] if lr_decay == 1 else stages(model)[::-1]
    groups: list[dict[str, object]] = []
    for depth, parameters in enumerate(parts):
        trained = [p for p in parameters if p.requires_grad]
        if spec.decay_vectors:
            kinds: list[dict[str, object]] = [{"params": trained}]
        else:
            kinds = [
                {"params": [p for p in trained if p.ndim > 1]},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ]
        groups += [{**kind, "lr": spec.lr * lr_decay**depth} for kind in kinds if trained]
    lr, decay = spec.lr, spec.weight_decay
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr, eps=spec.eps, weight_decay=decay, fused=True)
    if spec.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr, spec.alpha, spec.eps, decay, spec.momentum)
    return torch.optim.SGD(
        groups, lr, spec.momentum, weight_decay=decay, nesterov=spec.nesterov, fused=True
    )


def lr_factor(schedule: Constant | Steps | Cosine, step: int, total_steps: int) -> float:
    """Factor of the learning rate at a step: a pure function, so a resume needs only the step."""
    warmup = min(schedule.warmup_steps, total_steps // 5)  # a run cut short warms up less
    if step < warmup:
        if schedule.warmup == "constant":
            return schedule.warmup_factor
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * step / warmup
    if schedule.name == "steps":
        passed = sum(step >= round(point * total_steps) for point in schedule.milestones)
        return schedule.gamma**passed
    if schedule.name == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup))) / 2
    return 1.0


def build_scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, total_steps: int
) -> LRScheduler:
    """LambdaLR, stepped after every step; or ReduceLROnPlateau, stepped after every evaluation."""
    if schedule.name == "plateau":
        return ReduceLROnPlateau(optimizer, factor=schedule.gamma, patience=schedule.patience)
    return LambdaLR(optimizer, lambda step: lr_factor(schedule, step, total_steps))


def class_weights(said: str | Sequence[float], counts: Sequence[int]) -> Tensor | None:
    """What a picture's loss counts by its class, float32 (K,); None where all count alike.

    Their mean over the training pictures, `counts` of each class, is 1. Balanced ones are those of
    King & Zeng 2001, n / (K n_c), as scikit-learn has them; K counts the classes with pictures.

    Raises:
        InputError: they are not as many as the classes.
    """
    if said == "none":
        return None
    number = torch.tensor(counts, dtype=torch.float64)
    if said == "balanced":
        weights = torch.where(number > 0, 1 / number, 0.0)
    else:
        weights = torch.tensor(said, dtype=torch.float64)
        if len(weights) != len(number):
            raise InputError(f"loss.class_weights: {len(weights)} for {len(number)} classes")
    return (weights * number.sum() / (weights * number).sum()).float()


class Objective:
    """The loss of a recipe, averaged over the batch.

    Args:
        spec: of the recipe.
        weights: of the classes, float32 (K,), that each picture's loss is multiplied by.
    """

    def __init__(self, spec: Loss, weights: Tensor | None = None) -> None:
        self.spec, self.weights = spec, weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar in float32, of logits (B, K) and labels (B,) or shares of the classes (B, K)."""
        logits = logits.float()
        if self.spec.temperature != 1:
            logits = logits / self.spec.temperature
        if self.spec.name == "bce":
            shares = binary_targets(targets, logits.shape[1], self.spec)
            if (weights := self._weights(logits)) is not None:
                weights = weights[targets] if targets.ndim == 1 else targets @ weights
                return F.binary_cross_entropy_with_logits(logits, shares, weights[:, None])
            return F.binary_cross_entropy_with_logits(logits, shares)
        if self.spec.name == "map":
            # Eq. 9: y_D + log(e^-j + sum_i e^-y_i), cross-entropy with one constant logit more.
            rubbish = logits.new_full((len(logits), 1), -self.spec.rubbish)
            return F.cross_entropy(torch.cat([logits, rubbish], dim=1), targets)
        smoothing = self.spec.label_smoothing
        if (weights := self._weights(logits)) is not None:
            total = F.cross_entropy(
                logits, targets, weights, reduction="sum", label_smoothing=smoothing
            )
            return total / len(logits)
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def _weights(self, logits: Tensor) -> Tensor | None:
        """The weights where the logits are; carried there once, for a CUDA graph cannot."""
        if self.weights is not None and self.weights.device != logits.device:
            self.weights = self.weights.to(logits.device)
        return self.weights


def binary_targets(targets: Tensor, num_classes: int, spec: Bce) -> Tensor:
    """What each class is to be by itself, (B, K)."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, num_classes)
    if spec.threshold is not None:
        targets = targets > spec.threshold
    return targets * (1 - spec.label_smoothing) + spec.label_smoothing / num_classes
