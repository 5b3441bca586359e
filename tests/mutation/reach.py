"""Which test reaches which line: probes in the sources, and the plugins of pytest that read them.

A probe before each statement of a function notes its place once a test. It is a line of the copy
itself, so it works in threads, in workers and in the commands that a test starts, too.
"""

from __future__ import annotations

import ast
import faulthandler
import os
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rules import statements

PROBE = """
import contextlib, os
SEEN = set()
def reached(place):
    if place not in SEEN:
        SEEN.add(place)
        with contextlib.suppress(OSError, KeyError), open(os.environ["DEEPEN_REACHED"], "a") as f:
            f.write(place + "\\n")
"""


def probed(text: str, file: str) -> str:
    """The source with a probe before each statement of its functions: "file:line" as it was."""
    lines = text.splitlines(keepends=True)
    for line, column in sorted(statements(text), reverse=True):
        lines.insert(line - 1, f"{' ' * column}_reached('{file}:{line}')\n")
    body = ast.parse(text).body
    first = next(n for n in body if not isinstance(n, ast.Expr) and not _is_future(n))
    lines.insert(first.lineno - 1, "from _reached import reached as _reached\n")
    return "".join(lines)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


class Reached:
    """Plugin: `found`, for each test its seconds and the places it reached."""

    def __init__(self, folder: Path) -> None:
        self.found: dict[str, tuple[float, list[str]]] = {}
        self.shared: dict[str, set[str]] = {}
        self.file = folder / "reached.txt"
        os.environ["DEEPEN_REACHED"] = str(self.file)
        (folder / "src/_reached.py").write_text(PROBE, "utf-8")
        import _reached
        import torch

        torch.compiler.assume_constant_result(_reached.reached)  # traced, it is called as it is
        self.seen: set[str] = _reached.SEEN

    def _take(self) -> set[str]:
        """What was reached since it was last asked."""
        written = self.file.read_text("utf-8").split("\n")[:-1] if self.file.exists() else []
        self.file.write_text("", "utf-8")
        taken = self.seen | set(written)
        self.seen.clear()
        return taken

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Generator[None, Any, Any]:
        for name, module in list(sys.modules.items()):
            if name.startswith("deepen"):  # what is cached is reached by each test that needs it
                for value in vars(module).values():
                    getattr(value, "cache_clear", lambda: None)()
        self._take()
        start = time.perf_counter()
        result = yield
        seconds = time.perf_counter() - start
        reached = self._take().union(*(self.shared.get(n, ()) for n in item.fixturenames))
        self.found[item.nodeid] = (seconds, sorted(reached))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Generator[None, Any, Any]:
        before = self._take()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":  # made once: its places are those of all its tests
                self.shared[fixturedef.argname] = self._take()
            self.seen |= before


class Chosen:
    """Plugin: only these tests, in this order; one that takes far longer ends the process."""

    def __init__(self, seconds: Mapping[str, float], folder: Path) -> None:
        self.seconds, self.under_way = seconds, folder / "under_way.txt"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in self.seconds if test in found]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.under_way.write_text(item.name, "utf-8")
        with open(os.devnull, "w") as nowhere:
            limit = 30 + 10 * self.seconds[item.nodeid]
            faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
            try:
                return (yield)
            finally:
                faulthandler.cancel_dump_traceback_later()


class Quick:
    """Plugin: hypothesis does not look for the smallest example of a failure."""

    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mutate", settings(), phases=phases)
        settings.load_profile("mutate")
