"""Detectors by name, as `deepen.models` takes a factory: kind, backbone, settings.

`deepen.detection.networks:faster-rcnn-fpn/resnet18/anchor_px=16,32,64,128,256/norm=group`

Those that segment and localize have no settings: `deepen.detection.networks:fcn-8s/vgg16`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from deepen.detection import fast_rcnn, faster_rcnn, fcn, localization, mask_rcnn
from deepen.detection.settings import C4, FPN, DetectorSettings, Wanted, settings_of
from deepen.errors import unknown
from deepen.models import takes_of
from deepen.models.architecture import Takes

SIZE_PX, LEAST_PX = 600, 32
"""The shorter side of Ren et al. 2015, section 3.3; less than 32 px have no place on C5."""

Build = Callable[[Wanted], nn.Module]


class Kind(NamedTuple):
    """A kind of detector, and the settings of its paper."""

    build: Build
    settings: DetectorSettings


NETWORKS: dict[str, Kind] = {
    "faster-rcnn-fpn": Kind(faster_rcnn.faster_rcnn_fpn, FPN),
    "faster-rcnn-c4": Kind(faster_rcnn.faster_rcnn_c4, C4),
    "rpn-c4": Kind(partial(faster_rcnn.faster_rcnn_c4, tells=False), C4),
    "fast-rcnn-c4": Kind(partial(faster_rcnn.faster_rcnn_c4, proposes=False), C4),
    "fast-rcnn": Kind(fast_rcnn.fast_rcnn, fast_rcnn.FAST),
    "mask-rcnn-fpn": Kind(mask_rcnn.mask_rcnn_fpn, FPN),
}
PLAIN: dict[str, Callable[[str], Any]] = {**fcn.NETWORKS, **localization.NETWORKS}
"""Networks without settings: of a backbone's name, what builds each."""


class Factory(NamedTuple):
    """Builds a detector; `takes` says for what it can be built."""

    build: Build
    backbone: str
    settings: DetectorSettings
    takes: Takes

    def __call__(
        self, num_classes: int, in_channels: int = 3, input_size: tuple[int, int] | None = None
    ) -> nn.Module:
        """As `create_model` calls a factory."""
        size = input_size or (self.takes.size_px, self.takes.size_px)
        return self.build(Wanted(self.backbone, num_classes, in_channels, size, self.settings))


def model_of(kind: str, backbone: str, *settings: str) -> str:
    """The name of a detector: `model_of("faster-rcnn-fpn", "resnet18", "norm=group")`."""
    return f"{__name__}:{'/'.join((kind, backbone, *settings))}"


def __getattr__(name: str) -> Any:
    kind, _, rest = name.partition("/")
    if not rest:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if kind in PLAIN:
        return PLAIN[kind](rest)
    if kind not in NETWORKS:
        raise unknown("detector", kind, (*NETWORKS, *PLAIN))
    backbone, *words = rest.split("/")
    known = takes_of(backbone)
    takes = Takes(SIZE_PX, known.channels if known else 3, 20, min_px=LEAST_PX)
    settings = settings_of(words, NETWORKS[kind].settings)
    return Factory(NETWORKS[kind].build, backbone, settings, takes)
