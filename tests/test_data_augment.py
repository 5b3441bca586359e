"""Augmentation against torch.nn.functional.pad, torchvision, PIL and float64 formulas."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import stats
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as v2

from deepen.data.augment import (
    Augmentation,
    _lighting,
    augment_batch,
    augment_fitted,
    augment_pixels,
    pad_images,
    reduction,
    resized_box,
)
from deepen.data.decode import PictureError, open_picture, open_pixels, to_channels, to_pixels
from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import uniforms
from deepen.errors import InputError

ALMOST_ONE = 1 - 2**-24
REDUCIBLE = [
    Augmentation(crop="random_resized"),
    Augmentation(crop="scale", scale_px=(40, 80)),
]


def prep(height: int, width: int, channels: Any = 3, **fields) -> Preprocessing:
    plain = {"resize": "none", "mean": (0.0,) * channels, "std": (1.0,) * channels}
    return Preprocessing(channels=channels, size_px=(height, width), **{**plain, **fields})


def as_input(image: Image.Image) -> Any:
    """torchvision takes pictures of PIL, though its types do not say so."""
    return image


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth enough that a resize has something to do, rough enough to tell windows apart."""
    coarse = noise(max(1, height // 3), max(1, width // 3), 3, seed=seed).numpy()
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def augment_picture(
    augmentation: Augmentation, image: Image.Image, fits: Preprocessing, u: torch.Tensor
) -> torch.Tensor:
    """What the loader does with one picture."""
    if not augmentation.resizes:
        return augment_fitted(augmentation, fits.fit(image), u)
    pixels = to_pixels(to_channels(image, fits.channels))
    return augment_pixels(augmentation, pixels, fits, u)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_place_of_pad_and_crop(channels):
    augmentation = Augmentation(crop="pad", pad_px=2)
    images = noise(3, 6, 7, channels)
    padded = pad_images(augmentation, images)
    reference = functional.pad(images.permute(0, 3, 1, 2), (2, 2, 2, 2))
    for top, left in itertools.product(range(5), range(5)):
        u = torch.tensor([[(top + 0.5) / 5, (left + 0.5) / 5]] * 2)
        out = augment_batch(augmentation, padded, torch.tensor([2, 0]), u)
        expected = reference[[2, 0], :, top : top + 6, left : left + 7].permute(0, 2, 3, 1)
        assert torch.equal(out, expected)


def test_places_of_pad_and_crop_are_equally_likely():
    augmentation = Augmentation(crop="pad", pad_px=4)
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1) + 1
    padded = pad_images(augmentation, image)
    indices = torch.zeros(8100, dtype=torch.int64)
    u = uniforms(0, 0, torch.arange(8100), 2)
    windows = augment_batch(augmentation, padded, indices, u)[..., 0]
    places = {
        bytes(padded[0, top : top + 8, left : left + 8, 0].contiguous().numpy().data): 0
        for top, left in itertools.product(range(9), range(9))
    }
    assert len(places) == 81
    for window in windows:
        places[bytes(window.numpy().data)] += 1
    assert stats.chisquare(list(places.values())).pvalue > 1e-3


def test_flip_is_left_to_right_below_one_half():
    augmentation = Augmentation(flip=True)
    images = noise(4, 5, 6, 3)
    u = torch.tensor([[0.0], [0.4999], [0.5], [ALMOST_ONE]])
    out = augment_batch(augmentation, images, torch.arange(4), u)
    assert torch.equal(out[:2], images[:2].flip(2))
    assert torch.equal(out[2:], images[2:])


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True),
        Augmentation(crop="pad", flip=True),
        Augmentation(crop="pad", pad_px=1, jitter=0.4),
        Augmentation(crop="pad", flip=True, jitter=0.4, lighting=0.1),
        Augmentation(crop="pad", flip=True, flip_vertical=True, rotate=20, erase=0.5),
    ],
)
def test_one_at_a_time_as_in_batches(augmentation):
    images = noise(20, 12, 10, 3)
    indices = torch.arange(19, -1, -1)
    u = uniforms(1, 2, indices, augmentation.draws)
    batch = augment_batch(augmentation, pad_images(augmentation, images), indices, u)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous()
    for row, index in enumerate(indices):
        image = Image.fromarray(images[index].numpy())
        assert torch.equal(augment_picture(augmentation, image, prep(12, 10), u[row]), batch[row])


