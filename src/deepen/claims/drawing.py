"""A network written as the papers draw it: "7x7 conv, 64, /2, pool/2; ...; fc, 1000".

Shortcuts, norms and activations are not drawn, pooling stands behind the layer that it follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

from torch import nn

from deepen.claims.networks import part, rows

_REPEATED = re.compile(r"(\d+)\*\(([^()]*)\)")
_SHORTCUTS = {"downsample", "shortcut"}


def layers(
    name: str,
    start: int = 0,
    stop: int | None = None,
    *,
    poolings: bool = True,
    distinct: bool = False,
) -> str:
    """The convolutions and linear layers of a network in order, from `start` to before `stop`."""
    drawn: list[str] = []
    for row in rows(name):
        if _SHORTCUTS & {*row.name.split(".")}:
            continue
        if row.work.convolution or row.work.linear:
            drawn.append(_layer(part(name, row.name)))
        elif row.work.pooling and row.output_shape[2:] == (1, 1) and poolings:
            drawn.append("avg pool")
        elif row.work.pooling and "max" in row.kind.lower() and poolings:
            drawn[-1] += ", pool/2"
    chosen = drawn[start:stop]
    return "; ".join(dict.fromkeys(chosen) if distinct else chosen)


def kinds(name: str) -> str:
    """The order of convolutions, poolings, response norms and linear layers."""
    words = {"Conv2d": "CONV", "MaxPool2d": "POOL", "LocalResponseNorm": "NORM", "Linear": "FC"}
    return "; ".join(words[row.kind] for row in rows(name) if row.kind in words)


def kernels(name: str, start: int = 0, stop: int | None = None) -> str:
    """The kernel sizes among the convolutions from `start` to before `stop`, in order of use."""
    convs = [m for m in _in_order(name) if isinstance(m, nn.Conv2d)]
    return "; ".join(dict.fromkeys(_kernel(conv) for conv in convs[start:stop]))


def kernel(name: str, path: str) -> str:
    """Height, width and depth of a layer's kernels: "5x5x48"."""
    weight = part(name, path).weight
    assert weight is not None and not callable(weight)
    return "x".join(map(str, (*weight.shape[2:], weight.shape[1])))


def expand(text: str) -> str:
    """Write out "3*(1x1 conv, 64; 3x3 conv, 64)"."""
    return _REPEATED.sub(lambda m: "; ".join([m[2].strip()] * int(m[1])), text)


def squeeze(text: str) -> str:
    """A text in one spelling: "conv3-64" and "3x3 conv, 64" are one; no spaces, no capitals."""
    text = re.sub(r"conv(\d)-", r"\1x\1 ", text.lower().replace("×", "x")).replace("fc-", "fc ")
    text = re.sub(r"(x\d+) ?conv\b", r"\1", text.replace("ave pool", "avg pool"))
    return re.sub(r"[\s,;]", "", text)


def _in_order(name: str) -> Iterator[nn.Module]:
    return (part(name, row.name) for row in rows(name) if row.work.convolution or row.work.linear)


def _layer(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        stride = f", /{layer.stride[0]}" if prod(layer.stride) > 1 else ""
        return f"{_kernel(layer)} conv, {layer.out_channels}{stride}"
    return f"fc, {layer.out_features}"


def _kernel(conv: nn.Conv2d) -> str:
    return "x".join(map(str, conv.kernel_size))
