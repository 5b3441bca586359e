"""The random stream, the order of an epoch and what each augmentation makes of a batch, pinned.

Each is worked out a second time here, in Python's own whole numbers, NumPy and Pillow, and a few
values stand as literals beside it: a rule that changes is noticed even where runs still agree with
themselves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from deepen.data.augment import Augmentation
from deepen.data.loader import Batch, Batches
from deepen.data.mixing import Mixing
from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import permutation, random_bytes, uniforms
from deepen.data.sources import Split, open_source

# SplitMix64 (Steele, Lea & Flood 2014) in unsigned whole numbers

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def finalize(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def sample_bits(seed: int, epoch: int, index: int, stream: int) -> int:
    bits = 0
    for word in (seed, stream, epoch):
        bits = finalize(bits + word + GOLDEN & WORD)
    return finalize(bits + index * GOLDEN & WORD)


def draws(seed: int, epoch: int, index: int, num: int, stream: int = 0) -> list[float]:
    first = sample_bits(seed, epoch, index, stream)
    return [(finalize(first + k * GOLDEN & WORD) >> 40) / 2**24 for k in range(1, num + 1)]


def noise_bytes(seed: int, epoch: int, index: int, num: int, stream: int) -> bytes:
    first = sample_bits(seed, epoch, index, stream)
    words = (finalize(first + k * GOLDEN & WORD) for k in range(1, num // 8 + 2))
    return b"".join(word.to_bytes(8, "little") for word in words)[:num]


def shuffle(seed: int, epoch: int, n: int, stream: int = 0) -> list[int]:
    def signed(index: int) -> int:
        bits = sample_bits(seed, epoch, index, -1 - stream)
        return bits - 2**64 if bits >= 2**63 else bits

    return sorted(range(n), key=signed)


@pytest.mark.parametrize(
    ("seed", "epoch", "index", "stream", "steps"),
    [
        (0, 0, 0, 0, [6369901, 8617950, 15022406]),
        (0, 0, 1, 0, [7908954, 12159322, 5084014]),
        (7, 3, 123456789, 2, [10995119, 16117270, 3071427]),
        (2**63 - 1, 299, 2**62, 0, [1028760, 16002123, 7456274]),
    ],
)
def test_uniforms(seed, epoch, index, stream, steps):
    u = uniforms(seed, epoch, torch.tensor([5, index]), 3, stream)[1]
    assert u.tolist() == draws(seed, epoch, index, 3, stream)
    assert [int(value * 2**24) for value in u.tolist()] == steps


@pytest.mark.parametrize(
    ("seed", "epoch", "index", "stream", "known"),
    [
        (0, 0, 0, 2, "d70fe0e8253825eb2c242b0dd9"),
        (5, 1, 16777215, 0, "38a88df1910777275032bf31cb"),
    ],
)
def test_random_bytes(seed, epoch, index, stream, known):
    found = random_bytes(seed, epoch, torch.tensor([3, index]), 13, stream)[1]
    assert bytes(found.tolist()) == noise_bytes(seed, epoch, index, 13, stream)
    assert bytes(found.tolist()).hex() == known


@pytest.mark.parametrize(
    ("seed", "epoch", "stream", "known"),
    [
        (0, 0, 0, [5, 1, 9, 3, 8, 0, 7, 4, 2, 6]),
        (0, 1, 0, [9, 4, 7, 3, 1, 6, 5, 0, 2, 8]),
        (1, 0, 0, [2, 9, 8, 4, 3, 7, 1, 5, 6, 0]),
        (2**63 - 1, 5, 3, [3, 9, 4, 8, 1, 6, 7, 2, 5, 0]),
    ],
)
def test_permutation(seed, epoch, stream, known):
    found = permutation(seed, epoch, 10, stream).tolist()
    assert found == shuffle(seed, epoch, 10, stream)
    assert found == known


def test_order_of_an_epoch_and_what_is_held_out_of_digits():
    source = open_source("digits")
    order = shuffle(0, 0, 898)
    assert source.splits["val"].keys == tuple(f"digits/train/{i}" for i in sorted(order[:179]))
    train = source.splits["train"]
    assert train.keys == tuple(f"digits/train/{i}" for i in sorted(order[179:]))
    assert (len(train), train.keys[0], train.keys[-1]) == (
        719,
        "digits/train/0",
        "digits/train/897",
    )
    preprocessing = Preprocessing(channels=1, size_px=(8, 8), resize="none", mean=(0,), std=(1,))
    batches = Batches(train, preprocessing, batch_size=100, seed=3, shuffle=True)
    seen = [batch.indices.tolist() for batch in batches.epoch(2)]
    assert [len(part) for part in seen] == [100] * 7 + [19]
    assert [i for part in seen for i in part] == shuffle(3, 2, 719)
    assert seen[0][:8] == [442, 118, 392, 436, 493, 484, 110, 47]
    assert [part.indices.tolist() for part in batches.epoch(2, start=6)] == seen[6:]


def test_order_of_an_epoch_of_shards(tmp_path, monkeypatch):
    """Files, row groups of each, rows of a pool of groups: shuffles of the streams 1 to 3."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from deepen.data import shards

    file = io.BytesIO()
    Image.new("L", (4, 4), 7).save(file, "PNG")
    columns = {"image": pa.struct({"bytes": pa.binary()}), "label": pa.int64()}
    rows = {"image": [{"bytes": file.getvalue()}] * 10, "label": [0, 1] * 5}
    for number in range(3):
        for split in ("test", "train"):
            where = tmp_path / f"{split}-{number:05d}-of-00003.parquet"
            pq.write_table(pa.table(rows, schema=pa.schema(columns)), where, row_group_size=4)
    split = open_source(tmp_path, validation=0).splits["train"]
    assert split.rows is not None
    places = split.rows.shards.groups.tolist()  # file and row group in it
    firsts, sizes = split.rows.shards.first.tolist(), split.rows.shards.bytes.tolist()
    room = 2 * max(sizes)
    monkeypatch.setattr(shards, "POOL_BYTES", room)

    group_of = [sum(first <= row for first in firsts) - 1 for row in split.rows.numbers.tolist()]
    file_order, group_order, row_order = (
        shuffle(5, 1, n, stream) for stream, n in enumerate((6, len(places), 30), 1)
    )
    groups = sorted(
        set(group_of), key=lambda g: (file_order.index(places[g][0]), group_order.index(g))
    )
    pool, before = {}, 0
    for group in groups:
        pool[group] = before // room
        before += sizes[group]
    assert max(pool.values()) >= 3
    assert split.order(5, 1).tolist() == sorted(
        range(30), key=lambda row: (pool[group_of[row]], row_order.index(row))
    )


