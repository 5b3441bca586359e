"""Every study by name, and those that a user writes as a YAML file."""

from __future__ import annotations

from pathlib import Path

from deepen.errors import unknown
from deepen.studies import (
    activation,
    construction,
    depth,
    features_matter,
    initialization,
    lesion,
    optimization,
    regularization,
    shallow,
    shortcut,
    width,
)
from deepen.studies.own import read_study
from deepen.studies.study import Study

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (
        depth,
        construction,
        activation,
        shortcut,
        initialization,
        regularization,
        optimization,
        width,
        lesion,
        shallow,
        features_matter,
    )
}


def find_study(name: str) -> Study:
    """A study by its name, or of a YAML file.

    Raises:
        InputError: no such name; says the nearest. The file says nothing that can be done.
    """
    if name in STUDIES:
        return STUDIES[name]
    if name.endswith((".yaml", ".yml")):
        return read_study(Path(name))
    raise unknown("study", name, STUDIES)
