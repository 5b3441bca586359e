"""Start-up: how long a command takes, against `import torch` alone.

    python benchmarks/startup.py [--rounds 9] [--output FILE]

Each command is a fresh process, in turns with the others; medians of wall time. The first round
fills the file cache and does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from provenance import provenance

from deepen.data.preprocess import Preprocessing
from deepen.models import create_model
from deepen.weights import Card, save_weights


def write_inputs(folder: Path) -> tuple[str, str]:
    """A weights file of ResNet-20 and a picture."""
    weights, picture = folder / "resnet20.safetensors", folder / "picture.png"
    plain = Preprocessing(
        channels=3, size_px=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    card = Card(
        architecture="resnet20",
        num_classes=10,
        in_channels=3,
        input_size=(32, 32),
        classes=tuple("abcdefghij"),
        preprocessing=plain,
    )
    torch.manual_seed(0)
    save_weights(weights, create_model("resnet20"), card)
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    return str(weights), str(picture)


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = [sys.executable]
        commands = {
            "import torch": [*python, "-c", "import torch"],
            "deepen --help": [*python, "-m", "deepen", "--help"],
            "deepen info resnet152": [*python, "-m", "deepen", "info", "resnet152"],
            "deepen predict": [*python, "-m", "deepen", "predict", *write_inputs(Path(folder))],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(arguments.rounds + 1):
            for name, command in commands.items():
                took = seconds(command)
                if number:
                    times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    figures = {
        **provenance(),
        "rounds": arguments.rounds,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "over_import_torch": {
            name: round(value / medians["import torch"], 2) for name, value in medians.items()
        },
    }
    for name, value in medians.items():
        print(
            f"{name:24s} {value:6.2f} s  {figures['over_import_torch'][name]:5.2f} x import torch"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
