"""A transform of the user's own: the same pictures whoever decodes, and errors that name them."""

from __future__ import annotations

import csv
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from deepen import api
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import PictureSet, Split
from deepen.errors import InputError, Interrupted
from deepen.training.checkpoint import load_checkpoint
from deepen.training.progress import Silent

# Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

OWN = """
import numpy as np
import torch
from torchvision.transforms import v2

crop = v2.RandomPerspective(p=1.0)
SEEN = []


def plain(picture, seed):
    SEEN.append(seed)
    return 255 - picture


def by_torch(picture, seed):
    return crop(picture)


def by_numpy(picture, seed):
    noise = np.random.default_rng(seed).integers(0, 9, picture.shape)
    return (picture // 2 + torch.from_numpy(noise)).to(torch.uint8)


def fails(picture, seed):
    if picture.max() > 250:
        raise ValueError("too\\nbright")
    return picture


def floats(picture, seed):
    return picture / 255


def arrays(picture, seed):
    return picture.numpy()


number = 3
"""
PLAIN = Preprocessing(channels=3, size_px=(8, 8), resize="none", mean=(0.5,) * 3, std=(1.0,) * 3)


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_transforms.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    from deepen.data.transform import find_transform

    yield
    sys.modules.pop("own_transforms", None)
    find_transform.cache_clear()


def in_memory(count: int = 11, name: str = "train") -> Split:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 200, (count, 8, 8, 3), dtype=np.uint8)
    keys = tuple(f"{i}.png" for i in range(count))
    return Split(name, np.arange(count, dtype=np.int64) % 2, keys, images=images)  # type: ignore[arg-type]


def as_files(split: Split, folder: Path) -> Split:
    assert split.images is not None
    files = tuple(folder / key for key in split.keys)
    for file, image in zip(files, split.images, strict=True):
        Image.fromarray(image).save(file)
    return Split(split.name, split.labels, split.keys, files=files)


def test_it_gets_the_picture_that_the_network_would_see_and_a_seed_of_its_own():
    split = in_memory()
    assert split.images is not None
    augmentation = Augmentation(transform="own_transforms:plain")
    words = {"batch_size": 11, "augmentation": augmentation}
    [batch] = Batches(split, PLAIN, **words).epoch(0)
    import own_transforms

    expected = torch.from_numpy(255 - split.images).permute(0, 3, 1, 2).float() / 255 - 0.5
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=1e-6)
    seeds = [*own_transforms.SEEN]
    assert len({*seeds}) == 11
    assert all(0 <= seed < 2**48 for seed in seeds)
    own_transforms.SEEN.clear()
    list(Batches(split, PLAIN, **words).epoch(1))
    assert not {*own_transforms.SEEN} & {*seeds}


@pytest.mark.parametrize("name", ["by_torch", "by_numpy"])
def test_the_same_pictures_whoever_decodes_and_torchs_own_numbers_go_on(tmp_path, name):
    split = in_memory()
    words = {
        "batch_size": 4,
        "shuffle": True,
        "augmentation": Augmentation(crop="pad", pad_px=1, transform=f"own_transforms:{name}"),
    }
    torch.manual_seed(5)
    whole = [*Batches(split, PLAIN, **words).epoch(0)]
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    on_disk = as_files(split, tmp_path)
    others = [Batches(on_disk, PLAIN, workers=w, **words).epoch(0) for w in (0, 2)]
    begun = [whole[0], *Batches(on_disk, PLAIN, **words).epoch(0, start=1)]
    for other in (*others, begun):
        for ours, theirs in zip(other, whole, strict=True):
            assert torch.equal(ours.images, theirs.images)


def test_torchvisions_transform_is_what_it_is_from_that_seed():
    split = in_memory(1)
    assert split.images is not None
    [batch] = Batches(
        split, PLAIN, batch_size=1, augmentation=Augmentation(transform="own_transforms:by_torch")
    ).epoch(0)
    from deepen.data.randomness import uniforms

    high, low = (uniforms(0, 0, torch.tensor([0]), 2)[0] * 2**24).long().tolist()
    torch.manual_seed(high * 2**24 + low)
    expected = v2.RandomPerspective(p=1.0)(torch.from_numpy(split.images[0]).permute(2, 0, 1))
    torch.testing.assert_close(batch.images[0], expected.float() / 255 - 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fails", "augment.transform own_transforms:fails: 7.png: ValueError: too bright"),
        ("floats", r"gave float32 \(3, 8, 8\), not uint8 \(3, 8, 8\)"),
        ("arrays", "gave a ndarray, not a tensor"),
    ],
)
def test_an_error_names_the_function_and_the_picture(tmp_path, name, told, workers):
    split = in_memory()
    assert split.images is not None
    split.images[7, 0, 0] = 255
    loader = Batches(
        as_files(split, tmp_path),
        PLAIN,
        batch_size=4,
        workers=workers,
        augmentation=Augmentation(transform=f"own_transforms:{name}"),
    )
    with pytest.raises(InputError, match=told) as failure:
        list(loader.epoch(0))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module:f", "augment.transform no_such_module:f: No module named"),
        ("own_transforms:nothing", "has no attribute 'nothing'"),
        ("own_transforms:number", "is no function"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_read(name, told):
    with pytest.raises(InputError, match=told):
        Batches(in_memory(), PLAIN, batch_size=4, augmentation=Augmentation(transform=name))


@pytest.mark.parametrize(
    "fields", [{"flip_vertical": True}, {"rotate": 5.0}, {"transform": "own_transforms:plain"}]
)
def test_boxes_and_masks_do_not_follow(fields):
    [name] = fields
    with pytest.raises(InputError, match=f"augment.{name}: boxes and masks do not follow"):
        Augmentation(**fields).check_geometry()


class StopAt(Silent):
    left = 5  # of three steps an epoch

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_stop_changes_no_bit_of_a_run_with_all_of_them(tmp_path):
    source = PictureSet(
        "noise", None, ("a", "b"), 3, {"train": in_memory(24), "val": in_memory(8, "val")}
    )
    changes = {
        "length.epochs": 3,
        "batch_size": 8,
        "augment.transform": "own_transforms:by_torch",
        "augment.rotate": 20,
        "augment.rotate_fill": 99,
        "augment.flip_vertical": True,
    }
    words = {"model": "resnet20", "recipe": "quick", "changes": changes, "device": "cpu"}
    whole = api.train(source, output=tmp_path / "whole", **words)
    with pytest.raises(Interrupted):
        api.train(source, output=tmp_path / "run", reporter=StopAt(), **words)
    resumed = api.train(source, resume=str(tmp_path / "run"), device="cpu")
    ours, theirs = (load_checkpoint(each.run / "checkpoints") for each in (resumed, whole))
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in theirs.tensors)
    with open(resumed.run / "metrics.csv") as file:
        assert len([*csv.DictReader(file)]) == 3
