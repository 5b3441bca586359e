"""Fine-tuning from CIFAR-10 against training from scratch, on the photographs of hymenoptera.

    python benchmarks/finetune.py HYMENOPTERA [--seeds 3] [--output FILE]

ResNet-20 at 96 px, 15 epochs each, recipes as `deepen train` chooses them. The weights to start
from are the zoo's, trained on CIFAR-10 at 32 px; the stem is as it was, the pictures are larger.
From scratch twice: with the recipe's rate, and with 0.02. Scored after the last epoch, on the
validation pictures: there are no others. Size and rates of both sides were picked in a pilot of one
seed each on these very pictures, so all figures lean to the good side.
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

EPOCHS = 15
COMMON = {"length.epochs": EPOCHS, "input.size_px": 96}
ARMS: dict[str, dict[str, Any]] = {
    "fine-tuned": {"weights": "resnet20:cifar10", "changes": COMMON},
    "from scratch": {"model": "resnet20", "changes": COMMON},
    "from scratch, lr 0.02": {"model": "resnet20", "changes": {**COMMON, "optimizer.lr": 0.02}},
}
COMMANDS = {
    "fine-tuned": "deepen train HYMENOPTERA --weights resnet20:cifar10 --size 96 --epochs 15",
    "from scratch": "deepen train HYMENOPTERA --model resnet20 --size 96 --epochs 15",
    "from scratch, lr 0.02": "the same with --lr 0.02",
}


def last_top1(data: str, arm: dict[str, Any], seed: int) -> float:
    """Share of the validation pictures that are right after the last epoch."""
    with tempfile.TemporaryDirectory() as place:
        changes = {**arm["changes"], "seed": seed}
        run = api.train(
            data, **{**arm, "changes": changes}, output=Path(place) / "r", workers=0
        ).run
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
        "what": f"ResNet-20 on hymenoptera, {EPOCHS} epochs, at 96 px",
        "protocol": "153 validation pictures, one crop, after the last epoch",
        "pilot": "size and rates of both sides were picked on these pictures, one seed each",
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
