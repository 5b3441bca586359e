"""Random numbers without a state: pure functions of (seed, epoch, index of the sample).

A counter-based generator in the sense of Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3": each sample of each epoch hashes its own counters, so neither batches, nor workers, nor a
resume change what it gets. The hash is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators") in wrapping int64, whose bits are the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as int64, like the multipliers below
_ORDER = -1  # the first stream that permutations are drawn from, downwards


def uniforms(seed: int, epoch: int, indices: Tensor, num: int, stream: int = 0) -> Tensor:
    """Draw `num` uniform numbers for each sample: float32 (N, num) in [0, 1), multiples of 2^-24.

    Args:
        seed: of the run.
        epoch: counted from 0.
        indices: int64 (N,), which samples; the numbers come on their device.
        num: draws a sample; the first draws do not depend on how many there are.
        stream: other streams hold other numbers (0 or more).
    """
    counters = torch.arange(1, num + 1, device=indices.device) * _GOLDEN
    bits = _mix(_sample_bits(seed, epoch, indices, stream)[:, None] + counters)
    return _shift_right(bits, 40).float() * 2**-24


def random_bytes(seed: int, epoch: int, indices: Tensor, num: int, stream: int) -> Tensor:
    """Draw `num` bytes for each sample: uint8 (N, num); the arguments are those of `uniforms`."""
    counters = torch.arange(1, -(-num // 8) + 1, device=indices.device) * _GOLDEN
    bits = _mix(_sample_bits(seed, epoch, indices, stream)[:, None] + counters)
    return bits.view(torch.uint8)[:, :num]


def permutation(seed: int, epoch: int, n: int, stream: int = 0) -> Tensor:
    """Shuffle 0 ... n-1 for an epoch: int64 (n,), on the CPU; other streams, other shuffles."""
    return _sample_bits(seed, epoch, torch.arange(n), _ORDER - stream).argsort(stable=True)


def _sample_bits(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """64 well mixed bits for each index."""
    bits = torch.zeros((), dtype=torch.int64, device=indices.device)
    for word in (seed, stream, epoch):
        bits = _mix(bits + word + _GOLDEN)
    return _mix(bits + indices * _GOLDEN)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finalizer, a bijection of 64 bits."""
    bits = (bits ^ _shift_right(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shift_right(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift unsigned; int64's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
