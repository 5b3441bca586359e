"""Several networks trained at once: one small network leaves most of a big GPU idle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from deepen.errors import DeepenError, Interrupted, Preempted
from deepen.training.loop import Job, course
from deepen.training.progress import Reporter
from deepen.training.state import State
from deepen.training.stop import StopRequest


def fit_many(
    jobs: Sequence[Job], reporters: Sequence[Reporter], *, resume: bool = False
) -> list[State]:
    """Train all jobs to their ends, a step of each in turn; each as `fit` would, bit for bit.

    On a GPU each has its own stream, so that their kernels run side by side; each has its own state
    of torch's random numbers. A job that fails does not stop the others.

    Raises:
        DeepenError: the first job's that failed, once the others have ended; Interrupted and
            Preempted, when all have been saved.
    """
    ended: dict[int, State] = {}
    failed: list[DeepenError] = []
    with StopRequest() as stop:
        lanes = {
            place: _Lane(job, course(job, reporter, stop, resume=resume))
            for place, (job, reporter) in enumerate(zip(jobs, reporters, strict=True))
        }
        while lanes:
            for place, lane in list(lanes.items()):
                try:
                    ended[place] = lane.step()
                except StopIteration:
                    del lanes[place]
                except DeepenError as error:
                    failed.append(error)
                    del lanes[place]
    if failed:
        stopped = (error for error in failed if isinstance(error, Interrupted | Preempted))
        raise next(stopped, failed[0])
    return [ended[place] for place in range(len(jobs))]


class _Lane:
    """A job on the way, with the stream and the random numbers that are its own."""

    def __init__(self, job: Job, steps: Iterator[State]) -> None:
        self.steps = steps
        self.on_gpu = job.device.type == "cuda"
        self.device = job.device
        self.random = self._random()
        self.stream: AbstractContextManager[object] = nullcontext()
        if self.on_gpu:
            stream = torch.cuda.Stream(job.device)
            stream.wait_stream(torch.cuda.current_stream(job.device))
            self.stream = torch.cuda.stream(stream)

    def step(self) -> State:
        outside = self._random()
        self._set_random(self.random)
        try:
            with self.stream:
                return next(self.steps)
        finally:
            self.random = self._random()
            self._set_random(outside)

    def _random(self) -> list[torch.Tensor]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.on_gpu else []
        return [torch.get_rng_state(), *cuda]

    def _set_random(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self.on_gpu:
            torch.cuda.set_rng_state(states[1], self.device)
