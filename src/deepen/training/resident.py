"""Training steps on pictures that lie on the device, with no word from the host in between.

Order, random numbers, position, learning rate, losses and hits are tensors there, so a step reads
and writes nothing else; on a GPU it is captured once, as a CUDA graph, and replayed. Small networks
are bound by kernel launches otherwise. Without a GPU the same step runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from deepen.data.loader import Batches
from deepen.training.recipe import Recipe

WARM_UP_STEPS = 3
"""Before a capture: torch, cuDNN and the compiler settle what they do at first calls."""


class ResidentSteps:
    """The steps on full batches of an epoch.

    Args:
        model: trained in place.
        forward: the network or its compiled form.
        loss: of outputs and labels: (logits, loss).
        optimizer: steps; its rates are read before each step.
        recipe: for clipping and seed.
        train: resident batches.
        precision: of the forward pass.
        say: told when the step cannot be captured; it then runs as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        loss: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        train: Batches,
        precision: AbstractContextManager[Any] | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.model, self.forward, self.loss = model, forward, loss
        self.optimizer, self.recipe, self.train = optimizer, recipe, train
        self.precision, self.say = precision or nullcontext(), say
        device = train.device
        self.num_batches = train.num_images // train.batch_size
        self.order = torch.zeros(train.num_images, dtype=torch.int64, device=device)
        self.draws = torch.zeros(train.num_images, train.augmentation.draws, device=device)
        self.losses = torch.zeros(self.num_batches, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.places = torch.arange(train.batch_size, device=device)
        # Kernels on a GPU read rates in float32; the CPU's take them as Python has them.
        kind = torch.float32 if self.on_gpu else torch.float64
        self.rates = [torch.zeros((), dtype=kind, device=device) for _ in optimizer.param_groups]
        self.known_rates: list[float] = []
        self.run: Callable[[], object] | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether steps are captured."""
        return self.train.device.type == "cuda"

    def begin(self, epoch: int, start: int) -> None:
        """Lay out an epoch from a batch on, and clear losses and hits."""
        if self.run is None:
            model_mode = self.model.training
            self.model.train()
            self.run = self._prepared()
            self.model.train(model_mode)
        order, draws = self.train.layout(epoch)
        self.order.copy_(order)
        self.draws.copy_(draws)
        self.position.fill_(start)
        self.losses.zero_()
        self.hits.zero_()

    def step(self) -> None:
        """Take the next batch; nothing is waited for."""
        assert self.run is not None, "begin an epoch first"
        self._note_rates()
        self.run()

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
            self.say(f"speed: this step cannot be captured ({reason}): it runs without a graph")
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
        with untouched(self.model, self.optimizer, self.train.device):
            for _ in range(WARM_UP_STEPS):
                self.position.zero_()
                self._step()

    def _step(self) -> None:
        rows = self.position * self.train.batch_size + self.places
        images, labels = self.train.pick(self.order[rows], self.draws[rows])
        with self.precision:
            outputs = self.forward(images)
        logits, loss = self.loss(outputs, labels)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        with self._rates_as_tensors():
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.index_copy_(0, self.position[None], loss.detach()[None])
        self.hits += (logits.detach().argmax(1) == labels).sum()
        self.position += 1

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
