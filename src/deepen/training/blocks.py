"""The blocks of a recipe; one that may be of several kinds is a union, each with its own fields.

Which kind is meant, a block says in its `name` (the input's in `normalize`); the first is taken
where it says nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator


class Block(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A part of a recipe: nothing but its own keys, unchangeable once read."""


class Length(Block, frozen=True):
    """How long to train: epochs (passes over the training pictures) or steps, one of the two."""

    epochs: int | None = Field(default=None, ge=1, le=10**9)
    steps: int | None = Field(default=None, ge=1, le=10**12)

    @model_validator(mode="after")
    def _exactly_one(self) -> Length:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class _Optimizer(Block, frozen=True):
    """What all optimizers have."""

    name: str
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_vectors: bool = True  # False: biases and batch norm's scales are not decayed


class Sgd(_Optimizer, frozen=True):
    """torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov goes with a momentum above 0; or nesterov: false")
        return self


class AdamW(_Optimizer, frozen=True):
    """torch.optim.AdamW."""

    name: Literal["adamw"] = "adamw"
    eps: float = Field(default=1e-8, gt=0)


class RmsProp(_Optimizer, frozen=True):
    """torch.optim.RMSprop."""

    name: Literal["rmsprop"] = "rmsprop"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    alpha: float = Field(default=0.99, ge=0, lt=1)  # of the mean square
    eps: float = Field(default=1e-8, gt=0)


Optimizer = Annotated[Sgd | AdamW | RmsProp, Field(discriminator="name")]


class _PerStep(Block, frozen=True):
    """A schedule that depends on the step alone.

    It begins with warmup_steps at warmup_factor (constant) or rising from there (linear).
    """

    name: str
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.1, gt=0, le=1)
    warmup: Literal["linear", "constant"] = "linear"


class Constant(_PerStep, frozen=True):
    """The learning rate stays at `optimizer.lr`."""

    name: Literal["constant"] = "constant"


class Steps(_PerStep, frozen=True):
    """The learning rate is multiplied by gamma at each milestone."""

    name: Literal["steps"] = "steps"
    milestones: tuple[float, ...] = Field(min_length=1)  # fractions of the whole
    gamma: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Steps:
        if any(not 0 < point < 1 for point in self.milestones):
            raise ValueError("milestones are fractions of the whole, between 0 and 1")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones must rise")
        return self


class Cosine(_PerStep, frozen=True):
    """The learning rate falls as half a cosine down to 0."""

    name: Literal["cosine"] = "cosine"


class Plateau(Block, frozen=True):
    """The rate times gamma after `patience` epochs without a better validation accuracy."""

    name: Literal["plateau"] = "plateau"
    gamma: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)


Schedule = Annotated[Constant | Steps | Cosine | Plateau, Field(discriminator="name")]


class _Loss(Block, frozen=True):
    """A loss on logits divided by `temperature`."""

    name: str
    temperature: float = Field(default=1.0, gt=0)


def _class_weights(said: object) -> object:
    numbers = isinstance(said, list | tuple) and all(isinstance(n, int | float) for n in said)
    if said not in ("none", "balanced") and not (numbers and said and min(said) > 0):  # type: ignore
        raise ValueError("none, balanced, or a number above 0 for each class")
    return said


ClassWeights = Annotated[
    Literal["none", "balanced"] | tuple[float, ...], BeforeValidator(_class_weights)
]
"""What a picture's loss counts by its class: `balanced` is 1 over the class's training pictures.

Their ratios matter alone: they are scaled so that the training pictures' mean is 1. The loss is the
mean over pictures, not over weights, so that parts of a batch add up to the whole.
"""


class CrossEntropy(_Loss, frozen=True):
    """Cross-entropy over the classes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: ClassWeights = "none"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class Map(_Loss, frozen=True):
    """LeCun et al. 1998, eq. 9, with a rubbish class of the constant logit -rubbish."""

    name: Literal["map"] = "map"
    rubbish: float


