"""The setting that studies of CIFAR nets share on two cores, with every departure it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepen.studies.study import Arm, Pictures, Setting

STEPS_A_PASS = 79


def small_cifar(
    *,
    arms: tuple[Arm, ...],
    minutes: str,
    epochs: int = 18,
    changes: Mapping[str, Any] | None = None,
    departures: tuple[str, ...] = (),
) -> Setting:
    """5,000 pictures of CIFAR-10 at 16x16 px, nets of 8-16-32 maps, 18 passes.

    Args:
        arms: of 8 maps in the first stage.
        minutes: that a seed takes.
        epochs: passes.
        changes: further ones of the recipe.
        departures: further ones from the paper.
    """
    return Setting(
        pictures=Pictures("cifar10", train=5000, test=2000),
        recipe="resnet-cifar",
        changes={
            "length.epochs": epochs,
            "batch_size": 64,
            "optimizer.lr": 0.05,
            "schedule.name": "constant",
            "schedule.milestones": [],
            "schedule.warmup_steps": 78,
            "schedule.warmup": "linear",
            "augment.pad_px": 2,
            "input.size_px": 16,
            "input.resize": "squash",
            "input.normalize": "channel",
            **(changes or {}),
        },
        arms=arms,
        departures=(
            "5,000 training and 2,000 test pictures of CIFAR-10, shrunk to 16x16 px; the paper: "
            "all, 32x32",
            "8, 16 and 32 maps; the paper: 16, 32 and 64",
            f"{epochs} passes ({epochs * STEPS_A_PASS:,} steps) at a learning rate of 0.05 after a "
            "linear warm-up of 78 steps, batches of 64; the paper: 64,000 steps of 128 at 0.1, "
            "divided by 10 at 32,000 and 48,000",
            "shifts of up to 2 px; the paper: 4 px of 32",
            "mean and deviation of each channel; the paper: the mean of each pixel",
            *departures,
        ),
        minutes=minutes,
    )
