"""No picture goes through batch norm alone where it needs two; and nothing else changes."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from deepen import api
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet, Split
from deepen.errors import InputError
from deepen.models import create_model
from deepen.training.build import fewest_at_once
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Silent
from deepen.training.step import micro_batches

PLAIN = Preprocessing(channels=1, size_px=(4, 4), resize="none", mean=(0.5,), std=(0.5,), pad_px=0)


class Pixel(nn.Module):
    """Batch norm over maps of one pixel; notes how many pictures it was trained on at once."""

    seen: list[int] = []  # noqa: RUF012

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(in_channels, 6, 4), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not x.is_meta:
            self.seen.append(len(x))
        return self.fc(self.bn(self.conv(x)).relu().flatten(1))


class Wide(Pixel):
    """The same over maps of four pixels, which one picture is enough for."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.conv, self.fc = nn.Conv2d(in_channels, 6, 3), nn.Linear(24, num_classes)


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    module = types.ModuleType("lone")
    module.Pixel, module.Wide = Pixel, Wide  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lone", module)
    Pixel.seen.clear()


def split(count: int, name: str = "train") -> Split:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    labels = (np.arange(count) % 2).astype(np.int64)
    keys = tuple(f"noise/{name}/{i}" for i in range(count))
    return Split(name, labels, keys, images=images)  # type: ignore[arg-type]


def train(output: Path, count: int, network: str = "Pixel", reporter=None, **changes):
    pictures = PictureSet(
        "noise", None, ("a", "b"), 1, {"train": split(count), "val": split(4, "val")}
    )
    fixed = {"length.epochs": 2, "batch_size": 4, "input.size_px": 4, "schedule.warmup_steps": 0}
    return api.train(
        pictures,
        model=f"lone:{network}",
        recipe="quick",
        changes=fixed | {key.replace("__", "."): value for key, value in changes.items()},
        output=output,
        reporter=reporter,
        device="cpu",
    )


@given(
    count=st.integers(2, 40),
    batch_size=st.integers(2, 9),
    processes=st.integers(1, 5),
    fewest=st.sampled_from([1, 2]),
)
def test_processes_share_whole_batches_and_none_has_one_alone(count, batch_size, processes, fewest):
    words = {"batch_size": batch_size, "shuffle": True, "seed": 1, "fewest": fewest}
    ranks = [
        [*Batches(split(count), PLAIN, rank=r, world_size=processes, **words).epoch(0)]
        for r in range(processes)
    ]
    steps = [torch.cat([batch.indices for batch in step]) for step in zip(*ranks, strict=True)]
    order = split(count).order(1, 0)
    assert torch.equal(torch.cat(steps), order)
    sizes = [len(step) for step in steps]
    whole, left = divmod(count, batch_size)
    if fewest == 1 or left != 1:
        assert sizes == [batch_size] * whole + [left] * (left > 0)
    else:
        assert sizes == [batch_size] * (whole - 1) + [batch_size + 1]
    if fewest == 2:
        assert all(len(batch.labels) != 1 for rank in ranks for batch in rank)
    begun = Batches(split(count), PLAIN, **words)
    assert begun.num_full == sizes.count(batch_size)
    later = [batch.indices for batch in begun.epoch(0, start=len(sizes) - 1)]
    assert torch.equal(torch.cat(later), steps[-1])


@given(count=st.integers(2, 20), parts=st.integers(1, 9), fewest=st.sampled_from([1, 2]))
def test_pieces_of_a_batch_are_whole_and_none_is_one_alone(count, parts, fewest):
    batch = Batch(torch.zeros(count, 1), torch.arange(count), torch.arange(count))
    found = [*micro_batches(batch, parts, fewest)]
    assert torch.cat([part.labels for part, _ in found]).tolist() == [*range(count)]
    sizes = [len(part.labels) for part, _ in found]
    assert len(sizes) <= parts
    if fewest == 2:
        assert min(sizes) > 1
    else:
        assert len({*sizes[:-1]}) <= 1
        assert sizes[-1] <= sizes[0]
    if parts > 1:
        shares = [float(share) for _, share in found if share is not None]
        assert shares == pytest.approx([size / count for size in sizes])


