"""The CIFAR net of the studies: a stem, three stages of blocks, an output, of any width and block.

He et al. 2015, section 4.2, with what a study varies put in: the width, the block, the depth. With
16 maps and the paper's block it is the paper's net.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.layers import ImageClassifier, init_he
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
        maps = width
        for stage in range(3):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(maps, width * 2**stage, stride))
                maps = width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(maps, num_classes)
        self.apply(init_he)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The three stages."""
        stages = (self.get_submodule(f"layer{i}") for i in (1, 2, 3))
        return [stage for stage in stages if isinstance(stage, nn.Sequential)]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, 4 width, H/4, W/4)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return x


def paper_block(option: Shortcut) -> Block:
    """The block of He et al. 2015 with an option for its shortcut; None: plain."""
    return lambda maps_in, maps_out, stride: BasicBlock(maps_in, maps_out, stride, option)


def net(block: Block, depth: int, width: int = 16, stem_norm: bool = True) -> Build:
    """A net of 6n + 2 layers."""
    n, rest = divmod(depth - 2, 6)
    assert rest == 0, f"depth {depth} is not 6n + 2"
    return lambda classes, channels, size: StudyNet(block, n, width, classes, channels, stem_norm)
