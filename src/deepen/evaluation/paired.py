"""Whether one network is better than another, from what both said of the same pictures."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

from torch import Tensor

from deepen.errors import InputError
from deepen.evaluation.intervals import CONFIDENCE

SIGNIFICANT = 1 - CONFIDENCE


class Paired(NamedTuple):
    """Two networks on the same n pictures.

    Attributes:
        n: pictures.
        only_first: that the first alone has right.
        only_second: that the second alone has right.
        difference: accuracy of the second less that of the first, in -1..1.
        low, high: where the true difference lies with 95% confidence, by the score test (Tango
            1998, "Equivalence test and confidence interval for the difference in proportions for
            the paired-sample design").
        p: of the exact test of McNemar 1947, two-sided: how probable so uneven a split of the
            pictures they differ on is, were both equally good.
        smallest: the least difference that would have p under 0.05, with as many pictures that they
            differ on (six at least: fewer never show anything).
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float
    smallest: float

    @property
    def in_words(self) -> str:
        """The difference with its interval, the test, and what would be shown."""
        return (
            f"{100 * self.difference:+.2f} points (95% interval {100 * self.low:+.2f} to "
            f"{100 * self.high:+.2f}); right alone on {self.only_second:,} and "
            f"{self.only_first:,}, exact McNemar p {self.p:.2g}: "
            f"{'shown' if self.shown else 'not shown'}; {100 * self.smallest:.2f} points would be"
        )

    @property
    def shown(self) -> bool:
        """Whether that one of them is better is shown, at 5%."""
        return self.p < SIGNIFICANT


def compare(first: Tensor, second: Tensor) -> Paired:
    """Compare what two networks have right: bool (N,) each, of the same pictures in one order.

    Raises:
        InputError: not the same number of pictures, or none.
    """
    if first.shape != second.shape or not first.numel():
        sizes = f"{len(first)} and {len(second)}"
        raise InputError(f"a paired comparison needs the same pictures, got {sizes}")
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    n, differ = len(first), only_first + only_second
    low, high = _tango(only_second, only_first, n)
    return Paired(
        n=n,
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / n,
        low=low,
        high=high,
        p=mcnemar(only_first, only_second),
        smallest=_smallest(differ) / n,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p: a fair coin's, of so many throws; both tails are alike."""
    from scipy.special import bdtr

    few, differ = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(few, differ, 0.5)))


def _smallest(differ: int) -> int:
    """The least (b - c) of b + c = `differ` whose p is under 0.05; parity is that of `differ`."""
    differ = max(differ, 6)  # 2 * 0.5^6 = 0.031; five alike have 0.0625
    few = differ // 2
    while few >= 0 and mcnemar(few, differ - few) >= SIGNIFICANT:
        few -= 1
    return differ - 2 * few


def _tango(more: int, less: int, n: int) -> tuple[float, float]:
    """Where the score test of a difference d of (more - less) / n does not refuse d."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))

    def excess(d: float) -> float:
        b = (2 * n - more + less) * d - more - less
        c = -less * d * (1 - d)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # likeliest share of `less`
        variance = n * (2 * q + d * (1 - d))
        return (more - less - n * d) ** 2 - z * z * max(variance, 0.0)

    middle = (more - less) / n

    def bound(edge: float) -> float:
        inside = middle + math.copysign(1e-9, edge)  # where they never differ, `middle` has no sign
        if abs(edge - middle) < 1e-6 or excess(edge) <= 0:
            return edge
        return cast(float, brentq(excess, min(inside, edge), max(inside, edge)))

    return bound(-1.0), bound(1.0)
