"""What a user asks of a training, and where it runs: each word is declared here, and nowhere else.

The fields are the keywords of `deepen.train` and its relatives (`takes`) and, where they have an
`Option`, the options of the verbs (`deepen.cli.options`). Nothing heavy is imported: the command
line reads this file before it knows what it is asked for.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, MISSING, Field, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from deepen.errors import InputError

if TYPE_CHECKING:
    import torch

    from deepen.training.distributed import Processes
    from deepen.training.progress import Reporter

MAX_WORKERS = 1024  # processes; a slip of the finger must not bring a machine down

P = ParamSpec("P")
Words = TypeVar("Words")
Result = TypeVar("Result")


class Option(NamedTuple):
    """How the command line has a word: what it parses, its flags, what stands for its value."""

    kind: Any
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    least: int | None = None


def word(default: Any, about: str, option: Option | None = None) -> Any:
    """A field with its default, what it is, and its option if it has one."""
    metadata = {"about": about, "option": option}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _alone() -> Processes:
    from deepen.training.distributed import Processes

    return Processes()


def _silent() -> Reporter:
    from deepen.training.progress import Silent

    return Silent()


def _own(data: Any) -> Any:
    """What a user has in hand as a `PictureSet`; words and paths as they are."""
    if data is None or isinstance(data, str | Path):
        return data
    from deepen.data.own import pictures_of

    return pictures_of(data)


def _fill(words: Any) -> None:
    """None stands for the default of a word that is never None."""
    if hasattr(words, "data"):
        object.__setattr__(words, "data", _own(words.data))
    for each in fields(words):
        if each.default_factory is not MISSING and getattr(words, each.name) is None:
            object.__setattr__(words, each.name, each.default_factory())
    if getattr(words, "labels", None) is not None:
        _join_table(words)


def with_table(data: str, labels: str | Path) -> str:
    """A folder and the table of its labels in one word, `PHOTOS?labels=train.csv`.

    Where the table lies in the folder it is named from there, so that both can move.
    """
    table, _, columns = str(labels).partition("?")
    file, folder = Path(table).expanduser(), Path(data).expanduser()
    if file.is_file():
        inside = file.resolve().is_relative_to(folder.resolve())
        table = (
            file.resolve().relative_to(folder.resolve()) if inside else file.absolute()
        ).as_posix()
    said = urlencode({"labels": table, **dict(parse_qsl(columns))}, safe="/:\\ ", quote_via=quote)
    return f"{data}?{said}"


def _join_table(words: Any) -> None:
    """Where labels stand is part of what the data are, as it is of Parquet's columns."""
    if not isinstance(words.data, str | Path):
        raise InputError(f"--labels {words.labels}: goes with a folder of pictures")
    object.__setattr__(words, "data", with_table(str(words.data), words.labels))
    object.__setattr__(words, "labels", None)


@dataclass(frozen=True)
class Request:
    """What a user asks for; what is left open is chosen by the data (`deepen.training.plan`).

    `data` is a word, a path, or what `deepen.data.own.pictures_of` takes, which becomes a
    `PictureSet` here.
    """

    data: Any = word(
        None,
        "A folder of pictures (train/<class>/... and val/<class>/..., or <class>/...); Parquet "
        "files or a folder of them, or hf://owner/name; or digits, mnist, fashion-mnist, cifar10, "
        "cifar100. May be left out with --resume RUN.",
    )
    _: KW_ONLY
    model: str | None = word(
        None, "A name of `deepen models`, or package.module:factory of your own.", Option(str)
    )
    recipe: str | None = word(
        None, "A name of `deepen recipes`, or a YAML file.", Option(str, ("--recipe", "--config"))
    )
    changes: Mapping[str, Any] = word(dict, 'Of the recipe, {"optimizer.lr": 0.1} say.')
    weights: str | Path | None = word(
        None,
        "Trained weights to go on with; the recipe is finetune.",
        Option(str, metavar="FILE|imagenet"),
    )
    init_from: str | Path | None = word(
        None,
        "Weights to copy layers of, as the recipe's init says.",
        Option(str, metavar="FILE"),
    )
    data_dir: str | Path | None = word(None, "Where named data sets lie.", Option(Path))
    download: bool = word(
        False,
        "Fetch named data, hf://, or ImageNet weights for photos.",
        Option(bool, ("--download",)),
    )
    exclude: Collection[str] = word(
        tuple,
        "A list of pictures and boxes to leave out, of `deepen doctor --quarantine` or any other.",
        Option(Path),
    )
    labels: str | Path | None = word(
        None,
        "A table of the pictures' labels, CSV or JSON lines, beside or among them; with "
        "--task multilabel several labels a picture; "
        "FILE?image=COLUMN&label=COLUMN&split=COLUMN names columns.",
        Option(str, metavar="FILE"),
    )

    chooser: Any = word(
        None, "Fills in what is left open, as `deepen.training.choice.choose` does."
    )

    def __post_init__(self) -> None:
        _fill(self)

    @property
    def folder(self) -> Path | None:
        """`data_dir` as a path."""
        return None if self.data_dir is None else Path(self.data_dir)


