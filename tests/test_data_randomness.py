"""Uniforms and permutations: known values, statistics, and independence of the batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deepen.data.randomness import _GOLDEN, _mix, permutation, uniforms

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10**6)


def test_hash_is_splitmix64():
    # The first outputs of Vigna's splitmix64.c for the seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    bits = _mix(1234567 + torch.arange(1, 4) * _GOLDEN)
    assert [value % 2**64 for value in bits.tolist()] == expected


@given(seeds, epochs, st.permutations(range(12)), st.integers(1, 12), st.integers(0, 5))
def test_uniforms_do_not_depend_on_the_batch(seed, epoch, order, cut, num):
    whole = uniforms(seed, epoch, torch.arange(12), num)
    parts = [
        uniforms(seed, epoch, torch.tensor(part), num)
        for part in (order[:cut], order[cut:])
        if part
    ]
    assert torch.equal(torch.cat(parts), whole[list(order)])


@given(seeds, epochs, st.integers(0, 2**62))
def test_first_draws_do_not_depend_on_their_number(seed, epoch, index):
    indices = torch.tensor([index])
    assert torch.equal(uniforms(seed, epoch, indices, 9)[:, :4], uniforms(seed, epoch, indices, 4))


@given(seeds, epochs)
def test_uniforms_are_multiples_of_a_24th_power_in_0_1(seed, epoch):
    u = uniforms(seed, epoch, torch.arange(100), 5)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    steps = u.double() * 2**24
    assert torch.equal(steps, steps.round())


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (2**63 - 1, 300)])
def test_each_draw_is_uniform(seed, epoch):
    u = uniforms(seed, epoch, torch.arange(20_000), 4)
    for draw in u.T:
        assert stats.kstest(draw.numpy(), "uniform").pvalue > 1e-3
        assert stats.chisquare(torch.histc(draw, 64, 0, 1).numpy()).pvalue > 1e-3


def test_draws_of_one_sample_over_epochs_and_seeds_are_uniform():
    index = torch.tensor([7])
    over_epochs = torch.cat([uniforms(3, epoch, index, 1) for epoch in range(1500)])
    over_seeds = torch.cat([uniforms(seed, 3, index, 1) for seed in range(1500)])
    for drawn in (over_epochs, over_seeds):
        assert stats.kstest(drawn[:, 0].numpy(), "uniform").pvalue > 1e-3


def _pairs():
    indices = torch.arange(40_000)
    here = uniforms(5, 2, indices, 2)
    return {
        "draws": (here[:, 0], here[:, 1]),
        "neighbours": (here[:-1, 0], here[1:, 0]),
        "neighbour's next draw": (here[:-1, 1], here[1:, 0]),
        "epochs": (here[:, 0], uniforms(5, 3, indices, 1)[:, 0]),
        "seeds": (here[:, 0], uniforms(6, 2, indices, 1)[:, 0]),
        "seed and epoch changed over": (here[:, 0], uniforms(2, 5, indices, 1)[:, 0]),
        "streams": (here[:, 0], uniforms(5, 2, indices, 1, stream=1)[:, 0]),
        "index and place in the order": (permutation(5, 2, 40_000) / 40_000, here[:, 0]),
    }


@pytest.mark.parametrize("name", _pairs())
def test_pairs_are_independent(name):
    first, second = _pairs()[name]
    cells = (first * 16).long() * 16 + (second * 16).long()
    assert stats.chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02


@given(seeds, epochs, st.integers(0, 300))
def test_permutation_holds_each_index_once(seed, epoch, n):
    order = permutation(seed, epoch, n)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, permutation(seed, epoch, n))


def test_all_orders_are_equally_likely():
    seen = [tuple(permutation(1, epoch, 4).tolist()) for epoch in range(3000)]
    counts = [seen.count(order) for order in itertools.permutations(range(4))]
    assert sum(counts) == 3000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_torchs_own_generator_is_left_alone():
    before = torch.random.get_rng_state()
    uniforms(0, 0, torch.arange(5), 3)
    permutation(0, 0, 5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_bits_on_the_gpu():
    indices = torch.arange(1000)
    there = uniforms(9, 4, indices.cuda(), 5)
    assert there.is_cuda
    assert torch.equal(there.cpu(), uniforms(9, 4, indices, 5))
