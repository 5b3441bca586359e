"""A number as it is printed, and whether a count says the same.

What is printed has a precision: "3.8e9" says nothing about the third digit. A count agrees if it
gives the printed figure when rounded to its last digit, or when cut off there; which of the two is
part of the answer. Zeros that end a whole number ("600 K") may be digits or place holders: they are
taken for digits first, and where it agrees only without them, rounded, the answer is called loose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal, get_args

Relation = Literal[
    "exact",
    "rounds",
    "truncates",
    "rounds loosely",
    "within the bound",
    "differs",
]
AGREES: tuple[str, ...] = get_args(Relation)[:-1]

_SCALES = {"k": 1, "m": 2, "million": 2, "b": 3, "g": 3, "billion": 3}
_PRINTED = re.compile(
    r"""(?P<about> [~<>]? ) \s*
        (?P<whole> \d{1,3} (?: ,\d{3} )+ | \d+ ) (?: \. (?P<decimals> \d+ ) )?
        \s* (?: e (?P<exponent> -?\d+ ) | (?P<scale> [KMBG] | million | billion ) )?
        \s* [%x]? (?P<least> \+? )""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Printed:
    """A printed number.

    Attributes:
        value: what it says.
        step: worth of its last digit.
        loose_step: the same with the zeros that end a whole number left out.
        bound: "<", ">" or ">=" where it only bounds.
    """

    value: Fraction
    step: Fraction
    loose_step: Fraction
    bound: Literal["", "<", ">", ">="] = ""

    def relation(self, counted: Fraction | int) -> Relation:
        """How a count stands to it."""
        counted = Fraction(counted)
        if self.bound:
            inside = {
                "<": counted < self.value,
                ">": counted > self.value,
                ">=": counted >= self.value,
            }
            return "within the bound" if inside[self.bound] else "differs"
        if counted == self.value:
            return "exact"
        if self._at(counted, self.step, Fraction(1, 2)):
            return "rounds"
        if self._at(counted, self.step):
            return "truncates"
        if self._at(counted, self.loose_step, Fraction(1, 2)):
            return "rounds loosely"
        return "differs"

    def _at(self, counted: Fraction, step: Fraction, half: Fraction | int = 0) -> bool:
        return floor(counted / step + half) * step == self.value


def read(text: str, kilo: int = 1000) -> Printed | None:
    """A number as printed, None if the text is none.

    Takes thousands with commas, "e9", K, M, G, B, million, billion, and before or behind it "~"
    (which changes nothing: every printed figure is rounded), "<", ">", "+" (at least), "%" and "x".

    Args:
        text: as printed.
        kilo: what K stands for; M is its square.

    >>> read("3.8e9").relation(3_857_973_248)
    'truncates'
    >>> read("600 K").relation(589_824)
    'rounds loosely'
    """
    match = _PRINTED.fullmatch(text.strip())
    if not match:
        return None
    whole, decimals = match["whole"].replace(",", ""), match["decimals"] or ""
    scale = Fraction(10) ** int(match["exponent"] or 0)
    scale *= kilo ** _SCALES.get((match["scale"] or "").lower(), 0)
    step = scale / 10 ** len(decimals)
    zeros = 0 if decimals else len(whole) - len(whole.rstrip("0"))
    zeros = 0 if zeros == len(whole) else zeros
    bound = {"<": "<", ">": ">"}.get(match["about"], ">=" if match["least"] else "")
    return Printed(Fraction(f"{whole}.{decimals or 0}") * scale, step, step * 10**zeros, bound)  # type: ignore[arg-type]


def shown(counted: Fraction | int | str) -> str:
    """A count as the ledger records it: integers whole, ratios to five digits."""
    if isinstance(counted, str):
        return counted
    counted = Fraction(counted)
    return f"{int(counted):,}" if counted.denominator == 1 else f"{float(counted):.5g}"
