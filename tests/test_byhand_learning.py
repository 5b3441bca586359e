"""Descent, the residual block and a whole LeNet by hand, against torch doing the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from deepen.byhand import lenet, optimization, residual

SHARES = st.floats(0, 0.99)


@given(
    momentum=st.floats(0.01, 0.99),
    weight_decay=SHARES,
    nesterov=st.booleans(),
    rates=st.lists(st.floats(0.001, 1), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_sgd_is_torchs_at_every_step(momentum, weight_decay, nesterov, rates, seed):
    rng = np.random.default_rng(seed)
    weight, velocity = rng.standard_normal((2, 3)), np.zeros((2, 3))
    theirs = nn.Parameter(torch.tensor(weight))
    settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = torch.optim.SGD([theirs], lr=1, **settings)
    for lr in rates:
        gradient = rng.standard_normal((2, 3))
        optimizer.param_groups[0]["lr"] = lr
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        weight, velocity = optimization.sgd_step(weight, gradient, velocity, lr=lr, **settings)
        np.testing.assert_allclose(weight, theirs.detach().numpy(), rtol=1e-10, atol=1e-10)


@given(momentum=SHARES, weight_decay=SHARES, lr=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_momentum_of_the_lecture_is_torchs_at_a_constant_rate(momentum, weight_decay, lr, seed):
    rng = np.random.default_rng(seed)
    ours = theirs = np.array([1.0, -2.0])
    step = velocity = np.zeros(2)
    settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    for gradient in rng.standard_normal((5, 2)):
        ours, step = optimization.krizhevsky_step(ours, gradient, step, **settings)
        theirs, velocity = optimization.sgd_step(theirs, gradient, velocity, **settings)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_krizhevskys_step_is_the_papers():
    """Section 5: v = 0.9 v - 0.0005 eps w - eps grad; w = w + v."""
    w, v, grad, eps = 2.0, 0.1, 3.0, 0.01
    expected = 0.9 * v - 0.0005 * eps * w - eps * grad
    found = optimization.krizhevsky_step(np.array(w), np.array(grad), np.array(v), lr=eps)
    np.testing.assert_allclose(found, (w + expected, expected), rtol=1e-12)


def test_penalties_have_the_gradients_of_their_formulas():
    weight = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    for penalty, ours in (
        (0.1 * weight.square().sum() / 2, optimization.l2_penalty_gradient),
        (0.1 * weight.abs().sum(), optimization.l1_penalty_gradient),
    ):
        (expected,) = torch.autograd.grad(penalty, weight)
        np.testing.assert_allclose(ours(weight.detach().numpy(), 0.1), expected.numpy())


def torch_block(x: Tensor, weight1: Tensor, weight2: Tensor) -> Tensor:
    branch = F.conv2d(F.relu(F.conv2d(x, weight1, padding=1)), weight2, padding=1)
    return F.relu(branch + x)


@given(shape=st.tuples(*[st.integers(1, 4)] * 4), seed=st.integers(0, 99))
def test_residual_block_agrees_with_autograd(shape, seed, assert_autograd):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    weights = rng.normal(0, 0.5, (2, shape[1], shape[1], 3, 3))

    def backward(grad: np.ndarray) -> list[np.ndarray]:
        found = residual.residual_block_backward(grad, x, *weights)
        return [found.x, found.weight1, found.weight2]

    y = residual.residual_block(x, *weights)
    assert_autograd(torch_block, [x, *weights], y, backward)


def test_identity_path_brings_the_gradient_whatever_the_weights():
    rng = np.random.default_rng(0)
    x, grad = rng.uniform(1, 2, (1, 2, 4, 4)), rng.standard_normal((1, 2, 4, 4))
    for scale in (0, 1e-8, 0.01):  # small enough that the ReLU after the sum lets all pass
        weights = scale * rng.standard_normal((2, 2, 2, 3, 3))
        found = residual.residual_block_backward(grad, x, *weights)
        assert np.array_equal(found.identity_path, grad)
    assert np.array_equal(residual.residual_block_backward(grad, x, *(0 * weights)).x, grad)


@given(slopes=st.lists(st.floats(-0.9, 0.9), min_size=1, max_size=20))
def test_chains_agree_with_autograd(slopes):
    """One-number layers: plain x -> a x, residual x -> x + a x, highway's carry x -> (1 - a) x."""
    layers = {
        residual.plain_chain: lambda x, a: a * x,
        residual.residual_chain: lambda x, a: x + a * x,
        residual.highway_carry_chain: lambda x, a: (1 - a) * x,
    }
    for chain, layer in layers.items():
        x = start = torch.ones((), dtype=torch.float64, requires_grad=True)
        for slope in slopes:
            x = layer(x, slope)
        (expected,) = torch.autograd.grad(x, start)
        np.testing.assert_allclose(chain(np.array(slopes)), expected.item(), rtol=1e-10, atol=1e-10)


class TorchLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 16, 3, padding=1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits, (1797, 1, 8, 8) in 0..1, and their classes."""
    values, labels = load_digits(return_X_y=True)
    return values.reshape(-1, 1, 8, 8) / 16, labels


def train_both(num_steps: int | None, num_epochs: int) -> tuple[lenet.Parameters, TorchLeNet]:
    """The LeNet by hand and torch's, from the same weights over the same pictures in one order."""
    images, labels = digits()
    half = len(images) // 2
    rng = np.random.default_rng(0)
    ours = lenet.initialize(rng)
    net = TorchLeNet().double()
    net.load_state_dict({name: torch.tensor(value) for name, value in ours.items()})
    batches = list(lenet.shuffled_batches(half, 32, num_epochs, rng))[:num_steps]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    losses = lenet.train(ours, images, labels, batches, lr=0.02, momentum=0.9, weight_decay=5e-4)
    for batch, loss in zip(batches, losses, strict=True):
        optimizer.zero_grad()
        theirs = F.cross_entropy(
            net(torch.from_numpy(images[batch])), torch.from_numpy(labels[batch])
        )
        theirs.backward()
        optimizer.step()
        if num_steps is not None:
            assert abs(loss - theirs.item()) < 1e-10
    return ours, net


def test_lenet_takes_the_steps_of_torchs():
    ours, net = train_both(num_steps=4, num_epochs=1)
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=1e-10, atol=1e-10)


def test_every_picture_is_seen_once_an_epoch_in_a_new_order():
    batches = list(lenet.shuffled_batches(10, 4, 2, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()


@pytest.mark.slow
def test_lenet_reaches_the_error_of_torchs():
    """Scikit-learn's split: trained on the first half of the digits, tested on the second."""
    ours, net = train_both(num_steps=None, num_epochs=20)
    images, labels = digits()
    test, truth = images[len(images) // 2 :], labels[len(images) // 2 :]
    with torch.no_grad():
        theirs = net(torch.from_numpy(test)).argmax(1).numpy()
    assert np.array_equal(lenet.predict(ours, test).argmax(1), theirs)
    assert lenet.error_percent(ours, test, truth) == (theirs != truth).mean() * 100 < 10
    for name, value in net.state_dict().items():  # 580 steps later
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=0, atol=1e-8)
