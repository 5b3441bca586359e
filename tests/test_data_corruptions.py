"""The 15 corruptions, against the libraries that their authors used and against hand counts."""

from __future__ import annotations

import colorsys
import io
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage import data as pictures

from deepen.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from deepen.errors import InputError

KINDS = list(CORRUPTIONS)
LARGE = np.asarray(Image.fromarray(pictures.astronaut()).resize((256, 224)))
SMALL = np.asarray(Image.fromarray(pictures.astronaut()).resize((32, 32)))
SIZES = {"small": SMALL, "large": LARGE}


def strength(kind: str, size: str, severity: int):
    return getattr(CORRUPTIONS[kind], size)[severity - 1]


def difference(kind: str, pixels: np.ndarray, severity: int) -> float:
    moved = corrupt(pixels, kind, severity).astype(float) - pixels
    return float((moved**2).mean())


def test_there_are_the_papers_fifteen_in_four_groups():
    groups = [found.group for found in CORRUPTIONS.values()]
    assert len(KINDS) == 15
    assert [groups.count(name) for name in ("noise", "blur", "weather", "digital")] == [3, 4, 4, 4]
    for found in CORRUPTIONS.values():
        assert len(found.small) == len(found.large) == SEVERITIES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "pixels", [SMALL, SMALL[..., :1], SMALL[:20], LARGE], ids=["colour", "grey", "oblong", "large"]
)
def test_it_keeps_size_and_type_and_changes_something(kind, pixels):
    before = pixels.copy()
    changed = corrupt(pixels, kind, 5)
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert (changed != pixels).any()
    assert (pixels == before).all()


# The authors' elastic transform of large pictures shifts most at severity 2, by its corners.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "elastic_transform"])
def test_the_strongest_does_more_than_the_weakest(kind):
    pixels = [np.roll(LARGE, 16 * i, axis=1)[:, :224] for i in range(2)]
    weak, strong = (sum(difference(kind, one, severity) for one in pixels) for severity in (1, 5))
    assert strong > 1.2 * weak


def test_no_severity_is_the_picture_itself():
    assert (corrupt(SMALL, "fog", 0) == SMALL).all()


@pytest.mark.parametrize("kind", ["gaussian_noise", "glass_blur", "snow", "elastic_transform"])
def test_random_numbers_are_of_picture_kind_severity_and_seed(kind):
    first = corrupt(SMALL, kind, 3)
    assert (corrupt(SMALL.copy(order="F"), kind, 3) == first).all()
    assert (corrupt(SMALL, kind, 3, seed=1) != first).any()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert (pool.submit(corrupt, SMALL, kind, 3).result() == first).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_contrast_brightness_pixelate_and_jpeg_are_what_libraries_make(size, severity):
    pixels = SIZES[size]
    x = pixels / 255
    image = Image.fromarray(pixels)

    kept, mean = strength("contrast", size, severity), x.mean((0, 1))
    expected = np.uint8(np.clip((x - mean) * kept + mean, 0, 1) * 255)
    assert (corrupt(pixels, "contrast", severity) == expected).all()

    more = strength("brightness", size, severity)
    ours = corrupt(pixels, "brightness", severity)
    for row, column in ((0, 0), (7, 19), (20, 3), (31, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[row, column])
        rgb = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
        assert ours[row, column] == pytest.approx(255 * np.array(rgb), abs=1)

    share = strength("pixelate", size, severity)
    few = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
    expected = np.asarray(few.resize(image.size, Image.Resampling.BOX))
    assert (corrupt(pixels, "pixelate", severity) == expected).all()

    data = io.BytesIO()
    image.save(data, "JPEG", quality=strength("jpeg_compression", size, severity))
    assert (corrupt(pixels, "jpeg_compression", severity) == np.asarray(Image.open(data))).all()


GREY = np.full((224, 224, 3), 128, np.uint8)


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_stated_distribution(severity):
    scale = strength("gaussian_noise", "large", severity)
    noise = corrupt(GREY, "gaussian_noise", severity) / 255 - (128 - 0.5) / 255
    middle = np.abs(noise) < 0.4  # not cut off at black and white
    expected = stats.truncnorm(-0.4 / scale, 0.4 / scale, scale=scale).std()
    assert noise[middle].std() == pytest.approx(expected, rel=0.02)
    assert np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1] < 0.02

    photons = strength("shot_noise", "large", severity)
    shot = corrupt(GREY, "shot_noise", severity)
    none = stats.poisson(photons * 128 / 255).pmf(0)
    assert (shot == 0).mean() == pytest.approx(none, abs=0.003)
    if severity == 1:
        assert (shot / 255).std() == pytest.approx((128 / 255 / photons) ** 0.5, rel=0.02)

    amount = strength("impulse_noise", "large", severity)
    impulses = corrupt(GREY, "impulse_noise", severity)
    assert (impulses != 128).mean() == pytest.approx(amount, abs=0.005)
    assert (impulses == 255).sum() == pytest.approx((impulses == 0).sum(), rel=0.1)


