"""What a command does, as one call: train, evaluate, predict."""

from __future__ import annotations

import base64
import io
import statistics
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from deepen.baselines.probe import Kind, Probe
from deepen.baselines.probe import probe as probe_layer
from deepen.data.decode import PictureError, open_picture, to_image
from deepen.data.loader import Batches
from deepen.data.sources import PictureSet, Split, SplitName, open_source
from deepen.deployment.predictor import Prediction, Predictor, find_pictures
from deepen.errors import InputError
from deepen.evaluation.metrics import Scores, score
from deepen.evaluation.protocols import Predictions, describe_one_crop, predict_logits
from deepen.files import write_whole
from deepen.report.page import write_report
from deepen.training.distributed import ALONE_TIMEOUT_S, join, restartable, restarted
from deepen.training.environment import write_environment
from deepen.training.loop import fit
from deepen.training.lr_finder import Sweep, sweep
from deepen.training.parts import Parts, assemble, num_workers
from deepen.training.plan import Plan, new_plan, newest_run, old_plan, same_plan
from deepen.training.progress import Reporter, Silent
from deepen.training.run import Run
from deepen.training.search import Found, Order, Pruner, space_of
from deepen.training.search import search as run_search
from deepen.training.state import State
from deepen.weights import load_weights, save_weights

MISTAKES_SHOWN = 24
MISTAKE_PX = 96


class Trained(NamedTuple):
    """A finished run: its folder, the split that it is reported on, and the scores there."""

    run: Path
    split: str
    scores: Scores


def train(
    data: str | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    changes: dict[str, Any] | None = None,
    weights: str | Path | None = None,
    init_from: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    exclude: Collection[str] = (),
    workers: int | None = None,
    cache_bytes: int = 0,
    device: str | None = None,
    tune: bool = False,
    reporter: Reporter | None = None,
    command: str = "",
) -> Trained:
    """Train a network, score it on pictures that it has not seen, and write the report.

    Args:
        data: a folder of pictures or the name of a data set; may be left out with `resume`.
        model: of `list_models()` or `package.module:factory`; chosen by the data when left out.
        recipe: a name or a YAML file; chosen by model and data when left out.
        changes: of the recipe, {"optimizer.lr": 0.1} say.
        weights: trained ones to go on with, of the same network: a file, or "imagenet" for
            torchvision's; their preprocessing is taken over, and their last layer where the
            classes are the same.
        init_from: a file whose layers are copied, as the recipe's `init` says.
        output: the run folder; must be new or empty. Default: runs/<data>-<model>-<number>.
        resume: a run folder, or "auto" for the newest whole run of the same data, model and recipe
            in runs/ (in `output`, where that is given), else a new one.
        data_dir: where named data sets lie.
        download: whether a named data set may be fetched, or for a folder of photographs without a
            recipe ImageNet weights.
        exclude: pictures to leave out, relative to the folder.
        workers: processes that decode; the result does not depend on it.
        cache_bytes: of decoded training pictures kept from epoch to epoch, in a temporary file;
            the result does not depend on it.
        device: "cpu", "cuda", "mps"; the fastest there is when left out.
        tune: measure which speed settings are the fastest here rather than go by rules; a resumed
            run keeps those that it has.
        reporter: shown what happens; of several processes under torchrun, the first's.
        command: kept in environment.json.

    Returns:
        The same in each of several processes; the first alone has written.

    Raises:
        DeepenError: whatever can be said in one line; see its subclasses.
    """
    began = time.time()
    with join() as processes:
        if resume is None and output is None and restartable():
            raise InputError("torchrun --max-restarts needs --output RUN, to find it again")
        if restarted():
            resume = resume or "auto"
        first = processes.rank == 0
        reporter = (reporter if first else None) or Silent()
        where = processes.place(pick_device(device))
        begin = {
            "weights": None if weights is None else str(weights),
            "init_from": None if init_from is None else str(init_from),
        }

        def settle() -> Plan:
            words = (data, model, recipe, changes, data_dir, download, exclude, reporter)
            return new_plan(*words, **begin, device=where.type)

        plan, run = None, None
        if first:
            if resume == "auto" and output is None and data is not None:
                plan = settle()
                run = _newest(plan.identity(), reporter)
            elif resume is not None:
                run = _run_to_resume(resume, model, output, reporter)
            if plan is None and run is not None:
                plan = old_plan(run, data, model, recipe, changes, data_dir, exclude, **begin)
            elif plan is not None and run is not None:
                plan = plan._replace(recipe=run.read_recipe())
            plan = plan or settle()
        shared = processes.share(plan and plan.shared(), ALONE_TIMEOUT_S)
        plan = plan or same_plan(shared)
        parts = assemble(
            plan,
            where,
            workers,
            reporter,
            processes,
            cache_bytes=cache_bytes,
            tune=tune and run is None,
        )
        processes.gather("ready")  # who fails so far fails before anything is written
        said = [line for line in (parts.origin, parts.size) if line and run is None]
        for line in said:
            reporter.message(line)
        if run is None and first:
            run = _new_run(parts.plan, output, said)
        run = Run(Path(processes.share(first and str(run and run.path))))
        if first:
            write_environment(run, where, began, command, processes.size)
        reporter.message(f"run {run.path}")
        state = fit(parts.job(run), reporter, resume=resume is not None)
        rates = [rate for row in state.history if (rate := row["images_per_s"])]
        if rates:
            reporter.message(f"measured {statistics.median(rates):,.0f} images/s in training")
        trained = _test(run, parts, state, reporter)
        if first:
            seconds = time.time() - began
            write_environment(run, where, began, command, processes.size, seconds)
            write_report(run.path)
        return trained


