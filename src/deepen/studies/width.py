"""Width against depth, at equal parameters and at equal multiply-accumulates.

Zagoruyko & Komodakis 2016, sections 2.3 and 3: wide shallow residual nets match thin deep ones of
many times their depth. He et al. 2015, section 4.2: depth. Lecture 004, width against depth.
"""

from __future__ import annotations

from deepen.studies.bench import Bench, train_and_score
from deepen.studies.networks import net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import (
    ERROR_CURVES,
    ERRORS,
    Arm,
    Conclusion,
    Measure,
    Results,
    Study,
    Trial,
    judged,
)

# Layers and maps of the first stage. Weights go with depth x width^2, and so does the work.
SHAPES = {
    "8 layers, 16 maps": (8, 16),
    "20 layers, 9 maps": (20, 9),
    "56 layers, 5 maps": (56, 5),
    "20 layers, 16 maps": (20, 16),
    "8 layers, 27 maps": (8, 27),
}


def trial(bench: Bench) -> Trial:
    """The usual one, with what the net counts beside it."""
    network = bench.build()
    done = train_and_score(bench, network)
    done.measures["parameters"] = float(sum(p.numel() for p in network.parameters()))
    return done


def conclude(results: Results) -> list[Conclusion]:
    """The three of the same size against each other, and the two larger ones."""
    error = {arm: results.mean(arm, "train_error") for arm in results.arms()}
    small, large = list(SHAPES)[:3], list(SHAPES)[3:]
    if any(error.get(arm, float("nan")) != error.get(arm) for arm in SHAPES):
        return []

    def words(arms: list[str]) -> str:
        return ", ".join(f"{arm}: {error[arm]:.1f}%" for arm in arms)

    best = min(small, key=error.__getitem__)
    return [
        judged(
            "at equal size neither the widest nor the deepest net trains best",
            "Zagoruyko & Komodakis 2016, section 3; lecture 004",
            "16 layers, 10 times as wide, match 1001 thin ones",
            words(small),
            best == small[1],
        ),
        judged(
            "at equal size 20 layers train better than 8 layers that are wider",
            "He et al. 2015, section 4.2",
            "",
            words(large),
            error[large[0]] < error[large[1]],
        ),
    ]


STUDY = Study(
    name="width",
    title="Width against depth at equal size",
    source="Zagoruyko & Komodakis 2016, section 3; lecture 004",
    question="Of residual nets with as many parameters and as much work, which trains best?",
    varies="layers and maps, together",
    held="parameters and multiply-accumulates within a group (about 75 and 270 thousand), recipe",
    measures=(
        *ERRORS,
        Measure("parameters", "parameters", 0),
    ),
    curves=ERROR_CURVES,
    settings={
        "small": small_cifar(
            arms=tuple(
                Arm(name, net(paper_block("A"), depth, width=maps))
                for name, (depth, maps) in SHAPES.items()
            ),
            departures=("5 to 27 maps in the first stage instead of the 8 above",),
            minutes="10 minutes on 2 cores",
        )
    },
    trial=trial,
    conclude=conclude,
)
