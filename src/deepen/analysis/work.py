"""What one operation computes, counted from its shapes.

Multiply-accumulates (MACs; 1 MAC = 2 FLOPs) are counted for convolutions, linear layers and matrix
products. Everything else is counted in operations, by rules that are simple enough to remember:

* element-wise: one for each value that comes out, be it a sum or a tanh; softmax likewise;
* pooling, and sums, means and maxima over dimensions: one for each value that goes into a window;
* norm: two for each value (scale and shift) where the statistics are at hand, else five (mean,
  variance, centring, scale, shift);
* interpolation: one for each value that a result is mixed from, none for the nearest.

Moving values about (views, copies, padding, concatenation, look-ups) is no work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from torch import Tensor

from deepen.analysis.meta import Operation, tensors_in, words

IsWeight = Callable[[Tensor], bool]


@dataclass(frozen=True)
class Work:
    """Counts of one operation, one layer or a whole network.

    Attributes:
        convolution: MACs of convolutions of every kind.
        linear: MACs of products with weights.
        matmul: MACs of products of activations, attention's say.
        norm: operations.
        pooling: operations.
        elementwise: operations.
        connections: as LeCun et al. 1998 count them: the inputs of each unit of a convolution, a
            linear layer or a pooling, plus one for its bias. Inputs in the padding are counted.
    """

    convolution: int = 0
    linear: int = 0
    matmul: int = 0
    norm: int = 0
    pooling: int = 0
    elementwise: int = 0
    connections: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and matrix products."""
        return self.convolution + self.linear + self.matmul

    @property
    def operations(self) -> int:
        """Operations of norms, pooling and element-wise functions."""
        return self.norm + self.pooling + self.elementwise

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def declared(self, own: dict[str, int]) -> Work:
        """This work with what a layer says of itself in its place (see `complexity`)."""
        if own.keys() - {"connections"}:
            return replace(Work(connections=self.connections), **own)
        return replace(self, **own)


def count(op: Operation, is_weight: IsWeight) -> Work | None:
    """The work of an operation; None if there is no rule for it.

    Args:
        op: as it ran.
        is_weight: whether a tensor is a weight, or made of weights alone.
    """
    if op.name in _PRODUCTS:
        return _product(op, is_weight)
    if op.name in _RULES:
        return _RULES[op.name](op)
    if op.view or op.name in _MOVES:
        return Work()
    return Work(elementwise=_size(op.out)) if op.pointwise else None


def _size(out: Any) -> int:
    return next((t.numel() for t in tensors_in([out])), 0)


def _convolution(op: Operation) -> Work:
    x, weight, bias, _, _, _, transposed, *_ = op.args
    # Each value of a map is used by, or for a transposed one spread by, every tap of its kernels.
    centres = x if transposed else op.out
    macs = centres.numel() * prod(weight.shape[1:])
    return Work(convolution=macs, connections=macs + (bias is not None) * op.out.numel())


def _deformable(op: Operation) -> Work:
    _, weight, _, _, bias = op.args[:5]
    macs = op.out.numel() * prod(weight.shape[1:])
    return Work(convolution=macs, connections=macs + (bias.numel() > 0) * op.out.numel())


def _product(op: Operation, is_weight: IsWeight) -> Work:
    """Of the last two tensors; one before them, as addmm has, is the bias."""
    *bias, a, b = tensors_in(op.args)
    macs = op.out.numel() * a.shape[-1]
    if not (is_weight(a) or is_weight(b)):
        return Work(matmul=macs)
    return Work(linear=macs, connections=macs + bool(bias) * op.out.numel())


def _bilinear(op: Operation) -> Work:
    a, _, b = op.args[:3]
    macs = op.out.numel() * a.shape[-1] * b.shape[-1]
    return Work(linear=macs, connections=macs)


def _batch_norm(op: Operation) -> Work:
    return Work(norm=(5 if op.args[5] else 2) * _size(op.out))


def _other_norm(op: Operation) -> Work:
    return Work(norm=5 * _size(op.out))


def _windows(op: Operation) -> Work:
    x, kernel = op.args[:2]
    rank = len(kernel) if len(kernel) > 1 else x.ndim - 2
    return _pooled(_size(op.out) * prod(kernel if len(kernel) == rank else [kernel[0]] * rank))


def _bins(op: Operation) -> Work:
    """Adaptive pooling: bin i of n is from floor(i side / n) to ceil((i + 1) side / n)."""
    x, sizes = op.args[:2]
    rank = len(sizes)
    reads = [
        sum(-(-(i + 1) * side // n) - i * side // n for i in range(n))
        for side, n in zip(x.shape[-rank:], sizes, strict=True)
    ]
    return _pooled(prod(x.shape[:-rank]) * prod(reads))


def _reduction(op: Operation) -> Work:
    return _pooled(op.args[0].numel() if op.args[0].numel() != _size(op.out) else 0)


def _pooled(reads: int) -> Work:
    return Work(pooling=reads, connections=reads)


def _mixed(taps: int) -> Callable[[Operation], Work]:
    return lambda op: Work(pooling=taps * _size(op.out))


def _softmax(op: Operation) -> Work:
    return Work(elementwise=_size(op.out))


# These multiply matrices: their last two tensors.
_PRODUCTS = words("_cdist_forward _euclidean_dist addmm addmv baddbmm bmm dot mm mv vdot")

_RULES: dict[str, Callable[[Operation], Work]] = {
    "convolution": _convolution,
    "torchvision::deform_conv2d": _deformable,
    "_trilinear": _bilinear,
    "native_batch_norm": _batch_norm,
    **dict.fromkeys(
        words("_fused_rms_norm _weight_norm_interface native_group_norm native_layer_norm"),
        _other_norm,
    ),
    **dict.fromkeys(
        words("avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices"), _windows
    ),
    **dict.fromkeys(
        words("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d"),
        _bins,
    ),
    **dict.fromkeys(
        words(
            "amax amin argmax argmin linalg_vector_norm logsumexp max mean min prod std sum var"
            " var_mean"
        ),
        _reduction,
    ),
    "upsample_linear1d": _mixed(2),
    "upsample_bilinear2d": _mixed(4),
    "_upsample_bilinear2d_aa": _mixed(4),
    "grid_sampler_2d": _mixed(4),
    "upsample_trilinear3d": _mixed(8),
    "grid_sampler_3d": _mixed(8),
    "upsample_bicubic2d": _mixed(16),
    **dict.fromkeys(words("_log_softmax _safe_softmax _softmax cumsum glu"), _softmax),
}

# Values that are only moved, repeated or made from nothing.
_MOVES = words(
    "_to_copy _unsafe_view arange as_strided cat channel_shuffle clone col2im constant_pad_nd copy"
    " embedding empty empty_like empty_strided eye fill flip full full_like gather im2col index"
    " index_copy index_fill index_put index_select linspace max_unpool2d max_unpool3d new_empty"
    " new_full new_ones new_zeros ones ones_like pixel_shuffle pixel_unshuffle rand randn"
    " reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d"
    " replication_pad2d replication_pad3d roll scalar_tensor scatter sort squeeze stack topk"
    " transpose tril triu unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d"
    " upsample_nearest3d zero zeros zeros_like"
)
