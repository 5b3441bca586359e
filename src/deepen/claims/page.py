"""The ledger as a page of the documentation, `docs/claims.md`.

It shows what the ledger expects; `deepen claims` and its test see to it that this is what is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from deepen.claims.ledger import Claim, Kind, Ledger, NotClaimed, Verdict
from deepen.claims.measured import result

HOW = {
    "exact": "agrees",
    "rounds": "agrees, rounded",
    "truncates": "agrees, truncated",
    "rounds loosely": "agrees, rounded; its zeros are place holders",
    "within the bound": "agrees, within the bound",
}
_HEAD = """\
# The claims ledger

Numbers that four lectures and the papers print, each held against a count of the network or a run
of ours. `deepen claims` counts all of it again and fails where an answer is not the one below; this
page is written by `deepen claims --markdown > docs/claims.md` from
[claims.toml](../src/deepen/claims/claims.toml). "Lecture 003:87" is line 87 of the third lecture's
text.

* **agrees**: the count is the printed figure to the digit, or when *rounded* or *truncated* to its
  last digit. Zeros that end a whole number are taken for digits first, then for place holders.
* **differs**: it is not; the reason is given where it is known.
* **needs data**: neither a count nor a run of ours settles it; the command that would is given. It
  never counts as agreeing. IMAGENET stands for a folder with ImageNet's `train` and `val`.
* **measured**: a run of ours, with its seeds, stands beside the printed figure.

A setting or a width that a lecture reports is compared with the network, or, as a constant in the
formula, with what the named paper says. A multiply-accumulate counts once, biases not at all. The
text of lecture 003 has lost factors that repeat ("28 x 128" stood for 28 x 28 x 128); the claims
have them.
"""


def markdown(ledger: Ledger) -> str:
    """The page."""
    parts = [_HEAD, *_summary(ledger.claims)]
    for source in dict.fromkeys(claim.source for claim in ledger.claims):
        claims = (claim for claim in ledger.claims if claim.source == source)
        parts += [f"## {source[0].upper()}{source[1:]}\n", *table(claims)]
    return "\n".join([*parts, *_not_claimed(ledger.not_claimed)])


def _summary(claims: Iterable[Claim]) -> list[str]:
    counts = Counter((claim.kind, claim.verdict) for claim in claims)
    verdicts: tuple[str, ...] = get_args(Verdict)
    lines = [f"| | {' | '.join(verdicts)} | all |", "| --- |" + " ---: |" * (len(verdicts) + 1)]
    for kind in (*get_args(Kind), "all"):
        row = [
            sum(n for (k, v), n in counts.items() if kind in (k, "all") and v == verdict)
            for verdict in verdicts
        ]
        lines.append(f"| {kind} | {' | '.join(map(str, (*row, sum(row))))} |")
    return [*lines, ""]


def table(claims: Iterable[Claim]) -> list[str]:
    """Claims as the lines of a table."""
    lines = [
        "| claim | stated | ours | verdict | checked by |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for claim in claims:
        places = f" (lecture {', '.join(claim.lectures)})" if claim.lectures else ""
        cells = (
            f"{claim.of}: {claim.quantity}{places}",
            f"{claim.stated} {claim.unit}".strip(),
            found(claim),
            said(claim),
            f"`{claim.measure or claim.needs or result(claim.run).command}`",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]


def found(claim: Claim) -> str:
    """Our figure, as the ledger records it."""
    if claim.run:
        return str(result(claim.run))
    return claim.counted or ("" if claim.needs else claim.stated)


def said(claim: Claim) -> str:
    """The verdict in words, with what else must be known."""
    verdict = HOW.get(claim.expect, claim.expect)
    protocol = result(claim.run).protocol if claim.run else ""
    return ": ".join(words for words in (verdict, claim.reason or protocol) if words)


def _not_claimed(listed: tuple[NotClaimed, ...]) -> list[str]:
    lines = ["## Numbers of the lectures that are no claims", "", "| where | words | why |"]
    lines.append("| --- | --- | --- |")
    for entry in listed:
        words = "; ".join("the line" if w == "*" else w for w in entry.words)
        where = entry.at.replace(",", ", ")
        lines.append(f"| {where} | {words.replace('|', chr(92) + '|')} | {entry.why} |")
    return [*lines, ""]
