"""Several networks that vote: what they make of the same pictures, and who pays his way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deepen.errors import InputError
from deepen.evaluation.metrics import in_top

Averaging = Literal["probabilities", "logits"]


class Ensemble(NamedTuple):
    """What an ensemble makes of N pictures.

    Attributes:
        logits: (N, K) float64; of averaged probabilities their logarithm.
        accuracies: of each member.
        without: the accuracy of the ensemble without each member: its part is what is lost.
        correlation: (M, M) of the members' mistakes, Pearson's; 0 where one makes none.
    """

    logits: Tensor
    accuracies: list[float]
    without: list[float]
    correlation: Tensor


def combine(members: Sequence[Tensor], averaging: Averaging = "probabilities") -> Tensor:
    """Average members' logits (N, K) each, or their probabilities: (N, K) float64.

    Of probabilities the logarithm is given, whose softmax they are.
    """
    if averaging == "logits":
        return torch.stack([each.double() for each in members]).mean(0)
    return torch.stack([each.double().softmax(1) for each in members]).mean(0).log()


def examine(
    members: Sequence[Tensor], labels: Tensor, averaging: Averaging = "probabilities"
) -> Ensemble:
    """An ensemble, and each member's part in it.

    Raises:
        InputError: members of unlike pictures or classes.
    """
    for each in members:
        if each.shape != members[0].shape or len(each) != len(labels):
            shapes = f"{tuple(members[0].shape)} and {tuple(each.shape)}"
            raise InputError(f"an ensemble needs logits of the same pictures, got {shapes}")
    shares = [_terms(each, averaging) for each in members]
    total = torch.stack(shares).sum(0)
    right = torch.stack([in_top(1, each, labels) for each in members])
    return Ensemble(
        combine(members, averaging),
        right.double().mean(1).tolist(),
        [_accuracy(total - each, labels) for each in shares] if len(members) > 1 else [],
        _correlation(~right),
    )


def greedy(
    members: Sequence[Tensor], labels: Tensor, averaging: Averaging = "probabilities"
) -> list[int]:
    """Which members to keep, best first: each step adds the one that helps most.

    Forward selection without repeats (Caruana et al. 2004, "Ensemble selection from libraries of
    models"), on validation pictures alone; it ends when none helps. Of equals the one of the
    smaller loss, then the first.
    """
    shares = [_terms(each, averaging) for each in members]
    chosen: list[int] = []
    total, best = torch.zeros_like(shares[0]), (-1.0, 0.0)
    while len(chosen) < len(members):
        left = [i for i in range(len(members)) if i not in chosen]
        worth = {i: _worth(total + shares[i], labels, len(chosen) + 1, averaging) for i in left}
        found = max(left, key=lambda i: worth[i])
        if chosen and worth[found] <= best:
            break
        chosen.append(found)
        total, best = total + shares[found], worth[found]
    return chosen


def _terms(logits: Tensor, averaging: Averaging) -> Tensor:
    return logits.double() if averaging == "logits" else logits.double().softmax(1)


def _accuracy(total: Tensor, labels: Tensor) -> float:
    return in_top(1, total, labels).double().mean().item()


def _worth(total: Tensor, labels: Tensor, count: int, averaging: Averaging) -> tuple[float, float]:
    mean = total / count
    log = mean.log_softmax(1) if averaging == "logits" else mean.log()
    loss = -log.gather(1, labels[:, None]).mean().item()
    return _accuracy(total, labels), -loss


def _correlation(wrong: Tensor) -> Tensor:
    values = wrong.double() - wrong.double().mean(1, keepdim=True)
    scale = values.norm(dim=1)
    scale = torch.where(scale > 0, scale, torch.inf)
    return (values @ values.T / scale[:, None] / scale[None]).fill_diagonal_(1.0)