def test_the_border_of_the_preprocessing_is_kept():
    for augmentation in (Augmentation(crop="pad"), Augmentation(crop="random_resized")):
        u = torch.full((augmentation.draws,), 0.5)
        fits = prep(12, 12, pad_px=2)
        out = augment_picture(augmentation, Image.new("RGB", (8, 8), "white"), fits, u)
        assert out.shape == (12, 12, 3)
        assert out[2:10, 2:10].min() == 255
        assert out.sum() == 255 * 8 * 8 * 3


def test_no_augmentation_is_the_fit_of_evaluation():
    fits = prep(16, 16, resize="shorter", resize_px=20)
    image = picture(50, 40)
    out = augment_picture(Augmentation(), image, fits, torch.zeros(0))
    assert np.array_equal(out.numpy(), fits.fit(image))


def _boxes(size: tuple[int, int], count: int, augmentation: Augmentation) -> np.ndarray:
    u = uniforms(0, 0, torch.arange(count), augmentation.draws).tolist()
    return np.array([resized_box(augmentation, size, row) for row in u])


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (32, 32)])
def test_boxes_are_distributed_as_torchvisions(size):
    width, height = size
    boxes = _boxes(size, 2000, Augmentation(crop="random_resized"))
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= width
    assert bottom.max() <= height
    torch.manual_seed(0)
    blank = torch.empty(1, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    )
    their_top, their_left, their_height, their_width = theirs.T
    for ours, other in (
        (left, their_left),
        (top, their_top),
        (right - left, their_width),
        (bottom - top, their_height),
        ((right - left) * (bottom - top), their_height * their_width),
        ((right - left) / (bottom - top), their_width / their_height),
    ):
        result: Any = stats.ks_2samp(ours, other)
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (7, 1), (31, 40), (3, 40)])
def test_boxes_that_never_fit_are_torchvisions_central_one(size):
    width, height = size
    augmentation = Augmentation(crop="random_resized", area=(1, 1))
    top, left, h, w = RandomResizedCrop.get_params(
        torch.empty(1, height, width), [1.0, 1.0], [3 / 4, 4 / 3]
    )
    box = resized_box(augmentation, size, [0.5] * augmentation.draws)
    assert box == (left, top, left + w, top + h)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(80, 100), (700, 31), (12, 9)])
def test_random_resized_is_torchvisions_resized_crop(size, channels):
    augmentation = Augmentation(crop="random_resized", flip=True)
    image = picture(*size).convert({1: "L", 3: "RGB"}[channels])
    for index in range(20):
        u = uniforms(4, 0, torch.tensor([index]), augmentation.draws)[0]
        left, top, right, bottom = resized_box(augmentation, image.size, u.tolist())
        box = (top, left, bottom - top, right - left, [24, 32])
        of_tensors = v2.resized_crop(v2.pil_to_tensor(image), *box, antialias=True)
        of_pillow: Any = v2.resized_crop(as_input(image), *box)
        if u[-1] < 0.5:
            of_tensors, of_pillow = v2.horizontal_flip(of_tensors), v2.horizontal_flip(of_pillow)
        out = augment_picture(augmentation, image, prep(24, 32, channels), u)
        assert torch.equal(out, of_tensors.permute(1, 2, 0))
        expected = np.asarray(of_pillow).astype(int).reshape(24, 32, channels)
        assert np.abs(out.numpy() - expected).max() <= 1


@pytest.mark.parametrize("augmentation", REDUCIBLE, ids=lambda a: a.crop)
def test_no_window_is_reduced_below_what_is_made_of_it(augmentation):
    seen = set()
    for index, size in enumerate([(400, 300), (900, 1200), (100, 110), (3000, 200)] * 40):
        u = uniforms(1, 0, torch.tensor([index]), augmentation.draws)[0]
        factor = reduction(augmentation, size, prep(24, 32), u)
        if augmentation.crop == "scale":  # the shorter side is drawn from 40 to 80
            spare = min(size) / (40 + int(u[0] * 41))
            assert factor <= spare or factor == 1
            assert factor == 8 or 2.1 * factor > spare  # sizes are whole pixels
        else:
            left, top, right, bottom = resized_box(augmentation, size, u.tolist())
            spare = min((right - left) / 32, (bottom - top) / 24)
            assert factor == max(f for f in (1, 2, 4, 8) if f <= max(1, spare))
        seen.add(factor)
        full = augmentation.model_copy(update={"decode": "full"})
        assert reduction(full, size, prep(24, 32), u) == 1
    assert seen == {1, 2, 4, 8}


