"""From bytes to an upright picture in RGB or grey; the only place that decodes one.

`open_picture` turns a file or bytes into a checked picture, or raises `PictureError`. The loader,
the predictor, the exporter and the server share it.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, features

from deepen.errors import InputError, is_scarcity

MAX_PIXELS = 178_956_970
"""Width x height above which no picture is decoded: where Pillow itself refuses a bomb."""

FULL = 65_535
"""White of 16 bits."""

DARK = 2**14
"""Pictures of 16 bits that end below this are commonly of 14, 12, 10 or 8: black, taken as such."""

WHITE = "--set input.white=4095"

HEIC = frozenset({".heic", ".heif", ".hif"})
"""Endings of the photographs of telephones, which deepen[heic] reads."""

FORMATS = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif"}),
    "PNG": frozenset({".png"}),
    "WEBP": frozenset({".webp"}),
    "BMP": frozenset({".bmp"}),
    "GIF": frozenset({".gif"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "PPM": frozenset({".ppm", ".pgm", ".pbm", ".pnm"}),
    "TGA": frozenset({".tga"}),
    **({"JPEG2000": frozenset({".jp2", ".j2k", ".jpx"})} if features.check("jpg_2000") else {}),
    **({"AVIF": frozenset({".avif"})} if features.check("avif") else {}),
    **({"HEIF": HEIC} if find_spec("pillow_heif") else {}),
}
"""The formats that are read, each with the file name endings that stand for it.

Of what Pillow opens these are pictures; others are documents (PDF, EPS, PSD, WMF), moving pictures
(MPEG, FLI), measurements (FITS, HDF5, GRIB, .pfm) or icons and textures (ICO, DDS).
"""

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


def misfit(image: Image.Image, reason: str) -> PictureError:
    """The error of a picture that was decoded, under the name that `open_picture` gave it."""
    return PictureError(image.info.get("name", "picture"), reason)


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
    white: int | None = None,
) -> Image.Image:
    """Decode a picture in full and turn it upright, as mode RGB (3 channels) or L (1 channel).

    The first frame is taken. Transparency is composited on white, CMYK is converted without a
    colour profile. Of values of more than 8 bits `white` is the one that is white: 65,535 leaves
    the upper 8 bits of 16, 4,095 scales 12 bits in files of 16. Left out, 16 bits are taken as
    such where they are used, and refused where they end so low that the picture would be black.
    `name` stands for the picture in errors
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
            return _decode(file, picture_format, name, channels, max_pixels, reduction, white)
        except PictureError:
            raise
        except Exception as error:  # a decoder fed with damage may raise anything
            if is_scarcity(error):
                raise
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
    white: int | None = None,
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
        source,
        name=name,
        channels=channels,
        max_pixels=max_pixels,
        reduction=reduction,
        white=white,
    )
    return to_pixels(image)


def decoder() -> str:
    """What decodes pictures here; others may differ in a bit."""
    turbo = features.version_feature("libjpeg_turbo")
    words = f"Pillow {Image.__version__}, {'libjpeg-turbo ' + turbo if turbo else 'libjpeg'}"
    simplejpeg = _simplejpeg()
    return words if simplejpeg is None else f"{words}, simplejpeg {simplejpeg.__version__}"


def to_image(pixels: np.ndarray) -> Image.Image:
    """Pixels uint8 (h, w, C), of 1 or 3 channels, as mode L or RGB."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def to_pixels(image: Image.Image) -> Pixels:
    """A picture of `open_picture`, with what it says of its size in full."""
    array = np.array(image).reshape(image.height, image.width, -1)
    full_size = image.info.get("full_size", image.size)
    return Pixels(array, full_size, image.info.get("factor", 1), "factor" in image.info)


def to_channels(image: Image.Image, channels: int, white: int | None = None) -> Image.Image:
    """Any mode to RGB (3 channels) or L (1 channel); nothing is done where it is that already.

    Raises:
        PictureError: values of more than 8 bits whose white is not known, or is exceeded.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image, white)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


class Header(NamedTuple):
    """What a picture says of itself before it is decoded.

    Attributes:
        size: width and height of the upright picture.
        turned: whether EXIF has it turned or mirrored before it is upright.
    """

    size: tuple[int, int]
    turned: bool


