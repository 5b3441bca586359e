"""What can go wrong, and the exit status each kind ends a command with.

Lowest room of the house: every other may raise these. `InputError` is a `ValueError`, so that
people who call the Python face can catch what they expect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """SIGTERM: the run saved itself and can be resumed (BSD's EX_TEMPFAIL)."""

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
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    return InputError(f"unknown {kind} {word!r}; {hint}")
