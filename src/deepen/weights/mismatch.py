"""What is wrong with a set of tensors, in one line: keys, shapes, kinds, values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def mismatch(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """How `got` differs from a network's `expected` state; empty where it can be loaded.

    Names missing and unexpected keys, shapes and kinds that differ, NaN and infinite values.
    """
    problems = []
    if missing := sorted(expected.keys() - got.keys()):
        problems.append(f"missing {some(missing)}")
    if extra := sorted(got.keys() - expected.keys()):
        problems.append(f"unexpected {some(extra)}")
    shared = sorted(expected.keys() & got.keys())
    differ = [
        f"{name} is {tuple(got[name].shape)}, not {tuple(expected[name].shape)}"
        for name in shared
        if got[name].shape != expected[name].shape
    ]
    differ += [
        f"{name} is {_kind(got[name])}, not {_kind(expected[name])}"
        for name in shared
        if got[name].is_floating_point() != expected[name].is_floating_point()
    ]
    if differ:
        problems.append(some(differ))
    if bad := sorted(name for name, t in got.items() if not _finite(t)):
        problems.append(f"NaN or infinite values in {some(bad)}")
    return "; ".join(problems)


def some(names: list[str]) -> str:
    """The first three, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    wide = tensor.float() if tensor.itemsize == 1 else tensor  # no isfinite for float8
    return bool(torch.isfinite(wide).all())


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
