"""The truth of a split as a document of COCO's, for tools that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepen.data.annotated.outlines import runs_of
from deepen.data.decode import header_of
from deepen.data.split import Split
from deepen.errors import InputError


def to_coco(split: Split, classes: Sequence[str]) -> dict[str, Any]:
    """A split with boxes as `json.dump` and pycocotools take it.

    Pictures have the ids 1, 2, ... in the split's order and their keys as names; categories the
    places of classes + 1, so that 0 stays free; annotations count through all pictures. Boxes are
    [left, top, width, height] in px; masks, where there are some, are uncompressed runs, and the
    area is theirs, else the box's. Difficult boxes have `ignore`: 1, as converters of VOC write it;
    pycocotools goes by `iscrowd` alone.

    Args:
        split: whose targets have boxes and labels.
        classes: of the picture set.

    Raises:
        InputError: it has no boxes, or a picture's size cannot be read.
    """
    targets = split.targets
    if targets is None or any("boxes" not in target for target in targets):
        raise InputError(f"{split.name}: has no boxes")
    images, annotations = [], []
    for place, target in enumerate(targets):
        width, height = _size(split, place)
        name = split.key(place)
        images.append({"id": place + 1, "file_name": name, "width": width, "height": height})
        boxes = np.asarray(target["boxes"], np.float64).reshape(-1, 4)
        labels = target.get("labels", [split.labels[place]] * len(boxes))  # localization
        difficult, crowd = (target.get(key, [False] * len(boxes)) for key in ("difficult", "crowd"))
        masks = target.get("masks")
        for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": place + 1,
                "category_id": int(labels[i]) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(crowd[i]),
                "ignore": int(difficult[i]),
            }
            if masks is not None:
                annotation["segmentation"] = runs_of(masks[i])
                annotation["area"] = float(np.count_nonzero(masks[i]))
            annotations.append(annotation)
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _size(split: Split, place: int) -> tuple[int, int]:
    """Width and height of the upright picture in full."""
    if split.images is not None:
        return split.images.shape[2], split.images.shape[1]
    return header_of(split.encoded(place), name=split.key(place)).size
