"""The 15 common corruptions at 5 severities of Hendrycks & Dietterich 2019.

("Benchmarking neural network robustness to common corruptions and perturbations", section 4.1.)
Each is a pure function of (picture, kind, severity, seed): its random numbers hash the picture's
own pixels, so neither order, nor batches, nor workers change what it gets. The strengths are those
of the authors' code (github.com/hendrycks/robustness): of CIFAR-10-C up to `SMALL_PX` on the
shorter side, of ImageNet-C above.

Deviations: frost is a drawn one, for the authors' is six photographs; the affine part of the
elastic transform and the defocus are SciPy's instead of OpenCV's, and pictures of any size are
taken. A glass blur copies a neighbour's pixel where the paper swaps two, as the authors' code does.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from deepen.errors import InputError, unknown

SEVERITIES = 5
SMALL_PX = 64
"""Up to here a picture is a CIFAR's; there is none between 64 (Tiny ImageNet) and 224."""

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Corruption(NamedTuple):
    """A kind of corruption.

    Attributes:
        group: noise, blur, weather or digital, as the paper's figure 1 has them.
        apply: of (picture (H, W, C) in 0..1, the strength's numbers, random numbers), in 0..1.
        small: the numbers of each severity for small pictures.
        large: the same for others.
        words: what the numbers are.
    """

    group: str
    apply: Callable[[Floats, Any, np.random.Generator], Floats]
    small: Sequence[Any]
    large: Sequence[Any]
    words: str


def corrupt(pixels: Pixels, kind: str, severity: int, seed: int = 0) -> Pixels:
    """Corrupt a picture.

    Args:
        pixels: (H, W, C) uint8, C of 1 or 3.
        kind: a key of `CORRUPTIONS`.
        severity: 1 to 5; 0 gives the picture itself.
        seed: other seeds, other noise.

    Raises:
        InputError: there is no such kind or severity.
    """
    if kind not in CORRUPTIONS:
        raise InputError(unknown("corruption", kind, CORRUPTIONS))
    if not 0 <= severity <= SEVERITIES:
        raise InputError(f"severity {severity}: there are 1 to {SEVERITIES}, and 0 for none")
    if severity == 0:
        return pixels
    found, small = CORRUPTIONS[kind], min(pixels.shape[:2]) <= SMALL_PX
    strength = (found.small if small else found.large)[severity - 1]
    said = f"{seed} {kind} {severity} {pixels.shape} ".encode() + pixels.tobytes()
    random = np.random.Generator(
        np.random.Philox(key=int(hashlib.sha256(said).hexdigest()[:32], 16))
    )
    corrupted = found.apply(pixels / 255.0, strength, random)
    return (corrupted.clip(0, 1) * 255).astype(np.uint8)  # cut off, as the authors do


def _gaussian_noise(x: Floats, scale: float, random: np.random.Generator) -> Floats:
    return x + random.normal(size=x.shape, scale=scale)


def _shot_noise(x: Floats, photons: float, random: np.random.Generator) -> Floats:
    return random.poisson(x * photons) / photons


def _impulse_noise(x: Floats, amount: float, random: np.random.Generator) -> Floats:
    hit, salt = random.random(x.shape) < amount, random.random(x.shape) < 0.5
    return np.where(hit, salt, x)


def _defocus_blur(x: Floats, strength: tuple[float, float], random: np.random.Generator) -> Floats:
    kernel = _disk(*strength)
    return np.stack([ndimage.correlate(x[..., c], kernel, mode="mirror") for c in _channels(x)], -1)


def _disk(radius: float, alias_blur: float) -> Floats:
    """A disk, its edge softened by a Gaussian of 3 taps (5 for a large one)."""
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    tap = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias_blur**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, tap / tap.sum(), axis, mode="mirror")
    return disk / disk.sum()


def _glass_blur(x: Floats, strength: tuple[float, int, int], random: np.random.Generator) -> Floats:
    sigma, reach, rounds = strength
    blurred = np.floor(_gaussian(x, sigma) * 255) / 255
    height, width, channels = x.shape
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    place = list(range(height * width))
    for _ in range(rounds):  # one after the other: a pixel may travel on
        moved = random.integers(-reach, reach, (len(rows), len(columns), 2))
        taken = (rows[:, None] + moved[..., 1]) * width + columns + moved[..., 0]
        put = rows[:, None] * width + columns
        for here, there in zip(put.ravel().tolist(), taken.ravel().tolist(), strict=True):
            place[here] = place[there]
    return _gaussian(blurred.reshape(-1, channels)[place].reshape(x.shape), sigma)


