"""Steps on pictures that lie on the device, with no word from the host in between.

Order, random numbers, position, learning rate, losses and figures are tensors there, so a step
reads and writes nothing else; on a GPU it is captured once, as a CUDA graph, and replayed. Small
networks are bound by kernel launches otherwise. Without a GPU the same step runs as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepen.data.loader import Batch
from deepen.training.build import Job
from deepen.training.speed import settings_of
from deepen.training.step import Notes, Step
from deepen.training.task import Outcome

WARM_UP_STEPS = 3
"""Before a capture: torch, cuDNN and the compiler settle what they do at first calls."""


def step_of(job: Job) -> Step:
    """The job's step: captured, where its settings say so."""
    return CapturedStep(job) if settings_of(job.recipe).cuda_graph else Step(job)


@dataclass(frozen=True)
class _OnDevice(Batch):
    """A full batch that lies on the device already; `images` and the like are none."""


class CapturedStep(Step):
    """Takes the full batches of an epoch on the device; what is left over is a plain step's."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        train, device = job.train, job.here.place
        self.train, self.device = train, device
        self.num_full = train.num_full
        self.order = torch.zeros(train.num_images, dtype=torch.int64, device=device)
        self.draws = torch.zeros(train.num_images, train.augmentation.draws, device=device)
        self.losses = torch.zeros(self.num_full, device=device)
        self.sums = torch.zeros(len(job.task.figures), dtype=torch.float64, device=device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.places = torch.arange(train.batch_size, device=device)
        self.taken: list[tuple[int, int]] = []  # batch and number of the steps not noted yet
        # Kernels on a GPU read rates in float32; the CPU's take them as Python has them.
        kind = torch.float32 if self.on_gpu else torch.float64
        groups = self.optimizer.param_groups
        self.rates = [torch.zeros((), dtype=kind, device=device) for _ in groups]
        self.known_rates: list[float] = []
        self.run: Callable[[], object] | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether steps are captured."""
        return self.device.type == "cuda"

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The full batches, laid out on the device, and then the one that is left over."""
        if start < self.num_full:
            self._lay_out(epoch, start)
        nothing = torch.empty(0)
        yield from itertools.repeat(_OnDevice(nothing, nothing, nothing), self.num_full - start)
        yield from self.train.epoch(epoch, start=max(start, self.num_full))

    def take(self, batch: Batch, number: int, notes: Notes) -> None:
        """See `Step`; of a batch on the device nothing is noted before `hand_over`."""
        if not isinstance(batch, _OnDevice):
            self.hand_over(notes)
            super().take(batch, number, notes)
            return
        assert self.run is not None, "begin an epoch first"
        self._note_rates()
        self.run()
        self.taken.append((self.first + len(self.taken), number))

    def hand_over(self, notes: Notes) -> None:
        """Note the steps taken on the device since an epoch began, and wait for them."""
        size = self.train.batch_size
        losses = [
            (self.losses[batch], self.order[batch * size : (batch + 1) * size], number)
            for batch, number in self.taken
        ]
        if losses:
            notes.add_losses(losses, self.sums)
        self.taken.clear()

    def _lay_out(self, epoch: int, start: int) -> None:
        """Lay out an epoch from a batch on, and clear losses and figures."""
        if self.run is None:
            mode = self.network.training
            self.network.train()
            self.run = self._prepared()
            self.network.train(mode)
        order, draws = self.train.layout(epoch)
        self.order.copy_(order)
        self.draws.copy_(draws)
        self.position.fill_(start)
        self.losses.zero_()
        self.sums.zero_()
        self.first = start

    def _note_rates(self) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if rates != self.known_rates:
            for tensor, value in zip(self.rates, rates, strict=True):
                tensor.fill_(value)
            self.known_rates = rates

    def _prepared(self) -> Callable[[], object]:
        """The step as it is called, captured where there is a GPU."""
        if not self.on_gpu:
            self._warm_up()
            return self._step
        try:
            return self._captured()
        except RuntimeError as error:  # an operation of the network that waits for the device
            self.optimizer.zero_grad()
            reason = str(error).split("\n")[0]
            self.job.here.reporter.message(
                f"speed: this step cannot be captured ({reason}): it runs without a graph"
            )
            return self._step

    def _captured(self) -> Callable[[], object]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._warm_up()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph.replay

    def _warm_up(self) -> None:
        self._note_rates()
        with untouched(self.network, self.optimizer, self.device):
            for _ in range(WARM_UP_STEPS):
                self.position.zero_()
                self._step()

    def _step(self) -> None:
        rows = self.position * self.train.batch_size + self.places
        indices = self.order[rows]
        images, labels = self.train.pick(indices, self.draws[rows])
        with self._rates_as_tensors():
            super().take(Batch(images, labels, indices), 0, self)
        self.position += 1

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """See `Notes`: kept on the device until they are handed over."""
        self.losses.index_copy_(0, self.position[None], outcome.loss.detach()[None])
        self.sums += self.job.task.tally([outcome.kept])

    def add_losses(self, losses: Sequence[tuple[Tensor, Tensor, int]], sums: Tensor) -> None:
        """See `Notes`: a captured step is no place to note others."""

    @contextmanager
    def _rates_as_tensors(self) -> Iterator[None]:
        """A graph keeps numbers as they were; it reads tensors anew."""
        groups = self.optimizer.param_groups
        before = [(group["lr"], group.get("capturable")) for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = self.on_gpu and torch.cuda.is_current_stream_capturing()
        try:
            yield
        finally:
            for group, (lr, capturable) in zip(groups, before, strict=True):
                group["lr"] = lr
                if capturable is not None:
                    group["capturable"] = capturable


@contextmanager
def untouched(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[None]:
    """Put weights, buffers, optimizer state and random numbers back, in place.

    State that the optimizer did not have before becomes zero, which is where momenta, moments and
    counters of torch's begin.
    """
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [t for state in optimizer.state.values() for t in state.values() if _is(t)]
    before = [tensor.detach().clone() for tensor in tensors]
    known = {id(tensor) for tensor in tensors}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            for state in optimizer.state.values():
                for value in state.values():
                    if _is(value) and id(value) not in known:
                        value.zero_()


def _is(value: object) -> bool:
    return isinstance(value, Tensor)
