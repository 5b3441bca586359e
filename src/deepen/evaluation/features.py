"""What a stage or a layer of a network hands on, by its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError, unknown
from deepen.layers import ImageClassifier

if TYPE_CHECKING:
    from deepen.data.decode import PictureError
    from deepen.data.loader import Batch


class Features(NamedTuple):
    """Features of a split, all on the CPU; N counts the pictures that could be decoded.

    Attributes:
        values: (N, F) float32.
        labels: (N,) int64.
        bad: what kept the other pictures out.
        indices: (N,) int64, places in the split.
    """

    values: Tensor
    labels: Tensor
    bad: tuple[PictureError, ...]
    indices: Tensor


class Nearest(NamedTuple):
    """Of each of M pictures the k nearest of others, by the cosine of their features.

    Attributes:
        places: (M, k) int64, among the others, the nearest first.
        similarity: (M, k) float64, in -1..1.
    """

    places: Tensor
    similarity: Tensor


def nearest(pictures: Tensor, others: Tensor, most: int) -> Nearest:
    """The nearest of `others` (N, F) to each of `pictures` (M, F), `most` at most."""
    one, two = (F.normalize(each.double(), dim=1) for each in (pictures, others))
    similarity, places = (one @ two.T).sort(dim=1, descending=True, stable=True)
    return Nearest(places[:, :most], similarity[:, :most])


def has_features(model: nn.Module) -> bool:
    """Whether it says what its last layer is given: all networks of the registry do."""
    return isinstance(model, ImageClassifier) and bool(model.stage_layers)


def extract_features(
    model: nn.Module, layer: str | None, batches: Iterable[Batch], *, device: torch.device | str
) -> Features:
    """One forward pass over each picture, in evaluation mode, as far as a stage, or a layer.

    Feature maps (B, F, H, W) are averaged over their places.

    Args:
        model: on `device` already; its mode is put back.
        layer: a stage that the network names, or else a name of `model.named_modules()`, whose
            first output counts. None: what the last layer is given, where `has_features`.
        batches: one pass over a split.
        device: where the forward passes run.

    Raises:
        InputError: no such layer, one that a forward pass does not run or that hands on no tensor,
            or not one picture could be decoded.
    """
    output_of = _reader(model, layer)
    found: list[Tensor] = []
    labels: list[Tensor] = []
    indices: list[Tensor] = []
    bad: list[PictureError] = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                bad.extend(batch.bad)
                if len(batch.labels):
                    output = output_of(batch.images.to(device))
                    found.append(output.float().reshape(*output.shape[:2], -1).mean(2))
                    labels.append(batch.labels)
                    indices.append(batch.indices)
    finally:
        model.train(was_training)
    if not labels:
        first = f"; the first: {bad[0]}" if bad else ""
        raise InputError(f"none of {len(bad)} pictures could be decoded{first}")
    places = torch.cat(indices).cpu()
    return Features(torch.cat(found).cpu(), torch.cat(labels).cpu(), tuple(bad), places)


def _reader(model: nn.Module, layer: str | None) -> Callable[[Tensor], Tensor]:
    """From images to what a stage or a layer hands on."""
    if layer is None:
        assert isinstance(model, ImageClassifier)
        return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)
    if isinstance(model, ImageClassifier) and layer in model.stage_layers:
        return lambda images: model.forward_intermediates(images, [layer])[layer]
    module = dict(model.named_modules()).get(layer)
    if module is None or not layer:
        raise unknown_layer(model, layer)
    while type(module).forward is nn.Sequential.forward and len(module):  # type: ignore[arg-type]
        module = module[-1]  # type: ignore[index]  # what a chain hands on; stages may split it

    def read(images: Tensor) -> Tensor:
        found: list[Tensor] = []

        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor) or first.ndim < 2:
                raise InputError(f"layer {layer}: hands on no features")
            if not found:
                found.append(first.clone())  # what follows may write into it

        with module.register_forward_hook(keep):
            model(images)
        if not found:
            raise InputError(f"layer {layer}: is not run at evaluation")
        return found[0]

    return read


def unknown_layer(model: nn.Module, word: str) -> InputError:
    """An error that names the nearest layers, or the outermost ones where none is near."""
    stages = [*model.stage_layers] if isinstance(model, ImageClassifier) else []
    names = [*stages, *(name for name, _ in model.named_modules() if name)]
    outermost = [*stages, *(name for name, _ in model.named_children())]
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return unknown("layer", word, set(names if near else outermost))
