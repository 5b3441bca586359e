"""From bytes to what a network sees; the only place that decodes a picture.

`open_picture` turns a file or bytes into a checked RGB or greyscale picture, or raises
`PictureError`. `Preprocessing` then fits it to the size the network takes and normalizes it. The
loader, the predictor, the exporter and the server share both, and the weights' card carries them.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, features
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor

from deepen.errors import InputError

MAX_PIXELS = 178_956_970
"""Width x height above which no picture is decoded: where Pillow itself refuses a bomb."""

FORMATS = {
    "JPEG": frozenset({".jpg", ".jpeg"}),
    "PNG": frozenset({".png"}),
    "WEBP": frozenset({".webp"}),
    "BMP": frozenset({".bmp"}),
    "GIF": frozenset({".gif"}),
    "TIFF": frozenset({".tif", ".tiff"}),
}
"""The formats that are read, each with the file name endings that stand for it."""

EXTENSIONS = frozenset().union(*FORMATS.values())
"""Lower-case endings of the files that are taken for pictures."""

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # those that change width and height over


class PictureError(InputError):
    """A picture that cannot be used: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that it crosses to another process
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def detect_format(source: str | Path | bytes) -> str | None:
    """The format that the first bytes of `source` announce, a key of `FORMATS`, or None.

    Raises:
        PictureError: the file cannot be read.
    """
    with _opened(source, _name(source)) as file:
        return _signature(file)


def open_picture(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    reduction: Callable[[tuple[int, int]], int] | None = None,
) -> Image.Image:
    """Decode a picture in full and turn it upright, as mode RGB (3 channels) or L (1 channel).

    The first frame is taken. Transparency is composited on white, 16-bit values keep their upper
    8 bits, CMYK is converted without a colour profile. `name` stands for the picture in errors
    (by default its path), and stays with it as `info["name"]`. `max_pixels` is checked on the
    header; Pillow's own limit, twice its `Image.MAX_IMAGE_PIXELS`, holds whatever it says.

    `reduction`, for training alone, is told the (width, height) of the upright picture and answers
    1, 2, 4 or 8: a JPEG is decoded that much smaller, its sides rounded up, by the shorter inverse
    cosine transforms of libjpeg-turbo (a turned one by a factor that divides its sides, at most
    that). Damage is found as in full. The size in full stays with the picture as
    `info["full_size"]`, and the factor as `info["factor"]`.

    Raises:
        PictureError: for every failure: no such file, a folder, no picture, damage, too large.
    """
    name = name or _name(source)
    with _opened(source, name) as file:
        picture_format = _signature(file)
        if picture_format is None:
            empty = not file.read(1)
            kinds = ", ".join(FORMATS)
            raise PictureError(name, "is empty" if empty else f"not a picture; read are {kinds}")
        try:
            return _decode(file, picture_format, name, channels, max_pixels, reduction)
        except PictureError:
            raise
        except Exception as error:  # a decoder fed with damage may raise anything
            raise PictureError(name, _damage(picture_format, error)) from error


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture decoded for training, perhaps smaller than it is."""

    array: np.ndarray
    """uint8 (h, w, C)"""
    full_size: tuple[int, int]
    """Width and height in full."""
    factor: int = 1
    """By how much it was decoded smaller."""
    reducible: bool = False
    """Whether it might have been decoded smaller: a JPEG."""


def open_pixels(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    reduction: Callable[[tuple[int, int]], int],
) -> Pixels:
    """`open_picture` for training: the same pixels and errors, faster where simplejpeg is there.

    It takes upright colour JPEGs without a fault. Whatever else there is to say is Pillow's to say.
    """
    name = name or _name(source)
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and channels == 3:
        with _opened(source, name) as file:
            found = _decode_jpeg(simplejpeg, file.read(), max_pixels, reduction)
        if found is not None:
            return found
    image = open_picture(
        source, name=name, channels=channels, max_pixels=max_pixels, reduction=reduction
    )
    return to_pixels(image)


def decoder() -> str:
    """What decodes pictures here; others may differ in a bit."""
    turbo = features.version_feature("libjpeg_turbo")
    words = f"Pillow {Image.__version__}, {'libjpeg-turbo ' + turbo if turbo else 'libjpeg'}"
    simplejpeg = _simplejpeg()
    return words if simplejpeg is None else f"{words}, simplejpeg {simplejpeg.__version__}"


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
        image = to_channels(image, self.channels)
        height, width = self._resized(image.height, image.width)
        if height * width > MAX_PIXELS:
            raise _misfit(image, f"too thin: would become {width}x{height} px")
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.resize == "none" and (height, width) != self.crop_px:
            needed = f"{self.crop_px[1]}x{self.crop_px[0]}"
            raise _misfit(image, f"{width}x{height} px; {needed} needed, as nothing is resized")
        return self._crop_and_pad(np.array(image).reshape(height, width, self.channels))

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

    def _crop_and_pad(self, pixels: np.ndarray) -> np.ndarray:
        """Cut the middle out of pixels (..., h, w, C), as torchvision rounds it, and pad."""
        crop_height, crop_width = self.crop_px
        top = round((pixels.shape[-3] - crop_height) / 2)
        left = round((pixels.shape[-2] - crop_width) / 2)
        return self.pad(pixels[..., top : top + crop_height, left : left + crop_width, :])


def _decode(
    file: BinaryIO,
    picture_format: str,
    name: str,
    channels: int,
    max_pixels: int,
    reduction: Callable[[tuple[int, int]], int] | None,
) -> Image.Image:
    with _quiet():
        image = Image.open(file, formats=(picture_format,))
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(name, f"{width}x{height} px, above the cap of {max_pixels:,} pixels")
    if width * height == 0:
        raise PictureError(name, f"{width}x{height} px, nothing to see")
    about: dict[str | tuple[int, int], Any] = {"name": name}
    if picture_format == "JPEG" and reduction is not None:
        orientation = _orientation(image)
        full_size = (height, width) if orientation in _TURNED else (width, height)
        factor = reduction(full_size)
        while orientation in _UPRIGHT and (width % factor or height % factor):
            factor //= 2  # else what is rounded up would come before the first pixel
        about |= {"full_size": full_size, "factor": factor}
        image.draft(None, (width // factor, height // factor))  # rounds the factor down
    with _quiet() if picture_format == "TIFF" else nullcontext():  # it reads its tags again
        image.load()
    orientation = _orientation(image)  # after load: a TIFF turns itself and drops the tag
    image = to_channels(image, channels)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = about
    return image


@cache
def _simplejpeg() -> Any:
    """The module, or None where it is not installed (deepen[fast])."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _decode_jpeg(
    simplejpeg: Any, data: bytes, max_pixels: int, reduction: Callable[[tuple[int, int]], int]
) -> Pixels | None:
    """An upright colour JPEG in which nothing is wrong; None for any other file."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        with _quiet():
            image = Image.open(BytesIO(data), formats=("JPEG",))
        width, height = image.size
        if image.mode != "RGB" or width * height > max_pixels or _orientation(image) in _UPRIGHT:
            return None
        factor = reduction(image.size)
        size = -(-height // factor), -(-width // factor)
        array = simplejpeg.decode_jpeg(data, "RGB", min_height=size[0], min_width=size[1])
    except Exception:  # strict: a warning too
        return None
    return Pixels(array, image.size, factor, True) if array.shape[:2] == size else None


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; a broken EXIF block does not spoil the picture and says nothing."""
    with _quiet():
        try:
            return image.getexif().get(_ORIENTATION_TAG)
        except Exception:
            return None


