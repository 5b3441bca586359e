"""What makes a run this run: model, classes, data, recipe; compared field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepen.training.recipe import Recipe
from deepen.training.speed import Settings, stated


def identity(
    model: str,
    classes: list[str] | tuple[str, ...],
    fingerprint: str,
    recipe: Recipe,
    start: str | None = None,
) -> dict[str, Any]:
    """All that a resume must find unchanged, as plain JSON; `start`: SHA-256 of first weights."""
    return {
        "model": model,
        "classes": list(classes),
        "data fingerprint": fingerprint,
        "recipe": fields_of(recipe),
        "SHA-256 of the weights it starts from": start,
    }


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON, without the speed settings that it leaves open."""
    fields = recipe.model_dump(mode="json")
    left_open = set(Settings._fields) - set(stated(recipe))
    return {key: value for key, value in fields.items() if key not in left_open}


def differences(have: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Each field that both name and that differs: `optimizer.lr is 0.1, not 0.2`."""
    for key, value in asked.items():
        if key not in have or have[key] == value:
            continue
        if isinstance(value, dict) and isinstance(have[key], dict):
            inner = "" if key == "recipe" else f"{prefix}{key}."
            yield from differences(have[key], value, inner)
        else:
            yield f"{prefix}{key} is {_short(have[key], value)}, not {_short(value, have[key])}"


def _short(value: Any, other: Any) -> str:
    """In words; of two lists of a thousand classes what only this one has."""
    if isinstance(value, list) and isinstance(other, list):
        value = ", ".join(map(str, [item for item in value if item not in other] or value))
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
