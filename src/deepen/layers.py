"""Blocks that two or more papers share, and what every network offers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError


class ImageClassifier(nn.Module):
    """A network as its users see it: features, then a head that turns them into logits.

    A subclass sets `in_channels`, `num_classes`, `num_features`, `min_px`, gives `forward_features`
    and `forward_head`, and names its last linear layer in `classifier`.

    Attributes:
        in_channels: channels of the input.
        num_classes: length of a row of logits.
        num_features: length of a row of pre-logits.
        input_size: (height, width) in px where the network is fixed to one, else None.
        min_px: least height and width of the input.
    """

    classifier = "fc"
    in_channels: int
    num_classes: int
    num_features: int
    input_size: tuple[int, int] | None = None
    min_px: int = 1

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to features, (B, num_features, h, w) or (B, num_features)."""
        raise TypeError(f"{type(self).__name__} does not say what its features are")

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits (B, num_classes); with `pre_logits` to (B, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1) if features.ndim == 4 else features
        return pooled if pre_logits else self.get_submodule(self.classifier)(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, num_classes).

        Raises:
            InputError: the number of channels or the size is none that the network takes.
        """
        self.check_input(x)
        return self.forward_head(self.forward_features(x))

    def check_input(self, x: Tensor) -> None:
        """Refuse, in words, what the layers would refuse in theirs (or silently misread)."""
        name = type(self).__name__
        if x.ndim != 4:
            raise InputError(f"{name} takes a batch (B, C, H, W), got shape {tuple(x.shape)}")
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise InputError(f"{name} takes {self.in_channels} input channels, got {channels}")
        if self.input_size is not None and (height, width) != self.input_size:
            want = "x".join(map(str, self.input_size))
            raise InputError(f"{name} takes pictures of {want} px, got {height}x{width}")
        if min(height, width) < self.min_px:
            raise InputError(
                f"{name} takes pictures of {self.min_px} px at least, got {height}x{width}"
            )

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer for `num_classes` classes; the features keep their weights."""
        old = self.get_submodule(self.classifier)
        if not isinstance(old, nn.Linear):
            raise InputError(f"{type(self).__name__} has a fixed output and cannot be reset")
        fresh = nn.Linear(old.in_features, num_classes, device=old.weight.device)
        init_he(fresh)
        self.set_submodule(self.classifier, fresh.to(old.weight.dtype))
        self.num_classes = num_classes


def init_he(module: nn.Module) -> None:
    """He et al. 2015b, eq. 10: weights N(0, 2 / fan_in), biases 0; batch norm starts as identity.

    For use with `module.apply(init_he)`; layers of other kinds are left alone.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def init_fan_in(module: nn.Module) -> None:
    """Lecture 002: weights N(0, 1 / fan_in), biases 0, for saturating non-linearities.

    For use with `module.apply(init_fan_in)`; layers without weights are left alone.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
