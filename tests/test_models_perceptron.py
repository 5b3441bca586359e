"""The perceptron and the multi-layer perceptron against their sums written out."""

from __future__ import annotations

import pytest
import torch

from deepen.models import create_model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("perceptron", 784 * 10 + 10), ("mlp", 784 * 300 + 300 + 300 * 10 + 10)],
)
def test_counts(name, parameters, count):
    weights = parameters - 10 - (300 if name == "mlp" else 0)
    assert count(name) == (parameters, weights)


def test_perceptron_is_a_weighted_sum():
    net, x = create_model("perceptron").double(), torch.randn(2, 1, 28, 28, dtype=torch.float64)
    expected = x.reshape(2, 784) @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_mlp_is_two_layers_with_a_sigmoid_between():
    net, x = create_model("mlp").double(), torch.randn(2, 1, 28, 28, dtype=torch.float64)
    hidden = x.reshape(2, 784) @ net.hidden[0].weight.T + net.hidden[0].bias
    hidden = 1 / (1 + (-hidden).exp())
    expected = hidden @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
