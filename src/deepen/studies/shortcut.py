"""What the shortcut has to be: identity suffices, gates do not help, two layers are the key.

He et al. 2015, section 4.1, table 3 (options A, B, C); He et al. 2016, section 3.1, table 1
(gates); the Torch blog, "Training and investigating residual nets", 2016 (order of layers in a
block); lecture 004 (skipping one layer).
"""

from __future__ import annotations

from functools import partial

from deepen.studies.bench import train_and_score
from deepen.studies.blocks import (
    NoReluAfterAddition,
    NormAfterAddition,
    PreActivation,
    SkipOne,
    gated,
)
from deepen.studies.networks import net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import ERROR_CURVES, ERRORS, Arm, Conclusion, Results, Study, compared

DEPTH = 32
BLOCKS = {
    "plain": paper_block(None),
    "A": paper_block("A"),
    "B": paper_block("B"),
    "C": paper_block("C"),
    "gates from 0": gated(0.0),
    "gates from -2": gated(-2.0),
    "skips one layer": SkipOne,
    "norm after addition": NormAfterAddition,
    "no ReLU after addition": NoReluAfterAddition,
    "pre-activation": PreActivation,
}


def conclude(results: Results) -> list[Conclusion]:
    """Each statement as a comparison of mean training errors."""
    compare = partial(compared, results)
    resnet, pre = "He et al. 2015, section 4.1, table 3", "He et al. 2016, section 3.1, table 1"
    return [
        *(
            compare(option, "plain", f"option {option} trains better than no shortcut", resnet)
            for option in "ABC"
        ),
        compare("A", "gates from 0", "identity trains better than a gate", pre, "6.61 and 9.81%"),
        compare(
            "A",
            "skips one layer",
            "a shortcut over two layers trains better than one over each layer",
            "lecture 004",
            "two is the key",
        ),
        compare(
            "A",
            "norm after addition",
            "batch norm before the addition trains better than after it",
            "the Torch blog, 2016; He et al. 2016, table 2 (6.61 and 8.17%)",
            "worse when after",
        ),
    ]


STUDY = Study(
    name="shortcut",
    title="Identity shortcuts over two layers suffice",
    source="He et al. 2015, table 3; He et al. 2016, tables 1 and 2; the Torch blog, 2016",
    question="Which shortcut, gate, span and order of layers trains best?",
    varies="the block of a 32-layer net",
    held="depth, width, pictures and recipe",
    measures=ERRORS,
    curves=ERROR_CURVES,
    settings={
        "small": small_cifar(
            arms=tuple(Arm(name, net(block, DEPTH, width=8)) for name, block in BLOCKS.items()),
            departures=("32 layers; the papers: 34 on ImageNet (options), 110 (gates and orders)",),
            minutes="12 minutes on 2 cores",
        )
    },
    trial=train_and_score,
    conclude=conclude,
)
