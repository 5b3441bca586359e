"""The same boxes in every picture, whatever it shows: what a detector has to beat."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from deepen.baselines.sliding_window import objects
from deepen.data.sources import Split
from deepen.evaluation.boxes import Detections


class CommonestBoxes:
    """Of each class the means of clusters (k-means) of the training boxes, the largest first.

    Boxes are taken relative to their pictures; a score is how many boxes of a cluster there are
    for each picture.

    Args:
        num_classes: of the labels.
        most: boxes of a class.
        seed: of the clusters.
    """

    def __init__(self, num_classes: int, most: int = 30, seed: int = 0) -> None:
        self.num_classes, self.most, self.seed = num_classes, most, seed
        self.found = Detections(
            torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        )

    def fit(self, train: Split) -> CommonestBoxes:
        """Find the clusters; returns itself.

        Raises:
            InputError: the pictures have no boxes.
        """
        from sklearn.cluster import KMeans

        relative = defaultdict[int, list[np.ndarray]](list)
        for place, (boxes, labels) in enumerate(objects(train)):
            size = train.picture(place, 3).size
            for box, label in zip(boxes.numpy(), labels.tolist(), strict=True):
                relative[label].append(box / np.tile(size, 2))
        boxes, scores, labels = [], [], []
        for label, own in sorted(relative.items()):
            points = np.stack(own)
            count = min(self.most, len(np.unique(points, axis=0)))
            clusters: Any = KMeans(count, random_state=self.seed).fit(points)
            boxes.append(clusters.cluster_centers_)
            scores.append(np.bincount(clusters.labels_, minlength=count) / len(train))
            labels += [label] * count
        order = np.argsort(-np.concatenate(scores), kind="stable")
        self.found = Detections(
            torch.from_numpy(np.concatenate(boxes)[order]).float(),
            torch.from_numpy(np.concatenate(scores)[order]).float(),
            torch.tensor(labels)[order],
        )
        return self

    def detect(self, size: tuple[int, int]) -> Detections:
        """The boxes, in px of a picture of this width and height."""
        return self.found._replace(boxes=self.found.boxes * torch.tensor([*size, *size]))
