"""What can be counted of a network, under the names that the formulas of claims use.

Every quantity takes the name of a network first. `paths` are layers or blocks in it; without one
the whole network is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache, reduce
from math import prod

from torch import nn

from deepen.analysis.complexity import Layer
from deepen.claims import drawing, worked
from deepen.claims.depth import depth as longest_way
from deepen.claims.formula import Value
from deepen.claims.networks import counted, input_shape, network, part, rows
from deepen.errors import InputError


def parameters(name: str, *paths: str) -> int:
    """Trainable values."""
    return sum(p.numel() for m in _parts(name, paths) for p in m.parameters())


def weights(name: str, *paths: str) -> int:
    """Trainable values of convolutions and linear layers without biases."""
    return sum(p.numel() for m in _parts(name, paths) for p in m.parameters() if p.ndim > 1)


def used_parameters(name: str) -> int:
    """Those that a prediction uses, so without auxiliary heads."""
    return counted(name).parameters - counted(name).unused_parameters


def macs(name: str, *paths: str) -> int:
    """Multiply-accumulates of convolutions and linear layers."""
    return sum(row.macs for row in rows(name, *paths))


def connections(name: str, *paths: str) -> int:
    """As LeCun et al. 1998 count them."""
    return sum(row.work.connections for row in rows(name, *paths))


def units(name: str, *paths: str) -> int:
    """Outputs of convolutions and linear layers ("neurons")."""
    weighted = (r for r in rows(name, *paths) if r.work.convolution or r.work.linear)
    return sum(prod(row.output_shape) for row in weighted)


def values(name: str, *paths: str) -> int:
    """Values that layers give."""
    return sum(prod(part_rows[-1].output_shape) for part_rows in (rows(name, p) for p in paths))


def map_values(name: str) -> int:
    """Values of the input, of convolutions, max poolings and linear layers."""
    pooled = (r for r in rows(name) if "max" in r.kind.lower() and r.work.pooling)
    return prod(input_shape(name)) + units(name) + sum(prod(r.output_shape) for r in pooled)


def input_values(name: str) -> int:
    """Values of the input."""
    return prod(input_shape(name))


def input_side(name: str) -> int:
    """Height of the input in px."""
    return input_shape(name)[1]


def shape(name: str, path: str = "") -> str:
    """Height, width and maps of a layer's output, "55x55x96"."""
    maps, *sides = _last(name, path).output_shape[1:]
    return "x".join(map(str, (*sides, maps)))


def macs_product(name: str, path: str) -> str:
    """A convolution's multiply-accumulates, outputs x kernel x inputs: "28x28x96x5x5x64"."""
    conv = part(name, path)
    if not isinstance(conv, nn.Conv2d):
        raise InputError(f"{name} {path} is no convolution")
    inputs = conv.in_channels // conv.groups
    return "x".join(map(str, (shape(name, path), *conv.kernel_size, inputs)))


def side(name: str, path: str) -> int:
    """Height of a layer's output."""
    return _last(name, path).output_shape[2]


def maps(name: str, path: str) -> int:
    """Maps or units of a layer's output."""
    return _last(name, path).output_shape[1]


def field(name: str, path: str = "") -> int:
    """Side of the receptive field of the last layer."""
    seen = _last(name, path).field
    if seen is None:
        raise InputError(f"{name} {path} has no receptive field")
    return seen.size_px[0]


@cache
def depth(name: str, poolings: bool = False) -> int:
    """Layers with weights on the longest way through."""
    return longest_way(network(name), input_shape(name), poolings)


def count(name: str, kind: str, path: str = "", **settings: int) -> int:
    """Layers of a class (of torch.nn, say), those of one kernel_size or stride only if given."""
    where = part(name, path) if path else network(name)
    return sum(type(m).__name__ == kind and _has(m, settings) for m in where.modules())


def children(name: str) -> int:
    """Layers that the network itself names."""
    return sum(1 for _ in network(name).children())


def setting(name: str, path: str) -> Value:
    """An attribute of a network or of one of its layers, "drop6.p"."""
    found: object = reduce(getattr, path.split("."), network(name))
    found = found[0] if isinstance(found, tuple) else found
    return Fraction(str(found)) if isinstance(found, int | float) else str(found)


def _last(name: str, path: str) -> Layer:
    return (rows(name, path) if path else rows(name))[-1]


def _parts(name: str, paths: tuple[str, ...]) -> list[nn.Module]:
    return [part(name, path) for path in paths] or [network(name)]


def _has(module: nn.Module, settings: dict[str, int]) -> bool:
    return all(getattr(module, key) in (value, (value, value)) for key, value in settings.items())


QUANTITIES: dict[str, Callable[..., Value]] = {
    quantity.__name__: quantity
    for quantity in (
        *(parameters, weights, used_parameters, macs, connections, units, values, map_values),
        *(
            input_values,
            input_side,
            shape,
            macs_product,
            side,
            maps,
            field,
            depth,
            count,
            children,
            setting,
        ),
        *(drawing.layers, drawing.kinds, drawing.kernels, drawing.kernel),
        *(worked.nearest, worked.bed_of_nails, worked.rotated, worked.max_pool_gradient),
        *(worked.convolution_matrix, worked.values_back),
    )
}
