"""Every network by name: one paper, one file; this is the registry."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Callable

from torch import nn

from deepen.errors import InputError, unknown
from deepen.models import (
    alexnet,
    cuda_convnet,
    deformable,
    densenet,
    googlenet,
    highway,
    inception,
    inception_resnet,
    inception_v4,
    lenet,
    lstm,
    nin,
    non_local,
    perceptron,
    preresnet,
    resnet,
    resnet_cifar,
    resnext,
    vgg,
    wide_resnet,
    zfnet,
)
from deepen.models.architecture import Architecture, Takes

_REGISTRY: dict[str, Architecture] = {
    architecture.name: architecture
    for paper in (
        perceptron,
        lenet,
        alexnet,
        cuda_convnet,
        zfnet,
        nin,
        vgg,
        googlenet,
        inception,
        inception_v4,
        inception_resnet,
        resnet,
        resnet_cifar,
        densenet,
        preresnet,
        wide_resnet,
        resnext,
        highway,
        non_local,
        deformable,
        lstm,
    )
    for architecture in paper.ARCHITECTURES
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, in the order of their papers.

    >>> list_models("plain*")
    ['plain18', 'plain34', 'plain20', 'plain32', 'plain44', 'plain56', 'plain110']
    """
    return [name for name in _REGISTRY if fnmatch.fnmatchcase(name, pattern)]


def get_architecture(name: str) -> Architecture:
    """The declaration of a network.

    Raises:
        InputError: no such name; says the nearest ones.
    """
    if name not in _REGISTRY:
        raise unknown("model", name, _REGISTRY)
    return _REGISTRY[name]


def takes_of(name: str) -> Takes | None:
    """What a network takes; None where nobody knows (a factory of the user's that does not say).

    A factory says it by an attribute `takes`.

    Raises:
        InputError: no such name.
    """
    if ":" in name:
        return getattr(_factory(name), "takes", None)
    return get_architecture(name).takes


def register_model(
    name: str,
    build: Callable[..., nn.Module],
    *,
    takes: Takes,
    paper: str = "",
    title: str = "",
    year: int = 0,
) -> None:
    """Add a network of the user's own, for `create_model` and every verb.

    Args:
        name: must be new.
        build: called with the keywords in_channels, num_classes and input_size (height, width).
        takes: what the network can be built for and fed with.
        paper: where it is described, if anywhere.
        title: the title of that paper.
        year: its year.

    Raises:
        InputError: the name is taken.
    """
    if name in _REGISTRY:
        raise InputError(f"model {name!r} is registered already")
    _REGISTRY[name] = Architecture(name, build, takes, paper, title, year)


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    input_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """Build a network, the paper's own where nothing else is asked for.

    Args:
        name: of `list_models()`, or `package.module:factory` of the user's own; a factory is called
            with those of num_classes, in_channels and input_size that it has a parameter for
            (num_classes also where it takes any keyword, as torchvision's do).
        num_classes: length of the logits.
        in_channels: channels of the input.
        input_size: height and width in px; matters to networks whose weights depend on it.

    Raises:
        InputError: an unknown name (with the nearest), or something that the network cannot be.
    """
    if ":" in name:
        return _call_factory(
            name,
            {"num_classes": num_classes, "in_channels": in_channels, "input_size": input_size},
        )
    architecture = get_architecture(name)
    classes, channels, size = architecture.resolve(num_classes, in_channels, input_size)
    return architecture.build(num_classes=classes, in_channels=channels, input_size=size)


def _factory(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--model {name}: {error}") from error


def _call_factory(name: str, wanted: dict[str, object]) -> nn.Module:
    factory = _factory(name)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"--model {name}: is no function or class to call") from error
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {
        key: value
        for key, value in wanted.items()
        if value is not None and (key in parameters or (open_ended and key == "num_classes"))
    }
    model = factory(**given)
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {name}: made a {type(model).__name__}, not a torch.nn.Module")
    return model
