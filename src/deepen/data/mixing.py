"""Mixed pictures: mixup (Zhang et al. 2017) and CutMix (Yun et al. 2019), in neighbouring pairs.

The partner of the picture at position k of a batch is the one at k xor 1, its neighbour; both take
the same draws, those of the sample at the even position. The order of an epoch is random already,
so neighbours are as random as a shuffle of the batch, and any split of the batch into contiguous
parts that begin at even positions (over processes, say) mixes the same pairs in the same way. A
picture whose partner is missing, at the odd end of a batch or undecodable, stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from deepen.data.randomness import uniforms

_STREAM = 1
_DRAWS = 5  # whether, which of the two, lambda, and the box's centre


class Mixing(BaseModel):
    """Which training pictures are mixed, and how; neither, unless its alpha is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mixup: float = Field(default=0.0, ge=0)
    """Alpha of the Beta(alpha, alpha) that mixup's shares are drawn from (Zhang et al.: 0.2)."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of CutMix's (Yun et al.: 1)."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Of a pair to be mixed at all."""
    switch: float = Field(default=0.5, ge=0, le=1)
    """Where both are on, the share of CutMix among the mixed pairs."""

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


class Mixed(NamedTuple):
    """A mixed batch.

    Attributes:
        images: float32 (B, C, H, W), channels last.
        labels: int64 (B,), of the class with the greater share.
        shares: float32 (B, K) of the classes; they sum to 1.
    """

    images: Tensor
    labels: Tensor
    shares: Tensor


def mix(
    mixing: Mixing,
    images: Tensor,
    labels: Tensor,
    kept: Tensor,
    asked: Tensor,
    *,
    num_classes: int,
    seed: int,
    epoch: int,
) -> Mixed:
    """Mix a batch.

    Args:
        mixing: how.
        images: float32 (B, C, H, W), normalized.
        labels: int64 (B,).
        kept: int64 (B,) on the CPU, the samples in `images`.
        asked: int64 (A,) on the CPU, the samples of the batch, those that were left out too.
        num_classes: K.
        seed: of the run.
        epoch: counted from 0.
    """
    device = images.device
    partner, first = _pairs(kept, asked)
    alone = partner == torch.arange(len(kept))
    u = uniforms(seed, epoch, first, _DRAWS, _STREAM).double() + 2**-25  # never 0 or 1
    whether, which, quantile, *center = u.unbind(1)
    cut = which < (mixing.switch if mixing.mixup and mixing.cutmix else bool(mixing.cutmix))
    share = torch.where(
        cut, _beta_quantile(mixing.cutmix, quantile), _beta_quantile(mixing.mixup, quantile)
    )
    share[alone | (whether >= mixing.probability)] = 1.0
    box = _box(share, images.shape[2:], *center)
    box[~cut] = 0
    share = torch.where(cut, 1 - _area(box) / images[0, 0].numel(), share).float().to(device)
    keep = torch.where(cut.to(device)[:, None, None], _outside(box, images), share[:, None, None])
    partner = partner.to(device)
    other, own = labels[partner], share[:, None]
    return Mixed(
        torch.lerp(images[partner], images, keep[:, None]),
        torch.where(share >= 0.5, labels, other),
        own * F.one_hot(labels, num_classes) + (1 - own) * F.one_hot(other, num_classes),
    )


def _pairs(kept: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture's partner, a place in the batch, and the sample at its pair's even position."""
    position = torch.isin(asked, kept).nonzero()[:, 0]
    own = torch.arange(len(kept))
    place = torch.full((len(asked) + 1,), -1).index_copy(0, position, own)
    partner = place[position ^ 1]
    return torch.where(partner < 0, own, partner), asked[position & ~1]


def _beta_quantile(alpha: float, u: Tensor) -> Tensor:
    """Beta(alpha, alpha) by the inverse of its distribution function, in float64."""
    if alpha == 0:
        return torch.ones_like(u)
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, u.numpy()))


def _box(share: Tensor, size: torch.Size, down: Tensor, across: Tensor) -> Tensor:
    """Top, bottom, left, right, int64 (B, 4): sides of sqrt(1 - share), cut at the picture's edge.

    Its centre is anywhere in the picture. Odd sides stay odd, as in timm; the authors' code makes
    them even.
    """
    edges = []
    for length, center in zip(size, (down, across), strict=True):
        side = (length * (1 - share).sqrt()).long()
        middle = (center * length).long()
        edges += [(middle - side // 2).clamp(min=0), (middle + (side + 1) // 2).clamp(max=length)]
    return torch.stack(edges, 1)


def _area(box: Tensor) -> Tensor:
    top, bottom, left, right = box.double().unbind(1)
    return (bottom - top) * (right - left)


def _outside(box: Tensor, images: Tensor) -> Tensor:
    """1 outside the boxes and 0 inside, float32 (B, H, W)."""
    top, bottom, left, right = box.to(images.device)[:, :, None, None].unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)[:, None]
    columns = torch.arange(images.shape[3], device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return (~inside).float()
