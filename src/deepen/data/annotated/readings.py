"""In which way boxes are to be read: whether they lie on things, as they stand or read otherwise.

A box that a person drew lies on a thing; one that is read wrongly lies anywhere. So crops at the
boxes are told from crops at boxes of other pictures, by gradients and colours (HOG and means over a
grid) and a logistic regression that is tested on pictures that it has not seen. Where the boxes are
sound, that succeeds; where they are not, it succeeds for the reading that mends them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

CROP_PX = 32
MARGIN = 0.15
"""Of a box's sides, around it, that a crop shows too: the edge of the thing is in it."""
APART = 0.3
"""IoU with the picture's own boxes below which another picture's box is elsewhere."""
FEWEST = 30
"""Crops that nothing can be said of less than."""
MOST_A_PICTURE = 4
SLACK_PX = 2
LEAST_PX = 2
UNKNOWN = 0.5
"""What is told where there are too few crops."""
OTHER_SIZE = "they are of pictures of another size"


class Extent(NamedTuple):
    """How far boxes reach to the right and down, x y x y: in px, and as a share of the pictures."""

    px: np.ndarray
    share: np.ndarray


class Reading(NamedTuple):
    """A way to read boxes.

    Attributes:
        fault: what is wrong with boxes that are right when they are read so.
        boxes: (boxes (n, 4), x y x y of the picture's lower right corner, extent) to x1 y1 x2 y2.
    """

    fault: str
    boxes: Callable[[np.ndarray, np.ndarray, Extent], np.ndarray]


class Fit(NamedTuple):
    """How well a reading goes with the pictures.

    Attributes:
        inside: share of the boxes that have an area and lie in their pictures.
        told: area under the ROC curve of crops at these boxes against crops elsewhere; 0.5 where
            there are too few.
    """

    inside: float
    told: float

    @property
    def score(self) -> float:
        """From 0, by chance, to 0.5."""
        return self.inside * max(0.0, self.told - 0.5)


READINGS = (
    Reading("x and y are swapped", lambda b, corner, extent: b[:, [1, 0, 3, 2]]),
    Reading(
        "they are x, y, width, height, read as corners",
        lambda b, corner, extent: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1),
    ),
    Reading(
        "they are centre, width, height, read as corners",
        lambda b, corner, extent: np.concatenate(
            [b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1
        ),
    ),
    Reading(OTHER_SIZE, lambda b, corner, extent: b * corner / extent.px),
    Reading(OTHER_SIZE, lambda b, corner, extent: b / extent.share),
    Reading(
        "left and right are changed over",
        lambda b, corner, extent: np.stack(
            [corner[0] - b[:, 2], b[:, 1], corner[0] - b[:, 0], b[:, 3]], 1
        ),
    ),
    Reading(
        "up and down are changed over",
        lambda b, corner, extent: np.stack(
            [b[:, 0], corner[1] - b[:, 3], b[:, 2], corner[1] - b[:, 1]], 1
        ),
    ),
)


def extent_of(pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray]) -> Extent:
    """How far all boxes reach."""
    ends = [np.maximum(each[:, :2], each[:, 2:]).max(0) for each in boxes]
    px = np.max(ends, 0)
    share = np.max([end / picture.size for end, picture in zip(ends, pictures, strict=True)], 0)
    return Extent(np.tile(px, 2), np.tile(share, 2))


def read(
    pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray], reading: Reading
) -> list[np.ndarray]:
    """All boxes read in a way."""
    extent = extent_of(pictures, boxes)
    return [
        reading.boxes(each, np.tile(picture.size, 2), extent)
        for picture, each in zip(pictures, boxes, strict=True)
    ]


def inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which boxes have an area and lie in a picture, bool (n,)."""
    finite = np.isfinite(boxes).all(1)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= LEAST_PX
    begins = (boxes[:, :2] >= -SLACK_PX).all(1)
    return finite & sides & begins & (boxes[:, 2:] <= np.add(size, SLACK_PX)).all(1)


def fit(
    pictures: Sequence[Image.Image],
    boxes: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> Fit:
    """How well boxes go with their pictures.

    Args:
        pictures: RGB.
        boxes: of each, float (n, 4), x1 y1 x2 y2.
        rng: draws boxes and crops elsewhere.
    """
    shares = [  # boxes as shares of their pictures' sides
        each[inside(each, picture.size)] / np.tile(picture.size, 2)
        for picture, each in zip(pictures, boxes, strict=True)
    ]
    count, total = sum(map(len, shares)), sum(map(len, boxes))
    pool = [(place, box) for place, each in enumerate(shares) for box in each]
    crops, here, groups = [], [], []
    for place, (picture, own) in enumerate(zip(pictures, shares, strict=True)):
        for box in own[rng.permutation(len(own))[:MOST_A_PICTURE]]:
            other = _elsewhere(place, own, pool, rng)
            if other is not None:
                crops += [_describe(picture, box), _describe(picture, other)]
                here += [True, False]
                groups += [place, place]
    return Fit(count / max(total, 1), _told(np.array(crops), np.array(here), np.array(groups)))


def told_classes(
    pictures: Sequence[Image.Image],
    boxes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """How well crops tell their classes, and how well they would if labels were drawn anew.

    Returns:
        Balanced accuracies on pictures that were not seen, 0..1; (1, 0) where there is nothing to
        tell, one class or too few crops.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    crops, said, groups = [], [], []
    for place, (picture, own, its) in enumerate(zip(pictures, boxes, labels, strict=True)):
        good = inside(own, picture.size).nonzero()[0]
        for k in rng.permutation(good)[: 2 * MOST_A_PICTURE]:
            crops.append(_describe(picture, own[k] / np.tile(picture.size, 2)))
            said.append(its[k])
            groups.append(place)
    given = np.array(said)
    if len(given) < FEWEST or len({*said}) < 2 or len({*groups}) < 5:
        return 1.0, 0.0
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=200, class_weight="balanced")
    )
    folds = GroupKFold(5)

    def accuracy(target: np.ndarray) -> float:
        guess = cross_val_predict(model, np.array(crops), target, groups=groups, cv=folds)
        return float(balanced_accuracy_score(target, guess))

    return accuracy(given), accuracy(rng.permutation(given))


def _elsewhere(
    place: int, own: np.ndarray, pool: list[tuple[int, np.ndarray]], rng: np.random.Generator
) -> np.ndarray | None:
    """Another picture's box that lies elsewhere than this picture's own; the least overlapping."""
    found: list[tuple[float, np.ndarray]] = []
    for _ in range(30):
        of, box = pool[rng.integers(len(pool))]
        if of == place:
            continue
        found.append((_overlap(box, own), box))
        if found[-1][0] < APART:
            break
    return min(found, key=lambda each: each[0])[1] if found else None


def _overlap(box: np.ndarray, own: np.ndarray) -> float:
    """The greatest IoU."""
    sides = np.minimum(box[2:], own[:, 2:]) - np.maximum(box[:2], own[:, :2])
    shared = sides.clip(0).prod(1)
    areas = (own[:, 2:] - own[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return float((shared / (areas - shared)).max())


def _describe(picture: Image.Image, share: np.ndarray) -> np.ndarray:
    """Gradients and colours of a crop with its margin."""
    from skimage.feature import hog

    box = share * np.tile(picture.size, 2)
    wide, high = (box[2:] - box[:2]) * MARGIN
    window = (box[0] - wide, box[1] - high, box[2] + wide, box[3] + high)
    crop = picture.transform(
        (CROP_PX, CROP_PX), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR
    )
    pixels = np.asarray(crop, np.float32) / 255
    cells = CROP_PX // 4
    means = pixels.reshape(4, cells, 4, cells, 3).mean((1, 3)).ravel()
    return np.concatenate([hog(pixels.mean(2), 9, (8, 8), (2, 2)), means])


def _told(crops: np.ndarray, here: np.ndarray, groups: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(crops) < FEWEST or len(np.unique(groups)) < 5:
        return UNKNOWN
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    method = "decision_function"
    told = cross_val_predict(model, crops, here, groups=groups, cv=GroupKFold(5), method=method)
    return float(roc_auc_score(here, told))
