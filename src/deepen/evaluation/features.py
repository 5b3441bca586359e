"""What a layer of a network hands on, by the layer's name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deepen.errors import InputError, unknown

if TYPE_CHECKING:
    from deepen.data.decode import PictureError
    from deepen.data.loader import Batch


class Features(NamedTuple):
    """Features of a split, all on the CPU; N counts the pictures that could be decoded.

    Attributes:
        values: (N, F) float32.
        labels: (N,) int64.
        bad: what kept the other pictures out.
    """

    values: Tensor
    labels: Tensor
    bad: tuple[PictureError, ...]


class _Reached(Exception):
    """The layer has been run; the rest of the network need not be."""


def extract_features(
    model: nn.Module, layer: str, batches: Iterable[Batch], *, device: torch.device | str
) -> Features:
    """One forward pass over each picture, in evaluation mode, as far as a layer's first output.

    Feature maps (B, F, H, W) are averaged over their places.

    Args:
        model: on `device` already; its mode is put back.
        layer: a name of `model.named_modules()`.
        batches: one pass over a split.
        device: where the forward passes run.

    Raises:
        InputError: no such layer, one that a forward pass does not run or that hands on no tensor,
            or not one picture could be decoded.
    """
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        raise unknown_layer(model, layer)
    found: list[Tensor] = []

    def catch(module: nn.Module, arguments: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or first.ndim < 2:
            raise InputError(f"layer {layer}: hands on no features")
        found.append(first.float().flatten(2).mean(2) if first.ndim > 2 else first.float())
        raise _Reached

    labels: list[Tensor] = []
    bad: list[PictureError] = []
    was_training = model.training
    model.eval()
    hook = modules[layer].register_forward_hook(catch)
    try:
        with torch.inference_mode():
            for batch in batches:
                bad.extend(batch.bad)
                if len(batch.labels):
                    _run(model, batch.images.to(device), layer)
                    labels.append(batch.labels)
    finally:
        hook.remove()
        model.train(was_training)
    if not labels:
        first = f"; the first: {bad[0]}" if bad else ""
        raise InputError(f"none of {len(bad)} pictures could be decoded{first}")
    return Features(torch.cat(found).cpu(), torch.cat(labels).cpu(), tuple(bad))


def _run(model: nn.Module, images: Tensor, layer: str) -> None:
    try:
        model(images)
    except _Reached:
        return
    raise InputError(f"layer {layer}: is not run at evaluation")


def unknown_layer(model: nn.Module, word: str) -> InputError:
    """An error that names the nearest layers, or the outermost ones where none is near."""
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return unknown("layer", word, names if near else [name for name, _ in model.named_children()])
