"""A run folder: what a training run writes, and where."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from deepen.errors import InputError
from deepen.files import write_whole
from deepen.training.progress import Row
from deepen.training.recipe import Recipe, load_recipe

COLUMNS: tuple[str, ...] = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_top1",
    "eval_loss",
    "eval_top1",
    "eval_top5",
    "images_per_s",
    "seconds",
)


class Run:
    """Paths and plain files of `runs/<name>/`; whatever it writes is whole or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.scores = path / "scores.json"

    @classmethod
    def create(cls, output: Path | None, stem: str) -> Run:
        """A new folder: `output` itself, or the next free runs/<stem>-<number>.

        Raises:
            InputError: `output` holds something already.
        """
        if output is not None:
            if output.exists() and not (output.is_dir() and _unbegun(output)):
                raise InputError(f"--output {output}: exists; name a new folder, or use --resume")
            output.mkdir(parents=True, exist_ok=True)
            return cls(output)
        stem = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
        number = 1
        while True:
            path = Path("runs") / f"{stem}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
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
    def newest(cls, folder: Path, data: str | None, model: str | None) -> Run | None:
        """The run of this data and model (None: of any) that was written to last."""
        found = []
        for path in folder.glob("*/recipe.yaml"):
            about = cls(path.parent).read_json("data.json")
            if data in (None, about["name"]) and model in (None, about["model"]):
                written = [
                    p.stat().st_mtime_ns for p in path.parent.glob("checkpoints/*/state.json")
                ]
                found.append((max(written, default=path.stat().st_mtime_ns), path.parent))
        return cls(max(found)[1]) if found else None

    def write_recipe(self, recipe: Recipe) -> None:
        """The whole recipe, resolved, as it can be given to `--recipe` again."""
        fields = recipe.model_dump(mode="json", exclude_none=True)
        write_whole(self.path / "recipe.yaml", yaml.safe_dump(fields, sort_keys=False))

    def read_recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return load_recipe(str(self.path / "recipe.yaml"))

    def write_json(self, name: str, document: Any) -> None:
        """A document of the run, environment.json say."""
        write_whole(self.path / name, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A document that `write_json` wrote."""
        return json.loads((self.path / name).read_text("utf-8"))

    def write_metrics(self, history: list[Row]) -> None:
        """metrics.csv: a line an epoch; None is an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
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
        """A writer of TensorBoard events; those from `step` on, of a run now resumed, are void."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step or None)
        try:
            yield Board(writer)
        finally:
            writer.close()


def _unbegun(folder: Path) -> bool:
    """Empty, or left by a run that was killed before its recipe, which is written last, was."""
    return {path.name for path in folder.iterdir()} <= {
        "data.json",
        ".data.json.writing",
        ".recipe.yaml.writing",
    }


class Board:
    """Rows of metrics as TensorBoard scalars."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def add(self, row: Row) -> None:
        """Every column of a row, at its step."""
        for name in COLUMNS[2:]:
            if row[name] is not None:
                self.writer.add_scalar(name, row[name], row["step"])
        self.writer.flush()
