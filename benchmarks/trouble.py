"""Twelve faults planted in sound sets of boxes: are they named, and do sound sets raise no alarm?

    python benchmarks/trouble.py NAME=DATA... [--seeds 3] [--px 320] [--output FILE]

Each DATA is a set of boxes that `deepen detect train` takes; made digits on photographs are one
more. A seed decides which pictures are looked at and what the faults draw. What is timed is the
whole of it: statistics, and a short training on eight pictures where these find nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from deepen.data.sources import open_source
from deepen.data.split import PictureSet
from deepen.detection.choice import choose
from deepen.detection.made import Drawing, made_pictures
from deepen.detection.trouble import look
from deepen.training.plan import settle
from deepen.training.request import Here, Request

Boxes, Size = np.ndarray, tuple[int, int]
Change = Callable[[Boxes, Size], Boxes]


def sides(b: Boxes) -> Boxes:
    return b[:, 2:] - b[:, :2]


OF_BOXES: dict[str, tuple[Change, str]] = {
    "x and y swapped": (lambda b, s: b[:, [1, 0, 3, 2]], "x and y are swapped"),
    "x y width height for corners": (
        lambda b, s: np.concatenate([b[:, :2], sides(b)], 1),
        "x, y, width, height",
    ),
    "centre and size for corners": (
        lambda b, s: np.concatenate([(b[:, :2] + b[:, 2:]) / 2, sides(b)], 1),
        "centre, width, height",
    ),
    "0 to 1 for px": (lambda b, s: b / np.tile(s, 2), "shares of the picture"),
    "size of another picture": (lambda b, s: b / np.tile(s, 2) * 300, "another size"),
    "mirrored": (
        lambda b, s: np.stack([s[0] - b[:, 2], b[:, 1], s[0] - b[:, 0], b[:, 3]], 1),
        "left and right",
    ),
}
"""What is done to the boxes of a picture of a size, and what must be said."""
ALL = (
    *OF_BOXES,
    "boxes of the next picture",
    "labels from 1",
    "labels drawn anew",
    "anchors ten times off",
    "rate 100 times too high",
    "score threshold 0.99",
)


def planted(source: PictureSet, fault: str, seed: int) -> PictureSet:
    train, rng = source.splits["train"], np.random.default_rng(seed)
    assert train.targets is not None
    sizes = [train.picture(i, 3).size for i in range(len(train))]
    boxes = [np.asarray(t["boxes"], np.float32).reshape(-1, 4) for t in train.targets]
    labels = [np.asarray(t["labels"]) for t in train.targets]
    if fault in OF_BOXES:
        change = OF_BOXES[fault][0]
        boxes = [change(b, size) for b, size in zip(boxes, sizes, strict=True)]
    if fault == "boxes of the next picture":
        shares = [b / np.tile(size, 2) for b, size in zip(boxes, sizes, strict=True)]
        boxes = [
            b * np.tile(size, 2) for b, size in zip(shares[1:] + shares[:1], sizes, strict=True)
        ]
        labels = labels[1:] + labels[:1]
    if fault == "labels from 1":
        labels = [y + 1 for y in labels]
    if fault == "labels drawn anew":
        labels = [rng.integers(0, len(source.classes), len(y)) for y in labels]
    targets = tuple(
        {"boxes": b.astype(np.float32), "labels": y} for b, y in zip(boxes, labels, strict=True)
    )
    return replace(source, splits={"train": replace(train, targets=targets)})


def expected(fault: str) -> str:
    if fault in OF_BOXES:
        return OF_BOXES[fault][1]
    return {
        "boxes of the next picture": "of other pictures",
        "labels from 1": "off by one",
        "labels drawn anew": "labels have nothing to do",
        "anchors ten times off": "anchors do not fit",
        "rate 100 times too high": "rate is too high",
        "score threshold 0.99": "thresholds",
    }[fault]


def said(source: PictureSet, fault: str, seed: int, px: int) -> dict[str, Any]:
    """What `look` says of a fault ("": none), and how long it took."""
    source = planted(source, "", seed)  # boxes alone
    choice = choose(None, source, None, None, {"seed": seed, "validation": 0})
    model, changes = choice.model, {"seed": seed, "validation": 0}
    size = choice.recipe.input.size_px
    assert isinstance(size, tuple)
    changes["input.size_px"] = [round(side * px / max(size)) for side in size]
    if fault == "anchors ten times off":
        head, _, rest = model.partition("anchor_px=")
        anchors, slash, more = rest.partition("/")
        far = ",".join(str(10 * float(side)) for side in anchors.split(","))
        model = f"{head}anchor_px={far}{slash}{more}"
    if fault == "rate 100 times too high":
        changes["optimizer.lr"] = 100 * choice.recipe.optimizer.lr
    if fault == "score threshold 0.99":
        model += "/least_score=0.99"
    request = Request(planted(source, fault, seed), model=model, recipe="detect", changes=changes)
    plan = settle(request, Here())
    began = time.perf_counter()
    found = look(plan, Here())
    return {
        "said": found.troubles[0].fault if found.troubles else "",
        "seconds": round(time.perf_counter() - began, 1),
        "notes": found.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", metavar="NAME=DATA")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--px", type=int, default=320)
    parser.add_argument("--only", nargs="*", default=["", *ALL], help="faults; '' is a sound set")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    sets = {"made digits": made_pictures(Drawing("detection", 128), train=200, val=0, test=0)}
    for word in asked.data:
        name, _, data = word.partition("=")
        sets[name] = open_source(data, exclude=asked.exclude)
    rows = []
    for name, source in sets.items():
        for fault in asked.only:
            if fault == "labels drawn anew" and len(source.classes) == 1:
                continue
            for seed in range(asked.seeds):
                row = {
                    "set": name,
                    "fault": fault,
                    "seed": seed,
                    **said(source, fault, seed, asked.px),
                }
                row["right"] = expected(fault) in row["said"] if fault else not row["said"]
                rows.append(row)
                print(json.dumps(row), flush=True)
    wrong = [row for row in rows if not row["right"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} right")
    if asked.output:
        result = {"provenance": provenance("scikit-learn", "scikit-image"), "rows": rows}
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
