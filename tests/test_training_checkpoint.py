"""Checkpoints: whole or not there, damage noticed, the generation before used."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import WorkError
from deepen.files import write_whole
from deepen.training.checkpoint import GENERATIONS, load_checkpoint, save_checkpoint, tidy


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
