"""Boxes, points and masks follow their pictures: as torchvision moves them, and as pixels do."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import BoundingBoxes, Mask

from deepen.data.augment import (
    Augmentation,
    augment_fitted,
    augment_pixels,
    geometry_of,
    reduction,
    resized_box,
)
from deepen.data.decode import open_pixels
from deepen.data.geometry import Geometry
from deepen.data.loader import Batch, Batches
from deepen.data.mixing import Mixing
from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import uniforms
from deepen.data.split import PictureSet, Split
from deepen.errors import InputError

# Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

PLAIN = {"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def prep(height: int, width: int, **fields: Any) -> Preprocessing:
    fields = {"resize": "none", **PLAIN, **fields}
    return Preprocessing(size_px=(height, width), **fields)


def some_boxes(size: tuple[int, int], count: int = 50) -> Tensor:
    width, height = size
    corners = torch.rand(2, count, 2) * torch.tensor([width, height])
    return torch.cat([corners.amin(0), corners.amax(0)], 1)


def check_as_torchvision(place: Geometry, size: tuple[int, int], move: Any) -> None:
    """`move` does with torchvision's functions to a box or a mask what was done to the picture."""
    boxes = some_boxes(size)
    theirs = BoundingBoxes(boxes, format="XYXY", canvas_size=(size[1], size[0]))  # pyright: ignore
    expected = v2.clamp_bounding_boxes(move(theirs)).as_subclass(Tensor)
    found, kept = place.boxes(0, boxes)
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=2e-3)
    # One that is nearly cut away may be so in one float32 and not in the other.
    sides = expected[:, 2:] - expected[:, :2]
    assert kept[(sides > 1e-3).all(1)].all()
    assert not kept[(sides < -1e-3).any(1)].any()