def test_pictures_that_are_not_resized_at_random_are_decoded_in_full():
    for crop in ("none", "pad"):
        assert reduction(Augmentation(crop=crop), (9000, 9000), prep(8, 8), torch.zeros(2)) == 1


@pytest.mark.parametrize("augmentation", REDUCIBLE, ids=lambda a: a.crop)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(641, 461), (640, 464)])
@pytest.mark.parametrize("fast", [True, False])
def test_a_reduced_picture_shows_the_same_window(
    augmentation, width, height, orientation, fast, monkeypatch
):
    """Of a smooth picture, which loses nothing when it is reduced; a shift would show."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(data, "JPEG", quality=98, exif=exif)
    jpeg, reduced = data.getvalue(), 0
    if not fast:
        monkeypatch.setattr("deepen.data.decode._simplejpeg", lambda: None)
    for index in range(12):
        u = uniforms(2, 0, torch.tensor([index]), augmentation.draws)[0]
        full = augment_picture(augmentation, open_picture(jpeg), prep(24, 32), u)
        pixels = open_pixels(
            jpeg, reduction=lambda size, u=u: reduction(augmentation, size, prep(24, 32), u)
        )
        assert pixels.full_size == ((width, height) if orientation < 5 else (height, width))
        reduced += pixels.factor > 1
        small = augment_pixels(augmentation, pixels, prep(24, 32), u)
        assert (small.int() - full.int()).abs().max() <= 2
        assert (small.int() - full.int()).float().mean().abs() < 0.2
    # A turned picture is reduced by what divides its sides.
    assert reduced > 6 if orientation == 1 or width % 2 == 0 else reduced == 0


def test_scale_is_a_resize_and_a_window_of_it():
    augmentation = Augmentation(crop="scale", scale_px=(40, 48))
    image = picture(60, 90)
    seen = set()
    for shorter, down, across in itertools.product(range(40, 49), (0.0, 0.6), (0.3, ALMOST_ONE)):
        u = torch.tensor([(shorter - 40 + 0.5) / 9, across, down])
        out = augment_picture(augmentation, image, prep(32, 36), u).numpy().astype(int)
        whole: Any = v2.resize(as_input(image), [shorter], v2.InterpolationMode.BILINEAR)
        left, top = int(across * (whole.width - 36 + 1)), int(down * (whole.height - 32 + 1))
        expected = np.asarray(whole.crop((left, top, left + 36, top + 32))).astype(int)
        # Pillow keeps the window's corners in float32.
        assert np.abs(out - expected).max() <= 2
        assert np.abs(out - expected).mean() < 0.2
        seen.add((shorter, top, left))
    assert len(seen) == 36


def test_scale_draws_each_length():
    augmentation = Augmentation(crop="scale", scale_px=(8, 11))
    image = Image.new("RGB", (8, 1000))
    lengths = uniforms(0, 0, torch.arange(4000), 3)[:, 0]
    counts = torch.bincount((lengths * 4).long())
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    for u in torch.tensor([[0.0, 0, 0], [ALMOST_ONE] * 3]):
        assert augment_picture(augmentation, image, prep(8, 8), u).shape == (8, 8, 3)


@pytest.mark.parametrize("strength", [0.4, 1.5])
@pytest.mark.parametrize("order", range(6))
def test_jitter_is_torchvisions(strength, order):
    augmentation = Augmentation(jitter=strength)
    images = noise(6, 9, 11, 3, seed=order)
    u = uniforms(0, order, torch.arange(6), 4)
    u[:, 3] = (order + 0.5) / 6
    out = augment_batch(augmentation, images, torch.arange(6), u)
    adjust = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation)
    least = max(0.0, 1 - strength)
    for row in range(6):
        image = images[row].permute(2, 0, 1).double() / 255
        for kind in list(itertools.permutations(range(3)))[order]:
            factor = least + float(u[row, kind]) * (1 + strength - least)
            image = adjust[kind](image, factor)
        assert (out[row].permute(2, 0, 1) - 255 * image).abs().max() <= 0.5 + 1e-3


def test_jitter_of_grey_pictures_changes_brightness_and_contrast_alone():
    images = noise(5, 6, 6, 1)
    augmentation = Augmentation(jitter=0.4)
    u = torch.full((5, 4), 0.5)  # factors of 1
    u[:, 2] = 0.0  # of the saturation 0.6
    assert torch.equal(augment_batch(augmentation, images, torch.arange(5), u), images)
    u[:, 0] = 0.0
    darker = augment_batch(augmentation, images, torch.arange(5), u)
    assert torch.equal(darker, (images.double() * 0.6).round().to(torch.uint8))


def test_lighting_is_the_formula_of_alexnet():
    augmentation = Augmentation(lighting=0.1)
    u = uniforms(0, 0, torch.arange(50), 3)
    images = torch.full((50, 4, 4, 3), 128, dtype=torch.uint8)
    out = augment_batch(augmentation, images, torch.arange(50), u).numpy()
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    values = np.array([0.2175, 0.0188, 0.0045])
    assert np.allclose(vectors @ vectors.T, np.eye(3), atol=1e-3)
    alpha = 0.1 * stats.norm.ppf(u.double().numpy() + 2**-25)
    shift = np.stack([vectors @ (a * values) for a in alpha])  # [p1 p2 p3][a1 l1, a2 l2, a3 l3]
    expected = 128 + 255 * shift[:, None, None, :]
    assert np.abs(out - expected).max() <= 0.5 + 1e-3
    assert np.ptp(out.reshape(50, -1, 3), axis=1).max() == 0  # one shift for the whole picture


class OneDevice(TorchDispatchMode):
    """Fails where numbers of two devices are computed with, as a GPU would."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        devices = {each.device for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        assert len(devices) <= 1, f"{func}: {devices}"
        return func(*args, **(kwargs or {}))