class Searched(NamedTuple):
    """A search that ended: its folder, what was found, and the best trial's scores.

    `trained` is None while other processes still have trials under way.
    """

    folder: Path
    found: Found
    trained: Trained | None


def search(
    data: str | None = None,
    *,
    model: str | None = None,
    recipe: str | None = None,
    changes: dict[str, Any] | None = None,
    trials: int = 20,
    pruner: Pruner = "median",
    storage: str | None = None,
    study: str = "search",
    output: str | Path | None = None,
    resume: str | Path | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    exclude: Collection[str] = (),
    workers: int | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
    command: str = "",
) -> Searched:
    """Search a recipe's space on validation pictures; then score the best trial's weights, once.

    The best trial is not trained again: the weights of its best epoch are what is scored.

    Args:
        data: as for `train`; so are model, recipe, changes, data_dir, download, exclude, workers,
            device, reporter and command.
        model: chosen by the data when left out.
        recipe: its `search:` block is the space; without one it is a usual space.
        changes: of the recipe.
        trials: how many are to finish in all; pruned ones count.
        pruner: "median", "hyperband" or "none".
        storage: URL of a database, for several processes; default a SQLite file in the folder.
        study: the search's name in the storage.
        output: the folder; must be new or empty. Default: runs/<data>-<model>-search-<number>.
        resume: the folder of a search to go on with.
        data_dir: where named data sets lie.
        download: whether a named data set may be fetched.
        exclude: pictures to leave out.
        workers: processes that decode.
        device: "cpu", "cuda", "mps".
        reporter: shown what happens.
        command: kept with each trial.

    Raises:
        DeepenError: whatever can be said in one line.
    """
    reporter = reporter or Silent()
    where = pick_device(device)
    if resume is not None:
        folder, begun = Path(resume), Run(Path(resume) / "base")
        if not (begun.path / "recipe.yaml").is_file():
            raise InputError(f"--resume {folder}: no folder of a search")
        plan = old_plan(begun, data, model, recipe, changes, data_dir, exclude)
    else:
        words = (data, model, recipe, changes, data_dir, download, exclude, reporter)
        plan = new_plan(*words, device=where.type)
        stem = f"{Path(plan.data).resolve().name}-{plan.model}-search"
        folder = Run.create(None if output is None else Path(output), stem).path
        begun = Run(folder / "base")
        begun.path.mkdir()
        begun.write_json("data.json", plan.about())
        begun.write_recipe(plan.recipe)
    space, said = space_of(plan.recipe)
    reporter.message(said)
    reporter.message(f"search {folder}")
    order = Order(plan, space, pruner, folder, storage, study, command)
    found = run_search(order, trials, where, workers, reporter)
    if found.best is None or found.running:
        return Searched(folder, found, None)
    best = Run(Path(found.best.run))
    tested = {path.parent.name for path in (folder / "trials").glob("*/scores.json")}
    document = found.document(order, len(tested | {best.path.name}))
    best.write_json("search.json", document)
    if best.path.name not in tested:
        reporter.message(f"trial {found.best.number} is the best; its weights are scored now")
    trained = train(
        resume=str(best.path), data_dir=data_dir, workers=workers, device=device, command=command
    )
    for name in ("report.html", "best.safetensors"):
        write_whole(folder / name, (best.path / name).read_bytes())
    begun.write_json("search.json", document)
    return Searched(folder, found, trained)


