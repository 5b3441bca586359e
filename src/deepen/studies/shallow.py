"""The revolution of depth: features by hand against networks of 5 and 20 layers.

He et al. 2015's slides ("Revolution of Depth"), as the lectures show them: the error on ImageNet
falls as networks grow from shallow features (28.2%, 2010) over 8, 19 and 22 to 152 layers (3.57%).
Shallow meant gradients and Fisher vectors under a linear classifier (Lin et al. 2011; Sánchez &
Perronnin 2011). Here all see the same pictures.
"""

from __future__ import annotations

from itertools import pairwise

from deepen.baselines.encodings import FisherVectors, hog_features, linear_svm, pixels
from deepen.studies.bench import Bench, train_and_score
from deepen.studies.study import (
    Arm,
    Conclusion,
    Measure,
    Pictures,
    Results,
    Setting,
    Study,
    Trial,
    judged,
    named,
)

SOURCE = "lecture 001, revolution of depth (He et al. 2015)"
PIXELS, HOG, FISHER = "pixels + SVM", "HOG + SVM", "Fisher vectors + SVM"
LAYERS = {PIXELS: 1, HOG: 1, FISHER: 1, "LeNet-5": 5, "plain-20": 20, "ResNet-20": 20}


def trial(bench: Bench) -> Trial:
    """Train a network, or fit a linear classifier to features that were made by hand."""
    layers = {"layers": LAYERS[bench.arm.name]}
    if bench.arm.build is not None:
        done = train_and_score(bench)
        done.measures = layers | done.measures
        return done
    train, test = bench.source.splits["train"], bench.source.splits["test"]
    describe = {PIXELS: pixels, HOG: hog_features}.get(bench.arm.name)
    features = describe or FisherVectors(bench.seed).fit(train).encode
    seen = features(train)
    classifier = linear_svm(bench.seed).fit(seen, train.labels)
    errors = {
        "train_error": 100 * (1 - classifier.score(seen, train.labels)),
        "test_error": 100 * (1 - classifier.score(features(test), test.labels)),
    }
    return bench.trial(measures=layers | errors)


def conclude(results: Results) -> list[Conclusion]:
    """Each step of the lectures' bars, against the best of those before it."""
    error = {arm: results.mean(arm, "test_error") for arm in results.arms()}
    shallow = min((arm for arm in (HOG, FISHER) if arm in error), key=error.__getitem__)
    steps = [arm for arm in (PIXELS, shallow, "LeNet-5", "ResNet-20") if arm in error]
    pairs = [*pairwise(steps), ("plain-20", "ResNet-20")]
    return [
        judged(
            f"{better} errs less than {worse}",
            SOURCE,
            "ImageNet, top-5: shallow 28.2 and 25.8%, 8 layers 16.4%, 19 and 22 layers 7.3 and "
            "6.7%, 152 layers 3.57%",
            f"{error[better]:.2f}% against {error[worse]:.2f}%",
            results.less(better, worse, "test_error"),
        )
        for worse, better in pairs
        if error.get(better) == error.get(better) and error.get(worse) == error.get(worse)
    ]


def _setting(pictures: Pictures, departures: tuple[str, ...], minutes: str, epochs: int) -> Setting:
    return Setting(
        pictures=pictures,
        recipe="quick",
        changes={"length.epochs": epochs, "input.normalize": "channel"},
        arms=(
            *(Arm(name) for name in (PIXELS, HOG, FISHER)),
            named("LeNet-5", "lenet5_relu", {"optimizer.lr": 0.03}),
            named("plain-20", "plain20"),
            named("ResNet-20", "resnet20"),
        ),
        departures=(
            "the lectures' bars are entries of ImageNet's contest, each with its own training data "
            "and tricks",
            "LeNet-5 in its modern form, ReLU and max pooling; 20 layers stand for 22 and more",
            *departures,
        ),
        minutes=minutes,
    )


STUDY = Study(
    name="shallow",
    title="The revolution of depth, on one data set",
    source=SOURCE,
    question="How far do features made by hand come, and how far networks, as they get deeper?",
    varies="the classifier: trained layers, and what they stand on",
    held="training and test pictures, neither augmented; networks: the recipe but for LeNet's rate",
    measures=(
        Measure("layers", "trained layers", 0),
        Measure("train_error", "training error, %", 2, "train"),
        Measure("test_error", "test error, %", 2, "test"),
    ),
    bars="test_error",
    settings={
        "small": _setting(
            Pictures("mnist", train=5000),
            ("5,000 of MNIST's 60,000 training pictures, all 10,000 test pictures",),
            "10 minutes on 2 cores",
            15,
        ),
        "full": _setting(
            Pictures("cifar10"), ("CIFAR-10 in place of ImageNet",), "2 hours on 2 cores", 30
        ),
    },
    trial=trial,
    conclude=conclude,
)
