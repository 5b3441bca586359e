"""A run folder: what a training run writes, and where."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from tensorboard.compat.proto.event_pb2 import (  # its names are made when it is imported
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.summary.writer.record_writer import RecordWriter

from deepen.errors import InputError, WorkError
from deepen.files import write_whole
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
        run.write_json("data.json", about)
        run.write_recipe(recipe)  # last: with it the run has begun
        return run

    @classmethod
    def create(cls, output: str | Path | None, stem: str) -> Run:
        """A new folder: `output` itself, or the next free runs/<stem>-<number>.

        Raises:
            InputError: `output` holds something already.
            WorkError: the folder cannot be made.
        """
        if output is not None:
            output = Path(output)
            if output.exists() and not (output.is_dir() and _unbegun(output)):
                raise InputError(f"--output {output}: exists; name a new folder, or use --resume")
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
        try:
            return load_recipe(str(self.path / "recipe.yaml"))
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path / 'recipe.yaml'}: is damaged ({error})") from error

    def read_about(self) -> dict[str, Any]:
        """data.json: which data and model the run was started with.

        Raises:
            InputError: it is missing or damaged.
        """
        path = self.path / "data.json"
        try:
            about = self.read_json(path.name)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: is damaged ({error})") from error
        needed = {"name", "model", "data_dir", "excluded", "root", "classes", "fingerprint"}
        if not isinstance(about, dict) or not needed <= about.keys():
            raise InputError(f"{path}: is damaged (it lacks fields)")
        return about

    def write_json(self, name: str, document: Any) -> None:
        """A document of the run, environment.json say."""
        write_whole(self.path / name, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A document that `write_json` wrote."""
        return json.loads((self.path / name).read_text("utf-8"))

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

    @contextmanager
    def tensorboard(self, step: int) -> Iterator[Board]:
        """A writer of TensorBoard events; those from `step` on, of a run now resumed, are void.

        Raises:
            WorkError: they cannot be written.
        """
        folder = self.path / "tensorboard"
        now = time.time()  # a run may be stopped and gone on with within a second
        path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(exist_ok=True)
            with open(path, "ab") as file:
                yield Board(file, step)
        except OSError as error:
            raise WorkError(f"{path}: {error.strerror or error}") from error


def _unbegun(folder: Path) -> bool:
    """Empty, or left by a run that was killed before its recipe, which is written last, was."""
    return {path.name for path in folder.iterdir()} <= {
        "data.json",
        ".data.json.writing",
        ".recipe.yaml.writing",
    }


class Board:
    """Rows of metrics as TensorBoard scalars, each on the disk before the next is made.

    torch's SummaryWriter has a thread write them, which on a full disk dies with a traceback.
    """

    def __init__(self, file: BinaryIO, step: int) -> None:
        self._file = file
        self._write(file_version="brain.Event:2")
        if step:
            self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Row) -> None:
        """Every column of a row, at its step."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name not in ("epoch", "step") and value is not None
        ]
        self._write(step=row["step"], summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        event = Event(wall_time=time.time(), **fields)
        RecordWriter(self._file).write(event.SerializeToString())
        self._file.flush()
