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
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share_there = round(share * n) / n
    middle = share_there + z * z / (2 * n)
    reach = z * math.sqrt(share_there * (1 - share_there) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + z * z / n) for side in (-reach, reach))
    return Interval(share, max(0.0, low), min(1.0, high), n)


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
        low, high: where the mean over all seeds and pictures lies with 95% confidence at least:
            Student's t over the runs and Wilson's interval of n pictures (more runs do not make
            them more), which are independent, so that their squares add up.
        runs: how many.
        n: pictures.
    """

    mean: float
    spread: float | None
    by_chance: float
    low: float
    high: float
    runs: int
    n: int

    @property
    def in_words(self) -> str:
        """Example: `99.12 ± 0.04% (95% interval 98.9 to 99.3%, n 10,000, 3 seeds; by n ± 0.09)`.

        The last is the deviation that the number of pictures alone would bring about.
        """
        low, high = 100 * self.low, 100 * self.high
        between = f"95% interval {low:.1f} to {high:.1f}%, n {self.n:,}"
        if self.spread is None:
            return f"{100 * self.mean:.2f}% ({between}, one seed)"
        return (
            f"{100 * self.mean:.2f} ± {100 * self.spread:.2f}% ({between}, {self.runs} seeds; "
            f"by n ± {100 * self.by_chance:.2f})"
        )


def over_seeds(shares: Sequence[float], n: int) -> OverSeeds:
    """Mean and spread of the same figure over seeds."""
    from scipy.stats import t

    mean, runs = statistics.fmean(shares), len(shares)
    by_chance = math.sqrt(mean * (1 - mean) / n)
    spread, reach = None, 0.0
    if runs > 1:
        spread = statistics.stdev(shares)
        reach = float(t.ppf((1 + CONFIDENCE) / 2, runs - 1)) * spread / math.sqrt(runs)
    of_pictures = interval(mean, n)
    low = mean - math.hypot(reach, mean - of_pictures.low)
    high = mean + math.hypot(reach, of_pictures.high - mean)
    return OverSeeds(mean, spread, by_chance, max(low, 0.0), min(high, 1.0), runs, n)
