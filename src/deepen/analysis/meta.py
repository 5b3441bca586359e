"""Running a network for its shapes alone: on torch's meta device, quickly.

Torch's own kernels for that device import its compiler at their first call, which takes longer
than `import torch`. So `Meta` answers the operations that image networks are made of itself, with
shapes only; where anything is out of the ordinary (a layout, a mixture of types, arguments that do
not fit) it hands the operation on to torch's kernel, which answers or complains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from deepen.errors import InputError


class Operation(NamedTuple):
    """One of torch's operations as it ran.

    Attributes:
        name: without the overload and the underscore of work in place: "relu"; with its library
            where that is not torch: "torchvision::nms".
        args: positional arguments.
        kwargs: the others.
        out: the result.
        pointwise: whether each value that comes out depends on values at its own place alone.
        view: whether the result is the argument looked at differently.
        in_place: whether it writes into its first argument.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    pointwise: bool
    view: bool
    in_place: bool


def words(text: str) -> frozenset[str]:
    """A set of names."""
    return frozenset(text.split())


@cache
def _traits(op: Any) -> tuple[str, bool, bool, bool]:
    full = op.overloadpacket.__name__
    name = full.rstrip("_")
    pointwise = torch.Tag.pointwise in op.tags
    return (
        name if op.namespace == "aten" else f"{op.namespace}::{name}",
        pointwise or name in _POINTWISE_TOO,
        op.is_view,
        full.endswith("_"),
    )


_POINTWISE_TOO = words(
    "_prelu_kernel _to_copy bernoulli copy fill hardswish log_sigmoid_forward native_dropout"
    " rrelu_with_noise zero"
)


