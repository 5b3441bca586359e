"""Which pixels of the input a value of a layer can depend on.

A value at index (i, j, ...) of a tensor sees, along each side of the picture, the pixels from
low + step . (i, j, ...) to high + step . (i, j, ...), with one step for each dimension of the
tensor (Araujo, Norris & Sim 2019, "Computing receptive fields of convolutional neural networks",
have it for chains of layers). Every operation maps such a `Sight` to another; where a result sees
different places at different indices in a way that no steps describe (attention, a flattened map),
its `Sight` is that of all indices together. So a field is never too small; it is exact for chains
and graphs of convolutions and pooling, and up to a step of the coarser map too large behind an
upsampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from torch import Tensor

from deepen.analysis.meta import Operation, tensors_in, words

Number = int | Fraction


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that a unit of a layer can see, one entry for each side of the input.

    Attributes:
        size_px: how many, those in the padding included.
        stride_px: from the field of one unit to that of the next; 0 where all see the same.
        start_px: where the first unit's field begins; below 0 it begins in the padding.
    """

    size_px: tuple[int, ...]
    stride_px: tuple[float, ...]
    start_px: tuple[float, ...]


@dataclass(frozen=True)
class Sight:
    """What the values of a tensor see: see the module's docstring.

    Attributes:
        sizes: shape of the tensor.
        steps: for each of its dimensions, for each side of the input, pixels an index.
        low: for each side of the input, the first pixel seen at index 0.
        high: the last one.
    """

    sizes: tuple[int, ...]
    steps: tuple[tuple[Number, ...], ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]

    @property
    def field(self) -> ReceptiveField:
        """The same in a reader's terms."""
        strides = [max((abs(s[side]) for s in self.steps), default=0) for side in self.sides]
        size = tuple(floor(h - lo) + 1 for lo, h in zip(self.low, self.high, strict=True))
        return ReceptiveField(size, tuple(map(_plain, strides)), tuple(map(_plain, self.low)))

    @property
    def sides(self) -> range:
        """The sides of the input, 0 and 1 for a picture."""
        return range(len(self.low))

    def with_dims(self, sizes: Sequence[int], steps: Sequence[tuple[Number, ...]]) -> Sight:
        """The same places, seen by a tensor of another shape."""
        return Sight(tuple(sizes), tuple(steps), self.low, self.high)

    def shifted(self, dim: int, places: Number) -> Sight:
        """Index 0 of a dimension becomes what index `places` was."""
        by = [step * places for step in self.steps[dim]]
        low = tuple(a + b for a, b in zip(self.low, by, strict=True))
        high = tuple(a + b for a, b in zip(self.high, by, strict=True))
        return Sight(self.sizes, self.steps, low, high)

    def widened(self, dim: int, before: Number, after: Number) -> Sight:
        """Each index sees what those from `before` less to `after` more saw."""
        ends = [sorted((-step * before, step * after)) for step in self.steps[dim]]
        low = tuple(a + min(0, e[0]) for a, e in zip(self.low, ends, strict=True))
        high = tuple(a + max(0, e[1]) for a, e in zip(self.high, ends, strict=True))
        return Sight(self.sizes, self.steps, low, high)

    def scaled(self, dim: int, size: int, factor: Number) -> Sight:
        """A dimension gets another size and `factor` times its step."""
        sizes, steps = [*self.sizes], [*self.steps]
        sizes[dim], steps[dim] = size, tuple(s * factor for s in steps[dim])
        return self.with_dims(sizes, steps)

    def merged(self, dims: Sequence[int]) -> Sight:
        """Each index of these dimensions sees what all of them saw."""
        out = self
        for dim in dims:
            out = out.widened(dim, 0, out.sizes[dim] - 1).scaled(dim, out.sizes[dim], 0)
        return out

    def all_as_one(self, sizes: Sequence[int]) -> Sight:
        """A tensor of another shape, each value of which sees what all of this one see."""
        everything = self.merged(range(len(self.sizes)))
        return everything.with_dims(sizes, [(0,) * len(self.low)] * len(sizes))


