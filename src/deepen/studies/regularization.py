"""Dropout, L1, L2 and augmentation, each alone and all together.

Lecture 002, regularization. Krizhevsky et al. 2012, sections 4.1, 4.2 and 5: without augmentation
and dropout the net overfits.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from torch import Tensor, nn

from deepen.models.cuda_convnet import CudaConvNet
from deepen.studies.bench import Bench, scored
from deepen.studies.study import (
    ERROR_CURVES,
    ERRORS,
    Arm,
    Build,
    Conclusion,
    Pictures,
    Results,
    Setting,
    Study,
    Trial,
    judged,
)

L1 = 1e-4


class Regularized(CudaConvNet):
    """AlexNet's four-layer relative with dropout before the output, and an L1 penalty on weights.

    The penalty acts through the gradient: each weight's gets the sign of the weight times `l1`.
    """

    def __init__(self, dropout_p: float, l1: float, *what: Any) -> None:
        super().__init__("relu", *what)
        self.dropout_p, self.l1 = dropout_p, l1
        if l1:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    self._penalise(module.weight)

    def _penalise(self, weight: Tensor) -> None:
        weight.register_hook(lambda gradient: gradient + self.l1 * weight.detach().sign())


def _net(dropout_p: float = 0.0, l1: float = 0.0) -> Build:
    return lambda *what: Regularized(dropout_p, l1, *what)


L2 = {"optimizer.weight_decay": 0.002}
AUGMENTED = {"augment.crop": "pad", "augment.pad_px": 2, "augment.flip": True}
ARMS = (
    Arm("none", _net()),
    Arm("dropout", _net(dropout_p=0.5)),
    Arm("L1", _net(l1=L1)),
    Arm("L2", _net(), L2),
    Arm("augmentation", _net(), AUGMENTED),
    Arm("all", _net(dropout_p=0.5, l1=L1), L2 | AUGMENTED),
)


def trial(bench: Bench) -> Trial:
    """The usual one; the training error is the trained net's, without dropout and augmentation."""
    fitted = bench.train()
    done = scored(bench, fitted)
    done.measures["train_error"] = bench.error(fitted.network, "train")
    return done


def conclude(results: Results) -> list[Conclusion]:
    """Each against none, in test error and in the gap between the two errors."""
    found = []
    for arm in (arm for arm in results.arms() if arm != "none"):
        test, train = (results.over(arm, "none", name) for name in ("test_error", "train_error"))
        if not test:
            continue
        found.append(
            judged(
                f"{arm}: less overfitting and a smaller test error than without",
                "lecture 002, regularization; Krizhevsky et al. 2012, section 4",
                "",
                f"test error {_mean(test):+.1f} points, over training error "
                f"{_mean(test) - _mean(train):+.1f} points",
                [test[seed] < min(0, train[seed]) for seed in test],
            )
        )
    return found


def _mean(differences: dict[int, float]) -> float:
    return mean(differences.values())


STUDY = Study(
    name="regularization",
    title="Dropout, L1, L2 and augmentation, alone and together",
    source="lecture 002; Krizhevsky et al. 2012, section 4",
    question="How much does each close the gap between training and test error?",
    varies="the regularization",
    held="the four-layer net of AlexNet's figure 1, pictures, learning rate, passes",
    measures=ERRORS,
    curves=ERROR_CURVES | {"train_error": "error while training, %"},  # as it is regularized
    settings={
        "small": Setting(
            pictures=Pictures("cifar10", train=5000, test=2000),
            recipe="resnet-cifar",
            changes={
                "length.epochs": 100,
                "batch_size": 64,
                "optimizer.lr": 0.02,
                "optimizer.weight_decay": 0.0,
                "schedule.name": "cosine",
                "schedule.milestones": [],
                "augment.crop": "none",
                "augment.flip": False,
                "input.normalize": "channel",
                "input.size_px": 16,
                "input.resize": "squash",
            },
            arms=ARMS,
            departures=(
                "a four-layer net on 5,000 CIFAR-10 pictures at 16x16 px, 100 passes; the paper's "
                "are AlexNet on ImageNet; the strengths are ours",
                "100 passes do not end training with augmentation, nor with all together",
            ),
            minutes="9 minutes on 2 cores",
        )
    },
    trial=trial,
    conclude=conclude,
)
