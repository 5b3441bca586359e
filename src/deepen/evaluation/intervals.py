"""How far a share that was measured on n pictures may be from the true one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000


class Interval(NamedTuple):
    """A share in 0..1, and where the true one lies with 95% confidence (Wilson 1927)."""

    share: float
    low: float
    high: float
    n: int

    @property
    def in_words(self) -> str:
        """Example: `95.50% (95% interval 94.4 to 96.4%, n 1,797)`."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.share:.2f}% (95% interval {low:.1f} to {high:.1f}%, n {self.n:,})"

    @property
    def complement(self) -> Interval:
        """Of the others: the interval of an error from that of the accuracy."""
        return Interval(1 - self.share, 1 - self.high, 1 - self.low, self.n)


def interval(share: float, n: int) -> Interval:
    """Of a share of n pictures; the whole of 0..1 where there are none."""
    from scipy.stats import binomtest  # takes half a second

    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    low, high = binomtest(round(share * n), n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(share, low, high, n)


def draw_again(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of n pictures is drawn, with replacement, in each resample: int64 (R, n).

    For figures that are no share of pictures; the same draws each time.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)


def bootstrap_interval(measured: float, resampled: np.ndarray) -> tuple[float, float] | None:
    """Where the true figure lies with 95% confidence, by the figures of resamples, (R,).

    By the bias-corrected percentiles of Efron 1987, "Better bootstrap confidence intervals",
    section 2: average precision is a little greater in resamples, whose pictures repeat. NaNs are
    no figures; None without any.
    """
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return None
    normal, reach = statistics.NormalDist(), len(known) / (len(known) + 1)
    below = float((known < measured).mean() + (known == measured).mean() / 2)
    shift = 2 * normal.inv_cdf(min(max(below, 1 - reach), reach))
    tails = [normal.inv_cdf(each) for each in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]
    low, high = np.quantile(known, [normal.cdf(shift + tail) for tail in tails])
    return float(low), float(high)


class OverSeeds(NamedTuple):
    """Shares of several runs that differ by their seed alone, on the same n pictures.

    Attributes:
        mean: of the runs.
        spread: their standard deviation (n - 1); None of one run.
        by_chance: what the deviation would be if each run had pictures of its own and nothing else
            differed, sqrt(p (1 - p) / n): a smaller spread says that runs agree on pictures.
        interval: of the mean, by Student's t over the runs; None of one run.
        runs: how many.
    """

    mean: float
    spread: float | None
    by_chance: float
    interval: tuple[float, float] | None
    runs: int


def over_seeds(shares: Sequence[float], n: int) -> OverSeeds:
    """Mean and spread of the same figure over seeds."""
    from scipy.stats import t

    mean = statistics.fmean(shares)
    by_chance = math.sqrt(mean * (1 - mean) / n)
    if len(shares) == 1:
        return OverSeeds(mean, None, by_chance, None, 1)
    spread = statistics.stdev(shares)
    deviations = float(t.ppf((1 + CONFIDENCE) / 2, len(shares) - 1))
    reach = deviations * spread / math.sqrt(len(shares))
    return OverSeeds(mean, spread, by_chance, (mean - reach, mean + reach), len(shares))
