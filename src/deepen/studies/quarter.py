"""Networks of a quarter of their width, for two cores: `deepen.studies.quarter:vgg16_bn`.

Every layer has a quarter of its maps and units, but for the input and the logits; all else, depth,
kernels, strides, is as in the registry. Weights are drawn as He et al. 2015b have it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from deepen.errors import InputError
from deepen.layers import ImageClassifier, init_he
from deepen.models import create_model, get_architecture
from deepen.models.architecture import Takes

BY = 4


def narrow(network: ImageClassifier) -> ImageClassifier:
    """The network with a quarter of its width, its weights drawn afresh."""
    for path, layer in [*network.named_modules()]:
        if isinstance(layer, nn.Conv2d):
            maps_in = layer.in_channels
            narrower = nn.Conv2d(
                maps_in if maps_in == network.in_channels else maps_in // BY,
                layer.out_channels // BY,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                groups=layer.groups,
                bias=layer.bias is not None,
            )
        elif isinstance(layer, nn.BatchNorm2d):
            narrower = nn.BatchNorm2d(layer.num_features // BY, layer.eps)
        elif isinstance(layer, nn.Linear):
            is_last = path == network.classifier_name
            units = layer.out_features if is_last else layer.out_features // BY
            narrower = nn.Linear(layer.in_features // BY, units)
        else:
            continue
        init_he(narrower)
        network.set_submodule(path, narrower)
    network.num_features //= BY
    return network


class Factory(NamedTuple):
    """Builds a narrow network; `takes` says for what it can be built."""

    name: str
    takes: Takes

    def __call__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        input_size: tuple[int, int] = (224, 224),
    ) -> nn.Module:
        """As `create_model` calls a factory."""
        with torch.device("meta"):  # not one of its weights is kept
            whole = create_model(self.name, num_classes, in_channels, input_size)
        assert isinstance(whole, ImageClassifier)
        return narrow(whole)


def __getattr__(name: str) -> Factory:
    try:
        return Factory(name, get_architecture(name).takes)
    except InputError as error:
        raise AttributeError(f"module {__name__!r}: {error}") from error