def evaluate(
    weights: str | Path,
    data: str | None = None,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    model: str | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Scores:
    """Score a weights file on labelled pictures, with one crop each.

    Args:
        weights: a file of `train`'s.
        data: a folder or a data set; by default the one that it was trained on.
        split: "train", "val", "test" or "all"; by default the test split, else the validation one.
        data_dir: where named data sets lie.
        download: whether a named data set may be fetched.
        model: needed for a user's own `package.module:factory`.
        batch_size: does not change the result.
        workers: processes that decode.
        device: "cpu", "cuda", "mps".
        reporter: told of pictures that cannot be decoded; they are in none of the numbers.

    Raises:
        InputError: weights and data do not go together.
    """
    where = pick_device(device)
    loaded = load_weights(weights, model=model)
    data = data or loaded.card.data
    own = data == loaded.card.data
    source = open_source(
        data,
        data_dir=None if data_dir is None else Path(data_dir),
        download=download,
        validation=loaded.card.validation if own else None,
    )
    names = _splits(source, split)
    place = _label_map(source.classes, loaded.card.classes, weights)
    network = loaded.model.to(where)
    found: list[Predictions] = []
    for name in names:
        batches = Batches(
            source.splits[name],
            loaded.card.preprocessing,
            batch_size=batch_size,
            workers=num_workers(workers, source.splits[name]),
            mean_image=loaded.mean_image,
            device=where,
        )
        found.append(predict_logits(network, batches.epoch(0), device=where))
        for error in found[-1].bad:
            (reporter or Silent()).message(f"left out: {error}")
    labels = torch.cat([place[p.labels] for p in found])
    return score(
        torch.cat([p.logits for p in found]),
        labels,
        loaded.card.classes,
        temperature=loaded.card.temperature,
        num_skipped=sum(len(p.bad) for p in found),
        protocol=describe_one_crop(
            loaded.card.preprocessing,
            data=data,
            split="+".join(names),
            num_samples=len(labels),
        ),
    )


def find_lr(
    data: str,
    *,
    model: str | None = None,
    recipe: str | None = None,
    changes: dict[str, Any] | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    data_dir: str | Path | None = None,
    download: bool = False,
    workers: int | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Sweep:
    """Train a fresh network at rising learning rates and suggest one; nothing is written.

    See `deepen.training.lr_finder.sweep` for `lowest`, `highest` and `steps`, `train` for the rest.

    Raises:
        InputError: words or data are off.
        WorkError: the loss is no number from the start.
    """
    reporter = reporter or Silent()
    plan = new_plan(data, model, recipe, changes, data_dir, download, (), reporter)
    parts = assemble(plan, pick_device(device), workers, reporter)
    settled = parts.plan.recipe
    return sweep(parts.network, parts.train, settled, lowest=lowest, highest=highest, steps=steps)


def probe(
    weights: str | Path,
    data: str | None = None,
    *,
    layer: str,
    classifier: Kind = "logistic",
    data_dir: str | Path | None = None,
    download: bool = False,
    model: str | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Probe:
    """Fit a linear classifier to a layer's frozen features; see `deepen.baselines.probe`.

    Args:
        weights: as `load_weights` takes it.
        data: a folder or a data set, of any classes; by default what it was trained on.
        layer: a name of the network's `named_modules()`.
        classifier: "logistic" or "svm".
        data_dir: where named data sets lie.
        download: whether a named data set may be fetched.
        model: needed for "imagenet", and for a user's own `package.module:factory`.
        batch_size: does not change the result.
        workers: processes that decode.
        device: "cpu", "cuda", "mps".
        reporter: told of pictures that cannot be decoded; they are in none of the numbers.

    Raises:
        InputError: no such layer, or data without validation pictures.
    """
    loaded = load_weights(weights, model=model)
    card = loaded.card
    data = data or card.data
    source = open_source(
        data,
        data_dir=None if data_dir is None else Path(data_dir),
        download=download,
        # The network's own validation pictures; where it had none, the usual share.
        validation=(card.validation or None) if data == card.data else None,
    )
    found = probe_layer(
        loaded,
        source,
        layer,
        kind=classifier,
        batch_size=batch_size,
        workers=num_workers(workers, source.splits["train"]),
        device=pick_device(device),
    )
    for error in found.bad:
        (reporter or Silent()).message(f"left out: {error}")
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


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the fastest there is.

    Raises:
        InputError: torch cannot use it here.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu"]
        have += ["cuda"] if torch.cuda.is_available() else []
        have += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"--device {name}: not to be had here; there is {', '.join(have)}"
        ) from error
    return device


def _run_to_resume(
    resume: str, model: str | None, output: str | Path | None, reporter: Reporter
) -> Run | None:
    if resume != "auto":
        return Run.open(Path(resume))
    if output is None:
        return _newest({} if model is None else {"model": model}, reporter)
    run = Run(Path(output)) if (Path(output) / "recipe.yaml").is_file() else None
    return _said(run, reporter)


def _newest(wanted: dict[str, Any], reporter: Reporter) -> Run | None:
    return _said(newest_run(Path("runs"), wanted, reporter), reporter)


def _said(run: Run | None, reporter: Reporter) -> Run | None:
    told = "--resume auto: no such run yet, a new one" if run is None else f"resuming {run.path}"
    reporter.message(told)
    return run


def _new_run(plan: Plan, output: str | Path | None, notes: list[str]) -> Run:
    stem = f"{Path(plan.data).resolve().name}-{plan.model}"
    run = Run.create(None if output is None else Path(output), stem)
    about = plan.about()
    run.write_json("data.json", {**about, "notes": [*about["notes"], *notes]})
    run.write_recipe(plan.recipe)  # last: with it the run has begun
    return run


def _test(run: Run, parts: Parts, state: State, reporter: Reporter) -> Trained:
    """Score the chosen weights on the test split (the validation split where there is none)."""
    source, chosen, processes = parts.plan.source, run.path / "best.safetensors", parts.processes
    split = _splits(source, None)[0]
    loaded = load_weights(chosen, model=parts.plan.model) if processes.rank == 0 else None
    if loaded is not None:
        parts.network.load_state_dict(loaded.model.state_dict())
    processes.share_tensors(parts.network.state_dict())
    found = predict_logits(
        parts.network,
        processes.together(parts.batches(split).epoch(0)),
        device=parts.device,
        amp=bool(parts.plan.recipe.amp),
        gather=processes.gather_predictions,
    )
    protocol = parts.protocol(split, len(found.labels))
    scores = score(
        found.logits,
        found.labels,
        source.classes,
        temperature=parts.plan.recipe.loss.temperature,
        protocol=protocol,
        num_skipped=len(found.bad),
    )
    trained = Trained(run.path, split, scores)
    if loaded is None:
        return trained
    for error in found.bad:
        if error.path not in state.bad:
            state.bad[error.path] = error.reason
            reporter.message(f"left out: {error}")
    run.write_bad(state.bad)
    numbers = {"top1": scores.top1, "loss": scores.loss}
    card = loaded.card.model_copy(update={"protocol": protocol, "score": numbers})
    save_weights(chosen, parts.network, card, parts.mean_image)
    tensors = {"logits": found.logits, "labels": found.labels, "indices": found.indices}
    write_whole(run.path / "predictions.safetensors", safetensors.torch.save(tensors))
    run.write_json("mistakes.json", _mistakes(found, source, split, card.temperature))
    words = _choice_in_words(state.best_epoch, split)
    run.write_json("scores.json", {"split": split, "choice": words, "scores": scores.model_dump()})
    return trained


def _choice_in_words(best_epoch: int, split: str) -> str:
    if best_epoch == 0:
        return f"no picture was held out: the weights of the last epoch, reported on {split}"
    chosen = f"epoch {best_epoch} was chosen on the validation pictures"
    if split == "val":
        return f"{chosen}, and is reported on the same ones for want of a test split: optimistic"
    return f"{chosen} and is reported on the test pictures, which nothing was chosen on"


def _mistakes(
    found: Predictions, source: PictureSet, split: SplitName, temperature: float
) -> list[dict[str, Any]]:
    """The most confident mistakes, each with a small PNG."""
    shares = (found.logits.double() / temperature).softmax(1)
    confidence, predicted = shares.max(1)
    wrong = (predicted != found.labels).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES_SHOWN]
    pictures = source.splits[split]
    return [
        {
            "index": (index := int(found.indices[i])),
            "key": pictures.key(index),
            "true": source.classes[int(found.labels[i])],
            "predicted": source.classes[int(predicted[i])],
            "confidence": confidence[i].item(),
            "png": _small_png(pictures, index),
        }
        for i in order.tolist()
    ]


def _small_png(pictures: Split, index: int) -> str:
    """At most MISTAKE_PX a side, base64."""
    if pictures.images is not None:
        image = to_image(pictures.images[index])
    else:
        image = open_picture(pictures.encoded(index))
    image.thumbnail((MISTAKE_PX, MISTAKE_PX))
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def _splits(source: PictureSet, split: str | None) -> list[SplitName]:
    if split == "all":
        return list(source.splits)
    if split is None:
        return ["test" if "test" in source.splits else "val" if "val" in source.splits else "train"]
    if split not in source.splits:
        raise InputError(f"--split {split}: {source.name} has {', '.join(source.splits)} and all")
    return [split]


def _label_map(have: tuple[str, ...], card: tuple[str, ...], weights: str | Path) -> Tensor:
    """From the label of a class in the data to its place in the logits, by name."""
    if strange := [name for name in have if name not in card]:
        raise InputError(f"{weights}: knows no class {strange[0]!r}; it has {', '.join(card[:20])}")
    return torch.tensor([card.index(name) for name in have])