# By (width, height), and how each is brought to 24x20 pixels.
SIZES = [(80, 100), (31, 70), (12, 9), (20, 24)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flip", [False, True])
def test_a_resized_crop_is_torchvisions(size: tuple[int, int], flip: bool) -> None:
    augmentation = Augmentation(crop="random_resized", flip=flip)
    for index in range(20):
        u = uniforms(4, 0, torch.tensor([index]), augmentation.draws)
        left, top, right, bottom = (
            int(side) for side in resized_box(augmentation, size, u[0].tolist())
        )
        place = geometry_of(augmentation, prep(24, 20), [size], u)
        assert place.window.tolist() == [[left, top, right, bottom]]
        turned = flip and bool(u[0, -1] < 0.5)

        def move(
            what: Any, at: Any = (top, left, bottom - top, right - left), turned=turned
        ) -> Any:
            what = v2.resized_crop(what, *at, size=[24, 20])
            return v2.horizontal_flip(what) if turned else what

        check_as_torchvision(place, size, move)
        mask = torch.randint(0, 9, (2, size[1], size[0]), dtype=torch.uint8)
        expected = v2.resize(
            mask[:, top:bottom, left:right], [24, 20], InterpolationMode.NEAREST_EXACT
        )
        expected = v2.horizontal_flip(expected) if turned else expected
        assert (place.mask(0, mask) == expected).float().mean() > 0.99


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pad", [0, 2])
def test_evaluation_is_torchvisions(size: tuple[int, int], pad: int) -> None:
    inner = [24 - 2 * pad, 20 - 2 * pad]
    shorter = prep(24, 20, pad_px=pad, resize="shorter", resize_px=27)
    squash = prep(24, 20, pad_px=pad, resize="squash")

    def moves_shorter(what: Any) -> Any:
        return v2.pad(v2.center_crop(v2.resize(what, [27]), inner), [pad])

    def moves_squash(what: Any) -> Any:
        return v2.pad(v2.resize(what, inner), [pad])

    for fits, move in ((shorter, moves_shorter), (squash, moves_squash)):
        place = geometry_of(Augmentation(), fits, [size], torch.zeros(1, 0))
        # torchvision clips boxes to the canvas, the border in it; a box ends where its picture does
        if pad:
            found, _ = place.boxes(0, some_boxes(size))
            assert found.min() >= pad
            assert found[:, [0, 2]].max() <= 20 - pad
            assert found[:, [1, 3]].max() <= 24 - pad
        else:
            check_as_torchvision(place, size, move)
        mask = torch.randint(1, 9, (size[1], size[0]), dtype=torch.uint8)
        exact = InterpolationMode.NEAREST_EXACT
        if fits is squash:
            expected = v2.pad(v2.resize(mask[None], inner, exact), [pad])
            assert (place.mask(0, mask) == expected[0]).float().mean() > 0.99
        border = torch.ones(24, 20, dtype=torch.bool)
        border[pad : 24 - pad, pad : 20 - pad] = False
        assert (place.mask(0, mask, fill=77) == 77).equal(border)


@pytest.mark.parametrize("border", [0, 2])
def test_a_padded_crop_is_torchvisions(border: int) -> None:
    size = (20 - 2 * border, 24 - 2 * border)
    augmentation = Augmentation(crop="pad", pad_px=3, flip=True)
    for index in range(40):
        u = uniforms(1, 0, torch.tensor([index]), augmentation.draws)
        top, left = (int(7 * float(draw)) for draw in u[0, :2])
        turned = bool(u[0, 2] < 0.5)

        def move(what: Any, at: Any = (top, left, 24, 20), turned: bool = turned) -> Any:
            what = v2.crop(v2.pad(what, [3 + border]), *at)
            return v2.horizontal_flip(what) if turned else what

        place = geometry_of(augmentation, prep(24, 20, pad_px=border), [size], u)
        check_as_torchvision(place, size, move)
        mask = torch.randint(1, 9, (size[1], size[0]), dtype=torch.uint8)
        assert torch.equal(place.mask(0, mask), move(Mask(mask)).as_subclass(Tensor))


def test_a_window_of_a_scaled_picture_by_hand() -> None:
    """90x60 px to a shorter side of 40 is 60x40: 1.5 source pixels a pixel both ways."""
    augmentation = Augmentation(crop="scale", scale_px=(40, 40))
    u = torch.tensor([[0.5, 0.999, 0.5]])  # the right edge, and half of the 40 - 24 + 1 rows
    place = geometry_of(augmentation, prep(24, 20), [(90, 60)], u)
    assert place.window.tolist() == [[60.0, 12.0, 90.0, 48.0]]
    assert place.points(0, torch.tensor([75.0, 30.0])).tolist() == [10.0, 12.0]
    boxes = torch.tensor([[63.0, 0.0, 66.0, 60.0], [0.0, 0.0, 59.0, 60.0], [0.0, 0.0, 90.0, 60.0]])
    found, kept = place.boxes(0, boxes)
    assert found[[0, 2]].tolist() == [[2.0, 0.0, 4.0, 24.0], [0.0, 0.0, 20.0, 24.0]]
    assert kept.tolist() == [True, False, True]


AUGMENTATIONS = {
    "none": Augmentation(),
    "pad": Augmentation(crop="pad", pad_px=5, flip=True),
    "scale": Augmentation(crop="scale", scale_px=(33, 60), flip=True),
    "random_resized": Augmentation(crop="random_resized", flip=True, area=(0.3, 1)),
}


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size)
    image.paste("white", box)
    return image


def edges_of(pixels: np.ndarray, bright: float) -> list[int]:
    """The box of what is bright, of pixels (h, w)."""
    rows, columns = np.nonzero(pixels > bright)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(
    st.integers(20, 150),
    st.integers(20, 150),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.integers(0, 2**16),
    st.sampled_from(["shorter", "squash"]),
    st.booleans(),
)
def test_painted_pixels_end_where_their_box_ends(
    name: str, width: int, height: int, edges: list[float], seed: int, resize: Any, jpeg: bool
) -> None:
    augmentation = AUGMENTATIONS[name]
    fits = prep(34, 31, pad_px=1, resize=resize, resize_px=36 if resize == "shorter" else None)
    u = uniforms(seed, 0, torch.tensor([7]), augmentation.draws)
    (x1, x2), (y1, y2) = sorted(edges[:2]), sorted(edges[2:])
    box = (round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height))
    place = geometry_of(augmentation, fits, [(width, height)], u)
    (found,), (kept,) = place.boxes(0, torch.tensor([box], dtype=torch.float32))
    # Of a sliver, or of what is less than two pixels of the source, blurring may leave nothing.
    assume(kept and (found[2:] - found[:2]).min() > 3 and min(box[2] - box[0], box[3] - box[1]) > 2)
    image = painted((width, height), box)
    if augmentation.resizes:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG" if jpeg else "PNG", quality=95)

        def factor(size: tuple[int, int]) -> int:
            return reduction(augmentation, size, fits, u[0])

        pixels = open_pixels(buffer.getvalue(), reduction=factor)
        out = augment_pixels(augmentation, pixels, fits, u[0])
    else:
        out = augment_fitted(augmentation, fits.fit(image), u[0])
    seen = edges_of(out.float().mean(2).numpy(), 127)
    assert np.abs(found.numpy() - seen).max() <= 1
    back = place.source_points(0, place.points(0, torch.tensor([[3.0, 4.0], [width, height]])))
    torch.testing.assert_close(back, torch.tensor([[3.0, 4.0], [width, height]]), rtol=0, atol=1e-2)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    by_mask = edges_of(place.mask(0, mask).numpy(), 0)
    assert np.abs(found.numpy() - by_mask).max() <= 0.5 + 1e-3  # to the nearest centre


