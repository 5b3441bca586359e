"""Whether the ledger leaves out a number of the lectures.

A number is left out if it stands in no words that a claim cites and in none that the ledger lists
as not claimed. Words are looked for without spaces, which the lectures' texts have anywhere, and
only whole numbers are found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from deepen.claims.drawing import expand
from deepen.claims.ledger import Ledger
from deepen.errors import InputError

NUMBER = re.compile(
    r"[\d²³]+|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred"
    r"|thousand|million|billion|double|twice|half|zero)\b",
    re.IGNORECASE,
)
Place = tuple[str, int]  # a lecture's number as its file has it, "003", and a line from 1


def places(text: str) -> Iterator[Place]:
    """The places of "003:87,131-133 004:7".

    >>> list(places("003:7,9-10"))
    [('003', 7), ('003', 9), ('003', 10)]
    """
    for part in text.split():
        lecture, _, lines = part.partition(":")
        for words in lines.split(","):
            first, _, last = words.partition("-")
            yield from ((lecture, line) for line in range(int(first), int(last or first) + 1))


def cited(ledger: Ledger) -> Iterator[tuple[str, Place, str]]:
    """All that the ledger says of the lectures: who says it, where, which words."""
    for claim in ledger.claims:
        for where, all_words in claim.lectures.items():
            for words in all_words:
                words = expand(words.replace("{stated}", claim.stated))
                yield from ((claim.id, place, words) for place in places(where))
    for listed in ledger.not_claimed:
        for words in listed.words:
            yield from ((f"not claimed, {listed.why}", place, words) for place in places(listed.at))


def find(words: str, line: str) -> list[tuple[int, int]]:
    """Where words stand in a line, spaces aside; never from or to the middle of a number."""
    if words == "*":
        return [(0, len(line))]
    where = [at for at, letter in enumerate(line) if not _is_space(letter)]
    squeezed = "".join(line[at] for at in where)
    wanted = "".join(letter for letter in words if not _is_space(letter))
    spans, start = [], squeezed.find(wanted)
    while start >= 0:
        spans.append((where[start], where[start + len(wanted) - 1] + 1))
        start = squeezed.find(wanted, start + 1)
    return [(a, b) for a, b in spans if not (_splits_number(line, a) or _splits_number(line, b))]


def _is_space(letter: str) -> bool:
    return letter.isspace() or letter == ";"  # which `drawing` writes between layers


def _splits_number(line: str, at: int) -> bool:
    return 0 < at < len(line) and line[at - 1].isdigit() and line[at].isdigit()


def complaints(ledger: Ledger, folder: Path) -> list[str]:
    """What is amiss between the ledger and the lectures' files (003_*.txt, say) in a folder.

    Raises:
        InputError: a lecture is not there.
    """
    covered: dict[Place, list[tuple[int, int]]] = {}
    texts: dict[str, list[str]] = {}
    found = []
    for who, place, words in cited(ledger):
        lecture, number = place
        lines = texts.setdefault(lecture, _lines(folder, lecture))
        spans = find(words, lines[number - 1]) if number <= len(lines) else []
        covered.setdefault(place, []).extend(spans)
        if not spans:
            found.append(f"{lecture}:{number}: {who}: does not say {words!r}")
    for lecture, lines in sorted(texts.items()):
        for number, line in enumerate(lines, 1):
            spans = covered.get((lecture, number), [])
            for match in NUMBER.finditer(line):
                if not any(a <= match.start() and match.end() <= b for a, b in spans):
                    near = line[max(0, match.start() - 20) : match.end() + 20].strip()
                    found.append(f"{lecture}:{number}: {match[0]} is left out: {near}")
    return found


def _lines(folder: Path, lecture: str) -> list[str]:
    files = sorted(folder.glob(f"{lecture}*.txt"))
    if len(files) != 1:
        raise InputError(f"{folder}: {len(files)} files for lecture {lecture}, must be one")
    return files[0].read_text("utf-8").split("\n")
