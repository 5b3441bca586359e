"""Does ReLU train several times faster than tanh?

Krizhevsky et al. 2012, section 3.1, figure 1: a four-layer network reaches 25% training error on
CIFAR-10 six times sooner with ReLU than with tanh; "the learning rates for each network were chosen
independently to make training as fast as possible. No regularization of any kind was employed."
"""

from __future__ import annotations

from itertools import pairwise
from statistics import mean
from typing import Any

from torch import nn

from deepen.errors import Diverged
from deepen.layers import init_normal
from deepen.models import get_architecture
from deepen.models.cuda_convnet import CudaConvNet
from deepen.studies.bench import Bench
from deepen.studies.study import (
    Arm,
    Conclusion,
    Measure,
    Pictures,
    Results,
    Setting,
    Study,
    Trial,
    judged,
    named,
)
from deepen.training.progress import Row

WANTED_ERROR = 25.0
RATES = (0.03, 0.1, 0.01, 0.003)
RELEASED_RATES = (0.01, 0.03, 0.003, 0.1, 0.001)  # in the released file 0.001
RELEASED = ", released start"


class Released(CudaConvNet):
    """Starts from weights as wide as in the released file, whatever the non-linearity.

    cuda-convnet, layers-18pct.cfg: deviations 0.0001 in the first layer, 0.01 after; biases 0.
    """

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        layers = (m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        for layer, deviation in zip(layers, (0.0001, 0.01, 0.01, 0.01), strict=True):
            init_normal(layer, deviation)


def released(activation: str) -> Arm:
    """An arm with the released start, on pictures of 0 to 255 less their mean, as it wants them."""
    return Arm(
        activation + RELEASED,
        lambda *what: Released(activation, *what),
        {"input.normalize": "pixel", "input.scale": 255.0, "length.epochs": 200},
        get_architecture(f"convnet4_{activation}").takes,
    )


def trial(bench: Bench) -> Trial:
    """Train with each learning rate until the error is reached; the fastest rate counts."""
    measures: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    rates = RELEASED_RATES if bench.arm.name.endswith(RELEASED) else RATES
    for rate in rates:
        fastest = measures.get("epochs", float("inf"))

        def settled(row: Row, fastest: float = fastest) -> bool:
            """Down to the error, or slower than another rate was."""
            return 100 - 100 * (row["train_top1"] or 0) <= WANTED_ERROR or (
                (row["epoch"] or 0) >= fastest
            )

        changes = {"optimizer.lr": rate}
        try:
            trained = bench.train(f"lr-{rate}", changes, until=settled)
        except Diverged:
            continue
        curve = trained.curve("train_top1")
        epochs = _crossing(curve, WANTED_ERROR)
        if epochs is not None and epochs < measures.get("epochs", float("inf")):
            measures |= {"epochs": epochs, "rate": rate}
            curves["train_error"] = curve
    if not measures:
        return bench.trial(failed=f"{WANTED_ERROR:g}% was not reached with any of {rates}")
    return bench.trial(measures=measures, curves=curves)


def _crossing(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Passes until the error is `wanted`, between two passes on a straight line."""
    steps_a_pass = curve[0][0]
    for (before, above), (after, below) in pairwise(curve):
        if below <= wanted:
            return (before + (above - wanted) / (above - below) * (after - before)) / steps_a_pass
    return 1.0 if curve[0][1] <= wanted else None


def conclude(results: Results) -> list[Conclusion]:
    """The factor between tanh and ReLU, from either start, and where the others stand."""
    factors = {seed: tanh / relu for seed, (relu, tanh) in _both(results, "").items()}
    found = [
        _sooner(results, "", "from weights that suit each").feeding(
            "six-times", "passes to 25% training error with tanh, over those with ReLU", factors
        )
    ]
    if f"tanh{RELEASED}" in results.arms():
        found.append(_sooner(results, RELEASED, "from weights as the author released them"))
    tanh = results.mean("tanh", "epochs")
    others = [arm for arm in results.arms() if not arm.startswith(("relu", "tanh"))]
    for arm in others:
        epochs = results.mean(arm, "epochs")
        if epochs == epochs and tanh == tanh:
            found.append(
                judged(
                    f"{arm} is faster than tanh",
                    "lecture 002, activation functions",
                    "not stated",
                    f"{epochs:.1f} passes against {tanh:.1f}",
                    epochs < tanh,
                )
            )
    return found


def _both(results: Results, start: str) -> dict[int, tuple[float, float]]:
    """Passes with ReLU and with tanh from a start, of each seed that reached the error in both."""
    relu, tanh = (results.by_seed(name + start, "epochs") for name in ("relu", "tanh"))
    return {seed: (relu[seed], tanh[seed]) for seed in relu if seed in tanh}


def _sooner(results: Results, start: str, words: str) -> Conclusion:
    both = list(_both(results, start).values())
    relu, tanh = (mean(values) for values in zip(*both, strict=True)) if both else (1.0, 1.0)
    return judged(
        f"{words}, 25% training error is reached several times sooner with ReLU than with tanh",
        "Krizhevsky et al. 2012, section 3.1, figure 1",
        "6 times",
        f"{tanh / relu:.1f} times: {relu:.1f} passes against {tanh:.1f}" if both else "not reached",
        [slow / fast >= 2 for fast, slow in both],
    )


def _suited(*activations: str) -> tuple[Arm, ...]:
    return tuple(named(name, f"convnet4_{name}") for name in activations)


def _setting(
    train: int | None, arms: tuple[Arm, ...], departures: tuple[str, ...], minutes: str
) -> Setting:
    return Setting(
        pictures=Pictures("cifar10", train=train, test=1000),
        recipe="resnet-cifar",
        changes={
            "length.epochs": 80,
            "schedule.name": "constant",
            "schedule.milestones": [],
            "optimizer.weight_decay": 0.0,
            "augment.crop": "none",
            "augment.flip": False,
            "input.normalize": "channel",
        },
        arms=arms,
        departures=(
            "the paper does not describe its four-layer net (see `convnet4_relu`) nor the rates "
            f"it tried: {', '.join(map(str, RATES))} here, the fastest one taken",
            "the paper does not say how weights start: here from the variance that suits each "
            "non-linearity, and (released start) as wide as in its author's cuda-convnet, whatever "
            "the non-linearity, on pictures of 0 to 255 less their mean, at rates of "
            f"{', '.join(map(str, RELEASED_RATES))}",
            "figure 1 shows one run; here are several seeds",
            *departures,
        ),
        minutes=minutes,
    )


STUDY = Study(
    name="activation",
    title="ReLU against tanh: passes to 25% training error",
    source="Krizhevsky et al. 2012, section 3.1, figure 1",
    question="How many passes until a four-layer net is down to 25% training error on CIFAR-10, "
    "with each non-linearity?",
    varies="the non-linearity and the start; the learning rate is the best of those tried for each",
    held="layers, pictures, batches of 128, momentum 0.9, no regularization, no augmentation",
    measures=(
        Measure("epochs", "passes to 25% training error"),
        Measure("rate", "learning rate taken", 3),
    ),
    curves={"train_error": "training error, %"},
    settings={
        "small": _setting(
            5000,
            (*_suited("relu", "tanh"), released("relu"), released("tanh")),
            (
                "5,000 of the 50,000 training pictures, so a pass is a tenth as long; the other "
                "non-linearities are in the full setting",
            ),
            "20 minutes on 2 cores",
        ),
        "full": _setting(
            None,
            (
                *_suited("relu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "swish", "maxout"),
                released("relu"),
                released("tanh"),
            ),
            (),
            "several hours on 2 cores",
        ),
    },
    trial=trial,
    conclude=conclude,
)
