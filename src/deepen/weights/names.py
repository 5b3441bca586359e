"""Which network of deepen's each name of torchvision's and timm's is.

A name is no network: torchvision's and timm's `resnet50` has its strides in other layers than the
paper's, under the same keys and shapes, and only their own counterpart may take their weights.
"""

from __future__ import annotations

from deepen.errors import InputError, unknown

# Their name: ours. A network that deepen has under no name is left out.
TORCHVISION: dict[str, str] = {
    "alexnet": "alexnet_one_tower",  # no normalization, no groups
    "vgg11": "vgg11",
    "vgg13": "vgg13",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "vgg11_bn": "vgg11_bn",
    "vgg13_bn": "vgg13_bn",
    "vgg16_bn": "vgg16_bn",
    "vgg19_bn": "vgg19_bn",
    "googlenet": "googlenet_bn",  # batch norm, 3x3 for 5x5
    "inception_v3": "inception_v3",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50_v1_5",  # strides in the 3x3 convolutions
    "resnet101": "resnet101_v1_5",
    "resnet152": "resnet152_v1_5",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnext101_32x8d": "resnext101_32x8d",
    "resnext101_64x4d": "resnext101_64x4d",
    "wide_resnet50_2": "wide_resnet50_2",
    "densenet121": "densenet121",
    "densenet161": "densenet161",
    "densenet169": "densenet169",
    "densenet201": "densenet201",
}
TIMM: dict[str, str] = {
    **{name: TORCHVISION[name] for name in TORCHVISION if name not in ("alexnet", "googlenet")},
    "resnext101_32x4d": "resnext101_32x4d",
    "inception_v4": "inception_v4",
    "inception_resnet_v2": "inception_resnet_v2_slim",  # the released network, not the figures'
}


def variant_of(zoo: dict[str, str], theirs: str, model: str | None, where: str) -> str:
    """The variant that another program's weights belong to.

    Args:
        zoo: `TORCHVISION` or `TIMM`.
        theirs: the name there.
        model: the variant that they are asked for, if any.
        where: what the weights are called in an error.

    Raises:
        InputError: deepen has no such network, or the weights are another variant's than `model`.
    """
    if theirs not in zoo:
        raise unknown(f"network of {where}:", theirs, zoo)
    variant = zoo[theirs]
    if model is not None and model != variant:
        raise InputError(f"{where}: weights of {theirs}, which is {variant} here, not {model}")
    return variant


def namesake(model: str) -> str | None:
    """The variant that others call by the name of this one, where that is another network.

    >>> namesake("resnet50")
    'resnet50_v1_5'
    """
    variant = {**TIMM, **TORCHVISION}.get(model, model)
    return None if variant == model else variant