@dataclass(frozen=True, kw_only=True)
class Where:
    """On what, and before whose eyes."""

    device: str | None = word(
        None, "cpu, cuda or mps; the fastest there is when left out.", Option(str)
    )
    workers: int | None = word(
        None,
        "Decoding processes; the result is the same.",
        Option(int, ("--workers", "-j"), least=0),
    )
    reporter: Reporter = word(_silent, "Shown what happens; of several processes, the first's.")

    def __post_init__(self) -> None:
        _fill(self)
        if self.workers is not None and not 0 <= self.workers <= MAX_WORKERS:
            raise InputError(f"--workers {self.workers}: 0 to {MAX_WORKERS}")

    @cached_property
    def place(self) -> torch.device:
        """The device.

        Raises:
            InputError: torch cannot use it here.
        """
        return pick_device(self.device)


@dataclass(frozen=True, kw_only=True)
class Here(Where):
    """Where a training runs, and who watches it."""

    cache_bytes: int = word(
        0,
        "Keep decoded pictures of files from epoch to epoch: 500M, 8G; the result is the same.",
        Option(str, ("--cache",), metavar="BYTES"),
    )
    tune: bool = word(
        False,
        "Measure which memory format, precision and compiling are the fastest here, and keep the "
        "choice in the recipe.",
        Option(bool, ("--tune",)),
    )
    command: str = word("", "Kept in environment.json.")
    processes: Processes = word(_alone, "Those that torchrun started; set by `among`.")

    @cached_property
    def place(self) -> torch.device:
        """The device of this process.

        Raises:
            InputError: torch cannot use it here.
        """
        return self.processes.place(pick_device(self.device))

    def among(self, processes: Processes) -> Here:
        """This place as one of several processes has it; the first alone speaks."""
        reporter = self.reporter if processes.rank == 0 else _silent()
        return self._as(reporter=reporter, processes=processes)

    def watched(self, reporter: Reporter) -> Here:
        """This place before another's eyes."""
        return self._as(reporter=reporter)

    def _as(self, **changed: Any) -> Here:
        return Here(**{each.name: getattr(self, each.name) for each in fields(Here)} | changed)


@dataclass(frozen=True, kw_only=True)
class Training(Here, Request):
    """All that `deepen.train` takes."""

    output: str | Path | None = word(
        None,
        "The run folder, new or empty; default runs/DATA-MODEL-NUMBER.",
        Option(Path),
    )
    resume: str | Path | None = word(
        None,
        "Go on with a run: the newest of the same recipe, or this.",
        Option(str, metavar="auto|RUN"),
    )
    look: bool = word(
        True,
        "Look for what would keep a detector from learning before it is trained.",
        Option(bool, ("--look/--no-look",)),
    )


@dataclass(frozen=True, kw_only=True)
class Detecting(Training):
    """All that `deepen.detect.train` takes."""

    detector: str | None = word(
        None,
        "What finds things: faster-rcnn-fpn, faster-rcnn-c4, mask-rcnn-fpn, fcn-8s, ...; by the "
        "data when left out. --model is its backbone.",
        Option(str),
    )


@dataclass(frozen=True, kw_only=True)
class Searching(Training):
    """All that `deepen.api.search` takes; `resume` is the folder of a search."""

    trials: int = word(20, "That are to finish in all; pruned ones count.", Option(int, least=1))
    pruner: Literal["median", "hyperband", "none"] = word(
        "median",
        "Which trials are stopped early.",
        Option(Literal["median", "hyperband", "none"]),
    )
    storage: str | None = word(
        None, "A database for several processes; default SQLite here.", Option(str, metavar="URL")
    )
    study: str = word("search", "The search's name in the storage.", Option(str, ("--study-name",)))


@dataclass(frozen=True, kw_only=True)
class Sweeping(Here, Request):
    """All that `deepen.api.find_lr` takes."""

    lowest: float = word(1e-6, "First learning rate.", Option(float))
    highest: float = word(10.0, "Last learning rate.", Option(float))
    steps: int = word(100, "From one to the other.", Option(int, least=2))


@dataclass(frozen=True, kw_only=True)
class Verifying(Where, Request):
    """All that `deepen.verification.verify_resume` takes."""

    kills: int = word(6, "How often; half of them inside a save.", Option(int, least=1))
    seed: int = word(0, "Decides the instants of the kills.", Option(int))
    pictures: int = word(
        512, "Pictures used of each split, evenly spaced, at most.", Option(int, least=1)
    )


