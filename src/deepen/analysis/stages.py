"""Sizes of a network's stages: channels, height and width, and stride, worked out, not noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepen.analysis.memory import in_mode, make_inputs
from deepen.analysis.meta import Meta, on_meta
from deepen.errors import InputError
from deepen.layers import ImageClassifier

LARGER_PX = 2880  # 2^6 3^2 5: a multiple of every stride that is likely


@dataclass(frozen=True)
class Stage:
    """What a stage hands on for one picture.

    Attributes:
        name: in the paper's words.
        channels: maps, or units.
        height: of a map in its own pixels; 1 for units.
        width: likewise.
        stride: pixels of the picture from one place of a map to the next, downwards; None for
            units, which see all of it.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: int | None


def stages(model: nn.Module, input_shape: Sequence[int]) -> list[Stage]:
    """The stages of a network that names them, in order; nothing is computed but shapes.

    Args:
        model: on any device; it is left as it was.
        input_shape: of a picture, (C, H, W).

    Raises:
        InputError: the network names no stages, or does not take such an input.
    """
    if not isinstance(model, ImageClassifier) or not model.stage_layers:
        raise InputError(f"{type(model).__name__} names no stages")
    channels, height, width = input_shape
    with on_meta(model), in_mode(model, training=False), torch.no_grad(), Meta():
        (x,) = make_inputs(model, [(channels, height, width)], 1, "meta")
        model.check_input(x)
        (larger,) = make_inputs(model, [(channels, height + LARGER_PX, width)], 1, "meta")
        found = []
        for name in model.stage_layers:
            x = model.forward_stage(name, x)
            if x.ndim != 4:
                found.append(Stage(name, x.shape[1], 1, 1, None))
                continue
            larger = model.forward_stage(name, larger)
            maps, high, wide = x.shape[1:]
            found.append(Stage(name, maps, high, wide, _stride(x, larger)))
    return found


def _stride(maps: Tensor, larger: Tensor) -> int | None:
    """By how many pixels a picture grows for each row that its maps gain."""
    rows = larger.shape[2] - maps.shape[2]
    return LARGER_PX // rows if rows else None
