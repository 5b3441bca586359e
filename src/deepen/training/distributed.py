"""Several processes that train one network under torchrun: torch's DistributedDataParallel.

Each process takes its part of every batch (`recipe.batch_size` counts them all together) and all
make the same step. Process 0 alone writes, and alone reads what a run wrote: the others are sent
it. Gradients go by NCCL between GPUs, all else, and everything on CPUs, by gloo.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from deepen.data.decode import PictureError
from deepen.data.loader import Batch
from deepen.errors import DeepenError, InputError, Interrupted, WorkError
from deepen.evaluation.protocols import Predictions
from deepen.training.checkpoint import Checkpoint
from deepen.training.stop import StopRequest, leaving_when_preempted, preempting

TIMEOUT_S = 600.0
"""A process that lets the others wait longer has hung; DEEPEN_TIMEOUT_S has another number."""

ALONE_TIMEOUT_S = 7200.0
"""So long may process 0 fetch and index the data, or write the report, while the others wait; but
none may be without a sign of life for longer than `TIMEOUT_S`."""


class Processes:
    """This process alone: nothing is sent, and what would be comes back as it is.

    Attributes:
        rank: which of the processes this is, from 0.
        size: how many there are.
    """

    rank, size = 0, 1

    def place(self, device: torch.device) -> torch.device:
        """The device of this process."""
        return device

    def wrap(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The network's forward pass, compiled perhaps, with gradients of the whole batch."""
        return forward

    def together(
        self, batches: Iterator[Batch], stop: StopRequest | None = None
    ) -> Iterator[Batch]:
        """The batches of this process; what was asked of one process is then asked of all."""
        return batches

    def seed(self, seed: int, step: int) -> None:
        """Make torch's random numbers, dropout's, this step's and process's own."""

    def agree(self, stop: StopRequest) -> None:
        """What was asked of one process is asked of all."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, of a tensor on the CPU."""
        return values

    def share(self, document: Any, timeout_s: float | None = None) -> Any:
        """What process 0 has, as JSON keeps it."""
        return document

    def gather(self, document: Any, timeout_s: float | None = None) -> list[Any]:
        """What each process has, as JSON keeps it, in order; also a point that all must reach."""
        return [document]

    def gather_predictions(self, found: Predictions) -> Predictions:
        """The parts of all processes, in the order of the split."""
        return found

    def share_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite tensors with those of process 0."""

    def share_checkpoint(self, found: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint that process 0 found."""
        return found


@contextmanager
def join() -> Iterator[Processes]:
    """Meet the other processes that torchrun started, if it did; leave them at the end.

    An error in one process ends all, each with the same exit status. The one that fails first
    raises it; the others raise one without words, for it has been said.

    Raises:
        WorkError: the processes do not find each other, or one of them has died or hung.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    processes = _Many()
    try:
        with leaving_when_preempted():
            yield processes
            processes.gather("done", ALONE_TIMEOUT_S)
    except BaseException as error:
        processes.fail(error)
    finally:
        processes.pulse.end()
    dist.destroy_process_group()


def speaks() -> bool:
    """Whether this is the one process that prints."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ["RANK"] == "0"


def restarted() -> bool:
    """Whether torchrun has started this job anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def restartable() -> bool:
    """Whether torchrun would do so."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


