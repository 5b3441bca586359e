"""DenseNets against torchvision, the paper's tables and a reference written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from deepen.errors import InputError
from deepen.models import create_model
from deepen.models.densenet import VARIANTS, DenseNet, Variant

# Counted by hand: parameters and G multiply-accumulates on 3x224x224.
COUNTS = {
    "densenet121": (7_978_856, "2.834"),
    "densenet169": (14_149_480, "3.360"),
    "densenet201": (20_013_928, "4.291"),
    "densenet161": (28_681_000, "7.728"),
}
# Huang et al. 2017, table 2: depth and parameters in millions, as printed.
TABLE_2 = {
    "densenet40_12": (40, "1.0"),
    "densenet100_12": (100, "7.0"),
    "densenet100_24": (100, "27.2"),
    "densenet_bc100_12": (100, "0.8"),
    "densenet_bc250_24": (250, "15.3"),
    "densenet_bc190_40": (190, "25.6"),
}
QUICK = ("densenet121", "densenet40_12", "densenet_bc100_12")


def build_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def marked(names, quick=QUICK):
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, count):
    parameters, macs = count(name)
    assert (parameters, f"{macs / 1e9:.3f}") == COUNTS[name]


@pytest.mark.parametrize("name", TABLE_2)
def test_parameters_and_layers_are_table_2s(name):
    net, (depth, printed) = build_meta(name), TABLE_2[name]
    assert f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}" == printed
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth


def test_depth_of_the_imagenet_nets_is_in_their_names():
    for name in COUNTS:
        layers = [m for m in build_meta(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert f"densenet{len(layers)}" == name


@pytest.mark.parametrize("name", marked(COUNTS))
def test_is_torchvisions_with_its_weights(name, assert_twins):
    theirs = torchvision.models.get_model(name, num_classes=7)
    assert_twins(create_model(name, num_classes=7), theirs, torch.randn(2, 3, 33, 40))


def test_is_torchvisions_at_its_least_size(assert_twins):
    """29 px leave one pixel of the last block; 28 none."""
    theirs = torchvision.models.densenet121(num_classes=7).eval()
    assert create_model("densenet121").min_px == 29
    assert theirs(torch.randn(1, 3, 29, 29)).shape == (1, 7)
    with pytest.raises(InputError, match="29 px at least"):
        create_model("densenet121")(torch.zeros(1, 3, 28, 29))


@pytest.mark.parametrize("bc", [False, True])
def test_cifar_net_is_the_paper_written_out(bc):
    """Section 3: layers 2 + 3 + 1 with k = 3, from the weights alone, float64."""
    torch.manual_seed(0)
    k, num_layers = 3, (2, 3, 1)
    net = DenseNet(Variant(k, num_layers, bc), num_classes=5, in_channels=3).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_mean.normal_()
    state = net.state_dict()

    def take(*shape):
        """The next tensor of the state, in the order of the paper's layers."""
        key = next(iter(state))
        value = state.pop(key)
        assert tuple(value.shape) == shape, key
        return value

    def activate(x):
        c = x.shape[1]
        scale, shift, mean, var = (take(c) for _ in range(4))
        take()  # num_batches_tracked
        column = lambda v: v[None, :, None, None]  # noqa: E731
        normed = (x - column(mean)) / (column(var) + 1e-5).sqrt()
        return (normed * column(scale) + column(shift)).clamp(min=0)

    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    expected = net(x)
    maps = 2 * k if bc else 16
    x = F.conv2d(x, take(maps, 3, 3, 3), padding=1)
    for block, n in enumerate(num_layers):
        for _ in range(n):
            y = activate(x)
            if bc:
                y = activate(F.conv2d(y, take(4 * k, x.shape[1], 1, 1)))
            x = torch.cat([x, F.conv2d(y, take(k, y.shape[1], 3, 3), padding=1)], 1)
        if block < 2:
            kept = x.shape[1] // 2 if bc else x.shape[1]
            x = F.conv2d(activate(x), take(kept, x.shape[1], 1, 1))
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    x = activate(x).mean((2, 3))
    logits = x @ take(5, x.shape[1]).T + take(5)
    assert not state
    torch.testing.assert_close(expected, logits, rtol=1e-9, atol=1e-12)


def test_blocks_have_table_1s_sizes():
    net, shapes = build_meta("densenet121").eval(), []
    for name, child in net.features.named_children():
        if name.startswith("denseblock"):
            child.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    net(torch.zeros(1, 3, 224, 224, device="meta"))
    assert shapes == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (1024, 7, 7)]


@pytest.mark.parametrize("name", marked(VARIANTS, quick=("densenet40_12",)))
def test_serves(name, assert_serves):
    net = create_model(name, num_classes=5)
    px = net.min_px + 1
    assert_serves(net, torch.randn(2, 3, px, px))
