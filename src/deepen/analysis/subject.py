"""A network to be counted, by its name: built on the meta device, with the input that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from deepen.analysis.meta import Meta
from deepen.errors import DeepenError, InputError
from deepen.models import create_model, get_architecture
from deepen.models.architecture import Architecture, Takes

USUAL_INPUT = (3, 224, 224)  # of a network of the user's own that does not say what it takes


@dataclass(frozen=True)
class Subject:
    """A network and its input.

    Attributes:
        name: as `create_model` takes it.
        module: without weights, on the meta device, where it could be built there.
        input_shape: of one sample, (C, H, W) for a network of ours.
        architecture: what it declares; None for a network of the user's own.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    architecture: Architecture | None


def subject(name: str, input_shape: Sequence[int] | None = None) -> Subject:
    """Build a network for counting.

    Args:
        name: of `list_models()`, or `package.module:factory` of the user's own.
        input_shape: of one sample; the paper's where None, 3x224x224 for a network of the user's
            own that does not say what it takes.

    Raises:
        InputError: an unknown name, or an input that the network cannot be built for.
    """
    if ":" in name:
        module = _without_weights(name)
        return Subject(name, module, tuple(input_shape or _own_input(module)), None)
    architecture = get_architecture(name)
    takes = architecture.takes
    shape = tuple(input_shape or (takes.channels, takes.size_px, takes.size_px))
    if len(shape) != 3:
        raise InputError(f"{name} takes pictures CxHxW, got {'x'.join(map(str, shape))}")
    module = _without_weights(name, in_channels=shape[0], input_size=(shape[1], shape[2]))
    return Subject(name, module, shape, architecture)


def with_weights(counted: Subject) -> nn.Module:
    """The same network with (random) weights, for a real run."""
    channels, *size = counted.input_shape
    if counted.architecture is None:
        return create_model(counted.name)
    return create_model(counted.name, in_channels=channels, input_size=(size[0], size[1]))


def _without_weights(name: str, **options: object) -> nn.Module:
    try:
        with torch.device("meta"), Meta():
            return create_model(name, **options)  # type: ignore[arg-type]
    except DeepenError:
        raise
    except Exception:  # a factory that reads values as it builds; ours do not
        return create_model(name, **options)  # type: ignore[arg-type]


def _own_input(module: nn.Module) -> tuple[int, ...]:
    channels, size = getattr(module, "in_channels", None), getattr(module, "input_size", None)
    if isinstance(channels, int) and isinstance(size, tuple):
        return (channels, *size)
    return USUAL_INPUT


def takes_in_words(takes: Takes) -> str:
    """What a network can be built for and fed with."""
    size = {
        "fixed": f"pictures of {takes.size_px}x{takes.size_px} px alone",
        "built": f"any size from {takes.min_px} px, fixed when it is built",
        "free": f"any size from {takes.min_px} px, any time",
    }[takes.sizes]
    plural = "s" if takes.channels > 1 else ""
    fixed = f"{takes.channels} channel{plural}"
    channels = "any number of channels" if takes.any_channels else fixed
    classes = "any number of classes" if takes.any_classes else f"{takes.num_classes} classes"
    return f"{size}; {channels}; {classes}"
