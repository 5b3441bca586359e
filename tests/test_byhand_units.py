"""Linear layer, activations, normalization, dropout and losses by hand, against autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deepen.byhand import batch_norm, dropout, losses
from deepen.byhand.activations import (
    ACTIVATIONS,
    elu,
    elu_backward,
    leaky_relu,
    leaky_relu_backward,
    maxout,
    maxout_backward,
    swish,
    swish_backward,
)
from deepen.byhand.linear import linear, linear_backward
from deepen.byhand.local_response import local_response, local_response_backward
from deepen.errors import InputError

SIDES = st.integers(1, 5)
SEEDS = st.integers(0, 99)


@given(num=SIDES, inputs=SIDES, outputs=SIDES, seed=SEEDS)
def test_linear_agrees_with_autograd(num, inputs, outputs, seed, assert_autograd):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((num, inputs)), rng.standard_normal((outputs, inputs))
    bias = rng.standard_normal(outputs)
    assert_autograd(
        F.linear,
        [x, weight, bias],
        linear(x, weight, bias),
        lambda grad: linear_backward(grad, x, weight),
    )


def test_linear_is_the_lectures_formula():
    """Lecture 002: F2 = W^T F1 + b, F1 a column."""
    rng = np.random.default_rng(0)
    W, F1, b = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal(2)
    np.testing.assert_allclose(linear(F1[None], W.T, b)[0], W.T @ F1 + b, rtol=1e-12)


TORCH = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "swish": F.silu,
}


@pytest.mark.parametrize("name", TORCH)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=SEEDS)
def test_activation_agrees_with_autograd(name, shape, seed, assert_autograd):
    x = np.random.default_rng(seed).normal(0, 3, shape)
    x.flat[0] = 0  # the kink
    y, back = ACTIVATIONS[name].forward(x), ACTIVATIONS[name].backward
    assert_autograd(TORCH[name], [x], y, lambda grad: [back(grad, x)])


@given(strength=st.floats(0.01, 3), seed=SEEDS)
def test_activations_with_a_constant_agree_with_autograd(strength, seed, assert_autograd):
    x = np.random.default_rng(seed).normal(0, 3, (3, 4))
    for ours, back, theirs in (
        (leaky_relu, leaky_relu_backward, F.leaky_relu),
        (elu, elu_backward, F.elu),
        (swish, swish_backward, lambda x, beta: x * torch.sigmoid(beta * x)),
    ):
        assert_autograd(
            lambda x, f=theirs: f(x, strength),
            [x],
            ours(x, strength),
            lambda grad, b=back: [b(grad, x, strength)],
        )


@pytest.mark.parametrize("name", TORCH)
def test_activation_overflows_nowhere(name):
    x = np.array([-1e3, 1e3])
    f = ACTIVATIONS[name]
    assert np.isfinite(f.forward(x)).all()
    assert np.isfinite(f.backward(np.ones(2), x)).all()


@given(
    units=st.integers(1, 3), pieces=st.integers(1, 4), size=st.lists(SIDES, max_size=2), seed=SEEDS
)
def test_maxout_agrees_with_autograd(units, pieces, size, seed, assert_autograd):
    x = np.random.default_rng(seed).standard_normal((2, units * pieces, *size))
    assert_autograd(
        lambda x: x.unflatten(1, (units, pieces)).max(2).values,
        [x],
        maxout(x, pieces),
        lambda grad: [maxout_backward(grad, x, pieces)],
    )


def test_of_equal_pieces_the_first_wins():
    assert maxout_backward(np.ones((1, 1)), np.zeros((1, 2))).tolist() == [[1, 0]]


def channels(seed: int, num: int, count: int, size: list[int]) -> tuple[np.ndarray, ...]:
    """Maps of `count` channels that differ in mean and spread, and two values for each."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, count).reshape(-1, *(1,) * len(size))
    x = rng.standard_normal((num, count, *size)) * spread + 3 * spread
    return x, rng.standard_normal(count), rng.standard_normal(count)


MAPS = {"seed": SEEDS, "num": st.integers(2, 4), "count": SIDES}
SIZE = st.sampled_from([[], [1, 1], [2, 3], [4, 1]])


@given(**MAPS, size=SIZE)
def test_batch_norm_in_training_agrees_with_autograd(num, count, size, seed, assert_autograd):
    x, gamma, beta = channels(seed, num, count, size)
    assert_autograd(
        lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, training=True),
        [x, gamma, beta],
        batch_norm.batch_norm(x, gamma, beta),
        lambda grad: batch_norm.batch_norm_backward(grad, x, gamma),
    )


@given(**MAPS, size=SIZE)
def test_batch_norm_in_evaluation_agrees_with_autograd(num, count, size, seed, assert_autograd):
    x, gamma, beta = channels(seed, num, count, size)
    mean, variance = np.arange(count) / 7, np.arange(1.0, count + 1)
    statistics = torch.from_numpy(mean), torch.from_numpy(variance)
    assert_autograd(
        lambda x, gamma, beta: F.batch_norm(x, *statistics, gamma, beta),
        [x, gamma, beta],
        batch_norm.evaluate(x, gamma, beta, mean, variance),
        lambda grad: batch_norm.evaluate_backward(grad, x, gamma, mean, variance),
    )


@given(**MAPS, size=SIZE, momentum=st.floats(0.01, 1))
def test_running_statistics_are_torchs(num, count, size, seed, momentum):
    x, mean, _ = channels(seed, num, count, size)
    variance = np.arange(1.0, count + 1)
    theirs = torch.tensor(mean), torch.tensor(variance)
    F.batch_norm(torch.from_numpy(x), *theirs, training=True, momentum=momentum)
    for ours, expected in zip(batch_norm.running(x, mean, variance, momentum), theirs, strict=True):
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-10)


