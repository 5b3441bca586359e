"""Momentum, batch size and learning rate, one at a time.

Lecture 002, optimization: SGD with momentum; the learning rate decides first; larger batches take
fewer, surer steps.
"""

from __future__ import annotations

from functools import partial

from deepen.studies.bench import train_and_score
from deepen.studies.networks import net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import ERRORS, Arm, Conclusion, Results, Study, compared

NET = net(paper_block("A"), 20, width=8)
CHANGES = {
    "as usual": {},
    "no momentum": {"optimizer.momentum": 0.0},
    "no momentum, 10 x rate": {"optimizer.momentum": 0.0, "optimizer.lr": 0.5},
    "Nesterov": {"optimizer.nesterov": True},
    "batch 16": {"batch_size": 16},
    "batch 256": {"batch_size": 256},
    "batch 256, 4 x rate": {"batch_size": 256, "optimizer.lr": 0.2},
    "rate 0.005": {"optimizer.lr": 0.005},
    "rate 0.5": {"optimizer.lr": 0.5},
}


def conclude(results: Results) -> list[Conclusion]:
    """Statements of the lecture as comparisons of mean training errors."""
    compare = partial(compared, results)
    lecture, goyal = "lecture 002, optimization", "Goyal et al. 2017, section 2.1"
    return [
        compare("as usual", "no momentum", "momentum 0.9 trains faster than none", lecture),
        compare(
            "as usual",
            "no momentum, 10 x rate",
            "momentum 0.9 trains faster than ten times the rate without it",
            lecture,
        ),
        compare(
            "Nesterov",
            "as usual",
            "Nesterov's momentum trains faster than the usual",
            "Sutskever et al. 2013, section 2",
        ),
        compare("as usual", "rate 0.005", "a tenth of the rate is slower", lecture),
        compare("as usual", "rate 0.5", "ten times the rate is worse", lecture),
        compare("batch 16", "batch 256", "more, smaller steps train faster by passes", lecture),
        compare(
            "batch 256, 4 x rate",
            "batch 256",
            "a larger batch wants a rate that is larger by as much",
            goyal,
        ),
    ]


STUDY = Study(
    name="optimization",
    title="Momentum, batch size and learning rate",
    source="lecture 002, optimization",
    question="What does each of them do to training at equal passes?",
    varies="one setting of SGD at a time",
    held="ResNet-20, pictures, passes",
    measures=ERRORS,
    curves={"train_error": "training error, %"},
    bars="train_error",
    settings={
        "small": small_cifar(
            epochs=10,
            arms=tuple(Arm(name, NET, changes) for name, changes in CHANGES.items()),
            departures=("the lecture states it without an experiment: the net is ours to choose",),
            minutes="3 minutes on 2 cores",
        )
    },
    trial=train_and_score,
    conclude=conclude,
)
