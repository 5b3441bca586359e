"""How pictures become the input of a network: what a recipe leaves open is settled here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from pydantic import ValidationError
from torch import Tensor

from deepen.data.decode import DARK, FULL, Depth, PictureError, depth_of
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet
from deepen.data.statistics import per_channel_stats, per_pixel_mean
from deepen.errors import InputError, first_problem
from deepen.models.architecture import Takes
from deepen.training.blocks import Input
from deepen.weights import Card

PHOTO_PX = 64
"""What a network made for 32 px is shown of photographs: they say little at 32."""

DEPTHS_SEEN = 256
"""Training pictures, evenly spaced, that are looked at for more than 8 bits a value."""

BORDER_PX = 8
"""Pictures smaller than the network's input by at most this get a border rather than a resize."""


class Prepared(NamedTuple):
    """Preprocessing, and the mean picture that it may need."""

    preprocessing: Preprocessing
    mean_image: Tensor | None


def prepare(spec: Input, source: PictureSet, takes: Takes | None) -> Prepared:
    """Settle geometry and normalization, the latter on the training pictures.

    Args:
        spec: of the recipe.
        source: what is trained on.
        takes: what the network takes; None where nobody knows (a user's own module).

    Raises:
        InputError: no geometry fits both the recipe and the network.
    """
    channels = source.channels
    if takes is not None and not takes.any_channels:
        channels = takes.channels
    geometry = _geometry(spec, source, takes)
    # Statistics are of the pictures as they will be fitted, border included.
    flat = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    plain = _checked({**geometry, "channels": channels, "white": _white(spec, source), **flat})
    train = replace(source.splits["train"], white=plain.white)
    if spec.normalize == "range":
        std = 1 / (spec.range[1] - spec.range[0])
        scale = {"mean": (-spec.range[0] * std,) * channels, "std": (std,) * channels}
        return Prepared(plain.model_copy(update=scale), None)
    scaled = {} if spec.scale is None else {"std": (1 / spec.scale,) * channels}
    if spec.normalize == "pixel":
        minus = plain.model_copy(update={"mean_image": True, **scaled})
        return Prepared(minus, per_pixel_mean(train, plain))
    mean, std = per_channel_stats(train, plain)
    std = scaled.get("std", std)
    return Prepared(plain.model_copy(update={"mean": mean, "std": std}), None)


def adopt(spec: Input, source: PictureSet, card: Card, mean_image: Tensor | None) -> Prepared:
    """The preprocessing that trained weights came with, fitted to other pictures.

    Colours, size and the way of resizing are the card's; only where these pictures cannot be had in
    that way (photographs, where the card resizes nothing) is the geometry settled afresh. A size of
    the recipe's goes before the card's; the mean picture of another size becomes a mean colour.

    Raises:
        InputError: no geometry fits both.
    """
    theirs = card.preprocessing
    size = both_sides(spec.size_px) or theirs.size_px
    images = source.splits["train"].images
    have = None if images is None else images.shape[1:3]
    asked = spec.resize != "auto" or spec.pad_px is not None or size != theirs.size_px
    alike = theirs.resize != "none" or have == theirs.crop_px
    kept = {"channels", "white", "mean", "std", "mean_image", "interpolation"}
    if theirs.white in (None, FULL) and (white := _white(spec, source)) is not None:
        theirs = theirs.model_copy(update={"white": white})
    colors = theirs.model_dump(include=kept)
    if not asked and alike:
        prepared = theirs
    else:
        same = spec.model_copy(update={"size_px": size})
        prepared = _checked({**colors, **_geometry(same, source, None)})
    if mean_image is not None and prepared.size_px != theirs.size_px:
        mean = tuple(mean_image.mean((0, 1)).tolist())
        return Prepared(prepared.model_copy(update={"mean": mean, "mean_image": False}), None)
    return Prepared(prepared, mean_image)


def _white(spec: Input, source: PictureSet) -> int | None:
    """The white of 16-bit pictures, as the recipe says or the pictures show; None: there are none.

    Raises:
        InputError: their values end so low that they would be black.
    """
    train = source.splits["train"]
    if spec.white is not None or train.images is not None:
        return spec.white
    found: list[Depth] = []
    for index in train.sample(DEPTHS_SEEN):
        with suppress(PictureError):  # whoever decodes it in full will name it
            if (depth := depth_of(train.encoded(index))) is not None:
                found.append(depth)
                if depth.peak >= DARK:
                    return FULL
    if not found:
        return None
    darkest = max(found, key=lambda depth: depth.peak)
    raise InputError(
        f"{source.name}: {len(found):,} 16-bit pictures whose values end at {darkest.peak:,} "
        f"({darkest.bits} bits) would be black; say what is white: "
        f"--set input.white={2**darkest.bits - 1} ({FULL} where they are meant so dark)"
    )


def _geometry(spec: Input, source: PictureSet, takes: Takes | None) -> dict[str, object]:
    images = source.splits["train"].images
    have = None if images is None else images.shape[1:3]  # photographs come in all sizes
    size = both_sides(spec.size_px or _size(have, takes))
    assert size is not None
    pad = spec.pad_px
    if pad is None:
        pad = _border(have, min(size)) if spec.resize in ("auto", "none") else 0
    inner = size[0] - 2 * pad, size[1] - 2 * pad
    if min(inner) < 1:
        raise InputError(f"input.pad_px {pad} leaves nothing of input.size_px {min(size)}")
    resize = spec.resize
    if resize == "auto":
        resize = "shorter" if have is None or have == inner else "squash"
    shorter = None
    if resize == "shorter":  # pictures of the right size stay as they are; others, later, fit
        shorter = max(inner) if have == inner else round(max(inner) * 256 / 224)
    return {"size_px": size, "pad_px": pad, "resize": resize, "resize_px": shorter}


def both_sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of what a recipe says: one number stands for both."""
    return (size, size) if isinstance(size, int) else size


def _size(have: tuple[int, int] | None, takes: Takes | None) -> int:
    if takes is None:
        return PHOTO_PX if have is None else max(have)
    if have is None:
        return PHOTO_PX if takes.sizes == "free" and takes.size_px == 32 else takes.size_px
    if takes.sizes == "fixed" or _border(have, takes.size_px):
        return takes.size_px
    return max(have) if min(have) >= takes.min_px else takes.size_px


def _border(have: tuple[int, int] | None, size: int) -> int:
    """Half the difference, where a small even border makes the pictures the right size."""
    if have is None or have[0] != have[1]:
        return 0
    missing = size - have[0]
    return missing // 2 if 0 < missing <= BORDER_PX and missing % 2 == 0 else 0


def _checked(fields: dict[str, object]) -> Preprocessing:
    try:
        return Preprocessing.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"recipe input: {first_problem(error, Preprocessing)}") from error