def to_image(pixels: np.ndarray) -> Image.Image:
    """Pixels uint8 (h, w, C), of 1 or 3 channels, as mode L or RGB."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def to_pixels(image: Image.Image) -> Pixels:
    """A picture of `open_picture`, with what it says of its size in full."""
    array = np.array(image).reshape(image.height, image.width, -1)
    full_size = image.info.get("full_size", image.size)
    return Pixels(array, full_size, image.info.get("factor", 1), "factor" in image.info)


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Any mode to RGB (3 channels) or L (1 channel); nothing is done where it is that already.

    Raises:
        PictureError: values of 32 bits, which have no agreed white.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    if image.mode.startswith("I;16"):
        # The upper byte, which is also what Pillow's decoders keep of 16-bit colour.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _misfit(image, "32-bit or signed values have no agreed white; save as 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _name(source: str | Path | bytes) -> str:
    return "picture" if isinstance(source, bytes) else str(source)


@contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield BytesIO(source)
        return
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe would block for ever
            raise PictureError(name, "is a folder" if os.path.isdir(source) else "is no file")
        with open(source, "rb") as file:
            yield file
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(name, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise PictureError(name, f"cannot be read: {_one_line(error)}") from error


def _signature(file: BinaryIO) -> str | None:
    head = file.read(12)
    file.seek(0)
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:] == b"WEBP" else None
    for picture_format, starts in {
        "JPEG": (b"\xff\xd8\xff",),
        "PNG": (b"\x89PNG\r\n\x1a\n",),
        "GIF": (b"GIF87a", b"GIF89a"),
        "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "BMP": (b"BM",),
    }.items():
        if head.startswith(starts):
            return picture_format
    return None


_warning_filters = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings on odd metadata and on sizes that are checked here.

    The filters are global, so threads take turns; but for TIFF, decoding is outside this lock.
    """
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damage(picture_format: str, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {_one_line(error)}"
    if isinstance(error, Image.UnidentifiedImageError):  # its message is an object's address
        return f"damaged {picture_format}: no header, or of a variant that is not read"
    return f"damaged {picture_format}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _misfit(image: Image.Image, reason: str) -> PictureError:
    return PictureError(image.info.get("name", "picture"), reason)
