"""A run folder: what a training run writes, and where."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from deepen.errors import InputError, WorkError
from deepen.files import read_json, write_whole
from deepen.locks import NAME as LOCK
from deepen.locks import hold
from deepen.training.pictures import NAME as PICTURES
from deepen.training.progress import Row
from deepen.training.recipe import Recipe, load_recipe


class Run:
    """Paths and plain files of `runs/<name>/`; whatever it writes is whole or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.scores = path / "scores.json"

    def weights(self, name: str) -> Path:
        """Of the "best" epoch or of the "last"."""
        return self.path / f"{name}.safetensors"

    @classmethod
    def begin(
        cls, output: str | Path | None, stem: str, about: dict[str, Any], recipe: Recipe
    ) -> Run:
        """A new run with data.json and recipe.yaml; the rest is as for `create`."""
        run = cls.create(output, stem)
        run.write_first(about, recipe)
        return run

    def write_first(
        self, about: dict[str, Any], recipe: Recipe, pictures: bytes | None = None
    ) -> None:
        """data.json, what there is to note of the pictures' files, and recipe.yaml.

        Raises:
            InputError: another process has begun the run since its folder was made.
        """
        if not _unbegun(self.path):
            raise _exists(self.path)
        if pictures is not None:
            write_whole(self.path / PICTURES, pictures)
        self.write_json("data.json", about)
        self.write_recipe(recipe)  # last: with it the run has begun

    def hold(self, flag: str = "--resume") -> AbstractContextManager[None]:
        """Be the only process that writes to the run.

        Raises:
            InputError: another one does.
        """
        return hold(self.path, f"{flag} {self.path}")

    @classmethod
    def create(cls, output: str | Path | None, stem: str) -> Run:
        """A new folder: `output` itself, or the next free runs/<stem>-<number>.

        Raises:
            InputError: `output` holds something already.
            WorkError: the folder cannot be made.
        """
        if output is not None:
            output = Path(output).expanduser()
            if output.exists() and not (output.is_dir() and _unbegun(output)):
                if (output / LOCK).exists():
                    with hold(output, f"--output {output}"):  # says who is at it, if anyone is
                        pass
                raise _exists(output)
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WorkError(f"--output {output}: {error.strerror}") from error
            return cls(output)
        stem = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
        number = 1
        while True:
            path = Path("runs") / f"{stem}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise WorkError(f"{path}: {error.strerror}") from error
            else:
                return cls(path)

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run.

        Raises:
            InputError: the folder is none of a run.
        """
        for needed in ("recipe.yaml", "data.json"):
            if not (path / needed).is_file():
                raise InputError(f"--resume {path}: no run folder (it has no {needed})")
        return cls(path)

    @classmethod
    def begun(cls, folder: Path) -> list[Run]:
        """The runs in a folder, that which was written to last first."""
        found = []
        for recipe in folder.glob("*/recipe.yaml"):
            run = cls(recipe.parent)
            written = [path.stat().st_mtime_ns for path in run.checkpoints.glob("*/state.json")]
            found.append((max(written, default=recipe.stat().st_mtime_ns), run.path))
        return [cls(path) for _, path in sorted(found, reverse=True)]

    def write_recipe(self, recipe: Recipe) -> None:
        """The whole recipe, resolved, as it can be given to `--recipe` again."""
        fields = recipe.model_dump(mode="json", exclude_none=True)
        write_whole(self.path / "recipe.yaml", yaml.safe_dump(fields, sort_keys=False))

    def read_recipe(self) -> Recipe:
        """The recipe that the run was started with.

        Raises:
            InputError: it is damaged.
        """
        return load_recipe(str(self.path / "recipe.yaml"))

    def read_about(self) -> dict[str, Any]:
        """data.json: which data and model the run was started with.

        Raises:
            InputError: it is missing or damaged.
        """
        path = self.path / "data.json"
        about = read_json(path)
        needed = {"name": str, "model": str, "classes": list, "excluded": list, "fingerprint": str}
        needed |= {"data_dir": str | None, "root": str | None}
        if not isinstance(about, dict) or not needed.keys() <= about.keys():
            raise InputError(f"{path}: is damaged (it lacks fields)")
        for key, kind in needed.items():
            if not isinstance(about[key], kind):
                raise InputError(f"{path}: is damaged ({key} is of another kind)")
        return about

    def write_json(self, name: str, document: Any) -> None:
        """A document of the run, environment.json say."""
        text = json.dumps(document, indent=1, ensure_ascii=False)
        if not text.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in text):
            text = json.dumps(document, indent=1)  # a folder's name need be no Unicode
        write_whole(self.path / name, f"{text}\n")

    def write_metrics(self, history: list[Row]) -> None:
        """metrics.csv: a line an epoch, one at least; None is an empty cell."""
        text = io.StringIO()
        columns = dict.fromkeys(column for row in history for column in row)  # later ones come last
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_whole(self.path / "metrics.csv", text.getvalue())

    def write_bad(self, bad: dict[str, str]) -> None:
        """quarantine.txt: the pictures that could not be decoded, path and reason."""
        if bad:
            lines = [f"{path}\t{reason}\n" for path, reason in sorted(bad.items())]
            write_whole(self.path / "quarantine.txt", "".join(lines))


def _unbegun(folder: Path) -> bool:
    """Empty, or left by a run that was killed before its recipe, which is written last, was."""
    first = ("data.json", PICTURES, LOCK)
    names = (path.name for path in folder.iterdir())
    return all(name in first or name.endswith(".writing") for name in names)


def _exists(folder: Path) -> InputError:
    return InputError(f"--output {folder}: exists; name a new folder, or use --resume")
