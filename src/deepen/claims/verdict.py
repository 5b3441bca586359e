"""What becomes of a claim: counted, compared, and held against what the ledger expects."""

from __future__ import annotations

from dataclasses import dataclass

from deepen.claims.drawing import expand, squeeze
from deepen.claims.formula import Value, evaluate
from deepen.claims.ledger import Claim
from deepen.claims.measured import result
from deepen.claims.printed import AGREES, read, shown
from deepen.claims.quantities import QUANTITIES
from deepen.errors import DeepenError


@dataclass(frozen=True)
class Judged:
    """A claim and what was found.

    Attributes:
        claim: what somebody printed.
        verdict: "agrees", "differs", "needs data", "measured", or "failed" where it could not be
            counted.
        how: how a figure agrees: exactly, rounded, truncated (see `deepen.claims.printed`).
        found: our figure, "" where there is none.
        wrong: what the ledger expects otherwise; "" where the expectation holds.
    """

    claim: Claim
    verdict: str
    how: str = ""
    found: str = ""
    wrong: str = ""


def judge(claim: Claim) -> Judged:
    """Count what a claim is about and compare."""
    if claim.needs:
        return Judged(claim, "needs data")
    try:
        if claim.run:
            return Judged(claim, "measured", found=str(result(claim.run)))
        value = evaluate(claim.measure, QUANTITIES)
    except DeepenError as error:
        return Judged(claim, "failed", wrong=str(error))
    how, found = compare(claim, value), shown(value)
    if how != claim.expect:
        wrong = f"expected {claim.expect}, is {how}: counted {found}"
    elif how != "exact" and found != claim.counted:
        wrong = f"expected {claim.counted}, counted {found}"
    else:
        wrong = ""
    return Judged(claim, "agrees" if how in AGREES else "differs", how, found, wrong)


def compare(claim: Claim, value: Value) -> str:
    """How a value stands to what is stated: one of `printed.Relation`."""
    if isinstance(value, str):
        return "exact" if squeeze(expand(claim.stated)) == squeeze(value) else "differs"
    printed = read(claim.stated, claim.kilo)
    return printed.relation(value) if printed else "differs"
