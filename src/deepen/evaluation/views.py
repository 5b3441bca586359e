"""Several looks at each picture: the papers' ten and 144 crops, several scales, whole pictures.

- Ten crops: the corners and the centre, and their mirror images (Krizhevsky et al. 2012, section
  4.1; He et al. 2015, section 4.1).
- 144 crops: the shorter side at 256, 288, 320 and 352 of 224; the left, centre and right square
  (top, centre and bottom of an upright picture); of each its corners, its centre and itself made
  small; and the mirror images (Szegedy et al. 2014, section 7).
- Dense: the network slid over the whole picture and its mirror image, its scores averaged over
  places (Simonyan & Zisserman 2014, section 3.2).

At several scales each of them is done at each, and all are averaged (He et al. 2015: the shorter
side at 224, 256, 384, 480, 640).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from deepen.data.decode import PictureError, misfit, to_channels
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.errors import InputError
from deepen.evaluation.ensembles import Averaging, combine
from deepen.evaluation.protocols import Predictions, predict_logits

Crops = Literal["1", "10", "144", "dense"]
GOOGLENET_SCALES = (256, 288, 320, 352)
_OF_PX = 224  # what those, and the usual 256, are for
_HELD_BYTES = 2**28  # of looks that lie in memory at once


@dataclass(frozen=True)
class Looks:
    """How a network looks at a picture.

    Attributes:
        crops: how many crops, or dense.
        scales: shorter sides, in px, that all are taken at. Empty: that of the preprocessing; for
            ten crops without a border 256 / 224 of the crop, for 144 crops GoogLeNet's four.
        border: px of zeros put round a resized picture, before it is cropped: 4 make 40 px of a
            CIFAR's 32, as in training with shifts.
        averaging: of what; the logarithm of averaged probabilities takes the place of logits.
    """

    crops: Crops = "1"
    scales: tuple[int, ...] = ()
    averaging: Averaging = "probabilities"
    border: int = 0

    @property
    def is_one(self) -> bool:
        """Whether it is the usual look, at the centre of one scale."""
        return self.crops == "1" and not (self.scales or self.border)

    def at(self, plain: Preprocessing) -> tuple[int, ...]:
        """The scales; none means the preprocessing's own."""
        side = min(plain.crop_px)
        cornered = self.crops in ("10", "144") and not self.border
        if plain.resize == "none" and (self.scales or cornered):
            raise InputError("these weights resize nothing: say --border PX instead of --scales")
        if self.scales:
            least = 1 if self.crops == "dense" else max(plain.crop_px)
            if small := [scale for scale in self.scales if scale < least]:
                raise InputError(f"--scales {small[0]}: less than the crop, {plain.crop_px}")
            return self.scales
        if self.crops == "144":
            return tuple(round(side * scale / _OF_PX) for scale in GOOGLENET_SCALES)
        if self.crops == "10" and not self.border:
            return (round(side * 256 / _OF_PX),)
        return ()

    def count(self, plain: Preprocessing) -> int:
        """Looks at each picture."""
        each = {"1": 1, "10": 10, "144": 36, "dense": 2}[self.crops]
        return each * max(1, len(self.at(plain)))

    def describe(self, plain: Preprocessing) -> str:
        """In words, for a protocol line."""
        if self.is_one:
            return f"one crop: {plain.describe()}"
        height, width = plain.crop_px
        what = {
            "1": f"centre crop {height}x{width}",
            "10": f"ten crops of {height}x{width}",
            "144": f"144 crops of {height}x{width}",
            "dense": "dense, with mirror images",
        }[self.crops]
        how = "squashed to a shorter side of" if plain.resize == "squash" else "shorter side at"
        scales = ", ".join(map(str, self.at(plain)))
        words = f"{what}: {how} {scales} px" if scales else f"{what}: {plain.describe()}"
        if self.border:
            words += f", {self.border} px of zeros round it before it is cropped"
        if plain.interpolation != "bilinear" and plain.resize != "none":
            words += f", {plain.interpolation}"
        return f"{words}, {self.averaging} averaged"


