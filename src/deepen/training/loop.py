"""The training loop, in plain torch."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepen.data.decode import PictureError
from deepen.data.loader import Batch, Batches
from deepen.errors import Diverged, InputError
from deepen.evaluation.protocols import predict_logits
from deepen.training.averages import build_averages
from deepen.training.checkpoint import load_checkpoint, save_checkpoint, tidy
from deepen.training.distributed import Processes
from deepen.training.finetuning import train_mode
from deepen.training.identity import differences
from deepen.training.optimizer import Objective, build_optimizer, build_scheduler
from deepen.training.progress import Reporter, Row
from deepen.training.recipe import Recipe
from deepen.training.resident import ResidentSteps
from deepen.training.run import Board, Run
from deepen.training.speed import forward_of, keep_memory, settings_of
from deepen.training.state import State, machine, pack, unpack
from deepen.training.stop import StopRequest


@dataclass
class Job:
    """What is trained, on what, and where it is written.

    Attributes:
        model: on `device`; its weights are trained in place.
        recipe: how.
        train: batches of the training pictures.
        validation: batches of the held-out pictures that the best epoch is chosen on, if any.
        run: the folder that everything is written to.
        device: where the steps run.
        save_weights: writes a network to the run folder under a name, with the scores of this row.
        identity: what a checkpoint to go on from must agree with.
        processes: those that train it together; the first alone writes.
    """

    model: nn.Module
    recipe: Recipe
    train: Batches
    validation: Batches | None
    run: Run
    device: torch.device
    save_weights: Callable[[str, Row, nn.Module], None]
    identity: dict[str, Any] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)


def fit(job: Job, reporter: Reporter, *, resume: bool = False) -> State:
    """Train to the recipe's end and hand back where the run stands.

    Writes metrics, weights and a checkpoint after every epoch, and a checkpoint when it is asked to
    stop. With `resume` it goes on from the newest whole checkpoint; on the same machine, torch,
    threads and settings (`deepen.training.speed`) it ends with the same bits as a run that was
    never stopped.

    Raises:
        WorkError: the loss became NaN or infinite, or something could not be written.
        InputError: too many pictures could not be decoded, or the checkpoint is another run's.
        Interrupted, Preempted: Ctrl-C or SIGTERM; the run has been saved.
    """
    with StopRequest(shared=job.processes.size > 1) as stop:
        return deque(course(job, reporter, stop, resume=resume), maxlen=1).pop()


def course(
    job: Job, reporter: Reporter, stop: StopRequest, *, resume: bool = False
) -> Generator[State, None, None]:
    """`fit`, a step at a time: where the run stands after each, and at its end."""
    recipe, model, train, processes = job.recipe, job.model, job.train, job.processes
    total_steps, epochs = length(recipe, train.num_batches)
    optimizer = build_optimizer(model, recipe.optimizer, recipe.finetune.lr_decay)
    scheduler = build_scheduler(optimizer, recipe.schedule, total_steps)
    per_step = recipe.schedule.name != "plateau"
    objective = Objective(recipe.loss)
    averages = build_averages(model, recipe.ema)
    shown = model if averages is None else averages.model  # what is evaluated and saved
    settings = settings_of(recipe)
    precision = torch.autocast(job.device.type, torch.bfloat16) if settings.amp else nullcontext()
    here = machine(job.device, settings, processes.size)
    state = State()
    keep_memory()

    def save() -> None:
        tensors, plain = pack(model, optimizer, scheduler, averages, state)
        save_checkpoint(
            job.run.checkpoints, tensors, {**plain, "machine": here, "run": job.identity}
        )

    found = load_checkpoint(job.run.checkpoints) if resume and processes.rank == 0 else None
    if (found := processes.share_checkpoint(found)) is not None:
        for difference in differences(found.state["run"], job.identity):
            raise InputError(f"--resume {job.run.path}: its checkpoint's {difference}")
        if processes.rank == 0:
            tidy(job.run.checkpoints, found.generation)
        state = unpack(found.tensors, found.state, model, optimizer, scheduler, averages)
        for line in (*found.damaged, *_differences(found.state["machine"], here)):
            reporter.message(line)

    def loss_of(outputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor, Tensor]:
        return combine(outputs, targets, objective, model)

    def advance() -> None:
        state.batch += 1
        state.step += 1
        if per_step:
            scheduler.step()

    forward = processes.wrap(model, forward_of(model, settings))
    resident = None
    if settings.cuda_graph:
        resident = ResidentSteps(
            model, forward, loss_of, optimizer, recipe, train, precision, reporter.message
        )
    reporter.start(epochs * train.num_images, state.epoch * train.num_images + state.images)
    with _board(job, state) as board, _closing(reporter):
        while state.epoch < epochs and not state.stopped_early:
            train_mode(model, recipe.finetune.freeze)
            began = time.perf_counter()
            recorder = Recorder(job, state, reporter)
            if resident is not None:  # the full batches; what is left over is taken below
                first = state.batch
                resident.begin(state.epoch, first)
                while state.batch < resident.num_batches and state.step < total_steps:
                    if stop.signal is not None:
                        break
                    resident.step()
                    advance()
                    yield state
                recorder.add_resident(resident, first)
            for batch in processes.together(train.epoch(state.epoch, start=state.batch), stop):
                if stop.signal is not None or state.step == total_steps:
                    break
                if len(batch.labels) or batch.elsewhere:
                    processes.seed(recipe.seed, state.step)
                    for part, share in micro_batches(batch, recipe.accumulate):
                        with precision:
                            outputs = forward(part.images)
                        logits, loss = loss_of(outputs, part.targets)
                        recorder.add(part, logits, loss)
                        loss.backward(share)
                    if recipe.clip_norm is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    if averages is not None:
                        averages.update(state.step)
                if batch.bad:
                    recorder.note_bad(batch.bad, training=True)
                advance()
                yield state
            recorder.flush()
            state.seconds += time.perf_counter() - began
            row = _end_epoch(job, shown, state, scheduler, stop, recorder)
            if row is None:
                if processes.rank == 0:
                    save()
                processes.gather("saved")
                raise stop.error(f"saved; go on with --resume {job.run.path}")
            if board is not None:
                job.run.write_metrics(state.history)
                job.run.write_bad(state.bad)
                board.add(row)
                job.save_weights("last", row, shown)
                if state.best_epoch in (0, state.epoch):
                    job.save_weights("best", row, shown)
                save()
            reporter.epoch(row, epochs)
        processes.agree(stop)
        if stop.signal is not None:  # it came while the last checkpoint was written
            raise stop.error(f"trained and saved; score it with --resume {job.run.path}")
    yield state


def micro_batches(batch: Batch, parts: int) -> Iterator[tuple[Batch, Tensor | None]]:
    """Up to `parts` pieces of a batch, each with its share of the pictures (None: all of them).

    With gradients of mean losses scaled by these shares, their sum is the whole batch's gradient.
    """
    if parts == 1 or len(batch.labels) < 2:
        yield batch, None
        return
    size = math.ceil(len(batch.labels) / parts)
    for start in range(0, len(batch.labels), size):
        part = batch[start : start + size]
        yield part, batch.images.new_tensor(len(part.labels) / len(batch.labels))


def combine(
    outputs: Tensor | tuple[Tensor, ...], targets: Tensor, objective: Objective, model: nn.Module
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and the loss of what a network in training hands out.

    Auxiliary classifiers, where it has some, add their losses with the network's own weight
    (Szegedy et al. 2014, section 5: 0.3). A process that has no picture of the batch has a 0.
    """
    if isinstance(outputs, Tensor):
        if not len(targets):
            return outputs, outputs
        return outputs, objective(outputs, targets)
    logits, *auxiliary = outputs
    extra = sum((objective(each, targets) for each in auxiliary), logits.new_zeros(()))
    weight = getattr(model, "auxiliary_weight", 0.0)
    return logits, objective(logits, targets) + weight * extra


