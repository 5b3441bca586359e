"""How results show themselves: as lines in a terminal and as HTML in a notebook, from one list.

A result says what it is in `display()`: lines, and tables with the columns that the commands print.
HTML has no colors of its own, so that it is read in light and dark notebooks, and fetches nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from rich.cells import cell_len

# What ends a line, moves a terminal's cursor or turns the direction of reading: C0, DEL and C1,
# separators of lines, the directions that are opened and closed; and bytes that were no UTF-8.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Result = TypeVar("Result")


class Table(NamedTuple):
    """Columns, the first `words` of them words and the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


Part = str | Table


def printable(text: str) -> str:
    r"""In one line that no terminal obeys: newline is `\n`, ESC `\x1b`, a lost byte `\udc..`.

    >>> printable("a\nb [red]")
    'a\\nb [red]'
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def displayed(result: type[Result]) -> type[Result]:
    """Have a class with a method `display() -> Iterable[Part]` show that of itself."""

    def as_text(self: Any) -> str:
        return "\n".join(text(self.display()))

    def as_html(self: Any) -> str:
        return to_html(self.display())

    for name, shows in (("__repr__", as_text), ("__str__", as_text), ("_repr_html_", as_html)):
        setattr(result, name, shows)
    return result


def text(parts: Iterable[Part]) -> list[str]:
    """Lines; tables in aligned columns, with an empty line before each that is not the first."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(printable(part))
        else:
            lines += [*([""] if lines else []), *columns(*part)]
    return lines


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A table as lines: words begin at the left of their column, numbers end at the right."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for line in lines:
        cells = []
        for i, (cell, width) in enumerate(zip(line, widths, strict=True)):
            space = " " * (width - cell_len(cell))  # a Chinese character is two columns wide
            cells.append(cell + space if i < words else space + cell)
        aligned.append("  ".join(cells).rstrip())
    return aligned


def to_html(parts: Iterable[Part]) -> str:
    """Paragraphs and tables, every text escaped."""
    return "\n".join(_html_of(part) for part in parts if part)


def _html_of(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{_escaped(part)}</p>"
    head = "".join(_cell("th", cell, i < part.words) for i, cell in enumerate(part.header))
    rows = (
        "".join(_cell("td", cell, i < part.words) for i, cell in enumerate(row))
        for row in part.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        '<div style="overflow-x:auto"><table style="font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(tag: str, content: str, is_word: bool) -> str:
    side = "left" if is_word else "right"
    return f'<{tag} style="text-align:{side}">{_escaped(content)}</{tag}>'


def _escaped(content: str) -> str:
    return html.escape(printable(content))
