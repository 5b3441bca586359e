"""Plain against residual nets as they get deeper: do plain nets get worse, and residual nets not?

He et al. 2015, section 4.2: figure 6 (training and test error against iterations), table 6 (test
error), figure 7 (responses of the layers).
"""

from __future__ import annotations

from deepen.studies.bench import Bench, scored
from deepen.studies.networks import net, paper_block
from deepen.studies.responses import layer_profiles
from deepen.studies.small import small_cifar
from deepen.studies.study import (
    ERROR_CURVES,
    ERRORS,
    Arm,
    Conclusion,
    Pictures,
    Published,
    Results,
    Setting,
    Study,
    Trial,
    judged,
    named,
)


def trial(bench: Bench) -> Trial:
    """Train, then look at each layer's responses and gradients on 128 training pictures."""
    images, labels = bench.batch(128)
    before = layer_profiles(bench.build(), images, labels)
    fitted = bench.train()
    done = scored(bench, fitted)
    after = layer_profiles(fitted.network, images, labels)
    done.profiles = {
        "response": after["response"],
        "gradient": after["gradient"],
        "gradient at the start": before["gradient"],
    }
    return done


def conclude(results: Results) -> list[Conclusion]:
    """Errors with depth, within plain nets, within residual ones, and between them."""
    error = {arm: results.mean(arm, "train_error") for arm in results.arms()}
    small, large = _ends(results, "plain"), _ends(results, "resnet")
    if any(arm not in error or error[arm] != error[arm] for arm in (*small, *large)):
        return []
    shallow, deep = small
    residual, deep_residual = large
    gap, residual_gap = error[deep] - error[shallow], error[deep_residual] - error[residual]
    source = "He et al. 2015, section 4.2, figure 6"
    return [
        judged(
            f"training error rises with depth in plain nets: {deep} is at least 10 points over "
            f"{shallow}",
            f"{source}, left",
            "plain-56 lies above plain-20",
            f"{error[shallow]:.1f}% and {error[deep]:.1f}%: {gap:+.1f} points",
            gap >= 10,
        ).feeding(
            "plain-worse",
            f"training error of {deep} over {shallow}, points",
            results.over(deep, shallow, "train_error"),
        ),
        judged(
            "residual nets lose at most half as much with depth",
            f"{source}, middle",
            "ResNet-56 lies under ResNet-20",
            f"{error[residual]:.1f}% and {error[deep_residual]:.1f}%: {residual_gap:+.1f} points",
            residual_gap <= gap / 2,
        ),
        judged(
            f"{deep_residual} trains to a smaller error than {shallow}",
            f"{source}, left and middle",
            "so it does",
            f"{error[deep_residual]:.1f}% against {error[shallow]:.1f}%",
            results.less(deep_residual, shallow, "train_error"),
        ),
        judged(
            "residual nets themselves gain from depth",
            f"{source}, middle; table 6",
            "8.75% to 6.97% test error from 20 to 56 layers",
            f"training error {residual_gap:+.1f} points from {residual} to {deep_residual}",
            results.less(deep_residual, residual, "train_error"),
        ),
        _responses(results, shallow, deep_residual),
    ]


def _responses(results: Results, plain: str, residual: str) -> Conclusion:
    """Figure 7: the residual functions are closer to zero than the plain net's layers."""

    def spread(arm: str) -> float:
        found = [t.profiles["response"] for t in results.trials if t.arm == arm and t.profiles]
        return sum(sum(profile) / len(profile) for profile in found) / len(found)

    one, other = spread(plain), spread(residual)
    return judged(
        "residual nets have generally smaller responses than plain ones",
        "He et al. 2015, section 4.2, figure 7",
        "smaller in ResNet-20, 56 and 110 than in plain-20 and 56; the deeper, the smaller",
        f"mean standard deviation {other:.2f} in {residual}, {one:.2f} in {plain}",
        other < one,
    )


def _ends(results: Results, family: str) -> tuple[str, str]:
    """The 20-layer net and the 56-layer net of a family."""
    return f"{family}20", f"{family}56"


SMALL = small_cifar(
    arms=tuple(
        Arm(f"{family}{depth}", net(block, depth, width=8))
        for family, block in (("plain", paper_block(None)), ("resnet", paper_block("A")))
        for depth in (20, 56)
    ),
    departures=(
        "18 passes show that deep plain nets are slow to optimise, not what they converge to",
    ),
    minutes="6 minutes on 2 cores",
)
FULL = Setting(
    pictures=Pictures("cifar10"),
    recipe="resnet-cifar",
    changes={},
    arms=tuple(
        named(
            f"{family}{depth}",
            f"{family}{depth}",
            {"schedule.warmup_steps": 400, "schedule.warmup": "constant"} if depth == 110 else {},
        )
        for family in ("plain", "resnet")
        for depth in (20, 32, 44, 56, 110)
    ),
    departures=("trained on all 50,000 pictures; the paper holds out 5,000 to choose settings on",),
    minutes="an hour on a large GPU",
)
PUBLISHED = tuple(
    Published(f"resnet{depth}", "test_error", value, "He et al. 2015, table 6")
    for depth, value in ((20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (110, 6.61))
)
STUDY = Study(
    name="depth",
    title="Deeper: plain nets against residual nets",
    source="He et al. 2015, section 4.2, figures 6 and 7, table 6",
    question="Is a deeper net harder to train, and do identity shortcuts mend it?",
    varies="the depth, and whether blocks have a shortcut (option A: both kinds have the same "
    "number of parameters)",
    held="pictures, recipe, batch order, augmentation and initial weights' distribution",
    measures=ERRORS,
    curves=ERROR_CURVES,
    settings={"small": SMALL, "full": FULL},
    trial=trial,
    conclude=conclude,
    published=PUBLISHED,
)
