"""The command line answers before anything heavy is imported, and every verb shows an example."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer.main
from PIL import Image

from deepen.cli import app

HEAVY = ("matplotlib", "numpy", "PIL", "sklearn", "tensorboard", "torch", "torchmetrics")
COMMAND = typer.main.get_command(app)
VERBS = sorted(getattr(COMMAND, "commands", {}))

# Runs `deepen ARGUMENTS`, then says on the last line of stderr which of HEAVY it imported.
PROBE = f"""
import json, sys
try:
    from deepen.cli import main
    main()
finally:
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)
"""


def deepen(*arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False
    )
    return done, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([v, "--help"] for v in VERBS)])
def test_help_and_version_import_nothing_heavy(arguments: list[str]):
    done, imported = deepen(*arguments)
    assert done.returncode == 0, done.stderr
    assert imported == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(verb: str):
    assert "Example" in deepen(verb, "--help")[0].stdout


def test_help_names_every_verb():
    assert VERBS
    shown = deepen("--help")[0].stdout
    assert [verb for verb in VERBS if verb not in shown] == []


def test_the_python_face_imports_nothing_heavy():
    code = f"import sys, deepen; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_imports_neither_torchvision_nor_a_compiler(tmp_path):
    """They take longer than torch itself."""
    Image.new("RGB", (40, 30)).save(tmp_path / "grey.png")
    heavy = ("matplotlib", "sklearn", "torch._dynamo", "torchmetrics", "torchvision")
    code = (
        "import sys; from deepen import api; "
        f"print(*api.predict('resnet20:cifar10', [{str(tmp_path / 'grey.png')!r}])); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
