"""What a network declares of itself: what it takes, and where each of its details comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from deepen.errors import InputError


@dataclass(frozen=True)
class Takes:
    """What a network can be built for and fed with.

    Attributes:
        size_px: the paper's input, height = width.
        sizes: "fixed" (size_px alone), "built" (any, chosen when built), "free" (any, any time).
        min_px: least height and width where the size is not fixed.
        channels: the paper's input channels.
        any_channels: whether it can be built for another number of channels.
        num_classes: the paper's number of classes.
        any_classes: whether it can be built for another number of classes.
    """

    size_px: int
    channels: int
    num_classes: int
    sizes: Literal["fixed", "built", "free"] = "free"
    min_px: int = 1
    any_channels: bool = True
    any_classes: bool = True


@dataclass(frozen=True)
class Detail:
    """One field of a network and where it comes from.

    Attributes:
        field: what is meant, "stride of the projections" say.
        kind: "specified" by the paper, "inferred" from another source, or "deviates" from it.
        source: paper and section; for a deviation the reason.
    """

    field: str
    kind: Literal["specified", "inferred", "deviates"]
    source: str


@dataclass(frozen=True)
class Architecture:
    """A named network of a paper: how to build it and what to say of it.

    Attributes:
        name: as `create_model` takes it.
        build: called with in_channels, num_classes and input_size (height, width).
        takes: what it can be built for and fed with.
        paper: authors and year.
        title: the paper's title.
        year: of the paper's first appearance.
        details: provenance, field by field.
    """

    name: str
    build: Callable[..., nn.Module]
    takes: Takes
    paper: str
    title: str
    year: int
    details: tuple[Detail, ...] = ()

    def resolve(
        self,
        num_classes: int | None,
        in_channels: int | None,
        input_size: int | tuple[int, int] | None,
    ) -> tuple[int, int, tuple[int, int]]:
        """What was asked for, the paper's where nothing was: (classes, channels, (H, W)).

        Raises:
            InputError: the network cannot be built for it; says what it takes.
        """
        takes, name = self.takes, self.name
        classes = takes.num_classes if num_classes is None else num_classes
        channels = takes.channels if in_channels is None else in_channels
        size = takes.size_px if input_size is None else input_size
        height, width = (size, size) if isinstance(size, int) else size
        if classes < 1 or (not takes.any_classes and classes != takes.num_classes):
            raise InputError(f"{name} has {takes.num_classes} classes, asked for {classes}")
        if channels < 1 or (not takes.any_channels and channels != takes.channels):
            raise InputError(f"{name} takes {takes.channels} input channels, asked for {channels}")
        if takes.sizes == "fixed" and (height, width) != (takes.size_px, takes.size_px):
            raise InputError(
                f"{name} takes pictures of {takes.size_px}x{takes.size_px} px, "
                f"asked for {height}x{width}"
            )
        if min(height, width) < takes.min_px:
            raise InputError(
                f"{name} takes pictures of {takes.min_px} px at least, asked for {height}x{width}"
            )
        return classes, channels, (height, width)
