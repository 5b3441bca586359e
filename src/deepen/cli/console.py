"""What the verbs print with: results to standard output, all else to standard error."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

# Not on a terminal, rich would fold lines at 80 columns.
err = Console(stderr=True, soft_wrap=not sys.stderr.isatty())
out = Console(soft_wrap=not sys.stdout.isatty())


def complain(message: str, name: str = "deepen") -> None:
    """One line to standard error."""
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)


def print_json(document: Any) -> None:
    """A document on standard output, and nothing else there."""
    print(json.dumps(document, indent=1, ensure_ascii=False))


def csv_line(cells: Sequence[Any]) -> str:
    """One row as CSV has it, quoted where it must be."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def print_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as CSV on standard output, row by row as they come."""
    print(csv_line(header))
    for row in rows:
        print(csv_line(row), flush=True)


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
    """A table in columns, the first `words` of them words and the others numbers.

    Hundreds of rows at once; rich takes half a second to lay those out.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
