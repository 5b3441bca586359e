"""The one place that prints: results to standard output, all else to standard error.

Names of files, classes, tensors and the words of cards are other people's: nothing here takes them
for rich's markup, and what would move a terminal's cursor or end a line is shown as an escape
(`deepen.data.names.printable`). Standard output that is full or closed is an error, after the work;
standard error that is so loses words, and never the work.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from deepen.display import UNPRINTABLE, Part, columns, printable, text
from deepen.errors import DeepenError, WorkError

# What a spreadsheet takes for a formula, in full width too.
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# No number, and no size like -1x-1, is one.
NUMBERS = re.compile(r"[+-][\d.]+(e[+-]?\d+|(x[+-]?[\d.]+)*)")


class Unread(DeepenError):
    """Who read the results has gone: `deepen predict ... | head`."""


class _Told:
    """Standard error as a file that takes everything: full or closed, it stops no training."""

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # under a bar it is rich's

    def write(self, text: str) -> int:
        stream = self._stream
        try:
            if stream is not None:
                stream.write(text)
                stream.flush()
        except (OSError, ValueError):
            _mute(stream)
        return len(text)

    def flush(self) -> None:
        """Each write is flushed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _mute(stream: Any) -> None:
    """Send what still comes nowhere: Python writes what is left once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_told: Any = _Told()
# Not on a terminal, rich would fold lines at 80 columns.
err = Console(
    file=_told,
    soft_wrap=sys.stderr is None or not sys.stderr.isatty(),
    markup=False,
    highlight=False,
    emoji=False,
)


def prepare_streams() -> None:
    """Have no line fail for a character that a stream's encoding lacks: it is shown as an escape.

    A stream that is closed is nowhere, or the next file to be opened would take its number, and get
    what libraries in C print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(line: str = "") -> None:
    """A line on standard output.

    Raises:
        Unread: nobody reads it any more.
        WorkError: it cannot be written.
    """
    _write(printable(line))


def say_text(lines: str) -> None:
    """Lines of deepen's own on standard output."""
    for line in lines.removesuffix("\n").split("\n"):
        say(line)


def tell(line: str) -> None:
    """A line on standard error, above the bar where there is one."""
    err.print(printable(line), soft_wrap=True)


def complain(message: str, name: str = "deepen") -> None:
    """One line on standard error, of whatever a library wrote."""
    _told.write(printable(f"{name}: {' '.join(message.split())}") + "\n")


def print_json(document: Any, indent: int | None = 1) -> None:
    """A document on standard output, and nothing else there."""
    lines = json.dumps(document, indent=indent, ensure_ascii=False).split("\n")
    whole = "\n".join(UNPRINTABLE.sub(_json_escape, line) for line in lines)
    try:
        whole.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        whole = json.dumps(document, indent=indent)
    _write(whole)


def print_csv_row(cells: Sequence[Any]) -> None:
    """One row of CSV, quoted where it must be, as it comes.

    Words that a spreadsheet would take for a formula get an apostrophe before them, as it has one
    itself before words; programs had better read --json.
    """
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(map(_no_formula, cells))
    say(row.getvalue())


def print_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as CSV on standard output, row by row as they come."""
    print_csv_row(header)
    for row in rows:
        print_csv_row(row)


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
    """A table in columns, the first `words` of them words and the others numbers."""
    for line in columns(header, rows, words):
        say(line)


def print_parts(parts: Iterable[Part]) -> None:
    """What a result says of itself, on standard output."""
    for line in text(parts):
        say(line)


def _no_formula(cell: Any) -> Any:
    if isinstance(cell, str) and cell.startswith(FORMULAS) and not NUMBERS.fullmatch(cell):
        return f"'{cell}"
    return cell


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _write(text: str) -> None:
    if sys.stdout is None:
        raise WorkError("standard output is closed: the results could not be printed")
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        _mute(sys.stdout)
        raise Unread from error
    except (OSError, ValueError) as error:
        _mute(sys.stdout)
        words = getattr(error, "strerror", None) or error
        raise WorkError(f"standard output: {words}") from error
