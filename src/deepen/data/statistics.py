"""Mean and deviation of training pictures, which normalization takes away."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from deepen.data.decode import PictureError
from deepen.data.preprocess import Preprocessing
from deepen.data.split import Split
from deepen.errors import InputError

MAX_FILES = 2000
"""Of a split in files, at most this many, evenly spaced, are decoded."""


def per_channel_stats(
    split: Split, preprocessing: Preprocessing
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, on the 0..1 scale.

    Of the pictures as `preprocessing` fits them, border included; of files at most
    `MAX_FILES`. A channel without any variation counts as of standard deviation 1.

    Raises:
        InputError: not one picture could be decoded.
    """
    mean, square = (moment.mean((0, 1)) for moment in _moments(split, preprocessing))
    std = (square - mean**2).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())


def per_pixel_mean(split: Split, preprocessing: Preprocessing) -> Tensor:
    """The mean picture, float32 (H, W, C) on the 0..1 scale; else as `per_channel_stats`."""
    return _moments(split, preprocessing)[0].float()


def _moments(split: Split, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Mean of x and of x^2 at each pixel, float64 (H, W, C), x in 0..1."""
    count = 0
    sums = torch.zeros(2, *preprocessing.size_px, preprocessing.channels, dtype=torch.float64)
    for pictures in _fitted(split, preprocessing):
        x = torch.from_numpy(pictures).float()  # sums of 256 squares are exact in float32
        sums += torch.stack([x.sum(0), x.square_().sum(0)])
        count += len(x)
    mean, square = sums / count
    return mean / 255, square / 255**2


def _fitted(split: Split, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """The pictures that can be decoded, fitted, up to 256 at a time."""
    if split.images is not None:
        for start in range(0, len(split), 256):
            yield preprocessing.fit_arrays(split.images[start : start + 256])
        return

    def decode(index: int) -> np.ndarray | PictureError:
        try:
            return preprocessing.fit(split.picture(index, preprocessing.channels))
        except PictureError as error:
            return error

    indices = split.sample(MAX_FILES)
    count = len(indices)
    bad: list[PictureError] = []
    with ThreadPoolExecutor() as pool:  # decoders let go of the GIL
        for start in range(0, count, 256):
            results = list(pool.map(decode, indices[start : start + 256]))
            bad += [result for result in results if isinstance(result, PictureError)]
            good = [result for result in results if not isinstance(result, PictureError)]
            if good:
                yield np.stack(good)
    if len(bad) == count:
        raise InputError(f"none of {count} pictures could be decoded; the first: {bad[0]}")
