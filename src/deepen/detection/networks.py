"""The networks of this room by name, on any classifier's features.

`deepen.detection.networks:fcn-8s/vgg16` is a model as a user's own `package.module:factory` is:
kind, backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepen.detection import fcn, localization

NETWORKS: dict[str, Callable[[str], Any]] = {
    **fcn.NETWORKS,
    **localization.NETWORKS,
}
"""By its kind, what makes a factory of a backbone's name."""


def __getattr__(name: str) -> Any:
    kind, _, backbone = name.partition("/")
    if kind in NETWORKS and backbone:
        return NETWORKS[kind](backbone)
    known = ", ".join(f"{kind}/BACKBONE" for kind in NETWORKS)
    raise AttributeError(f"{__name__} has no network {name!r}: it has {known}")
