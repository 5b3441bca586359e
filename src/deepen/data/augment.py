"""Random changes to training pictures, as the papers make them, from given uniform numbers.

Nothing here draws: the caller hands in `draws` uniforms for each sample (`deepen.data.randomness`),
so the same numbers give the same pictures, one at a time or in batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from deepen.data.decode import Pixels, to_image
from deepen.data.erasing import ERASING_DRAWS, erase
from deepen.data.geometry import Box, Geometry, window_of
from deepen.data.preprocess import Preprocessing
from deepen.data.rand_augment import MAX_MAGNITUDE, OPERATION_DRAWS, rand_augment
from deepen.data.transform import TRANSFORM_DRAWS, find_transform, transform
from deepen.errors import InputError

_TRIES = 10  # random_resized looks this often for a box that fits, as torchvision does
_CROP_DRAWS = {"none": 0, "pad": 2, "scale": 3, "random_resized": 2 * _TRIES + 2}
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
_ORDERS = tuple(permutations(range(3)))  # of brightness, contrast, saturation

# Principal components of ImageNet's RGB values on the 0..1 scale: eigenvalues, and eigenvectors in
# columns, from fb.resnet.torch's datasets/imagenet.lua (AlexNet's paper prints none).
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(BaseModel):
    """What happens to a training picture, in this order.

    Crop, flips, rotation, RandAugment, jitter, lighting, a transform of the user's own, erasing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crop: Literal["none", "pad", "random_resized", "scale"] = "none"
    """`pad`: a border of `pad_px` black pixels, then a window of the old size anywhere in it (He et
    al. 2015, section 4.2). `scale`: the shorter side to a random length within `scale_px`, then a
    window anywhere (Simonyan & Zisserman 2014, section 3.1). `random_resized`: a window of random
    area and aspect, resized (Szegedy et al. 2014, section 6)."""
    pad_px: PositiveInt = 4
    scale_px: tuple[PositiveInt, PositiveInt] | None = None
    """Least and greatest shorter side, both possible; He et al. 2015 take [256, 480]."""
    area: tuple[Share, Share] = (0.08, 1.0)
    """Of `random_resized`: the window's share of the picture."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Of `random_resized`: the window's width over its height, uniform in the logarithm."""
    flip: bool = False
    """Left and right changed over, half of the time."""
    flip_vertical: bool = False
    """Top and bottom changed over, half of the time."""
    rotate: float = Field(default=0.0, ge=0, le=180)
    """Turned by as much as this either way, in degrees, about the middle (bilinear)."""
    rotate_fill: int = Field(default=0, ge=0, le=255)
    """What comes in at the corners then, from black to white."""
    jitter: float = Field(default=0.0, ge=0)
    """Brightness, contrast and saturation, each by a factor of 1 - jitter to 1 + jitter, in random
    order (Howard 2013, section 2.2; the order as in fb.resnet.torch, which has 0.4)."""
    lighting: float = Field(default=0.0, ge=0)
    """Standard deviation of a shift along the principal components of ImageNet's colours
    (Krizhevsky et al. 2012, section 4.1, which has 0.1)."""
    decode: Literal["reduced", "full"] = "reduced"
    """`reduced`: where the window of `scale` or `random_resized` is at least twice as large both
    ways as what is made of it, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is faster
    and changes pixels a little; `full`: never."""
    rand_augment: int = Field(default=0, ge=0)
    """RandAugment's N (Cubuk et al. 2019): so many of its 14 operations, each drawn at random."""
    magnitude: float = Field(default=9.0, ge=0, le=MAX_MAGNITUDE)
    """RandAugment's M, how strong they are."""
    transform: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    """A function of the user's own, `package.module:function` (`deepen.data.transform`)."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability of a box to be filled with random bytes (Zhong et al. 2017, which has 0.5)."""
    erase_area: tuple[Share, Share] = (0.02, 0.4)
    """The box's share of the picture."""
    erase_ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 1 / 0.3)
    """The box's height over its width, uniform in the logarithm."""

    @model_validator(mode="after")
    def _check(self) -> Augmentation:
        if (self.crop == "scale") != (self.scale_px is not None):
            raise ValueError("scale_px goes with crop: scale, and only with it")
        for name in ("scale_px", "area", "ratio", "erase_area", "erase_ratio"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{name} must rise")
        return self

    @property
    def draws(self) -> int:
        """How many uniforms one sample takes."""
        return sum(self._parts)

    @property
    def resizes(self) -> bool:
        """Whether pictures are needed as they were before fitting, one by one."""
        return self.crop in ("scale", "random_resized")

    @property
    def one_by_one(self) -> bool:
        """Whether pictures in memory, too, are better changed one by one, by workers perhaps."""
        return self.resizes or self.rand_augment > 0 or self.rotate > 0 or bool(self.transform)

    def check(self, preprocessing: Preprocessing) -> None:
        """Refuse what cannot be done to pictures of this kind.

        Raises:
            InputError: the scale is smaller than the crop, lighting is asked for in grey, or there
                is no such transform.
        """
        if self.scale_px is not None and self.scale_px[0] < max(preprocessing.crop_px):
            raise InputError(
                f"augment.scale_px: {self.scale_px[0]} px is less than the crop, "
                f"{preprocessing.crop_px[0]}x{preprocessing.crop_px[1]}"
            )
        if self.lighting and preprocessing.channels != 3:
            raise InputError("augment.lighting needs colour pictures")
        if self.transform is not None:
            find_transform(self.transform)

    def check_geometry(self) -> None:
        """Refuse what boxes and masks cannot follow.

        Raises:
            InputError: RandAugment, which rotates and shears, and others that move pixels.
        """
        for name in ("flip_vertical", "rotate", "transform"):
            if getattr(self, name):
                raise InputError(f"augment.{name}: boxes and masks do not follow it; leave it out")
        if self.rand_augment:
            raise InputError(
                "augment.rand_augment: rotates, shears and shifts pictures, which boxes and masks "
                "cannot follow; 0 leaves it out"
            )

    @property
    def _parts(self) -> tuple[int, ...]:
        """Uniforms of each part; what came later is at the end, so that others draw as before."""
        return (
            _CROP_DRAWS[self.crop],
            int(self.flip),
            4 if self.jitter else 0,
            3 if self.lighting else 0,
            self.rand_augment * OPERATION_DRAWS,
            ERASING_DRAWS if self.erase else 0,
            int(self.flip_vertical),
            int(self.rotate > 0),
            TRANSFORM_DRAWS if self.transform else 0,
        )


def pad_images(augmentation: Augmentation, images: Tensor) -> Tensor:
    """Put the border round uint8 (N, H, W, C) that `augment_batch` crops from, if it does."""
    border = augmentation.pad_px if augmentation.crop == "pad" else 0
    return F.pad(images, (0, 0, border, border, border, border)) if border else images


def augment_batch(augmentation: Augmentation, images: Tensor, indices: Tensor, u: Tensor) -> Tensor:
    """Pick pictures out of a whole data set and augment them.

    Args:
        augmentation: one that does not resize.
        images: uint8 (N, H, W, C) from `pad_images`, contiguous.
        indices: int64 (B,), which of them.
        u: uniforms (B, draws) of those samples.

    Returns:
        uint8 (B, H, W, C), without the border.
    """
    crop, *others = u.split(augmentation._parts, dim=1)
    if augmentation.crop == "pad":
        batch = _cut_windows(images, indices, crop, 2 * augmentation.pad_px)
    else:
        batch = images.index_select(0, indices)
    return _change_content(augmentation, batch, others)


def augment_fitted(augmentation: Augmentation, fitted: np.ndarray, u: Tensor) -> Tensor:
    """Augment what `Preprocessing.fit` made, uint8 (H, W, C); it is not changed itself."""
    images = pad_images(augmentation, torch.from_numpy(fitted)[None])
    return augment_batch(augmentation, images, torch.zeros(1, dtype=torch.int64), u[None])[0]


def augment_pixels(
    augmentation: Augmentation, pixels: Pixels, preprocessing: Preprocessing, u: Tensor
) -> Tensor:
    """Cut a window out of a picture and augment it: uint8 (H, W, C), from uniforms (draws,).

    Of augmentations that resize; `reduction` may have made the pixels fewer.
    """
    crop, *others = u[None].split(augmentation._parts, dim=1)
    box = _chosen_window(augmentation, pixels.full_size, preprocessing.crop_px, crop[0].tolist())
    window = _resize_window(pixels, box, preprocessing.crop_px)
    return _change_content(augmentation, torch.from_numpy(preprocessing.pad(window))[None], others)[
        0
    ]


def geometry_of(
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    sizes: Sequence[tuple[int, int]],
    u: Tensor,
) -> Geometry:
    """Where pictures of these (width, height) come to lie, by the uniforms (B, draws) of theirs.

    Raises:
        InputError: the augmentation moves pixels in ways that no window describes.
    """
    augmentation.check_geometry()
    crop, flip, *_ = u.cpu().split(augmentation._parts, dim=1)
    if augmentation.resizes:
        crop_px, draws = preprocessing.crop_px, crop.tolist()
        windows = [
            _chosen_window(augmentation, size, crop_px, row)
            for size, row in zip(sizes, draws, strict=True)
        ]
    else:
        windows = [preprocessing.window(size) for size in sizes]
    border, (height, width) = preprocessing.pad_px, preprocessing.size_px
    place = torch.tensor([border, border, width - border, height - border]).repeat(len(u), 1)
    if augmentation.crop == "pad":
        corners = _corners(crop, 2 * augmentation.pad_px).flip(1)
        place += augmentation.pad_px - corners.repeat(1, 2)
    flipped = _is_flipped(flip) if augmentation.flip else torch.zeros(len(u), dtype=torch.bool)
    window = torch.tensor(windows, dtype=torch.float32).reshape(-1, 4)
    return Geometry(preprocessing.size_px, window, place.float(), flipped)


def reduction(
    augmentation: Augmentation, size: tuple[int, int], preprocessing: Preprocessing, u: Tensor
) -> int:
    """By how much a picture of (width, height) can be decoded smaller: 1, 2, 4 or 8.

    The window that the uniforms (draws,) pick stays as large as what is made of it, or larger.
    """
    if augmentation.decode == "full" or not augmentation.resizes:
        return 1
    height, width = preprocessing.crop_px
    crop = u[: _CROP_DRAWS[augmentation.crop]].tolist()
    left, top, right, bottom = _chosen_window(augmentation, size, preprocessing.crop_px, crop)
    spare = min((right - left) / width, (bottom - top) / height)
    return next(factor for factor in (8, 4, 2, 1) if spare >= factor or factor == 1)


def resized_box(
    augmentation: Augmentation, size: tuple[int, int], u: list[float]
) -> tuple[int, int, int, int]:
    """The window of `random_resized` in a picture of (width, height): left, top, right, bottom.

    Ten tries, then the largest central window within `ratio`, as torchvision's RandomResizedCrop;
    with the first 22 of the uniforms `u`.
    """
    width, height = size
    (small, large), (narrow, wide) = augmentation.area, augmentation.ratio
    for area_draw, ratio_draw in zip(u[:_TRIES], u[_TRIES : 2 * _TRIES], strict=True):
        area = width * height * (small + area_draw * (large - small))
        ratio = narrow * (wide / narrow) ** ratio_draw
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            across, down = u[2 * _TRIES : 2 * _TRIES + 2]
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * wide)))
    h = max(1, min(height, round(width / narrow)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _chosen_window(
    augmentation: Augmentation, size: tuple[int, int], crop_px: tuple[int, int], u: list[float]
) -> Box:
    """The window of a picture of (width, height) that is resized to the crop."""
    if augmentation.crop == "random_resized":
        return resized_box(augmentation, size, u)
    assert augmentation.scale_px is not None
    least, greatest = augmentation.scale_px
    shorter = least + int(u[0] * (greatest - least + 1))
    width, height = shorter * size[0] // min(size), shorter * size[1] // min(size)
    crop_height, crop_width = crop_px
    corner = int(u[1] * (width - crop_width + 1)), int(u[2] * (height - crop_height + 1))
    return window_of(size, (width, height), corner, crop_px)


def _resize_window(pixels: Pixels, box: Box, crop_px: tuple[int, int]) -> np.ndarray:
    """The window resized, uint8 (h, w, C); only it is computed, however large the whole would be.

    Windows that begin and end between pixels, as those of smaller decoded pictures may, are
    Pillow's to resize; others are torch's, four times faster, whose arithmetic is Pillow's rounded
    otherwise: a value in fifty is one more or less.
    """
    height, width = crop_px
    left, top, right, bottom = box
    if pixels.factor == 1 and all(isinstance(side, int) for side in box):
        inside = torch.from_numpy(pixels.array[int(top) : int(bottom), int(left) : int(right)])
        planes = inside[None].permute(0, 3, 1, 2)
        window = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        return window[0].permute(1, 2, 0).numpy()
    image = to_image(pixels.array)
    left, top, right, bottom = (side / pixels.factor for side in box)
    place = (left, top, min(right, image.width), min(bottom, image.height))
    window = image.resize((width, height), Image.Resampling.BILINEAR, place)
    return np.array(window).reshape(height, width, -1)


def _corners(u: Tensor, slack: int) -> Tensor:
    """Top and left, int64 (B, 2), of windows that are `slack` pixels smaller both ways."""
    return (u * (slack + 1)).long()


def _cut_windows(images: Tensor, indices: Tensor, u: Tensor, slack: int) -> Tensor:
    """Windows that are `slack` pixels smaller than the images both ways, at the place u (B, 2)."""
    n, full_height, full_width, channels = images.shape
    height, width = full_height - slack, full_width - slack
    top, left = _corners(u, slack).unbind(1)
    # A row of a window lies in one piece, from any pixel on: gathering rows is nearly a memcpy.
    last = n * full_height * full_width - width
    pieces = images.as_strided((last + 1, width * channels), (channels, 1))
    first = (indices * full_height + top) * full_width + left
    rows = first[:, None] + torch.arange(height, device=images.device) * full_width
    return pieces.index_select(0, rows.view(-1)).view(len(indices), height, width, channels)


def _change_content(augmentation: Augmentation, images: Tensor, u: Sequence[Tensor]) -> Tensor:
    """All that comes after the crop, on uint8 (B, H, W, C), with the uniforms of each part."""
    flip, jitter, lighting, operations, box, vertical, angle, seed = u
    if augmentation.flip:
        images = _flip_some(images, _is_flipped(flip), 2)
    if augmentation.flip_vertical:
        images = _flip_some(images, _is_flipped(vertical), 1)
    if augmentation.rotate:
        images = _rotate(augmentation, images, angle)
    if augmentation.rand_augment:
        images = _rand_augment(augmentation.magnitude, images, operations)
    if augmentation.jitter or augmentation.lighting:
        images = _recolor(augmentation, images, jitter, lighting)
    if augmentation.transform:
        name = augmentation.transform
        changed = [transform(name, *each) for each in zip(images, seed, strict=True)]
        images = torch.stack(changed).contiguous()
    if augmentation.erase:
        area, ratio = augmentation.erase_area, augmentation.erase_ratio
        images = erase(images, augmentation.erase, area, ratio, box)
    return images


def _is_flipped(u: Tensor) -> Tensor:
    """bool (B,) of uniforms (B, 1)."""
    return u[:, 0] < 0.5


def _rotate(augmentation: Augmentation, images: Tensor, u: Tensor) -> Tensor:
    def turned(image: Image.Image, draws: list[float]) -> Image.Image:
        fill = augmentation.rotate_fill
        color = fill if image.mode == "L" else (fill,) * 3
        degrees = augmentation.rotate * (2 * draws[0] - 1)
        return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=color)

    return _by_pillow(images, u, turned)


def _rand_augment(magnitude: float, images: Tensor, u: Tensor) -> Tensor:
    return _by_pillow(images, u, lambda image, draws: rand_augment(image, magnitude, draws))


def _by_pillow(
    images: Tensor, u: Tensor, change: Callable[[Image.Image, list[float]], Image.Image]
) -> Tensor:
    """Each picture of uint8 (B, H, W, C) changed by its uniforms."""
    changed = []
    for pixels, draws in zip(images.numpy(), u.tolist(), strict=True):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        changed.append(torch.from_numpy(np.array(change(image, draws))).view(pixels.shape))
    return torch.stack(changed)


def _recolor(
    augmentation: Augmentation, images: Tensor, jitter: Tensor, lighting: Tensor
) -> Tensor:
    planes = images.permute(0, 3, 1, 2).float().contiguous()  # colours broadcast slowly when last
    if augmentation.jitter:
        planes = _jitter(planes, augmentation.jitter, jitter)
    if augmentation.lighting:
        planes = planes + 255 * _lighting(augmentation.lighting, lighting)[:, :, None, None]
    planes = planes.round_().clamp_(0, 255).to(torch.uint8)
    return planes.permute(0, 2, 3, 1).contiguous()


def _flip_some(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Flip those images (B, H, W, C) that are chosen (B,), along an axis of theirs."""
    if len(images) == 1:
        return images.flip(axis) if chosen else images
    # Picking whole images out of both forms is eight times faster than torch.where on bytes.
    both = torch.cat([images, images.flip(axis)])
    place = torch.arange(len(images), device=images.device)
    return both.index_select(0, place + len(images) * chosen)


def _jitter(planes: Tensor, strength: float, u: Tensor) -> Tensor:
    """Brightness, contrast and saturation of planes (B, C, H, W) on the 0..255 scale, u (B, 4).

    Each mixes the picture with another: black, its mean grey, its grey self.
    """
    least = max(0.0, 1 - strength)
    factors = least + u[:, :3] * (1 + strength - least)
    orders = torch.tensor(_ORDERS, device=u.device)[(u[:, 3] * len(_ORDERS)).long()]
    for kind in orders.unbind(1):
        factor = factors.gather(1, kind[:, None])[:, :, None, None]
        kind = kind[:, None, None, None]
        grey = _grey(planes)
        other = torch.where(kind == 1, grey.mean((2, 3), keepdim=True), grey * (kind == 2))
        planes = torch.lerp(other, planes, factor).clamp_(0, 255)
    return planes


def _grey(planes: Tensor) -> Tensor:
    if planes.shape[1] == 1:
        return planes
    red, green, blue = planes.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _lighting(sigma: float, u: Tensor) -> Tensor:
    """What is added to each colour, (B, 3) on the 0..1 scale, from uniforms (B, 3)."""
    # The middles of the uniforms' steps of 2^-24, exact in float32: their normals are finite.
    alpha = sigma * math.sqrt(2) * torch.erfinv(2 * u - 1 + 2**-24)
    values = torch.tensor(_EIGENVALUES, device=u.device)
    vectors = torch.tensor(_EIGENVECTORS, device=u.device)
    return alpha * values @ vectors.T
