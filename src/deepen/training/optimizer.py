"""Optimizer, learning rate and loss of a recipe: torch's own, put together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from deepen.training.recipe import Loss, Optimizer, Schedule


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """torch.optim's, fused; with `decay_vectors` false, biases and scales are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [{"params": trained}]
    if not spec.decay_vectors:
        groups = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if spec.name == "adamw":
        return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def lr_factor(schedule: Schedule, step: int, total_steps: int) -> float:
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


class Objective:
    """The loss of a recipe on logits (B, K) and labels (B,), averaged over the batch."""

    def __init__(self, spec: Loss) -> None:
        self.spec = spec

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar, in float32."""
        logits = logits.float()
        if self.spec.temperature != 1:
            logits = logits / self.spec.temperature
        if self.spec.rubbish is not None:
            # Eq. 9: y_D + log(e^-j + sum_i e^-y_i), cross-entropy with one constant logit more.
            rubbish = logits.new_full((len(logits), 1), -self.spec.rubbish)
            logits = torch.cat([logits, rubbish], dim=1)
        return F.cross_entropy(logits, labels, label_smoothing=self.spec.label_smoothing)
