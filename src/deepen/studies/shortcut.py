"""What the shortcut has to be: identity suffices, gates do not help, two layers are the key.

He et al. 2015, section 4.1, table 3 (options A, B, C); He et al. 2016, section 3.1, table 1
(gates); the Torch blog, "Training and investigating residual nets", 2016 (order of layers in a
block); lecture 004 (skipping one layer).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from deepen.models.preresnet import PreResNet, Variant, two_convolutions
from deepen.studies.bench import train_and_score
from deepen.studies.blocks import NoReluAfterAddition, NormAfterAddition, SkipOne, gated
from deepen.studies.networks import net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import ERROR_CURVES, ERRORS, Arm, Conclusion, Results, Study, compared

DEPTH, WIDTH = 32, 8
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
}


def pre_activation(classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """The pre-activation net of the same depth and width, with the last unit's activation."""
    maps, n = (WIDTH, 2 * WIDTH, 4 * WIDTH), (DEPTH - 2) // 6
    return PreResNet(Variant(two_convolutions, (n, n, n), maps, "A", WIDTH), classes, channels)


ARMS = (
    *(Arm(name, net(block, DEPTH, WIDTH)) for name, block in BLOCKS.items()),
    Arm("pre-activation", pre_activation),
)


def conclude(results: Results) -> list[Conclusion]:
    """Each statement as a comparison of training errors, seed by seed."""
    compare = partial(compared, results)
    resnet = "He et al. 2015, section 4.1, table 3"
    gates, order = ("He et al. 2016, section 3.1, table 1", "He et al. 2016, section 4.1, table 2")
    printed = {"A": "25.03", "B": "24.52", "C": "24.19"}
    return [
        *(
            compare(
                option,
                "plain",
                f"option {option} trains better than no shortcut",
                resnet,
                f"{value} against 28.54% (ImageNet, 34 layers, test)",
            )
            for option, value in printed.items()
        ),
        compare(
            "B",
            "A",
            "projections where the shape changes (B) train better than zero maps (A)",
            resnet,
            "24.52 against 25.03%: slightly better",
        ),
        *(
            compare(
                "A",
                gate,
                f"identity trains better than {gate}",
                gates,
                "6.61 against 8.70% at best (CIFAR-10, 110 layers, test)",
            )
            for gate in ("gates from 0", "gates from -2")
        ),
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
            f"the Torch blog, 2016; {order}",
            "6.61 against 8.17%",
        ),
        compare(
            "no ReLU after addition",
            "A",
            "without ReLU after the addition it trains better",
            "the Torch blog, 2016",
            "slightly better",
        ),
        compare(
            "pre-activation",
            "A",
            "pre-activation trains better than the original order",
            order,
            "6.37 against 6.61%",
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
    bars="train_error",
    settings={
        "small": small_cifar(
            arms=ARMS,
            departures=("32 layers; the papers: 34 on ImageNet (options), 110 (gates and orders)",),
            minutes="7 minutes on 2 cores",
        )
    },
    trial=train_and_score,
    conclude=conclude,
)
