"""deepen claims: the numbers of the lectures and papers, each checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepen.cli.console import complain, print_columns, print_json, say, say_text
from deepen.errors import unknown

if TYPE_CHECKING:
    from deepen.claims.verdict import Judged

EXAMPLE = "Example: deepen claims vgg16 googlenet   |   deepen claims --verdict differs"
VERDICTS = ("agrees", "differs", "needs data", "measured", "failed")


def claims(
    model: Annotated[
        list[str] | None, typer.Argument(help="Only claims about these networks.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help=f"Show only: {', '.join(VERDICTS)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the ledger as docs/claims.md, uncounted.")
    ] = False,
) -> None:
    """Count what the lectures and papers claim; exit 1 where the ledger's verdict does not hold."""
    from deepen.claims.ledger import ledger
    from deepen.claims.page import markdown

    if as_markdown:
        say_text(markdown(ledger()))
        return
    if verdict is not None and verdict not in VERDICTS:
        raise unknown("verdict", verdict, VERDICTS)
    from deepen.claims.verdict import judge  # imports torch

    chosen = ledger().about(model) if model else ledger().claims
    judged = [judge(claim) for claim in chosen]
    shown = [j for j in judged if verdict in (None, j.verdict)]
    if as_json:
        print_json([_document(j) for j in shown])
    else:
        _print(shown, judged)
    wrong = [j for j in judged if j.wrong]
    for j in wrong:
        complain(f"{j.claim.id}: {j.wrong}", name="deepen claims")
    if wrong:
        raise typer.Exit(1)


def _document(judged: Judged) -> dict[str, Any]:
    claim = judged.claim
    return {
        **claim.model_dump(exclude={"counted", "expect", "kilo"}),
        "networks": claim.networks,
        "verdict": judged.verdict,
        "how": judged.how,
        "found": judged.found,
        "wrong": judged.wrong,
    }


def _print(shown: list[Judged], judged: list[Judged]) -> None:
    from collections import Counter
    from itertools import groupby

    from deepen.claims.page import said

    for source, group in groupby(shown, lambda j: j.claim.source):
        say(source)
        for j in group:
            what = f"{j.claim.of}: {j.claim.quantity}"
            found = j.found if j.verdict == "measured" else _short(j.found)  # with its interval
            figures = f"{_short(f'{j.claim.stated} {j.claim.unit}'):>14} {found:>16}"
            note = j.claim.needs or (j.wrong if j.wrong else said(j.claim))
            say(f"  {what:52} {figures}  {note}")
    verdicts = [v for v in VERDICTS if any(j.verdict == v for j in judged)]
    counts = Counter((j.claim.kind, j.verdict) for j in judged)
    rows = []
    for kind in dict.fromkeys(j.claim.kind for j in judged):
        row = [counts[kind, v] for v in verdicts]
        rows.append((kind, *map(str, row), str(sum(row))))
    totals = [sum(j.verdict == v for j in judged) for v in verdicts]
    rows.append(("all", *map(str, totals), str(len(judged))))
    print_columns(("kind", *verdicts, "all"), rows)


def _short(text: str, length: int = 36) -> str:
    return text.strip() if len(text) <= length else f"{text[: length - 3]}..."
