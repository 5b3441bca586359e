"""Do the tests notice? The sources are changed in one place at a time; a test must fail.

    python tests/mutation/mutate.py [--jobs 2] [NAME...]

A name is an architecture or a room. The changes of each architecture file are in mutations.toml: a
stride, a width, a padding, a shortcut or branch; its tests run without those that compare a network
with itself (in another form, exported), as these cannot know what it should be. Those of the rooms
(the loop, checkpoints, decoding, ...) are drawn by the rules in rules.py, as many as rooms.toml
says; the tests that reach the changed line run, and what cannot be noticed is listed there with the
reason. Each change is made in a copy of the sources in a temporary directory, and no slow test
runs. First all tests must pass on an unchanged copy.

A line for each change: caught and by which test, or SURVIVED with the change. A test that hangs
twice has caught it. The exit status is 1 if one survives, if a test cannot even be run, or if a
list does not fit the sources: a text that is not there exactly once, an architecture that is not
listed, a kind that neither a change nor `lacks` names, a change that is listed as equivalent and
not made.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import rooms
from copies import ROOT, Outcome, Run, run_all

MODELS = Path("src/deepen/models")
KINDS = {"stride", "width", "padding", "branch"}
LISTED = tomllib.loads(Path(__file__).with_name("mutations.toml").read_text("utf-8"))
# Without tests that hold a network against nothing but itself.
OPTIONS = ("-k", "not (serves or exports)")


class Change(NamedTuple):
    """One change of one file: its text after it, what a line says of it, what runs."""

    place: str
    what: str
    file: str
    text: str
    run: Run

    def diff(self) -> str:
        """The lines that it changes."""
        old, new = (ROOT / self.file).read_text("utf-8").splitlines(), self.text.splitlines()
        return "\n".join(difflib.unified_diff(old, new, self.file, self.file, lineterm="", n=1))


def read(names: list[str]) -> tuple[list[Change], list[str]]:
    """The changes of these architectures and what is wrong with the list."""
    files = sorted((ROOT / MODELS).glob("*.py"))
    wanted = {file.stem for file in files if "\nARCHITECTURES = " in file.read_text("utf-8")}
    faults = [f"{name}: not listed" for name in sorted(wanted - set(LISTED))]
    faults += [f"{name}: no architecture file" for name in sorted(set(LISTED) - wanted)]
    changes = []
    for name in (n for n in LISTED if n in wanted and n in names):
        file, section = str(MODELS / f"{name}.py"), LISTED[name]
        source = (ROOT / file).read_text("utf-8")
        kinds = {row["kind"] for row in section["mutations"]}
        faults += [f"{name}: no {k}" for k in sorted(KINDS - kinds - set(section["lacks"]))]
        faults += [f"{name}: has {k}, and lacks it" for k in sorted(kinds & set(section["lacks"]))]
        for row in section["mutations"]:
            times = source.count(row["old"])
            if times != 1:
                faults.append(f"{name}: occurs {times} times, not once: {row['old']!r}")
            text = source.replace(row["old"], row["new"])
            run = Run({file: text}, tuple(section["tests"]), OPTIONS)
            what = f"{row['kind']:10} {' '.join(row['new'].split())}"
            changes.append(Change(f"{name:17}", what, file, text, run))
    return changes, faults


def of_rooms(drawn: list[rooms.Drawn], reached: dict[str, tuple[float, list[str]]]) -> list[Change]:
    """Their changes, with the tests that reach them."""
    changes = []
    for one in drawn:
        run, path = one.run(reached), str(rooms.SOURCES / one.file)
        old, new = (" ".join(text.split()) for text in (one.mutant.old, one.mutant.new))
        what = f"{one.mutant.rule:10} {old} -> {new}"
        place = f"{one.file}:{one.mutant.line:<4}"
        changes.append(Change(place, what, path, run.sources[path], run))
    return changes


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def unchanged(runs: list[Run], jobs: int) -> list[Outcome] | None:
    """What came of the tests on unchanged sources; None if one fails."""
    outcomes = []
    for run, outcome in zip(runs, run_all(runs, jobs), strict=True):
        say(f"{'unchanged' if outcome.status == 0 else 'FAILS'} {' '.join(run.tests)}")
        if outcome.status != 0:
            say(outcome.output)
            return None
        outcomes.append(outcome)
    return outcomes


def report(change: Change, outcome: Outcome) -> bool:
    """Say what came of it; whether it was caught."""
    what = change.what if len(change.what) <= 70 else f"{change.what[:67]}..."
    chosen = change.run.chosen
    # A test has failed, or hung, or what passed before cannot be imported; else it was not run.
    if outcome.status in ((1, None) if chosen is None else (1, 2, None)):
        test = re.search(r"^(?:FAILED|ERROR) (?:\S+::)?(\S+)", outcome.output, re.MULTILINE)
        say(f"caught    {change.place} {what:70} {test[1] if test else outcome.output}")
        return True
    fault = "SURVIVED" if outcome.status == 0 else "NOT RUN " if chosen != {} else "NO TEST "
    say(f"{fault}  {change.place} {what}\n{change.diff()}")
    if fault == "NOT RUN ":
        say(outcome.output)
    return False


def tried(changes: Iterable[Change], jobs: int) -> int:
    """Make each change; how many were caught."""
    changes = list(changes)
    outcomes = run_all([change.run for change in changes], jobs)
    return sum(report(*pair) for pair in zip(changes, outcomes, strict=True))


def main() -> int:
    """Run all that is asked for, two at a time."""
    parser = argparse.ArgumentParser(description="Do the tests notice?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="an architecture or a room")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    asked = parser.parse_args()
    start = time.monotonic()
    names = asked.names or [*LISTED, *rooms.ROOMS]
    faults = [f"{name}: not known" for name in names if name not in {*LISTED, *rooms.ROOMS}]
    changes, more = read(names)
    drawn, wrong = rooms.draw(asked.names)
    faults += [*more, *wrong]
    if faults:
        say("\n".join(faults))
        return 1
    clean = [Run({}, tests, OPTIONS) for tests in dict.fromkeys(c.run.tests for c in changes)]
    mapped = rooms.maps({one.room for one in drawn})
    outcomes = unchanged([*clean, *mapped], asked.jobs)
    if outcomes is None:
        return 1
    say(f"unchanged in {(time.monotonic() - start) / 60:.1f} minutes")
    reached = rooms.merged(outcomes)
    for one in (one for one in drawn if one.equivalent):
        say(f"equal     {one.file}:{one.mutant.line} {one.mutant.old!r}: {one.equivalent}")
    made = [one for one in drawn if not one.equivalent]
    changes += of_rooms(made, reached)
    caught = tried(changes, asked.jobs)
    seconds, listed = time.monotonic() - start, len(drawn) - len(made)
    say(f"{caught} of {len(changes)} changes caught in {seconds / 60:.1f} minutes")
    say(f"{listed} more are listed as equivalent")
    return int(caught < len(changes))


if __name__ == "__main__":
    sys.exit(main())
