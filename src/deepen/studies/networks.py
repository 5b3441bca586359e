"""The CIFAR net of the studies: a stem, three stages of blocks, an output, of any width and block.

He et al. 2015, section 4.2, with what a study varies put in: the width, the block, the depth. With
16 maps and the paper's block it is the paper's net.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import nn

from deepen.layers import ImageClassifier, init_he, stages
from deepen.models.resnet import BasicBlock, Shortcut
from deepen.studies.study import Build

Block = Callable[[int, int, int], nn.Module]
"""Called with the maps that come in, those that go out, and the stride."""


class StudyNet(ImageClassifier):
    """6n + 2 layers where a block has two.

    Args:
        block: makes one.
        n: blocks a stage.
        width: maps of the first stage; the others have twice and four times as many.
        num_classes: length of the logits.
        in_channels: channels of the input.
        stem_norm: batch norm after the first convolution.
    """

    min_px = 8
    stage_layers = stages(
        conv1=("conv1", "bn1", F.relu),
        conv2_x=("layer1",),
        conv3_x=("layer2",),
        conv4_x=("layer3",),
    )

    def __init__(
        self,
        block: Block,
        n: int,
        width: int,
        num_classes: int,
        in_channels: int,
        stem_norm: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_classes, self.num_features = in_channels, num_classes, 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=not stem_norm)
        self.bn1 = nn.BatchNorm2d(width) if stem_norm else nn.Identity()
        self.layer1 = _stage(block, n, width, width, 1)
        self.layer2 = _stage(block, n, width, 2 * width, 2)
        self.layer3 = _stage(block, n, 2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, num_classes)
        self.apply(init_he)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """Those that are made of blocks."""
        return self.layer1, self.layer2, self.layer3


def _stage(block: Block, n: int, maps_in: int, maps_out: int, stride: int) -> nn.Sequential:
    """`n` blocks on maps of one size; the first of them changes the shape."""
    rest = (block(maps_out, maps_out, 1) for _ in range(n - 1))
    return nn.Sequential(block(maps_in, maps_out, stride), *rest)


def paper_block(option: Shortcut) -> Block:
    """The block of He et al. 2015 with an option for its shortcut; None: plain."""
    return lambda maps_in, maps_out, stride: BasicBlock(maps_in, maps_out, stride, option)


def net(block: Block, depth: int, width: int = 16, stem_norm: bool = True) -> Build:
    """A net of 6n + 2 layers."""
    n, rest = divmod(depth - 2, 6)
    assert rest == 0, f"depth {depth} is not 6n + 2"
    return lambda classes, channels, size: StudyNet(block, n, width, classes, channels, stem_norm)
