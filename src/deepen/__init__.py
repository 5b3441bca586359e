"""Image recognition from LeNet to ResNet and past it: faithful networks, checked numbers.

The Python face. Names are looked up when first used, so `import deepen` imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from deepen.version import __version__

if TYPE_CHECKING:
    from deepen import detect
    from deepen.api import calibrate, compare_weights, corrupted, evaluate, predict, train
    from deepen.models import list_models, register_model
    from deepen.weights import create_model, load

_HOME = {
    "create_model": "deepen.weights",
    "list_models": "deepen.models",
    "register_model": "deepen.models",
    "load": "deepen.weights",
    "train": "deepen.api",
    "evaluate": "deepen.api",
    "compare_weights": "deepen.api",
    "corrupted": "deepen.api",
    "calibrate": "deepen.api",
    "predict": "deepen.api",
}

__all__ = [
    "__version__",
    "calibrate",
    "compare_weights",
    "corrupted",
    "create_model",
    "detect",
    "evaluate",
    "list_models",
    "load",
    "predict",
    "register_model",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "detect":
        return import_module("deepen.detect")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'deepen' has no attribute {name!r}")
