"""Checkpoints: whole or not there, damage noticed, the generation before used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import WorkError
from deepen.training.checkpoint import GENERATIONS, load_checkpoint, save_checkpoint


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
    name = data.draw(st.sampled_from(["tensors.safetensors", "state.json"]))
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