def test_gradient_through_batch_norm_neither_shifts_nor_scales():
    x, gamma, beta = channels(0, 4, 3, [2, 2])
    grad = np.random.default_rng(1).standard_normal(x.shape)
    d_x = batch_norm.batch_norm_backward(grad, x, gamma, eps=0)[0]
    xhat = batch_norm.batch_norm(x, np.ones(3), 0 * beta, eps=0)
    np.testing.assert_allclose(d_x.sum((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose((d_x * xhat).sum((0, 2, 3)), 0, atol=1e-12)


@given(n=st.sampled_from([1, 3, 5, 7]), count=st.integers(1, 8), size=SIZE, seed=SEEDS)
def test_local_response_agrees_with_autograd(n, count, size, seed, assert_autograd):
    """Torch divides alpha by n: handed n alpha, it is the paper's."""
    x = np.random.default_rng(seed).normal(0, 3, (2, count, *(size or [1])))
    constants = {"k": 1.5, "alpha": 0.2, "beta": 0.6}
    theirs = {**constants, "alpha": n * 0.2}
    assert_autograd(
        lambda x: F.local_response_norm(x, n, **theirs),
        [x],
        local_response(x, n, **constants),
        lambda grad: [local_response_backward(grad, x, n, **constants)],
    )


def test_local_response_has_the_papers_constants():
    """Krizhevsky et al. 2012, section 3.3, written out for one channel of nine."""
    a = np.random.default_rng(0).normal(0, 50, (1, 9))
    i, N, n, k, alpha, beta = 7, 9, 5, 2, 1e-4, 0.75
    j = range(max(0, i - n // 2), min(N - 1, i + n // 2) + 1)
    expected = a[0, i] / (k + alpha * sum(a[0, index] ** 2 for index in j)) ** beta
    assert math.isclose(local_response(a)[0, i], expected, rel_tol=1e-12)


def test_window_without_a_middle_is_refused():
    with pytest.raises(InputError, match="odd, not 4"):
        local_response(np.zeros((1, 8)), n=4)


@given(p=st.floats(0.1, 1), shape=st.lists(SIDES, min_size=1, max_size=3), seed=SEEDS)
def test_dropout_agrees_with_autograd(p, shape, seed, assert_autograd):
    rng = np.random.default_rng(seed)
    x, mask = rng.standard_normal(shape), dropout.draw_mask(tuple(shape), p, rng)
    kept = torch.from_numpy(mask)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert_autograd(
        lambda x: x * kept,
        [x],
        dropout.vanilla_dropout(x, mask),
        lambda grad: [dropout.vanilla_dropout_backward(grad, mask)],
    )
    assert_autograd(
        lambda x: x * kept / p,
        [x],
        dropout.inverted_dropout(x, mask, p),
        lambda grad: [dropout.inverted_dropout_backward(grad, mask, p)],
    )


def test_inverted_dropout_is_torchs_given_its_mask():
    """Torch's p is the probability of dropping."""
    theirs = F.dropout(torch.ones(1000, dtype=torch.float64), 0.3).numpy()
    ours = dropout.inverted_dropout(np.ones(1000), (theirs != 0) * 1.0, 0.7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_both_dropouts_keep_the_mean():
    x, mask = np.ones(100_000), dropout.draw_mask((100_000,), 0.3, np.random.default_rng(0))
    assert abs(mask.mean() - 0.3) < 0.01
    assert (
        abs(dropout.vanilla_dropout(x, mask).mean() - dropout.vanilla_predict(x, 0.3).mean()) < 0.01
    )
    assert abs(dropout.inverted_dropout(x, mask, 0.3).mean() - 1) < 0.03


@given(num=SIDES, classes=st.integers(2, 6), scale=st.sampled_from([1.0, 300.0]), seed=SEEDS)
def test_cross_entropy_agrees_with_autograd(num, classes, scale, seed, assert_autograd):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, scale, (num, classes)), rng.integers(0, classes, num)
    assert_autograd(
        lambda logits: F.cross_entropy(logits, torch.from_numpy(labels))[None],
        [logits],
        np.array([losses.cross_entropy(logits, labels)]),
        lambda grad: [grad * losses.cross_entropy_backward(logits, labels)],
    )
    assert_autograd(
        lambda logits: logits.softmax(1),
        [logits],
        losses.softmax(logits),
        lambda grad: [losses.softmax_backward(grad, logits)],
    )


@given(shape=st.lists(SIDES, min_size=1, max_size=3), delta=st.floats(0.1, 3), seed=SEEDS)
def test_losses_for_values_agree_with_autograd(shape, delta, seed, assert_autograd):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(0, 2, shape), rng.normal(0, 2, shape)
    target.flat[0] = prediction.flat[0]  # the kink of L1
    kinds = [
        (F.mse_loss, losses.l2, losses.l2_backward, {}),
        (F.l1_loss, losses.l1, losses.l1_backward, {}),
        (F.huber_loss, losses.huber, losses.huber_backward, {"delta": delta}),
        (F.smooth_l1_loss, losses.huber, losses.huber_backward, {}),
    ]
    for theirs, ours, back, constants in kinds:
        assert_autograd(
            lambda p, f=theirs, c=constants: f(p, torch.from_numpy(target), **c)[None],
            [prediction],
            np.array([ours(prediction, target, **constants)]),
            lambda grad, b=back, c=constants: [grad * b(prediction, target, **c)],
        )
