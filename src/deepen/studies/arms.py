"""The networks of studies' arms by name, so that a trial is a run like any other.

`deepen.studies.arms:depth/small/plain20` is a model as a user's own `package.module:factory` is:
study (or its YAML file), setting, arm.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from deepen.models.architecture import Takes
from deepen.studies.study import Build

_NAME = re.compile(r"(?P<study>.+?\.ya?ml|[^/]+)/(?P<setting>[^/]+)/(?P<arm>.+)")


class Factory(NamedTuple):
    """Builds an arm's network; `takes` says for what it can be built."""

    build: Build
    takes: Takes | None

    def __call__(
        self, num_classes: int, in_channels: int, input_size: tuple[int, int]
    ) -> nn.Module:
        """As `create_model` calls a factory."""
        return self.build(num_classes, in_channels, input_size)


def model_of(study: str, setting: str, arm: str) -> str:
    """The name of an arm's network."""
    return f"{__name__}:{study}/{setting}/{arm}"


def __getattr__(name: str) -> Factory:
    found = _NAME.fullmatch(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deepen.studies.catalog import find_study  # which imports all studies

    setting = find_study(found["study"]).settings.get(found["setting"])
    arms = () if setting is None else setting.arms
    for arm in arms:
        if arm.name == found["arm"] and arm.build is not None:
            return Factory(arm.build, arm.takes)
    raise AttributeError(f"{found['study']} has no arm {found['arm']!r} with a network")
