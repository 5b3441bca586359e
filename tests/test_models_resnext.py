"""ResNeXts against torchvision, the paper's tables and the paper's own equivalent form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from deepen.models import create_model
from deepen.models.resnext import VARIANTS, CifarResNeXt, aggregated

# Counted by hand: parameters and G multiply-accumulates on the paper's input.
COUNTS = {
    "resnext50_32x4d": (25_028_904, "4.230"),
    "resnext101_32x4d": (44_177_704, "7.970"),
    "resnext101_32x8d": (88_791_336, "16.414"),
    "resnext101_64x4d": (83_455_272, "15.460"),
    "resnext29_8x64d": (34_426_698, "5.387"),
    "resnext29_16x64d": (68_155_210, "10.689"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, count):
    parameters, macs = count(name)
    assert (parameters, f"{macs / 1e9:.3f}") == COUNTS[name]


def test_depth_is_in_the_names():
    for name in VARIANTS:
        with torch.device("meta"):
            net = create_model(name)
        layers = [
            m
            for key, m in net.named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in key
        ]
        assert name.split("_")[0] == f"resnext{len(layers)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"])
def test_is_torchvisions_with_its_weights(name, assert_twins):
    theirs = torchvision.models.get_model(name, num_classes=7)
    assert_twins(create_model(name, num_classes=7), theirs, torch.randn(2, 3, 33, 40))


def test_cifar_net_is_torchvisions_with_the_papers_stem(assert_twins):
    """Section 5.3 with C = 2, d = 8: theirs without pooling and without the fourth stage."""
    theirs = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [3, 3, 3, 1], groups=2, width_per_group=8
    )
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = theirs.layer4 = nn.Identity()
    theirs.fc = nn.Linear(1024, 7)
    assert_twins(CifarResNeXt(aggregated(2, 8), 7, 3), theirs, torch.randn(2, 3, 9, 12))


def test_groups_are_the_sum_of_paths():
    """Figure 3: the grouped form (c) is the sum (a) of C paths of 1x1, 3x3 and 1x1 convolutions."""
    block = aggregated(4, 8)(32, 256, 2, "B").double().eval()
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    norm = (1 + 1e-5) ** 0.5  # batch norm at its start, in evaluation
    total = block.downsample(x)
    for path in range(4):
        mine = slice(8 * path, 8 * path + 8)
        y = F.relu(F.conv2d(x, block.conv1.weight[mine]) / norm)
        y = F.relu(F.conv2d(y, block.conv2.weight[mine], stride=2, padding=1) / norm)
        total = total + F.conv2d(y, block.conv3.weight[:, mine]) / norm
    torch.testing.assert_close(block(x), F.relu(total), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("cardinality", "width"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)])
def test_templates_of_equal_complexity_weigh_the_same(cardinality, width):
    """Table 2: about 70K weights in a block of conv2, whatever the cardinality."""
    block = aggregated(cardinality, width)(256, 256, 1, "B")
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == cardinality * (256 * width + 9 * width * width + width * 256)
    assert round(weights, -4) == 70_000


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "resnext50_32x4d" else pytest.mark.slow) for n in VARIANTS],
)
def test_serves(name, assert_serves):
    net = create_model(name, num_classes=5)
    px = net.min_px
    assert_serves(net, torch.randn(2, 3, px, px))
