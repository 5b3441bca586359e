"""Blocks that two or more papers share, and what every network offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError, unknown

Layer = str | Callable[[Tensor], Tensor]
"""A step of a network: the path of a module in it ("features.0"), or a function of its input."""

Stages = dict[str, tuple[Layer, ...]]
"""A network's stages in order, in its paper's words, each with the layers that it is made of."""


def stages(**layers: tuple[Layer, ...]) -> Stages:
    """A table of stages, written as keywords."""
    return layers


class ImageClassifier(nn.Module):
    """A network as its users see it: stages that make features, a head that makes logits of them.

    A subclass sets `in_channels`, `num_classes`, `num_features`, `min_px`, gives `stage_layers`
    and `forward_head`, and names its last linear layer in `classifier_name` (a path, "fc" or
    "classifier.6"; `classifier` itself is left free, torchvision calls modules so).

    A stage's output is what the paper means by it: after the non-linearity that follows its last
    layer. Pooling and response normalization are stages of their own where the paper, or the
    authors' release, gives them a name (`pool1`, `S2`); else they belong to the stage in whose row
    of the table they stand (the max pooling of ResNet opens `conv2_x`).

    Attributes:
        stage_layers: the stages; the one table of what runs before the head, and in which order.
        in_channels: channels of the input.
        num_classes: length of a row of logits.
        num_features: length of a row of pre-logits.
        averages_maps: whether the head begins with the mean of each map; else with all values.
        input_size: (height, width) in px where the network is fixed to one, else None.
        min_px: least height and width of the input.
        dropout_p: share of the pre-logits that training drops before the last linear layer.
        auxiliary_classifiers: the stage that each looks at and its path; only training uses them,
            in training mode such a network returns (logits, *auxiliary logits).
        auxiliary_classifier_names: the last linear layer of each.
        auxiliary_weight: of each auxiliary loss, added to the loss of the logits.
    """

    classifier_name = "fc"
    dropout_p: float = 0.0
    auxiliary_classifiers: tuple[tuple[str, str], ...] = ()
    auxiliary_classifier_names: tuple[str, ...] = ()
    auxiliary_weight: float = 0.0
    stage_layers: Stages = stages()
    in_channels: int
    num_classes: int
    num_features: int
    averages_maps: bool = True
    features: nn.Sequential
    input_size: tuple[int, int] | None = None
    min_px: int = 1

    def _add_stage(self, name: str, *layers: nn.Module) -> None:
        """Append a stage's layers to `self.features`, a Sequential, and the stage to the table."""
        first = len(self.features)
        self.features.extend(layers)
        paths = tuple(f"features.{i}" for i in range(first, len(self.features)))
        self.stage_layers = {**self.stage_layers, name: paths}

    def forward_stage(self, name: str, x: Tensor) -> Tensor:
        """What one stage makes of the output of the stage before it."""
        for layer in self.stage_layers[name]:
            x = self.get_submodule(layer)(x) if isinstance(layer, str) else layer(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to features: all stages, one after the other."""
        if not self.stage_layers:
            raise TypeError(f"{type(self).__name__} does not say what its features are")
        for name in self.stage_layers:
            x = self.forward_stage(name, x)
        return x

    def forward_intermediates(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Outputs of some stages; runs no further than the last of them.

        Copies, which what follows in place (`F.relu(x, inplace=True)`) does not overwrite.

        Args:
            x: images (B, C, H, W).
            names: of `stage_layers`.

        Returns:
            Of each named stage, in the network's order, its maps (B, c, h, w) or units (B, c).

        Raises:
            InputError: a name that is no stage's, or an input that the network does not take.
        """
        wanted, found = set(names), dict[str, Tensor]()
        for name in wanted - self.stage_layers.keys():
            raise unknown("stage", name, self.stage_layers)
        self.check_input(x)
        for name in self.stage_layers:
            if len(found) == len(wanted):
                break
            x = self.forward_stage(name, x)
            if name in wanted:
                found[name] = x.clone()
        return found

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits (B, num_classes); with `pre_logits` to (B, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1) if self.averages_maps else features
        pooled = pooled.flatten(1)
        if pre_logits:
            return pooled
        kept = F.dropout(pooled, self.dropout_p, self.training)
        return self.get_submodule(self.classifier_name)(kept)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images (B, C, H, W) to logits (B, num_classes).

        A network with auxiliary classifiers returns (logits, *auxiliary logits) in training mode.

        Raises:
            InputError: the number of channels or the size is none that the network takes.
        """
        self.check_input(x)
        if not (self.training and self.auxiliary_classifiers):
            return self.forward_head(self.forward_features(x))
        maps: dict[str, Tensor] = {}
        for name in self.stage_layers:
            x = maps[name] = self.forward_stage(name, x)
        logits = self.forward_head(x)
        seen = ((path, maps[stage]) for stage, path in self.auxiliary_classifiers)
        return (logits, *(self.get_submodule(path)(x) for path, x in seen))

    def check_input(self, x: Tensor) -> None:
        """Refuse, in words, what the layers would refuse in theirs (or silently misread)."""
        _check_input(x, type(self).__name__, self.in_channels, self.input_size, self.min_px)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer for `num_classes` classes; the features keep their weights."""
        for name in (self.classifier_name, *self.auxiliary_classifier_names):
            old = self.get_submodule(name)
            if not isinstance(old, nn.Linear):
                raise InputError(f"{type(self).__name__} has a fixed output and cannot be reset")
            fresh = nn.Linear(old.in_features, num_classes, device=old.weight.device)
            init_he(fresh)
            self.set_submodule(name, fresh.to(old.weight.dtype))
        self.num_classes = num_classes


def _check_input(
    x: Tensor, name: str, in_channels: int, input_size: tuple[int, int] | None, min_px: int
) -> None:
    if x.ndim != 4:
        raise InputError(f"{name} takes a batch (B, C, H, W), got shape {tuple(x.shape)}")
    channels, height, width = x.shape[1:]
    if channels != in_channels:
        raise InputError(f"{name} takes {in_channels} input channels, got {channels}")
    if input_size is not None and (height, width) != tuple(input_size):
        want = "x".join(map(str, input_size))
        raise InputError(f"{name} takes pictures of {want} px, got {height}x{width}")
    if min(height, width) < min_px:
        raise InputError(f"{name} takes pictures of {min_px} px at least, got {height}x{width}")


torch.fx.wrap("_check_input")  # a symbolic tracer keeps the call; it cannot follow the branches


def stage_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of each stage and each part of the head, from the input on; none is in two.

    A network that names no stages has its children for them, and of one called `features` each
    child. What lies in none of these, but in the network itself, comes first, as "".
    """
    stages = model.stage_layers if isinstance(model, ImageClassifier) else {}
    parts: list[tuple[str, list[nn.Module]]] = [
        (name, [model.get_submodule(layer) for layer in layers if isinstance(layer, str)])
        for name, layers in stages.items()
    ]
    for name, child in model.named_children():
        inner = child.named_children() if name == "features" else [("", child)]
        parts += [(f"{name}.{key}".rstrip("."), [part]) for key, part in inner]
    found: dict[str, list[nn.Parameter]] = {}
    listed: set[int] = set()
    for name, modules in parts:
        fresh = {id(p): p for module in modules for p in module.parameters()}
        found.setdefault(name, []).extend(p for key, p in fresh.items() if key not in listed)
        listed |= fresh.keys()
    own = [p for p in model.parameters() if id(p) not in listed]
    return {name: held for name, held in {"": own, **found}.items() if held}


def flatten(x: Tensor) -> Tensor:
    """(B, ...) to (B, all values of one)."""
    return x.flatten(1)


class ConvBNReLU(nn.Module):
    """A convolution without bias, batch norm, ReLU: the layer of all Inceptions from v2 on.

    Its batch norm has epsilon 1e-3, as in Google's released networks.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: odd, one or (height, width).
        stride: in both directions.
        valid: no padding (the "V" in the papers' figures), else half a kernel on each side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        *,
        valid: bool = False,
    ) -> None:
        super().__init__()
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        padding = (0, 0) if valid else (height // 2, width // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class LocalResponseNorm(nn.Module):
    """Krizhevsky et al. 2012, section 3.3: each value is damped by its neighbours among the maps.

    b_i = a_i / (k + alpha * sum of a_j^2)^beta, the sum over the maps i - n/2 ... i + n/2 that
    exist, at the same pixel. `torch.nn.LocalResponseNorm` and Caffe divide alpha by n; here, as in
    the paper, it is not: their alpha is n times this one. Sums in float32 at least: in float16 a
    value of 256 squared is infinite.

    Args:
        size: n; n/2 is rounded down.
        alpha: weight of the sum of squares.
        beta: exponent.
        k: what the sum is added to.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        a = _float32_at_least(x)
        reach, channels = self.size // 2, x.shape[1]
        squares = F.pad(a.square(), (0, 0, 0, 0, reach, reach))  # zeros for the maps beyond
        sums = squares[:, :channels]
        for shift in range(1, 2 * reach + 1):
            sums = sums + squares[:, shift : shift + channels]
        return (a * (self.k + self.alpha * sums).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        """The four constants, for print."""
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _float32_at_least(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


torch.fx.wrap("_float32_at_least")  # a symbolic tracer does not know the type


class Branches(nn.Module):
    """Inception's idea: every branch looks at the same input, their maps are stacked in order."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, sum of the branches' maps, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


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


def init_normal(module: nn.Module, std: float = 0.01, bias: float = 0.0) -> None:
    """Weights N(0, std^2), as papers before Glorot's had them; biases constant.

    Layers of other kinds are left alone, so that `module.apply(init_normal)` works too.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.constant_(module.bias, bias)


def init_fan_in(module: nn.Module) -> None:
    """Lecture 002: weights N(0, 1 / fan_in), biases 0, for saturating non-linearities.

    For use with `module.apply(init_fan_in)`; layers without weights are left alone.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Maxout(nn.Module):
    """The largest of each `pieces` neighbouring channels (Goodfellow et al. 2013, section 3).

    The layer before computes the pieces, so it needs `pieces` times as many channels.
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to (B, C / pieces, ...); of equal ones the first gets the gradient.

        Raises:
            InputError: the channels do not come in `pieces`.
        """
        _check_pieces(x, self.pieces)
        return x.unflatten(1, (-1, self.pieces)).max(2).values

    def extra_repr(self) -> str:
        """How many channels make one, for print."""
        return f"pieces={self.pieces}"


def _check_pieces(x: Tensor, pieces: int) -> None:
    if x.shape[1] % pieces:
        raise InputError(f"maxout of {pieces} pieces got {x.shape[1]} channels")


torch.fx.wrap("_check_pieces")


# The non-linearities of lecture 002 (and tanh, lecture 004) by name. Each keeps the shape of its
# input but maxout, which makes one channel of `Maxout().pieces`.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "swish": nn.SiLU,
    "maxout": Maxout,
}


class BedOfNails(nn.Module):
    """Lecture 002, "Upsampling Layers": values on a larger map of zeros.

    At the upper left corner of each block, or where max pooling remembered that it found them
    (`nn.MaxPool2d(scale, return_indices=True)`; Zeiler & Fergus 2013, section 2.1).
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and positions of that shape, to (B, C, scale H, scale W)."""
        if positions is not None:
            return F.max_unpool2d(x, positions, (self.scale, self.scale))
        rest = self.scale - 1
        blocks = F.pad(x[..., None, :, None], (0, rest, 0, 0, 0, rest))  # (B, C, H, s, W, s)
        return blocks.flatten(4).flatten(2, 3)

    def extra_repr(self) -> str:
        """How many times larger, for print."""
        return f"scale={self.scale}"


def sub_pixel(channels: int, scale: int) -> nn.Sequential:
    """A 3x3 convolution to scale^2 times the channels, laid out as grids (Shi et al. 2016)."""
    conv = nn.Conv2d(channels, channels * scale**2, 3, padding=1)
    return nn.Sequential(conv, nn.PixelShuffle(scale))


def transpose_convolution(channels: int, scale: int) -> nn.ConvTranspose2d:
    """3x3 stamps `scale` px apart; they overlap unevenly, which shows as a checkerboard."""
    return nn.ConvTranspose2d(channels, channels, 3, scale, padding=1, output_padding=scale - 1)


# The upsampling blocks of lecture 002 by name: (channels, scale) to a module that takes
# (B, channels, H, W) to (B, channels, scale H, scale W).
UPSAMPLING: dict[str, Callable[[int, int], nn.Module]] = {
    "nearest": lambda channels, scale: nn.Upsample(scale_factor=scale, mode="nearest"),
    "bed_of_nails": lambda channels, scale: BedOfNails(scale),
    "sub_pixel": sub_pixel,
    "transpose": transpose_convolution,
}
