"""Deformable convolutions on a ResNet-50.

Dai, Qi, Xiong, Li, Zhang, Hu & Wei 2017, "Deformable convolutional networks": each of the nine taps
of a 3x3 convolution moves, at each position, by an offset that another 3x3 convolution of the same
maps predicts (equation 2); between pixels values are interpolated (equation 3). Offsets start at
zero, so a fresh layer is the plain convolution. The last three 3x3 convolutions, those of conv5,
are so (section 2.3).

Zhu, Hu, Lin & Dai 2018, "Deformable ConvNets v2", section 3: all 3x3 convolutions of conv3 to conv5
are deformable, and each tap is also weighted by a sigmoid, which starts at 0.5.

There is no kernel for bfloat16 on the CPU: offsets and sampling are in float32 under autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.resnet import VARIANTS as RESNETS
from deepen.models.resnet import Bottleneck, ResNet


class DeformableConv2d(nn.Module):
    """A 3x3 convolution whose taps move, and with `modulated` are weighted, by what they see.

    Args:
        plain: the convolution that it starts as, and whose weights it takes over.
        modulated: whether taps are weighted.
    """

    def __init__(self, plain: nn.Conv2d, modulated: bool) -> None:
        super().__init__()
        self.stride = (plain.stride[0], plain.stride[1])
        self.modulated, self.weight = modulated, plain.weight
        channels = 27 if modulated else 18
        self.offset = nn.Conv2d(plain.in_channels, channels, 3, self.stride, padding=1)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        from torchvision.ops import deform_conv2d  # it doubles the time that deepen.models takes

        where = "cpu" if x.is_meta else x.device.type  # the meta device knows no autocast
        with torch.autocast(where, enabled=False):
            x = x.to(self.weight.dtype)
            predicted = self.offset(x)  # (B, 18, H, W): dy and dx of each tap; then its weight
            weights = predicted[:, 18:].sigmoid() if self.modulated else None
            taps = predicted[:, :18]
            return deform_conv2d(x, taps, self.weight, None, self.stride, (1, 1), mask=weights)


class Variant(NamedTuple):
    """Stages whose 3x3 convolutions are deformable, and whether their taps are weighted."""

    stages: tuple[str, ...]
    modulated: bool


class DeformableResNet(ResNet):
    """ResNet-50 with some stages' 3x3 convolutions deformable, from 32 px up."""

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__(RESNETS["resnet50"], num_classes, in_channels)
        for stage in variant.stages:
            for block in self.get_submodule(stage).children():
                assert isinstance(block, Bottleneck)
                block.set_submodule("conv2", DeformableConv2d(block.conv2, variant.modulated))


# Dai et al. 2017, section 2.3: conv5. Zhu et al. 2018, section 3.1: conv3 to conv5.
VARIANTS: dict[str, Variant] = {
    "resnet50_deformable": Variant(("layer4",), modulated=False),
    "resnet50_deformable_v2": Variant(("layer2", "layer3", "layer4"), modulated=True),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> DeformableResNet:
        return DeformableResNet(variant, num_classes, in_channels)

    takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=ResNet.min_px)
    common = (
        Detail("deformable convolution", "specified", "Dai et al. 2017, section 2.1"),
        Detail(
            "stride and dilation of conv5",
            "deviates",
            "32 and none, to classify; the first paper's detectors: 1 and 2",
        ),
        Detail("stride of ResNet-50", "inferred", "first 1x1: the authors' released code"),
    )
    if variant.modulated:
        details = (
            Detail("layers", "specified", "section 3.1: all 3x3 of conv3 to conv5"),
            Detail("modulation", "specified", "section 3.2: a sigmoid from 0.5; zero weights"),
            *common,
        )
        title = "Deformable ConvNets v2: more deformable, better results"
        return Architecture(name, build, takes, "Zhu et al. 2018", title, 2018, details)
    details = (
        Detail("layers", "specified", "section 2.3: the last three 3x3, in conv5"),
        Detail("offsets", "specified", "sections 2.1, 2.3: a 3x3 convolution, from zero"),
        *common,
    )
    title = "Deformable convolutional networks"
    return Architecture(name, build, takes, "Dai et al. 2017", title, 2017, details)


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
