"""Ctrl-C, SIGTERM and SIGHUP asked for, not suffered: the loop looks, saves and leaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from deepen.errors import DeepenError, Interrupted, Preempted


def preempting() -> list[signal.Signals]:
    """What a scheduler sends, and a terminal that closes; not what `nohup` has had ignored."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def put_off() -> None:
    """Let signals wait until `heed`, so that none meets a program that cannot answer yet."""
    if hasattr(signal, "pthread_sigmask"):  # POSIX
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *preempting()])


def heed() -> None:
    """Have what `put_off` held back delivered."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, *preempting()])


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP set a flag; a second Ctrl-C no longer waits.

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
            for number in (signal.SIGINT, *preempting()):
                self._before[number] = signal.signal(number, self._note)
            while _swallowed:
                self._note(_swallowed.pop(), None)
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
        assert self.signal is not None
        if self.signal == signal.SIGINT:
            return Interrupted(f"stopped by Ctrl-C; {advice}")
        return Preempted(f"stopped by {signal.Signals(self.signal).name}; {advice}")


@contextmanager
def leaving_when_preempted(
    advice: str = "the same command with --resume auto goes on",
) -> Iterator[None]:
    """SIGTERM and SIGHUP end the block at once: what a resume simply does again.

    That is start-up and scoring; within it `StopRequest` holds while it is entered. Outside the
    main thread it does nothing.

    Raises:
        Preempted: one of them came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _swallowed.clear()
    before = {number: signal.signal(number, _leave) for number in preempting()}
    try:
        yield
        if _swallowed:
            raise _Leave(signal.Signals(_swallowed.pop()).name)
    except _Leave as left:
        _swallowed.clear()
        raise Preempted(f"stopped by {left}; {advice}") from None
    finally:
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sends it to those that are ending
            for number, handler in before.items():
                signal.signal(number, handler)


_swallowed: list[int] = []
"""The signal that `_leave` raised at, until it has come through: Python drops what is raised in a
callback, of a weak reference to an import's lock say. The next to ask heeds it then."""


class _Leave(BaseException):
    """As KeyboardInterrupt: no library's `except Exception` may hold it back."""


def _leave(number: int, frame: FrameType | None) -> None:
    for each in preempting():
        signal.signal(each, signal.SIG_IGN)  # schedulers repeat it
    _swallowed.append(number)
    raise _Leave(signal.Signals(number).name)
