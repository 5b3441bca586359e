"""Speed of loading photographs for training: deepen's loader against torchvision's.

    python benchmarks/loading.py PHOTOS [--rounds 5] [--output FILE]

PHOTOS is a folder of class folders of JPEG files. Both loaders go through it in batches of 32 with
2 workers: a random window of area 8% to 100% resized to 224x224, a flip half of the time, float32
normalized by channel. torchvision's is ImageFolder, RandomResizedCrop, RandomHorizontalFlip,
ToTensor, Normalize and torch's DataLoader with persistent workers. They take turns, an epoch a
turn, within one process; the first turns start the workers (and fill the cache) and do not count.

Measured are the photos as they are, and the same enlarged to 2,000 px (Pillow, bicubic, JPEG of
quality 90), each also with the cache of decoded pictures. The difference of pixels is the mean over
all photos of |ours - torchvision's| on the 0..255 scale, of the same windows.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms.v2 import functional as v2

from deepen.data.augment import Augmentation, augment_pixels, reduction, resized_box
from deepen.data.decode import decoder, open_pixels
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import uniforms
from deepen.data.sources import Split

BATCH, WORKERS, PX = 32, 2, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CACHE_BYTES = 2 * 10**9
PREPROCESSING = Preprocessing(
    channels=3, size_px=(PX, PX), resize="shorter", resize_px=256, mean=MEAN, std=STD
)
AUGMENTATION = Augmentation(crop="random_resized", flip=True)

Turn = Callable[[], float]


def enlarge(photos: Path, folder: Path, longer_px: int = 2000) -> None:
    for path in sorted(photos.glob("*/*.jpg")):
        image = Image.open(path).convert("RGB")
        scale = longer_px / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        target = folder / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        image.resize(size, Image.Resampling.BICUBIC).save(target, quality=90)


def timed(batches: Iterable[object], count: int) -> float:
    """Photos a second."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - began)


def torchvisions(folder: Path) -> Turn:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(PX),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = datasets.ImageFolder(str(folder), transform)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return lambda: timed(loader, len(data))


def deepens(split: Split, cache_bytes: int = 0) -> Turn:
    batches = Batches(
        split,
        PREPROCESSING,
        batch_size=BATCH,
        augmentation=AUGMENTATION,
        shuffle=True,
        workers=WORKERS,
        cache_bytes=cache_bytes,
    )
    epochs = itertools.count()
    return lambda: timed(batches.epoch(next(epochs)), len(split))


def files_of(folder: Path) -> Split:
    files = tuple(sorted(folder.glob("*/*.jpg")))
    keys = tuple(str(path.relative_to(folder)) for path in files)
    return Split("train", np.zeros(len(files), np.int64), keys, files=files)


def difference(split: Split) -> float:
    """Mean over the photos of the mean absolute difference of a window, on the 0..255 scale."""
    assert split.files is not None
    plain = AUGMENTATION.model_copy(update={"flip": False})
    draws = uniforms(0, 0, torch.arange(len(split)), plain.draws)
    found = []
    for path, u in zip(split.files, draws, strict=True):
        pixels = open_pixels(
            path, reduction=lambda size, u=u: reduction(plain, size, PREPROCESSING, u)
        )
        ours = augment_pixels(plain, pixels, PREPROCESSING, u)
        full = Image.open(path).convert("RGB")
        left, top, right, bottom = resized_box(plain, full.size, u.tolist())
        box = (top, left, bottom - top, right - left)
        theirs = np.asarray(v2.resized_crop(full, *box, [PX, PX])).astype(int)  # pyright: ignore
        found.append(np.abs(ours.numpy() - theirs).mean())
    return float(np.mean(found))


def compare(folder: Path, rounds: int) -> dict[str, object]:
    split = files_of(folder)
    turns = {
        "torchvision": torchvisions(folder),
        "deepen": deepens(split),
        "deepen, cached": deepens(split, CACHE_BYTES),
    }
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 2):  # in the second round the cache may still gain a form
        for name, turn in turns.items():
            speed = turn()
            if number > 1:
                speeds[name].append(speed)

    def ratio(name: str) -> float:
        pairs = zip(speeds[name], speeds["torchvision"], strict=True)
        return round(statistics.median(ours / theirs for ours, theirs in pairs), 2)

    return {
        "photos": len(split),
        "median_size_px": [int(side) for side in np.median(sizes(split), axis=0)],
        "images_per_s": {name: round(statistics.median(v), 1) for name, v in speeds.items()},
        "deepen_over_torchvision": ratio("deepen"),
        "cached_over_torchvision": ratio("deepen, cached"),
        "mean_pixel_difference_of_255": round(difference(split), 4),
    }


def sizes(split: Split) -> list[tuple[int, int]]:
    assert split.files is not None
    return [Image.open(path).size for path in split.files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of class folders of JPEG files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.platform(),
        "cpu": next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "workers": WORKERS,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "decoder": decoder(),
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as large:
        enlarge(arguments.photos, Path(large))
        for name, folder in {
            "photos as they are": arguments.photos,
            "photos enlarged to 2,000 px": Path(large),
        }.items():
            figures[name] = compare(folder, arguments.rounds)
            print(f"{name}: {figures[name]}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
