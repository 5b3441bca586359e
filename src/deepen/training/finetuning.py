"""Fine-tuning: layers that are not trained, and stages that learn slower the lower they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import Parameter

from deepen.errors import InputError
from deepen.evaluation.features import unknown_layer
from deepen.layers import ImageClassifier, stage_parameters


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Exclude layers, single parameters or stages and all that is in them from training.

    Raises:
        InputError: a name that nothing bears or begins with, or nothing is left to train.
    """
    layers = _layers(model, names)
    for each, parameter in model.named_parameters():
        if _within(each, layers):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("finetune.freeze: nothing is left to train")


def train_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Training mode for all but the frozen layers: those run as at evaluation."""
    model.train()
    layers = _layers(model, frozen)
    for name, module in model.named_modules():
        if _within(name, layers):
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


def _layers(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of layers and parameters; of what is none of them, but a stage, the stage's layers."""
    known = [*dict(model.named_modules()), *dict(model.named_parameters())]
    stages = model.stage_layers if isinstance(model, ImageClassifier) else {}
    found: list[str] = []
    for name in names:
        if any(_within(each, (name,)) for each in known):
            found.append(name)
        elif name in stages:
            found += [layer for layer in stages[name] if isinstance(layer, str)]
        else:
            raise InputError(f"finetune.freeze: {unknown_layer(model, name)}")
    return found


def _within(name: str, layers: Sequence[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
