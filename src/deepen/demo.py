"""The demonstration: two networks of the line against two shallow classifiers, on real digits.

The 1,797 handwritten digits of 8x8 px embedded in scikit-learn, split as in scikit-learn's own
example: first half to train, second half to test. The networks hold validation pictures out of the
first half to choose their epoch on; the shallow classifiers are given all of it. Settings and seeds
were fixed on validation pictures before any network had seen the test half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from deepen import api
from deepen.baselines.shallow import linear_classifier, rbf_svm, test_accuracy
from deepen.data.decode import PictureError
from deepen.data.sources import open_source
from deepen.deployment.predictor import Prediction
from deepen.evaluation.intervals import OverSeeds, over_seeds
from deepen.training.progress import Reporter

SEEDS = (0, 1, 2)
PICTURES_SAVED = 5
DIGIT_LEVELS = 16

# The networks, their recipes and changes of them; chosen on validation pictures, with other seeds.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet5": (
        "lenet-1998",
        {
            "length.epochs": 40,
            "batch_size": 16,
            "augment.crop": "pad",
            "augment.pad_px": 2,
        },
    ),
    "resnet20": ("quick", {"length.epochs": 40, "augment.crop": "pad", "augment.pad_px": 1}),
}


class Entry(NamedTuple):
    """A row of the table: test accuracy of each seed, in 0..1, all of them together, the runs."""

    name: str
    top1: tuple[float, ...]
    together: OverSeeds
    runs: tuple[Path, ...]


class Demonstration(NamedTuple):
    """All of it: the table, and pictures predicted from their files with the true digit."""

    protocol: str
    entries: tuple[Entry, ...]
    weights: Path
    predictions: tuple[tuple[Prediction, str], ...]


def demonstrate(output: Path, reporter: Reporter, say: Callable[[str], None]) -> Demonstration:
    """Train, measure, save a few digits as PNG and predict them from the files.

    Args:
        output: gets a run folder for each network and seed, and the pictures.
        reporter: shown what happens within a run.
        say: called with a line after each run.

    Raises:
        InputError: `output` holds a run of that name already.
    """
    source = open_source("digits", validation=0)
    train, test = source.splits["train"], source.splits["test"]
    entries = [
        _entry(name, [test_accuracy(classifier, train, test, DIGIT_LEVELS)], len(test))
        for name, classifier in (
            ("linear classifier", linear_classifier()),
            ("RBF support vector machine", rbf_svm()),
        )
    ]
    for model, (recipe, changes) in NETWORKS.items():
        shares, runs = [], []
        for seed in SEEDS:
            trained = api.train(
                "digits",
                model=model,
                recipe=recipe,
                changes={**changes, "seed": seed},
                output=output / f"{model}-seed{seed}",
                reporter=reporter,
                command="deepen demo",
            )
            shares.append(trained.scores.top1)
            runs.append(trained.run)
            say(f"{model}, seed {seed}: test {trained.scores.headline}, {trained.run}")
        entries.append(_entry(model, shares, len(test), runs))
    weights = entries[-1].runs[0] / "best.safetensors"
    words = f"digits, test split, {len(test)} pictures, the same for all, each seen once"
    return Demonstration(words, tuple(entries), weights, _predict_files(output, weights))


def _entry(name: str, shares: list[float], n: int, runs: Sequence[Path] = ()) -> Entry:
    return Entry(name, tuple(shares), over_seeds(shares, n), tuple(runs))


def _predict_files(output: Path, weights: Path) -> tuple[tuple[Prediction, str], ...]:
    """Save some test digits as PNG files and predict them from there."""
    test = open_source("digits").splits["test"]
    assert test.images is not None
    folder = output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for index in range(PICTURES_SAVED):
        path = folder / f"digit-{index}.png"
        Image.fromarray(test.images[index, :, :, 0]).save(path)
        [found] = api.predict(weights, [path], top_k=2)
        if isinstance(found, PictureError):
            raise found
        shown.append((found, str(test.labels[index])))
    return tuple(shown)
