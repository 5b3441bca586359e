"""What a command does, as one call: train, search, evaluate, predict."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepen.baselines.probe import Probe
from deepen.baselines.probe import probe as probe_layer
from deepen.data.decode import PictureError
from deepen.data.loader import Batches
from deepen.data.sources import PictureSet
from deepen.deployment.predictor import Prediction, Predictor, find_pictures
from deepen.errors import InputError
from deepen.evaluation.metrics import Scores, score
from deepen.evaluation.protocols import Predictions, describe_one_crop, predict_logits
from deepen.files import write_whole
from deepen.report.page import write_report
from deepen.training import search as searching
from deepen.training.build import Job, batches, build, num_workers, protocol
from deepen.training.distributed import ALONE_TIMEOUT_S, join
from deepen.training.environment import write_environment
from deepen.training.loop import fit
from deepen.training.lr_finder import Sweep, sweep
from deepen.training.plan import Plan, same_plan, settle, share
from deepen.training.request import (
    Probing,
    Scoring,
    Searching,
    Sweeping,
    Training,
    pick_device,
    takes,
)
from deepen.training.resume import find, plan_of
from deepen.training.run import Run
from deepen.training.scored import Scored, open_scored, open_to_probe, split_names
from deepen.training.search import Found, Order, space_of
from deepen.training.state import State
from deepen.training.tuning import tuned
from deepen.weights import load_weights, save_weights


class Trained(NamedTuple):
    """A finished run: its folder, the split that it is reported on, and the scores there."""

    run: Path
    split: str
    scores: Any


@takes(Training)
def train(asked: Training) -> Trained:
    """Train a network, score it on pictures that it has not seen, and write the report.

    Returns:
        The same in each of several processes; the first alone has written.

    Raises:
        DeepenError: whatever can be said in one line; see its subclasses.
    """
    began = time.time()
    with join() as processes:
        here = asked.among(processes)
        first = processes.rank == 0
        plan, run = find(asked, here) if first else (None, None)
        if plan is not None and run is None:
            plan = tuned(plan, here)
        shared = processes.share(plan and share(plan), ALONE_TIMEOUT_S)
        plan = plan or same_plan(shared, asked, here)
        job = build(plan, here)
        processes.gather("ready")  # who fails so far fails before anything is written
        if run is None and first:
            run = begin(plan, job, asked.output)
        run = Run(Path(processes.share(str(run and run.path))))
        if first:
            write_environment(run, here, began)
        here.reporter.message(f"run {run.path}")
        state = fit(job, run)
        rates = [rate for row in state.history if (rate := row["images_per_s"])]
        if rates:
            here.reporter.message(f"measured {statistics.median(rates):,.0f} images/s in training")
        trained = test(plan, job, run, state)
        if first:
            write_environment(run, here, began, time.time() - began)
            write_report(run.path)
        return trained


def begin(plan: Plan, job: Job, output: str | Path | None) -> Run:
    """The folder of a new run; says what was settled for it."""
    for line in (*filter(None, [plan.speed]), *job.notes):
        job.here.reporter.message(line)
    about = plan.about()
    about["notes"] += job.notes
    return Run.begin(output, f"{_stem(plan.data)}-{plan.model}", about, plan.recipe)


def test(plan: Plan, job: Job, run: Run, state: State) -> Trained:
    """Score the chosen weights on the test split (the validation split where there is none)."""
    processes, chosen = job.here.processes, run.weights("best")
    split = split_names(plan.source, None)[0]
    loaded = load_weights(chosen, model=plan.model) if processes.rank == 0 else None
    if loaded is not None:
        job.network.load_state_dict(loaded.model.state_dict())
    processes.share_tensors(job.network.state_dict())
    pictures = processes.together(batches(plan, job.here, split).epoch(0))
    found = job.task.predict(job.network, pictures, job.here)
    words = protocol(plan, split, len(found.indices))
    examined = job.task.examine(found, plan.source.splits[split], words)
    trained = Trained(run.path, split, examined.scores)
    if loaded is None:
        return trained
    for error in found.bad:
        if error.path not in state.bad:
            state.bad[error.path] = error.reason
            job.here.reporter.message(f"left out: {error}")
    run.write_bad(state.bad)
    card = loaded.card.model_copy(update={"protocol": words, "score": examined.card})
    save_weights(chosen, job.network, card, plan.input.mean_image)
    for name, content in examined.files.items():
        if isinstance(content, bytes):
            write_whole(run.path / name, content)
        else:
            run.write_json(name, content)
    choice = _choice_in_words(state.best_epoch, split)
    scores = examined.scores.model_dump()
    run.write_json("scores.json", {"split": split, "choice": choice, "scores": scores})
    return trained


class Searched(NamedTuple):
    """A search that ended: its folder, what was found, and the best trial's scores.

    `trained` is None while other processes still have trials under way.
    """

    folder: Path
    found: Found
    trained: Trained | None


@takes(Searching)
def search(asked: Searching) -> Searched:
    """Search a recipe's space on validation pictures; then score the best trial's weights, once.

    The best trial is not trained again: the weights of its best epoch are what is scored.

    Raises:
        DeepenError: whatever can be said in one line.
    """
    if asked.resume is not None:
        folder, begun = Path(asked.resume), Run(Path(asked.resume) / "base")
        if not (begun.path / "recipe.yaml").is_file():
            raise InputError(f"--resume {folder}: no folder of a search")
        plan = plan_of(begun, asked, asked)
    else:
        plan = tuned(settle(asked, asked), asked)
        stem = f"{_stem(plan.data)}-{plan.model}-search"
        folder = Run.create(asked.output, stem).path
        begun = Run.begin(folder / "base", "", plan.about(), plan.recipe)
    space, said = space_of(plan.recipe)
    for line in (*filter(None, [plan.speed]), said, f"search {folder}"):
        asked.reporter.message(line)
    order = Order(plan, space, asked.pruner, folder, asked.storage, asked.study)
    found = searching.search(order, asked.trials, asked)
    if found.best is None or found.running:
        return Searched(folder, found, None)
    best = Run(Path(found.best.run))
    tested = {path.parent.name for path in (folder / "trials").glob("*/scores.json")}
    document = found.document(order, len(tested | {best.path.name}))
    best.write_json("search.json", document)
    if best.path.name not in tested:
        words = f"trial {found.best.number} is the best; its weights are scored now"
        asked.reporter.message(words)
    trained = train(
        asked.data if isinstance(asked.data, PictureSet) else None,
        resume=best.path,
        data_dir=asked.data_dir,
        workers=asked.workers,
        device=asked.device,
        command=asked.command,
    )
    for name in ("report.html", "best.safetensors"):
        write_whole(folder / name, (best.path / name).read_bytes())
    begun.write_json("search.json", document)
    return Searched(folder, found, trained)


@takes(Sweeping)
def find_lr(asked: Sweeping) -> Sweep:
    """Train a fresh network at rising learning rates and suggest one; nothing is written.

    Raises:
        InputError: words or data are off.
        WorkError: the loss is no number from the start.
    """
    job = build(settle(asked, asked), asked)
    return sweep(job, lowest=asked.lowest, highest=asked.highest, steps=asked.steps)


@takes(Scoring)
def evaluate(asked: Scoring) -> Scores:
    """Score a weights file on labelled pictures, with one crop each.

    Pictures that cannot be decoded are told to the reporter, and are in none of the numbers.

    Raises:
        InputError: weights and data do not go together.
    """
    loaded = load_weights(asked.weights, model=asked.model)
    card, scored = loaded.card, open_scored(asked, loaded.card)
    source = scored.source
    place = _label_map(scored, card.classes, asked.weights)
    network = loaded.model.to(asked.place)
    found: list[Predictions] = []
    for name in scored.splits:
        pictures = Batches(
            source.splits[name],
            card.preprocessing,
            batch_size=asked.batch_size,
            workers=num_workers(asked.workers, source.splits[name]),
            mean_image=loaded.mean_image,
            device=asked.place,
        )
        found.append(predict_logits(network, pictures.epoch(0), device=asked.place))
        for error in found[-1].bad:
            asked.reporter.message(f"left out: {error}")
    labels = torch.cat([place[p.labels] for p in found])
    words = describe_one_crop(
        card.preprocessing, data=source.name, part=scored.part, num_samples=len(labels)
    )
    return score(
        torch.cat([p.logits for p in found]),
        labels,
        card.classes,
        temperature=card.temperature,
        num_skipped=sum(len(p.bad) for p in found),
        protocol=words,
    )


@takes(Probing)
def probe(asked: Probing) -> Probe:
    """Fit a linear classifier to a layer's frozen features; see `deepen.baselines.probe`.

    The data may be of any classes.

    Raises:
        InputError: no such layer, or data without validation pictures.
    """
    loaded = load_weights(asked.weights, model=asked.model)
    source = open_to_probe(asked, loaded.card)
    found = probe_layer(
        loaded,
        source,
        asked.layer,
        kind=asked.classifier,
        batch_size=asked.batch_size,
        workers=num_workers(asked.workers, source.splits["train"]),
        device=asked.place,
    )
    for error in found.bad:
        asked.reporter.message(f"left out: {error}")
    return found


def predict(
    weights: str | Path,
    paths: Iterable[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    device: str | None = None,
    model: str | None = None,
) -> Iterator[Prediction | PictureError]:
    """Predict pictures; folders are gone through as they are read.

    A picture that cannot be decoded comes back as its `PictureError`, in its place.

    Raises:
        InputError: the weights cannot be loaded.
    """
    predictor = Predictor(weights, device=str(pick_device(device)), model=model)
    return predictor(find_pictures(paths), top_k=top_k, batch_size=batch_size)


def _stem(data: str) -> str:
    """What a run on these data is called: without the columns that were said."""
    return Path(data.partition("?")[0]).resolve().name


def _choice_in_words(best_epoch: int, split: str) -> str:
    if best_epoch == 0:
        return f"no picture was held out: the weights of the last epoch, reported on {split}"
    chosen = f"epoch {best_epoch} was chosen on the validation pictures"
    if split == "val":
        return f"{chosen}, and is reported on the same ones for want of a test split: optimistic"
    return f"{chosen} and is reported on the test pictures, which nothing was chosen on"


def _label_map(scored: Scored, card: tuple[str, ...], weights: str | Path) -> Tensor:
    """From the label of a class in the data to its place in the logits, by name."""
    if strange := [name for name in scored.classes if name not in card]:
        raise InputError(
            f"{scored.source.name}: has pictures of classes that {weights} does not know, "
            f"{_some(strange)}; it knows {_some(card)}"
        )
    return torch.tensor([card.index(n) if n in card else -1 for n in scored.source.classes])


def _some(names: Sequence[str], most: int = 20) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
