"""`deepen detect train` on BCCD's blood cells as it comes, three seeds, beside the commonest boxes.

    python benchmarks/blood_cells.py BCCD --exclude FILE [--runs FOLDER] [--seeds 3] [--output FILE]

BCCD (public repository Shenggan/BCCD_Dataset, MIT) has 364 pictures of 640x480 px; by its ImageSets
205 are trained on, 87 choose the epoch and 72 are for the figures. FILE is `deepen doctor BCCD
--quarantine FILE`'s: two boxes without an area. The bar is what the same boxes in every picture
reach (`deepen.baselines.commonest`). Runs in FOLDER that are finished are used as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from provenance import provenance

from deepen import detect
from deepen.baselines.commonest import CommonestBoxes
from deepen.data.lists import read_list
from deepen.data.sources import open_source
from deepen.evaluation.detection import score_detections

EPOCHS = 8
FIGURES = ("map50", "map07", "coco_ap", "coco_ap50", "coco_ap75", "coco_ar100")


def trained(data: str, exclude: Path, run: Path, seed: int) -> dict[str, Any]:
    """The figures of a seed on the test pictures."""
    if not (run / "scores.json").is_file():
        changes = {"length.epochs": EPOCHS, "seed": seed}
        words = {"exclude": read_list(exclude), "look": False, "resume": "auto"}
        detect.train(data, output=run, changes=changes, **words)
    document = json.loads((run / "scores.json").read_text())
    assert document["split"] == "test"
    scores = document["scores"]
    recipe = (run / "recipe.yaml").read_text()
    assert f"seed: {seed}\n" in recipe
    return {
        "seed": seed,
        **{name: round(scores["figures"][name], 4) for name in FIGURES},
        "map50_interval": [round(end, 4) for end in scores["map50_interval"]],
        "classes": {each["name"]: round(each["ap"], 4) for each in scores["per_class"]},
        "protocol": scores["protocol"],
        "model": json.loads((run / "data.json").read_text())["model"],
    }


def commonest(data: str, exclude: Path, seed: int) -> dict[str, float]:
    source = open_source(data, exclude=read_list(exclude))
    bar = CommonestBoxes(len(source.classes), seed=seed).fit(source.splits["train"])
    test = source.splits["test"]
    sizes = [test.picture(place, 3).size for place in range(len(test))]
    found = [bar.detect(size) for size in sizes]
    assert test.targets is not None
    scores = score_detections(found, test.targets, source.classes, sizes, resamples=0)
    return {name: round(scores.figures[name] or 0.0, 4) for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--exclude", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "blood-cells")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    runs = [
        trained(asked.data, asked.exclude, asked.runs / f"s{seed}", seed)
        for seed in range(asked.seeds)
    ]
    bars = [commonest(asked.data, asked.exclude, seed) for seed in range(asked.seeds)]
    mean = {name: statistics.mean(run[name] for run in runs) for name in FIGURES}
    spread = {name: statistics.stdev(run[name] for run in runs) for name in FIGURES}
    for name in FIGURES:
        bar = statistics.mean(each[name] for each in bars)
        print(f"{name:12} {mean[name]:.4f} ± {spread[name]:.4f}   commonest boxes {bar:.4f}")
    if asked.output:
        result = {
            "provenance": provenance("faster-coco-eval"),
            "command": f"deepen detect train BCCD --exclude FILE --epochs {EPOCHS} --seed S",
            "mean": {name: round(value, 4) for name, value in mean.items()},
            "deviation": {name: round(value, 4) for name, value in spread.items()},
            "runs": runs,
            "commonest_boxes": bars,
        }
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
