"""What a study is: what varies, what is held, what is measured, and what is concluded from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import nn

from deepen.evaluation.intervals import OverSeeds, over_seeds
from deepen.models import create_model, get_architecture
from deepen.models.architecture import Takes

if TYPE_CHECKING:
    from deepen.studies.bench import Bench

Build = Callable[[int, int, tuple[int, int]], nn.Module]
"""Called with the number of classes, the channels and the size (height, width) of the input."""


@dataclass(frozen=True)
class Pictures:
    """A data set and how many of its pictures are taken, evenly by a fixed hash; None: all."""

    name: str
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
        name: in tables and figures.
        build: makes the network; None where the trial needs no network to begin with.
        changes: of the setting's recipe, {"optimizer.lr": 0.1} say.
        takes: what the network takes, where it is particular.
        model: its name, where it has one.
    """

    name: str
    build: Build | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    takes: Takes | None = None
    model: str | None = None


def named(name: str, model: str, changes: Mapping[str, Any] | None = None) -> Arm:
    """An arm with a network of the registry, or `package.module:factory`."""
    takes = None if ":" in model else get_architecture(model).takes
    return Arm(name, lambda *what: create_model(model, *what), changes or {}, takes, model)


@dataclass(frozen=True)
class Setting:
    """A size that a study is done at.

    Attributes:
        pictures: that it is done on.
        recipe: that is held, by its name.
        changes: of that recipe, for all arms.
        arms: what varies.
        departures: from the paper, each in a line.
        minutes: that a seed takes, and where.
    """

    pictures: Pictures
    recipe: str
    changes: Mapping[str, Any]
    arms: tuple[Arm, ...]
    departures: tuple[str, ...] = ()
    minutes: str = ""


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        name: in a trial.
        label: what it is.
        decimals: how many are shown.
        of: the pictures that it is a share of, in %; "" where it is none.
    """

    name: str
    label: str
    decimals: int = 1
    of: Literal["train", "test", ""] = ""


ERRORS = (
    Measure("train_error", "training error, %", of="train"),
    Measure("test_error", "test error, %", of="test"),
)
ERROR_CURVES = {measure.name: measure.label for measure in ERRORS}


@dataclass(frozen=True)
class Published:
    """A value that the paper prints for an arm; drawn over the curves and put into the table."""

    arm: str
    measure: str
    value: float
    source: str


class Trial(BaseModel):
    """What one arm gave with one seed.

    Attributes:
        arm: its name.
        seed: of weights, order and augmentation.
        measures: the figures of the table.
        curves: by name, points (steps, value).
        profiles: by name, a value for each layer from the input on.
        seconds: that it took.
        failed: why there are no figures, where it failed.
    """

    model_config = ConfigDict(extra="forbid")

    arm: str
    seed: int
    measures: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    profiles: dict[str, list[float]] = {}
    seconds: float = 0.0
    failed: str | None = None


class Conclusion(BaseModel):
    """A statement of the paper or the lecture against what was measured.

    Attributes:
        statement: what they say.
        source: where.
        printed: the figure or the words there.
        found: ours, in words.
        verdict: whether it holds in our setting; seeds disagree: with some and not with others.
        claim: of the ledger that this answers, "" for none.
        quantity: what `figures` are, with their unit.
        figures: of each seed, for the ledger.
    """

    statement: str
    source: str
    printed: str
    found: str
    verdict: Literal["holds", "does not hold", "seeds disagree", "not measured"]
    claim: str = ""
    quantity: str = ""
    figures: dict[int, float] = {}

    def feeding(self, claim: str, quantity: str, figures: Mapping[int, float]) -> Conclusion:
        """The same, as an answer to a claim of the ledger."""
        rounded = {seed: round(value, 4) for seed, value in figures.items()}
        update = {"claim": claim, "quantity": quantity, "figures": rounded}
        return self.model_copy(update=update)


class Results(BaseModel):
    """All that a study gave; tables, figures and pages are made of it and of nothing else.

    Attributes:
        study: its name.
        setting: small or full, or "own".
        about: provenance: command, data and their fingerprint, recipes, machine, versions, dates.
        trials: every one, failed ones too.
        conclusions: drawn from them.
    """

    study: str
    setting: str
    about: dict[str, Any]
    trials: list[Trial]
    conclusions: list[Conclusion] = []

    def arms(self) -> list[str]:
        """Their names, in the order of the study."""
        return list(dict.fromkeys(trial.arm for trial in self.trials))

    def by_seed(self, arm: str, measure: str) -> dict[int, float]:
        """A measure of an arm, of each seed that gave it."""
        return {
            t.seed: t.measures[measure]
            for t in self.trials
            if t.arm == arm and measure in t.measures
        }

    def of(self, arm: str, measure: str) -> list[float]:
        """A measure of an arm, one value for each seed that gave it."""
        return list(self.by_seed(arm, measure).values())

    def mean(self, arm: str, measure: str) -> float:
        """Over the seeds; NaN where no trial gave it."""
        values = self.of(arm, measure)
        return mean(values) if values else float("nan")

    def over(self, one: str, other: str, measure: str) -> dict[int, float]:
        """A measure of one arm less that of another, of each seed that gave both."""
        above, below = self.by_seed(one, measure), self.by_seed(other, measure)
        return {seed: above[seed] - below[seed] for seed in above if seed in below}

    def less(self, one: str, other: str, measure: str) -> list[bool]:
        """Whether it is less for one arm than for another, of each seed that gave both."""
        return [difference < 0 for difference in self.over(one, other, measure).values()]

    def pictures(self, measure: Measure) -> int:
        """How many a measure is a share of; 0 where it is none."""
        return self.about.get(measure.of, 0)

    def belief(self, arm: str, measure: Measure) -> OverSeeds | None:
        """How far a share of pictures can be believed; None of what is none."""
        values, n = self.of(arm, measure.name), self.pictures(measure)
        return over_seeds([value / 100 for value in values], n) if values and n else None

    def cell(self, arm: str, measure: Measure) -> str:
        """Mean and standard deviation over the seeds, as a table has them.

        Of a share of pictures the 95% interval, too, and the deviation by their number alone.
        """
        values, points = self.of(arm, measure.name), f".{measure.decimals}f"
        if not values:
            return "–"
        text = f"{mean(values):{points}}"
        if len(set(values)) > 1:  # else one seed, or a count that no seed changes
            text += f" ± {stdev(values):{points}}"
        if (found := self.belief(arm, measure)) is None:
            return text
        low, high, chance = (100 * each for each in (found.low, found.high, found.by_chance))
        return f"{text} ({low:{points}} to {high:{points}}; {chance:{points}})"


@dataclass(frozen=True)
class Study:
    """An experiment of a paper.

    Attributes:
        name: after `deepen study`.
        title: in a line.
        source: paper and section.
        question: what it shows, in a sentence or two.
        varies: what differs between arms.
        held: what does not.
        measures: columns of the table.
        curves: which of a trial's curves are drawn, with the label of the axis.
        bars: which measure is drawn as a bar for each arm, "" for none.
        settings: "small" for two cores, "full" as the paper has it.
        trial: does one arm with one seed.
        conclude: what follows.
        published: values of the paper.
        seeds: how many are usual.
    """

    name: str
    title: str
    source: str
    question: str
    varies: str
    held: str
    measures: tuple[Measure, ...]
    settings: Mapping[str, Setting]
    trial: Callable[[Bench], Trial]
    conclude: Callable[[Results], list[Conclusion]]
    curves: Mapping[str, str] = field(default_factory=dict)
    bars: str = ""
    published: tuple[Published, ...] = ()
    seeds: int = 3


def judged(
    statement: str, source: str, printed: str, found: str, holds: bool | list[bool]
) -> Conclusion:
    """A conclusion; `holds` of the means, or of each seed, and [] where trials are missing."""
    said = holds if isinstance(holds, list) else [holds]
    if not said:
        verdict = "not measured"
    elif all(said):
        verdict = "holds"
    else:
        verdict = "seeds disagree" if any(said) else "does not hold"
    return Conclusion(
        statement=statement, source=source, printed=printed, found=found, verdict=verdict
    )


def compared(
    results: Results, better: str, worse: str, statement: str, source: str, printed: str = ""
) -> Conclusion:
    """Whether one arm's training error is smaller than another's with every seed."""
    one, other = results.mean(better, "train_error"), results.mean(worse, "train_error")
    holds = results.less(better, worse, "train_error")
    found = (
        f"training error {one:.1f}% ({better}) against {other:.1f}% ({worse}), less with "
        f"{sum(holds)} of {len(holds)} seeds"
        if holds
        else ""
    )
    return judged(statement, source, printed, found, holds)