def _plain(number: Number) -> float:
    return int(number) if number == int(number) else float(number)


def see_input(x: Tensor) -> Sight | None:
    """An input (B, C, sides...) sees itself; one without sides nothing."""
    rank = x.ndim - 2
    if rank < 1:
        return None
    steps = [tuple(int(dim == side + 2) for side in range(rank)) for dim in range(x.ndim)]
    return Sight(tuple(x.shape), tuple(steps), (0,) * rank, (0,) * rank)


def union(sights: Sequence[Sight]) -> Sight:
    """Tensors of one shape, value by value: each sees what any of them saw there."""
    first = sights[0]
    if all(s.steps == first.steps for s in sights):
        others = sights
    else:  # where the steps differ no step can be given
        dims = [d for d in range(len(first.sizes)) if len({s.steps[d] for s in sights}) > 1]
        others = [s.merged(dims) for s in sights]
    low = tuple(min(s.low[side] for s in others) for side in first.sides)
    high = tuple(max(s.high[side] for s in others) for side in first.sides)
    return Sight(first.sizes, others[0].steps, low, high)


class Sights:
    """What each tensor of a running network sees; told of every operation."""

    def __init__(self) -> None:
        self._whole: dict[int, Sight] = {}  # by storage: for what was written into parts of it

    def set(self, tensor: Tensor, sight: Sight | None) -> None:
        """Remember what a tensor sees."""
        tensor._deepen_sight = sight  # type: ignore[attr-defined]

    def get(self, tensor: Tensor) -> Sight | None:
        """What a tensor sees; None for a weight or a constant."""
        known = getattr(tensor, "_deepen_sight", None)
        if known is not None and known.sizes == tuple(tensor.shape):
            return known
        if self._whole and (whole := self._whole.get(tensor.untyped_storage()._cdata)):
            return whole.all_as_one(tensor.shape)
        return None

    def forget(self, tensor: Tensor) -> None:
        """A new tensor lies where another may have lain."""
        self._whole.pop(tensor.untyped_storage()._cdata, None)

    def follow(self, op: Operation) -> None:
        """Work out what the results of an operation see."""
        given = [s for s in map(self.get, tensors_in(op.args)) if s is not None]
        results = list(tensors_in([op.out]))
        if not given or not results:
            return
        if op.in_place and results[0]._is_view():
            self._write_into(results[0], given)
        try:
            answer = self._answer(op, results, given)
        except (IndexError, ValueError, TypeError, ZeroDivisionError):
            answer = None
        if answer is None or len(answer) != len(results):
            everything = union([s.all_as_one(()) for s in given])
            answer = [everything.all_as_one(t.shape) for t in results]
        for tensor, sight in zip(results, answer, strict=True):
            self.set(tensor, sight)

    def _write_into(self, part: Tensor, given: list[Sight]) -> None:
        """What was written into a part is seen by the whole, wherever."""
        key = part.untyped_storage()._cdata
        before = [self._whole[key]] if key in self._whole else []
        self._whole[key] = union([*before, *(s.all_as_one(()) for s in given)])

    def _answer(
        self, op: Operation, results: list[Tensor], given: list[Sight]
    ) -> list[Sight] | None:
        name, args, shape = op.name, op.args, tuple(results[0].shape)
        if op.pointwise:
            return [union([_broadcast(s, shape) for s in given])] * len(results)
        if name in ("cat", "stack"):
            return [_joined(name, args, shape, given)]
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = (self.get(t) for t in list(tensors_in(args))[-2:])
            return [_product(a, b, shape)]
        first = self.get(args[0]) if isinstance(args[0], Tensor) else None
        if first is None or len(given) > 1:
            return None
        if name in ("split", "unsafe_split", "split_with_sizes", "unbind"):
            return _split(name, first, args, results)
        rule = _RULES.get(name)
        return None if rule is None else [rule(first, shape, *args[1:])] * len(results)


