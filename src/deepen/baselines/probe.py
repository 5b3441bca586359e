"""A linear probe: what a linear classifier makes of the frozen features of a layer.

The lectures' "FC7 features" (Donahue et al. 2013, "DeCAF"; Razavian et al. 2014), for any layer.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from deepen.data.decode import PictureError
from deepen.data.loader import Batches
from deepen.data.sources import PictureSet, SplitName
from deepen.display import Part, displayed
from deepen.errors import InputError
from deepen.evaluation.features import Features, extract_features
from deepen.evaluation.intervals import Interval, interval
from deepen.weights import Loaded

Kind = Literal["logistic", "svm"]
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Candidates for C, the inverse of the regularization; the best on validation data is taken."""


@displayed
class Probe(NamedTuple):
    """What a probe found; shares are of the pictures, in 0..1.

    Attributes:
        layer: whose features these are.
        num_features: of a picture.
        classifier: "logistic" or "svm".
        c: the C that was chosen.
        validation_top1: what it was chosen by.
        split: what is reported: "test", or "val" where there is none.
        top1: there.
        num_samples: there.
        protocol: all this in words.
        bad: pictures that could not be decoded, in none of the numbers.
    """

    layer: str
    num_features: int
    classifier: str
    c: float
    validation_top1: float
    split: str
    top1: float
    num_samples: int
    protocol: str
    bad: tuple[PictureError, ...]

    def display(self) -> list[Part]:
        """What it shows of itself."""
        chosen = f"C {self.c:g}, validation accuracy {100 * self.validation_top1:.2f}%"
        return [
            f"{self.split} accuracy {self.interval.in_words}  ({self.protocol})",
            f"{self.num_features} features; {chosen}",
        ]

    @property
    def interval(self) -> Interval:
        """Of the accuracy that is reported."""
        return interval(self.top1, self.num_samples)


def probe(
    loaded: Loaded,
    source: PictureSet,
    layer: str,
    *,
    kind: Kind = "logistic",
    batch_size: int = 128,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Probe:
    """Fit a linear classifier to the training pictures' features and score it.

    Features are standardized by the training pictures' mean and deviation. C is chosen on the
    validation pictures, which the fit does not see; the score is of the test pictures.

    Args:
        loaded: network and card; frozen, in evaluation mode.
        source: labelled pictures, of any classes.
        layer: a stage that the network names, or else a name of its `named_modules()`.
        kind: multinomial logistic regression, or a linear support vector machine (one against all).
        batch_size: does not change the result.
        workers: processes that decode.
        device: where features are computed.

    Raises:
        InputError: no such layer, or no validation pictures.
    """
    if "val" not in source.splits:
        raise InputError(f"{source.name}: a probe is chosen on validation pictures; there are none")
    network = loaded.model.to(device)
    found: dict[SplitName, Features] = {}
    for name in source.splits:
        batches = Batches(
            source.splits[name],
            loaded.card.preprocessing,
            batch_size=batch_size,
            workers=workers,
            mean_image=loaded.mean_image,
            device=device,
        )
        found[name] = extract_features(network, layer, batches.epoch(0), device=device)
    split: SplitName = "test" if "test" in found else "val"
    fitted = [(c, _fit(kind, c, found["train"])) for c in STRENGTHS]
    c, best = max(fitted, key=lambda pair: _top1(pair[1], found["val"]))  # of equals the first
    chosen = "" if split == "test" else ", which C was chosen on too: optimistic"
    count = len(found[split].labels)
    return Probe(
        layer,
        found["train"].values.shape[1],
        kind,
        c,
        _top1(best, found["val"]),
        split,
        _top1(best, found[split]),
        count,
        f"{source.name}, {split} split{chosen}, {count:,} pictures, {kind} on frozen features of "
        f"{layer}, one crop: {loaded.card.preprocessing.describe()}",
        tuple(error for features in found.values() for error in features.bad),
    )


def _fit(kind: Kind, c: float, train: Features) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    linear = LogisticRegression(C=c, max_iter=1000) if kind == "logistic" else LinearSVC(C=c)
    classifier = make_pipeline(StandardScaler(), linear)
    with warnings.catch_warnings():
        # A candidate that stops at the limit is as good as its validation score.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(train.values.numpy(), train.labels.numpy())


def _top1(classifier: Any, features: Features) -> float:
    predicted = classifier.predict(features.values.numpy())
    return float(np.mean(predicted == features.labels.numpy()))
