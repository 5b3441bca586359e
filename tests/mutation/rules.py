"""The rules by which rooms other than the networks are changed, fixed before any test was run.

    arithmetic   + ↔ -, * ↔ /, // → *, % → *, ** → *, also with =
    comparison   < ↔ <=, > ↔ >=, == ↔ !=, is ↔ is not, in ↔ not in
    boolean      and ↔ or, not x → x, True ↔ False
    constant     0 ↔ 1, n → n + 1, float x → 2x (0.0 → 1.0)
    off by one   range(n) → range(n - 1), a[:n] → a[:n - 1], a[n:] → a[n + 1:]
    extreme      min ↔ max, any ↔ all, as functions and as methods
    call         a call that is a statement → pass
    keyword      f(a, k=b) → f(a)
    return       return x → return None

Left out is what says how and not what (`HOW`), and what no one runs or reads as a number:
annotations, decorators, docstrings, f-strings, `raise`, `assert`, `__all__`, `Literal[...]`.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import NamedTuple

ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*"}
COMPARISON = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COMPARISON |= {"is": "is not", "is not": "is", "in": "not in", "not in": "in"}
BOOLEAN = {"and": "or", "or": "and"}
EXTREME = {"min": "max", "max": "min", "any": "all", "all": "any"}
# Keywords of which the result does not depend, unless something else is wrong already.
HOW = {"color", "daemon", "encoding", "foreach", "fused", "memory_format", "newline"}
HOW |= {"non_blocking", "persistent_workers", "pin_memory", "stacklevel", "strict"}


class Mutant(NamedTuple):
    """One change.

    Attributes:
        rule: its name above.
        old: the text that goes.
        new: what takes its place.
        line: where, from 1.
        reached: the line of the statement that has to be reached; None outside functions.
        start: where `old` starts, in bytes of the source.
    """

    rule: str
    old: str
    new: str
    line: int
    reached: int | None
    start: int

    def apply(self, text: str) -> str:
        """The source after the change."""
        raw, end = text.encode(), self.start + len(self.old.encode())
        return (raw[: self.start] + self.new.encode() + raw[end:]).decode()


def mutants(text: str) -> list[Mutant]:
    """All changes of a source that the rules give, in its order."""
    found = {(m.start, m.old, m.new): m for m in _Finder(text).all()}
    return sorted(found.values(), key=lambda m: (m.start, m.new))


def statements(text: str) -> set[tuple[int, int]]:
    """Line and column of each statement in a function that has lines of its own."""
    finder = _Finder(text)
    list(finder.all())
    return finder.statements


class _Finder:
    """Walks a source and remembers in which statement of which function it is."""

    def __init__(self, text: str) -> None:
        self.raw = text.encode()
        self.tree = ast.parse(text)
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.statements: set[tuple[int, int]] = set()
        self.reached: int | None = None
        self.inside = False

    def all(self) -> Iterator[Mutant]:
        yield from self._walk(self.tree)

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def _mutant(self, rule: str, start: int, end: int, new: str) -> Mutant:
        line = self.raw.count(b"\n", 0, start) + 1
        return Mutant(rule, self.raw[start:end].decode(), new, line, self.reached, start)

    def _whole(self, rule: str, node: ast.expr | ast.stmt, new: str) -> Mutant:
        return self._mutant(rule, self._start(node), self._end(node), new)

    def _between(self, rule: str, start: int, end: int, table: dict[str, str]) -> Iterator[Mutant]:
        """The operator that stands between two operands, among brackets and line ends."""
        gap = self.raw[start:end].decode()
        old = " ".join(gap.strip("() \n\\").split())
        if old in table and old in gap:
            at = start + len(gap[: gap.index(old)].encode())
            yield self._mutant(rule, at, at + len(old), table[old])

    def _walk(self, node: ast.AST) -> Iterator[Mutant]:
        outer = self.reached, self.inside
        if isinstance(node, ast.stmt) and self.inside:
            self._enter(node)
        yield from self._here(node)
        for child in self._children(node):
            yield from self._walk(child)
        self.reached, self.inside = outer

    def _enter(self, node: ast.stmt) -> None:
        """A statement in a function: whether a probe fits before it."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        text = self.raw[self.starts[first - 1] : self._end(node)]
        own = not self.raw[self.starts[first - 1] :][: node.col_offset].strip()
        if own and not text.lstrip().startswith((b"elif", b'"""')):
            self.statements.add((first, node.col_offset))
            self.reached = first

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        """What is inside, without what is left out."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            return
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return
        if isinstance(node, ast.keyword) and node.arg in HOW:
            return
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if function:
            yield from (d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None)
        elif isinstance(node, ast.AnnAssign):
            yield from [node.value] if node.value is not None else []
            return
        self.inside = self.inside or function
        skipped = {"decorator_list", "args", "returns"} if function else {"decorator_list"}
        for name, value in ast.iter_fields(node):
            if name not in skipped:
                values = value if isinstance(value, list) else [value]
                yield from (child for child in values if isinstance(child, ast.AST))

    def _here(self, node: ast.AST) -> Iterator[Mutant]:
        """What the rules change at one node."""
        if isinstance(node, ast.BinOp):
            if not any(_is_text(side) for side in (node.left, node.right)):
                end, start = self._end(node.left), self._start(node.right)
                yield from self._between("arithmetic", end, start, ARITHMETIC)
        elif isinstance(node, ast.AugAssign):
            table = {f"{old}=": f"{new}=" for old, new in ARITHMETIC.items()}
            end, start = self._end(node.target), self._start(node.value)
            yield from self._between("arithmetic", end, start, table)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for one, other in itertools.pairwise(sides):
                end, start = self._end(one), self._start(other)
                yield from self._between("comparison", end, start, COMPARISON)
        elif isinstance(node, ast.BoolOp):
            for one, other in itertools.pairwise(node.values):
                end, start = self._end(one), self._start(other)
                yield from self._between("boolean", end, start, BOOLEAN)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._mutant("boolean", self._start(node), self._start(node) + len("not"), "")
        elif isinstance(node, ast.Constant):
            yield from self._constant(node)
        elif isinstance(node, ast.Slice):
            yield from self._by_one(node.lower, "+")
            yield from self._by_one(node.upper, "-")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield self._whole("call", node, "pass")
        elif isinstance(node, ast.Return) and node.value is not None:
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                yield self._whole("return", node, "return None")
        elif isinstance(node, ast.Call):
            yield from self._call(node)

    def _constant(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self._whole("boolean", node, str(not value))
        elif isinstance(value, int):
            yield self._whole("constant", node, str({0: 1, 1: 0}.get(value, value + 1)))
        elif isinstance(value, float):
            yield self._whole("constant", node, repr(2 * value if value else 1.0))

    def _by_one(self, node: ast.expr | None, sign: str) -> Iterator[Mutant]:
        if node is not None:
            old = self.raw[self._start(node) : self._end(node)].decode()
            yield self._whole("off by one", node, f"({old}) {sign} 1")

    def _call(self, node: ast.Call) -> Iterator[Mutant]:
        name = node.func
        if isinstance(name, ast.Name) and name.id == "range" and node.args:
            yield from self._by_one(node.args[-1], "-")
        word = name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")
        if word in EXTREME:
            end = self._end(name)
            yield self._mutant("extreme", end - len(word), end, EXTREME[word])
        parts = sorted([*node.args, *node.keywords], key=self._start)
        for i, part in enumerate(parts):
            if isinstance(part, ast.keyword) and part.arg is not None and part.arg not in HOW:
                start = self._end(parts[i - 1]) if i else self._start(part)
                end = self._start(parts[1]) if not i and len(parts) > 1 else self._end(part)
                yield self._mutant("keyword", start, end, "")


def _is_text(node: ast.expr) -> bool:
    """Whether an operand is text: + puts it together, % fills it in."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