# Augmentation: the second batch of the fifth epoch, from the uniforms above

SEED, EPOCH, BATCH = 11, 4, 5


def pictures(n: int = 12, height: int = 10, width: int = 14, channels: int = 3) -> np.ndarray:
    i, y, x, c = np.ogrid[:n, :height, :width, :channels]
    return ((37 * i + 11 * y + 17 * x + 71 * c + x * y * (c + 1)) % 256).astype(np.uint8)


def train_batch(images: np.ndarray, size_px: tuple[int, int] | None = None, **fields) -> Batch:
    """The batch, of values in 0..1; the fields are those of `Augmentation` and `mixing`."""
    mixing = fields.pop("mixing", None)
    height, width, channels = images.shape[1:]
    geometry = {"resize": "squash"} if size_px else {"resize": "none"}
    preprocessing = Preprocessing(
        channels=channels,
        size_px=size_px or (height, width),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        **geometry,
    )
    labels = np.arange(len(images)) % 3
    keys = tuple(f"made/train/{i}" for i in range(len(images)))
    batches = Batches(
        Split("train", labels, keys, images=images),
        preprocessing,
        batch_size=BATCH,
        augmentation=Augmentation(**fields),
        mixing=mixing,
        num_classes=3,
        seed=SEED,
        shuffle=True,
    )
    batch = next(batches.epoch(EPOCH, start=1))
    assert batch.indices.tolist() == places(len(images))
    return batch


def places(n: int) -> list[int]:
    return shuffle(SEED, EPOCH, n)[BATCH : 2 * BATCH]


