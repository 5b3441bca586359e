"""Worked examples as a lecture draws them: words, then arrays side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

Drawn = NDArray[Any]  # numbers, or symbols


@dataclass(frozen=True)
class Step:
    """What happens, and the arrays (1-D or 2-D) that show it, by name."""

    words: str
    values: Mapping[str, Drawn] = field(default_factory=dict)


@dataclass(frozen=True)
class Worked:
    """One block with all its numbers."""

    title: str
    source: str
    steps: tuple[Step, ...]

    def text(self) -> str:
        """For a terminal or a page, plain ASCII."""
        parts = [f"{self.title}\n{self.source}"]
        for number, step in enumerate(self.steps, 1):
            drawn = f"\n\n{side_by_side(step.values)}" if step.values else ""
            parts.append(f"{number}. {step.words}{drawn}")
        return "\n\n".join(parts)

    def document(self) -> dict[str, Any]:
        """The same as JSON has it."""
        steps = [
            {"words": step.words, "values": {k: v.tolist() for k, v in step.values.items()}}
            for step in self.steps
        ]
        return {"title": self.title, "source": self.source, "steps": steps}


def side_by_side(values: Mapping[str, Drawn]) -> str:
    """Arrays under their names, tops aligned."""
    blocks = [[name, *rows(array)] for name, array in values.items()]
    widths = [max(map(len, block)) for block in blocks]
    lines = [
        "     ".join(line.ljust(width) for line, width in zip(row, widths, strict=True))
        for row in zip_longest(*blocks, fillvalue="")
    ]
    return "\n".join(f"   {line}".rstrip() for line in lines)


def rows(array: Drawn) -> list[str]:
    """The rows of an array, columns aligned."""
    table = [[cell(value) for value in row] for row in np.atleast_2d(array)]
    width = max(len(word) for row in table for word in row)
    return [" ".join(word.rjust(width) for word in row) for row in table]


def cell(value: Any) -> str:
    """A number with at most four significant digits, or a symbol."""
    return str(value) if isinstance(value, str) else f"{value + 0.0:.4g}"  # + 0.0: no "-0"
