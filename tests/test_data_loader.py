"""Batches: the same for the same (seed, epoch, index), however they are loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepen.data.augment import Augmentation
from deepen.data.decode import FORMATS
from deepen.data.loader import Batch, Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.data.statistics import per_channel_stats, per_pixel_mean
from deepen.errors import InputError

# Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

AUGMENTATIONS = {
    "none": None,
    "pad": Augmentation(crop="pad", pad_px=2, flip=True),
    "all": Augmentation(crop="random_resized", flip=True, jitter=0.4, lighting=0.1),
}


def prep(px: int = 8, channels: Any = 3, **fields) -> Preprocessing:
    plain = {"resize": "none", "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return Preprocessing(channels=channels, size_px=(px, px), **{**plain, **fields})


def in_memory(n: int = 23, px: int = 8, channels: int = 3) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, px, px, channels), dtype=np.uint8)
    labels = random.integers(0, 5, n)
    return Split("train", labels, tuple(f"noise/train/{i}" for i in range(n)), images=images)


@pytest.fixture(scope="module")
def as_files(tmp_path_factory) -> Split:
    """The pictures of `in_memory` as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    split = in_memory()
    assert split.images is not None
    files = tuple(folder / f"{index}.png" for index in range(len(split)))
    for path, image in zip(files, split.images, strict=True):
        Image.fromarray(image).save(path)
    return Split("train", split.labels, tuple(path.name for path in files), files=files)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_files_memory_and_workers_agree_bit_for_bit(as_files, augmentation):
    options = {"batch_size": 5, "augmentation": augmentation, "seed": 3, "shuffle": True}
    memory = Batches(in_memory(), prep(), **options)
    loaders = [Batches(as_files, prep(), workers=workers, **options) for workers in (0, 1, 2)]
    for epoch in (0, 1):
        expected = list(memory.epoch(epoch))
        for loader in loaders:
            assert same(list(loader.epoch(epoch)), expected)


