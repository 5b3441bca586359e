"""The command line: one verb, one file; a verb parses, calls and prints."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import typer

from deepen.cli import (
    byhand,
    claims,
    compare,
    demo,
    detect,
    doctor,
    evaluate,
    find_lr,
    info,
    models,
    predict,
    probe,
    recipes,
    report,
    search,
    study,
    train,
    verify_resume,
    weights,
)
from deepen.cli.console import complain, prepare_streams, say
from deepen.cli.options import at_home
from deepen.errors import DeepenError, Interrupted, in_words
from deepen.training.stop import heed, leaving_when_preempted
from deepen.version import __version__

# typer keeps click to itself; what stands above its BadParameter is click's UsageError.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="deepen",
    help="Image recognition from LeNet to ResNet and past it.",
    epilog="Example: deepen train PHOTOS   (a folder with a folder of pictures for each class)",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
VERBS = (
    *(train, evaluate, predict, doctor, models, recipes, info, compare, report, demo),
    *(byhand, claims, study, verify_resume, find_lr, probe, search),
)
for verb in VERBS:
    name = verb.__name__.rpartition(".")[2]
    app.command(name.replace("_", "-"), epilog=verb.EXAMPLE)(getattr(verb, name))
app.add_typer(weights.weights, name="weights", epilog=weights.EXAMPLE)
app.add_typer(detect.detect, name="detect", epilog=detect.EXAMPLE)


def _print_version(asked: bool) -> None:
    if asked:
        say(f"deepen {__version__}")
        raise typer.Exit


@app.callback()
def deepen(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Image recognition from LeNet to ResNet and past it."""


SAVED = {
    "train": "the same command with --resume auto goes on",
    "detect": "the same command with --resume auto goes on",
    "search": "the search goes on with --resume FOLDER",
    "study": "the same command goes on",
}
"""What to say where a verb is stopped whose work can be gone on with."""


def main() -> None:
    """Run a command.

    Exits 0 done, 1 failed, 2 words or data off, 75 preempted, 130 Ctrl-C, and 1 without a word
    where nobody reads what it prints any more.
    """
    prepare_streams()
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]  # wherever it is written
    verb = next(iter(arguments), "")
    heeding = leaving_when_preempted(SAVED[verb]) if verb in SAVED else nullcontext()
    try:
        with heeding:
            heed()
            status = app(args=at_home(arguments), prog_name="deepen", standalone_mode=False)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "deepen"
        complain(f"{error.format_message()} See: {where} --help", name=where)  # type: ignore[attr-defined]
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        complain("stopped by Ctrl-C")
        status = Interrupted.exit_status
    except (DeepenError, OSError, MemoryError) as error:
        if debug:
            raise
        if words := _in_words(error):  # of several processes one says it
            complain(words)
        status = getattr(error, "exit_status", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _in_words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "no memory left; take a smaller --batch-size or fewer --workers"
    return in_words(error) if isinstance(error, OSError) else str(error)