def _motion_blur(x: Floats, strength: tuple[int, float], random: np.random.Generator) -> Floats:
    return _moved(x, *strength, random.uniform(-45, 45))


def _moved(x: Floats, radius: int, sigma: float, degrees: float) -> Floats:
    """ImageMagick's motion blur: half a Gaussian along a line, to the nearest pixel."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle, moved = math.radians(degrees), np.zeros_like(x)
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down = math.ceil(step * math.sin(angle) - 0.5)
        right = math.ceil(step * math.cos(angle) - 0.5)
        there = (rows + down).clip(0, len(rows) - 1), (columns + right).clip(0, len(columns) - 1)
        moved += weight * x[np.ix_(*there)]
    return moved


def _zoom_blur(x: Floats, strength: tuple[float, float], random: np.random.Generator) -> Floats:
    zooms = np.arange(1, *strength)
    return np.stack([x, *(_zoomed(x, zoom) for zoom in zooms)]).mean(axis=0)


def _zoomed(x: Floats, zoom: float) -> Floats:
    """The middle, made as large as the whole."""
    kept = [math.ceil(side / zoom) for side in x.shape[:2]]
    first = [(side - keep) // 2 for side, keep in zip(x.shape, kept, strict=False)]
    middle = x[first[0] : first[0] + kept[0], first[1] : first[1] + kept[1]]
    large: Floats = np.asarray(ndimage.zoom(middle, (zoom, zoom, 1), order=1))
    top, left = ((have - want) // 2 for have, want in zip(large.shape[:2], x.shape, strict=False))
    return large[top : top + x.shape[0], left : left + x.shape[1]]


def _snow(
    x: Floats,
    strength: tuple[float, float, float, float, int, float, float],
    random: np.random.Generator,
) -> Floats:
    mean, scale, zoom, threshold, radius, sigma, kept = strength
    layer = _zoomed(random.normal(mean, scale, (*x.shape[:2], 1)), zoom)
    layer = np.floor(np.where(layer < threshold, 0, layer).clip(0, 1) * 255) / 255
    layer = _moved(layer, radius, sigma, random.uniform(-135, -45))
    pale = np.maximum(x, _grey(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + layer + layer[::-1, ::-1]


def _frost(x: Floats, strength: tuple[float, float], random: np.random.Generator) -> Floats:
    """Ice ferns: ridges of a plasma, bluish white."""
    kept, ice = strength
    ridges = 1 - np.abs(2 * _plasma(x.shape[:2], 1.7, random) - 1)
    tint = np.array([0.85, 0.95, 1.0]) if x.shape[2] == 3 else np.array([0.95])
    return kept * x + ice * (0.35 + 0.65 * ridges[..., None] ** 2) * tint


def _fog(x: Floats, strength: tuple[float, float], random: np.random.Generator) -> Floats:
    thickness, decay = strength
    brightest = x.max()
    foggy = x + thickness * _plasma(x.shape[:2], decay, random)[..., None]
    return foggy * brightest / (brightest + thickness)


def _plasma(size: Sequence[int], decay: float, random: np.random.Generator) -> Floats:
    """Heights in 0..1 by the diamond-square algorithm (Fournier, Fussell & Carpenter 1982)."""
    side = 2 ** math.ceil(math.log2(max(*size, 2)))
    heights, step, wobble = np.zeros((side, side)), side, 100.0

    def mean(sums: Floats) -> Floats:
        return sums / 4 + wobble * random.uniform(-wobble, wobble, sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        both = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = mean(both + np.roll(both, -1, 1))
        centres = heights[half::step, half::step]
        rows, columns = centres + np.roll(centres, 1, 0), centres + np.roll(centres, 1, 1)
        heights[::step, half::step] = mean(rows + corners + np.roll(corners, -1, 1))
        heights[half::step, ::step] = mean(columns + corners + np.roll(corners, -1, 0))
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return (heights / heights.max())[: size[0], : size[1]]


def _brightness(x: Floats, more: float, random: np.random.Generator) -> Floats:
    """The V of HSV raised: hue and saturation stay, so all channels grow by one factor."""
    value = x.max(axis=2, keepdims=True)
    raised = (value + more).clip(0, 1)
    return np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)


def _contrast(x: Floats, kept: float, random: np.random.Generator) -> Floats:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * kept + mean


def _elastic_transform(
    x: Floats, strength: tuple[float, float, float], random: np.random.Generator
) -> Floats:
    """A random affine map, then each pixel moved a little, its neighbours with it."""
    height, width = x.shape[:2]
    side = min(height, width)
    reach, sigma, affine = (side * share for share in strength)
    middle, third = np.array([height // 2, width // 2], float), side // 3
    corners = middle + np.array([[third, third], [third, -third], [-third, -third]])
    moved = corners + random.uniform(-affine, affine, corners.shape)
    matrix = np.linalg.solve(np.c_[moved, np.ones(3)], corners).T  # from the result to the source
    y, x_ = np.mgrid[:height, :width].astype(float)
    source = np.einsum("ij,jhw->ihw", matrix, np.stack([y, x_, np.ones_like(y)]))
    warped = _sampled(x, source, "mirror")
    shifts = [
        ndimage.gaussian_filter(random.uniform(-1, 1, (height, width)), sigma, truncate=3) * reach
        for _ in range(2)
    ]
    return _sampled(warped, np.stack([y + shifts[0], x_ + shifts[1]]), "reflect")


def _sampled(x: Floats, places: Floats, mode: str) -> Floats:
    planes = [ndimage.map_coordinates(x[..., c], places, order=1, mode=mode) for c in _channels(x)]
    return np.stack(planes, -1)


def _pixelate(x: Floats, share: float, random: np.random.Generator) -> Floats:
    image = _image(x)
    few = (int(image.width * share), int(image.height * share))
    box = Image.Resampling.BOX
    return _floats(image.resize(few, box).resize(image.size, box))


def _jpeg_compression(x: Floats, quality: int, random: np.random.Generator) -> Floats:
    data = io.BytesIO()
    _image(x).save(data, "JPEG", quality=quality)
    return _floats(Image.open(data))


def _image(x: Floats) -> Image.Image:
    pixels = np.rint(x * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if x.shape[2] == 1 else pixels)


def _floats(image: Image.Image) -> Floats:
    pixels = np.asarray(image)
    # A hair more than the whole number: it is cut off at the end.
    return (pixels if pixels.ndim == 3 else pixels[..., None]) / 255 + 1e-9


def _gaussian(x: Floats, sigma: float) -> Floats:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def _grey(x: Floats) -> Floats:
    if x.shape[2] == 1:
        return x
    return (x @ np.array([0.299, 0.587, 0.114]))[..., None]


def _channels(x: Floats) -> range:
    return range(x.shape[2])


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        "noise",
        _gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.08, 0.12, 0.18, 0.26, 0.38),
        "standard deviation, of 1",
    ),
    "shot_noise": Corruption(
        "noise",
        _shot_noise,
        (500, 250, 100, 75, 50),
        (60, 25, 12, 5, 3),
        "photons of white",
    ),
    "impulse_noise": Corruption(
        "noise",
        _impulse_noise,
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.03, 0.06, 0.09, 0.17, 0.27),
        "share of values",
    ),
    "defocus_blur": Corruption(
        "blur",
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "radius in px, deviation of its edge",
    ),
    "glass_blur": Corruption(
        "blur",
        _glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "deviation in px, reach in px, rounds",
    ),
    "motion_blur": Corruption(
        "blur",
        _motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "radius and deviation in px",
    ),
    "zoom_blur": Corruption(
        "blur",
        _zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "end and step of the zoom",
    ),
    "snow": Corruption(
        "weather",
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "mean, deviation, zoom and threshold of flakes; radius and deviation of their fall; kept",
    ),
    "frost": Corruption(
        "weather",
        _frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "share of the picture, of the ice",
    ),
    "fog": Corruption(
        "weather",
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "thickness, decay of its wobble",
    ),
    "brightness": Corruption(
        "weather",
        _brightness,
        (0.05, 0.1, 0.15, 0.2, 0.3),
        (0.1, 0.2, 0.3, 0.4, 0.5),
        "added to the value, of 1",
    ),
    "contrast": Corruption(
        "digital",
        _contrast,
        (0.75, 0.5, 0.4, 0.3, 0.15),
        (0.4, 0.3, 0.2, 0.1, 0.05),
        "share that is kept",
    ),
    "elastic_transform": Corruption(
        "digital",
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            tuple(share * 244 / 224 for share in shares)  # "244 should have been 224", they say
            for shares in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ),
        "reach, deviation and corners' reach, of the shorter side",
    ),
    "pixelate": Corruption(
        "digital",
        _pixelate,
        (0.95, 0.9, 0.85, 0.75, 0.65),
        (0.6, 0.5, 0.4, 0.3, 0.25),
        "share of the pixels a side",
    ),
    "jpeg_compression": Corruption(
        "digital",
        _jpeg_compression,
        (80, 65, 58, 50, 40),
        (25, 18, 15, 10, 7),
        "quality",
    ),
}
"""In the paper's order (section 4.1)."""
