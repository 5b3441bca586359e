"""Features matter: what detection gains from each of the networks that the lectures go through.

He et al. 2015's slides ("Revolution of Depth", PASCAL VOC 2007), as lecture 001 shows them: HOG and
deformable parts 34, R-CNN on AlexNet 58, on VGG 66, Faster R-CNN on ResNet-101 86 mAP. Here all see
the same pictures, and learn from them alone: HOG under a sliding window (Dalal & Triggs 2005),
R-CNN on AlexNet's features (Girshick et al. 2014), Fast R-CNN on VGG-16 (Girshick 2015), Faster
R-CNN on ResNet-18 (Ren et al. 2015), and the same boxes in every picture as what must be beaten.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from deepen.baselines.commonest import CommonestBoxes
from deepen.baselines.sliding_window import SlidingWindow
from deepen.data.sources import Split, SplitName
from deepen.detection.networks import model_of
from deepen.detection.proposals import ALL, SelectiveSearch, Strategy, propose, with_proposals
from deepen.detection.rcnn import RCNN, RegionFeatures, region_pictures
from deepen.evaluation.boxes import Detections
from deepen.evaluation.detection import score_detections
from deepen.layers import ImageClassifier
from deepen.studies.bench import Bench
from deepen.studies.study import (
    Arm,
    Conclusion,
    Measure,
    Pictures,
    Published,
    Results,
    Setting,
    Study,
    Trial,
    judged,
)
from deepen.training.build import batches
from deepen.training.task import task_of

SOURCE = "lecture 001, revolution of depth (He et al. 2015)"
COMMONEST, HOG = "commonest boxes", "HOG + SVM"
RCNN_ALEXNET, FAST_VGG, FASTER_RESNET = (
    "R-CNN, AlexNet",
    "Fast R-CNN, VGG-16",
    "Faster R-CNN, ResNet",
)
STEPS = (COMMONEST, HOG, RCNN_ALEXNET, FAST_VGG, FASTER_RESNET)
CLAIMS = {
    HOG: "detection-hog",
    RCNN_ALEXNET: "detection-alexnet",
    FAST_VGG: "detection-vgg",
    FASTER_RESNET: "detection-resnet",
}
PUBLISHED = tuple(
    Published(arm, "map07", value, SOURCE)
    for arm, value in ((HOG, 34.0), (RCNN_ALEXNET, 58.0), (FAST_VGG, 66.0), (FASTER_RESNET, 86.0))
)
EPOCHS = 8
QUARTER = "deepen.studies.quarter"
# Of four strategies this one's first 200 find most: 0.70 of the boxes of 12 training pictures.
SMALL_SEARCH = SelectiveSearch(200, (Strategy("hsv", 50, ALL[1:]),), 320)
FULL_SEARCH = SelectiveSearch()


def trial(bench: Bench) -> Trial:
    """Learn a detector from the training pictures, and score it on the test pictures."""
    found = FIND[bench.arm.name](bench)
    test = bench.source.splits["test"]
    assert test.targets is not None
    scores = score_detections(found, test.targets, bench.source.classes, resamples=2).figures
    return bench.trial(
        measures={
            name: 100 * value
            for name in ("map07", "map50", "coco_ap")
            if (value := scores[name]) is not None
        }
    )


def commonest(bench: Bench) -> list[Detections]:
    """The training boxes' clusters, in every picture."""
    guess = CommonestBoxes(len(bench.source.classes), seed=bench.seed)
    guess.fit(bench.source.splits["train"])
    test = bench.source.splits["test"]
    return [guess.detect(test.picture(place, 3).size) for place in range(len(test))]


def hog(bench: Bench) -> list[Detections]:
    """Gradients under a sliding window."""
    window = SlidingWindow(len(bench.source.classes), bench.seed)
    window.fit(bench.source.splits["train"])
    test = bench.source.splits["test"]
    return [window.detect(_image(test, place)) for place in range(len(test))]


def rcnn(bench: Bench) -> list[Detections]:
    """A classifier is trained on regions of the pictures, then machines on its features."""
    given = _proposals(bench)
    side_px = bench.recipe().input.size_px
    assert isinstance(side_px, int)
    regions = region_pictures(bench.source, given, side_px, bench.seed)
    classifier = replace(bench, source=regions)
    network = classifier.train("features").network
    assert isinstance(network, ImageClassifier)
    features = RegionFeatures(network, *classifier.plan().input)
    detector = RCNN(features, len(bench.source.classes), bench.seed)
    detector.fit(bench.source.splits["train"], given["train"])
    test = bench.source.splits["test"]
    return [
        detector.detect(_image(test, place), boxes) for place, boxes in enumerate(given["test"])
    ]


def fast_rcnn(bench: Bench) -> list[Detections]:
    """The detector is one network, the proposals are the same."""
    return network(replace(bench, source=with_proposals(bench.source, _proposals(bench))))


