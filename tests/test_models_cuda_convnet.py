"""The four-layer network of AlexNet's figure 1 against cuda-convnet's definition, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.models import create_model, list_models

# Lecture 002, by formula.
FORMULAS = {
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "relu": lambda x: x.clamp(0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "selu": lambda x: (
        1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1))
    ),
    "swish": lambda x: x / (1 + (-x).exp()),
    "maxout": lambda x: torch.maximum(x[:, ::2], x[:, 1::2]),
}


def layers(net: nn.Module) -> list[nn.Conv2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


def written_out(net: nn.Module, x: Tensor, f) -> Tensor:
    """Rounded up, 3x3 pooling with stride 2 has one more column that may stick out."""
    first, second, third = ((m.weight, m.bias) for m in layers(net))
    x = F.conv2d(F.pad(x, [2] * 4), *first)
    x = F.pad(x, (0, 1, 0, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    for weight, bias in (second, third):
        x = f(x) if weight is second[0] else x
        x = f(F.conv2d(F.pad(x, [2] * 4), weight, bias))
        sums, counts = (
            F.pad(maps, (0, 1, 0, 1)).unfold(2, 3, 2).unfold(3, 3, 2).sum((-1, -2))
            for maps in (x, torch.ones_like(x))
        )
        x = sums / counts
    return x.flatten(1) @ net.fc.weight.T + net.fc.bias


def test_there_is_one_for_each_non_linearity():
    assert list_models("convnet4_*") == [f"convnet4_{name}" for name in FORMULAS]


def test_counts(count):
    # Caffe's cifar10_full is known by its 89,578 parameters.
    macs = 32 * 32 * 32 * 75 + 16 * 16 * 32 * 800 + 8 * 8 * 64 * 800 + 10 * 1024
    assert count("convnet4_relu") == (89_578, macs)
    assert count("convnet4_tanh") == (89_578, macs)
    assert count("convnet4_maxout") == (2 * (89_578 - 10_250) + 10_250, 2 * macs - 10 * 1024)


@pytest.mark.parametrize("name", FORMULAS)
def test_forward_and_gradient_agree_with_the_definition_written_out(name):
    net = create_model(f"convnet4_{name}", num_classes=5).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, expected = net(a), written_out(net, b, FORMULAS[name])
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours.square().sum().backward()
    expected.square().sum().backward()
    scale = b.grad.abs().max().item()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize(("name", "gain"), [("relu", 2), ("swish", 2), ("tanh", 1), ("selu", 1)])
def test_initial_weights_go_by_fan_in(name, gain):
    net = create_model(f"convnet4_{name}")
    for layer in (*layers(net), net.fc):
        fan_in = layer.weight[0].numel()
        assert abs(layer.weight.std().item() / (gain / fan_in) ** 0.5 - 1) < 0.06
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    "name", [n if n == "relu" else pytest.param(n, marks=pytest.mark.slow) for n in FORMULAS]
)
def test_serves(name, assert_serves):
    net = create_model(f"convnet4_{name}", in_channels=1, input_size=(29, 14))
    assert_serves(net, torch.randn(4, 1, 29, 14))