class Meta(TorchDispatchMode):
    """Within it, operations on meta tensors give meta tensors and nothing is computed.

    Tensors that lie elsewhere (a table in an attribute) are taken for their shape when they meet
    one on the meta device.

    Args:
        observe: called with each operation.
    """

    def __init__(self, observe: Callable[[Operation], None] | None = None) -> None:
        super().__init__()
        self.observe = observe

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports the compiler

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Answer one operation; torch calls this."""
        name, pointwise, view, in_place = _traits(func)
        args, kwargs = _all_on_meta(args, kwargs or {})
        out = NotImplemented if view else _answer(name, in_place, args, kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        if self.observe is not None:
            self.observe(Operation(name, args, kwargs, out, pointwise, view, in_place))
        return out


@contextmanager
def on_meta(module: nn.Module) -> Iterator[None]:
    """Within it, the parameters and buffers of a module are on the meta device; then as before.

    Inference mode, in which operations would pass `Meta` unseen, is off within it.
    """
    homes: list[dict[str, Any]] = []
    for part in module.modules():
        homes += [part._parameters, part._buffers]
    held = [(home, name, t) for home in homes for name, t in home.items() if t is not None]
    try:
        with torch.inference_mode(False):
            twins = {id(t): _twin(t) for _, _, t in held}  # by identity: tied weights stay tied
            for home, name, tensor in held:
                home[name] = twins[id(tensor)]
            yield
    finally:
        for home, name, tensor in held:
            home[name] = tensor


def _twin(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        raise InputError("a lazy module has no weights yet: give it an input once, then count")
    twin = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments or results, also those in lists, tuples and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def _all_on_meta(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    given = [*tensors_in(args), *tensors_in(kwargs.values())]
    elsewhere = [t for t in given if not t.is_meta]
    if not elsewhere or len(elsewhere) == len(given):
        return args, kwargs
    return tree_map_only(Tensor, lambda t: t if t.is_meta else _twin(t), (args, kwargs))


def _answer(name: str, in_place: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if in_place:
        rule = _itself if name in _RANDOM else _in_place if name in _SAME_TYPE else None
    else:
        rule = _pointwise if name in _SAME_TYPE else _RULES.get(name)
    if rule is None:
        return NotImplemented
    try:
        given = [*tensors_in(args)]
        _require(len(given) > 0 and given[0].is_meta)  # then all of them are
        _require(name in _ANY_LAYOUT or all(map(_is_in_order, given)))
        return rule(*args, **kwargs)
    except (TypeError, ValueError):  # arguments that a rule does not know, or that do not fit
        return NotImplemented


def _is_in_order(t: Tensor) -> bool:
    """Values lie in the order of the indices, perhaps with gaps or repeated: results contiguous."""
    if t.is_contiguous():
        return True
    strides = [step for step, size in zip(t.stride(), t.shape, strict=True) if step and size > 1]
    return strides == sorted(strides, reverse=True)


def _empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")  # new_empty is slower


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("torch's kernel is to answer")


def _same_type(*tensors: Tensor | None) -> None:
    types = {t.dtype for t in tensors if t is not None}
    _require(len(types) == 1 and types.pop().is_floating_point)


# Each rule takes an operation's own arguments, all of them in order unless it is in _ANY_LAYOUT.


def _pointwise(*args: Any, alpha: float = 1, approximate: str = "none") -> Tensor:
    tensors = [a for a in args if isinstance(a, Tensor)]
    _same_type(*tensors)
    _require(not any(isinstance(a, complex) for a in args))
    return _empty(tensors[0], _broadcast([t.shape for t in tensors]))


def _in_place(x: Tensor, *args: Any, alpha: float = 1) -> Tensor:
    tensors = [a for a in args if isinstance(a, Tensor)]
    _require(all(t.dtype == x.dtype for t in tensors) and not any(type(a) is bool for a in args))
    _require(x.is_floating_point() or not any(isinstance(a, float) for a in args))
    _require(_broadcast([x.shape, *(t.shape for t in tensors)]) == tuple(x.shape))
    return x


def _broadcast(shapes: list[torch.Size]) -> tuple[int, ...]:
    if all(shape == shapes[0] for shape in shapes):
        return tuple(shapes[0])
    rank = max(map(len, shapes))
    columns = zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True)
    sizes = [{size for size in column if size != 1} or {1} for column in columns]
    _require(all(len(choice) == 1 for choice in sizes))
    return tuple(choice.pop() for choice in sizes)


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _empty(x, x.shape)


def _like_second(_: Any, x: Tensor, *__: Any) -> Tensor:
    return _empty(x, x.shape)


def _itself(x: Tensor, *_: Any, generator: Any = None) -> Tensor:
    return x


def _like_if_plain(x: Tensor, *, pin_memory: bool = False, **options: Any) -> Tensor:
    usual = (None, x.dtype, x.device, x.layout, torch.preserve_format)
    _require(all(value in usual for value in options.values()))
    return _empty(x, x.shape)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    _require(not half_to_float and -x.ndim <= dim < x.ndim)
    return _empty(x, x.shape)


def conv_length(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Length of one side after a convolution or a pooling."""
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def _convolution(
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
) -> Tensor:
    rank = x.ndim - 2
    _require(rank >= 1 and weight.ndim == x.ndim and min(x.shape) > 0)
    _require(all(len(v) == rank for v in (stride, padding, dilation)))
    _require(min(stride) > 0 and min(dilation) > 0 and min(padding) >= 0)
    _same_type(x, weight, bias)
    across = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    if transposed:
        _require(len(output_padding) == rank and x.shape[1] == weight.shape[0])
        _require(
            all(o < max(s, d) for o, s, d in zip(output_padding, stride, dilation, strict=True))
        )
        channels = weight.shape[1] * groups
        sides = [
            (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
            for (size, k, s, p, d), extra in zip(across, output_padding, strict=True)
        ]
    else:
        _require(x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0)
        channels = weight.shape[0]
        sides = [conv_length(*side) for side in across]
    _require(min(sides) > 0 and (bias is None or bias.shape == (channels,)))
    return _empty(x, (x.shape[0], channels, *sides))


def _convolution_backward(grad, x, weight, bias_sizes, *args) -> tuple[Tensor | None, ...]:
    wanted = args[-1]
    shapes = (x.shape, weight.shape, bias_sizes)
    return tuple(_empty(x, s) if w else None for s, w in zip(shapes, wanted, strict=True))


def _batch_norm(x, weight, bias, mean, var, training, momentum, eps) -> tuple[Tensor, ...]:
    _same_type(x, weight, bias, mean, var)
    channels = (x.shape[1],)
    _require(all(t is None or t.shape == channels for t in (weight, bias, mean, var)))
    saved = channels if training else (0,)
    return _empty(x, x.shape), _empty(x, saved), _empty(x, saved)


def _batch_norm_backward(grad, x, weight, *args) -> tuple[Tensor | None, ...]:
    channels, wanted = (x.shape[1],), args[-1]
    shapes = (x.shape, channels, channels)
    return tuple(_empty(x, s) if w else None for s, w in zip(shapes, wanted, strict=True))


def _layer_norm(x, shape, weight, bias, eps) -> tuple[Tensor, Tensor, Tensor]:
    _same_type(x, weight, bias)
    _require(tuple(x.shape[x.ndim - len(shape) :]) == tuple(shape))
    _require(all(t is None or tuple(t.shape) == tuple(shape) for t in (weight, bias)))
    rows = (*x.shape[: x.ndim - len(shape)], *(1 for _ in shape))
    return _empty(x, x.shape), _empty(x, rows), _empty(x, rows)


def _group_norm(x, weight, bias, n, c, hxw, groups, eps) -> tuple[Tensor, Tensor, Tensor]:
    _same_type(x, weight, bias)
    return _empty(x, x.shape), _empty(x, (n, groups)), _empty(x, (n, groups))


def _pair(value: Sequence[int], default: Sequence[int] = ()) -> tuple[int, int]:
    value = value or default
    return (value[0], value[-1])


def _pooled_shape(x, kernel, stride, padding, dilation, ceil_mode) -> tuple[int, ...]:
    _require(x.ndim == 4 and min(x.shape) > 0 and x.is_floating_point())
    kernel = _pair(kernel)
    sides = []
    for size, k, s, p, d in zip(
        x.shape[2:], kernel, _pair(stride, kernel), _pair(padding), _pair(dilation), strict=True
    ):
        _require(2 * p <= k and s > 0 and d > 0)
        length = conv_length(size, k, s, p, d)
        if ceil_mode:
            length = -(-(size + 2 * p - d * (k - 1) - 1) // s) + 1
            length -= (length - 1) * s >= size + p  # no window starts beyond the picture
        sides.append(length)
    _require(min(sides) > 0)
    return (*x.shape[:2], *sides)


def _max_pool2d(
    x, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False
) -> tuple[Tensor, Tensor]:
    shape = _pooled_shape(x, kernel, stride, padding, dilation, ceil_mode)
    return _empty(x, shape), _empty(x, shape, dtype=torch.int64)


def _avg_pool2d(
    x, kernel, stride=(), padding=(0, 0), ceil_mode=False, include=True, divisor=None
) -> Tensor:
    return _empty(x, _pooled_shape(x, kernel, stride, padding, (1, 1), ceil_mode))


def _adaptive_avg_pool2d(x, size) -> Tensor:
    _require(x.ndim == 4 and min(*x.shape, *size) > 0 and x.is_floating_point())
    return _empty(x, (*x.shape[:2], *size))


def _reduced(x, dims=None, keepdim=False, *, dtype=None) -> Tensor:
    _require(x.is_floating_point() and dtype is None)
    dims = dims or range(x.ndim)
    _require(all(-x.ndim <= d < x.ndim for d in dims))
    gone = {d % x.ndim for d in dims}
    _require(len(gone) == len(dims))
    sizes = [1 if i in gone else n for i, n in enumerate(x.shape) if keepdim or i not in gone]
    return _empty(x, sizes)


def _matrix_product(a: Tensor, b: Tensor) -> Tensor:
    _same_type(a, b)
    _require(a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2])
    return _empty(a, (*a.shape[:-1], b.shape[-1]))


def _matrix_product_and_sum(c: Tensor, a: Tensor, b: Tensor, *, beta=1, alpha=1) -> Tensor:
    out = _matrix_product(a, b)
    _same_type(a, c)
    _require(_broadcast([c.shape, out.shape]) == tuple(out.shape))
    return out


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    _same_type(*tensors)
    first, rank = tensors[0], tensors[0].ndim
    _require(rank > 0 and -rank <= dim < rank and all(t.ndim == rank for t in tensors))
    dim %= rank
    others = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    _require(len(others) == 1)
    sizes = list(first.shape)
    sizes[dim] = sum(t.shape[dim] for t in tensors)
    return _empty(first, sizes)


def _dropout(x, p, train) -> tuple[Tensor, Tensor]:
    _require(x.is_floating_point() and train)
    return _empty(x, x.shape), _empty(x, x.shape, dtype=torch.bool)


def _slice_backward(grad: Tensor, sizes: Sequence[int], *_: Any) -> Tensor:
    return _empty(grad, sizes)


_RULES: dict[str, Callable[..., Any]] = {
    "_adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "_adaptive_avg_pool2d_backward": _like_second,
    "_log_softmax": _softmax,
    "_softmax": _softmax,
    "addmm": _matrix_product_and_sum,
    "amax": _reduced,
    "amin": _reduced,
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _like_second,
    "baddbmm": _matrix_product_and_sum,
    "bmm": _matrix_product,
    "cat": _cat,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "empty_like": _like_if_plain,
    "index_put": _like,
    "max_pool2d_with_indices": _max_pool2d,
    "max_pool2d_with_indices_backward": _like_second,
    "mean": _reduced,
    "mm": _matrix_product,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "native_dropout": _dropout,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "ones_like": _like_if_plain,
    "sigmoid_backward": _like,
    "slice_backward": _slice_backward,
    "sum": _reduced,
    "tanh_backward": _like,
    "threshold_backward": _like,
    "zeros_like": _like_if_plain,
}

# Pointwise, and the result has the type of the arguments where they agree.
_SAME_TYPE = words(
    "abs add clamp clamp_max clamp_min clone div elu exp gelu hardsigmoid hardswish hardtanh"
    " leaky_relu log log1p maximum minimum mish mul neg pow reciprocal relu rsqrt rsub sigmoid silu"
    " softplus sqrt square sub tanh threshold"
)

# Initial weights: filled in place, whatever with.
_RANDOM = words("erfinv normal")

_ANY_LAYOUT = _RANDOM | words("addmm baddbmm bmm mm")