def header_of(source: str | Path | bytes, *, name: str | None = None) -> Header:
    """The size of a picture as `open_picture` would give it; pixels may be damaged all the same.

    Raises:
        PictureError: no such file, no picture, no header.
    """
    name = name or _name(source)
    with _opened(source, name) as file:
        picture_format = _signature(file)
        if picture_format is None:
            raise PictureError(name, "is empty" if not file.read(1) else "not a picture")
        if picture_format == "HEIF":
            _register_heif()
        try:
            with _quiet():
                image = Image.open(file, formats=(picture_format,))
            # Pillow decodes a PNG in full to look for EXIF behind its pixels.
            plain = picture_format == "PNG" and not any(map(_whole(file).__contains__, _PNG_ABOUT))
            orientation = None if plain else _orientation(image)
            if picture_format == "TIFF" and orientation in _UPRIGHT:
                image.load()  # turns itself
                return Header(image.size, True)
        except Exception as error:  # as in `open_picture`
            if is_scarcity(error):
                raise
            raise PictureError(name, _damage(picture_format, error)) from error
    width, height = image.size
    swapped = orientation in _TURNED
    return Header((height, width) if swapped else (width, height), orientation in _UPRIGHT)


_PNG_ABOUT = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Where in a PNG Pillow looks for an orientation."""


def _whole(file: BinaryIO) -> bytes:
    """All of a file, which is left where it was."""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def open_mask(source: str | Path | bytes, *, name: str | None = None) -> np.ndarray:
    """A picture whose values are places of classes, as it is written: nothing is converted.

    Returns:
        Values (h, w): places in a palette or grey values; or colours, uint8 (h, w, 3).

    Raises:
        PictureError: as of `open_picture`, or a format that changes values (JPEG).
    """
    name = name or _name(source)
    with _opened(source, name) as file:
        picture_format = _signature(file)
        if picture_format not in ("PNG", "BMP", "GIF", "TIFF", "PPM", "TGA"):
            words = (
                "not a picture" if picture_format is None else f"{picture_format} changes values"
            )
            raise PictureError(name, f"{words}; masks are PNG, BMP, GIF, TIFF or PPM")
        try:
            with _quiet():
                image = Image.open(file, formats=(picture_format,))
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(name, f"{image.width}x{image.height} px, too large")
            with _quiet() if picture_format == "TIFF" else nullcontext():  # as in `_decode`
                image.load()
        except PictureError:
            raise
        except Exception as error:  # as in `open_picture`
            if is_scarcity(error):
                raise
            raise PictureError(name, _damage(picture_format, error)) from error
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
        return np.array(image)
    if image.mode in ("LA", "PA"):
        return np.array(image.getchannel(0))
    return np.array(image.convert("RGB"))


class Depth(NamedTuple):
    """What a picture of 16 bits a value holds.

    Attributes:
        peak: its greatest value; of colour, of which Pillow reads the upper 8 bits, the greatest
            that it may be.
        values: all of them, as bytes; of colour, the whole file's.
    """

    peak: int
    values: bytes

    @property
    def bits(self) -> int:
        """Of the least of 8, 10, 12, 14 and 16 bits that hold the peak."""
        return next(bits for bits in (8, 10, 12, 14, 16) if self.peak < 2**bits)


def depth_of(source: str | Path | bytes) -> Depth | None:
    """The values of a picture of 16 bits; None of any other, which is not decoded for it.

    Raises:
        PictureError: the file cannot be read, or is damaged.
    """
    name = _name(source)
    with _opened(source, name) as file:
        picture_format = _signature(file)
        if picture_format not in ("PNG", "TIFF"):
            return None
        try:
            with _quiet():
                image = Image.open(file, formats=(picture_format,))
                if not _is_deep(image):
                    return None
                image.load()
        except Exception as error:  # as in `open_picture`
            raise PictureError(name, _damage(picture_format, error)) from error
        if image.mode.startswith("I;16"):
            values = np.asarray(image)
            return Depth(int(values.max()), values.tobytes())
        file.seek(0)
        return Depth(_upper_peak(image) << 8 | 255, file.read())


def _is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has 16 bits a value, which Pillow may halve."""
    halved = any(";16" in str(arguments) for *_, arguments in getattr(image, "tile", ()))
    return image.mode.startswith("I;16") or (image.mode not in ("I", "F") and halved)


