"""Delete one block from a trained net: a plain net breaks, a residual net hardly notices.

Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow
networks", section 4.1, figure 3: deleting single modules of a 110-layer ResNet on CIFAR-10 leaves
its error, but for those that change the shape; deleting any layer of VGG leaves chance.
"""

from __future__ import annotations

import copy

from torch import nn

from deepen.studies.bench import Bench
from deepen.studies.networks import StudyNet, net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import Arm, Conclusion, Measure, Results, Study, Trial, judged


def trial(bench: Bench) -> Trial:
    """Train; then score with each block that keeps the shape taken out in turn."""
    trained = bench.train()
    network = trained.network
    assert isinstance(network, StudyNet)
    whole = bench.error(network, "test")
    errors = [bench.error(lesioned, "test") for lesioned in without_each(network)]
    return bench.trial(
        measures={
            "test_error": whole,
            "mean without a block": sum(errors) / len(errors),
            "worst without a block": max(errors),
        },
        curves={"train_error": trained.curve("train_top1")},
        profiles={"test error without this block, %": errors},
    )


def without_each(network: StudyNet) -> list[StudyNet]:
    """Copies, each without one block whose input and output have the same shape."""
    copies = []
    for stage, blocks in enumerate(network.stages):
        first = 0 if stage == 0 else 1  # the first block of the others changes the shape
        for place in range(first, len(blocks)):
            lesioned = copy.deepcopy(network)
            lesioned.stages[stage][place] = nn.Identity()
            copies.append(lesioned)
    return copies


def conclude(results: Results) -> list[Conclusion]:
    """How much one block matters, in plain and residual nets."""
    loss = {
        arm: results.mean(arm, "mean without a block") - results.mean(arm, "test_error")
        for arm in results.arms()
    }
    plain, residual = loss.get("plain", float("nan")), loss.get("residual", float("nan"))
    known = plain == plain and residual == residual
    return [
        judged(
            "without one block a residual net loses far less than a plain one",
            "Veit et al. 2016, section 4.1, figure 3",
            "residual: hardly anything; plain (VGG): all",
            f"{residual:+.1f} points of test error on average, against {plain:+.1f}",
            residual < plain / 2 if known else [],
        )
    ]


STUDY = Study(
    name="lesion",
    title="Without one block a plain net breaks, a residual net hardly notices",
    source="Veit et al. 2016, section 4.1, figure 3",
    question="How much does a single block matter once a net is trained?",
    varies="plain against residual blocks, and which block is taken out",
    held="layers, width, pictures and recipe",
    measures=(
        Measure("test_error", "test error, %", of="test"),
        Measure("mean without a block", "mean without a block, %", of="test"),
        Measure("worst without a block", "worst, %"),
    ),
    curves={"train_error": "training error, %"},
    settings={
        "small": small_cifar(
            arms=(
                Arm("plain", net(paper_block(None), 32, width=8)),
                Arm("residual", net(paper_block("A"), 32, width=8)),
            ),
            departures=("32 layers; the paper: 110, and VGG for the plain net",),
            minutes="3 minutes on 2 cores",
        )
    },
    trial=trial,
    conclude=conclude,
)