def dot(side: int) -> np.ndarray:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[side // 2, side // 2] = 255
    return pixels


def test_defocus_spreads_a_point_over_a_disk():
    spread = corrupt(dot(225), "defocus_blur", 3)[..., 0].astype(float)  # radius 6
    y, x = np.mgrid[-112:113, -112:113]
    radius = np.hypot(x, y)
    assert (spread[radius <= 5] == int(255 / 113)).all()  # 113 points lie within 6 of the middle
    assert spread[radius > 8].max() == 0


def test_motion_blur_spreads_a_point_over_half_a_gaussian_on_a_line():
    wide = np.zeros((225, 225, 3), np.uint8)
    wide[100:125, 112] = 255  # taller than the line may lean
    spread = corrupt(wide, "motion_blur", 1)[112, :, 0] / 255  # radius 10, deviation 3
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    weights /= weights.sum()
    assert spread[112] == pytest.approx(weights[0], abs=0.16)  # steps to the same column add up
    assert spread[:90].max() == 0
    assert spread[113:].max() == 0  # to one side only
    assert spread.sum() == pytest.approx(1, abs=0.1)


def test_zoom_blur_is_the_mean_of_zooms():
    x = LARGE[:, :224] / 255
    zooms = np.arange(1, 1.11, 0.01)
    total = x.copy()
    for zoom in zooms:
        keep = int(np.ceil(224 / zoom))
        top = (224 - keep) // 2
        large = ndimage.zoom(x[top : top + keep, top : top + keep], (zoom, zoom, 1), order=1)
        trim = (len(large) - 224) // 2
        total += large[trim : trim + 224, trim : trim + 224]
    expected = 255 * total / (len(zooms) + 1)
    ours = corrupt(LARGE[:, :224], "zoom_blur", 1).astype(float)
    assert np.abs(ours - np.floor(expected)).max() <= 1


def test_glass_only_moves_pixels_where_it_hardly_blurs():
    numbered = (np.arange(32 * 32) % 251).astype(np.uint8).reshape(32, 32, 1)
    moved = corrupt(numbered, "glass_blur", 1)  # deviation 0.05 px, reach 1
    places = [numbered[r - 1 : r + 2, c - 1 : c + 2] for r in range(2, 30) for c in range(2, 30)]
    inner = moved[2:30, 2:30].ravel()
    # A pixel may be handed on along its row, but most come from next door.
    near = np.mean([pixel in place for pixel, place in zip(inner, places, strict=True)])
    assert near > 0.8
    assert (moved != numbered).mean() > 0.5
    assert (moved[:2] == numbered[:2]).all()


def test_fog_and_frost_lighten_the_dark():
    frosty = corrupt(np.zeros((224, 224, 3), np.uint8), "frost", 3).mean((0, 1))
    assert 60 < frosty[0] < frosty[1] < frosty[2]  # bluish
    thickness, _ = strength("fog", "large", 1)
    x = LARGE / 255
    foggy = corrupt(LARGE, "fog", 1) / 255
    # (x + t p) m / (m + t) with p in 0..1
    low, high = x / (1 + thickness), (x + thickness) / (1 + thickness)
    assert (foggy >= low - 0.01).all()
    assert (foggy <= high + 0.01).all()


def test_elastic_keeps_what_is_flat_and_moves_the_rest():
    assert set(np.unique(corrupt(GREY, "elastic_transform", 5))) <= {127, 128}
    assert difference("elastic_transform", LARGE, 1) > 100


@pytest.mark.parametrize(("kind", "severity"), [("fogg", 1), ("fog", 6), ("fog", -1)])
def test_what_there_is_not_is_refused(kind, severity):
    with pytest.raises(InputError, match=r"fog|severity"):
        corrupt(SMALL, kind, severity)
