"""Do the tests notice? Each architecture is changed in one place at a time; its tests must fail.

    python tests/mutation/mutate.py [--jobs 2] [ARCHITECTURE...]

The changes are in mutations.toml: a stride, a width, a padding, a shortcut or branch of each file
in src/deepen/models/. Each is made in a copy of the sources in a temporary directory, where the
tests of that architecture then run, without the slow ones and without those that compare a network
with itself (in another form, exported), as these cannot know what it should be.
First they must all pass on an unchanged copy.

A line for each change: caught and by which test, or SURVIVED with the change. The exit status is 1
if one survives, if a test cannot even be run, or if the list does not fit the sources: a text that
is not there exactly once, an architecture that is not listed, a kind that neither a change nor
`lacks` names.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODELS = Path("src/deepen/models")
KINDS = {"stride", "width", "padding", "branch"}
# Tests that hold a network against nothing but itself.
SELF = "serves or exports"
PRELOADED = ["numpy", "pytest", "timm", "torch", "torchvision"]


class Mutation(NamedTuple):
    """One change of one file; with an empty `old` no change."""

    name: str
    kind: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def file(self) -> Path:
        """The file that it changes."""
        return MODELS / f"{self.name}.py"

    def apply(self, source: str) -> str:
        """The source after the change."""
        return source.replace(self.old, self.new) if self.old else source

    def diff(self) -> str:
        """The lines that it changes."""
        source = (ROOT / self.file).read_text("utf-8")
        old, new, file = source.splitlines(), self.apply(source).splitlines(), str(self.file)
        return "\n".join(difflib.unified_diff(old, new, file, file, lineterm="", n=1))


def read(names: list[str]) -> tuple[list[Mutation], list[str]]:
    """The changes of these architectures, or of all, and what is wrong with the list."""
    listed = tomllib.loads((HERE / "mutations.toml").read_text("utf-8"))
    files = sorted((ROOT / MODELS).glob("*.py"))
    wanted = {file.stem for file in files if "\nARCHITECTURES = " in file.read_text("utf-8")}
    faults = [f"{name}: not listed" for name in sorted(wanted - set(listed))]
    faults += [f"{name}: no architecture file" for name in sorted(set(listed) - wanted)]
    faults += [f"{name}: not known" for name in sorted(set(names) - set(listed))]
    mutations = []
    for name in (n for n in listed if n in wanted and (not names or n in names)):
        section = listed[name]
        source = (ROOT / MODELS / f"{name}.py").read_text("utf-8")
        found = [Mutation(name, **row, tests=(*section["tests"],)) for row in section["mutations"]]
        kinds = {mutation.kind for mutation in found}
        faults += [f"{name}: no {k}" for k in sorted(KINDS - kinds - set(section["lacks"]))]
        faults += [f"{name}: has {k}, and lacks it" for k in sorted(kinds & set(section["lacks"]))]
        for mutation in found:
            times = source.count(mutation.old)
            if times != 1:
                faults.append(f"{name}: occurs {times} times, not once: {mutation.old!r}")
        mutations += found
    return mutations, faults


def run(mutation: Mutation) -> tuple[int, str]:
    """pytest's exit status and output on a changed copy; in a process of its own, for one run."""
    with tempfile.TemporaryDirectory(prefix="deepen-mutate-") as folder:
        for part in ("src", "tests"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")
            shutil.copytree(ROOT / part, Path(folder, part), ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        changed = Path(folder, mutation.file)
        changed.write_text(mutation.apply(changed.read_text("utf-8")), "utf-8")
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(Path(folder, "src"))
        sys.path.insert(0, os.environ["PYTHONPATH"])
        import pytest

        import deepen

        assert Path(deepen.__file__).is_relative_to(Path(folder).resolve()), deepen.__file__
        files = [f"tests/{file}" for file in mutation.tests]
        options = ["-x", "-q", "-m", "not slow", "-k", f"not ({SELF})", "-p", "no:cacheprovider"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is preloaded
        with contextlib.redirect_stdout(io.StringIO()) as output:
            status = pytest.main([*options, *files])
        os.chdir(ROOT)
    return int(status), output.getvalue()


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def report(mutation: Mutation, status: int, output: str) -> bool:
    """Say what came of it; whether it was caught."""
    place = f"{mutation.name:17} {mutation.kind:10}"
    if status == 1:  # a test has failed; any other status: it was not run
        test = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", output, re.MULTILINE)
        changed = " ".join(mutation.new.split())
        changed = changed if len(changed) <= 60 else f"{changed[:57]}..."
        say(f"caught    {place} {changed:60} {test[1] if test else ''}")
        return True
    say(f"{'SURVIVED' if status == 0 else 'NOT RUN '}  {place}\n{mutation.diff()}")
    if status != 0:
        say(output)
    return False


def main() -> int:
    """Run all that is asked for, two at a time."""
    parser = argparse.ArgumentParser(description="Do the tests notice?")
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    asked = parser.parse_args()
    start = time.monotonic()
    mutations, faults = read(asked.names)
    if faults:
        say("\n".join(faults))
        return 1
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")  # each run has torch loaded already
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(asked.jobs, context, max_tasks_per_child=1) as pool:
        suites = {(test,): mutation for mutation in mutations for test in mutation.tests}
        clean = [m._replace(old="", new="", tests=test) for test, m in suites.items()]
        for mutation, (status, output) in zip(clean, pool.map(run, clean), strict=True):
            say(f"{'unchanged' if status == 0 else 'FAILS'} {' '.join(mutation.tests)}")
            if status != 0:
                say(output)
                return 1
        results = zip(mutations, pool.map(run, mutations), strict=True)
        caught = sum(report(mutation, *result) for mutation, result in results)
    seconds = time.monotonic() - start
    say(f"{caught} of {len(mutations)} mutations caught in {seconds / 60:.1f} minutes")
    return int(caught < len(mutations))


if __name__ == "__main__":
    sys.exit(main())
