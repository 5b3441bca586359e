"""The training loop, in plain torch: `train`, `train_epoch`, and `deepen.training.step`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deepen.data.loader import Batch
from deepen.errors import InputError
from deepen.training.board import Board, open_board
from deepen.training.build import Job
from deepen.training.captured import step_of
from deepen.training.checkpoint import load_checkpoint, save_checkpoint, tidy
from deepen.training.finetuning import train_mode
from deepen.training.optimizer import build_scheduler
from deepen.training.progress import Reporter, Row
from deepen.training.recipe import Recipe
from deepen.training.record import Record
from deepen.training.resume import besides_length, confirm, no_longer_exact
from deepen.training.run import Run
from deepen.training.speed import keep_memory
from deepen.training.state import State, check_parts, check_plain, machine, pack, unpack
from deepen.training.stop import StopRequest


def fit(job: Job, run: Run) -> State:
    """Train to the recipe's end and hand back where the run stands.

    Writes metrics, weights and a checkpoint after every epoch, and a checkpoint when it is asked to
    stop. It goes on from the newest whole checkpoint, where there is one; on the same machine,
    torch, threads and settings (`deepen.training.speed`) it ends with the same bits as a run that
    was never stopped.

    Raises:
        WorkError: the loss became NaN or infinite, or something could not be written.
        InputError: too many pictures could not be decoded, or the checkpoint is another run's.
        Interrupted, Preempted: Ctrl-C or SIGTERM; the run has been saved.
    """
    with StopRequest(shared=job.here.processes.size > 1) as stop:
        loop = Loop(job, run, stop)
        loop.go_on()
        return loop.train()


class Loop:
    """A run under way: what is trained, and where it stands."""

    def __init__(self, job: Job, run: Run, stop: StopRequest) -> None:
        keep_memory()
        self.job, self.run, self.stop = job, run, stop
        self.processes, self.reporter = job.here.processes, job.here.reporter
        self.total_steps, self.epochs = length(job.recipe, job.train.num_batches)
        self.step = step_of(job)
        self.scheduler = build_scheduler(self.step.optimizer, job.recipe.schedule, self.total_steps)
        self.state = State()

    def train(self) -> State:
        """Epochs to the end: train, score, choose, save."""
        state, pictures = self.state, self.job.train.num_images
        self.reporter.start(self.epochs * pictures, state.epoch * pictures + state.images)
        with self._board() as board, _closing(self.reporter):
            while state.epoch < self.epochs and not state.stopped_early:
                record = self.train_epoch()
                row = None if self.stop.signal is not None else self.end_epoch(record)
                if row is None:
                    self.save()
                    self.processes.gather("saved")
                    raise self.stop.error(f"saved; go on with --resume {self.run.path}")
                if board is not None:
                    self.run.write_metrics(state.history)
                    self.run.write_bad(state.bad)
                    board.add(row)
                    self.job.keep(self.run.weights("last"), self.step.shown, row)
                    if state.best_epoch in (0, state.epoch):
                        self.job.keep(self.run.weights("best"), self.step.shown, row)
                self.save()
                self.reporter.epoch(row, self.epochs)
        self.processes.agree(self.stop)
        if self.stop.signal is not None:  # it came while the last checkpoint was written
            advice = f"trained and saved; score it with --resume {self.run.path}"
            raise self.stop.error(advice)
        return state

    def train_epoch(self) -> Record:
        """The steps that are left of a pass over the pictures, or up to a stop."""
        state, step, began = self.state, self.step, time.perf_counter()
        train_mode(self.job.network, self.job.recipe.finetune.freeze)
        record = Record(self.job, state)
        batches = step.batches(state.epoch, start=state.batch)
        for batch in self.processes.together(batches, self.stop):
            if self.stop.signal is not None or state.step == self.total_steps:
                break
            step.take(batch, state.step, record)
            if batch.bad:
                record.note_bad(batch.bad, training=True)
            state.batch += 1
            state.step += 1
            if not isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step()
        step.hand_over(record)
        record.flush()
        state.seconds += time.perf_counter() - began
        return record

    def end_epoch(self, record: Record) -> Row | None:
        """Score the epoch and move on to the next; None when asked to stop before that was done."""
        state, task = self.state, self.job.task
        averages = state.averages
        row: Row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "lr": max(group["lr"] for group in self.step.optimizer.param_groups),
            **{f"train_{name}": averages.get(name, 0.0) for name in ("loss", *task.figures)},
            **{f"eval_{name}": None for name in task.columns},
            "images_per_s": state.images / max(state.seconds, 1e-9),
            "seconds": state.seconds,
        }
        if self.job.validation is not None:
            scores = self.score(record)
            if scores is None:
                return None
            row |= {f"eval_{name}": value for name, value in scores.items()}
            state.choose(row, task, self.job.recipe)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(1 - task.rank(row)[0])
        state.next_epoch(row)
        return row

    def score(self, record: Record) -> dict[str, float | None] | None:
        """The task's scores of the held-out pictures; None when asked to stop on the way."""
        assert self.job.validation is not None
        for network in dict.fromkeys((self.job.network, self.step.shown)):  # a set has no order
            self.processes.share_tensors(dict(network.named_buffers()))
        batches = self.processes.together(self.job.validation.epoch(0), self.stop)
        found = self.job.task.predict(self.step.shown, self._until_stop(batches), self.job.here)
        if self.stop.signal is not None:
            return None
        record.note_bad(found.bad, training=False)
        return self.processes.share(self.job.task.scores(found))

    def save(self) -> None:
        """A checkpoint, by the one process that writes."""
        if self.processes.rank == 0:
            tensors, plain = pack(self.step, self.scheduler, self.state)
            about = {"machine": machine(self.job.recipe, self.job.here), "run": self.job.identity}
            save_checkpoint(self.run.checkpoints, tensors, {**plain, **about})

    def go_on(self) -> None:
        """Stand where the newest whole checkpoint does, if there is one."""
        first = self.processes.rank == 0
        found = load_checkpoint(self.run.checkpoints, self._check) if first else None
        if first:
            batches = self.job.train.num_batches
            for line in confirm(self.run, found, self.job.identity, batches):
                self.reporter.message(line)
        found = self.processes.share_checkpoint(found)
        if found is None:
            return
        if first:
            tidy(self.run.checkpoints, found.generation)
        self.state = unpack(found.tensors, found.state, self.step, self.scheduler)
        here = machine(self.job.recipe, self.job.here)
        for line in (*found.damaged, *no_longer_exact(found.state["machine"], here)):
            self.reporter.message(line)

    def _check(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """A checkpoint of this very run must fit; another run's is refused for what it is."""
        check_plain(tensors, plain)
        if not any(besides_length(plain["run"], self.job.identity)):
            check_parts(tensors, plain, self.step, self.scheduler)

    def _board(self) -> AbstractContextManager[Board | None]:
        """TensorBoard's, in the one process that writes."""
        if self.processes.rank != 0:
            return nullcontext()
        return open_board(self.run.path / "tensorboard", self.state.step, self.reporter.message)

    def _until_stop(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches up to the moment a stop is asked for (one at least)."""
        for batch in batches:
            yield batch
            if self.stop.signal is not None:
                return


def length(recipe: Recipe, num_batches: int) -> tuple[int, int]:
    """The recipe's steps in all, and the epochs they reach into."""
    if num_batches == 0:
        raise InputError("there is no picture to train on")
    if recipe.length.steps is not None:
        return recipe.length.steps, math.ceil(recipe.length.steps / num_batches)
    assert recipe.length.epochs is not None
    return recipe.length.epochs * num_batches, recipe.length.epochs


@contextmanager
def _closing(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    finally:
        reporter.close()