def test_a_batch_is_what_it_says():
    split = in_memory()
    loader = Batches(split, prep(), batch_size=5, shuffle=True)
    batches = list(loader.epoch(0))
    assert loader.num_images == 23
    assert loader.num_batches == len(batches) == 5
    assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
    seen = torch.cat([batch.indices for batch in batches])
    assert sorted(seen.tolist()) == list(range(23))
    assert split.images is not None
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert batch.bad == ()
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(batch.labels.numpy(), split.labels[batch.indices])
        expected = (split.images[batch.indices] / 255 - 0.5) / 0.25
        assert np.allclose(batch.images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_order_changes_with_epoch_and_seed_and_only_when_shuffled():
    def order(**options) -> list[int]:
        epoch = options.pop("epoch", 0)
        batches = Batches(in_memory(), prep(), batch_size=4, **options).epoch(epoch)
        return [index for batch in batches for index in batch.indices.tolist()]

    assert order() == order(epoch=1) == list(range(23))
    orders = [order(shuffle=True, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    assert order(shuffle=True, seed=1, epoch=1) == orders[3]


def test_augmentation_depends_on_the_index_and_not_on_the_order():
    options = {"augmentation": AUGMENTATIONS["pad"], "seed": 4}
    straight = next(Batches(in_memory(), prep(), batch_size=23, **options).epoch(2))
    shuffled = next(Batches(in_memory(), prep(), batch_size=23, shuffle=True, **options).epoch(2))
    assert torch.equal(shuffled.images, straight.images[shuffled.indices])
    later = next(Batches(in_memory(), prep(), batch_size=23, **options).epoch(3))
    assert not torch.equal(later.images, straight.images)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("files", [False, True], ids=["memory", "files"])
def test_starting_later_is_running_through(as_files, files, workers):
    split = as_files if files else in_memory()
    loader = Batches(
        split,
        prep(),
        batch_size=4,
        augmentation=AUGMENTATIONS["pad"],
        shuffle=True,
        workers=workers,
    )
    whole = list(loader.epoch(5))
    for start in range(loader.num_batches + 1):
        assert same(list(loader.epoch(5, start=start)), whole[start:])


def test_batches_before_the_start_are_not_decoded(tmp_path):
    files = tuple(tmp_path / f"{index}.png" for index in range(4))  # none is there
    Image.new("RGB", (8, 8)).save(files[3])
    split = Split("train", np.zeros(4, np.int64), tuple("abcd"), files=files)
    (batch,) = Batches(split, prep(), batch_size=1).epoch(0, start=3)
    assert batch.indices.tolist() == [3]
    assert batch.bad == ()


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.booleans())
def test_ranks_share_an_epoch(n, batch_size, world_size, shuffle):
    options = {"shuffle": shuffle, "seed": 1, "augmentation": AUGMENTATIONS["pad"]}
    split = in_memory(n, px=4, channels=1)
    loaders = [
        Batches(
            split, prep(4, 1), batch_size=batch_size, rank=rank, world_size=world_size, **options
        )
        for rank in range(world_size)
    ]
    epochs = [list(loader.epoch(0)) for loader in loaders]
    assert {len(epoch) for epoch in epochs} == {loaders[0].num_batches}
    seen = [index for epoch in epochs for batch in epoch for index in batch.indices.tolist()]
    assert sorted(seen) == list(range(n))
    # Step for step, the ranks one after another see the batch that one process would.
    alone = Batches(split, prep(4, 1), batch_size=batch_size, **options)
    assert loaders[0].num_batches == alone.num_batches
    for step, expected in enumerate(alone.epoch(0)):
        parts = [epoch[step] for epoch in epochs]
        assert torch.equal(torch.cat([part.indices for part in parts]), expected.indices)
        assert torch.equal(torch.cat([part.images for part in parts]), expected.images)
        sizes = [len(part.indices) for part in parts]
        assert sizes[0] > 0
        assert max(sizes) - min(sizes) <= 3
        starts = [sum(sizes[:rank]) for rank in range(world_size)]
        assert all(start % 2 == 0 for start in starts if start < sum(sizes))  # no pair is parted


def test_how_ranks_share_a_batch():
    """By hand: 14 are 7 pairs, of which three ranks have 3, 2 and 2; 3 of the last are 2, 1, 0."""
    parts = []
    for rank in range(3):
        batches = Batches(in_memory(17), prep(), batch_size=14, rank=rank, world_size=3).epoch(0)
        parts.append([batch.indices.tolist() for batch in batches])
    assert parts == [
        [[0, 1, 2, 3, 4, 5], [14, 15]],
        [[6, 7, 8, 9], [16]],
        [[10, 11, 12, 13], []],
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_named_and_left_out(tmp_path, workers):
    files = []
    for index in range(6):
        files.append(tmp_path / f"{index}.png")
        Image.new("RGB", (8, 8), (index, 0, 0)).save(files[-1])
    files[1].write_bytes(files[1].read_bytes()[:40])
    files[4].write_text("no picture")
    files[5].unlink()
    keys = tuple(f"cats/{index}.png" for index in range(6))
    split = Split("train", np.arange(6), keys, files=tuple(files))
    loader = Batches(split, prep(), batch_size=2, workers=workers)
    first, second, third = loader.epoch(0)
    assert first.indices.tolist() == first.labels.tolist() == [0]
    assert [error.path for error in first.bad] == ["cats/1.png"]
    assert second.indices.tolist() == [2, 3]
    assert second.bad == ()
    assert len(third.labels) == 0
    assert third.images.shape == (0, 3, 8, 8)
    assert [str(error) for error in third.bad] == [
        f"cats/4.png: not a picture; read are {', '.join(FORMATS)}",
        "cats/5.png: no such file",
    ]
    assert [batch.bad and batch.bad[0].path for batch in loader.epoch(1)] == [
        "cats/1.png",
        (),
        "cats/4.png",
    ]


def test_pictures_in_memory_of_the_wrong_size_are_refused():
    with pytest.raises(InputError, match="8x8 px; 9x9 needed"):
        Batches(in_memory(), prep(9), batch_size=2)


def test_an_augmentation_that_does_not_go_with_the_pictures_is_refused():
    with pytest.raises(InputError, match="lighting"):
        Batches(
            in_memory(channels=1), prep(8, 1), batch_size=2, augmentation=Augmentation(lighting=0.1)
        )


def test_mean_image():
    split = in_memory()
    fits = prep(mean_image=True)
    mean_image = per_pixel_mean(split, fits)
    batch = next(Batches(split, fits, batch_size=23, mean_image=mean_image).epoch(0))
    assert batch.images.mean(0).abs().max() < 1e-5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_disturb_the_next(as_files, workers):
    options = {"batch_size": 2, "shuffle": True, "seed": 1, "workers": workers}
    loader = Batches(as_files, prep(), **options)
    for batch in loader.epoch(0):
        assert len(batch.labels) == 2
        break
    expected = list(Batches(as_files, prep(), batch_size=2, shuffle=True, seed=1).epoch(1))
    assert same(list(loader.epoch(1)), expected)


def test_epochs_side_by_side(as_files):
    options = {"batch_size": 4, "shuffle": True, "augmentation": AUGMENTATIONS["pad"]}
    for split in (as_files, in_memory()):
        loader = Batches(split, prep(), **options)
        pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
        for epoch in (0, 1):
            assert same([pair[epoch] for pair in pairs], list(loader.epoch(epoch)))


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_own_generator_is_left_alone(as_files, workers):
    loader = Batches(
        as_files,
        prep(),
        batch_size=9,
        augmentation=AUGMENTATIONS["all"],
        shuffle=True,
        workers=workers,
    )
    before = torch.random.get_rng_state()
    for epoch in (0, 1):
        list(loader.epoch(epoch))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_leave_ctrl_c_and_sigterm_to_the_main_process(as_files):
    before = set(multiprocessing.active_children())
    loader = Batches(as_files, prep(), batch_size=2, workers=2)
    expected = list(Batches(as_files, prep(), batch_size=2).epoch(0))
    batches = loader.epoch(0)
    got = [next(batches), next(batches)]  # one of each worker: both have begun
    for worker in set(multiprocessing.active_children()) - before:
        for number in (signal.SIGINT, signal.SIGTERM):
            assert worker.pid is not None
            os.kill(worker.pid, number)
    got += batches
    assert same(got, expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_are_started_anyhow_and_end_with_the_program(as_files, start, tmp_path):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    program = f"""
        import multiprocessing, sys
        import numpy as np
        import torch
        from pathlib import Path
        from deepen.data.loader import Augmentation, Batches, Preprocessing, Split

        if __name__ == "__main__":
            multiprocessing.set_start_method("{start}")
            files = tuple(Path(sys.argv[1]).iterdir())
            keys = tuple(map(str, files))
            split = Split("train", np.zeros(len(files), np.int64), keys, files=files)
            plain = Preprocessing(channels=3, size_px=(8, 8), resize="none", mean=(0, 0, 0),
                                  std=(1, 1, 1))
            turned = Augmentation(flip=True)
            here, there = (
                Batches(split, plain, batch_size=2, augmentation=turned, workers=workers).epoch(1)
                for workers in (0, 1)
            )
            assert torch.equal(next(there).images, next(here).images)
            print("left while a worker waits")
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    assert as_files.files is not None
    done = subprocess.run(
        [sys.executable, path, as_files.files[0].parent], capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "left while a worker waits\n"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pad_px", [0, 2])
def test_statistics_of_pictures_in_memory(channels, pad_px):
    split = in_memory(n=300, channels=channels)
    fits = prep(8 + 2 * pad_px, channels, pad_px=pad_px)
    assert split.images is not None
    border = ((0, 0), (pad_px, pad_px), (pad_px, pad_px), (0, 0))
    values = np.pad(split.images, border).astype(np.float64) / 255
    mean, std = per_channel_stats(split, fits)
    assert np.allclose(mean, values.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(std, values.std((0, 1, 2)), atol=1e-9)
    picture = per_pixel_mean(split, fits)
    assert picture.dtype == torch.float32
    assert np.allclose(picture.numpy(), values.mean(0), atol=1e-6)


def test_statistics_of_files_are_those_in_memory(as_files):
    assert per_channel_stats(as_files, prep()) == per_channel_stats(in_memory(), prep())


def test_statistics_leave_out_what_cannot_be_decoded(tmp_path):
    Image.new("RGB", (8, 8), (51, 102, 204)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    files = (tmp_path / "a.png", tmp_path / "b.png")
    split = Split("train", np.zeros(2, np.int64), ("a.png", "b.png"), files=files)
    mean, std = per_channel_stats(split, prep())
    assert np.allclose(mean, (0.2, 0.4, 0.8))
    assert std == (1.0, 1.0, 1.0)  # nothing varies
    alone = Split("train", np.zeros(1, np.int64), ("b.png",), files=files[1:])
    with pytest.raises(InputError, match=r"none of 1 pictures could be decoded; .* b.png: not a"):
        per_channel_stats(alone, prep())


def test_statistics_look_at_some_of_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("deepen.data.statistics.MAX_FILES", 3)
    files = []
    for index in range(9):
        files.append(tmp_path / f"{index}.png")
        Image.new("RGB", (8, 8), (25 * index,) * 3).save(files[-1])
    split = Split("train", np.zeros(9, np.int64), tuple("abcdefghi"), files=tuple(files))
    mean, _ = per_channel_stats(split, prep())
    assert np.allclose(mean, 25 * (0 + 3 + 6) / 3 / 255)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_the_gpu_sees_what_the_cpu_sees(augmentation):
    options = {"batch_size": 5, "augmentation": augmentation, "shuffle": True}
    here = list(Batches(in_memory(), prep(), **options).epoch(1))
    for a, b in zip(
        Batches(in_memory(), prep(), device="cuda", **options).epoch(1), here, strict=True
    ):
        assert a.images.is_cuda
        assert a.labels.is_cuda
        assert not a.indices.is_cuda
        assert torch.allclose(a.images.cpu(), b.images, atol=1e-5)


def _data() -> Path:
    folder = os.environ.get("DEEPEN_DATA")
    if not folder:
        pytest.skip("DEEPEN_DATA names no folder of real data")
    return Path(folder)


def test_photographs(tmp_path):
    from deepen.data.sources import open_source

    folder = _data() / "hymenoptera"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    split = open_source(folder).splits["val"]
    fits = prep(64, resize="shorter", resize_px=73)
    loader = Batches(split, fits, batch_size=32, augmentation=AUGMENTATIONS["all"], shuffle=True)
    batch = next(loader.epoch(0))
    assert batch.images.shape == (32, 3, 64, 64)
    assert batch.bad == ()
    assert set(batch.labels.tolist()) == {0, 1}
    assert batch.images.std() > 0.5
