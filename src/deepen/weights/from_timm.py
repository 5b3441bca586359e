"""timm's weights from the Hugging Face hub: safetensors, and the preprocessing beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, WorkError, first_problem
from deepen.weights.adopt import adopt
from deepen.weights.file import Loaded
from deepen.weights.foreign import MAX_BYTES, check_size, load_safetensors
from deepen.weights.names import TIMM, variant_of

PREFIX = "hf-hub:"

# Arguments of timm's that leave the network what it is.
_HARMLESS = {"num_classes", "in_chans", "drop_rate"}


def is_timm(word: str) -> bool:
    """Whether a word names a repository of the hub, "hf-hub:timm/resnet50.tv_in1k" say."""
    return word.startswith(PREFIX)


def load_timm(word: str, model: str | None) -> Loaded:
    """Weights that timm wrote to the Hugging Face hub, fetched where they are not at hand.

    Args:
        word: "hf-hub:OWNER/NAME", and "@REVISION" where one is wanted.
        model: the variant that they must belong to.

    Raises:
        InputError: huggingface_hub is not installed, there is no such repository, it holds no
            safetensors of timm's, or another network's than `model`.
        WorkError: it could not be fetched.
    """
    repository, _, revision = word.removeprefix(PREFIX).partition("@")
    config = _config(_fetched(word, repository, "config.json", revision or None), word)
    theirs = str(config.get("architecture"))
    variant = variant_of(TIMM, theirs, model, word)
    _check_arguments(config, word)
    about = {**config, **config.get("pretrained_cfg", {})}
    preprocessing = preprocessing_of(about, word)
    file = _fetched(word, repository, "model.safetensors", revision or None)
    check_size(file, MAX_BYTES)
    return adopt(
        word,
        load_safetensors(file),
        variant,
        input_size=preprocessing.size_px,
        classes=_classes(about),
        preprocessing=preprocessing,
        data="ImageNet-1K" if str(about.get("tag", "")).endswith("in1k") else "unknown",
        protocol=f"no score stated; pictures as timm prepares them: {preprocessing.describe()}",
        source=f"timm {word}",
    )


def preprocessing_of(about: dict[str, Any], where: str) -> Preprocessing:
    """How timm prepares a picture for these weights (`timm.data.create_transform`).

    Raises:
        InputError: in a way that deepen has not, or it does not say.
    """
    if about.get("crop_mode", "center") != "center":
        raise InputError(f"{where}: prepared with crop_mode={about['crop_mode']}; center is known")
    try:
        channels, height, width = about["input_size"]
        if height != width:
            raise InputError(f"{where}: made for {height}x{width} px; squares are known")
        return Preprocessing(
            channels=channels,
            size_px=(height, width),
            resize="shorter",
            resize_px=math.floor(height / about["crop_pct"]),
            interpolation=about["interpolation"],
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
        )
    except ValidationError as error:
        problem = first_problem(error, Preprocessing)
        raise InputError(f"{where}: config.json: {problem}") from error
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}: config.json does not say how a picture is prepared ({error!r})"
        ) from error


def _config(file: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: config.json is damaged: {error}") from error
    about = config.get("pretrained_cfg", {}) if isinstance(config, dict) else None
    if not isinstance(about, dict) or "architecture" not in config:
        raise InputError(f"{where}: config.json is not timm's: it names no architecture")
    return config


def _check_arguments(config: dict[str, Any], where: str) -> None:
    """Arguments that timm built the network with must leave it the one that we know."""
    arguments = config.get("model_args") or {}
    strange = {k: v for k, v in arguments.items() if k not in _HARMLESS}
    if strange.pop("global_pool", "avg") != "avg" or strange:
        given = ", ".join(f"{k}={v}" for k, v in arguments.items() if k not in _HARMLESS)
        raise InputError(f"{where}: another network than {config['architecture']}: {given}")


def _classes(about: dict[str, Any]) -> tuple[str, ...]:
    """Names, in the order of the logits; ImageNet's are torchvision's words for them."""
    names = about.get("label_names")
    if names:
        ordered = [names[k] for k in sorted(names, key=int)] if isinstance(names, dict) else names
        words = about.get("label_descriptions") or {}
        return tuple(str(words.get(name, name)) for name in ordered)
    if about.get("num_classes") == 1000 and str(about.get("tag", "")).endswith("in1k"):
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return ()


def _fetched(where: str, repository: str, name: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise InputError(f"{where}: needs huggingface_hub: pip install 'deepen[hub]'") from error
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except RepositoryNotFoundError as error:
        raise InputError(f"{where}: no such repository, or it is private") from error
    except EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError):  # none here, and the hub could not be asked
            raise WorkError(f"{where}: could not be fetched: {_brief(error)}") from error
        raise InputError(f"{where}: has no {name}; only safetensors of timm's are read") from error
    except ValueError as error:
        raise InputError(f"{where}: {_brief(error)}") from error
    except Exception as error:  # its transport (requests, httpx, xet) changes with its version
        raise WorkError(f"{where}: could not be fetched: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
