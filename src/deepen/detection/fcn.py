"""FCN: a classifier whose head slides over the picture gives every pixel a class.

Long, Shelhamer & Darrell 2015, "Fully convolutional networks for semantic segmentation". The last
maps, 32 times smaller than the picture, are scored by a 1x1 convolution and brought back to its
size (FCN-32s). FCN-16s first adds the scores of maps of stride 16 to them, FCN-8s those of stride 8
too (section 4.2, figure 3): 2x upsampling, sum, and one last upsampling. All upsampling is by
transposed convolutions that begin as bilinear interpolation; the 2x ones learn, the last does not
(sections 3.3 and 4.2). A new score layer begins at 0, so that each net begins as the coarser one
that it goes on from: `--init-from` a trained FCN-32s, then FCN-16s.

On VGG the first two fully connected layers stay and are read as convolutions, 7x7 and 1x1, with
their dropout; the scored maps are those of pool3, pool4 and the last (figure 3). Of any other
network they are those of its last stages at strides 8, 16 and 32: residual nets came later.

Departures, all in how the maps are laid over each other: the authors' release pads the picture by
100 px and crops the sums at fixed offsets (5, 9 and 31 px in FCN-8s), so that its 7x7 convolution
fits; here that convolution is padded by 3, the picture is filled up with zeros to a multiple of
32 px, and maps repeat their edge before they are upsampled. Every upsampled map then lies where
bilinear interpolation puts it, at the edge too, and the result is cut to the picture. On networks
that average their last maps nothing stands between these and the score.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.analysis.stages import stages
from deepen.errors import InputError
from deepen.layers import ImageClassifier
from deepen.models import create_model, takes_of
from deepen.models.architecture import Takes
from deepen.models.vgg import VGG

COARSEST = 32
STRIDES = {"fcn-32s": 32, "fcn-16s": 16, "fcn-8s": 8}
"""Of the finest maps that are scored, by the network's name."""


def bilinear_kernel(factor: int) -> Tensor:
    """What a transposed convolution of stride `factor`, an even one, interpolates with.

    float32 (2 factor, 2 factor), a tent with its top between the middle pixels: the `bilinear`
    filler of the authors' release.
    """
    places = torch.arange(2 * factor, dtype=torch.float32)
    tent = 1 - (places - (factor - 0.5)).abs() / factor
    return tent[:, None] * tent


