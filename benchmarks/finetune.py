"""Fine-tuning from CIFAR-10 against training from scratch, on the photographs of hymenoptera.

    python benchmarks/finetune.py HYMENOPTERA [--seeds 3] [--output FILE]

ResNet-20 at 128 px, 10 epochs each. The weights to start from are the zoo's, trained on CIFAR-10 at
32 px; the stem is as it was, the pictures are larger. From scratch twice: by the very recipe of the
fine-tuning, so that the weights alone differ, and by the recipe that `deepen train` chooses. Scored
after the last epoch, on the validation pictures: there are no others. The size was picked by how
frozen features did on them; rates and all else are the recipes' own.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from provenance import provenance

from deepen import api

SIZE_PX, EPOCHS = 128, 10
COMMON = {"length.epochs": EPOCHS, "input.size_px": SIZE_PX}
ARMS: dict[str, dict[str, Any]] = {
    "fine-tuned": {"weights": "resnet20:cifar10"},
    "from scratch, same recipe": {"model": "resnet20", "recipe": "finetune"},
    "from scratch, its own recipe": {"model": "resnet20"},
}
COMMANDS = {
    name: f"deepen train HYMENOPTERA {' '.join(f'--{k} {v}' for k, v in arm.items())} "
    f"--size {SIZE_PX} --epochs {EPOCHS}"
    for name, arm in ARMS.items()
}


def last_top1(data: str, arm: dict[str, Any], seed: int) -> float:
    """Share of the validation pictures that are right after the last epoch."""
    with tempfile.TemporaryDirectory() as place:
        changes = {**COMMON, "seed": seed}
        run = api.train(data, **arm, changes=changes, output=Path(place) / "r", workers=0).run
        with open(run / "metrics.csv") as file:
            return float([*csv.DictReader(file)][-1]["eval_top1"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    shares: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(options.seeds):
        for name, arm in ARMS.items():
            shares[name].append(last_top1(options.data, arm, seed))
            print(seed, name, round(shares[name][-1], 4), flush=True)
    results = {
        "what": f"ResNet-20 on hymenoptera, {EPOCHS} epochs, at {SIZE_PX} px",
        "protocol": "153 validation pictures, one crop, after the last epoch",
        "pilot": "the size was picked by how frozen features did on these pictures",
        "start": "resnet20:cifar10 of the zoo: CIFAR-10 at 32 px, 82.18% top-1; stem unchanged",
        **provenance(),
        "arms": {
            name: {
                "command": COMMANDS[name] + " --seed SEED",
                "top1_percent": [round(100 * share, 2) for share in found],
                "mean": round(100 * statistics.mean(found), 2),
                "deviation": round(100 * statistics.stdev(found), 2),
            }
            for name, found in shares.items()
        },
    }
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
