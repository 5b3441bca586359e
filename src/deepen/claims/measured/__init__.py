"""Training results of ours, one a file: the command, the protocol, and each seed's figure.

Those of a study are what `deepen study` wrote beside its table.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from statistics import mean

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepen.errors import InputError, first_problem
from deepen.evaluation.intervals import over_seeds


class Run(BaseModel):
    """One training: its seed and what came out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    value: float


class Result(BaseModel):
    """A figure that we measured.

    Attributes:
        network: by its name in deepen, or those that were compared.
        quantity: what was measured, with its unit.
        data: on what.
        fingerprint: of its files.
        command: that does it again; SEED stands for the seeds of `runs`.
        protocol: in words.
        settings: how they were chosen.
        machine: that it ran on.
        torch: its version.
        date: of the last run.
        runs: all that were made, none left out.
        pictures: of which each value is a share, in %; None where it is no share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    quantity: str
    data: str
    fingerprint: str
    command: str
    protocol: str
    settings: str
    machine: str
    torch: str
    date: str
    runs: tuple[Run, ...] = Field(min_length=1)
    pictures: int | None = None

    def __str__(self) -> str:
        values = [run.value for run in self.runs]
        seeds = ", ".join(str(run.seed) for run in self.runs)
        if len(values) == 1:
            return f"{values[0]:g} (seed {seeds})"
        told = f"{min(values):g} to {max(values):g}; seeds {seeds}"
        if self.pictures is not None:
            found = over_seeds([value / 100 for value in values], self.pictures)
            low, high, chance = (100 * each for each in (found.low, found.high, found.by_chance))
            told += f"; 95% interval {low:.2f} to {high:.2f}, n {self.pictures:,}; "
            told += f"by n ± {chance:.2f}"
        return f"{mean(values):.2f} ({told})"


@cache
def result(name: str) -> Result:
    """A measured result by the name of its file.

    Raises:
        InputError: there is none, or it is not whole.
    """
    file = resources.files(__name__).joinpath(f"{name}.json")
    try:
        return Result.model_validate_json(file.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"no measured result {name!r}") from None
    except ValidationError as error:
        raise InputError(f"measured/{name}.json: {first_problem(error, Result)}") from error
