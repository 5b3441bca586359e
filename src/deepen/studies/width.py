"""Width against depth, at equal parameters and at equal multiply-accumulates.

Zagoruyko & Komodakis 2016, sections 2.3 and 3: wide shallow residual nets match thin deep ones of
many times their depth. He et al. 2015, section 4.2: depth. Lecture 004, width against depth.
"""

from __future__ import annotations

from itertools import pairwise

from deepen.analysis.complexity import complexity
from deepen.studies.bench import Bench, scored
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
    f"{layers} layers, {maps} maps": (layers, maps)
    for layers, maps in ((8, 16), (8, 17), (20, 9), (56, 5), (8, 29), (8, 30), (20, 16))
}
# Nets of one size, from wide to deep.
GROUPS = {
    "85 thousand parameters": ("8 layers, 17 maps", "20 layers, 9 maps", "56 layers, 5 maps"),
    "3.1 million MACs": ("8 layers, 16 maps", "20 layers, 9 maps", "56 layers, 5 maps"),
    "265 thousand parameters": ("8 layers, 30 maps", "20 layers, 16 maps"),
    "10 million MACs": ("8 layers, 29 maps", "20 layers, 16 maps"),
}


def trial(bench: Bench) -> Trial:
    """The usual one, with what the net counts beside it."""
    fitted = bench.train()
    counted = complexity(fitted.network, bench.input_shape)
    done = scored(bench, fitted)
    done.measures |= {"parameters": counted.parameters / 1e3, "macs": counted.macs / 1e6}
    return done


def conclude(results: Results) -> list[Conclusion]:
    """Nets of a size from wide to deep, each against the next."""
    return [
        judged(
            f"at {size} a wider net trains better than a deeper one",
            "Zagoruyko & Komodakis 2016, section 3; lecture 004",
            "16 wide layers do better than 1,001 thin ones",
            "training error "
            + ", ".join(f"{results.mean(arm, 'train_error'):.1f}% ({arm})" for arm in arms),
            [
                all(steps)  # of one seed
                for steps in zip(
                    *(results.less(*pair, "train_error") for pair in pairwise(arms)), strict=True
                )
            ],
        )
        for size, arms in GROUPS.items()
        if all(results.of(arm, "train_error") for arm in arms)
    ]


STUDY = Study(
    name="width",
    title="Width against depth at equal size",
    source="Zagoruyko & Komodakis 2016, section 3; lecture 004",
    question="Of residual nets with as many parameters and as much work, which trains best?",
    varies="layers and maps, together",
    held="parameters, or multiply-accumulates (MACs), within a group, to 6%; pictures and recipe",
    measures=(
        *ERRORS,
        Measure("parameters", "thousand parameters"),
        Measure("macs", "million MACs", 2),
    ),
    curves=ERROR_CURVES,
    settings={
        "small": small_cifar(
            arms=tuple(
                Arm(name, net(paper_block("A"), depth, width=maps))
                for name, (depth, maps) in SHAPES.items()
            ),
            departures=(
                "5 to 30 maps in the first stage instead of the 8 above",
                "18 passes show which trains sooner: none has converged, the deep ones least",
            ),
            minutes="5 minutes on 2 cores",
        )
    },
    trial=trial,
    conclude=conclude,
)
