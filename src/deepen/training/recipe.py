"""A recipe: everything that decides how a network is trained, as a checked YAML file.

A recipe of a paper says in comments which section each line comes from. Lengths are in epochs or,
as most papers have it, in steps (iterations); points of the schedule are fractions of the whole, so
that a shortened run keeps the shape of its schedule.
"""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepen.data.augment import Augmentation
from deepen.data.mixing import Mixing
from deepen.errors import InputError, unknown


class Block(BaseModel):
    """A part of a recipe: nothing but its own keys, unchangeable once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Length(Block):
    """How long to train: epochs (passes over the training pictures) or steps, one of the two."""

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Length:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class Optimizer(Block):
    """torch.optim's, by name."""

    name: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    alpha: float = Field(default=0.99, ge=0, lt=1)  # of rmsprop's mean square
    eps: float = Field(default=1e-8, gt=0)  # of adamw and rmsprop
    weight_decay: float = Field(default=0.0, ge=0)
    decay_vectors: bool = True  # False: biases and batch norm's scales are not decayed

    @model_validator(mode="after")
    def _possible(self) -> Optimizer:
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov goes with a momentum above 0; or nesterov: false")
        return self


class Schedule(Block):
    """The learning rate against time, as a factor of `optimizer.lr`.

    steps: times gamma at each milestone; cosine: half a cosine down to 0; plateau: times gamma
    after `patience` epochs without a smaller validation error; constant. Before it a warm-up of
    warmup_steps at warmup_factor (constant) or rising from there (linear).
    """

    name: Literal["constant", "steps", "cosine", "plateau"] = "constant"
    milestones: tuple[float, ...] = ()  # fractions of the whole
    gamma: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.1, gt=0, le=1)
    warmup: Literal["linear", "constant"] = "linear"

    @model_validator(mode="after")
    def _possible(self) -> Schedule:
        if (self.name == "steps") != bool(self.milestones):
            raise ValueError("milestones go with name: steps, and only with it")
        if any(not 0 < point < 1 for point in self.milestones):
            raise ValueError("milestones are fractions of the whole, between 0 and 1")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones must rise")
        if self.name == "plateau" and self.warmup_steps:
            raise ValueError("warmup_steps does not go with name: plateau")
        return self


class Loss(Block):
    """What is minimised, on logits divided by `temperature`.

    cross_entropy, or map: LeCun et al. 1998, eq. 9, with a rubbish class of the constant logit
    -rubbish beside the others; or bce: binary cross-entropy of every class by itself, averaged over
    the classes, where shares of mixed pictures above `threshold` count as 1 and others as 0
    (Wightman, Touvron & Jegou 2021, section 2.2).
    """

    name: Literal["cross_entropy", "map", "bce"] = "cross_entropy"
    temperature: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    rubbish: float | None = None
    threshold: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Loss:
        if (self.name == "map") != (self.rubbish is not None):
            raise ValueError("rubbish goes with name: map, and only with it")
        if self.name == "map" and self.label_smoothing:
            raise ValueError("label_smoothing does not go with name: map")
        if self.threshold is not None and (self.name != "bce" or self.label_smoothing):
            raise ValueError("threshold goes with name: bce, and without label_smoothing")
        return self


class Input(Block):
    """What the network sees: left out, deepen chooses by the network and the data.

    normalize: per channel to mean 0 and standard deviation 1 (channel), minus the mean picture of
    the training set (pixel), or black to the first and white to the second of `range`. scale: what
    white is above black then, 255 in papers that only subtract a mean; it takes the place of the
    standard deviation.
    """

    size_px: int | None = Field(default=None, ge=1)
    resize: Literal["auto", "none", "shorter", "squash"] = "auto"
    pad_px: int | None = Field(default=None, ge=0)
    normalize: Literal["channel", "pixel", "range"] = "channel"
    range: tuple[float, float] | None = None
    scale: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> Input:
        if self.scale is not None and self.normalize == "range":
            raise ValueError("scale does not go with normalize: range")
        if (self.normalize == "range") != (self.range is not None):
            raise ValueError("range goes with normalize: range, and only with it")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range must rise")
        return self


class Ema(Block):
    """An exponential moving average of the weights, evaluated and saved in their place.

    After each step average = decay * average + (1 - decay) * weights. With `warmup` the decay of
    step t is at most (1 + t) / (10 + t), as in TensorFlow, so that a short run forgets its start.
    """

    decay: float | None = Field(default=None, gt=0, lt=1)  # None: no average
    warmup: bool = False


class Finetune(Block):
    """What fine-tuning holds back.

    freeze: names of layers, or what they begin with up to a dot ("layer1" means layer1.0 too); they
    are not trained, and run as at evaluation, so batch norm keeps its statistics. lr_decay: each
    stage learns at this share of the rate of the stage after it (Howard & Ruder 2018, section 3.2).
    """

    freeze: tuple[str, ...] = ()
    lr_decay: float = Field(default=1.0, gt=0, le=1)


class Init(Block):
    """Where the weights start.

    name: as the network's own paper has it (paper); N(0, std^2) with biases 0 (normal); or He et
    al. 2015b's N(0, 2 / fan_in) with biases 0 (he). first, last: of the weights that `--init-from`
    names, so many layers from the input on and so many up to the head are copied (Simonyan &
    Zisserman 2014, section 3.1: 4 and 3); without them every layer of the same name and shape.
    """

    name: Literal["paper", "normal", "he"] = "paper"
    std: float | None = Field(default=None, gt=0)
    first: int | None = Field(default=None, ge=0)
    last: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Init:
        if (self.name == "normal") != (self.std is not None):
            raise ValueError("std goes with name: normal, and only with it")
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last go together")
        return self