def network(bench: Bench) -> list[Detections]:
    """A run of the loop, whose last weights are scored."""
    fitted, plan = bench.train(), bench.plan()
    task = task_of(plan.recipe, bench.source.classes)
    task.see(bench.source.splits["train"])
    return task.predict(
        fitted.network, batches(plan, bench.here, "test").epoch(0), bench.here
    ).detections


FIND = {
    COMMONEST: commonest,
    HOG: hog,
    RCNN_ALEXNET: rcnn,
    FAST_VGG: fast_rcnn,
    FASTER_RESNET: network,
}


def _image(split: Split, place: int) -> np.ndarray:
    return np.asarray(split.picture(place, 3))


def _proposals(bench: Bench) -> dict[SplitName, list[Tensor]]:
    """Of all pictures, found once for all trials of a study."""
    width_px = bench.setting.changes["input.size_px"][1]
    search = SMALL_SEARCH if width_px < FULL_SEARCH.width_px else FULL_SEARCH
    of = hashlib.sha256(f"{bench.source.fingerprint} {search}".encode()).hexdigest()[:16]
    bench.folder.parent.mkdir(parents=True, exist_ok=True)
    return {
        name: propose(split, search, bench.folder.parent / f"proposals-{name}-{of}.safetensors")
        for name, split in bench.source.splits.items()
    }


def conclude(results: Results) -> list[Conclusion]:
    """Each step of the lecture's bars, with the picture set that we have."""
    found = {arm: results.mean(arm, "map07") for arm in results.arms()}
    printed = "PASCAL VOC 2007: " + ", ".join(f"{p.arm} {p.value:g}" for p in PUBLISHED)
    return [
        judged(
            f"{better} finds more than {worse}",
            SOURCE,
            printed,
            f"mAP {found[better]:.1f} against {found[worse]:.1f}",
            results.less(worse, better, "map07"),
        ).feeding(
            CLAIMS[better],
            f"mAP, 11 points, of {better}, in %",
            results.by_seed(better, "map07"),
        )
        for worse, better in pairwise(arm for arm in STEPS if found.get(arm) == found.get(arm, 1.0))
    ]


def _setting(
    pictures: str,
    size_px: tuple[int, int],
    crop_px: int,
    backbones: tuple[str, str, str],
    departures: tuple[str, ...],
    minutes: str,
) -> Setting:
    alexnet, vgg, resnet = backbones
    on_regions = {
        "task": "classification",
        "batch_size": 64,
        "length.epochs": 8,
        "optimizer.lr": 0.001,
        "input.size_px": crop_px,
        "input.resize": "squash",
    }
    given = {"task": "deepen.detection.fast_rcnn:GivenProposals"}
    return Setting(
        pictures=Pictures(pictures),
        recipe="detect",
        changes={"length.epochs": EPOCHS, "input.size_px": size_px},
        arms=(
            Arm(COMMONEST),
            Arm(HOG),
            Arm(RCNN_ALEXNET, None, on_regions, model=alexnet),
            Arm(FAST_VGG, None, given, model=model_of("fast-rcnn", vgg)),
            Arm(FASTER_RESNET, None, model=model_of("faster-rcnn-fpn", resnet)),
        ),
        departures=(
            "the lecture's bars are PASCAL VOC 2007, with features of ImageNet's million pictures; "
            "here features are learnt from the set's own pictures and regions, from scratch",
            "one rigid template a class stands for deformable parts",
            "VGG-16 with batch norm (torchvision's), in Fast R-CNN; the lecture's 66 is R-CNN's",
            *departures,
        ),
        minutes=minutes,
    )


STUDY = Study(
    name="features-matter",
    title="Features matter: detection from HOG to ResNet",
    source=SOURCE,
    question="How much of a detector's gain is its features', on one set of pictures?",
    varies="features and detector: templates of gradients, R-CNN on AlexNet, Fast R-CNN on VGG-16, "
    "Faster R-CNN on ResNet",
    held="training and test pictures; the proposals of R-CNN and Fast R-CNN",
    measures=(
        Measure("map07", "mAP, 11 points, %"),
        Measure("map50", "mAP, area, %"),
        Measure("coco_ap", "COCO AP, %"),
    ),
    bars="map07",
    published=PUBLISHED,
    settings={
        "small": _setting(
            "BCCD",
            (192, 256),
            112,
            (f"{QUARTER}:alexnet", f"{QUARTER}:vgg16_bn", f"{QUARTER}:resnet18"),
            (
                "networks of a quarter of their width, ResNet-18 for ResNet-101; pictures squashed "
                "to 256x192 px, regions to 112 px",
                "at most 200 proposals of one strategy of selective search (HSV, k = 50, texture, "
                "size and fill), with 2,000 of all in the papers",
                f"{EPOCHS} passes, 8 over the regions, with AdamW",
            ),
            "half an hour on 2 cores",
        ),
        "full": _setting(
            "VOC2007",
            (600, 1000),
            227,
            ("alexnet", "vgg16_bn", "resnet101"),
            (f"{EPOCHS} passes, 8 over the regions, with AdamW",),
            "hours on a large GPU",
        ),
    },
    trial=trial,
    conclude=conclude,
)
