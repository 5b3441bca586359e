"""A deeper net by construction: layers that copy their input, appended to a trained net.

He et al. 2015, section 1: "There exists a solution by construction to the deeper model: the added
layers are identity mapping, and the other layers are copied from the learned shallower model." So a
deeper net need not be worse in training error; that solvers find nothing as good is the paper's
argument for residual learning. The lectures repeat it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from deepen.models.resnet import BasicBlock
from deepen.studies.bench import Bench
from deepen.studies.networks import StudyNet, net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import (
    Arm,
    Conclusion,
    Measure,
    Results,
    Study,
    Trial,
    judged,
)

SHALLOW, DEEP, WIDTH = 20, 56, 8
BLOCKS = (DEEP - SHALLOW) // 6  # appended to each of the three stages


def trial(bench: Bench) -> Trial:
    """Train the shallow net; append identity blocks; score; train on; and a deep net afresh."""
    first = bench.train("shallow")
    shallow = first.network
    assert isinstance(shallow, StudyNet)
    deep = deepened(shallow, bench.arm.name == "residual")
    model = f"{__name__}:{bench.arm.name}56"
    images, _ = bench.batch(64)
    with torch.no_grad():
        moved = (deep.eval()(images) - shallow.eval()(images)).abs().max().item()
    measures = {
        "shallow": bench.error(shallow, "train"),
        "constructed": bench.error(deep, "train"),
        "largest change of a logit": moved,
    }
    on = bench.train("constructed, trained on", model=model, start=deep)
    measures["trained on"] = bench.error(on.network, "train")
    longer = {"length.epochs": 2 * (bench.recipe().length.epochs or 1)}
    scratch = bench.train("from scratch, as long in all", longer, model=model)
    measures["from scratch"] = bench.error(scratch.network, "train")
    steps = first.rows[-1]["step"] or 0
    return bench.trial(
        measures=measures,
        curves={
            "constructed": [
                *first.curve("train_top1"),
                *((step + steps, error) for step, error in on.curve("train_top1")),
            ],
            "from scratch": scratch.curve("train_top1"),
        },
    )


def deepened(shallow: StudyNet, residual: bool) -> StudyNet:
    """The same function with `BLOCKS` more blocks in each stage, none of which does anything yet.

    A plain block copies its input, which is never negative: both its convolutions pass each map on
    through their middle tap, and batch norm's statistics are 0 and 1, so in evaluation nothing
    changes. A residual block adds zero: the scale of its last batch norm is 0.
    """
    deep = copy.deepcopy(shallow)
    for stage in deep.stages:
        last = stage[-1]
        assert isinstance(last, BasicBlock)
        maps = last.conv2.out_channels
        for _ in range(BLOCKS):
            stage.append(_idle(maps, residual).to(last.conv2.weight))
    return deep.to(memory_format=torch.channels_last)


def _idle(maps: int, residual: bool) -> BasicBlock:
    block = BasicBlock(maps, maps, 1, "A" if residual else None)
    if residual:
        nn.init.kaiming_normal_(block.conv1.weight)
        nn.init.kaiming_normal_(block.conv2.weight)
        nn.init.zeros_(block.bn2.weight)
        return block
    for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        nn.init.dirac_(conv.weight)
        norm.running_mean.zero_()  # type: ignore[union-attr]
        norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
    return block


def plain56(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> nn.Module:
    """The deep plain net, as a model by name."""
    return net(paper_block(None), DEEP, WIDTH)(num_classes, in_channels, input_size)


def residual56(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> nn.Module:
    """The deep residual net, as a model by name."""
    return net(paper_block("A"), DEEP, WIDTH)(num_classes, in_channels, input_size)


def conclude(results: Results) -> list[Conclusion]:
    """The error stays by construction; what training makes of it."""
    source = "He et al. 2015, section 1"
    found = []
    for arm in results.arms():
        before, after = results.mean(arm, "shallow"), results.mean(arm, "constructed")
        on, scratch = results.mean(arm, "trained on"), results.mean(arm, "from scratch")
        if before != before:
            continue
        shallow, built = (results.by_seed(arm, name) for name in ("shallow", "constructed"))
        found += [
            judged(
                f"the constructed {arm} net has the shallow net's training error",
                source,
                "no higher training error than its shallower counterpart",
                f"{before:.2f}% and {after:.2f}%",
                abs(after - before) < 0.05,
            ).feeding(
                f"construction-{arm}" if arm == "plain" else "",
                "training error of the constructed net over the shallow net's, points",
                {seed: built[seed] - shallow[seed] for seed in built},
            ),
            judged(
                f"trained from scratch as long, the deep {arm} net does not reach the constructed "
                "one trained on",
                source,
                "solvers are unable to find solutions that are comparably good (plain nets)",
                f"{scratch:.1f}% from scratch, {on:.1f}% constructed",
                scratch > on,
            ),
        ]
    return found


SMALL = small_cifar(
    epochs=12,
    arms=(
        Arm("plain", net(paper_block(None), SHALLOW, WIDTH)),
        Arm("residual", net(paper_block("A"), SHALLOW, WIDTH)),
    ),
    departures=(
        "the paper gives the argument and no experiment: nets, data and lengths are ours",
        "20 layers are made 56; 12 passes for the shallow net and 12 more for the constructed one, "
        "24 for the deep one from scratch",
    ),
    minutes="6 minutes on 2 cores",
)
STUDY = Study(
    name="construction",
    title="A deeper net by construction is as good; training does not find it",
    source="He et al. 2015, section 1",
    question="Identity layers appended to a trained net leave its error as it is, so a deeper net "
    "need not be worse. Does training find as good a one?",
    varies="plain against residual blocks",
    held="pictures, recipe, the number of passes in all",
    measures=(
        Measure("shallow", "training error of 20 layers, %", of="train"),
        Measure("constructed", "of 56, constructed, %", of="train"),
        Measure("largest change of a logit", "largest change of a logit", 7),
        Measure("trained on", "constructed, trained on, %", of="train"),
        Measure("from scratch", "56 layers from scratch, %", of="train"),
    ),
    curves={
        "constructed": "training error, shallow then constructed, %",
        "from scratch": "training error of 56 layers from scratch, %",
    },
    settings={"small": SMALL},
    trial=trial,
    conclude=conclude,
)