def in_bytes(batch: Batch) -> np.ndarray:
    """uint8 (B, H, W, C)."""
    values = 255 * batch.images.permute(0, 2, 3, 1).double().numpy()
    assert np.abs(values - values.round()).max() < 1e-3
    return values.round().astype(np.uint8)


def pad_crop(image: np.ndarray, u: list[float]) -> np.ndarray:
    height, width, _ = image.shape
    padded = np.pad(image, [(3, 3), (3, 3), (0, 0)])
    top, left = int(7 * u[0]), int(7 * u[1])
    return padded[top : top + height, left : left + width]


def flip(image: np.ndarray, u: list[float]) -> np.ndarray:
    return image[:, ::-1] if u[0] < 0.5 else image


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def scale(image: np.ndarray, u: list[float]) -> np.ndarray:
    """The whole picture with its shorter side between 9 and 13 px, and 8 by 8 pixels of it."""
    shorter = 9 + int(5 * u[0])
    width, height = shorter * 14 // 10, shorter
    left, top = int(u[1] * (width - 7)), int(u[2] * (height - 7))
    return resized(image, width, height)[top : top + 8, left : left + 8]


def random_resized(image: np.ndarray, u: list[float]) -> np.ndarray:
    """The first of ten boxes that fits, or the largest in the middle; 6 by 7 pixels of it."""
    height, width, _ = image.shape
    for area_u, ratio_u in zip(u[:10], u[10:20], strict=True):
        area = (0.3 + 0.7 * area_u) * height * width
        ratio = math.exp(math.log(0.5) + ratio_u * math.log(2 / 0.5))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = int(u[20] * (width - w + 1)), int(u[21] * (height - h + 1))
            return resized(image[top : top + h, left : left + w], 7, 6)
    raise AssertionError("none of ten boxes fits")


def jitter(image: np.ndarray, u: list[float]) -> np.ndarray:
    """Factors from 0.6 to 1.4, in one of six orders (0 brightness, 1 contrast, 2 saturation)."""
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    x = image.astype(np.float64)
    for kind in orders[int(6 * u[3])]:
        grey = (x @ np.array([0.2989, 0.587, 0.114]))[..., None]
        other = (0.0, grey.mean(), grey)[kind]
        factor = 0.6 + 0.8 * u[kind]
        x = np.clip(factor * x + (1 - factor) * other, 0, 255)
    return x.round()


def lighting(image: np.ndarray, u: list[float]) -> np.ndarray:
    """Krizhevsky et al. 2012, section 4.1: the eigenvectors times alpha_i lambda_i."""
    alpha = [0.5 * NormalDist().inv_cdf(value + 2**-25) for value in u]
    components = [
        (-0.5675, -0.5808, -0.5836),
        (0.7192, -0.0045, -0.6948),
        (0.4009, -0.8140, 0.4203),
    ]
    shift = np.zeros(3)
    for a, eigenvalue, vector in zip(alpha, (0.2175, 0.0188, 0.0045), components, strict=True):
        shift += a * eigenvalue * np.array(vector)
    return np.clip((image + 255 * shift).round(), 0, 255)


def erasing(image: np.ndarray, u: list[float]) -> np.ndarray:
    """A box in six pictures of ten, of bytes that the last draw is the number of."""
    height, width, _ = image.shape
    out = image.copy()
    if u[22] >= 0.6:
        return out
    for area_u, ratio_u in zip(u[:10], u[10:20], strict=True):
        area = (0.1 + 0.3 * area_u) * height * width
        ratio = 0.5 * 4**ratio_u  # height over width, from 1/2 to 2
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1))
            noise = noise_bytes(0, 0, int(u[23] * 2**24), image.size, 2)
            whole = np.frombuffer(noise, np.uint8).reshape(image.shape)
            out[top : top + h, left : left + w] = whole[top : top + h, left : left + w]
            return out
    raise AssertionError("none of ten boxes fits")


