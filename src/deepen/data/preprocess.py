"""From a picture to what a network sees: geometry first, then normalization.

The loader, the predictor, the exporter and the server share one `Preprocessing`, and the weights'
card carries it.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor

from deepen.data.decode import FULL, MAX_PIXELS, misfit, to_channels
from deepen.data.decode import open_picture as open_picture  # where it used to be
from deepen.data.geometry import Box, window_of


class Preprocessing(BaseModel):
    """How a picture becomes the network's input: geometry first, then normalization."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Literal[1, 3]
    size_px: tuple[PositiveInt, PositiveInt]
    """Height and width of what the network sees, the border included."""
    resize: Literal["none", "shorter", "squash"]
    """`shorter`: shorter side to `resize_px`, then a centre crop; `squash`: ignores the aspect."""
    resize_px: PositiveInt | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the resizing, with Pillow's antialiasing; bicubic for weights of others that had it."""
    pad_px: int = 0
    """Border of zeros put round the picture after resizing."""
    white: PositiveInt | None = None
    """Of pictures of more than 8 bits, the value that is white; None: they were none."""
    mean: tuple[float, ...]
    """Per channel, on the 0..1 scale; so is `std`."""
    std: tuple[float, ...]
    mean_image: bool = False
    """A mean of each pixel, a float32 tensor (H, W, C) kept beside, takes the place of `mean`."""

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std take {self.channels} values, one a channel")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and min(self.std) > 0):
            raise ValueError("mean and std must be finite, and std above 0")
        if not 0 <= 2 * self.pad_px < min(self.size_px):
            raise ValueError(f"pad_px={self.pad_px} leaves no picture within size_px")
        if (self.resize_px is not None) != (self.resize == "shorter"):
            raise ValueError("resize_px goes with resize=shorter, and only with it")
        if self.resize_px is not None and self.resize_px < max(self.crop_px):
            raise ValueError(f"resize_px={self.resize_px} is less than the crop {self.crop_px}")
        return self

    @property
    def crop_px(self) -> tuple[int, int]:
        """Height and width of the picture itself, without the border."""
        return self.size_px[0] - 2 * self.pad_px, self.size_px[1] - 2 * self.pad_px

    def describe(self) -> str:
        """The geometry in words, as a protocol line gives it."""
        height, width = self.crop_px
        words = {
            "none": f"{height}x{width}, not resized",
            "shorter": f"shorter side to {self.resize_px} px, centre crop {height}x{width}",
            "squash": f"squashed to {height}x{width}",
        }[self.resize]
        if self.interpolation != "bilinear" and self.resize != "none":
            words += f", {self.interpolation}"
        if self.pad_px:
            words += f", {self.pad_px} px of zeros round it"
        if self.channels == 1:
            words += ", greyscale"
        if self.white not in (None, FULL):
            words += f", white is {self.white:,}"
        if self.mean_image:
            words += ", mean of each pixel subtracted"
        return words

    def fit(self, image: Image.Image) -> np.ndarray:
        """Bring a picture to the network's size, as at evaluation: uint8 (H, W, C).

        Resizing is Pillow's, antialiased; sizes and crops round as torchvision's do.

        Raises:
            PictureError: the picture has another size and `resize` is `none`, or it is so thin
                that its resized form would exceed `MAX_PIXELS`.
        """
        image = to_channels(image, self.channels, self.white)
        height, width = self._resized(image.height, image.width)
        if height * width > MAX_PIXELS:
            raise misfit(image, f"too thin: would become {width}x{height} px")
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.resize == "none" and (height, width) != self.crop_px:
            needed = f"{self.crop_px[1]}x{self.crop_px[0]}"
            raise misfit(image, f"{width}x{height} px; {needed} needed, as nothing is resized")
        return self._crop_and_pad(np.array(image).reshape(height, width, self.channels))

    def window(self, size: tuple[int, int]) -> Box:
        """What `fit` shows of a picture of (width, height), in px of the picture."""
        height, width = self._resized(size[1], size[0])
        return window_of(size, (width, height), self._corner(height, width), self.crop_px)

    def fit_arrays(self, images: np.ndarray) -> np.ndarray:
        """`fit` on each of the pictures uint8 (N, h, w, C), bit for bit: uint8 (N, H, W, C).

        Pictures that fit as they are come back uncopied.
        """
        _, height, width, channels = images.shape
        fits = self.resize != "none" or (height, width) == self.crop_px
        if fits and channels == self.channels and self._resized(height, width) == (height, width):
            return self._crop_and_pad(images)
        pictures = images[..., 0] if channels == 1 else images
        fitted = np.empty((len(images), *self.size_px, self.channels), np.uint8)
        for index, picture in enumerate(pictures):
            fitted[index] = self.fit(Image.fromarray(picture))
        return fitted

    def pad(self, pixels: np.ndarray) -> np.ndarray:
        """Put the border of zeros round pixels (..., h, w, C), which fill `crop_px`."""
        if not self.pad_px:
            return np.ascontiguousarray(pixels)
        border = (self.pad_px, self.pad_px)
        return np.pad(pixels, [(0, 0)] * (pixels.ndim - 3) + [border, border, (0, 0)])

    def normalize(self, images: Tensor, mean_image: Tensor | None = None) -> Tensor:
        """(x / 255 - mean) / std of uint8 (B, H, W, C): float32 (B, C, H, W), channels last.

        `mean_image` (H, W, C), on the 0..1 scale, takes the place of `mean`; it is needed
        exactly when the field of that name is set.
        """
        return self.normalization(images.shape[2], images.device, mean_image)(images)

    def normalization(
        self, width: int, device: torch.device | str, mean_image: Tensor | None = None
    ) -> Normalization:
        """`normalize` for pictures `width` px wide on a device, to be kept by whoever repeats it.

        Nothing here keeps it for them: what is made while `torch.export` traces, say, is no
        number, and whoever came later would compute with it.
        """
        if (mean_image is not None) != self.mean_image:
            raise ValueError(f"mean_image={self.mean_image}: a mean image is needed just then")
        make = partial(torch.tensor, dtype=torch.float32, device=device)
        scale = make([1 / (255 * std) for std in self.std]).repeat(width)
        if mean_image is None:
            shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
            return Normalization(scale, make(shift).repeat(width))
        return Normalization(scale, mean_image.to(device).flatten(1) * (-255 * scale))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size after resizing."""
        if self.resize == "none":
            return height, width
        if self.resize == "squash":
            return self.crop_px
        assert self.resize_px is not None
        shorter = min(height, width)
        return self.resize_px * height // shorter, self.resize_px * width // shorter

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Left and top of the centre crop of a resized picture, as torchvision rounds them."""
        crop_height, crop_width = self.crop_px
        return round((width - crop_width) / 2), round((height - crop_height) / 2)

    def _crop_and_pad(self, pixels: np.ndarray) -> np.ndarray:
        """Cut the middle out of pixels (..., h, w, C), and pad."""
        height, width = self.crop_px
        left, top = self._corner(*pixels.shape[-3:-1])
        return self.pad(pixels[..., top : top + height, left : left + width, :])


class Normalization(NamedTuple):
    """x * scale + shift of each value, for pictures of one width on one device.

    Attributes:
        scale: float32 (W * C,), 1 / (255 std).
        shift: float32 (W * C,), -mean / std; of a mean image (H, W * C).
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 (B, C, H, W), channels last, of uint8 (B, H, W, C)."""
        # One conversion and one fused multiply-add, in place, over whole rows: a mean that is
        # broadcast along 3 channels would make inner loops of length 3, ten times slower.
        rows = images.flatten(2).float()
        torch.addcmul(self.shift, rows, self.scale, out=rows)
        return rows.view(images.shape).permute(0, 3, 1, 2)
