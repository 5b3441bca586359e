"""What a run shows while it works: bars on a terminal, a plain line an epoch elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from deepen.data.names import printable

Row = dict[str, float | int | None]


class Reporter(Protocol):
    """What the loop tells of itself; every method may do nothing."""

    def start(self, total_images: int, done_images: int) -> None:
        """Training begins, with this many pictures to go through in all and behind it."""
        ...

    def batch(self, images: int, loss: float) -> None:
        """A step was taken."""
        ...

    def epoch(self, row: Row, epochs: int) -> None:
        """An epoch ended; `row` is its line of metrics.csv."""
        ...

    def message(self, text: str) -> None:
        """Something worth a line of its own."""
        ...

    def close(self) -> None:
        """Training ended, well or not."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, total_images: int, done_images: int) -> None:
        """Nothing."""

    def batch(self, images: int, loss: float) -> None:
        """Nothing."""

    def epoch(self, row: Row, epochs: int) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Passing:
    """Passes all on to another reporter; for those that want to see it too."""

    def __init__(self, shown: Reporter) -> None:
        self.shown = shown
        self.start, self.batch = shown.start, shown.batch
        self.message, self.close = shown.message, shown.close

    def epoch(self, row: Row, epochs: int) -> None:
        """See `Reporter`."""
        self.shown.epoch(row, epochs)


class Bars:
    """A rich progress bar with images/s and the time left, a line an epoch above it.

    Where the console is no terminal there is no bar, only the lines; `lines` false leaves them out.
    """

    REFRESH_S = 0.1

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console, self.lines = console, lines
        self.bar: Progress | None = None
        self._pending, self._shown = 0, 0.0

    def start(self, total_images: int, done_images: int) -> None:
        """See `Reporter`."""
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
            transient=True,
        )
        self._task = self.bar.add_task(
            "training", total=total_images, completed=done_images, rate="", loss=""
        )
        self._began, self._images = time.monotonic(), 0
        self.bar.start()

    def batch(self, images: int, loss: float) -> None:
        """See `Reporter`; redraws at most ten times a second."""
        self._pending += images
        now = time.monotonic()
        if self.bar is None or now - self._shown < self.REFRESH_S:
            return
        self._images += self._pending
        rate = self._images / max(now - self._began, 1e-9)
        self.bar.update(
            self._task,
            advance=self._pending,
            rate=f"{rate:,.0f} images/s",
            loss=f"loss {loss:.3f}",
        )
        self._pending, self._shown = 0, now

    def epoch(self, row: Row, epochs: int) -> None:
        """See `Reporter`."""
        parts = [f"epoch {row['epoch']}/{epochs}", f"train {_in_words(row, 'train_')}"]
        if was_scored(row):
            parts.append(f"validation {_in_words(row, 'eval_')}")
        parts.append(f"lr {row['lr']:.4g}")
        parts.append(f"{row['images_per_s']:,.0f} images/s")
        self.message("  ".join(parts))

    def message(self, text: str) -> None:
        """See `Reporter`."""
        if self.lines:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """See `Reporter`."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def was_scored(row: Row) -> bool:
    """Whether pictures were scored after this epoch, by whatever figure."""
    return any(key.startswith("eval_") and value is not None for key, value in row.items())


def _in_words(row: Row, prefix: str) -> str:
    """The figures of a row that begin so; of classification the loss and the error."""
    known = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    if (top1 := known.get("top1")) is not None:
        words = f"loss {known['loss']:.4f} error {100 - 100 * top1:.2f}%"
        if (balanced := known.get("balanced")) is not None:
            words += f" balanced accuracy {100 * balanced:.2f}%"
        return words
    return " ".join(f"{name} {value:.4f}" for name, value in known.items() if value is not None)
