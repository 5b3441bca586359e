"""What a user hands in as pictures: paths, folders, patterns, bytes, PIL's, arrays, tensors."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from deepen.data.decode import EXTENSIONS, PictureError, open_picture, to_channels
from deepen.data.sources import natural_key
from deepen.errors import InputError

Source = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A picture, or a place where some are."""


def find_pictures(sources: Source | Iterable[Source]) -> Iterator[Source]:
    """Pictures as they are given; of folders every one below, in natural order, found as it goes.

    Of a pattern ("new/*.jpg") what it matches; an array or tensor of four dimensions is as many
    pictures as it is long.

    Raises:
        InputError: something that is no picture and no place of any, at once or when it is reached;
            a folder without pictures.
    """
    if isinstance(sources, Source | bytearray | memoryview | os.PathLike):
        sources = [sources]  # type: ignore[list-item]
    if isinstance(sources, Mapping) or not isinstance(sources, Iterable):
        raise _no_picture(sources)
    return _found(sources)


def in_batches(pictures: Iterable[Source], size: int) -> Iterator[list[tuple[str, Source]]]:
    """Pictures with their names: paths as they are, "picture 2" for the second that has none."""
    batch: list[tuple[str, Source]] = []
    for number, picture in enumerate(pictures, 1):
        named = isinstance(picture, str | Path)
        batch.append((str(picture) if named else f"picture {number}", picture))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def open_source_picture(
    source: Source, name: str, channels: int, white: int | None = None
) -> Image.Image:
    """One picture, upright, as mode RGB (3 channels) or L (1 channel): as `open_picture` has it.

    Raises:
        PictureError: it cannot be decoded, or is of another form than pictures have.
    """
    if isinstance(source, str | Path | bytes):
        return open_picture(source, name=name, channels=channels, white=white)
    try:
        image = source if isinstance(source, Image.Image) else Image.fromarray(_pixels(source))
        image = to_channels(ImageOps.exif_transpose(image), channels, white)
    except PictureError as error:
        raise PictureError(name, error.reason) from error
    except Exception as error:  # a lazy picture is decoded here
        raise PictureError(name, " ".join(str(error).split()) or type(error).__name__) from error
    image.info = {"name": name}
    if 0 in image.size:
        raise PictureError(name, f"{image.width}x{image.height} px, nothing to see")
    return image


def _found(sources: Iterable[Any]) -> Iterator[Source]:
    for source in sources:
        if isinstance(source, str | os.PathLike):
            yield from _at(Path(source))
        elif isinstance(source, bytearray | memoryview):
            yield bytes(source)
        elif isinstance(source, np.ndarray | Tensor) and source.ndim == 4:
            yield from source
        elif isinstance(source, Source):
            yield source
        else:
            raise _no_picture(source)


def _no_picture(source: Any) -> InputError:
    return InputError(
        f"a {type(source).__name__} is no picture: give paths, bytes, PIL pictures, NumPy arrays "
        "or tensors"
    )


def _at(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = False
        for picture in _walk(path):
            found = True
            yield picture
        if not found:
            raise InputError(f"{path}: no pictures in this folder")
    elif glob.has_magic(str(path)) and not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True), key=natural_key)
        if not matches:
            raise InputError(f"{path}: matches nothing")
        for match in map(Path, matches):
            yield from _at(match) if match.is_dir() else [match]
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


def _pixels(source: np.ndarray | Tensor) -> np.ndarray:
    """(H, W) or (H, W, C) of integers as they are, of numbers in 0..1 as uint8.

    Channels are the last dimension of an array and the first of a tensor; where only the other one
    can be channels, that.
    """
    first = isinstance(source, Tensor)
    array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if array.ndim == 3:
        usual, other = (0, 2) if first else (2, 0)
        if array.shape[usual] in (1, 3, 4):
            axis = usual
        elif array.shape[other] in (1, 3):
            axis = other
        else:
            raise ValueError(f"of shape {array.shape}; one of its dimensions must be 1, 3 or 4")
        array = np.moveaxis(array, axis, 2)
        array = array[..., 0] if array.shape[2] == 1 else array
    elif array.ndim != 2:
        raise ValueError(f"of shape {array.shape}; a picture is (H, W), (H, W, C) or (C, H, W)")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min(initial=0) >= 0 and array.max(initial=0) <= 1):
            raise ValueError("numbers outside 0..1; give uint8 for 0..255")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 and not (array.dtype == np.uint16 and array.ndim == 2):
        raise ValueError(f"of {array.dtype}; uint8, or numbers in 0..1")
    return np.ascontiguousarray(array)
