"""The rooms of rooms.toml: which changes are drawn, and which tests run for each.

A draw looks at a change's own text and not at its line, so it stays when other parts of the file
change. The rules take turns: no file is drawn from constants alone.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from copies import ROOT, Outcome, Run
from reach import probed
from rules import Mutant, mutants

LISTED = tomllib.loads(Path(__file__).with_name("rooms.toml").read_text("utf-8"))
ROOMS: dict[str, Any] = LISTED["rooms"]
SOURCES = Path("src/deepen")


class Drawn(NamedTuple):
    """A change that is made: in which room and file, and why nothing can notice it, if so."""

    room: str
    file: str
    mutant: Mutant
    equivalent: str

    @property
    def source(self) -> str:
        """The file as it stands."""
        return _text(self.file)

    def run(self, reached: Mapping[str, tuple[float, list[str]]]) -> Run:
        """Its tests, fastest first, as many as fit into the time of one change."""
        place = f"{self.file}:{self.mutant.reached}"
        files = tuple(ROOMS[self.room]["tests"])
        found: dict[str, float] = {}
        left = LISTED["seconds_per_change"]
        for test, (seconds, places) in sorted(reached.items(), key=lambda row: row[1][0]):
            if test.split("::")[0].removeprefix("tests/") not in files:
                continue
            if self.mutant.reached is None:  # when the file is imported
                hit = any(one.startswith(f"{self.file}:") for one in places)
            else:
                hit = place in places
            if hit and (left > seconds or not found):
                found[test] = seconds
                left -= seconds
        tests = tuple(dict.fromkeys(test.split("::")[0].removeprefix("tests/") for test in found))
        changed = {str(SOURCES / self.file): self.mutant.apply(self.source)}
        return Run(changed, tests, chosen=found)


def draw(names: list[str]) -> tuple[list[Drawn], list[str]]:
    """The changes of these rooms, or of all, and what is wrong with the list."""
    reasons = {_key(e["file"], e["line"], e["old"], e["new"]): e for e in LISTED["equivalent"]}
    found, faults = [], []
    known: set[tuple[str, ...]] = set()
    for room in (r for r in ROOMS if not names or r in names):
        for file, count in ROOMS[room]["files"].items():
            keys = {m: _key(file, _line(file, m), m.old, m.new) for m in mutants(_text(file))}
            known.update(keys.values())
            ranked = _ranked(file, [*keys])
            if len(ranked) < count:
                faults.append(f"{file}: {len(ranked)} changes, not {count}")
            for mutant in sorted(ranked[:count], key=lambda m: m.start):
                reason = reasons.get(keys[mutant], {}).get("reason", "")
                found.append(Drawn(room, file, mutant, reason))
    if not names:
        gone = [entry for key, entry in reasons.items() if key not in known]
        faults += [f"{e['file']}: no such change: {e['old']} in {e['line']}" for e in gone]
        equivalent = sum(bool(one.equivalent) for one in found)
        if equivalent > len(found) * LISTED["equivalent_at_most"]:
            faults.append(f"{equivalent} of {len(found)} are listed as equivalent: too many")
        if len(found) < LISTED["changes_at_least"]:
            faults.append(f"{len(found)} changes: too few")
    return found, faults


def maps(rooms: set[str]) -> list[Run]:
    """A run for each file of tests, on unchanged sources with probes in the files of the rooms."""
    tests = dict.fromkeys(test for room in ROOMS if room in rooms for test in ROOMS[room]["tests"])
    files = [file for room in ROOMS if room in rooms for file in ROOMS[room]["files"]]
    sources = {str(SOURCES / file): probed(_text(file), file) for file in files}
    return [Run(sources, (test,), probed=True) for test in tests]


def merged(outcomes: list[Outcome]) -> dict[str, tuple[float, list[str]]]:
    """What all of them reached."""
    return {test: found for outcome in outcomes for test, found in outcome.reached.items()}


def _ranked(file: str, found: list[Mutant]) -> list[Mutant]:
    """In the order in which they are drawn: the first of each rule, then the second of each."""
    seen: Counter[tuple[str, ...]] = Counter()
    by_rule: dict[str, list[tuple[str, Mutant]]] = defaultdict(list)
    for mutant in found:
        key = (file, mutant.rule, _line(file, mutant), mutant.old, mutant.new)
        seen[key] += 1
        text = "\0".join((str(LISTED["seed"]), *key, str(seen[key])))
        by_rule[mutant.rule].append((hashlib.sha256(text.encode()).hexdigest(), mutant))
    turns = [
        (turn, digest, mutant)
        for rows in by_rule.values()
        for turn, (digest, mutant) in enumerate(sorted(rows, key=lambda row: row[0]))
    ]
    return [mutant for _, _, mutant in sorted(turns, key=lambda row: row[:2])]


def _key(file: str, line: str, old: str, new: str) -> tuple[str, ...]:
    return file, line, old, new


def _line(file: str, mutant: Mutant) -> str:
    """The text of the line where a change starts."""
    return _text(file).split("\n")[mutant.line - 1].strip()


def _text(file: str) -> str:
    return (ROOT / SOURCES / file).read_text("utf-8")