def test_nothing_of_a_picture_may_be_left() -> None:
    augmentation = Augmentation(crop="pad", pad_px=30)
    place = geometry_of(augmentation, prep(8, 8), [(8, 8)], torch.tensor([[0.0, 0.999]]))
    assert not place.boxes(0, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))[1].any()
    assert not place.mask(0, torch.ones(8, 8)).any()
    boxes, kept = place.boxes(0, torch.zeros(0, 4))
    assert (boxes.shape, kept.shape) == ((0, 4), (0,))


def test_rand_augment_has_no_geometry() -> None:
    augmentation = Augmentation(rand_augment=2)
    with pytest.raises(InputError, match=r"rand_augment: .* boxes and masks cannot follow"):
        geometry_of(augmentation, prep(8, 8), [(8, 8)], torch.zeros(1, augmentation.draws))


# Batches with targets


def toy(count: int = 23) -> Split:
    """A white box on a black picture each, its box and a number as the target."""
    random = np.random.default_rng(0)
    images = np.zeros((count, 24, 20, 3), np.uint8)
    targets = []
    for image in images:
        left, top = random.integers(0, 12, 2)
        right, bottom = left + random.integers(4, 9), top + random.integers(4, 13)
        image[top:bottom, left:right] = 255
        box = np.array([[left, top, min(right, 20), min(bottom, 24)]], np.float32)
        targets.append({"boxes": box, "labels": np.array([1]), "area": float(box[0, 2] * 2)})
    labels = random.integers(0, 3, count)
    keys = tuple(f"{place}.png" for place in range(count))
    return Split("train", labels, keys, images=images, targets=targets)