class Upsampling(nn.Module):
    """`factor` times as many pixels by a transposed convolution that begins as bilinear.

    Args:
        channels: maps, as many in as out.
        factor: an even number.
        learned: whether the weights learn, each map from all; else each is interpolated by itself,
            and the weights are no part of the state.
    """

    def __init__(self, channels: int, factor: int, learned: bool) -> None:
        super().__init__()
        self.factor, self.groups = factor, 1 if learned else channels
        kernel = bilinear_kernel(factor)
        if learned:
            eye = torch.eye(channels)[:, :, None, None]
            self.weight = nn.Parameter(eye * kernel)  # (in, out, 2 factor, 2 factor)
        else:
            alone = kernel.repeat(channels, 1, 1, 1)
            self.register_buffer("weight", alone, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, channels, factor h, factor w)."""
        # By hand: the gradient of F.pad's "replicate" differs from run to run on a GPU.
        x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        x = torch.cat([x[..., :1], x, x[..., -1:]], 3)
        edge = self.factor + self.factor // 2
        return F.conv_transpose2d(
            x, self.weight, stride=self.factor, padding=edge, groups=self.groups
        )


class FCN(nn.Module):
    """Scores of the classes for every pixel.

    Attributes:
        classifier_names: the layers that other classes need afresh.

    Args:
        backbone: a classifier; it loses its last layer and its auxiliary classifiers.
        stride: 32, 16 or 8, of the finest maps that are scored.
        num_classes: of a pixel.

    Raises:
        InputError: the backbone has no maps of one of these strides.
    """

    def __init__(self, backbone: ImageClassifier, stride: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, backbone.in_channels
        self.stages = scored_stages(backbone, stride)
        auxiliary = (path for _, path in backbone.auxiliary_classifiers)
        for path in (backbone.classifier_name, *auxiliary):
            backbone.set_submodule(path, nn.Identity())
        self.backbone = backbone
        self.scores, self.upsampling = nn.ModuleDict(), nn.ModuleDict()
        for place, (channels, _) in self.stages.items():
            self.scores[str(place)] = score = nn.Conv2d(channels, num_classes, 1)
            for parameter in score.parameters():
                nn.init.zeros_(parameter)
            if place != COARSEST:
                self.upsampling[str(place)] = Upsampling(num_classes, 2, learned=True)
        self.last = Upsampling(num_classes, stride, learned=False)
        heads = (("scores", self.scores), ("upsampling", self.upsampling))
        self.classifier_names = tuple(f"{name}.{key}" for name, part in heads for key in part)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, num_classes, H, W)."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % COARSEST, 0, -height % COARSEST))
        maps = self.backbone.forward_intermediates(x, [name for _, name in self.stages.values()])
        _, last = self.stages[COARSEST]
        maps[last] = convolved_head(self.backbone, maps[last])
        total = None
        for place, (_, name) in self.stages.items():
            score = self.scores[str(place)](maps[name])
            total = score if total is None else score + self.upsampling[str(place)](total)
        return self.last(total)[..., :height, :width]


def convolved_head(backbone: ImageClassifier, maps: Tensor) -> Tensor:
    """What VGG's fully connected layers make of its last maps at each place; others have none."""
    return backbone.slide_head(maps, padded=True) if isinstance(backbone, VGG) else maps


def scored_stages(backbone: ImageClassifier, stride: int) -> dict[int, tuple[int, str]]:
    """Channels and names of the stages to be scored, by their strides: 32 first, down to `stride`.

    Raises:
        InputError: there is none of such a stride, or its maps do not lie side by side.
    """
    size = backbone.input_size or (7 * COARSEST, 7 * COARSEST)
    found: dict[int, tuple[int, str]] = {}
    for stage in stages(backbone, (backbone.in_channels, *size)):
        pooled = stage.name.startswith("pool") or not isinstance(backbone, VGG)
        if pooled and stage.stride is not None and stage.stride * stage.height == size[0]:
            found[stage.stride] = stage.channels, stage.name
    wanted = [place for place in (32, 16, 8) if place >= stride]
    for place in wanted:
        if place not in found:
            raise InputError(
                f"{type(backbone).__name__} has no maps {place} times smaller than the picture, "
                "which a fully convolutional network scores"
            )
    if isinstance(backbone, VGG):
        found[COARSEST] = backbone.num_features, found[COARSEST][1]
    return {place: found[place] for place in wanted}


class Factory(NamedTuple):
    """Builds an FCN on a classifier of the registry; `takes` says for what it can be built."""

    backbone: str
    stride: int

    @property
    def takes(self) -> Takes | None:
        """As the backbone has it; 21 classes are VOC's with the background."""
        takes = takes_of(self.backbone)
        return takes and replace(takes, num_classes=21, any_classes=True)

    def __call__(
        self,
        num_classes: int = 21,
        in_channels: int | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> FCN:
        """As `create_model` calls a factory."""
        filled = None
        if input_size is not None:
            height, width = (side + -side % COARSEST for side in input_size)
            filled = height, width
        backbone = create_model(self.backbone, None, in_channels, filled)
        if not isinstance(backbone, ImageClassifier):
            raise InputError(f"{self.backbone}: names no stages")
        return FCN(backbone, self.stride, num_classes)


NETWORKS = {name: partial(Factory, stride=stride) for name, stride in STRIDES.items()}
"""Of a backbone's name, what builds the network on it."""
