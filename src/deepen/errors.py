"""What can go wrong, and the exit status each kind ends a command with.

Lowest room of the house: every other may raise these. `InputError` is a `ValueError`, so that
people who call the Python face can catch what they expect.
"""

from __future__ import annotations

import difflib
import errno
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class DeepenError(Exception):
    """Any failure that deepen names itself; the command line shows its one line, no traceback."""

    exit_status = 1


class WorkError(DeepenError):
    """The work failed: a diverged loss, a full disk."""


class Diverged(WorkError):
    """A loss became NaN or infinite."""


class InputError(DeepenError, ValueError):
    """The user's words or data are off; names the file or flag and what would be right."""

    exit_status = 2


class Preempted(DeepenError):
    """SIGTERM or SIGHUP: the run saved itself and can be resumed (BSD's EX_TEMPFAIL)."""

    exit_status = 75


class Interrupted(DeepenError):
    """Ctrl-C: the run saved itself and can be resumed (128 + SIGINT)."""

    exit_status = 130


def unknown(kind: str, word: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a word that is none of `known`, with the nearest of them.

    >>> print(unknown("model", "resnet21", ["resnet20", "vgg16"]))
    unknown model 'resnet21'; nearest: resnet20
    """
    known = sorted(known)
    named = {each.lower(): each for each in known}
    near = [named[each] for each in difflib.get_close_matches(word.lower(), named, cutoff=0.6)]
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    return InputError(f"unknown {kind} {word!r}; {hint}")


SCARCE = {
    errno.EMFILE: "too many open files: raise the limit (ulimit -n 4096), or take fewer --workers",
    errno.ENFILE: "too many open files on this machine: end other programs, or fewer --workers",
    errno.ENOMEM: "no memory left: take fewer --workers or a smaller --batch-size",
}
"""What a machine can run out of beside disks, by the errno, and what helps."""


def is_scarcity(error: BaseException) -> bool:
    """Whether the machine ran out of something, whatever was read or written."""
    return isinstance(error, OSError) and error.errno in SCARCE


def in_words(error: OSError) -> str:
    """What the system refused, in a line that names the file if there is one."""
    words = SCARCE.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return words if error.filename is None else f"{error.filename}: {words}"


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a document, in a line: `optimizer.lr: Input should be ..., got -1`.

    Of several problems it is a key that nobody knows, if there is one: it says more than the one
    that is then missing.

    Args:
        error: as pydantic raised it.
        model: of the whole document; an unknown key gets the nearest of its fields.
    """
    problems = error.errors(include_url=False)
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    path, known = _follow(problem["loc"], model)
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return str(unknown("key", where, [".".join([*path[:-1], key]) for key in known]))
    text, given = problem["msg"].removeprefix("Value error, "), problem["input"]
    if problem["type"] != "json_invalid" and not isinstance(given, dict) and not _models(given):
        text += f", got {reprlib.repr(given)}"
    return f"{where}: {text}" if where else text


def _follow(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], Iterable[str]]:
    """A path as the document has it, and the keys that are known where it ends.

    pydantic also writes the kinds of unions into it, which stand in no document.
    """
    path, blocks = [], [model]
    for key in loc:
        if len(blocks) > 1:
            blocks = [b for b in blocks if key in {f.default for f in b.model_fields.values()}]
            continue
        if blocks or isinstance(key, int):
            path.append(str(key))
        if blocks and key in blocks[0].model_fields:
            blocks = _models(blocks[0].model_fields[str(key)].annotation)
    return path, blocks[0].model_fields if blocks else ()


def _models(kind: Any) -> list[type[BaseModel]]:
    """The pydantic models that a type is made of."""
    if hasattr(kind, "model_fields"):
        return [kind]
    return [model for part in get_args(kind) for model in _models(part)]
