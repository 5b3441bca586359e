"""The built package, in an environment that holds it and what it declares, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import deepen

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "deepen"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},  # nothing of the tree
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tree / "src", ignore=left_out)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


def declared(package: Distribution) -> dict[str, Distribution]:
    """The installed distributions that a package needs to run, by name; its extras left out."""
    found: dict[str, Distribution] = {}
    todo: list[tuple[Distribution, frozenset[str]]] = [(package, frozenset())]
    seen = set()
    while todo:
        package, extras = todo.pop()
        for need in map(Requirement, package.requires or ()):
            wanted = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            )
            key = (need.name, frozenset(need.extras))
            if wanted and key not in seen:
                seen.add(key)
                found[need.name] = distribution(need.name)
                todo.append((found[need.name], key[1]))
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment: the wheel, and links to the dependencies it declares."""
    if sys.platform == "win32":
        pytest.skip("needs symbolic links")
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-deps", "--no-index", wheel),
        cwd=home,
    )
    (site,) = home.glob("lib/python*/site-packages")
    (ours,) = distributions(path=[str(site)])
    for package in declared(ours).values():
        tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for top in sorted(tops):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))).resolve())
    return python


def test_wheel_holds_every_file_of_the_package(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    shipped = {".py", ".typed", ".yaml", ".toml", ".json", ".j2", ".css", ".js", ".safetensors"}
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.name for p in files if p.suffix not in shipped} == set()
    assert {p.relative_to(ROOT / "src").as_posix() for p in files} - held == set()
    assert "deepen/py.typed" in held
    assert any(name.startswith("deepen/training/recipes/") for name in held)
    assert any(name.startswith("deepen/report/") and name.endswith(".j2") for name in held)
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_installed_package_is_the_wheel(python: Path, tmp_path: Path):
    where = run(python, "-c", "import deepen; print(deepen.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[1])


def test_installed_command_answers(python: Path, tmp_path: Path):
    command = python.with_name("deepen")
    assert "train" in run(command, "--help", cwd=tmp_path)
    assert deepen.__version__ in run(command, "--version", cwd=tmp_path)


def test_installed_package_builds_a_network(python: Path, tmp_path: Path):
    code = "import deepen; print(type(deepen.create_model('resnet20')).__name__)"
    assert run(python, "-W", "error", "-c", code, cwd=tmp_path).strip()


def test_every_module_imports_with_the_declared_dependencies_alone(python: Path, tmp_path: Path):
    code = """
import importlib, pkgutil, deepen
for module in pkgutil.walk_packages(deepen.__path__, "deepen."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    run(python, "-W", "error", "-c", code, cwd=tmp_path)


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == deepen.__version__
    assert f"\n## {deepen.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