def scaled(
    image: Image.Image, plain: Preprocessing, scale: int | None, border: int = 0
) -> Image.Image:
    """A whole picture at a scale, before any crop; None: as the preprocessing has it.

    Raises:
        PictureError: nothing is resized, and the picture has another size.
    """
    image = to_channels(image, plain.channels, plain.white)
    height, width = plain.crop_px
    if plain.resize == "none":
        if (image.height, image.width) != (height, width):
            raise misfit(image, f"{image.width}x{image.height} px; {width}x{height} needed")
        size = image.size
    elif plain.resize == "squash":
        factor = 1.0 if scale is None else scale / min(height, width)
        size = round(width * factor), round(height * factor)
    else:
        shorter, side = min(image.size), plain.resize_px if scale is None else scale
        assert side is not None
        size = side * image.width // shorter, side * image.height // shorter
    if size != image.size:
        image = image.resize(size, Image.Resampling[plain.interpolation.upper()])
    return ImageOps.expand(image, border) if border else image


def ten_crops(image: Image.Image, crop: tuple[int, int]) -> list[Image.Image]:
    """Corners and centre of (height, width), then those of the mirror image, as torchvision has."""
    return [*_five(image, crop), *_five(ImageOps.mirror(image), crop)]


def _five(image: Image.Image, crop: tuple[int, int]) -> list[Image.Image]:
    (height, width), (right, bottom) = crop, (image.width, image.height)
    across, down = right - width, bottom - height
    corners = [(0, 0), (across, 0), (0, down), (across, down)]
    corners.append((round(across / 2), round(down / 2)))
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def _googlenet_crops(
    image: Image.Image, crop: tuple[int, int], plain: Preprocessing
) -> Iterator[Image.Image]:
    """36 of one scale."""
    side = min(image.size)
    free = (image.width - side, image.height - side)
    for share in (0, 0.5, 1):
        x, y = (round(each * share) for each in free)
        square = image.crop((x, y, x + side, y + side))
        small = square.resize((crop[1], crop[0]), Image.Resampling[plain.interpolation.upper()])
        for one in (*_five(square, crop), small):
            yield one
            yield ImageOps.mirror(one)


class Views(Preprocessing):
    """Fits a picture several times: the looks lie one below the other, (looks * H, W, C)."""

    plain: Preprocessing
    looks: Looks

    @classmethod
    def of(cls, plain: Preprocessing, looks: Looks) -> Views:
        """Those of a network's own preprocessing."""
        height, width = plain.size_px
        fields = {name: getattr(plain, name) for name in type(plain).model_fields}
        fields["size_px"] = (looks.count(plain) * height, width)
        return cls.model_construct(**fields, plain=plain, looks=looks)

    def fit(self, image: Image.Image) -> np.ndarray:
        """See `Preprocessing`; the order is that of scales, then crops."""
        plain, crops = self.plain, []
        for scale in self.looks.at(plain) or (None,):
            whole = scaled(image, plain, scale, self.looks.border)
            if self.looks.crops == "10":
                crops += ten_crops(whole, plain.crop_px)
            elif self.looks.crops == "144":
                crops += _googlenet_crops(whole, plain.crop_px, plain)
            else:
                crops += [_five(whole, plain.crop_px)[-1]]
        height, width = plain.crop_px
        arrays = [np.asarray(crop).reshape(height, width, self.channels) for crop in crops]
        return plain.pad(np.stack(arrays)).reshape(*self.size_px, self.channels)

    def fit_arrays(self, images: np.ndarray) -> np.ndarray:
        """See `Preprocessing`."""
        pictures = images[..., 0] if images.shape[3] == 1 else images
        return np.stack([self.fit(Image.fromarray(picture)) for picture in pictures])