class Span(Block):
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


class Recipe(Block):
    """A whole recipe; see the package's `recipes/` for those of the papers."""

    task: str = "classification"  # or package.module:factory (deepen.training.task)
    length: Length
    batch_size: int = Field(default=128, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    augment: Augmentation = Augmentation()
    mix: Mixing = Mixing()
    ema: Ema = Ema()
    finetune: Finetune = Finetune()
    input: Input = Input()
    init: Init = Init()
    search: dict[str, Span] = {}  # what `deepen search` may change: a dotted key and where it looks
    validation: int | None = Field(
        default=None, ge=0
    )  # pictures held out of training; None: the source's
    scored: Literal["val", "test"] = "val"
    """The split that is scored after each epoch: `val`, which the epoch is chosen on; or `test`, as
    papers plot it: then nothing is chosen, and the last epoch counts."""
    early_stopping: int | None = Field(
        default=None, ge=1
    )  # epochs without a better one on validation
    accumulate: int = Field(default=1, ge=1)  # parts a batch goes through the network in
    clip_norm: float | None = Field(default=None, gt=0)
    # How it computes; left out, deepen chooses (deepen.training.speed)
    amp: bool | None = None  # bfloat16 autocast
    channels_last: bool | None = None
    compile: bool | None = None
    cuda_graph: bool | None = None
    max_bad_pictures: float = Field(
        default=0.05, ge=0, le=1
    )  # share of the files, above it the run stops

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if self.mix.active and self.loss.name == "map":
            raise ValueError("mix does not go with loss.name: map")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: more parts than the {self.batch_size} of batch_size")
        if self.validation == 0 or self.scored == "test":
            without = "validation is 0" if self.validation == 0 else "scored is test"
            needs = {
                "early_stopping": self.early_stopping is not None,
                "schedule.name: plateau": self.schedule.name == "plateau",
            }
            for key, used in needs.items():
                if used:
                    raise ValueError(f"{key} needs validation pictures, but {without}")
        for dotted in self.search:
            _check_key(dotted)
        return self


def _check_key(dotted: str) -> None:
    """Refuse what is no field of a recipe.

    Raises:
        ValueError: names the nearest field.
    """
    block: type[BaseModel] | None = Recipe
    path = dotted.split(".")
    for depth, key in enumerate(path):
        known = {} if block is None else block.model_fields
        if key not in known or key in ("search", "init", "seed"):
            near = [] if block is None else _dotted(block, tuple(path[:depth]))
            raise ValueError(f"search: {unknown('key', dotted, near)}")
        kind = known[key].annotation
        block = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    if block is not None:
        raise ValueError(f"search: {dotted} is a block; name one of its fields")


def list_recipes() -> list[str]:
    """Names of the recipes that ship with deepen."""
    folder = resources.files("deepen.training") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[0] != "_")


def recipe_text(name: str) -> str:
    """A recipe that ships with deepen, as it was written."""
    return (resources.files("deepen.training") / "recipes" / f"{name}.yaml").read_text("utf-8")


def recipe_source(name: str) -> tuple[str, str]:
    """Where a recipe that ships with deepen comes from, and what it is for: its first comment."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), recipe_text(name).splitlines())
    words = " ".join(line.removeprefix("#").strip() for line in lines)
    source, _, purpose = words.partition(" For: ")
    return source.rstrip("."), purpose


def load_recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or path and apply `changes`, {"optimizer.lr": 0.1} say.

    Raises:
        InputError: no such recipe, or one line for the first key that is unknown or impossible.
    """
    if name in list_recipes():
        text = recipe_text(name)
    elif Path(name).is_file():
        text = Path(name).read_text("utf-8")
    elif name.endswith((".yaml", ".yml")):
        raise InputError(f"recipe {name}: no such file")
    else:
        raise unknown("recipe", name, list_recipes())
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name}: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise InputError(f"recipe {name}: is no mapping of keys to values")
    return build_recipe(name, fields, changes)


def build_recipe(name: str, fields: dict[str, Any], changes: dict[str, Any] | None) -> Recipe:
    """A checked `Recipe` of plain fields and dotted changes; `name` is for the messages."""
    for dotted, value in (changes or {}).items():
        block, *path = fields, *dotted.split(".")
        for key in path[:-1]:
            block = block.setdefault(key, {})
            if not isinstance(block, dict):
                raise InputError(f"recipe {name}: {key} has no fields")
        if path[0] == "length":  # epochs and steps exclude each other: the later word counts
            block.clear()
        block[path[-1]] = value
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        block: Any = Recipe
        for key in problem["loc"][:-1]:
            within = get_args(block)  # of a dict, what its values are
            block = within[1] if within else block.model_fields[key].annotation
        block = get_args(block)[1] if get_args(block) else block
        return str(unknown("key", where, _dotted(block, problem["loc"][:-1])))
    text = problem["msg"].removeprefix("Value error, ")
    got = "" if isinstance(problem["input"], dict | BaseModel) else f", got {problem['input']!r}"
    return f"{where}: {text}{got}" if where else text


def _dotted(block: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    return [".".join([*map(str, path), key]) for key in block.model_fields]
