"""Intervals, paired tests, calibration, trees of classes, ensembles: against what others find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss

from deepen.errors import InputError
from deepen.evaluation.calibration import expected_error, fit_temperature, reliability
from deepen.evaluation.ensembles import combine, examine, greedy
from deepen.evaluation.hierarchy import hierarchical_error, read_hierarchy
from deepen.evaluation.intervals import interval, over_seeds
from deepen.evaluation.paired import compare, mcnemar


def test_the_interval_is_wilsons():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        found = interval(hits / n, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    words = interval(0.955, 1000)
    assert words.in_words == "95.50% (95% interval 94.0 to 96.6%, n 1,000)"
    assert words.complement.low == pytest.approx(1 - words.high)
    assert interval(0, 0)[1:] == (0, 1, 0)


def test_of_one_picture_and_all_right_the_interval_is_wide():
    assert interval(1.0, 1).low == pytest.approx(0.2065, abs=1e-4)  # 1 / (1 + z^2)


@pytest.mark.parametrize("n", [50, 300])
def test_the_intervals_cover_as_often_as_they_say(n):
    rng = np.random.default_rng(n)
    trials, covered, paired = 1000, 0, 0
    for _ in range(trials):
        p, q, both = rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95), rng.uniform(0, 0.8)
        common = rng.random(n) < both  # on these the second does as the first
        first = rng.random(n) < p
        second = np.where(common, first, rng.random(n) < q)
        found = interval(first.mean(), n)
        covered += found.low <= p <= found.high
        truth = (1 - both) * (q - p)
        pair = compare(torch.from_numpy(first), torch.from_numpy(second))
        paired += pair.low <= truth <= pair.high
    assert 0.93 <= covered / trials <= 0.97
    assert 0.93 <= paired / trials <= 0.97


def test_seeds_are_held_against_chance():
    found = over_seeds([0.90, 0.92, 0.91], 1000)
    assert found.mean == pytest.approx(0.91)
    assert found.spread == pytest.approx(0.01)
    assert found.by_chance == pytest.approx(0.00905, abs=1e-5)
    reach = 4.302653 * 0.01 / 3**0.5  # Student's t of two degrees of freedom
    below, above = 0.91 - 0.890658, 0.926204 - 0.91  # Wilson's, of 910 in 1,000
    assert found.low == pytest.approx(0.91 - (reach**2 + below**2) ** 0.5, abs=1e-5)
    assert found.high == pytest.approx(0.91 + (reach**2 + above**2) ** 0.5, abs=1e-5)
    assert found.in_words == (
        "91.00 ± 1.00% (95% interval 87.9 to 94.0%, n 1,000, 3 seeds; by n ± 0.90)"
    )
    one = over_seeds([0.5], 100)
    assert (one.spread, one.low, one.high) == (None, *interval(0.5, 100)[1:3])
    assert one.in_words == "50.00% (95% interval 40.4 to 59.6%, n 100, one seed)"
    assert over_seeds([1.0, 1.0, 1.0], 20)[3:5] == (interval(1.0, 20).low, 1.0)


@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_the_interval_over_seeds_covers_the_mean_over_seeds_and_pictures(spread):
    """Runs see the same pictures, of which some are harder: seeds alone say too little."""
    rng = np.random.default_rng(5)
    covered, rounds, n, runs = 0, 400, 200, 3
    for _ in range(rounds):
        chance = rng.beta(1.2, 0.4, n)  # of each picture to be got right; 0.75 on average
        shift = rng.normal(0, spread, runs)
        right = rng.random((runs, n)) < np.clip(chance + shift[:, None], 0, 1)
        found = over_seeds(right.mean(1).tolist(), n)
        covered += found.low <= 0.75 <= found.high
    assert covered / rounds >= 0.94


def answers(both: int, only_first: int, only_second: int, none: int):
    counts = torch.tensor([both, only_first, only_second, none])
    first = torch.repeat_interleave(torch.tensor([True, True, False, False]), counts)
    second = torch.repeat_interleave(torch.tensor([True, False, True, False]), counts)
    return first, second


def test_a_paired_interval_turns_with_the_order():
    found, turned = (compare(*pair) for pair in (answers(43, 3, 8, 6), answers(43, 8, 3, 6)))
    assert found.difference == pytest.approx(5 / 60)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@given(st.integers(0, 30), st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_the_paired_interval_is_where_the_score_test_does_not_refuse(both, first, second, none):
    n = both + first + second + none
    if not n:
        return
    found = compare(*answers(both, first, second, none))
    assert -1 <= found.low <= found.difference <= found.high <= 1
    for d in (found.low, found.high):
        if abs(d) > 1 - 1e-6:
            continue
        # The likeliest share of "only the first", by search, as the definition has it.
        grid = np.linspace(max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9, 20001)
        with np.errstate(divide="ignore"):
            likely = (
                second * np.log(grid + d)
                + first * np.log(grid)
                + (both + none) * np.log(np.clip(1 - 2 * grid - d, 1e-300, None))
            )
        q = grid[likely.argmax()]
        z = (second - first - n * d) / (n * (2 * q + d * (1 - d))) ** 0.5
        assert abs(z) == pytest.approx(1.96, abs=0.05)


@pytest.mark.parametrize(("b", "c"), [(5, 0), (6, 0), (10, 2), (25, 40), (0, 0), (3, 3)])
def test_mcnemars_test_is_exact(b, c):
    n, k = b + c, min(b, c)
    tail = sum(stats.binom(n, 0.5).pmf(i) for i in range(k + 1)) if n else 1
    assert mcnemar(b, c) == pytest.approx(min(1, 2 * tail))


def test_the_smallest_difference_is_the_first_that_shows():
    found = compare(*answers(80, 10, 10, 0))
    least = round(found.smallest * found.n)
    assert mcnemar((20 - least) // 2, (20 + least) // 2) < 0.05
    assert mcnemar((20 - least) // 2 + 1, (20 + least) // 2 - 1) >= 0.05
    assert compare(*answers(97, 2, 1, 0)).smallest == pytest.approx(0.06)
    assert not found.shown
    assert compare(*answers(80, 2, 18, 0)).shown


def test_a_comparison_needs_the_same_pictures():
    with pytest.raises(InputError, match="same pictures"):
        compare(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))


def outputs(n: int = 2000, k: int = 7, scale: float = 3.0, seed: int = 0):
    torch.manual_seed(seed)
    logits = torch.randn(n, k)
    labels = torch.multinomial(logits.softmax(1), 1)[:, 0]
    return logits * scale, labels


def test_the_calibration_error_is_torchmetrics():
    logits, labels = outputs()
    for temperature in (1.0, 3.0):
        ours = expected_error(reliability(logits, labels, temperature))
        shares = (logits.double() / temperature).softmax(1)
        assert ours == pytest.approx(
            tm.multiclass_calibration_error(shares, labels, 7, n_bins=15).item(), abs=1e-6
        )
    bins = reliability(logits, labels)
    assert sum(each.pictures for each in bins) == 2000
    assert all(each.low < each.confidence <= each.high for each in bins if each.pictures)


def test_a_fitted_temperature_is_that_of_the_labels():
    logits, labels = outputs(20_000, scale=3.0)  # labels were drawn at a third of these logits
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(3.0, rel=0.05)
    losses = [
        log_loss(labels, (logits.double() / t).softmax(1), labels=range(7))
        for t in (found * 0.99, found, found * 1.01)
    ]
    assert losses[1] == min(losses)
    assert expected_error(reliability(logits, labels, found)) < 0.02
    with pytest.raises(InputError, match="validation"):
        fit_temperature(logits[:0], labels[:0])


TREE = """child,parent
husky,dog
poodle,dog
tabby,cat
dog,animal
cat,animal
lorry,thing
animal,thing
"""


def test_mistakes_cost_what_the_tree_says(tmp_path):
    (tmp_path / "tree.csv").write_text(TREE)
    tree = read_hierarchy(tmp_path / "tree.csv", ("husky", "poodle", "tabby", "lorry"))
    # thing has height 3, animal 2, dog 1.
    assert tree.costs.tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]]
    predicted, labels = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0, 0])
    assert hierarchical_error(predicted, labels, tree) == pytest.approx((0 + 1 + 2 + 3) / 4 / 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("husky,dog\n", "no parent of the class poodle"),
        ("husky,dog\npoodle,cat\n", "no one root"),
        ("husky,dog\npoodle,dog\ndog,husky\n", "its own ancestor"),
        ("husky,dog\nhusky,cat\n", "two parents"),
        ("husky\n", "line 1"),
    ],
)
def test_a_tree_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "tree.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_hierarchy(tmp_path / "tree.csv", ("husky", "poodle"))


def members(seed: int = 0):
    torch.manual_seed(seed)
    labels = torch.randint(0, 5, (600,))
    clean = torch.nn.functional.one_hot(labels, 5).float() * 2
    return [clean + torch.randn(600, 5) * noise for noise in (1.5, 1.6, 1.7, 6.0)], labels


def test_an_ensemble_averages_what_it_says():
    found, labels = members()
    shares = np.mean([each.double().softmax(1).numpy() for each in found], axis=0)
    assert combine(found).softmax(1).numpy() == pytest.approx(shares)
    logits = np.mean([each.double().numpy() for each in found], axis=0)
    assert combine(found, "logits").numpy() == pytest.approx(logits)
    whole = examine(found, labels)
    accuracy = (shares.argmax(1) == labels.numpy()).mean()
    assert accuracy > max(whole.accuracies[:3])
    for i in range(4):
        rest = np.mean(
            [each.double().softmax(1).numpy() for j, each in enumerate(found) if j != i], 0
        )
        assert whole.without[i] == pytest.approx((rest.argmax(1) == labels.numpy()).mean())
    wrong = np.array([(each.argmax(1) != labels).numpy() for each in found], float)
    assert whole.correlation.numpy() == pytest.approx(np.corrcoef(wrong))


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_greedy_selection_adds_what_helps_most(averaging):
    found, labels = members()
    chosen = greedy(found, labels, averaging)

    def accuracy(some):
        return (
            (combine([found[i] for i in some], averaging).argmax(1) == labels)
            .double()
            .mean()
            .item()
        )

    assert accuracy(chosen[:1]) == max(accuracy([i]) for i in range(4))
    for step in range(1, len(chosen)):
        options = [accuracy([*chosen[:step], i]) for i in range(4) if i not in chosen[:step]]
        assert accuracy(chosen[: step + 1]) == max(options)
        assert accuracy(chosen[: step + 1]) >= accuracy(chosen[:step])
    left = [i for i in range(4) if i not in chosen]
    assert all(accuracy([*chosen, i]) <= accuracy(chosen) for i in left)


def test_members_of_other_pictures_are_refused():
    found, labels = members()
    with pytest.raises(InputError, match="same pictures"):
        examine([found[0], found[1][:10]], labels)
