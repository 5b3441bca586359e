"""Arrays, torch and Hugging Face Datasets, as data from Python."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

import deepen
from deepen.data.own import pictures_of
from deepen.data.split import PictureSet
from deepen.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


def pixels(source: PictureSet) -> list[np.ndarray]:
    train = source.splits["train"]
    return [np.asarray(train.picture(i, source.channels)) for i in range(len(train))]


class Photos(torch.utils.data.Dataset):
    """Of several sizes."""

    def __init__(self, seed: int = 0, count: int = 40) -> None:
        random = np.random.default_rng(seed)
        sizes = random.integers(8, 14, (count, 2))
        self.images = [
            Image.fromarray(random.integers(0, 100, (h, w, 3), dtype=np.uint8)) for h, w in sizes
        ]
        self.classes = ["dark", "bright"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = self.images[index]
        return (image.point(lambda v: v + 150) if index % 2 else image), index % 2


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        (IMAGES.astype(np.float32) / 255, LABELS.tolist()),
        [torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS)],
        ([Image.fromarray(image) for image in IMAGES], LABELS),
        TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS)),
    ],
    ids=["uint8", "floats", "tensors", "Pillow", "TensorDataset"],
)
def test_each_form_has_the_same_pictures(data):
    source = pictures_of(data)
    assert np.array_equal(np.stack(pixels(source)), IMAGES)
    assert source.splits["train"].labels.tolist() == LABELS.tolist()
    assert (source.classes, source.channels, source.own) == (("0", "1", "2"), 3, ())


def test_torchvisions_own_data():
    fake = FakeData(size=20, image_size=(3, 9, 7), num_classes=4, transform=ToTensor())
    source = pictures_of(fake)
    found = pixels(source)
    for i in range(20):
        image, label = fake[i]
        assert np.array_equal(found[i], (image * 255).round().byte().permute(1, 2, 0).numpy())
        assert source.splits["train"].labels[i] == label
    assert source.name == "FakeData"


def test_pictures_of_several_sizes_are_read_when_they_are_needed():
    photos = Photos()
    source = pictures_of(photos)
    assert source.splits["train"].blobs is not None
    assert source.classes == ("dark", "bright")
    for i, found in enumerate(pixels(source)):
        assert np.array_equal(found, np.asarray(photos[i][0]))
    assert pictures_of(Photos()).fingerprint == source.fingerprint
    assert pictures_of(Photos(seed=1)).fingerprint != source.fingerprint
    some = source.splits["train"].take([5, 2])
    assert np.array_equal(np.asarray(some.picture(0, 3)), np.asarray(photos[5][0]))
    both = some.plus(source.splits["train"].take([7]))
    assert np.array_equal(np.asarray(both.picture(2, 3)), np.asarray(photos[7][0]))


def test_labels_may_be_names():
    names = np.array(["owl", "ant", "bee"])[LABELS]
    source = pictures_of((IMAGES, names))
    assert source.classes == ("ant", "bee", "owl")
    assert [source.classes[label] for label in source.splits["train"].labels] == names.tolist()


def test_splits_of_ones_own():
    source = pictures_of({"train": (IMAGES, LABELS), "validation": (IMAGES[:6], LABELS[:6])})
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 60, "val": 6}
    assert source.own == ("train", "val")
    with pytest.raises(InputError, match="data: 'teaching' is no split"):
        pictures_of({"teaching": (IMAGES, LABELS)})


class ClassLabel(SimpleNamespace):
    """Named as `datasets` names them."""


Stored = type("Image", (), {"__init__": lambda self, decode=True: None})


class Table:
    """As much of `datasets.Dataset` as is asked of it."""

    def __init__(self, label: Any = LABELS) -> None:
        self.features = {"image": Stored(), "label": ClassLabel(names=["a", "b", "c"])}
        self.column_names = ["image", "label"]
        self.labels = [None if v is None else int(v) for v in label]

    def cast_column(self, name: str, feature: object) -> Table:
        assert name == "image"
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Any) -> Any:
        if key == "label":
            return self.labels
        written = BytesIO()
        Image.fromarray(IMAGES[key]).save(written, "PNG")
        return {"image": {"bytes": written.getvalue(), "path": None}, "label": self.labels[key]}


def test_a_table_of_images_and_labels():
    source = pictures_of(Table())
    assert np.array_equal(np.stack(pixels(source)), IMAGES)
    assert source.classes == ("a", "b", "c")
    with pytest.raises(InputError, match="labels are whole numbers from 0 to 2"):
        pictures_of(Table([None, *LABELS[1:]]))


def test_a_dataset_of_hugging_faces():
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    images = [Image.fromarray(image) for image in IMAGES]
    table = datasets.Dataset.from_dict({"image": images, "label": LABELS}, features=features)
    source = pictures_of(datasets.DatasetDict({"train": table, "test": table.select(range(9))}))
    assert np.array_equal(np.stack(pixels(source)), IMAGES)
    assert source.own == ("train", "test")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((IMAGES, LABELS[:5]), "data, train: 60 pictures and 5 labels"),
        ((IMAGES[:0], LABELS[:0]), "0 pictures and 0 labels"),
        ((IMAGES / 1.0, LABELS), "floats from 0 to 255; pictures are uint8, or floats from 0 to 1"),
        ((IMAGES / 127.5 - 1, LABELS), "floats from -1 to 1; pictures are uint8"),
        ((IMAGES / 255 * np.nan, LABELS), "floats from nan to nan"),
        ((IMAGES, LABELS - 1), "labels are whole numbers from 0, or names"),
        ((IMAGES, LABELS / 2), "labels are whole numbers from 0, or names"),
        ((IMAGES.astype(np.int64), LABELS), "not int64"),
        ((IMAGES[..., :2], LABELS), "1 or 3 channels, not uint8"),
        (7, "data: int is not taken; give a folder, images and labels"),
        ([(1, 2), (3, 4), (5, 6)], r"list\[0\]: int is no picture, array or tensor"),
        ([1, 2, 3], r"list\[0\]: is no \(picture, label\)"),
        ({"val": (IMAGES, LABELS)}, "a dict of splits needs train"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(data, words):
    with pytest.raises(InputError, match=words) as caught:
        pictures_of(data)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_draws_its_pictures_anew_is_refused():
    class Chance(Photos):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return torch.rand(3, 4, 4), 0

    with pytest.raises(InputError, match="Chance: its pictures change from reading to reading"):
        pictures_of(Chance())


def test_trained_resumed_and_scored(tmp_path):
    words: dict[str, Any] = {"model": "perceptron", "recipe": "quick", "workers": 0}
    changes = {"length.epochs": 2, "input.size_px": 8}
    trained = deepen.train(Photos(), changes=changes, output=tmp_path / "run", **words)
    assert trained.split == "test"
    again = deepen.train(Photos(), resume=trained.run, workers=0)
    assert again.scores == trained.scores
    with pytest.raises(InputError, match="data"):
        deepen.train(Photos(seed=1), resume=trained.run, workers=0)
    weights = trained.run / "best.safetensors"
    assert deepen.evaluate(weights, Photos(), workers=0).confusion == trained.scores.confusion
    new = deepen.evaluate(weights, Photos(seed=3, count=30), workers=0)
    assert new.num_samples == 30
    assert "Photos, all of it, not trained on, 30 pictures" in new.protocol