# Each rule takes the sight of the one tensor that matters, the shape of the result, and the
# operation's other arguments.

Rule = Callable[..., Sight]


def _slide(
    s: Sight,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Sight:
    """A window over the last dimensions."""
    rank = len(shape) - 2
    full = [v if len(v) == rank else [v[0]] * rank for v in (kernel, stride, padding, dilation)]
    for dim, (k, step, pad, d) in enumerate(zip(*full, strict=True), 2):
        s = s.shifted(dim, -pad).widened(dim, 0, d * (k - 1)).scaled(dim, shape[dim], step)
    return _channels(s, shape)


def _channels(s: Sight, shape: Sequence[int]) -> Sight:
    """Units of all channels see the same."""
    return s.merged([1]).with_dims((s.sizes[0], shape[1], *s.sizes[2:]), s.merged([1]).steps)


def _convolution(s: Sight, shape, weight, bias, stride, padding, dilation, transposed, *_) -> Sight:
    kernel = weight.shape[2:]
    if not transposed:
        return _slide(s, shape, kernel, stride, padding, dilation)
    for dim, (k, step, pad, d) in enumerate(
        zip(kernel, stride, padding, dilation, strict=True), 2
    ):  # output i hears of the inputs m with i = m step - pad + d t, t from 0 to k - 1
        s = s.shifted(dim, Fraction(pad, step)).widened(dim, Fraction(d * (k - 1), step), 0)
        s = s.scaled(dim, shape[dim], Fraction(1, step))
    return _channels(s, shape)


def _max_pool(s: Sight, shape, kernel, stride=(), padding=(0,), dilation=(1,), *_) -> Sight:
    return _slide(s, shape, kernel, stride or kernel, padding, dilation)


def _avg_pool(s: Sight, shape, kernel, stride=(), padding=(0,), *_) -> Sight:
    return _slide(s, shape, kernel, stride or kernel, padding, (1,))


def _adaptive_pool(s: Sight, shape: Sequence[int], *_) -> Sight:
    """Bin i of n is from floor(i side / n) to ceil((i + 1) side / n)."""
    for dim in range(2, len(shape)):
        side, bins = s.sizes[dim], shape[dim]
        step = Fraction(side, bins)
        early = max(i * step - i * side // bins for i in range(bins))
        late = max(-(-(i + 1) * side // bins) - 1 - i * step for i in range(bins))
        s = s.widened(dim, early, late).scaled(dim, bins, step)
    return s


def _nearest(s: Sight, shape: Sequence[int], *_: Any) -> Sight:
    """Output i takes input floor(i ratio)."""
    for dim in range(2, len(shape)):
        ratio = Fraction(s.sizes[dim], shape[dim])
        early = 1 - Fraction(1, ratio.denominator)
        s = s.widened(dim, early, 0).scaled(dim, shape[dim], ratio)
    return s


def _interpolation(reach: int) -> Rule:
    """Output i mixes the inputs less than `reach` from its place among them."""

    def rule(s: Sight, shape: Sequence[int], size: Any, align_corners: bool, *_: Any) -> Sight:
        for dim in range(2, len(shape)):
            ratio, place = Fraction(s.sizes[dim], shape[dim]), Fraction(0)
            if align_corners:
                ratio = Fraction(s.sizes[dim] - 1, max(shape[dim] - 1, 1))
            else:
                place = (ratio - 1) / 2
            s = s.shifted(dim, place).widened(dim, reach, reach).scaled(dim, shape[dim], ratio)
        return s

    return rule


def _pixel_shuffle(s: Sight, shape: Sequence[int], factor: int) -> Sight:
    return _nearest(_channels(s, shape), shape)


def _pixel_unshuffle(s: Sight, shape: Sequence[int], factor: int) -> Sight:
    for dim in (2, 3):
        s = s.widened(dim, 0, factor - 1).scaled(dim, shape[dim], factor)
    return _channels(s, shape)


def _pad(s: Sight, shape: Sequence[int], pads: Sequence[int], *_: Any) -> Sight:
    """Pads come from the last dimension backwards; the padding itself sees nothing."""
    for i in range(0, len(pads), 2):
        dim = len(shape) - 1 - i // 2
        s = s.shifted(dim, -pads[i]).scaled(dim, shape[dim], 1)
    return s


def _reduce(s: Sight, shape: Sequence[int], dims: Any = None, *_: Any) -> Sight:
    rank = len(s.sizes)
    dims = range(rank) if dims is None or dims == [] else dims
    gone = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    s = s.merged(sorted(gone))
    if len(shape) == rank:
        return s.with_dims(shape, s.steps)
    return s.with_dims(shape, [step for d, step in enumerate(s.steps) if d not in gone])


def _softmax(s: Sight, shape: Sequence[int], dim: int, *_: Any) -> Sight:
    return s.merged([dim % len(shape)])


def _batch_norm(s: Sight, shape, weight, bias, mean, var, training, *_: Any) -> Sight:
    return s.merged([d for d in range(len(shape)) if d != 1]) if training else s


def _layer_norm(s: Sight, shape: Sequence[int], normalized: Sequence[int], *_: Any) -> Sight:
    return s.merged(range(len(shape) - len(normalized), len(shape)))


def _group_norm(s: Sight, shape: Sequence[int], *_: Any) -> Sight:
    return s.merged(range(1, len(shape)))


def _view(s: Sight, shape: Sequence[int], *_: Any) -> Sight:
    """Regrouped dimensions: a group's values keep their order."""
    if 0 in shape:
        return s.all_as_one(shape)
    steps: list[tuple[Number, ...]] = []
    i = j = 0
    while i < len(s.sizes) or j < len(shape):
        old, new = [i], [j]
        i, j = i + 1, j + 1
        while (left := _count(s.sizes, old)) != (right := _count(shape, new)):
            if left < right:
                old.append(i)
                i += 1
            else:
                new.append(j)
                j += 1
        old = [d for d in old if d < len(s.sizes)]
        new = [d for d in new if d < len(shape)]
        if len(old) == len(new) == 1:
            steps.append(s.steps[old[0]])
            continue
        inner: list[Number] = []
        for side in s.sides:
            step = next((s.steps[d][side] for d in reversed(old) if s.sizes[d] > 1), 0)
            regular = all(
                s.sizes[d] == 1 or s.steps[d][side] == step * _count(s.sizes, old[n + 1 :])
                for n, d in enumerate(old)
            )
            if not regular:
                whole = s.merged(old)
                low, high = [*s.low], [*s.high]
                low[side], high[side] = whole.low[side], whole.high[side]
                s = Sight(s.sizes, s.steps, tuple(low), tuple(high))
            inner.append(step if regular else 0)
        steps += [
            tuple(step * _count(shape, new[n + 1 :]) for step in inner) for n in range(len(new))
        ]
    return s.with_dims(shape, steps)


def _count(sizes: Sequence[int], dims: Sequence[int]) -> int:
    count = 1
    for d in dims:
        count *= sizes[d] if d < len(sizes) else 1
    return count


def _permute(s: Sight, shape: Sequence[int], dims: Sequence[int]) -> Sight:
    return s.with_dims(shape, [s.steps[d] for d in dims])


def _transpose(s: Sight, shape: Sequence[int], a: int = 0, b: int = -1) -> Sight:
    dims = list(range(len(shape)))
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(s, shape, dims)


def _unsqueeze(s: Sight, shape: Sequence[int], dim: int) -> Sight:
    dim %= len(shape)
    nothing = (0,) * len(s.low)
    return s.with_dims(shape, [*s.steps[:dim], nothing, *s.steps[dim:]])


def _squeeze(s: Sight, shape: Sequence[int], dims: Any = None) -> Sight:
    rank = len(s.sizes)
    dims = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % rank for d in dims if s.sizes[d] == 1}
    return s.with_dims(shape, [step for d, step in enumerate(s.steps) if d not in gone])


def _slice(s: Sight, shape: Sequence[int], dim: int = 0, start=None, end=None, step=1) -> Sight:
    start = min(max((start or 0) + (s.sizes[dim] if (start or 0) < 0 else 0), 0), s.sizes[dim])
    return s.shifted(dim, start).scaled(dim, shape[dim], step)


def _select(s: Sight, shape: Sequence[int], dim: int, index: int) -> Sight:
    dim %= len(s.sizes)
    s = s.shifted(dim, index % s.sizes[dim])
    return s.with_dims(shape, [*s.steps[:dim], *s.steps[dim + 1 :]])


def _broadcast(s: Sight, shape: Sequence[int], *_: Any) -> Sight:
    """New dimensions in front; one of size 1 that becomes longer shows the same everywhere."""
    nothing = (0,) * len(s.low)
    lead = len(shape) - len(s.sizes)
    steps = [step if shape[lead + d] == s.sizes[d] else nothing for d, step in enumerate(s.steps)]
    return s.with_dims(shape, [nothing] * lead + steps)


def _joined(name: str, args: tuple[Any, ...], shape: Sequence[int], given: list[Sight]) -> Sight:
    dim = (args[1] if len(args) > 1 else 0) % len(shape)
    if name == "stack":
        return union([_unsqueeze(s, shape, dim) for s in given])
    sizes = list(shape)
    return union([s.merged([dim]).with_dims(sizes, s.merged([dim]).steps) for s in given])


def _product(a: Sight | None, b: Sight | None, shape: Sequence[int]) -> Sight:
    """(..., M, K) x (..., K, N): rows from a, columns from b, all of K."""
    seen = []
    if a is not None:
        a = a.merged([len(shape) - 1])
        seen.append(a.with_dims(shape, a.steps))
    if b is not None:
        b = b.merged([len(shape) - 2])
        seen.append(b.with_dims(shape, b.steps))
    return union(seen)


def _split(name: str, s: Sight, args: tuple[Any, ...], results: list[Tensor]) -> list[Sight]:
    if name == "unbind":
        dim = args[1] if len(args) > 1 else 0
        return [_select(s, t.shape, dim, i) for i, t in enumerate(results)]
    dim = (args[2] if len(args) > 2 else 0) % len(s.sizes)
    seen, start = [], 0
    for tensor in results:
        seen.append(s.shifted(dim, start).scaled(dim, tensor.shape[dim], 1))
        start += tensor.shape[dim]
    return seen


def _same(s: Sight, shape: Sequence[int], *_: Any) -> Sight:
    return s


_RULES: dict[str, Rule] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "avg_pool3d": _avg_pool,
    **dict.fromkeys(
        words("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d"),
        _adaptive_pool,
    ),
    **dict.fromkeys(
        words("max_unpool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d"), _nearest
    ),
    **dict.fromkeys(
        words("upsample_bilinear2d upsample_linear1d upsample_trilinear3d"), _interpolation(1)
    ),
    "upsample_bicubic2d": _interpolation(2),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": lambda s, shape, groups: _channels(s, shape),
    **dict.fromkeys(
        words(
            "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d"
            " replication_pad2d replication_pad3d"
        ),
        _pad,
    ),
    **dict.fromkeys(
        words("amax amin argmax linalg_vector_norm logsumexp max mean min prod std sum var"),
        _reduce,
    ),
    **dict.fromkeys(words("_log_softmax _safe_softmax _softmax"), _softmax),
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "view": _view,
    "_unsafe_view": _view,
    "_reshape_alias": _view,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "slice": _slice,
    "select": _select,
    "expand": _broadcast,
    **dict.fromkeys(words("alias detach lift_fresh positive"), _same),
}
