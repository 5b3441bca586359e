"""A change to training pictures that is the user's own, `package.module:function`.

    def function(picture: Tensor, seed: int) -> Tensor

takes and gives uint8 (C, H, W), as torchvision's transforms do. The seed is a pure function of
(seed of the run, epoch, sample); torch's random numbers begin at it within the call, so that
`torchvision.transforms.v2` draws the same whoever decodes and wherever a run is gone on with. What
draws from elsewhere (NumPy, `random`) must begin at the seed itself, or no resume is exact.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deepen.errors import InputError

TRANSFORM_DRAWS = 2
"""Uniforms that make a seed of 48 bits."""


class TransformError(Exception):
    """The function failed on a picture; says how, in a line."""


@cache
def find_transform(name: str) -> Callable[[Tensor, int], Any]:
    """The function of a name.

    Raises:
        InputError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"augment.transform {name}: {error}") from error
    if not callable(found):
        raise InputError(f"augment.transform {name}: is no function")
    return found


def transform(name: str, picture: Tensor, u: Tensor) -> Tensor:
    """Change a picture, uint8 (H, W, C), by uniforms (TRANSFORM_DRAWS,).

    Raises:
        TransformError: the function failed, or gave something else than a picture of this size.
    """
    planes = picture.permute(2, 0, 1).contiguous()
    high, low = (int(draw * 2**24) for draw in u.tolist())
    seed = high << 24 | low
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU's too
        try:
            changed = find_transform(name)(planes, seed)
        except Exception as error:  # whatever the user's function may raise
            words = " ".join(str(error).split())
            raise TransformError(f"{type(error).__name__}: {words}") from error
    if not isinstance(changed, Tensor):
        raise TransformError(f"gave a {type(changed).__name__}, not a tensor")
    if (changed.dtype, changed.shape) != (torch.uint8, planes.shape):
        what = f"{str(changed.dtype).removeprefix('torch.')} {tuple(changed.shape)}"
        raise TransformError(f"gave {what}, not uint8 {tuple(planes.shape)}")
    return changed.permute(1, 2, 0)
