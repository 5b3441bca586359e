"""Processes that decode, and what is done when the machine takes them away.

A machine may have no shared memory, too few open files, or too little memory, and then kills a
process. What batches hold depends on none of that: the process that asked goes on alone, in the
very place, and says so in a line.
"""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.queues
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from deepen.errors import SCARCE

FILES, FILES_A_WORKER = 16, 8  # that a process opens for workers at most, more than it has open
SHARED = "shared memory (/dev/shm) is full or missing: give it more room, or take --workers 0"


class Workers:
    """Answers requests in order, by processes that live as long as this.

    Args:
        dataset: answers a request by `dataset[request]`, here or in another process.
        num: of processes.
        device: where the answers are wanted.
        alone: called once when the processes are no more, with the reason in words.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num: int,
        device: torch.device,
        alone: Callable[[str], None],
    ) -> None:
        self.dataset, self.alone = dataset, alone
        self._requests: list[Any] = []
        self._loader: DataLoader[Any] | None = None
        if not _enough_files(num):
            self.alone(SCARCE[errno.EMFILE])
            return
        try:
            leaving = _leaving(os.getpid())
        except (OSError, ImportError):  # there are no semaphores
            self.alone(SHARED)
            return
        self._loader = DataLoader(
            dataset,
            batch_size=None,  # a request is a batch already
            sampler=self._requests,
            num_workers=num,
            persistent_workers=True,
            collate_fn=_as_it_is,
            worker_init_fn=partial(_begin, leaving),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch would draw from torch's global one
        )

    def __call__(self, requests: Sequence[Any]) -> Iterator[Any]:
        """The answers; one request after another, in the order given."""
        done = 0
        if self._loader is not None:
            self._requests[:] = requests
            try:
                for answer in self._loader:
                    done += 1
                    yield answer
            except (OSError, RuntimeError) as error:
                _tidy(error)
                fault = self._fault(error)
                if fault is None:
                    self.close()
                    raise
                self._loader = None
                self.alone(fault)
        yield from map(self.dataset.__getitem__, requests[done:])

    def close(self) -> None:
        """End the processes now; what is asked for later is answered here.

        Held by the traceback of an error they would be ended by Python's collector of circles,
        which takes their queues first: each would be waited for ten seconds.
        """
        iterator = getattr(self._loader, "_iterator", None)
        self._loader = None
        if iterator is not None:
            iterator._shutdown_workers()

    def _fault(self, error: Exception) -> str | None:
        """What the machine refused, in words; None where the error is another."""
        workers = getattr(getattr(self._loader, "_iterator", None), "_workers", ())
        ended = [worker.exitcode for worker in workers if worker.exitcode is not None]
        number, text = getattr(error, "errno", None), str(error)
        for scarce in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            if number == scarce or scarce in ended or os.strerror(scarce) in text:
                return SCARCE[scarce]
        full = (errno.ENOSPC, errno.ENOENT, errno.ENOSYS, -getattr(signal, "SIGBUS", 7))
        words = ("shared memory", os.strerror(errno.ENOSPC))
        if {number, *ended} & {*full} or any(word in text for word in words):
            return SHARED
        if "DataLoader worker (pid" in text:
            how = next((code for code in ended if code), None)
            killed = "" if how is None or how > 0 else f" by {signal.Signals(-how).name}"
            return f"a decoding process was killed{killed}, for want of memory perhaps"
        return None


def _tidy(error: Exception) -> None:
    """End what torch had begun when it failed: when it is deleted half made, it complains."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made: Any = frame.f_locals.get("self")
        if hasattr(made, "_worker_result_queue") and not hasattr(made, "_workers_status"):
            made._shutdown = True
            for worker in getattr(made, "_workers", ()):
                worker.kill()


def share(tensor: torch.Tensor) -> torch.Tensor:
    """A worker's answer, in shared memory before it is sent: where that is full, it is an error.

    Else a thread of the queue's would meet it, drop the answer, and the program wait for ever.
    """
    if torch.utils.data.get_worker_info() is not None:
        tensor.share_memory_()
    return tensor


def _enough_files(workers: int) -> bool:
    """Whether this process may open as many files as so many workers need; it asks for them."""
    try:
        import resource

        needed = len(os.listdir("/dev/fd")) + FILES + FILES_A_WORKER * workers
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * needed if most == resource.RLIM_INFINITY else min(2 * needed, most)
        if least != resource.RLIM_INFINITY and least < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            least = wanted
        return least == resource.RLIM_INFINITY or needed <= least
    except (ImportError, OSError, ValueError):  # not POSIX, or no such folder
        return True


def _as_it_is(answer: Any) -> Any:
    return answer


@cache
def _leaving(process: int) -> Event:
    """Set when this process ends. The standard library then ends workers by SIGTERM.

    A process that multiprocessing started itself runs no function of `atexit`, only finalizers.
    """
    event = multiprocessing.Event()
    Finalize(None, event.set, exitpriority=0)
    return event


def _begin(leaving: Event, worker: int) -> None:
    """Ctrl-C and a scheduler's signals reach all processes; the main one decides when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if leaving.is_set() else None)
    # What cannot be sent would be dropped, and waited for.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, answer: Any) -> None:
    os._exit(getattr(error, "errno", None) or errno.EIO)