class Bce(_Loss, frozen=True):
    """Binary cross-entropy of every class by itself, averaged over the classes.

    Shares of mixed pictures above `threshold` count as 1 and others as 0 (Wightman, Touvron & Jegou
    2021, section 2.2).
    """

    name: Literal["bce"] = "bce"
    class_weights: ClassWeights = "none"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    threshold: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Bce:
        if self.threshold is not None and self.label_smoothing:
            raise ValueError("threshold goes without label_smoothing")
        return self


Loss = Annotated[CrossEntropy | Map | Bce, Field(discriminator="name")]


Side = Annotated[int, Field(ge=1, le=2**15)]


class _Input(Block, frozen=True):
    """What the network sees: left out, deepen chooses by the network and the data."""

    normalize: str
    size_px: Side | tuple[Side, Side] | None = None  # of both sides, or [height, width]
    resize: Literal["auto", "none", "shorter", "squash"] = "auto"
    pad_px: int | None = Field(default=None, ge=0)
    white: int | None = Field(default=None, ge=1)  # of pictures of more than 8 bits: 4095 of 12


class _Centred(_Input, frozen=True):
    """Pictures whose mean is 0.

    scale: what white is above black then, 255 in papers that only subtract a mean; it takes the
    place of the standard deviation.
    """

    scale: float | None = Field(default=None, gt=0)


class PerChannel(_Centred, frozen=True):
    """Each channel of the training set to mean 0 and standard deviation 1."""

    normalize: Literal["channel"] = "channel"


class PerPixel(_Centred, frozen=True):
    """Minus the mean picture of the training set."""

    normalize: Literal["pixel"] = "pixel"


class ToRange(_Input, frozen=True):
    """Black to the first and white to the second of `range`."""

    normalize: Literal["range"] = "range"
    range: tuple[float, float]

    @model_validator(mode="after")
    def _possible(self) -> ToRange:
        if self.range[0] >= self.range[1]:
            raise ValueError("range must rise")
        return self


Input = Annotated[PerChannel | PerPixel | ToRange, Field(discriminator="normalize")]


class Ema(Block, frozen=True):
    """An exponential moving average of the weights, evaluated and saved in their place.

    After each step average = decay * average + (1 - decay) * weights. With `warmup` the decay of
    step t is at most (1 + t) / (10 + t), as in TensorFlow, so that a short run forgets its start.
    """

    decay: float | None = Field(default=None, gt=0, lt=1)  # None: no average
    warmup: bool = False


class Finetune(Block, frozen=True):
    """What fine-tuning holds back.

    freeze: names of layers, or what they begin with up to a dot ("layer1" means layer1.0 too); they
    are not trained, and run as at evaluation, so batch norm keeps its statistics. lr_decay: each
    stage learns at this share of the rate of the stage after it (Howard & Ruder 2018, section 3.2).
    """

    freeze: tuple[str, ...] = ()
    lr_decay: float = Field(default=1.0, gt=0, le=1)


class _Init(Block, frozen=True):
    """Where the weights start.

    first, last: of the weights that `--init-from` names, so many layers from the input on and so
    many up to the head are copied (Simonyan & Zisserman 2014, section 3.1: 4 and 3); without them
    every layer of the same name and shape.
    """

    name: str
    first: int | None = Field(default=None, ge=0)
    last: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _both(self) -> _Init:
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last go together")
        return self


class PaperInit(_Init, frozen=True):
    """As the network's own paper has it."""

    name: Literal["paper"] = "paper"


class NormalInit(_Init, frozen=True):
    """N(0, std^2), biases 0."""

    name: Literal["normal"] = "normal"
    std: float = Field(gt=0)


class HeInit(_Init, frozen=True):
    """N(0, 2 / fan_in), biases 0 (He et al. 2015b)."""

    name: Literal["he"] = "he"


Init = Annotated[PaperInit | NormalInit | HeInit, Field(discriminator="name")]


class Span(Block, frozen=True):
    """Where a search looks: from low to high, evenly or evenly in the logarithm, or among choices.

    Whole numbers only, where low and high are whole.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Span:
        if self.low is None or self.high is None:
            if not self.choices or self.log or self.low is not None or self.high is not None:
                raise ValueError("give low and high, or choices")
        elif self.choices:
            raise ValueError("give low and high, or choices")
        elif self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("high must be above low, and low above 0 where log is true")
        return self