@pytest.mark.parametrize(
    ("fields", "reference", "num", "tolerance", "known"),
    [
        ({"crop": "pad", "pad_px": 3}, pad_crop, 2, 0, [129, 123, 63, 198, 194]),
        ({"flip": True}, flip, 1, 0, [133, 146, 207, 183, 217]),
        (
            {"crop": "scale", "scale_px": (9, 13), "size_px": (8, 8)},
            scale,
            3,
            1,
            [125, 123, 95, 77, 194],
        ),
        (
            {
                "crop": "random_resized",
                "area": (0.3, 1.0),
                "ratio": (0.5, 2.0),
                "size_px": (6, 7),
            },
            random_resized,
            22,
            1,
            [88, 184, 190, 154, 184],
        ),
        ({"jitter": 0.4}, jitter, 4, 1, [153, 144, 255, 133, 177]),
        ({"lighting": 0.5}, lighting, 3, 1, [126, 179, 201, 246, 253]),
        (
            {"erase": 0.6, "erase_area": (0.1, 0.4), "erase_ratio": (0.5, 2.0)},
            erasing,
            24,
            0,
            [133, 59, 207, 210, 244],
        ),
    ],
    ids=["pad", "flip", "scale", "random_resized", "jitter", "lighting", "erase"],
)
def test_a_batch_of_each_augmentation(fields, reference, num, tolerance, known):
    """The literals: the green values of the middle pixel of each picture."""
    images = pictures()
    found = in_bytes(train_batch(images, **fields))
    expected = np.stack(
        [reference(images[i], draws(SEED, EPOCH, i, num)) for i in places(len(images))]
    )
    if "size_px" not in fields:
        assert (expected != images[places(len(images))]).any()
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= tolerance
    _, height, width, _ = found.shape
    middle = found[:, height // 2, width // 2, 1].tolist()
    assert middle == pytest.approx(known, abs=tolerance)


def test_parts_of_an_augmentation_take_their_draws_in_turn():
    """Crop, flip, jitter, lighting, erasing: 2 + 1 + 4 + 3 + 24 draws of one sample."""
    images = pictures()
    fields = {"crop": "pad", "pad_px": 3, "flip": True, "jitter": 0.4, "lighting": 0.5}
    box = {"erase": 0.6, "erase_area": (0.1, 0.4), "erase_ratio": (0.5, 2.0)}
    found = in_bytes(train_batch(images, **fields, **box))
    for picture, i in zip(found, places(len(images)), strict=True):
        u = draws(SEED, EPOCH, i, 34)
        expected = flip(pad_crop(images[i], u[:2]), u[2:3])
        expected = lighting(jitter(expected, u[3:7]), u[7:10])  # rounded once, between: 2 off
        expected = erasing(expected.astype(np.uint8), u[10:])
        assert np.abs(picture.astype(int) - expected).max() <= 2


# RandAugment's operations (Cubuk et al. 2019) on uint8 (H, W, 3), in NumPy


def blend(other: np.ndarray | float, image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(other + factor * (image.astype(np.float64) - other), 0, 255).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow has it, (H, W, 1)."""
    return (image @ np.array([19595, 38470, 7471]) + 0x8000 >> 16)[..., None]


def moved(image: np.ndarray, source: Callable) -> np.ndarray:
    """Each pixel from where its middle comes from, (x, y); mid grey from outside."""
    height, width, _ = image.shape
    out = np.full_like(image, 128)
    for y in range(height):
        for x in range(width):
            sx, sy = source(x + 0.5, y + 0.5)
            if 0 <= sx < width and 0 <= sy < height:
                out[y, x] = image[int(sy), int(sx)]
    return out


def rotated(image: np.ndarray, level: float) -> np.ndarray:
    height, width, _ = image.shape
    cos, sin = math.cos(math.radians(30 * level)), math.sin(math.radians(30 * level))
    mx, my = width / 2, height / 2
    return moved(
        image,
        lambda x, y: (
            cos * (x - mx) - sin * (y - my) + mx,
            sin * (x - mx) + cos * (y - my) + my,
        ),
    )


def stretched(image: np.ndarray) -> np.ndarray:
    """Each channel from its darkest and lightest value to 0 and 255."""
    low, high = image.min((0, 1)).astype(float), image.max((0, 1)).astype(float)
    return np.clip((image - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def equalized(image: np.ndarray) -> np.ndarray:
    """Each channel by its cumulative histogram, in steps of the pixels but the lightest's / 255."""
    out = np.empty_like(image)
    for c in range(3):
        histogram = np.bincount(image[..., c].flat, minlength=256)
        step = (histogram.sum() - histogram[histogram.nonzero()[0][-1]]) // 255
        below = np.cumsum(histogram) - histogram
        table = np.minimum((step // 2 + below) // step, 255) if step else np.arange(256)
        out[..., c] = table[image[..., c]]
    return out


def smoothed(image: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels, the middle one counting five times; the border stays."""
    out = image.astype(np.float64)
    total = sum(
        out[dy : len(out) - 2 + dy, dx : out.shape[1] - 2 + dx]
        for dy in range(3)
        for dx in range(3)
    )
    out[1:-1, 1:-1] = np.floor((total + 4 * out[1:-1, 1:-1]) / 13 + 0.5)
    return out


OPERATIONS = [  # a picture and a level in -1..1; in the paper's order
    lambda a, level: a,
    lambda a, level: stretched(a),
    lambda a, level: equalized(a),
    rotated,
    lambda a, level: np.where(a < 255 - int(255 * abs(level)), a, 255 - a),
    lambda a, level: blend(luma(a), a, 1 + 0.9 * level),
    lambda a, level: a & (256 - 2 ** round(4 * abs(level))),
    lambda a, level: blend(int(luma(a).mean() + 0.5), a, 1 + 0.9 * level),
    lambda a, level: blend(0, a, 1 + 0.9 * level),
    lambda a, level: blend(smoothed(a), a, 1 + 0.9 * level),
    lambda a, level: moved(a, lambda x, y: (x + 0.3 * level * y, y)),
    lambda a, level: moved(a, lambda x, y: (x, y + 0.3 * level * x)),
    lambda a, level: moved(a, lambda x, y: (x - int(150 / 331 * level * a.shape[1]), y)),
    lambda a, level: moved(a, lambda x, y: (x, y - int(150 / 331 * level * a.shape[0]))),
]


def test_each_operation_of_rand_augment():
    """Two operations for each of so many pictures that every one of the 14 comes first once."""
    images = np.concatenate([pictures(24, 34, 26), pictures(24, 26, 34).swapaxes(1, 2)])
    batches = Batches(
        Split("train", np.zeros(48, np.int64), tuple(map(str, range(48))), images=images),
        Preprocessing(channels=3, size_px=(34, 26), resize="none", mean=(0,) * 3, std=(1,) * 3),
        batch_size=48,
        augmentation=Augmentation(rand_augment=2, magnitude=7.0),
        seed=SEED,
    )
    (batch,) = batches.epoch(EPOCH)
    seen = set()
    for i, found in enumerate(in_bytes(batch)):
        expected = images[i]
        u = draws(SEED, EPOCH, i, 4)
        for which, sign in (u[:2], u[2:]):
            level = 0.7 if sign < 0.5 else -0.7
            expected = OPERATIONS[int(14 * which)](expected, level)
        seen.add(int(14 * u[0]))
        off = np.abs(found.astype(int) - expected)
        assert (off <= 1).mean() >= 0.99, (i, [int(14 * v) for v in u[::2]])
    assert seen == set(range(14))
    known = [255, 4, 106, 128, 56, 38]
    assert in_bytes(batch)[:6, 5, 6, 1].tolist() == pytest.approx(known, abs=1)


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"mixup": 0.5}, [0.8604186, 0.1721377, 0.4776379, 0.008805]),
        ({"cutmix": 1.0}, [0.8285714, 0.7, 0.7, 0.5714286]),
        (
            {"mixup": 0.5, "cutmix": 1.0, "probability": 0.7, "switch": 0.4},
            [0.8285714, 0.7, 0.4776379, 0.5714286],
        ),
    ],
    ids=["mixup", "cutmix", "both"],
)
def test_mixed_pairs(fields, known):
    """Neighbours in a batch; the literals are the first pictures' shares of their own class.

    The shares of mixup are quantiles of Beta(1/2, 1/2), sin(pi q / 2)^2; CutMix's of Beta(1, 1).
    """
    images = pictures(31)
    labels = np.arange(31) % 5
    batches = Batches(
        Split("train", labels, tuple(map(str, range(31))), images=images),
        Preprocessing(channels=3, size_px=(10, 14), resize="none", mean=(0.5,) * 3, std=(0.2,) * 3),
        batch_size=9,
        mixing=Mixing(**fields),
        num_classes=5,
        seed=SEED,
        shuffle=True,
    )
    order = shuffle(SEED, EPOCH, 31)
    first_shares = []
    for number, batch in enumerate(batches.epoch(EPOCH)):
        members = order[9 * number : 9 * number + 9]
        assert batch.indices.tolist() == members
        assert batch.shares is not None
        for k, i in enumerate(members):
            j = members[k ^ 1] if (k ^ 1) < len(members) else i
            whether, which, q, down, across = (
                u + 2**-25 for u in draws(SEED, EPOCH, members[k - k % 2], 5, stream=1)
            )
            cut = "cutmix" in fields and ("mixup" not in fields or which < fields["switch"])
            share = q if cut else math.sin(math.pi * q / 2) ** 2
            if i == j or whether >= fields.get("probability", 1.0):
                share = 1.0
            keep = np.full((10, 14, 1), share)
            if cut:
                h, w = (int(side * math.sqrt(1 - share)) for side in (10, 14))
                top, left = int(10 * down) - h // 2, int(14 * across) - w // 2
                keep[:] = 1
                keep[max(0, top) : top + h, max(0, left) : left + w] = 0
                share = keep.mean()
            mixed = keep * images[i] + (1 - keep) * images[j]
            found = batch.images[k].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(found, (mixed / 255 - 0.5) / 0.2, atol=1e-5)
            shares = np.zeros(5)
            shares[labels[i]] += share
            shares[labels[j]] += 1 - share
            np.testing.assert_allclose(batch.shares[k].numpy(), shares, atol=1e-6)
            assert batch.labels[k] == (labels[i] if share >= 0.5 else labels[j])
            first_shares.append(float(share))
    assert first_shares[:8:2] == pytest.approx(known, abs=1e-6)


# JPEGs as phones store them


def photograph(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards, blue is a pattern too fine for a small picture."""
    y, x = np.mgrid[:height, :width]
    blue = 128 + 60 * ((x + 2 * y) % 3 - 1)
    return np.stack([255 * x // (width - 1), 255 * y // (height - 1), blue], -1).astype(np.uint8)


# EXIF 2.32, section 4.6.4: how an upright picture lies in the file.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def jpeg(folder: Path, upright: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / f"{orientation}-{upright.shape[0]}.jpg"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(path, quality=95, subsampling=0, exif=exif)
    return path


def of_files(paths: list[Path], preprocessing: Preprocessing, **fields) -> np.ndarray:
    batches = Batches(
        Split("train", np.zeros(len(paths), np.int64), [p.name for p in paths], files=tuple(paths)),
        preprocessing,
        batch_size=len(paths),
        augmentation=Augmentation(**fields),
    )
    (batch,) = batches.epoch(0)
    assert not batch.bad
    return in_bytes(batch)


def plain(height: int, width: int, **fields) -> Preprocessing:
    geometry = {"resize": "squash", **fields}
    return Preprocessing(
        channels=3, size_px=(height, width), mean=(0,) * 3, std=(1,) * 3, **geometry
    )


def reduced(path: Path, factor: int, upright_px: tuple[int, int]) -> Image.Image:
    """Pillow's own: decoded at 1/factor, then turned."""
    with Image.open(path) as image:
        turned = image.size != upright_px[::-1]
        height, width = upright_px[::-1] if turned else upright_px
        image.draft("RGB", (width // factor, height // factor))
        upright = ImageOps.exif_transpose(image)
    assert upright.size == (-(-upright_px[1] // factor), -(-upright_px[0] // factor))
    return upright


def corners(picture: np.ndarray) -> list[tuple[int, int]]:
    """Red and green of the top left, top right, bottom left and bottom right pixel."""
    return [tuple(picture[y, x, :2].tolist()) for y in (0, -1) for x in (0, -1)]


@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_jpeg_at_evaluation(orientation, tmp_path):
    """The shorter side to 40 px, the middle 32 by 36: Pillow's, to the bit; corners to 3."""
    path = jpeg(tmp_path, photograph(80, 120), orientation)
    preprocessing = plain(32, 36, resize="shorter", resize_px=40)
    (found,) = of_files([path], preprocessing)
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image).resize((60, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(whole)[4:36, 12:48])
    for corner, known in zip(
        corners(found), [(52, 28), (203, 28), (52, 227), (203, 227)], strict=True
    ):
        assert corner == pytest.approx(known, abs=3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_jpeg_in_training(orientation, factor, tmp_path):
    """The whole picture of 128 by 192 px on 3/4 of 1/factor of it, each decoded so much smaller."""
    path = jpeg(tmp_path, photograph(128, 192), orientation)
    height, width = 96 // factor, 144 // factor
    fields = {"crop": "random_resized", "area": (1.0, 1.0), "ratio": (1.5, 1.5)}
    (found,) = of_files([path], plain(height, width), **fields)
    expected = reduced(path, factor, (128, 192)).resize((width, height), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1
    half = 255 / 2 / width, 255 / 2 / height  # of a step from pixel to pixel
    low, high = [round(h) for h in half], [round(255 - h) for h in half]
    known = [(low[0], low[1]), (high[0], low[1]), (low[0], high[1]), (high[0], high[1])]
    for corner, values in zip(corners(found), known, strict=True):
        assert corner == pytest.approx(values, abs=4)
    (full,) = of_files([path], plain(height, width), **fields, decode="full")
    assert (np.abs(full.astype(int) - found).mean() < 0.1) == (factor == 1)
    assert np.abs(full.astype(int) - found)[..., :2].max() <= 4


@pytest.mark.parametrize(("orientation", "factor"), [(1, 8), (2, 4), (3, 4), (6, 4), (8, 4)])
def test_a_turned_jpeg_is_decoded_by_a_factor_of_its_sides(orientation, factor, tmp_path):
    """100 by 60 px would be rounded up at 1/8, and turned the rest would come first."""
    path = jpeg(tmp_path, photograph(60, 100), orientation)
    fields = {"crop": "random_resized", "area": (1.0, 1.0), "ratio": (5 / 3, 5 / 3)}
    (found,) = of_files([path], plain(6, 10), **fields)
    expected = reduced(path, factor, (60, 100)).resize(
        (10, 6), Image.Resampling.BILINEAR, (0, 0, 100 / factor, 60 / factor)
    )
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1
    known = [(12, 21), (243, 21), (12, 234), (243, 234)]
    for corner, values in zip(corners(found), known, strict=True):
        assert corner == pytest.approx(values, abs=6)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_windows_of_scale_are_decoded_smaller(factor, tmp_path):
    """Turned by 90 degrees, scaled so that the window is `factor` pixels a pixel wide."""
    path = jpeg(tmp_path, photograph(128, 192), 6)
    shorter = 128 // factor
    fields = {"crop": "scale", "scale_px": (shorter, shorter)}
    (found,) = of_files([path], plain(8, 8), **fields)
    _, down_u, across_u = draws(0, 0, 0, 3)
    left = int(down_u * (shorter * 3 // 2 - 7))
    top = int(across_u * (shorter - 7))
    window = np.asarray(reduced(path, factor, (128, 192)))[top : top + 8, left : left + 8]
    assert np.abs(found.astype(int) - window).max() <= 1


def test_neither_side_is_decoded_below_what_is_made_of_it(tmp_path):
    """128 by 192 px on 32 by 24: 4 times as high, 8 times as wide, so decoded at 1/4."""
    path = jpeg(tmp_path, photograph(128, 192), 8)
    fields = {"crop": "random_resized", "area": (1.0, 1.0), "ratio": (1.5, 1.5)}
    (found,) = of_files([path], plain(32, 24), **fields)
    expected = reduced(path, 4, (128, 192)).resize((24, 32), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1
