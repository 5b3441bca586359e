"""Ctrl-C and SIGTERM asked for, not suffered: the loop looks, saves and leaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from deepen.errors import DeepenError, Interrupted, Preempted


class StopRequest:
    """While entered, SIGINT and SIGTERM set a flag; a second Ctrl-C no longer waits.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        shared: of several processes that stop together: `signal` is set when all have agreed.

    Attributes:
        asked: the signal that this process got.
        signal: the signal to stop at.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.asked: int | None = None
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = number
        if not self.shared:
            self.signal = number

    def error(self, advice: str) -> DeepenError:
        """What to raise once all is saved."""
        if self.signal == signal.SIGTERM:
            return Preempted(f"stopped by SIGTERM; {advice}")
        return Interrupted(f"stopped by Ctrl-C; {advice}")


@contextmanager
def leaving_at_sigterm() -> Iterator[None]:
    """SIGTERM ends the block at once: start-up and scoring, which a resume simply does again.

    Within it `StopRequest` holds while it is entered. Outside the main thread it does nothing.

    Raises:
        Preempted: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except _Leave:
        raise Preempted("stopped by SIGTERM; the same command with --resume auto goes on") from None
    finally:
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sends it to those that are ending
            signal.signal(signal.SIGTERM, before)


class _Leave(BaseException):
    """As KeyboardInterrupt: no library's `except Exception` may hold it back."""


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers repeat it
    raise _Leave
