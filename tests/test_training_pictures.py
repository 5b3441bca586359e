"""Training on encoded pictures: sources, caches, workers and stops leave no trace in the bits."""

from __future__ import annotations

import hashlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepen import api
from deepen.cli import main
from deepen.errors import InputError, Interrupted
from deepen.training.progress import Silent
from deepen.weights import load_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning"),
]

CHANGES = {
    "length.epochs": 2,
    "batch_size": 8,
    "input.size_px": 16,
    "augment.crop": "random_resized",
    "augment.flip": True,
}


def encoded(number: int) -> bytes:
    """A JPEG of 80x64 pixels, so that many windows are decoded smaller."""
    y, x = np.mgrid[:64, :80]
    pixels = np.stack([3 * x + number, 2 * y + 5 * number, x + y], -1).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(48):
        folder = root / ("val" if number >= 40 else "train") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(encoded(number))
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow, of deepen[stream], is not installed")
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("shards")
    for name, numbers in (("train-0", range(25)), ("train-1", range(25, 40)), ("val", range(8))):
        images = [{"bytes": encoded(n), "path": None} for n in numbers]
        table = pa.table({"image": images, "label": ["ab"[n % 2] for n in numbers]})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=6)
    return root


class StopAt(Silent):
    """Raises SIGINT in its own process after so many batches; keeps what it is told."""

    def __init__(self, batches: int = -1) -> None:
        self.left = batches
        self.lines: list[str] = []

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def message(self, text: str) -> None:
        self.lines.append(text)


def train(data: Path | None, run: Path, **words: Any) -> str:
    """Trains to the end; the digest of the last weights."""
    changes = None if "resume" in words else {**CHANGES, **words.pop("changes", {})}
    if changes is not None:
        words = {"model": "resnet20", "recipe": "quick", "output": run, **words}
    api.train(None if data is None else str(data), changes=changes, **words)
    tensors = load_weights(run / "last.safetensors").model.state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors.values())).hexdigest()


def test_shards_are_trained_on_alike_with_any_workers_and_stops(shards, tmp_path):
    whole = train(shards, tmp_path / "whole", workers=0)
    for workers, stop in ((0, 3), (4, 7)):
        run = tmp_path / f"stopped-{workers}"
        with pytest.raises(Interrupted):
            train(shards, run, workers=workers, reporter=StopAt(stop))
        assert train(None, run, resume=str(run), workers=4 - workers) == whole
    scores = json.loads((tmp_path / "whole" / "scores.json").read_text())
    assert scores["scores"]["num_samples"] == 8


def test_shards_that_changed_are_not_resumed(shards, tmp_path):
    import shutil

    here = tmp_path / "shards"
    shutil.copytree(shards, here)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(here, run, workers=0, reporter=StopAt(2))
    shutil.copy(here / "train-0.parquet", here / "train-1.parquet")
    with pytest.raises(InputError, match="changed since the run began"):
        train(None, run, resume=str(run), workers=0)


def test_the_cache_changes_no_bit_of_a_run(photos, tmp_path):
    plain = train(photos, tmp_path / "plain", workers=0)
    assert train(photos, tmp_path / "kept", workers=2, cache_bytes=10**7) == plain
    full = {"augment.decode": "full"}
    assert train(photos, tmp_path / "full", workers=0, changes=full) != plain


def test_a_resume_with_another_decoder_says_so(photos, tmp_path, monkeypatch):
    run, told = tmp_path / "run", StopAt()
    with pytest.raises(Interrupted):
        train(photos, run, workers=0, reporter=StopAt(2))
    monkeypatch.setattr("deepen.training.state.decoder", lambda: "Pillow 99, libjpeg-turbo 9")
    train(None, run, resume=str(run), workers=0, reporter=told)
    (line,) = [line for line in told.lines if "bit-exact" in line]
    assert "decoder Pillow" in line
    assert "-> Pillow 99, libjpeg-turbo 9" in line


def test_words_of_the_command(shards, photos, tmp_path, monkeypatch, capsys):
    def deepen(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    files = sorted(shards.glob("*.parquet"))
    options = ["--model=resnet20", "--recipe=quick", "--epochs=1", "--size=16", "--workers=0"]
    status, told = deepen("train", *files, *options, f"--output={tmp_path / 'run'}", "--cache=1M")
    assert status == 0, told
    about = json.loads((tmp_path / "run" / "data.json").read_text())
    assert about["counts"] == {"train": 40, "val": 8}
    status, told = deepen("train", files[0], photos)
    assert status == 2
    assert f"{photos}: one folder or data set at a time, or Parquet files" in told.replace("\n", "")