class _Many(Processes):
    """One of several processes; sums and gradients through torch.distributed, words as JSON."""

    def __init__(self) -> None:
        self.timeout_s = float(os.environ.get("DEEPEN_TIMEOUT_S", TIMEOUT_S))
        timeout = datetime.timedelta(seconds=self.timeout_s)
        on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            store, self.rank, self.size = next(rendezvous("env://", timeout=timeout))
            # torchrun's store outlives a restart, and so would what the dead have said.
            store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=PrefixStore("torch", store),
                rank=self.rank,
                world_size=self.size,
                timeout=timeout,
            )
        except (RuntimeError, ValueError) as error:
            raise WorkError(f"the processes do not find each other: {error}") from error
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        if self.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self.local_rank)  # or each would begin by using the first
        self.store = PrefixStore("deepen", store)
        self.pulse = _Pulse(self.store, self.rank, self.timeout_s)
        self.words = 0  # documents shared so far: each has a key of its own
        self.left = 0  # pictures of the batch that have not gone forward yet
        self.part = 1.0  # of the batch's pictures, those that are in this process

    def place(self, device: torch.device) -> torch.device:
        if device.type == "mps":
            raise InputError("--device mps: several processes need cpu or cuda")
        if device.type != "cuda":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"--nproc-per-node: process {self.rank} is number {self.local_rank + 1} on "
                f"{socket.gethostname()}, which has {torch.cuda.device_count()} GPUs"
            )
        return torch.device("cuda", self.local_rank)

    def wrap(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        # Gradients of 1x1 kernels and single channels lie in memory as they like; they are copied.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Buffers are batch norm's statistics, which steps do not read: sent once an epoch.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        without: dict[str, Any] = {name: False}  # its name in torch 2.15, and before
        wrapped = DistributedDataParallel(_OrNothing(model, forward), **without)
        wrapped.register_comm_hook(None, lambda state, bucket: self._sum_of_parts(bucket.buffer()))
        # DDP lays its buckets out anew after the first step, and sums of three and more depend on
        # the layout. With a step without pictures behind it, all steps, a resumed one too, agree.
        wrapped(torch.empty(0)).backward()
        model.zero_grad()

        def shared(images: Tensor, *others: Any) -> Any:
            self.left -= len(images)
            wrapped.require_backward_grad_sync = self.left == 0  # of micro-batches, at the last
            return wrapped(images, *others)

        return shared

    def _sum_of_parts(self, gradients: Tensor) -> torch.futures.Future[Tensor]:
        """The mean over the pictures of all processes, however many of them each has."""
        work = dist.all_reduce(gradients.mul_(self.part), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    def together(
        self, batches: Iterator[Batch], stop: StopRequest | None = None
    ) -> Iterator[Batch]:
        for batch in batches:
            pictures, num_bad = self._agree(stop, len(batch.indices), len(batch.bad))
            bad = batch.bad
            if num_bad:
                lists = self.gather([[error.path, error.reason] for error in bad])
                bad = tuple(PictureError(*each) for errors in lists for each in errors)
            self.part = len(batch.indices) / max(1, pictures)
            self.left = len(batch.indices)
            yield replace(batch, bad=bad, elsewhere=pictures - len(batch.indices))

    def seed(self, seed: int, step: int) -> None:
        digest = hashlib.sha256(f"{seed} {step} {self.rank}".encode()).digest()
        bits = int.from_bytes(digest[:8], "little")
        # torch.manual_seed seeds every device; without one each call is kept, to be made later.
        torch.default_generator.manual_seed(bits)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(bits)

    def agree(self, stop: StopRequest) -> None:
        self._agree(stop)

    def _agree(self, stop: StopRequest | None, *counts: int) -> list[int]:
        """Sums of counts over all processes; one message for them and for what was asked."""
        asked = None if stop is None else stop.asked
        flags = (asked not in (None, signal.SIGINT), asked is not None)
        *sums, terminated, stopped = self.sum(torch.tensor([*counts, *flags])).tolist()
        if stop is not None and stopped:
            stop.signal = signal.SIGTERM if terminated else signal.SIGINT
        return sums

    def sum(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def share(self, document: Any, timeout_s: float | None = None) -> Any:
        self.words += 1
        if self.rank == 0:
            self.store.set(f"{self.words}", json.dumps(document))
        return self._read(f"{self.words}", 0, timeout_s or self.timeout_s)

    def gather(self, document: Any, timeout_s: float | None = None) -> list[Any]:
        self.words += 1
        self.store.set(f"{self.words}/{self.rank}", json.dumps(document))
        timeout_s = timeout_s or self.timeout_s
        return [self._read(f"{self.words}/{rank}", rank, timeout_s) for rank in range(self.size)]

    def _read(self, key: str, rank: int, timeout_s: float) -> Any:
        """Look again and again: the store's own waiting hears neither signals nor failures."""
        began, pause_s = time.monotonic(), 0.001
        while not self.store.check([key]):
            if self.store.check(["failure"]):
                raise WorkError("another process failed")
            now = time.monotonic()
            if now > began + timeout_s:
                raise WorkError(_gone(f"no answer for {timeout_s:.0f} s"))
            if now > max(began, self.pulse.heard(rank)) + self.timeout_s:
                raise WorkError(_gone(f"no sign of life for {self.timeout_s:.0f} s"))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
        return json.loads(self.store.get(key))

    def gather_predictions(self, found: Predictions) -> Predictions:
        shapes = self.gather(list(found.logits.shape))
        tags = max(self.gather(list(found.labels.shape[1:])))  # [] where each has one label
        most, classes = max(n for n, _ in shapes), max(k for _, k in shapes)

        def gathered(part: Tensor, *width: int) -> Tensor:
            padded = part.new_zeros((most, *width))
            padded[: len(part)] = part.reshape(len(part), *width)
            parts = [torch.empty_like(padded) for _ in shapes]
            dist.all_gather(parts, padded)
            return torch.cat([one[:n] for one, (n, _) in zip(parts, shapes, strict=True)])

        indices, order = gathered(found.indices).sort()
        logits, labels = gathered(found.logits, classes), gathered(found.labels, *tags)
        return Predictions(logits[order], labels[order], indices, found.bad)

    def share_tensors(self, tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            sent = tensor.contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)

    def share_checkpoint(self, found: Checkpoint | None) -> Checkpoint | None:
        about = None
        if found is not None:
            kinds = {
                name: (list(t.shape), str(t.dtype).removeprefix("torch."))
                for name, t in found.tensors.items()
            }
            about = (kinds, found.state, found.damaged, found.generation)
        about = self.share(about)
        if about is None:
            return None
        kinds, state, damaged, generation = about
        if self.rank == 0:
            assert found is not None
            tensors = found.tensors
        else:
            tensors = {
                name: torch.empty(shape, dtype=getattr(torch, dtype))
                for name, (shape, dtype) in kinds.items()
            }
        self.share_tensors(tensors)
        return Checkpoint(tensors, state, tuple(damaged), generation)

    def fail(self, error: BaseException) -> NoReturn:
        """Raise the error if it is the first of all processes'; else end as that one did."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *preempting()):  # torchrun is about to send them
                signal.signal(number, signal.SIG_IGN)
        if not isinstance(error, DeepenError) and _of_torch_distributed(error):
            late = "timed out" in str(error).lower()
            reason = f"no answer for {self.timeout_s:.0f} s" if late else "its connection broke"
            error = WorkError(_gone(reason))
        status = error.exit_status if isinstance(error, DeepenError) else 1
        if isinstance(error, KeyboardInterrupt):
            status = Interrupted.exit_status
        try:
            if self.store.add("failed", 1) == 1:
                self.store.set("failure", json.dumps(status))
            else:
                self.store.wait(["failure"], datetime.timedelta(seconds=5))
                error = SaidElsewhere(json.loads(self.store.get("failure")))
        except RuntimeError:  # the store has gone with its process: nobody else is left to say it
            pass
        raise error


class _Pulse(threading.Thread):
    """Says all the time that this process lives, and hears it of the others.

    One that was stopped (SIGSTOP) or whose machine froze says nothing, whatever it was doing; one
    that only works alone for long does.
    """

    def __init__(self, store: PrefixStore, rank: int, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.store, self.rank, self.every_s = store, rank, min(10.0, timeout_s / 10)
        self.ended = threading.Event()
        self.beats: dict[int, tuple[bytes, float]] = {}  # of the others: the last, and when
        self.start()

    def run(self) -> None:
        """See the class."""
        with suppress(RuntimeError):  # the store has gone
            while not self.ended.wait(self.every_s):
                self.store.add(f"pulse {self.rank}", 1)

    def heard(self, rank: int) -> float:
        """When (`time.monotonic`) another process gave its last sign of life; 0.0: none yet."""
        key = f"pulse {rank}"
        beat = self.store.get(key) if self.store.check([key]) else b""
        before, when = self.beats.get(rank, (b"", 0.0))
        if beat != before:
            self.beats[rank] = beat, (when := time.monotonic())
        return when

    def end(self) -> None:
        """No more signs, before the store goes."""
        self.ended.set()
        self.join(2 * self.every_s)


class SaidElsewhere(DeepenError):
    """Another process has said what failed; this one ends with the same status."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("")
        self.exit_status = exit_status


class _OrNothing(nn.Module):
    """A network that, of a batch without pictures, makes a 0 that every parameter is a part of.

    So a process without pictures takes part in the sum of gradients, with zeros, and its batch
    norm sees nothing.
    """

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.run = lambda *inputs: forward(*inputs)  # no second child with the same weights

    def forward(self, images: Tensor, *others: Any) -> Any:
        if len(images):
            return self.run(images, *others)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.stack([p.flatten()[:0].sum() for p in trained]).sum()


def _of_torch_distributed(error: BaseException) -> bool:
    """Whether a sum or a broadcast failed, not the network; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in ("gloo", "NCCL", "peer"))
    )


def _gone(reason: str) -> str:
    return (
        f"a process of this job died or hung ({reason}); start it again with --resume, or let "
        "torchrun do so: --max-restarts"
    )