def length(recipe: Recipe, num_batches: int) -> tuple[int, int]:
    """The recipe's steps in all, and the epochs they reach into."""
    if num_batches == 0:
        raise InputError("there is no picture to train on")
    if recipe.length.steps is not None:
        return recipe.length.steps, math.ceil(recipe.length.steps / num_batches)
    assert recipe.length.epochs is not None
    return recipe.length.epochs * num_batches, recipe.length.epochs


class Recorder:
    """Sums up loss and hits, and stops the run at a loss that is no number.

    On the CPU it reads each loss before the step is taken; elsewhere reading would make the device
    wait, so losses are read fifty at a time, as those of several processes are. Hits are always
    counted fifty steps at a time.
    """

    EVERY = 50

    def __init__(self, job: Job, state: State, reporter: Reporter) -> None:
        self.job, self.state, self.reporter = job, state, reporter
        self.at_once = job.device.type == "cpu" and job.processes.size == 1
        self.first = state.step  # of those not summed up yet
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.unread: list[tuple[Tensor, Tensor, int]] = []  # loss, indices, step

    def add(self, batch: Batch, logits: Tensor, loss: Tensor) -> None:
        """Note a step: logits (B, K) and the mean loss of the batch."""
        if self.state.step >= self.first + self.EVERY:
            self.flush()
        if self.at_once:
            count = len(batch.indices)
            self._read(loss.item() * count, count, [batch.indices], self.state.step)
        else:
            self.unread.append((loss.detach(), batch.indices, self.state.step))
        if len(batch.labels):
            self.logits.append(logits.detach())
            self.labels.append(batch.labels)

    def add_resident(self, steps: ResidentSteps, first: int) -> None:
        """Note the steps from batch `first` on that `steps` took, and wait for them."""
        size = self.job.train.batch_size
        for batch in range(first, self.state.batch):
            indices = steps.order[batch * size : (batch + 1) * size]
            step = self.state.step - (self.state.batch - batch)
            self.unread.append((steps.losses[batch], indices, step))
        self.flush()
        self.state.correct += int(steps.hits)

    def flush(self) -> None:
        """Bring the state up to date.

        Raises:
            WorkError: a loss is NaN or infinite; names epoch, step and the pictures of the batch.
        """
        first, steps = self.first, self.state.step - self.first
        if steps and (self.unread or not self.at_once):
            sums = torch.zeros(2, steps, dtype=torch.float64)  # loss and pictures of each step
            places: list[list[Tensor]] = [[] for _ in range(steps)]
            if self.unread:
                losses, indices, at = zip(*self.unread, strict=True)
                where = torch.tensor(at) - first
                pictures = torch.tensor([len(each) for each in indices], dtype=torch.float64)
                values = torch.stack(losses).double().cpu()  # waits for the device, once
                sums[0].index_add_(0, where, values * pictures)
                sums[1].index_add_(0, where, pictures)
                for each, step in zip(indices, at, strict=True):
                    places[step - first].append(each)
            totals, counts = self.job.processes.sum(sums).tolist()
            for step in range(steps):
                self._read(totals[step], int(counts[step]), places[step], first + step)
        correct = torch.zeros((), dtype=torch.int64)
        if self.labels:
            predicted = torch.cat(self.logits).argmax(1)
            correct += int((predicted == torch.cat(self.labels)).sum())
        if steps:
            self.state.correct += int(self.job.processes.sum(correct))
        self.first += steps
        self.unread.clear()
        self.logits.clear()
        self.labels.clear()

    def _read(self, total: float, count: int, indices: list[Tensor], step: int) -> None:
        if not math.isfinite(total):
            raise Diverged(self._diverged(total, indices, step))
        self.state.loss_sum += total
        self.state.images += count
        if count:
            self.reporter.batch(count, total / count)

    def note_bad(self, errors: Sequence[PictureError], *, training: bool) -> None:
        """Name the pictures that could not be decoded, once each.

        Raises:
            InputError: they have become more than the recipe's share of the training pictures.
        """
        state, limit = self.state, self.job.recipe.max_bad_pictures
        for error in errors:
            if error.path not in state.bad:
                state.bad[error.path] = error.reason
                state.num_bad_training += training
                self.reporter.message(f"left out: {error}")
        if errors and state.num_bad_training > limit * self.job.train.num_images:
            raise InputError(
                f"{state.num_bad_training} of {self.job.train.num_images} training pictures cannot "
                f"be decoded, more than max_bad_pictures {limit:.0%}; the last: {errors[-1]}; "
                f"see them all with: deepen doctor"
            )

    def _diverged(self, value: float, indices: list[Tensor], step: int) -> str:
        split = self.job.train.split
        parts = self.job.processes.gather(torch.cat(indices).tolist())
        names = [split.key(i) for part in parts for i in part]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f"the loss is {value} in epoch {self.state.epoch + 1}, step {step + 1}; "
            f"nothing was overwritten; pictures of the batch: {shown}; try a smaller --lr"
        )