def test_lighting_is_made_where_the_pictures_are():
    u = torch.rand(4, 3, device="meta")  # a GPU is not always there
    with OneDevice():
        assert _lighting(0.1, u).device.type == "meta"


def test_lighting_is_finite_at_both_ends():
    augmentation = Augmentation(lighting=0.1)
    images = torch.full((2, 2, 2, 3), 128, dtype=torch.uint8)
    u = torch.tensor([[0.0] * 3, [ALMOST_ONE] * 3])
    out = augment_batch(augmentation, images, torch.arange(2), u).int()
    # Symmetric about 128, about 5.3 standard deviations away.
    assert torch.equal(out[0] - 128, 128 - out[1])
    assert 15 < (out - 128).abs().max() < 40


sizes = st.integers(1, 40)
draws = st.lists(st.sampled_from([0.0, 0.25, 0.5, ALMOST_ONE]), min_size=30, max_size=30)


@settings(deadline=None)
@given(sizes, sizes, draws, st.sampled_from(["random_resized", "scale"]))
def test_any_picture_and_any_numbers_give_a_picture(width, height, numbers, crop):
    scale = (6, 9) if crop == "scale" else None
    augmentation = Augmentation(crop=crop, scale_px=scale, flip=True, jitter=0.4, lighting=0.1)
    u = torch.tensor(numbers[: augmentation.draws])
    out = augment_picture(augmentation, Image.new("RGB", (width, height)), prep(6, 5), u)
    assert out.shape == (6, 5, 3)
    assert out.dtype == torch.uint8


def test_a_picture_of_the_wrong_size_is_refused():
    with pytest.raises(PictureError, match="needed"):
        augment_picture(Augmentation(), Image.new("RGB", (5, 5)), prep(4, 4), torch.zeros(0))


def test_grey_and_colour_are_converted_when_resized():
    augmentation = Augmentation(crop="random_resized")
    u = torch.full((augmentation.draws,), 0.5)
    for mode, channels in (("L", 3), ("RGB", 1)):
        out = augment_picture(augmentation, Image.new(mode, (9, 9)), prep(4, 4, channels), u)
        assert out.shape == (4, 4, channels)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": "scale"}, "scale_px goes with crop: scale"),
        ({"scale_px": (256, 480)}, "scale_px goes with crop: scale"),
        ({"crop": "scale", "scale_px": (480, 256)}, "scale_px must rise"),
        ({"area": (0.5, 0.2)}, "area must rise"),
        ({"area": (0.0, 1.0)}, "greater than 0"),
        ({"area": (0.5, 1.5)}, "less than or equal to 1"),
        ({"ratio": (2, 1)}, "ratio must rise"),
        ({"jitter": -1}, "greater than or equal to 0"),
        ({"lighting": float("nan")}, "finite"),
        ({"pad_px": 0}, "greater than 0"),
        ({"crop": "center"}, "'none', 'pad', 'random_resized' or 'scale'"),
        ({"flips": True}, "Extra inputs are not permitted"),
        ({"rotate": 181}, "less than or equal to 180"),
        ({"rotate_fill": 256}, "less than or equal to 255"),
        ({"transform": "module"}, "should match pattern"),
    ],
)
def test_impossible_augmentations(fields, words):
    with pytest.raises(ValidationError, match=words):
        Augmentation(**fields)


