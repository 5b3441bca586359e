"""Highway networks against their equation written out and the paper's printed counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepen.models import create_model
from deepen.models.highway import VARIANTS, Highway, conv3x3, linear

# "Training very deep networks", tables 1 and 2: parameters as printed; and as counted by hand.
COUNTS = {
    "highway10_16": ("39K", 38_986),
    "highway10_32": ("151K", 151_690),
    "highway19": ("2.3M", 2_256_838),
    "highway_mlp10": (None, 784 * 50 + 50 + 9 * 2 * (50 * 50 + 50) + 50 * 10 + 10),
    "highway_mlp100": (None, 784 * 50 + 50 + 99 * 2 * (50 * 50 + 50) + 50 * 10 + 10),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, count):
    printed, counted = COUNTS[name]
    parameters, _ = count(name)
    assert parameters == counted
    if printed is not None:
        # The paper rounds 38,986 and 2,256,838; 151,690 it truncates.
        as_printed = (
            f"{parameters // 1000}K",
            f"{parameters / 1e3:.0f}K",
            f"{parameters / 1e6:.1f}M",
        )
        assert printed in as_printed


@pytest.mark.parametrize(
    ("name", "layers"),
    [("highway19", 19), ("highway10_16", 10), ("highway_mlp10", 11), ("highway_mlp50", 51)],
)
def test_layers(name, layers):
    """H and T are one layer. The fully connected nets' names leave out the softmax layer."""
    net = create_model(name)
    plain = [
        m
        for key, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and not key.endswith((".transform", ".gate"))
    ]
    highways = [m for m in net.modules() if isinstance(m, Highway)]
    assert len(plain) + len(highways) == layers


def test_layer_is_equation_3():
    x = torch.randn(3, 5, dtype=torch.float64)
    layer = linear(5, -2.0).double()
    (wh, bh), (wt, bt) = ((m.weight, m.bias) for m in (layer.transform, layer.gate))
    h = (x @ wh.T + bh).clamp(min=0)
    t = 1 / (1 + (-(x @ wt.T + bt)).exp())
    torch.testing.assert_close(layer(x), h * t + x * (1 - t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [linear, conv3x3])
def test_gate_shut_carries_and_gate_open_transforms(make):
    """Equation 4: y = x if T = 0, H(x) if T = 1."""
    layer = make(4, 0.0)
    x = torch.randn(2, 4, 6, 4) if make is conv3x3 else torch.randn(2, 4)
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, -1e4)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gate.bias, 1e4)
    torch.testing.assert_close(layer(x), F.relu(layer.transform(x)))


@pytest.mark.parametrize(
    ("name", "bias"), [("highway19", -2), ("highway10_16", -1), ("highway_mlp10", -2)]
)
def test_gates_start_nearly_shut(name, bias):
    net = create_model(name)
    for layer in net.modules():
        if isinstance(layer, Highway):
            assert (layer.gate.bias == bias).all()
            assert (layer.transform.bias == 0).all()


def reference19(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The nineteen layers of the released file in a row, from the weights alone, in evaluation."""
    state = iter(net.state_dict().values())

    def conv(x, out, kernel):
        weight, bias = next(state), next(state)
        assert tuple(weight.shape) == (out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, bias, padding=kernel // 2)

    for maps, highways in ((32, 4), (80, 5), (128, 5)):
        if maps != 32:
            b, c, h, w = x.shape
            x = x.reshape(b, c, h // 2, 2, w // 2, 2).amax((3, 5))
        x = conv(x, maps, 3).clamp(min=0)
        for _ in range(highways):
            h = conv(x, maps, 3).clamp(min=0)
            t = conv(x, maps, 3).sigmoid()
            x = h * t + x * (1 - t)
    x = conv(x, 100, 1).clamp(min=0).mean((2, 3))
    return x @ next(state).T + next(state)


def test_highway19_is_the_released_file_written_out():
    net = create_model("highway19").double().eval()
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x), reference19(net, x), rtol=1e-9, atol=1e-12)


def test_mnist_net_has_the_released_files_sizes():
    net, shapes = create_model("highway10_16").eval(), []
    for m in net.features:
        if isinstance(m, nn.MaxPool2d):
            m.register_forward_hook(lambda m, i, o: shapes.append((i[0].shape[-1], o.shape[-1])))
    net(torch.zeros(1, 1, 28, 28))
    assert shapes == [(24, 12), (12, 6), (6, 3)]
    rates = [m.p for m in net.features if isinstance(m, nn.Dropout)]
    assert rates == [0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("px", [16, 17, 19, 23, 30])
def test_mnist_net_can_be_built_for_other_sizes(px):
    net = create_model("highway10_16", input_size=(px, px + 5))
    assert net.eval()(torch.zeros(2, 1, px, px + 5)).shape == (2, 10)


def test_deep_net_passes_its_input_and_its_gradient():
    """Section 3: ninety-nine layers, and the first still learns."""
    net = create_model("highway_mlp100")
    x = torch.rand(16, 1, 28, 28)
    nn.functional.cross_entropy(net(x), torch.arange(16) % 10).backward()
    first, last = (layer.transform.weight.grad.norm() for layer in (net.layers[0], net.layers[-1]))
    assert first > last / 100


@pytest.mark.parametrize("name", VARIANTS)
def test_serves(name, assert_serves):
    net = create_model(name)
    size = net.input_size or (8, 12)
    assert_serves(net, torch.randn(2, net.in_channels, *size))
