"""Single pictures in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from deepen.data.decode import EXTENSIONS, PictureError, open_picture
from deepen.data.sources import natural_key
from deepen.errors import InputError
from deepen.weights import load_weights


class Prediction(NamedTuple):
    """What the network says of one picture.

    Attributes:
        path: of the picture, as it was given or found.
        top: (class, probability) of the most probable classes, best first.
    """

    path: str
    top: tuple[tuple[str, float], ...]


class Predictor:
    """A network with its weights, its preprocessing and its class names.

    Args:
        weights: a file of `deepen train`'s.
        device: where it runs.
        model: needed for a user's own `package.module:factory`.

    Raises:
        InputError: the weights cannot be loaded.
    """

    def __init__(
        self, weights: str | Path, *, device: str = "cpu", model: str | None = None
    ) -> None:
        loaded = load_weights(weights, model=model)
        self.card, self.device = loaded.card, torch.device(device)
        self.model = loaded.model.to(self.device)
        preprocessing = self.card.preprocessing
        width = preprocessing.size_px[1]
        self._normalize = preprocessing.normalization(width, self.device, loaded.mean_image)

    def __call__(
        self, paths: Iterable[str | Path], *, top_k: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction | PictureError]:
        """Predict pictures in batches, in order; a bad one comes back as its error, in place."""
        batch: list[str | Path] = []
        for path in paths:
            batch.append(path)
            if len(batch) == batch_size:
                yield from self._predict(batch, top_k)
                batch = []
        if batch:
            yield from self._predict(batch, top_k)

    def _predict(self, paths: list[str | Path], top_k: int) -> Iterator[Prediction | PictureError]:
        preprocessing = self.card.preprocessing
        pixels: dict[int, np.ndarray] = {}
        errors: dict[int, PictureError] = {}
        for place, path in enumerate(paths):
            try:
                channels, white = preprocessing.channels, preprocessing.white
                picture = open_picture(path, channels=channels, white=white)
                pixels[place] = preprocessing.fit(picture)
            except PictureError as error:
                errors[place] = error
        tops: dict[int, tuple[tuple[str, float], ...]] = {}
        if pixels:
            images = torch.from_numpy(np.stack(list(pixels.values()))).to(self.device)
            with torch.inference_mode():
                logits = self.model(self._normalize(images)).cpu().double()
            shares = (logits / self.card.temperature).softmax(1)
            best = shares.topk(min(top_k, shares.shape[1]))
            for place, values, indices in zip(
                pixels, best.values.tolist(), best.indices.tolist(), strict=True
            ):
                names = (self.card.classes[i] for i in indices)
                tops[place] = tuple(zip(names, values, strict=True))
        for place, path in enumerate(paths):
            yield errors[place] if place in errors else Prediction(str(path), tops[place])


def find_pictures(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Files as they are given; of folders every picture below, in natural order, found as it goes.

    Raises:
        InputError: a path that does not exist, or a folder without pictures.
    """
    for path in map(Path, paths):
        if path.is_dir():
            found = False
            for picture in _walk(path):
                found = True
                yield picture
            if not found:
                raise InputError(f"{path}: no pictures in this folder")
        else:
            yield path


def _walk(folder: Path) -> Iterator[Path]:
    """Below a folder, without hidden entries; a link to a folder is not followed."""
    for entry in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.suffix.lower() in EXTENSIONS:
            yield entry
