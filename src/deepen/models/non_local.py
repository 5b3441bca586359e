"""Non-local blocks on a ResNet-50.

Wang, Girshick, Gupta & He 2018, "Non-local neural networks": a block that lets every position see
every other one. y_i is a mean of g(x_j) over all positions j, weighted by softmax(theta(x_i) .
phi(x_j)) (section 3.2, embedded Gaussian), and z = W y + x (equation 6). theta, phi and g are 1x1
convolutions to half of the maps; a 2x2 max pooling after phi and g thins the positions j (section
3.3). Batch norm follows W; its scale starts at zero, so a fresh block is the identity (section
4.1).

One block stands right before the last residual block of res4 (table 2b), or five: two in res3 and
three in res4, after every other residual block (table 2c).

The ResNet-50 is torchvision's, so its keys and weights fit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.models.architecture import Architecture, Detail, Takes
from deepen.models.resnet import VARIANTS as RESNETS
from deepen.models.resnet import Bottleneck, ResNet


class NonLocalBlock(nn.Module):
    """Figure 2: z = batch norm(W y) + x, with y a mean over all positions, softmax for weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.w = nn.Conv2d(inner, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or name == "bn.weight":
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; from 2x2 px up."""
        theta = self.theta(x).flatten(2).transpose(1, 2)  # (B, H * W, C/2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)  # (B, C/2, H/2 * W/2)
        g = F.max_pool2d(self.g(x), 2).flatten(2).transpose(1, 2)  # (B, H/2 * W/2, C/2)
        attention = torch.softmax(theta @ phi, dim=-1)  # (B, H * W, H/2 * W/2)
        y = (attention @ g).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C/2, H, W)
        return self.bn(self.w(y)) + x


class NonLocalBottleneck(Bottleneck):
    """A residual block that keeps its shape, and a non-local one after it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 4, channels, (1, 1), "B")
        self.non_local = NonLocalBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.non_local(super().forward(x))


class Variant(NamedTuple):
    """After which residual blocks of res3 and res4, counted from zero, a non-local block stands."""

    res3: tuple[int, ...]
    res4: tuple[int, ...]


class NonLocalResNet(ResNet):
    """ResNet-50 with non-local blocks after some of its residual blocks, from 32 px up."""

    def __init__(self, variant: Variant, num_classes: int, in_channels: int) -> None:
        super().__init__(RESNETS["resnet50_v1_5"], num_classes, in_channels)
        stages = ((self.layer2, 512, variant.res3), (self.layer3, 1024, variant.res4))
        for blocks, channels, places in stages:
            for place in places:
                blocks[place] = NonLocalBottleneck(channels)


# Wang et al. 2018, table 2 (b) and (c).
VARIANTS: dict[str, Variant] = {
    "resnet50_nonlocal": Variant(res3=(), res4=(4,)),
    "resnet50_nonlocal5": Variant(res3=(1, 3), res4=(1, 3, 5)),
}


def _architecture(name: str, variant: Variant) -> Architecture:
    def build(num_classes: int, in_channels: int, input_size: tuple[int, int]) -> NonLocalResNet:
        return NonLocalResNet(variant, num_classes, in_channels)

    place = "table 2b: one, before the last residual block of res4"
    if variant.res3:
        place = "table 2c: five, after every other block of res3 and res4"
    details = (
        Detail("non-local block", "specified", "figure 2, embedded Gaussian; half of the maps"),
        Detail("pooling of phi and g", "specified", "section 3.3: max, 2x2"),
        Detail("batch norm after W", "specified", "section 4.1: its scale starts at zero"),
        Detail("number and place", "specified", place),
        Detail("biases; weights N(0, 0.01^2)", "inferred", "the authors' released code"),
        Detail("positions", "deviates", "of a picture, as section 5 on COCO; not of a video"),
        Detail("stride of ResNet-50", "inferred", "3x3 convolution: the authors' released code"),
    )
    takes = Takes(size_px=224, channels=3, num_classes=1000, min_px=ResNet.min_px)
    title = "Non-local neural networks"
    return Architecture(name, build, takes, "Wang et al. 2018", title, 2017, details)


ARCHITECTURES = [_architecture(name, variant) for name, variant in VARIANTS.items()]
