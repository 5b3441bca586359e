"""TensorBoard's events of a run: an extra, which no training fails for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from deepen.training.progress import Row


class Board:
    """Rows of metrics as TensorBoard scalars, each on the disk before the next is made.

    torch's SummaryWriter has a thread write them, which on a full disk dies with a traceback. Where
    tensorboard is missing or broken, or its file cannot be written, one line says so, once, and no
    more is written.

    Args:
        folder: of the events.
        step: those from here on, of a run that is now resumed, are void.
        tell: called with the line.
    """

    def __init__(self, folder: Path, step: int, tell: Callable[[str], None]) -> None:
        self.folder, self._tell = folder, tell
        self._file: BinaryIO | None = None
        self._do(self._begin, step)

    def add(self, row: Row) -> None:
        """Every column of a row, at its step."""
        if self._file is not None:
            self._do(self._add, row)

    def close(self) -> None:
        """No more comes."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _do(self, write: Callable[[Any], None], what: Any) -> None:
        try:
            write(what)
        except Exception as error:  # of tensorboard, protobuf and the system: no common ancestor
            words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._tell(f"no more events for TensorBoard: {self.folder}: {words}")
            self.close()
            self._file = None

    def _begin(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import (  # its names are made when it is imported
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )

        now = time.time()  # a run may be stopped and gone on with within a second
        self.folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.folder / name, "ab")  # noqa: SIM115
        self._write(file_version="brain.Event:2")
        if step:
            self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, row: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name not in ("epoch", "step") and value is not None
        ]
        self._write(step=row["step"], summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None
        event = Event(wall_time=time.time(), **fields)
        RecordWriter(self._file).write(event.SerializeToString())
        self._file.flush()


@contextmanager
def open_board(folder: Path, step: int, tell: Callable[[str], None]) -> Iterator[Board]:
    """A `Board` for as long as it is needed."""
    board = Board(folder, step, tell)
    try:
        yield board
    finally:
        board.close()
