"""A study of the user's own: a YAML file of networks, recipes and what is expected of them.

    title: Larger batches on the digits
    question: Does a larger batch cost accuracy at equal passes?
    data: {name: digits, train: 500}
    recipe: quick
    set: {length.epochs: 10}
    nets: {lenet: lenet5, residual: resnet20}
    recipes: {small: {batch_size: 32}, large: {batch_size: 256}}
    seeds: 3
    expect:
      - {better: lenet small, worse: lenet large, measure: test_error, by: 0.5, source: my guess}

Every network is trained by every recipe with every seed: the arms are "lenet small", "lenet large"
and so on; without `recipes` they have the networks' names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepen.errors import InputError, first_problem, unknown
from deepen.files import read_yaml
from deepen.models import get_architecture
from deepen.studies.bench import train_and_score
from deepen.studies.study import (
    ERROR_CURVES,
    ERRORS,
    Arm,
    Conclusion,
    Pictures,
    Results,
    Setting,
    Study,
    judged,
    named,
)
from deepen.training.recipe import load_recipe


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Data(_Block):
    name: str
    train: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)


class _Expectation(_Block):
    """`better` is smaller than `worse` in `measure`, by at least `by` points."""

    better: str
    worse: str
    measure: Literal["train_error", "test_error"] = "test_error"
    by: float = 0.0
    source: str = "own"


class _Own(_Block):
    title: str
    question: str = ""
    data: _Data
    recipe: str
    set: dict[str, Any] = {}
    nets: dict[str, str] = Field(min_length=1)
    recipes: dict[str, dict[str, Any]] = {}
    seeds: int = Field(default=3, ge=1)
    expect: list[_Expectation] = []


def read_study(path: Path) -> Study:
    """A study from its file.

    Raises:
        InputError: it cannot be read, or says something that there is not; names the field.
    """
    try:
        fields = read_yaml(path)
        if not isinstance(fields, dict):
            raise InputError(f"{path}: is no mapping of keys to values")
        own = _Own.model_validate(fields)
    except InputError as error:
        raise InputError(f"study {error}") from error
    except ValidationError as error:
        raise InputError(f"study {path}: {first_problem(error, _Own)}") from error
    for model in own.nets.values():
        if ":" not in model:
            get_architecture(model)
    arms = _arms(own)
    for arm in arms:
        load_recipe(own.recipe, {**own.set, **arm.changes})
    names = [arm.name for arm in arms]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"study {path}: two arms are called {twice!r}; rename a net or a recipe")
    for expected in own.expect:
        for name in (expected.better, expected.worse):
            if name not in names:
                raise InputError(f"study {path}: expect: {unknown('arm', name, names)}")
    return Study(
        name=path.stem,
        title=own.title,
        source=str(path),
        question=own.question,
        varies="networks and recipes",
        held="all else",
        measures=ERRORS,
        curves=ERROR_CURVES,
        settings={
            "small": Setting(
                Pictures(own.data.name, own.data.train, own.data.test), own.recipe, own.set, arms
            )
        },
        trial=train_and_score,
        conclude=lambda results: [_judge(expected, results) for expected in own.expect],
        seeds=own.seeds,
    )


def _arms(own: _Own) -> tuple[Arm, ...]:
    if not own.recipes:
        return tuple(named(net, model) for net, model in own.nets.items())
    return tuple(
        named(f"{net} {recipe}", model, changes)
        for net, model in own.nets.items()
        for recipe, changes in own.recipes.items()
    )


def _judge(expected: _Expectation, results: Results) -> Conclusion:
    better, worse = (results.of(arm, expected.measure) for arm in (expected.better, expected.worse))
    label = expected.measure.replace("_", " ").replace("train ", "training ")
    statement = f"{expected.better} has a smaller {label} than {expected.worse}"
    if expected.by:
        statement += f", by {expected.by:g} points at least"
    if not better or not worse:
        return judged(statement, expected.source, "", "a trial is missing", [])
    gap = results.mean(expected.worse, expected.measure) - results.mean(
        expected.better, expected.measure
    )
    return judged(statement, expected.source, "", f"by {gap:.1f} points", gap >= expected.by)
