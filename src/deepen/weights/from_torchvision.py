"""torchvision's ImageNet weights: its own download, preprocessing, class names and scores."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.hub
from torch import Tensor

from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, WorkError, unknown
from deepen.models import get_architecture
from deepen.weights.adopt import adopt
from deepen.weights.file import Loaded
from deepen.weights.foreign import read_tensors
from deepen.weights.names import TORCHVISION, namesake

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# Networks that torchvision feeds, with these weights, as Google did: their `transform_input` undoes
# ImageNet's mean and deviation and puts 0.5 and 0.5 in their place.
_FED_WITH_HALVES = ("googlenet", "inception_v3")


def is_torchvision(word: str) -> bool:
    """Whether a word asks for torchvision's weights: imagenet, imagenet1k_v1, imagenet1k_v2."""
    return re.fullmatch(r"imagenet(1k_v\d+)?", word.lower()) is not None


def load_torchvision(word: str, model: str | None) -> Loaded:
    """The weights of torchvision's counterpart of a variant, fetched where they are not at hand.

    They lie where torchvision itself keeps them, and are read as any pickle is, in a process apart.

    Args:
        word: "imagenet" for those that torchvision recommends, or one of its names of a version,
            "imagenet1k_v1" say.
        model: the variant.

    Raises:
        InputError: torchvision has no such weights of this very network.
        WorkError: they could not be fetched.
    """
    if model is None:
        raise InputError(f"{word}: for which --model?")
    get_architecture(model)
    theirs = next((name for name, variant in TORCHVISION.items() if variant == model), None)
    if theirs is None:
        if namesake(model):
            raise InputError(
                f"{word}: torchvision's {model} is {namesake(model)} here; "
                f"its weights are not {model}'s"
            )
        have = ", ".join(TORCHVISION.values())
        raise InputError(f"{word}: torchvision has no {model}; it has {have}")
    versions = {member.name.lower(): member for member in _members(theirs)}
    if word.lower() == "imagenet":
        member = _default(theirs)
    elif word.lower() in versions:
        member = versions[word.lower()]
    else:
        raise unknown(f"weights of torchvision's {theirs}", word, versions)
    file = _fetched(member.url)
    return adopt_torchvision(str(file), read_tensors(file), theirs, member)


def adopt_torchvision(
    where: str, tensors: dict[str, Tensor], theirs: str, member: WeightsEnum
) -> Loaded:
    """The tensors of one of torchvision's checkpoints, with all that it says of them.

    Raises:
        InputError: they are not this network's.
    """
    preprocessing = preprocessing_of(theirs, member)
    scores = member.meta["_metrics"]["ImageNet-1K"]
    return adopt(
        where,
        tensors,
        TORCHVISION[theirs],
        input_size=preprocessing.size_px,
        classes=tuple(member.meta["categories"]),
        preprocessing=preprocessing,
        score={"top1": scores["acc@1"] / 100, "top5": scores["acc@5"] / 100},
        protocol="as torchvision states it, not measured here: ImageNet-1K validation, "
        f"50,000 pictures, one crop, {preprocessing.describe()}",
        data="ImageNet-1K",
        source=f"torchvision {member!r}, {member.url}",
    )


def preprocessing_of(theirs: str, member: WeightsEnum) -> Preprocessing:
    """How torchvision prepares a picture for these weights."""
    preset = member.transforms()
    halves = theirs in _FED_WITH_HALVES
    return Preprocessing(
        channels=3,
        size_px=(preset.crop_size[0], preset.crop_size[0]),
        resize="shorter",
        resize_px=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=(0.5,) * 3 if halves else tuple(preset.mean),
        std=(0.5,) * 3 if halves else tuple(preset.std),
    )


def find_torchvision(sha256: str) -> tuple[str, WeightsEnum] | None:
    """The name and the version of the checkpoint with this digest, if it is torchvision's."""
    for theirs in TORCHVISION:
        for member in _members(theirs):
            prefix = _hash_prefix(member.url)
            if prefix and sha256.startswith(prefix):
                return theirs, member
    return None


def _members(theirs: str) -> Iterator[WeightsEnum]:
    """Versions that classify (vgg16 has one with NaN for a classifier)."""
    from torchvision.models import get_model_weights

    for member in get_model_weights(theirs):
        if member.meta["categories"]:
            yield member


def _default(theirs: str) -> WeightsEnum:
    from torchvision.models import get_model_weights

    return get_model_weights(theirs).DEFAULT  # type: ignore[attr-defined]


def _hash_prefix(url: str) -> str | None:
    """The first digits of the file's SHA-256, as torchvision writes them in its name."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return found[1] if found else None


def _fetched(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    logging.getLogger(__name__).info("fetching %s to %s", url, file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(file), _hash_prefix(url), progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: the digest is another one
        raise WorkError(
            f"{url}: could not be fetched ({' '.join(str(error).split())}); it belongs at {file}"
        ) from error
    return file