@pytest.mark.parametrize(
    ("name", "size_px"),
    [("resnet18", 32), ("resnet18", 64), ("resnet20", 32), ("lenet5", 32), ("inception_v3", 299)],
)
def test_it_is_known_whether_torch_takes_one_picture(name, size_px):
    """inception_v3 has its norm over one pixel in the auxiliary classifier, in training alone."""
    network = create_model(name, num_classes=10, input_size=size_px)
    channels = 1 if name == "lenet5" else 3
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    network.eval()
    known = fewest_at_once(network, (channels, size_px, size_px), ())
    assert not any(part.training for part in network.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    try:
        network.train()(torch.zeros(1, channels, size_px, size_px))
    except ValueError:
        assert known == 2
    else:
        assert known == 1
    frozen = [name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert fewest_at_once(network, (channels, size_px, size_px), frozen) == 1


@pytest.mark.parametrize(
    ("count", "changes", "seen"),
    [
        (9, {}, [4, 5]),
        (8, {}, [4, 4]),
        (10, {}, [4, 4, 2]),
        (9, {"accumulate": 2}, [2, 2, 3, 2]),
        (9, {"accumulate": 4}, [2, 2, 2, 3]),
        (3, {"batch_size": 2}, [3]),
        (9, {"network": "Wide"}, [4, 4, 1]),
        (9, {"network": "Wide", "accumulate": 4}, [1] * 9),
        (3, {"network": "Wide", "batch_size": 1}, [1, 1, 1]),
        (1, {"network": "Wide"}, [1]),
    ],
)
def test_what_a_network_is_trained_on_at_once(tmp_path, count, changes, seen):
    trained = train(tmp_path / "run", count, **changes)
    assert Pixel.seen == seen * 2  # epochs
    with open(trained.run / "metrics.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["train_loss"]) > 0 for row in rows] == [True, True]


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (9, {"batch_size": 1}, r"batch_size: 1 picture a step, but .* needs 2 .*: -b 2 or more"),
        (1, {}, r"noise: 1 picture to train on, but .* needs 2"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path, count, changes, told
):
    with pytest.raises(InputError, match=told):
        train(tmp_path / "run", count, **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_that_ended_in_torchs_words_before_its_first_checkpoint_goes_on(tmp_path):
    class Crash(Silent):
        def batch(self, images: int, loss: float) -> None:
            raise RuntimeError("as torch did")

    whole = train(tmp_path / "whole", 9)
    with pytest.raises(RuntimeError):
        train(tmp_path / "run", 9, reporter=Crash())
    pictures = PictureSet("noise", None, ("a", "b"), 1, {"train": split(9), "val": split(4, "val")})
    resumed = api.train(pictures, resume=str(tmp_path / "run"), device="cpu")
    ours, theirs = (load_checkpoint(each.run / "checkpoints") for each in (resumed, whole))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)


def test_a_picture_left_alone_by_damaged_ones_is_left_out_by_name(tmp_path):
    whole = split(5)
    assert whole.images is not None
    files = tuple(tmp_path / f"{i}.png" for i in range(5))
    for file, image in zip(files, whole.images, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    files[1].write_bytes(files[1].read_bytes()[:60])
    broken = Split("train", whole.labels, tuple(f.name for f in files), files=files)
    seen = {}
    for fewest in (1, 2):
        batches = [*Batches(broken, PLAIN, batch_size=2, fewest=fewest).epoch(0)]
        seen[fewest] = [batch.indices.tolist() for batch in batches]
        told = [str(error) for batch in batches for error in batch.bad]
    assert seen == {1: [[0], [2, 3], [4]], 2: [[], [2, 3, 4]]}
    assert ["1.png" in told[0], told[1].startswith("0.png: is left alone")] == [True, True]
    assert len(told) == 2


def test_the_picture_that_joins_is_seen_as_it_would_have_been():
    """Its augmentation and its normalization are its own, not the batch's."""
    words = {"batch_size": 4, "shuffle": True, "seed": 2}
    apart, joined = (
        torch.cat([b.images for b in Batches(split(9), PLAIN, fewest=n, **words).epoch(1)])
        for n in (1, 2)
    )
    assert torch.equal(apart, joined)