def test_what_does_not_go_with_the_preprocessing():
    with pytest.raises(InputError, match="lighting needs colour"):
        Augmentation(lighting=0.1).check(prep(4, 4, 1))
    with pytest.raises(InputError, match="scale_px: 3 px is less than the crop, 4x4"):
        Augmentation(crop="scale", scale_px=(3, 8)).check(prep(4, 4))
    Augmentation(crop="scale", scale_px=(4, 8), lighting=0.1).check(prep(4, 4))


def test_vertical_flips_are_torchvisions_below_one_half():
    augmentation = Augmentation(flip_vertical=True)
    images = noise(4, 5, 6, 3)
    u = torch.tensor([[0.0], [0.4999], [0.5], [ALMOST_ONE]])
    out = augment_batch(augmentation, images, torch.arange(4), u)
    theirs = v2.vertical_flip(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(out, torch.cat([theirs[:2], images[2:]]))
    one = augment_batch(augmentation, images, torch.tensor([1]), u[:1])
    assert torch.equal(one[0], theirs[1])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill", [0, 200])
def test_rotations_are_torchvisions(channels, fill):
    """Pillow's to the bit; of tensors' arithmetic a value in some differs by rounding."""
    augmentation = Augmentation(rotate=40, rotate_fill=fill)
    images = torch.from_numpy(np.stack([np.array(picture(30, 24, s)) for s in range(5)]))
    images = images[..., :channels].contiguous()
    u = torch.tensor([[0.0], [0.25], [0.5], [0.9], [ALMOST_ONE]])
    out = augment_batch(augmentation, images, torch.arange(5), u)
    assert torch.equal(out[2], images[2])
    color = [fill] * channels
    for one, image, degrees in zip(out, images, [-40, -20, 0, 32, 40], strict=True):
        source = image[..., 0] if channels == 1 else image
        options: Any = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": color}
        pillow: Any = v2.rotate(as_input(Image.fromarray(source.numpy())), degrees, **options)
        difference = one.int() - torch.from_numpy(np.array(pillow)).view(one.shape).int()
        assert difference.abs().max() <= (1 if degrees == 40 else 0)  # 40 minus 2^-24 of 80
        tensor = v2.rotate(image.permute(2, 0, 1), degrees, **options).permute(1, 2, 0)
        inner = (slice(8, 22), slice(8, 16))  # edges are another matter to each
        assert (one[inner].int() - tensor[inner].int()).abs().max() <= 2


def test_parts_that_came_later_change_no_draw_of_the_others():
    before = Augmentation(crop="pad", flip=True, jitter=0.4, erase=0.5)
    after = before.model_copy(update={"flip_vertical": True, "rotate": 5.0, "transform": "a:b"})
    assert after._parts[: len(before._parts) - 3] == before._parts[:-3]
    assert after.draws == before.draws + 4


def test_numbers_of_draws():
    assert Augmentation().draws == 0
    assert Augmentation().magnitude == 9  # Cubuk et al. 2019, section 4.4: ResNet-50 on ImageNet
    assert Augmentation(crop="pad", flip=True).draws == 3
    assert Augmentation(crop="random_resized", flip=True, jitter=0.4, lighting=0.1).draws == 30


def test_lighting_is_normal():
    u = uniforms(2, 0, torch.arange(5000), 3)
    black = torch.full((5000, 1, 1, 3), 128, dtype=torch.uint8)
    out = augment_batch(Augmentation(lighting=1.0), black, torch.arange(5000), u)
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    kept = ((out > 0) & (out < 255)).all(3).flatten().numpy()
    assert kept.mean() > 0.9
    alpha = ((out[:, 0, 0].numpy() - 128.0) / 255) @ vectors / [0.2175, 0.0188, 0.0045]
    middle = alpha[:, 0]
    assert abs(np.median(middle)) < 0.06
    assert np.isclose(np.subtract(*np.percentile(middle, [75, 25])), 1.349, atol=0.08)
