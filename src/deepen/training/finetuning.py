"""Fine-tuning: layers that are not trained, and stages that learn slower the lower they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import Parameter

from deepen.errors import InputError
from deepen.evaluation.features import unknown_layer
from deepen.layers import stage_parameters


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Exclude layers (or single parameters) and all that is in them from training.

    Raises:
        InputError: a name that nothing bears or begins with, or nothing is left to train.
    """
    known = [*dict(model.named_modules()), *dict(model.named_parameters())]
    for name in names:
        if not any(_within(each, (name,)) for each in known):
            raise InputError(f"finetune.freeze: {unknown_layer(model, name)}")
    for each, parameter in model.named_parameters():
        if _within(each, names):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("finetune.freeze: nothing is left to train")


def train_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Training mode for all but the frozen layers: those run as at evaluation."""
    model.train()
    for name, module in model.named_modules():
        if _within(name, frozen):
            module.eval()


def stages(model: nn.Module) -> list[list[Parameter]]:
    """Parameters of each stage, from the input to the head.

    Those that the network names, then the parts of its head (`deepen.layers.stage_parameters`). A
    norm, or whatever else has no matrix, counts to the stage before it.
    """
    found: list[list[Parameter]] = []
    for parameters in stage_parameters(model).values():
        if found and all(p.ndim <= 1 for p in parameters):
            found[-1] += parameters
        else:
            found.append(parameters)
    return found


def _within(name: str, layers: Sequence[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