def _upper_peak(image: Image.Image) -> int:
    """The greatest upper byte of the colours; transparency is none."""
    colours = [band for band in image.split() if band.mode == "L"]
    colours = colours[:-1] if image.mode in ("LA", "RGBA") else colours
    return max(int(np.asarray(band).max()) for band in colours)


def _to_8_bits(image: Image.Image, white: int | None) -> Image.Image:
    """Values of 16 or 32 bits, or floating ones, to 8: 0 is black."""
    values = np.asarray(image)
    peak = values.max()
    if not image.mode.startswith("I;16"):
        if white is None:
            words = "32-bit or signed values have no agreed white"
            raise misfit(image, f"{words}; say it, {WHITE} say, or save as 8 or 16 bits")
        if not np.isfinite(values).all() or values.min() < 0:
            raise misfit(image, "has values below 0, or that are no numbers")
    elif white is None and 0 < peak < DARK:
        raise _too_dark(image, int(peak))
    if peak > (white or FULL):
        raise misfit(image, f"has values up to {peak:,}, above the white of {white:,}")
    if white in (None, FULL):
        # The upper byte, which is also what Pillow's decoders keep of 16-bit colour.
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _too_dark(image: Image.Image, peak: int) -> PictureError:
    bits = Depth(peak, b"").bits
    return misfit(
        image,
        f"16-bit values that end at {peak:,} ({bits} bits) would be black; say what is white, "
        f"input.white={2**bits - 1} say ({FULL} where it is meant so dark)",
    )


def _check_colour(image: Image.Image, white: int | None) -> None:
    """Refuse 16-bit colour, of which Pillow keeps the upper 8 bits, that does not use these."""
    if white not in (None, FULL):
        raise misfit(image, f"16-bit colour, which cannot be scaled by {WHITE}; save it as 8 bits")
    if white is None and 0 < (peak := _upper_peak(image) << 8) < DARK:
        words = f"16-bit colour whose values end below {peak + 256:,} would be black"
        raise misfit(image, f"{words}; save it as 8 bits (or input.white={FULL}: it is so dark)")


def _decode(
    file: BinaryIO,
    picture_format: str,
    name: str,
    channels: int,
    max_pixels: int,
    reduction: Callable[[tuple[int, int]], int] | None,
    white: int | None,
) -> Image.Image:
    if picture_format == "HEIF":
        _register_heif()
    with _quiet():
        image = Image.open(file, formats=(picture_format,))
    deep = _is_deep(image)
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
    image.info["name"] = name
    if picture_format == "PPM" and image.mode == "I":  # above 8 bits, and scaled to 16 by Pillow
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if deep and not image.mode.startswith("I"):
        _check_colour(image, white)
    image = to_channels(image, channels, white)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = about
    return image


@cache
def _register_heif() -> None:
    import_module("pillow_heif").register_heif_opener()


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
        if is_scarcity(error):
            raise
        raise PictureError(name, f"cannot be read: {_one_line(error)}") from error


def _signature(file: BinaryIO) -> str | None:
    head = file.read(18)
    file.seek(0)
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        found = "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIF"
        return found if found in FORMATS else None
    for picture_format, starts in {
        "JPEG": (b"\xff\xd8\xff",),
        "PNG": (b"\x89PNG\r\n\x1a\n",),
        "GIF": (b"GIF87a", b"GIF89a"),
        "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "BMP": (b"BM",),
        "PPM": tuple(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\r\n"),
        "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    }.items():
        if head.startswith(starts):
            return picture_format if picture_format in FORMATS else None
    return "TGA" if _is_tga(head) else None


def _is_tga(head: bytes) -> bool:
    """Truevision's format begins with no word of its own, but with few values that it may have."""
    if len(head) < 18:
        return False
    mapped, kind, bits = head[1], head[2], head[16]
    size = int.from_bytes(head[12:14], "little") * int.from_bytes(head[14:16], "little")
    kinds = {0: (2, 3, 10, 11), 1: (1, 9)}
    return kind in kinds.get(mapped, ()) and bits in (8, 16, 24, 32) and size > 0


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
