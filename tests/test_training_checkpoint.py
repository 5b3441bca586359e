"""Checkpoints: whole or not there, damage noticed, the generation before used."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepen import api
from deepen.errors import WorkError
from deepen.files import write_whole
from deepen.training.checkpoint import GENERATIONS, load_checkpoint, save_checkpoint, tidy
from deepen.training.progress import Silent
from deepen.verification import digests


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((2, 3), value), "rng.cpu": torch.arange(5, dtype=torch.uint8)}


def test_round_trip_and_generations(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None
    for step in range(4):
        save_checkpoint(tmp_path, tensors(step), {"step": step, "inf": float("inf")})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003", "000004"]
    assert GENERATIONS == 2
    found = load_checkpoint(tmp_path)
    assert found.state == {"step": 3, "inf": float("inf")}
    assert found.damaged == ()
    for name, value in tensors(3).items():
        assert torch.equal(found.tensors[name], value)


@given(data=st.data())
def test_any_flipped_bit_or_cut_is_noticed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, tensors(1), {"step": 1})
    save_checkpoint(folder, tensors(2), {"step": 2})
    name = data.draw(st.sampled_from(["tensors.safetensors", "state.json", "SHA256SUMS"]))
    path = folder / "000002" / name
    blob = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        blob[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del blob[place:]
    path.write_bytes(blob)
    found = load_checkpoint(folder)
    assert found.state == {"step": 1}
    assert ["000002" in line for line in found.damaged] == [True]
    for old in (folder / "000001").iterdir():
        old.write_bytes(b"")
    with pytest.raises(WorkError, match="no whole checkpoint"):
        load_checkpoint(folder)


def flips(path: Path, step: int = 1) -> Iterator[None]:
    """Every `step`-th byte with one bit changed (another each time), then cut there."""
    sound = path.read_bytes()
    for place in range(0, len(sound), step):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << place % 8
        for blob in (flipped, sound[:place]):
            path.write_bytes(blob)
            yield
    path.write_bytes(sound)


def test_every_byte_counts(tmp_path):
    """Also what JSON does not mind: the case of an exponent or an escape, a space at the end."""
    for step in (1, 2):
        save_checkpoint(tmp_path, tensors(step), {"step": step, "lr": 1e-05, "bad": "für/é.jpg"})
    newest = tmp_path / "000002"
    for name in ("state.json", "SHA256SUMS", "tensors.safetensors"):
        for _ in flips(newest / name, 7 if name == "tensors.safetensors" else 1):
            found = load_checkpoint(tmp_path)
            assert found.generation == found.state["step"] == 1
            assert len(found.damaged) == 1
            assert f"{newest}: " in found.damaged[0]
            assert "damaged" in found.damaged[0]
    assert load_checkpoint(tmp_path).damaged == ()
    blob = (newest / "state.json").read_bytes()
    for other in (blob.replace(b"1e-05", b"1E-05"), blob.replace(b"u00e9", b"u00E9"), blob + b" "):
        assert other != blob
        (newest / "state.json").write_bytes(other)
        assert "state.json is damaged" in load_checkpoint(tmp_path).damaged[0]


@pytest.mark.parametrize("name", ["state.json", "SHA256SUMS", "tensors.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    for step in (1, 2):
        save_checkpoint(tmp_path, tensors(step), {"step": step})
    (tmp_path / "000002" / name).unlink()
    found = load_checkpoint(tmp_path)
    assert found.state == {"step": 1}
    assert found.damaged == (f"{tmp_path}/000002/{name}: No such file or directory",)


def test_empty_and_renamed_generations_do_not_count(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, tensors(step), {"step": step})
    (tmp_path / "000001").rename(tmp_path / "000009")
    (tmp_path / "000010").mkdir()
    (tmp_path / "000011").write_bytes(b"")
    found = load_checkpoint(tmp_path)
    assert found.state == {"step": 2}
    assert [line.partition(": ")[2] for line in found.damaged] == [
        "Not a directory",
        "No such file or directory",
        "is generation 1 under another name",
    ]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is coreutils'")
def test_the_sums_are_those_of_sha256sum(tmp_path):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(check, cwd=tmp_path / "000001", check=True, capture_output=True)


def test_tidy_sets_damaged_ones_aside_and_clears_what_a_kill_left(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, tensors(step), {"step": step})
    (tmp_path / "000003" / "state.json").write_bytes(b"")
    (tmp_path / "000001").mkdir()  # half deleted
    (tmp_path / ".writing").mkdir()
    tidy(tmp_path, load_checkpoint(tmp_path).generation)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001", "000002", "000003.damaged"]
    save_checkpoint(tmp_path, tensors(4), {"step": 4})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000002", "000003", "000003.damaged"]
    (tmp_path / "000003" / "state.json").write_bytes(b"")
    assert load_checkpoint(tmp_path).state == {"step": 2}


def test_tidy_drops_what_a_kill_before_the_last_step_of_a_save_left(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, tensors(step), {"step": step})
    shutil.copytree(tmp_path / "000001", tmp_path / "kept")
    save_checkpoint(tmp_path, tensors(3), {"step": 3})
    (tmp_path / "kept").rename(tmp_path / "000001")  # renamed, and killed before it was dropped
    tidy(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000002", "000003"]


def test_a_second_interrupt_in_a_save_leaves_no_litter(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, tensors(2), {"step": 2})
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"data")
    assert [p.name for p in tmp_path.rglob("*.writing")] == []
    assert load_checkpoint(tmp_path).state == {"step": 1}


def test_a_vanished_run_folder_stays_vanished(tmp_path):
    with pytest.raises(WorkError, match=r"gone/checkpoints: No such file"):
        save_checkpoint(tmp_path / "gone" / "checkpoints", tensors(1), {"step": 1})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkError, match="file: File exists"):
        save_checkpoint(tmp_path / "file", tensors(1), {"step": 1})


def test_a_failed_save_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, tensors(1), {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkError, match="No space left on device"):
        save_checkpoint(tmp_path, tensors(2), {"step": 2})
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001"]
    assert load_checkpoint(tmp_path).state == {"step": 1}


def test_a_save_killed_midway_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".writing").mkdir()
    (tmp_path / ".writing" / "tensors.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, tensors(1), {"step": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001"]


def resealed(generation: Path, change) -> None:
    """Change state.json or the tensors, and make the sums right again."""
    state, tensors = generation / "state.json", generation / "tensors.safetensors"
    document = json.loads(state.read_text())
    found = safetensors.torch.load(tensors.read_bytes())
    document = change(document, found) or document
    state.write_text(json.dumps(document))
    tensors.write_bytes(safetensors.torch.save(found))
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in (tensors, state)
    )
    (generation / "SHA256SUMS").write_text("".join(lines))


def _popped(name: str):
    def change(_, tensors):
        del tensors[name]

    return change


def _without(*path: str | int):
    def change(document, _):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def _with(value: object, *path: str | int):
    def change(document, _):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


CHANGES = {
    "generation": _without("generation"),
    "state": _without("state"),
    "state.json is damaged": lambda document, _: [document],
    **{field: _without("state", field) for field in ("progress", "optimizer", "scheduler", "run")},
    "machine": _without("state", "machine"),
    "step": _without("state", "progress", "step"),
    "progress.best_top": _with(1, "state", "progress", "best_top"),
    "progress.epoch": _with("one", "state", "progress", "epoch"),
    "progress is": _with([], "state", "progress"),
    "history": _with([], "state", "progress", "history"),
    "history: lr": _without("state", "progress", "history", 0, "lr"),
    "novelty": _with(1, "state", "novelty"),
    "scheduler: last_epoch is": _with("x", "state", "scheduler", "last_epoch"),
    "scheduler: last_epoch": _without("state", "scheduler", "last_epoch"),
    "optimizer: momentum": _without("state", "optimizer", 0, "momentum"),
    "optimizer: lr": _without("state", "optimizer", 0, "lr"),
    "optimizer has 0 groups": _with([], "state", "optimizer"),
    "run": _with("x", "state", "run"),
    "length": _with({"epochs": "x"}, "state", "run", "recipe", "length"),
    "model.fc.weight is missing": _popped("model.fc.weight"),
    "optimizer.0.momentum_buffer": _popped("optimizer.0.momentum_buffer"),
    "rng.cpu": _popped("rng.cpu"),
    "model.more": lambda _, tensors: tensors.update({"model.more": torch.zeros(1)}),
    "optimizer.9.x": lambda d, tensors: _also(d, tensors, "optimizer.9.x", torch.zeros(1)),
    "model.fc.weight is": lambda _, tensors: tensors.update({"model.fc.weight": torch.zeros(2, 2)}),
    "rng.cpu is": lambda _, tensors: tensors.update({"rng.cpu": torch.zeros(3)}),
}


def _also(document, tensors, name: str, value: torch.Tensor) -> None:
    tensors[name] = value
    document["state"]["tensors"].append(name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    changes = {"length.epochs": 3, "batch_size": 256, "validation": 100}
    words = {"model": "perceptron", "recipe": "quick", "changes": changes}
    return api.train("digits", **words, output=tmp_path_factory.mktemp("t") / "run").run


@pytest.mark.parametrize("named", CHANGES)
def test_right_sums_do_not_make_it_whole(trained, tmp_path, named):
    """A field too few or too many: it is named, and the generation before is gone on with."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = max((run / "checkpoints").iterdir())
    resealed(newest, CHANGES[named])
    told = Lines()
    resumed = api.train(resume=run, reporter=told).run
    lines = [line for line in told.lines if str(newest) in line]
    assert len(lines) == 1
    assert named in lines[0]
    assert "\n" not in lines[0]
    assert digests(resumed) == digests(trained)
    for generation in (run / "checkpoints").glob("0*[0-9]"):
        resealed(generation, CHANGES[named])
    with pytest.raises(WorkError, match="no whole checkpoint: ") as caught:
        api.train(resume=run)
    assert "\n" not in str(caught.value)


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)