def look(
    model: nn.Module,
    split: Split,
    plain: Preprocessing,
    looks: Looks,
    *,
    batch_size: int,
    workers: int = 0,
    mean_image: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """Logits of a split by any protocol; their softmax are the averaged probabilities.

    Args:
        model: on `device` already.
        split: the pictures.
        plain: the network's own preprocessing, `with_geometry` where another is asked for.
        looks: the protocol.
        batch_size: looks that go through the network at once, at least those of one picture.
        workers: decoding processes.
        mean_image: as `Preprocessing` has it.
        device: where the forward passes run.
        progress: called with the number of pictures done.

    Raises:
        InputError: the scales do not suit the crops, or the network cannot be slid over pictures.
    """
    if looks.crops == "dense":
        return _dense(model, split, plain, looks, mean_image, device, progress)
    count, views = looks.count(plain), Views.of(plain, looks)
    if looks.is_one:
        views = plain
    mean = None if mean_image is None or looks.is_one else mean_image.repeat(count, 1, 1)
    found: list[Predictions] = []
    held = _HELD_BYTES // (count * plain.size_px[0] * plain.size_px[1] * plain.channels)
    step = max(1, held) if split.images is not None and not looks.is_one else len(split)
    for first in range(0, len(split), step):
        places = range(first, min(first + step, len(split)))
        pictures = Batches(
            split if step == len(split) else split.take(places),
            views,
            batch_size=max(1, batch_size // count),
            workers=workers,
            mean_image=mean_image if mean is None else mean,
            device=device,
        )
        network = _Averaged(model, count, looks.averaging) if count > 1 else model
        part = predict_logits(network, pictures.epoch(0), device=device, progress=progress)
        found.append(part._replace(indices=part.indices + first))
    logits, labels, indices = (torch.cat(each) for each in list(zip(*found, strict=True))[:3])
    return Predictions(logits, labels, indices, sum((part.bad for part in found), ()))


class _Averaged(nn.Module):
    """A network that sees each of the looks that lie below each other, and averages."""

    def __init__(self, network: nn.Module, count: int, averaging: Averaging) -> None:
        super().__init__()
        self.network, self.count = network, count
        self.averaging: Averaging = averaging
        self.training = network.training  # as it is put back to

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, looks * H, W)."""
        batch, _, tall, width = images.shape
        rows = images.permute(0, 2, 3, 1)  # as they lie in memory: no copy
        each = rows.reshape(batch * self.count, tall // self.count, width, -1).permute(0, 3, 1, 2)
        logits = self.network(each).unflatten(0, (batch, self.count))
        return combine(list(logits.unbind(1)), self.averaging).float()


def _dense(
    model: nn.Module,
    split: Split,
    plain: Preprocessing,
    looks: Looks,
    mean_image: Tensor | None,
    device: torch.device | str,
    progress: Callable[[int], object] | None,
) -> Predictions:
    """One picture at a time, as each has its own size."""
    if mean_image is not None:
        raise InputError("--crops dense: a mean of each pixel fits one size alone")
    slid, split = getattr(model, "forward_dense", model), replace(split, white=plain.white)
    scales = looks.at(plain) or (None,)

    def batches() -> Iterator[Batch]:
        for index in range(len(split)):
            label = torch.from_numpy(split.labels[index : index + 1])
            place = torch.tensor([index])
            try:
                image = split.picture(index, plain.channels)
                whole = [scaled(image, plain, scale, looks.border) for scale in scales]
            except PictureError as error:
                yield Batch(torch.empty(0), label[:0], place[:0], (error,))
                continue
            logits = [
                slid(plain.normalize(_pixels(one, plain)[None].to(device)))
                for each in whole
                for one in (each, ImageOps.mirror(each))
            ]
            yield Batch(combine(logits, looks.averaging).float(), label, place)

    was_training = model.training
    model.eval()
    try:
        return predict_logits(nn.Identity(), batches(), device=device, progress=progress)
    finally:
        model.train(was_training)


def _pixels(image: Image.Image, plain: Preprocessing) -> Tensor:
    array = np.array(image).reshape(image.height, image.width, plain.channels)
    return torch.from_numpy(plain.pad(array))


def with_geometry(
    plain: Preprocessing,
    shorter_px: int | None,
    interpolation: str | None,
    crop_fraction: float | None = None,
) -> Preprocessing:
    """A preprocessing with another shorter side or interpolation, checked.

    Args:
        plain: the network's own.
        shorter_px: the shorter side.
        interpolation: of the resizing.
        crop_fraction: the crop as a share of the shorter side, in its place: timm's `crop_pct`,
            which rounds down.

    Raises:
        InputError: the shorter side is less than the crop.
    """
    changes: dict[str, Any] = {}
    if crop_fraction is not None:
        shorter_px = math.floor(max(plain.crop_px) / crop_fraction)
    if shorter_px is not None:
        if shorter_px < max(plain.crop_px):
            raise InputError(f"--shorter-side {shorter_px}: less than the crop, {plain.crop_px}")
        changes |= {"resize": "shorter", "resize_px": shorter_px}
    if interpolation is not None:
        changes["interpolation"] = interpolation
    return plain.model_copy(update=changes)