@pytest.fixture(scope="module")
def as_files(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder, split = tmp_path_factory.mktemp("boxes"), toy()
    assert split.images is not None
    files = tuple(folder / key for key in split.keys)
    for path, image in zip(files, split.images, strict=True):
        Image.fromarray(image).save(path)
    return Split("train", split.labels, split.keys, files=files, targets=split.targets)


OPTIONS: dict[str, Any] = {"batch_size": 6, "shuffle": True, "seed": 2}
FITS = prep(24, 20)


def check_boxes(batch: Batch, split: Split) -> None:
    """The batch's boxes lie round what is bright in its images."""
    assert split.targets is not None
    assert batch.geometry is not None
    assert len(batch.targets) == len(batch.geometry) == len(batch.images) == len(batch.indices)
    for place, index in enumerate(batch.indices.tolist()):
        target = batch.targets[place]
        assert {name: value.dtype for name, value in target.items()} == {
            "boxes": torch.float32,
            "labels": torch.int64,
            "area": torch.float32,
        }
        assert np.array_equal(target["boxes"].numpy(), split.targets[index]["boxes"])
        assert float(target["area"]) == split.targets[index]["area"]
        boxes, kept = batch.geometry.boxes(place, target["boxes"])
        image = batch.images[place].mean(0).numpy()
        sides = boxes[0, 2:] - boxes[0, :2]
        if sides.min() < 1:  # a sliver is too faint to be found again
            assert bool(kept[0]) or not (image > 0.5).any()
        elif sides.min() > 2:
            assert np.abs(boxes[0].numpy() - edges_of(image, 0.5)).max() <= 1


@pytest.mark.parametrize("name", ["none", "pad", "random_resized"])
def test_boxes_follow_pictures_into_batches(as_files: Split, name: str) -> None:
    options = {**OPTIONS, "augmentation": AUGMENTATIONS[name]}
    memory = Batches(toy(), FITS, **options)
    assert not memory.resident
    for epoch in (0, 1):
        expected = list(memory.epoch(epoch))
        for batch in expected:
            check_boxes(batch, toy())
        for workers in (0, 2):
            loader = Batches(as_files, FITS, workers=workers, cache_bytes=2**20, **options)
            for a, b in zip(loader.epoch(epoch), expected, strict=True):
                check_boxes(a, as_files)
                assert torch.equal(a.images, b.images)
                assert a.geometry is not None
                assert b.geometry is not None
                assert torch.equal(a.geometry.window, b.geometry.window)
                assert torch.equal(a.geometry.place, b.geometry.place)
                assert torch.equal(a.geometry.flipped, b.geometry.flipped)
                assert 0 < a.geometry.flipped.sum() < 6 or name == "none" or len(a.indices) < 6


def test_ranks_and_parts_of_a_batch_keep_their_targets() -> None:
    options = {**OPTIONS, "augmentation": AUGMENTATIONS["pad"]}
    whole = list(Batches(toy(), FITS, **options).epoch(3))
    ranks = [Batches(toy(), FITS, rank=rank, world_size=2, **options).epoch(3) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        parts = [*parts, batch[:2], batch[2:]]
        for part in parts:
            check_boxes(part, toy())
        for first, second in (parts[:2], parts[2:]):
            assert torch.equal(torch.cat([first.indices, second.indices]), batch.indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_takes_its_target_along(
    as_files: Split, tmp_path: Path, workers: int
) -> None:
    assert as_files.files is not None
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    files = (as_files.files[0], bad, *as_files.files[2:5])
    split = Split(
        "train", as_files.labels[:5], as_files.keys[:5], files=files, targets=toy(5).targets
    )
    split = split.take([4, 1, 3, 2, 0])
    assert split.targets is not None
    options: dict[str, Any] = {
        "augmentation": AUGMENTATIONS["pad"],
        "workers": workers,
        "batch_size": 4,
    }
    for seed in range(4):
        for batch in Batches(split, FITS, seed=seed, **options).epoch(0):
            check_boxes(batch, split)
    first, second = Batches(split, FITS, **options).epoch(0)
    assert first.indices.tolist() == [0, 2, 3]
    assert [error.path for error in first.bad] == ["1.png"]
    check_boxes(first, split)
    check_boxes(second, split)
    (empty,) = Batches(split.take([1]), FITS, **options).epoch(0)
    assert empty.targets == []
    assert empty.geometry is not None
    assert len(empty.geometry) == 0


def test_a_batch_can_be_written_to_without_changing_the_split() -> None:
    split = toy()
    for _ in range(2):
        batch = next(Batches(split, FITS, **OPTIONS).epoch(0))
        check_boxes(batch, toy())
        for target in batch.targets:
            target["boxes"].zero_()


def test_what_targets_do_not_go_with() -> None:
    with pytest.raises(InputError, match=r"^mixing: pictures with targets .* cannot be mixed$"):
        Batches(toy(), FITS, mixing=Mixing(mixup=0.2), num_classes=3, **OPTIONS)
    with pytest.raises(InputError, match=r"augment\.rand_augment"):
        Batches(toy(), FITS, augmentation=Augmentation(rand_augment=1), **OPTIONS)


def test_without_targets_nothing_of_this_is_there() -> None:
    split = toy()
    loader = Batches(Split("train", split.labels, split.keys, images=split.images), FITS, **OPTIONS)
    batch = next(loader.epoch(0))
    assert loader.resident
    assert batch.geometry is None
    assert batch.targets is batch.labels
    assert batch[1:3].geometry is None
    assert torch.equal(batch[1:3].targets, batch.labels[1:3])


def test_fingerprints_cover_targets() -> None:
    def fingerprint(split: Split) -> str:
        return PictureSet("toy", None, ("a", "b", "c"), 3, {"train": split}).fingerprint

    plain = Split("train", toy().labels, toy().keys, images=toy().images)
    assert plain.images is not None
    parts = ["a\nb\nc", "\n".join(("train", *plain.keys))]
    content = "".join(parts).encode() + plain.labels.tobytes() + plain.images.tobytes()
    assert fingerprint(plain) == hashlib.sha256(content).hexdigest()  # as ever
    found = {fingerprint(plain), fingerprint(toy())}
    assert fingerprint(toy()) in found
    for name, value in (("boxes", np.zeros((1, 4), np.float32)), ("area", 1), ("new", 0)):
        changed = toy()
        assert changed.targets is not None
        changed.targets[5][name] = value  # pyright: ignore[reportIndexIssue]
        found.add(fingerprint(changed))
    assert len(found) == 5
