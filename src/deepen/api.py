"""What a command does, as one call: train, search, evaluate, compare, predict."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from deepen import assessment
from deepen.assessment import Robustness, evaluate
from deepen.baselines.probe import Probe
from deepen.baselines.probe import probe as probe_layer
from deepen.data.decode import PictureError
from deepen.data.sources import PictureSet, open_source
from deepen.data.tags import tags_of
from deepen.deployment.pictures import Source, find_pictures
from deepen.deployment.predictor import Prediction, Predictor
from deepen.display import Part, displayed
from deepen.errors import InputError
from deepen.evaluation.comparison import Comparison
from deepen.evaluation.metrics import Scores
from deepen.files import write_whole
from deepen.locks import hold
from deepen.report.comparison import MAX_PICTURES, write_comparison
from deepen.report.page import write_report
from deepen.training import pictures
from deepen.training import search as searching
from deepen.training.build import Job, batches, build, num_workers, protocol, views
from deepen.training.distributed import ALONE_TIMEOUT_S, join
from deepen.training.environment import Began, write_environment
from deepen.training.loop import fit
from deepen.training.lr_finder import Sweep, sweep
from deepen.training.plan import Plan, same_plan, settle, share
from deepen.training.request import (
    Assessing,
    Probing,
    Searching,
    Sweeping,
    Training,
    pick_device,
    takes,
)
from deepen.training.resume import find, note_changes, note_place, plan_of
from deepen.training.run import Run
from deepen.training.scored import open_to_probe, split_names
from deepen.training.search import Found, Order, space_of
from deepen.training.state import State
from deepen.training.task import Pictures, task_of
from deepen.training.tuning import tuned
from deepen.weights import load_weights, save_weights
from deepen.weights.convert import has_card, load_foreign


@displayed
class Trained(NamedTuple):
    """A finished run: its folder, the split that it is reported on, and the scores there."""

    run: Path
    split: str
    scores: Any

    def display(self) -> list[Part]:
        """What it shows of itself."""
        return [
            f"{self.split} {self.scores.headline}  ({self.scores.protocol})",
            f"report  {self.run / 'report.html'}",
            f"next    deepen predict {self.run / 'best.safetensors'} PICTURE...",
        ]


@takes(Training)
def train(asked: Training) -> Trained:
    """Train a network, score it on pictures that it has not seen, and write the report.

    Returns:
        The same in each of several processes; the first alone has written.

    Raises:
        DeepenError: whatever can be said in one line; see its subclasses.
    """
    began = Began()
    with join() as processes, ExitStack() as held:
        here = asked.among(processes)
        first = processes.rank == 0
        plan, run = find(asked, here) if first else (None, None)
        if plan is not None and run is None:
            plan = tuned(plan, here)
            if asked.look:
                task_of(plan.recipe, plan.source.classes).look(plan, asked)
        shared = processes.share(plan and share(plan), ALONE_TIMEOUT_S)
        plan = plan or same_plan(shared, asked, here)
        job = build(plan, here)
        processes.gather("ready")  # who fails so far fails before anything is written
        if first:
            if run is None:
                run = begin(plan, job, asked.output, held)
            else:
                held.enter_context(run.hold())
                note_place(run, plan)
        run = Run(Path(processes.share(str(run and run.path))))
        if first:
            write_environment(run, here, began)
        here.reporter.message(f"run {run.path}")
        state = fit(job, run)
        rates = [rate for row in state.history if (rate := row["images_per_s"])]
        if rates:
            here.reporter.message(f"measured {statistics.median(rates):,.0f} images/s in training")
        changed = note_changes(run, plan, here) if first else None
        trained = test(plan, job, run, state)
        if first:
            write_environment(run, here, began, ended=True)
            write_report(run.path)
        if changed is not None:
            raise changed
        return trained


def begin(plan: Plan, job: Job, output: str | Path | None, held: ExitStack) -> Run:
    """The folder of a new run, held until that ends; says what was settled for it."""
    run = Run.create(output, f"{_stem(plan.data)}-{plan.model}")
    held.enter_context(run.hold("--output"))
    for line in (*filter(None, [plan.speed]), *job.notes):
        job.here.reporter.message(line)
    about = plan.about()
    about["notes"] += job.notes
    run.write_first(about, plan.recipe, pictures.note(plan.source))
    return run


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
    if job.task.tunes and job.validation is not None and plan.recipe.scored == "val":
        held_out = processes.together(job.validation.epoch(0))
        job.task.tune(job.task.predict(job.network, held_out, job.here))
    examined = job.task.examine(found, plan.source.splits[split], words)
    trained = Trained(run.path, split, examined.scores)
    if loaded is None:
        return trained
    splits = plan.source.splits
    if split != "train":
        seen = Pictures(
            splits[split], splits["train"], partial(views, plan, job.here), job.here.place
        )
        job.task.explain(examined, job.network, seen)
    for error in found.bad:
        if error.path not in state.bad:
            state.bad[error.path] = error.reason
            job.here.reporter.message(f"left out: {error}")
    run.write_bad(state.bad)
    about = {"protocol": words, "score": examined.card, **job.task.about()}
    card = loaded.card.model_copy(update=about)
    save_weights(chosen, job.network, card, plan.input.mean_image)
    for name, content in examined.files.items():
        if isinstance(content, bytes):
            write_whole(run.path / name, content)
        else:
            run.write_json(name, content)
    choice = _choice_in_words(state.best_epoch, split, plan.recipe.choose_by)
    scores = examined.scores.model_dump()
    run.write_json("scores.json", {"split": split, "choice": choice, "scores": scores})
    return trained


@displayed
class Searched(NamedTuple):
    """A search that ended: its folder, what was found, and the best trial's scores.

    `trained` is None while other processes still have trials under way.
    """

    folder: Path
    found: Found
    trained: Trained | None

    def display(self) -> list[Part]:
        """What it shows of itself."""
        best, trained = self.found.best, self.trained
        if best is None or trained is None:
            return [f"{self.found.running} trials of other processes are still under way"]
        settings = ", ".join(
            f"{key} {value if isinstance(value, str) else f'{value:g}'}"
            for key, value in best.values.items()
        )
        reached = f"{self.found.figure} {best.top1 or 0:.4f}"
        if (found := self.found.interval) is not None:
            reached = f"accuracy {found.in_words}"
        return [
            f"best    trial {best.number}: {settings}",
            f"        validation {reached}, the best of {len(self.found.trials)}: optimistic",
            trained.display()[0],
            f"report  {self.folder / 'report.html'}",
        ]


@takes(Searching)
def search(asked: Searching) -> Searched:
    """Search a recipe's space on validation pictures; then score the best trial's weights, once.

    The best trial is not trained again: the weights of its best epoch are what is scored.

    Raises:
        DeepenError: whatever can be said in one line.
    """
    with ExitStack() as held:
        return _search(asked, held)


def _search(asked: Searching, held: ExitStack) -> Searched:
    if asked.resume is not None:
        folder, begun = Path(asked.resume), Run(Path(asked.resume) / "base")
        if not (begun.path / "recipe.yaml").is_file():
            raise InputError(f"--resume {folder}: no folder of a search")
        held.enter_context(_alone(asked, folder, "--resume"))
        plan = plan_of(begun, asked, asked)
        note_place(begun, plan)
    else:
        plan = tuned(settle(asked, asked), asked)
        space, _ = space_of(plan.recipe)
        searching.check(Order(plan, space, asked.pruner, Path(), asked.storage, asked.study))
        stem = f"{_stem(plan.data)}-{plan.model}-search"
        folder = Run.create(asked.output, stem).path
        held.enter_context(_alone(asked, folder, "--output"))
        begun = Run.create(folder / "base", "")
        begun.write_first(plan.about(), plan.recipe, pictures.note(plan.source))
    space, said = space_of(plan.recipe)
    for line in (*filter(None, [plan.speed]), said, f"search {folder}"):
        asked.reporter.message(line)
    order = Order(plan, space, asked.pruner, folder, asked.storage, asked.study)
    found = searching.search(order, asked.trials, asked)
    changed = note_changes(begun, plan, asked)
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
        asked.data if isinstance(asked.data, PictureSet) else plan.about()["place"],
        resume=best.path,
        data_dir=asked.data_dir,
        workers=asked.workers,
        device=asked.device,
        command=asked.command,
    )
    for name in ("report.html", "best.safetensors"):
        write_whole(folder / name, (best.path / name).read_bytes())
    begun.write_json("search.json", document)
    if changed is not None:
        raise changed
    return Searched(folder, found, trained)


def _alone(asked: Searching, folder: Path, flag: str) -> AbstractContextManager[None]:
    """The lock on a search; several processes that share a storage share the folder too."""
    return nullcontext() if asked.storage else hold(folder, f"{flag} {folder}")


@takes(Sweeping)
def find_lr(asked: Sweeping) -> Sweep:
    """Train a fresh network at rising learning rates and suggest one; nothing is written.

    Raises:
        InputError: words or data are off.
        WorkError: the loss is no number from the start.
    """
    job = build(settle(asked, asked), asked)
    return sweep(job, lowest=asked.lowest, highest=asked.highest, steps=asked.steps)


@takes(Probing)
def probe(asked: Probing) -> Probe:
    """Fit a linear classifier to a layer's frozen features; see `deepen.baselines.probe`.

    The data may be of any classes.

    Raises:
        InputError: no such layer, or data without validation pictures.
    """
    loaded = load_weights(asked.weights, model=asked.model)
    source = open_to_probe(asked, loaded.card)
    if tags_of(source.splits["train"]) is not None:
        raise InputError(f"{source.name}: has several classes a picture; a probe needs one")
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


def compare_weights(
    weights: Sequence[str | Path],
    data: Any = None,
    *,
    ensemble: bool = False,
    page: str | Path | None = None,
    **scoring: Any,
) -> Comparison:
    """Score several weights files on the same pictures, and compare each two of them.

    Args:
        weights: the files, of the same classes.
        data: labelled pictures, as for `evaluate`; by default those of training.
        ensemble: combine them, too; which are worth it is chosen on validation pictures alone.
        page: an .html file to write the comparison to, with the pictures that they disagree on.
        scoring: further keywords of `evaluate`.

    Raises:
        InputError: none was named, or their classes or pictures are not the same.
        WorkError: the page could not be written.
    """
    if not weights:
        raise InputError("name the weights that are compared")
    asked, pictures = Assessing(weights[0], data, **scoring), MAX_PICTURES if page else 0
    found = assessment.compare_weights(weights, asked, ensemble=ensemble, pictures=pictures)
    if page is not None:
        write_comparison(Path(page), found)
    return found


def corrupted(
    weights: str | Path,
    data: Any = None,
    *,
    baseline: str | Path | None = None,
    pictures: int | None = None,
    **scoring: Any,
) -> Robustness:
    """Score weights on 15 common corruptions of the pictures, each at 5 severities.

    Args:
        weights: the file.
        data: labelled pictures, as for `evaluate`; by default those of training.
        baseline: other weights that errors are put in relation to.
        pictures: at most so many are corrupted, evenly spaced.
        scoring: further keywords of `evaluate`.

    Raises:
        InputError: weights and data do not go together.
    """
    asked = Assessing(weights, data, **scoring)
    return assessment.corrupted(asked, baseline=baseline, most=pictures)


def calibrate(weights: str | Path, data: Any = None, **scoring: Any) -> float:
    """Fit the temperature on validation pictures; the weights file keeps it.

    Args:
        weights: the file, which is written.
        data: labelled pictures, as for `evaluate`; by default those of training.
        scoring: further keywords of `evaluate`.

    Returns:
        The temperature.

    Raises:
        InputError: the data have no validation pictures, or a picture has several classes.
        WorkError: the file cannot be written.
    """
    return assessment.calibrate(Assessing(weights, data, **scoring))


class Checked(NamedTuple):
    """A weights file's scores beside what is stated for it.

    Attributes:
        scores: measured.
        error: 100 - top-1, in %, as papers state it.
        stated: the same as its author or its card says it; None where nobody does.
        notes: what was taken for granted.
    """

    scores: Scores
    error: float
    stated: float | None
    notes: tuple[str, ...] = ()


def check(
    weights: str | Path,
    data: str | Path | None = None,
    *,
    stated: float | None = None,
    model: str | None = None,
    foreign: Mapping[str, Any] | None = None,
    **scoring: Any,
) -> Checked:
    """Score any weights file, deepen's or another program's, beside its stated top-1 error.

    Args:
        weights: the file.
        data: labelled pictures; by default those of the card.
        stated: the error in %; by default the card's, on the data that it was scored on.
        model: the network; needed where there is no card.
        foreign: of a file without a card, keywords of `deepen.weights.convert.load_foreign`; the
            classes are by default the data's, in their order.
        scoring: further keywords of `evaluate`.

    Raises:
        InputError: weights and data do not go together.
    """
    if not Path(weights).is_file() or has_card(Path(weights)):
        card = load_weights(weights, model=model).card
        scores = evaluate(weights, None if data is None else str(data), model=model, **scoring)
        if not isinstance(scores, Scores):
            raise InputError(f"{weights}: tells several classes a picture, which have no top-1")
        if stated is None and data in (None, card.data) and "top1" in card.score:
            stated = 100 - 100 * card.score["top1"]
        return Checked(scores, 100 - 100 * scores.top1, stated)
    if model is None or data is None:
        raise InputError(
            f"{weights}: has no card, so say the data and --model "
            f"(`deepen weights show {weights}` tells which networks it fits)"
        )
    told = dict(foreign or {})
    loaded, left_out = load_foreign(Path(weights), model, **told)
    card, notes = loaded.card, [f"left out: {', '.join(left_out)}"] if left_out else []
    if card.classes == tuple(map(str, range(card.num_classes))):
        where = {key: scoring[key] for key in ("data_dir", "download") if scoring.get(key)}
        classes = open_source(str(data), **where).classes
        if len(classes) != card.num_classes:
            raise InputError(
                f"{weights}: has {card.num_classes} classes, {data} {len(classes)}; --classes says "
                "which they are"
            )
        card = card.model_copy(update={"classes": classes})
        notes.append(f"classes taken to be in the order of {data}: {', '.join(classes[:5])}, ...")
    with tempfile.TemporaryDirectory(prefix="deepen-") as folder:
        file = Path(folder) / f"{Path(weights).stem}.safetensors"
        save_weights(file, loaded.model, card, loaded.mean_image)
        scores = evaluate(file, str(data), model=model, **scoring)
    assert isinstance(scores, Scores)  # a foreign file has no thresholds
    return Checked(scores, 100 - 100 * scores.top1, stated, tuple(notes))


def predict(
    weights: str | Path,
    pictures: Source | Iterable[Source],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    device: str | None = None,
    model: str | None = None,
) -> Iterator[Prediction | PictureError]:
    """Predict pictures, one or many; folders are gone through as they are read.

    Args:
        weights: a file of `deepen train`'s, or what else `deepen.load` takes.
        pictures: a path (of a file or a folder, or a pattern like "new/*.jpg"), the bytes of a
            file, a PIL picture, a NumPy array (H, W) or (H, W, C), a tensor (C, H, W), of uint8 or
            of numbers in 0..1; several of these, as an array or tensor with one dimension more too.
        top_k: how many classes are told of each.
        batch_size: pictures at a time.
        device: the fastest there is when left out.
        model: needed for a user's own `package.module:factory`.

    Returns:
        In order, what the network says of each picture; in the place of one that cannot be decoded
        its `PictureError`.

    Raises:
        InputError: the weights cannot be loaded, or something else than pictures was given.
    """
    found = find_pictures(pictures)
    predictor = Predictor(weights, device=str(pick_device(device)), model=model)
    return predictor(found, top_k=top_k, batch_size=batch_size)


def _stem(data: str) -> str:
    """What a run on these data is called: without the columns that were said."""
    return Path(data.partition("?")[0]).resolve().name


def _choice_in_words(best_epoch: int, split: str, choose_by: str | None) -> str:
    if best_epoch == 0:
        return f"no picture was held out: the weights of the last epoch, reported on {split}"
    by = f" by {choose_by}" if choose_by else ""
    chosen = f"epoch {best_epoch} was chosen on the validation pictures{by}"
    if split == "val":
        return f"{chosen}, and is reported on the same ones for want of a test split: optimistic"
    return f"{chosen} and is reported on the test pictures, which nothing was chosen on"
