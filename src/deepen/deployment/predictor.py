"""Single pictures in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepen.data.decode import PictureError
from deepen.deployment.pictures import Source, in_batches, open_source_picture
from deepen.display import Part, Table, displayed
from deepen.errors import InputError
from deepen.weights import finds_things, load_weights


@displayed
class Prediction(NamedTuple):
    """What the network says of one picture.

    Attributes:
        path: of the picture, as it was given or found; "picture 2" for the second of those that
            have none.
        top: (class, probability) of the most probable classes, best first; where a picture may have
            several, of those that it has by their thresholds, perhaps none.
    """

    path: str
    top: tuple[tuple[str, float], ...]

    def display(self) -> list[Part]:
        """What it shows of itself."""
        rows = [(name, f"{share:.1%}") for name, share in self.top]
        return [Table((self.path, "probability"), rows)]


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
        if finds_things(self.card):
            raise InputError(f"{weights}: finds things in pictures: deepen detect predict")
        self._weights = weights
        self.model = loaded.model.to(self.device)
        preprocessing = self.card.preprocessing
        width = preprocessing.size_px[1]
        self._normalize = preprocessing.normalization(width, self.device, loaded.mean_image)

    def __call__(
        self, pictures: Iterable[Source], *, top_k: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction | PictureError]:
        """Predict pictures in batches, in order; a bad one comes back as its error, in place.

        Raises:
            InputError: what the network makes of a picture are no numbers.
        """
        for batch in in_batches(pictures, batch_size):
            yield from self._predict(batch, top_k)

    def _predict(
        self, pictures: list[tuple[str, Source]], top_k: int
    ) -> Iterator[Prediction | PictureError]:
        preprocessing = self.card.preprocessing
        pixels: dict[int, np.ndarray] = {}
        errors: dict[int, PictureError] = {}
        for place, (name, source) in enumerate(pictures):
            try:
                channels, white = preprocessing.channels, preprocessing.white
                picture = open_source_picture(source, name, channels, white)
                pixels[place] = preprocessing.fit(picture)
            except PictureError as error:
                errors[place] = error
        tops: dict[int, tuple[tuple[str, float], ...]] = {}
        if pixels:
            images = torch.from_numpy(np.stack(list(pixels.values()))).to(self.device)
            with torch.inference_mode():
                logits = self.model(self._normalize(images)).cpu().double()
            shares = self._shares(logits)
            # Where a picture may have several classes, all that are above their thresholds count.
            least = torch.tensor(self.card.thresholds or (0.0,)).double()
            several = len(self.card.thresholds)
            best = shares.topk(several or min(top_k, shares.shape[1]))
            for place, values, indices in zip(
                pixels, best.values.tolist(), best.indices.tolist(), strict=True
            ):
                tops[place] = tuple(
                    (self.card.classes[i], value)
                    for i, value in zip(indices, values, strict=True)
                    if not several or value >= least[i]
                )
        for place, (name, _) in enumerate(pictures):
            yield errors[place] if place in errors else Prediction(name, tops[place])

    def _shares(self, logits: Tensor) -> Tensor:
        """Probabilities (B, num_classes) of logits."""
        classes = len(self.card.classes)
        if logits.ndim != 2 or logits.shape[1] != classes:
            shape = tuple(logits.shape[1:])
            raise InputError(f"{self._weights}: gives {shape} numbers for {classes} classes")
        scaled = logits / self.card.temperature
        shares = scaled.sigmoid() if self.card.thresholds else scaled.softmax(1)
        if not torch.isfinite(shares).all():
            raise InputError(f"{self._weights}: damaged: it makes NaN or infinity of a picture")
        return shares
