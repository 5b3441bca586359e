"""RandAugment and random erasing against torchvision's, and counts against their probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomErasing
from torchvision.transforms.autoaugment import RandAugment, _apply_op

from deepen.data.augment import Augmentation, augment_batch, augment_fitted, pad_images
from deepen.data.erasing import ERASING_DRAWS, erase, erased_box
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.rand_augment import OPERATIONS, rand_augment
from deepen.data.randomness import random_bytes, uniforms
from deepen.data.sources import Split

THEIRS = {name: name.replace("_", " ").title().replace(" ", "") for name in OPERATIONS}


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def photo(mode: str = "RGB") -> Image.Image:
    """Smooth, with neither black nor white in it: contrast and equalizing have something to do."""
    coarse = np.random.default_rng(0).integers(30, 220, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((37, 30), Image.Resampling.BICUBIC).convert(mode)


def test_the_fourteen_operations_are_torchvisions():
    assert len(OPERATIONS) == 14
    assert set(THEIRS.values()) == set(RandAugment()._augmentation_space(11, (30, 37)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_torchvisions(name, mode):
    image: Any = photo(mode)
    # Eleven bins are the paper's scale from 0 to 10.
    strengths, signed = RandAugment()._augmentation_space(11, (30, 37))[THEIRS[name]]
    for magnitude in range(11):
        strength = float(strengths[magnitude] if strengths.ndim else strengths)
        for sign in (1, -1) if signed else (1,):
            expected = _apply_op(
                image,
                THEIRS[name],
                sign * strength,
                InterpolationMode.NEAREST,
                [128.0] * len(image.getbands()),
            )
            found = OPERATIONS[name](image, sign * magnitude / 10)
            different = np.asarray(found).astype(int) != np.asarray(expected)
            # A pixel that lies between two goes to either, by the last bit of the matrix.
            assert different.mean() <= (0.01 if name.startswith(("shear", "rot")) else 0), magnitude


def test_unsigned_operations_are_equal_for_both_signs():
    image = photo()
    for name in ("identity", "auto_contrast", "equalize", "solarize", "posterize"):
        both = [np.asarray(OPERATIONS[name](image, level)) for level in (0.7, -0.7)]
        assert np.array_equal(*both)


def test_operations_are_drawn_equally_often_and_applied_in_order():
    image = photo()
    names = list(OPERATIONS)
    for first, second in ((5, 3), (3, 5), (0, 13)):
        u = [(first + 0.5) / 14, 0.2, (second + 0.5) / 14, 0.7]
        expected = OPERATIONS[names[second]](OPERATIONS[names[first]](image, 0.9), -0.9)
        assert rand_augment(image, 9, u) == expected
    u = uniforms(0, 0, torch.arange(7000), 2, stream=0)[:, 0]
    assert stats.chisquare(torch.bincount((u * 14).long()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_one_at_a_time_as_in_batches(channels):
    augmentation = Augmentation(crop="pad", flip=True, rand_augment=2, magnitude=7, erase=0.5)
    images = noise(20, 12, 10, channels)
    indices = torch.arange(19, -1, -1)
    u = uniforms(1, 2, indices, augmentation.draws)
    batch = augment_batch(augmentation, pad_images(augmentation, images), indices, u)
    for row, index in enumerate(indices):
        alone = augment_fitted(augmentation, images[index].numpy(), u[row])
        assert torch.equal(alone, batch[row])


def test_pictures_in_memory_are_the_same_with_and_without_workers():
    split = Split("train", np.zeros(8, np.int64), tuple("abcdefgh"), noise(8, 12, 10, 3).numpy())
    preprocessing = Preprocessing(
        channels=3, size_px=(12, 10), resize="none", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    augmentation = Augmentation(crop="pad", rand_augment=2, erase=1)
    seen = []
    for workers in (0, 2):
        batches = Batches(
            split, preprocessing, batch_size=3, augmentation=augmentation, workers=workers
        )
        seen.append(torch.cat([batch.images for batch in batches.epoch(1)]))
    assert torch.equal(*seen)


def test_what_is_asked_for_beside_changes_no_draw_of_the_rest():
    """The same crop and flip with and without the operations that come after them."""
    images = noise(30, 8, 8, 3)
    indices = torch.arange(30)
    fields = {"crop": "pad", "flip": True}
    plain, more = Augmentation(**fields), Augmentation(**fields, erase=0.5)
    out = [
        augment_batch(a, pad_images(a, images), indices, uniforms(0, 0, indices, a.draws))
        for a in (plain, more)
    ]
    whole = (out[0] == out[1]).flatten(1).all(1)
    assert 5 < whole.sum() < 25


@pytest.mark.parametrize("size", [(32, 32), (60, 24)])
def test_boxes_are_distributed_as_torchvisions(size):
    area, ratio = (0.02, 0.4), (0.3, 1 / 0.3)
    u = uniforms(0, 0, torch.arange(3000), ERASING_DRAWS)
    ours = torch.stack(erased_box(size, area, ratio, u), 1).numpy()
    torch.manual_seed(0)
    blank = torch.empty(3, *size)
    theirs = np.array(
        [RandomErasing.get_params(blank, list(area), list(ratio))[:4] for _ in range(3000)]
    )
    for mine, other in zip(ours.T, theirs.T, strict=True):
        result: Any = stats.ks_2samp(mine, other)
        assert result.pvalue > 1e-3


def test_a_box_of_noise_and_nothing_beside_it():
    images = torch.zeros(2000, 16, 12, 3, dtype=torch.uint8)
    u = uniforms(3, 0, torch.arange(2000), ERASING_DRAWS)
    out = erase(images, 0.3, (0.1, 0.3), (0.5, 2.0), u)
    touched = out.any(3)
    erased = touched.flatten(1).any(1)
    assert stats.binomtest(int(erased.sum()), 2000, 0.3).pvalue > 1e-3
    boxes = torch.stack(erased_box((16, 12), (0.1, 0.3), (0.5, 2.0), u), 1)
    for place in erased.nonzero().flatten().tolist()[:50]:
        top, left, height, width = boxes[place].tolist()
        inside = torch.zeros(16, 12, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert not touched[place][~inside].any()
        assert touched[place][inside].float().mean() > 0.9
    noise_bytes = out[touched.bool()].flatten()
    assert stats.chisquare(torch.bincount(noise_bytes.long(), minlength=256)[1:]).pvalue > 1e-3


def test_a_box_that_never_fits_leaves_the_picture():
    images = noise(50, 2, 20, 1)
    u = uniforms(0, 0, torch.arange(50), ERASING_DRAWS)
    assert torch.equal(erase(images, 1.0, (0.9, 1.0), (1.0, 1.0), u), images)


def test_random_bytes_are_those_of_each_sample():
    whole = random_bytes(1, 2, torch.arange(100), 21, 3)
    assert whole.shape == (100, 21)
    assert torch.equal(random_bytes(1, 2, torch.tensor([7, 3]), 13, 3), whole[[7, 3], :13])
    assert stats.chisquare(torch.bincount(whole.flatten().long(), minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rand_augment": -1}, "greater than or equal to 0"),
        ({"magnitude": 11}, "less than or equal to 10"),
        ({"erase": 1.5}, "less than or equal to 1"),
        ({"erase_area": (0.5, 0.2)}, "erase_area must rise"),
        ({"erase_ratio": (2.0, 0.2)}, "erase_ratio must rise"),
    ],
)
def test_impossible_fields(fields, words):
    with pytest.raises(ValidationError, match=words):
        Augmentation(**fields)
