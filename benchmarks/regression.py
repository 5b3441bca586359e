"""The loop's speed against that of another checkout of deepen, in turns in one run.

    python benchmarks/regression.py OTHER_CHECKOUT [--rounds 7] [--output FILE]

Each checkout has a process of its own, which trains by `deepen.train` when it is told to; the
processes take turns, so that both see the same machine. What is compared is the time of the steps
themselves, of metrics.csv (without scoring and writing), in milliseconds a step of 64 pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from provenance import provenance

STEPS = {"lenet5_relu": 220, "resnet20": 44}
"""Of 64 pictures of 32 px, by network; the first pass warms up."""


def turn(model: str) -> float:
    """Train and hand back the median pass's milliseconds a step."""
    import deepen

    changes = {
        "length.steps": STEPS[model],
        "batch_size": 64,
        "input.size_px": 32,
        "input.resize": "squash",
        "validation": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "run")
        deepen.train("digits", model=model, recipe="quick", changes=changes, output=output)
        with open(output / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
    steps = [0, *(int(row["step"]) for row in rows)]
    a_step = [
        1e3 * float(row["seconds"]) / (after - before)
        for row, before, after in zip(rows, steps[:-1], steps[1:], strict=True)
    ]
    return statistics.median(a_step[1:])


def worker() -> None:
    for line in sys.stdin:
        print(turn(line.strip()), flush=True)


class Checkout:
    """A process that trains with the code of a checkout."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            env={**os.environ, "PYTHONPATH": str(folder / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, model: str) -> float:
        """Milliseconds a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(model, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return
    here, other = Checkout(Path(__file__).parents[1]), Checkout(arguments.other)
    figures: dict[str, object] = {**provenance(), "rounds": arguments.rounds}
    commit = ["git", "-C", str(arguments.other), "rev-parse", "--short", "HEAD"]
    figures["other"] = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    for model in STEPS:
        times: list[tuple[float, float]] = []
        for number in range(arguments.rounds + 1):  # the first round warms up
            first, second = (here, other) if number % 2 else (other, here)
            taken = {first: first.turn(model)}
            taken[second] = second.turn(model)
            times.append((taken[here], taken[other]))
        ours, theirs = zip(*times[1:], strict=True)
        ratio = statistics.median(b / a for a, b in times[1:])
        figures[model] = {
            "ms_a_step": round(statistics.median(ours), 3),
            "other_ms_a_step": round(statistics.median(theirs), 3),
            "ratio_of_speeds": round(ratio, 3),
        }
        print(model, figures[model], flush=True)
    for checkout in (here, other):
        checkout.process.kill()
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
