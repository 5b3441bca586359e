"""How the weights begin, with depth, with and without batch norm.

Lecture 002: weights N(0, 1/n) or N(0, 2/n) (He et al. 2015b, section 2.2), constant ones, biases 0
or 0.01. He et al. 2015b, figure 3: a 30-layer net without batch norm trains with 2/n, not with
Glorot's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from deepen.layers import init_fan_in, init_he, init_normal
from deepen.studies.bench import train_and_score
from deepen.studies.blocks import Unnormalized
from deepen.studies.networks import Block, net, paper_block
from deepen.studies.small import small_cifar
from deepen.studies.study import ERRORS, Arm, Build, Conclusion, Results, Study, judged

BIAS = 0.01


def constant(module: nn.Module) -> None:
    """Every weight 0.01: all maps of a layer are and stay alike."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.constant_(module.weight, 0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def he_with_bias(module: nn.Module) -> None:
    """N(0, 2/n), biases 0.01."""
    init_he(module)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.constant_(module.bias, BIAS)


STARTS: dict[str, Callable[[nn.Module], None]] = {
    "2/n": init_he,
    "1/n": init_fan_in,
    "N(0, 0.01^2)": init_normal,
    "constant": constant,
    "2/n, biases 0.01": he_with_bias,
}


SCALES = list(STARTS)[:3]
DEPTHS = (8, 32)


def started(build: Build, start: Callable[[nn.Module], None]) -> Build:
    """A network whose weights begin otherwise."""
    return lambda *what: build(*what).apply(start)


def _arms() -> tuple[Arm, ...]:
    kinds: dict[str, tuple[Block, bool]] = {
        "no norm": (Unnormalized, False),
        "batch norm": (paper_block(None), True),
    }
    arms = []
    for kind, (block, norm) in kinds.items():
        for depth in DEPTHS:
            for name, start in STARTS.items():
                if norm and "biases" in name:
                    continue  # its convolutions have none
                build = started(net(block, depth, width=8, stem_norm=norm), start)
                changes = {} if norm else {"optimizer.lr": 0.01, "clip_norm": 1.0}
                arms.append(Arm(f"{kind}, {depth} layers, {name}", build, changes))
    return tuple(arms)


def conclude(results: Results) -> list[Conclusion]:
    """What trains deep, with and without batch norm; 90% is chance."""
    wanted = {arm.name for arm in _arms()}
    error = {arm: results.mean(arm, "train_error") for arm in wanted}
    if any(value != value for value in error.values()):
        return []

    def spread(kind: str, depth: int) -> float:
        errors = [error[f"{kind}, {depth} layers, {start}"] for start in SCALES]
        return max(errors) - min(errors)

    def both(one: str, other: str) -> str:
        return f"{error[one]:.1f}% against {error[other]:.1f}% training error"

    he, fan_in = "no norm, 32 layers, 2/n", "no norm, 32 layers, 1/n"
    alike, normed = "batch norm, 8 layers, constant", "batch norm, 8 layers, 2/n"
    tilted, level = "no norm, 8 layers, 2/n, biases 0.01", "no norm, 8 layers, 2/n"
    return [
        judged(
            "without batch norm a deep net trains with 2/n and not with 1/n",
            "He et al. 2015b, section 2.2, figure 3",
            "30 layers: 2/n converges, Glorot's stalls",
            f"32 layers: {both(he, fan_in)}",
            error[he] < error[fan_in] - 5,
        ),
        judged(
            "with batch norm the scale of the start matters less",
            "He et al. 2015, section 4.1 (batch norm ensures healthy signals)",
            "not stated in numbers",
            "spread over three scales, with and without, in points: "
            + "; ".join(
                f"{depth} layers {spread('batch norm', depth):.1f} and "
                f"{spread('no norm', depth):.1f}"
                for depth in DEPTHS
            ),
            all(spread("batch norm", depth) < spread("no norm", depth) for depth in DEPTHS),
        ),
        judged(
            "a constant start does not break the symmetry",
            "lecture 002, weight initialization",
            "not stated in numbers",
            f"8 layers with batch norm: {both(alike, normed)}",
            error[alike] > error[normed] + 5,
        ),
        judged(
            "biases of 0.01 do as well as 0, within 2 points",
            "lecture 002, weight initialization",
            "0 or 0.01",
            f"8 layers without batch norm: {both(tilted, level)}",
            abs(error[tilted] - error[level]) < 2,
        ),
    ]


STUDY = Study(
    name="initialization",
    title="Deep nets without batch norm need weights of variance 2/n",
    source="He et al. 2015b, section 2.2; lecture 002",
    question="Which initial weights train 8 and 32 layers, with and without batch norm?",
    varies="the distribution of the initial weights, depth, batch norm",
    held="pictures and recipe; nets without batch norm at a tenth of the learning rate, clipped",
    measures=ERRORS,
    bars="train_error",
    settings={
        "small": small_cifar(
            epochs=6,
            arms=_arms(),
            departures=("plain nets of ours; the paper: 22 and 30 layers on ImageNet",),
            minutes="3 minutes on 2 cores",
        )
    },
    trial=train_and_score,
    conclude=conclude,
)
