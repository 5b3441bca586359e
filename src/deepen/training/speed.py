"""How a run computes: memory format, precision, compiling and graph capture, chosen by rules.

None of these changes what is learned, all of them change the last bits of it; so they are settled
once, before a run begins, and kept in its recipe. `deepen.training.tuning` measures instead.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from deepen.data.augment import Augmentation
from deepen.data.loader import stay_on_device
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.training.recipe import Recipe
from deepen.training.request import Here

ARITHMETIC_PX = 96
"""Networks for pictures of this size and more are bound by arithmetic on a GPU."""


# Fields of a recipe, optimizers and losses, that a captured step heeds, or that concern none.
_CAPTURED = {
    *("length", "batch_size", "seed", "optimizer", "schedule", "loss", "augment", "input"),
    *("validation", "early_stopping", "clip_norm", "max_bad_pictures", "search", "init"),
    *("channels_last", "amp", "compile", "cuda_graph", "scored", "together", "sampling"),
    "choose_by",
}
_CAPTURED_KINDS = {"sgd", "adamw", "cross_entropy", "map"}


class Settings(NamedTuple):
    """The fields of a recipe that decide how fast it runs.

    Attributes:
        channels_last: weights and activations lie in memory with their channels innermost.
        amp: bfloat16 autocast.
        compile: the network goes through torch.compile.
        cuda_graph: whole steps are captured once and replayed (`deepen.training.captured`).
    """

    channels_last: bool = False
    amp: bool = False
    compile: bool = False
    cuda_graph: bool = False

    def __str__(self) -> str:
        """In words: `channels last, float32`."""
        words = ["channels last" if self.channels_last else "channels first"]
        words.append("bfloat16" if self.amp else "float32")
        words += ["compiled"] * self.compile + ["steps in a CUDA graph"] * self.cuda_graph
        return ", ".join(words)

    def keeps(self, recipe: Recipe) -> bool:
        """Whether the fields that the recipe states are as it states them."""
        return all(stated(recipe).get(key, value) == value for key, value in self._asdict().items())


def stated(recipe: Recipe) -> dict[str, bool]:
    """Those of the settings that the recipe does not leave open."""
    found = {key: getattr(recipe, key) for key in Settings._fields}
    return {key: value for key, value in found.items() if value is not None}


def settings_of(recipe: Recipe) -> Settings:
    """As the recipe has them; what it leaves open is off, as in plain eager torch."""
    return Settings(**stated(recipe))


def rules(
    recipe: Recipe, preprocessing: Preprocessing, train: Split, here: Here
) -> tuple[Settings, str]:
    """The settings for a network of this recipe on these pictures, and the reasons in a line.

    What the recipe states is kept.
    """
    device = here.place
    is_cuda = device.type == "cuda"
    photos = min(preprocessing.size_px) >= ARITHMETIC_PX
    no_graph = why_no_graph(recipe, train, here.processes.size)
    chosen = Settings(
        channels_last=device.type in ("cpu", "cuda"),
        amp=is_cuda and photos and torch.cuda.is_bf16_supported(including_emulation=False),
        compile=False,
        cuda_graph=is_cuda and no_graph is None,
    )
    reasons = {
        "channels_last": "convolutions run faster so"
        if chosen.channels_last
        else "torch's default",
        "amp": f"{'photographs' if photos else 'small pictures'} on {device.type}",
        "compile": "no compiling unless --tune measures a gain",
        "cuda_graph": no_graph or "pictures on the device" if is_cuda else None,
    }
    fixed = stated(recipe)
    said = [reason for key, reason in reasons.items() if reason and key not in fixed]
    settled = chosen._replace(**fixed)
    return settled, f"speed: {settled} ({'; '.join(said) or 'as the recipe says'})"


def why_no_graph(recipe: Recipe, train: Split, processes: int) -> str | None:
    """What keeps the steps from being captured, in words; None where nothing does."""
    augment = recipe.augment
    kept = augment.model_dump(include={"crop", "pad_px", "flip", "flip_vertical"})
    shifts = Augmentation(**kept)
    if not stay_on_device(train, augment) or train.targets is not None:
        return "pictures that do not lie on the device cannot be in a graph"
    if processes > 1:
        return "several processes cannot share a graph"
    if len(train) < recipe.batch_size:
        return "there is no full batch to be captured"
    if augment != shifts:
        return "augmentation by more than shifts and flips cannot be in a graph"
    for kind in (recipe.optimizer.name, recipe.loss.name):
        if kind not in _CAPTURED_KINDS:
            return f"{kind} cannot be in a graph"
    for name, field in Recipe.model_fields.items():
        if name not in _CAPTURED and getattr(recipe, name) != field.get_default(
            call_default_factory=True
        ):
            return f"the recipe's {name} cannot be in a graph"
    return None


def amp_warning(settings: Settings, device: torch.device) -> str | None:
    """A line where bfloat16 is asked of a CPU that has no instructions for it."""
    if device.type != "cpu" or not settings.amp or cpu_has_bfloat16():
        return None
    return (
        "amp: this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16 or sve_bf16): expect "
        "it to be many times slower than float32; leave --amp out"
    )


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (x86: AVX-512 or AMX; Arm: bf16)."""
    have = torch.cpu.get_capabilities()
    return any(have.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def forward_of(model: nn.Module, settings: Settings) -> Callable[..., Any]:
    """What a step calls: the network, or its compiled form, which shares its weights."""
    return torch.compile(model, dynamic=False) if settings.compile else model


@cache
def keep_memory() -> bool:
    """Have the C library keep freed memory for the next step instead of giving it to the system.

    A step frees all its activations; glibc hands pieces of that size back at once, and the next
    step pays for fresh, zeroed pages: 1 to 3 ms a step of LeNet, 20 to 40 ms of ResNet-20. Nothing
    that is computed changes.

    Returns:
        Whether this C library can be told so; glibc can.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    most = 2**31 - 1
    return bool(mallopt(mmap_threshold, most)) and bool(mallopt(trim_threshold, most))
