"""Any classifier of `deepen.models` by its named stages: maps for a detector, and what follows.

A classifier is taken apart, not written again: what the detector does not use is gone from it, the
rest has its names, so that a trained classifier's layers find their places
(`backbone.body.layer1.0.conv1` is `layer1.0.conv1`), and torchvision's keys are ours.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from deepen.analysis.stages import Stage, stages
from deepen.detection.settings import DetectorSettings, Norm, Wanted
from deepen.errors import InputError
from deepen.layers import ImageClassifier
from deepen.models import create_model

FINEST, COARSEST = 4, 32
"""Strides of the maps that a pyramid is built on (Lin et al. 2017, section 3: C2 to C5)."""
SHARED = 16
"""Stride of the map that regions are pooled from (He et al. 2015, appendix A: conv4_x)."""
_GROUPS = 32  # Wu & He 2018, section 4.1


class Maps(nn.Module):
    """Some stages of a classifier.

    Attributes:
        body: the classifier, without what comes after the last of these stages.
        names: of the stages.
        strides: px of the picture from one place of a map to the next, a stage each.
        out_channels: maps of the last stage.
    """

    def __init__(self, classifier: ImageClassifier, chosen: list[Stage]) -> None:
        super().__init__()
        self.names = [stage.name for stage in chosen]
        self.strides = [stage.stride or 1 for stage in chosen]
        self.out_channels = chosen[-1].channels
        kept = [*classifier.stage_layers]
        kept = kept[: kept.index(self.names[-1]) + 1]
        classifier.stage_layers = {name: classifier.stage_layers[name] for name in kept}
        layers = {
            layer
            for name in kept
            for layer in classifier.stage_layers[name]
            if isinstance(layer, str)
        }
        _keep(classifier, layers)
        self.body = classifier

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, C, H, W) to a map of each stage, called "0", "1", ... ."""
        found = self.body.forward_intermediates(x, self.names)
        return OrderedDict((str(i), found[name]) for i, name in enumerate(self.names))


class Pyramid(Maps):
    """Lin et al. 2017, section 3: maps of one width for all strides, the coarse added to the fine.

    The coarsest is sampled once more for the largest anchors (section 4.1: P6).
    """

    def __init__(
        self, classifier: ImageClassifier, chosen: list[Stage], settings: DetectorSettings
    ) -> None:
        super().__init__(classifier, chosen)
        self.strides.append(2 * self.strides[-1])
        self.out_channels = settings.maps
        self.fpn = FeaturePyramidNetwork(
            [stage.channels for stage in chosen],
            settings.maps,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=_group_norm if settings.norm == "group" else None,
        )

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, C, H, W) to maps "0", "1", ... and "pool", the coarsest."""
        return self.fpn(super().forward(x))


class Rest(nn.Module):
    """What a classifier does after a stage, up to its last linear layer, for each region."""

    def __init__(self, classifier: ImageClassifier, after: str) -> None:
        super().__init__()
        names = [*classifier.stage_layers]
        place = names.index(after) + 1
        layers = [layer for name in names[:place] for layer in classifier.stage_layers[name]]
        ended = [classifier.classifier_name, *(p for _, p in classifier.auxiliary_classifiers)]
        for path in (*filter(_is_path, layers), *ended):
            classifier.set_submodule(str(path), nn.Identity())
        classifier.stage_layers = {name: classifier.stage_layers[name] for name in names[place:]}
        self.body, self.out_features = classifier, classifier.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Features of regions (N, C, h, w) to (N, out_features)."""
        for name in self.body.stage_layers:
            x = self.body.forward_stage(name, x)
        return self.body.forward_head(x, pre_logits=True)


def pyramid(wanted: Wanted) -> Pyramid:
    """A classifier's pyramid: of each stride from 4 to 32 the last stage.

    Raises:
        InputError: there is no such classifier, or it has no such stages.
    """
    classifier, found = _classifier(wanted)
    last = {stage.stride: stage for stage in found if stage.stride}
    chosen = [stage for stride, stage in last.items() if FINEST <= (stride or 0) <= COARSEST]
    if not chosen:
        raise InputError(f"{wanted.backbone}: has no stage with a stride of {FINEST} to {COARSEST}")
    return Pyramid(classifier, chosen, wanted.settings)


def shared_and_rest(wanted: Wanted) -> tuple[Maps, Rest]:
    """A classifier up to its last stage of stride 16, or of the greatest below, and the rest.

    Raises:
        InputError: there is no such classifier, or it has no such stages.
    """
    classifier, found = _classifier(wanted)
    fit = [stage for stage in found if stage.stride and stage.stride <= SHARED]
    if not fit:
        raise InputError(f"{wanted.backbone}: has no stage with a stride up to {SHARED}")
    rest = Rest(copy.deepcopy(classifier), fit[-1].name)
    return Maps(classifier, fit[-1:]), rest


def _classifier(wanted: Wanted) -> tuple[ImageClassifier, list[Stage]]:
    model, _, in_channels, input_size, settings = wanted
    classifier = create_model(model, in_channels=in_channels, input_size=input_size)
    if not isinstance(classifier, ImageClassifier):
        raise InputError(f"{model}: names no stages, so it is no backbone")
    found = stages(classifier, (in_channels, *input_size))
    _set_norm(classifier, settings.norm, settings.norm_eps)
    return classifier, found


def _set_norm(module: nn.Module, norm: Norm, eps: float | None) -> None:
    """Put another norm in the place of each batch norm, or give it another epsilon."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _set_norm(child, norm, eps)
        elif norm == "group":
            setattr(module, name, _group_norm(child.num_features))
        elif norm == "frozen":
            frozen = FrozenBatchNorm2d(child.num_features, child.eps if eps is None else eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        elif eps is not None:
            child.eps = eps


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


def _keep(module: nn.Module, layers: Collection[str], prefix: str = "") -> None:
    """Take out all modules but these, and what they are in."""
    for name, child in [*module.named_children()]:
        path = prefix + name
        if any(layer.startswith(f"{path}.") for layer in layers):
            _keep(child, layers, f"{path}.")
        elif path not in layers:
            setattr(module, name, nn.Identity())


def _is_path(layer: Any) -> bool:
    return isinstance(layer, str)