@dataclass(frozen=True)
class Scoring(Where):
    """Weights, and the labelled pictures that they are scored on: what `deepen.evaluate` takes."""

    weights: str | Path = word(None, "A weights file of `deepen train`.", Option(Path))
    data: Any = word(
        None, "Labelled pictures; by default those that it was trained on.", Option(str)
    )
    _: KW_ONLY
    split: str | None = word(
        None,
        "train, val, test or all; by default test, else val; all of what was not trained on.",
        Option(str),
    )
    batch_size: int = word(
        128,
        "Pictures at a time; the result is the same.",
        Option(int, ("--batch-size", "-b"), least=1),
    )
    data_dir: str | Path | None = word(None, "Where named data sets lie.", Option(Path))
    download: bool = word(
        False, "Fetch a named data set that is not there.", Option(bool, ("--download",))
    )
    model: str | None = word(None, "Needed for package.module:factory of your own.", Option(str))
    labels: str | Path | None = word(
        None, "A table of the labels, as for `deepen train`.", Option(str, metavar="FILE")
    )
    exclude: Collection[str] = word(
        tuple, "A list of pictures to leave out, as for `deepen train`.", Option(Path)
    )

    @property
    def folder(self) -> Path | None:
        """`data_dir` as a path."""
        return None if self.data_dir is None else Path(self.data_dir)


@dataclass(frozen=True)
class Assessing(Scoring):
    """Weights, pictures, and how a network looks at each: what `deepen.evaluate` takes."""

    _: KW_ONLY
    crops: Literal["1", "10", "144", "dense"] = word(
        "1",
        "Looks at each picture: its centre; ten crops; GoogLeNet's 144; dense, the network slid "
        "over all of it.",
        Option(Literal["1", "10", "144", "dense"]),
    )
    scales: tuple[int, ...] = word(
        (), "Shorter sides in px, 224,256,384 say, at each of which it looks.", Option(str)
    )
    border: int = word(
        0, "Zeros put round a picture before it is cropped, in px.", Option(int, least=0)
    )
    averaging: Literal["probabilities", "logits"] = word(
        "probabilities",
        "What is averaged over looks and networks.",
        Option(Literal["probabilities", "logits"]),
    )
    shorter_side: int | None = word(
        None, "Resize the shorter side to so many px, not as in training.", Option(int, least=1)
    )
    crop_fraction: float | None = word(
        None,
        "The same by the crop's share of the shorter side, 0.875 say: timm's crop_pct.",
        Option(float),
    )
    interpolation: Literal["bilinear", "bicubic"] | None = word(
        None, "Of the resizing, not as in training.", Option(Literal["bilinear", "bicubic"])
    )
    tree: str | Path | None = word(
        None,
        "A CSV of classes and their parents: mistakes count by how far off they are.",
        Option(Path, metavar="CSV"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_fraction is None:
            return
        said = f"--crop-fraction {self.crop_fraction:g}"
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"{said}: more than 0 and at most 1; 0.875 is usual")
        if self.shorter_side is not None:
            raise InputError(f"{said}: goes not with --shorter-side; say one of them")
        if self.scales or (self.crops in ("10", "144") and not self.border):
            other = "--scales" if self.scales else f"--crops {self.crops}"
            raise InputError(f"{said}: goes not with {other}, which has shorter sides of its own")


@dataclass(frozen=True)
class Probing(Scoring):
    """All that `deepen.api.probe` takes."""

    _: KW_ONLY
    layer: str = word("", "Whose features; a stage or a module by its name, fc7 say.", Option(str))
    classifier: Literal["logistic", "svm"] = word(
        "logistic", "Logistic regression, or a linear SVM.", Option(Literal["logistic", "svm"])
    )


def takes(words: Callable[P, Words]) -> Callable[[Callable[[Words], Result]], Callable[P, Result]]:
    """Give a function of a record the fields of the record as its keywords.

    So they are declared once, with the record, and checked by it.
    """

    def wrap(function: Callable[[Words], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def with_words(*given: P.args, **named: P.kwargs) -> Result:
            return function(words(*given, **named))

        signature = inspect.signature(words).replace(return_annotation=Any)
        with_words.__signature__ = signature  # type: ignore[attr-defined]
        with_words.__doc__ = f"{function.__doc__}\n\nArgs:\n{_listed(words)}\n"
        return with_words

    return wrap


def _listed(words: Any) -> str:
    told: list[Field[Any]] = [each for each in fields(words) if "about" in each.metadata]
    lines = (f"{each.name}: {each.metadata['about']}" for each in told)
    return "\n".join(
        textwrap.fill(line, 96, initial_indent="    ", subsequent_indent="        ")
        for line in lines
    )


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the fastest there is.

    Raises:
        InputError: torch cannot use it here.
    """
    import torch

    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu"]
        have += ["cuda"] if torch.cuda.is_available() else []
        have += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"--device {name}: not to be had here; there is {', '.join(have)}"
        ) from error
    return device
