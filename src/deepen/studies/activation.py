"""ReLU trains several times faster than tanh.

Krizhevsky et al. 2012, section 3.1, figure 1: a four-layer network reaches 25% training error on
CIFAR-10 six times sooner with ReLU than with tanh; "the learning rates for each network were chosen
independently to make training as fast as possible. No regularization of any kind was employed."
"""

from __future__ import annotations

from itertools import pairwise

from deepen.studies.bench import Bench
from deepen.studies.study import (
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


def trial(bench: Bench) -> Trial:
    """Train with each learning rate until the error is reached; the fastest rate counts."""
    measures: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for rate in RATES:
        fastest = measures.get("epochs", float("inf"))

        def settled(row: Row, fastest: float = fastest) -> bool:
            """Down to the error, or slower than another rate was."""
            return 100 - 100 * (row["train_top1"] or 0) <= WANTED_ERROR or (
                (row["epoch"] or 0) >= fastest
            )

        changes = {"optimizer.lr": rate}
        trained = bench.train(bench.build(), f"lr-{rate}", changes, until=settled)
        curve = trained.curve("train_top1")
        epochs = _crossing(curve, WANTED_ERROR)
        if epochs is not None and epochs < measures.get("epochs", float("inf")):
            measures |= {"epochs": epochs, "rate": rate}
            curves["train_error"] = curve
    if not measures:
        return bench.trial(failed=f"{WANTED_ERROR:g}% was not reached with any of {RATES}")
    return bench.trial(measures=measures, curves=curves)


def _crossing(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Passes until the error is `wanted`, between two passes on a straight line."""
    steps_a_pass = curve[0][0]
    for (before, above), (after, below) in pairwise(curve):
        if below <= wanted:
            return (before + (above - wanted) / (above - below) * (after - before)) / steps_a_pass
    return 1.0 if curve[0][1] <= wanted else None


def conclude(results: Results) -> list[Conclusion]:
    """The factor between tanh and ReLU, and where the others stand."""
    source = "Krizhevsky et al. 2012, section 3.1, figure 1"
    relu, tanh = results.mean("relu", "epochs"), results.mean("tanh", "epochs")
    if relu != relu or tanh != tanh:
        return [judged("ReLU is several times faster than tanh", source, "6", "not reached", [])]
    factor = tanh / relu
    fast, slow = (results.by_seed(arm, "epochs") for arm in ("relu", "tanh"))
    found = [
        judged(
            "with ReLU 25% training error is reached several times sooner than with tanh",
            source,
            "6 times",
            f"{factor:.1f} times: {relu:.1f} passes against {tanh:.1f}",
            factor >= 2,
        ).feeding(
            "six-times",
            "passes to 25% training error with tanh, over those with ReLU",
            {seed: slow[seed] / fast[seed] for seed in slow if seed in fast},
        )
    ]
    others = [arm for arm in results.arms() if arm not in ("relu", "tanh")]
    for arm in others:
        epochs = results.mean(arm, "epochs")
        if epochs == epochs:
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


def _setting(
    train: int | None, arms: tuple[str, ...], departures: tuple[str, ...], minutes: str
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
        arms=tuple(named(name, f"convnet4_{name}") for name in arms),
        departures=(
            "the paper does not describe its four-layer net (see `convnet4_relu`) nor the rates "
            f"it tried: {', '.join(map(str, RATES))} here, the fastest one taken",
            "each net starts from weights of the variance that suits its non-linearity; the ones "
            "that the paper's author released suit ReLU alone",
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
    varies="the non-linearity; the learning rate is the best of four for each",
    held="layers, pictures, batches of 128, momentum 0.9, no regularization, no augmentation",
    measures=(
        Measure("epochs", "passes to 25% training error"),
        Measure("rate", "learning rate taken", 3),
    ),
    curves={"train_error": "training error, %"},
    settings={
        "small": _setting(
            5000,
            ("relu", "tanh"),
            (
                "5,000 of the 50,000 training pictures, so a pass is a tenth as long; the other "
                "non-linearities are in the full setting",
            ),
            "8 minutes on 2 cores",
        ),
        "full": _setting(
            None,
            ("relu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "swish", "maxout"),
            (),
            "several hours on 2 cores",
        ),
    },
    trial=trial,
    conclude=conclude,
)
