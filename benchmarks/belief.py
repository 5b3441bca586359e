"""Three ResNet-20s of a short schedule on CIFAR-10: crops, an ensemble, corruptions, their cost.

    python benchmarks/belief.py DATA_DIR [--runs FOLDER] [--epochs 5] [--output FILE]
    python benchmarks/belief.py DATA_DIR --kept [--output FILE]

The networks differ by their seed alone. All figures are of the 10,000 test pictures; which members
an ensemble keeps is chosen on the 5,000 validation pictures. Ten crops are of the picture with 4 px
of zeros round it, as in training. The cost of ten crops is the median of interleaved rounds on
1,000 pictures. Runs in FOLDER that are there already are used as they are.

`--kept` times one thing alone: 20 ResNet-20s as an ensemble on the 10,000 test pictures, again from
kept logits. Nothing is trained for it: they are the network of the zoo with noise of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from deepen import api, assessment
from deepen.evaluation.intervals import over_seeds
from deepen.evaluation.metrics import Scores, in_top
from deepen.evaluation.paired import Paired, compare
from deepen.evaluation.views import Looks, look
from deepen.training.request import Assessing
from deepen.training.scored import open_scored
from deepen.weights import load_weights, save_weights

SEEDS, TIMED_PICTURES, ROUNDS, CORRUPTED, MEMBERS = 3, 1000, 5, 1000, 20


def trained(data_dir: str, runs: Path, epochs: int) -> list[Path]:
    """The weights of each seed."""
    files = [runs / f"run-{seed}" / "best.safetensors" for seed in range(SEEDS)]
    for seed, file in enumerate(files):
        if not (file.parent / "scores.json").exists():
            api.train(
                "cifar10",
                data_dir=data_dir,
                model="resnet20",
                recipe="resnet-cifar",
                changes={"length.epochs": epochs, "seed": seed},
                output=file.parent,
            )
    return files


def told(scores: Scores) -> dict[str, Any]:
    _, low, high, n = scores.interval
    return {
        "accuracy_percent": round(100 * scores.top1, 2),
        "interval_percent": [round(100 * low, 2), round(100 * high, 2)],
        "n": n,
        "loss": round(scores.loss, 4),
        "calibration_error_percent": round(100 * scores.calibration_error, 2),
        "protocol": scores.protocol,
    }


def pair_told(pair: Paired) -> dict[str, Any]:
    points = {"difference": pair.difference, "low": pair.low, "high": pair.high}
    return {
        **{name: round(100 * value, 2) for name, value in points.items()},
        "right_alone": [pair.only_first, pair.only_second],
        "p": float(f"{pair.p:.2g}"),
        "shown": pair.shown,
        "smallest_that_would_show": round(100 * pair.smallest, 2),
    }


def cost(asked: Assessing) -> dict[str, Any]:
    """Seconds of one and of ten crops, interleaved."""
    loaded = load_weights(asked.weights)
    scored = open_scored(asked, loaded.card)
    split = scored.source.splits[scored.splits[0]].take(range(TIMED_PICTURES))
    seconds: dict[str, list[float]] = {"one": [], "ten": []}
    for _ in range(ROUNDS):
        for name, looks in (("one", Looks()), ("ten", Looks("10", border=4))):
            began = time.perf_counter()
            look(
                loaded.model,
                split,
                loaded.card.preprocessing,
                looks,
                batch_size=asked.batch_size,
                mean_image=loaded.mean_image,
            )
            seconds[name].append(time.perf_counter() - began)
    one, ten = (statistics.median(seconds[name]) for name in ("one", "ten"))
    return {
        "pictures": TIMED_PICTURES,
        "one_crop_s": round(one, 3),
        "ten_crops_s": round(ten, 3),
        "ratio": round(ten / one, 2),
    }


def kept(data_dir: str) -> dict[str, Any]:
    """Seconds of an ensemble of many, where the logits are kept already."""
    source = load_weights("resnet20:cifar10")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEEPEN_CACHE_DIR"] = folder
        files = [Path(folder) / f"{seed}.safetensors" for seed in range(MEMBERS)]
        for seed, file in enumerate(files):
            network = load_weights("resnet20:cifar10").model
            noise = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for values in network.parameters():
                    by = 0.1 * values.std(correction=0)
                    values += by * torch.randn(values.shape, generator=noise)
            save_weights(file, network, source.card, source.mean_image)
        asked = Assessing(files[0], "cifar10", data_dir=data_dir)
        seconds: dict[str, list[float]] = {"wall": [], "processor": [], "opening": []}
        for again in range(1 + ROUNDS):
            wall, processor = time.perf_counter(), time.process_time()
            found = assessment.compare_weights(files, asked, ensemble=True)
            if again:
                seconds["wall"].append(time.perf_counter() - wall)
                seconds["processor"].append(time.process_time() - processor)
            opening = time.process_time()
            open_scored(asked, source.card)
            seconds["opening"].append(time.process_time() - opening)
    return {
        "what": f"{MEMBERS} ResNet-20s as an ensemble on CIFAR-10, again, from kept logits",
        **provenance(),
        "pictures": found.scores[0].num_samples,
        "pairs": len(found.pairs),
        **{f"{name}_s": round(statistics.median(each), 2) for name, each in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir")
    parser.add_argument("--runs", type=Path, default=Path("runs/belief"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = kept(options.data_dir) if options.kept else measured(options)
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All but `--kept`."""
    files = trained(options.data_dir, options.runs, options.epochs)
    words = {"data": "cifar10", "data_dir": options.data_dir}
    plain = Assessing(files[0], **words)
    ten = Assessing(files[0], **words, crops="10", border=4)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DEEPEN_CACHE_DIR"] = cache  # nothing of before
        timed = cost(plain)
        by_one = assessment.compare_weights(files, plain, ensemble=True)
        by_ten = assessment.compare_weights(files, ten, ensemble=True)
        began = time.perf_counter()
        assessment.compare_weights(files, ten, ensemble=True)
        again = time.perf_counter() - began
        seen = assessment.see(plain), assessment.see(ten)
        crops = compare(*(in_top(1, each.logits, each.labels) for each in seen))
        together = by_ten.ensemble
        assert together is not None
        ensemble = compare(
            in_top(1, seen[1].logits, seen[1].labels), in_top(1, together.logits, seen[1].labels)
        )
        began = time.perf_counter()
        robust = assessment.corrupted(plain, most=CORRUPTED)
        corrupted_s = time.perf_counter() - began
    spread = over_seeds([scores.top1 for scores in by_one.scores], by_one.scores[0].num_samples)
    return {
        "what": f"ResNet-20 on CIFAR-10, {options.epochs} epochs, seeds 0, 1, 2",
        **provenance(),
        "one_crop": [told(scores) for scores in by_one.scores],
        "ten_crops": [told(scores) for scores in by_ten.scores],
        "over_seeds": {
            "mean_percent": round(100 * spread.mean, 2),
            "deviation": round(100 * (spread.spread or 0), 2),
            "deviation_by_pictures_alone": round(100 * spread.by_chance, 2),
        },
        "seeds_paired": {f"{j} against {i}": pair_told(p) for (i, j), p in by_one.pairs.items()},
        "ten_against_one": pair_told(crops),
        "ensemble_of_one_crop": told(by_one.together) if by_one.together else None,
        "ensemble_of_ten_crops": told(by_ten.together) if by_ten.together else None,
        "ensemble_against_member_0": pair_told(ensemble),
        "chosen_on_validation": by_ten.chosen,
        "cost_of_ten_crops": timed,
        "again_from_kept_logits_s": round(again, 2),
        "corruptions": {
            "pictures": CORRUPTED,
            "seconds": round(corrupted_s, 1),
            "mean_error_percent": round(100 * robust.mean_error, 2),
            "by_kind_percent": {
                kind: [round(100 * error, 1) for error in errors]
                for kind, errors in robust.errors.items()
            },
        },
    }


if __name__ == "__main__":
    main()