def _end_epoch(
    job: Job,
    shown: nn.Module,
    state: State,
    scheduler: LRScheduler,
    stop: StopRequest,
    recorder: Recorder,
) -> Row | None:
    """Score the epoch and move on to the next; None when asked to stop before that was done."""
    if stop.signal is not None:
        return None
    row: Row = {
        "epoch": state.epoch + 1,
        "step": state.step,
        "lr": max(group["lr"] for group in scheduler.optimizer.param_groups),
        "train_loss": state.loss_sum / max(1, state.images),
        "train_top1": state.correct / max(1, state.images),
        "eval_loss": None,
        "eval_top1": None,
        "eval_top5": None,
        "images_per_s": state.images / max(state.seconds, 1e-9),
        "seconds": state.seconds,
    }
    if job.validation is not None:
        for network in dict.fromkeys((job.model, shown)):  # a set has no order
            job.processes.share_tensors(dict(network.named_buffers()))
        batches = _until(stop, job.processes.together(job.validation.epoch(0), stop))
        gather = job.processes.gather_predictions
        found = predict_logits(
            shown, batches, device=job.device, amp=bool(job.recipe.amp), gather=gather
        )
        if stop.signal is not None:
            return None
        recorder.note_bad(found.bad, training=False)
        row |= job.processes.share(_validation_scores(job, found.logits, found.labels))
        assert row["eval_loss"] is not None and row["eval_top1"] is not None
        if (row["eval_top1"], -row["eval_loss"]) > (state.best_top1, -state.best_loss):
            state.best_top1, state.best_loss = row["eval_top1"], row["eval_loss"]
            state.best_epoch = state.epoch + 1
        waited = state.epoch + 1 - state.best_epoch
        state.stopped_early = job.recipe.early_stopping is not None and (
            waited >= job.recipe.early_stopping
        )
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1 - row["eval_top1"])
    state.history.append(row)
    state.epoch += 1
    state.begin_epoch()
    return row


def _validation_scores(job: Job, logits: Tensor, labels: Tensor) -> Row:
    scaled = logits / job.recipe.loss.temperature
    ranks = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return {
        "eval_loss": nn.functional.cross_entropy(scaled, labels).item(),
        "eval_top1": ranks[:, 0].float().mean().item(),
        "eval_top5": ranks.any(1).float().mean().item() if logits.shape[1] > 5 else None,
    }


def _until(stop: StopRequest, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches up to the moment a stop is asked for (one at least)."""
    for batch in batches:
        yield batch
        if stop.signal is not None:
            return


def _board(job: Job, state: State) -> AbstractContextManager[Board | None]:
    """TensorBoard's, in the one process that writes."""
    return job.run.tensorboard(state.step) if job.processes.rank == 0 else nullcontext()


def _differences(saved: dict[str, object], here: dict[str, object]) -> list[str]:
    saved = {"processes": 1, **saved}
    changed = [
        f"{key} {saved.get(key)} -> {here[key]}"
        for key in here
        if saved.get(key, False) != here[key]
    ]
    return [f"resumed under another {', '.join(changed)}: no longer bit-exact"] if changed else []


@contextmanager
def _closing(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    finally:
        reporter.close()
