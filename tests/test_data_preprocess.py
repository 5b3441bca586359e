"""Geometry and normalization against torchvision and float64; what an export leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2

from deepen.data.decode import (
    PictureError,
    open_picture,
)
from deepen.data.preprocess import Preprocessing
from deepen.weights import load_weights

RNG = np.random.default_rng(7)

# Geometry


def preprocessing(**changes: object) -> Preprocessing:
    fields: dict[str, object] = {
        "channels": 3,
        "size_px": (24, 20),
        "resize": "shorter",
        "resize_px": 30,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return Preprocessing.model_validate(fields | changes)


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(height * 1000 + width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(24, 60))
def test_shorter_side_and_centre_crop_are_torchvisions(height: int, width: int, side: int) -> None:
    oracle = v2.Compose([v2.Resize(side), v2.CenterCrop((24, 20))])
    image = noise(height, width)
    fitted = preprocessing(resize_px=side).fit(image)
    assert fitted.flags.writeable
    assert fitted.flags.c_contiguous
    np.testing.assert_array_equal(fitted, np.asarray(oracle(image)))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3), st.sampled_from([1, 3]))
def test_squash_and_pad_are_torchvisions(height: int, width: int, pad: int, channels: int) -> None:
    oracle = v2.Compose([v2.Resize((24 - 2 * pad, 20 - 2 * pad)), v2.Pad(pad)])
    statistics = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    image = noise(height, width, channels)
    fitted = preprocessing(
        resize="squash", resize_px=None, pad_px=pad, channels=channels, **statistics
    ).fit(image)
    assert fitted.shape == (24, 20, channels)
    np.testing.assert_array_equal(fitted, np.asarray(oracle(image)).reshape(24, 20, channels))


@given(
    st.sampled_from(["none", "shorter", "squash"]),
    st.integers(0, 3),
    st.sampled_from([1, 3]),
    st.sampled_from([(32, 32), (30, 30), (24, 20), (31, 47), (30, 41)]),
    st.integers(0, 3),
)
def test_fit_arrays_is_fit_on_each(
    resize: str, pad: int, channels: int, size: tuple[int, int], num_images: int
) -> None:
    size = (24 - 2 * pad, 20 - 2 * pad) if resize == "none" else size
    images = RNG.integers(0, 256, (num_images, *size, channels), dtype=np.uint8)
    one = preprocessing(
        resize=resize,
        resize_px=30 if resize == "shorter" else None,
        pad_px=pad,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    fitted = one.fit_arrays(images)
    assert fitted.shape == (num_images, 24, 20, channels)
    assert fitted.dtype == np.uint8
    for image, result in zip(images, fitted, strict=True):
        picture = Image.fromarray(image if channels == 3 else image[..., 0])
        np.testing.assert_array_equal(result, one.fit(picture))


def test_lenets_border() -> None:
    lenet = preprocessing(
        channels=1, size_px=(32, 32), resize="none", resize_px=None, pad_px=2, mean=(0,), std=(1,)
    )
    digits = RNG.integers(1, 256, (5, 28, 28, 1), dtype=np.uint8)
    padded = lenet.fit_arrays(digits)
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], digits)
    assert padded.astype(int).sum() == digits.astype(int).sum()
    assert lenet.describe() == "28x28, not resized, 2 px of zeros round it, greyscale"


def test_arrays_change_their_channels_as_pictures_do() -> None:
    grey = preprocessing(
        channels=1, size_px=(37, 53), resize="none", resize_px=None, mean=(0,), std=(1,)
    )
    photo = noise(37, 53)
    pixels = np.asarray(photo)[None]
    np.testing.assert_array_equal(grey.fit_arrays(pixels)[0, ..., 0], photo.convert("L"))
    colour = preprocessing(size_px=(37, 53), resize="none", resize_px=None)
    red = photo.getchannel("R").convert("RGB")
    np.testing.assert_array_equal(colour.fit_arrays(pixels[..., :1])[0], red)


@pytest.mark.parametrize("size", [(25, 20), (24, 21), (23, 20), (24, 19)])
def test_another_size_is_refused_where_nothing_is_resized(size: tuple[int, int]) -> None:
    fixed = preprocessing(resize="none", resize_px=None)
    with pytest.raises(PictureError, match=f"{size[1]}x{size[0]} px; 20x24 needed"):
        fixed.fit(noise(*size))
    with pytest.raises(PictureError, match="20x24 needed"):
        fixed.fit_arrays(np.zeros((2, *size, 3), np.uint8))


def test_a_misfit_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", (1, 3000)).save(path)
    with pytest.raises(PictureError) as caught:
        preprocessing(resize_px=300).fit(open_picture(path))
    assert caught.value.path == str(path)
    assert "300x900000 px" in caught.value.reason


def test_describe() -> None:
    card = preprocessing(size_px=(64, 64), resize_px=73)
    assert card.describe() == "shorter side to 73 px, centre crop 64x64"
    squash = preprocessing(resize="squash", resize_px=None, mean_image=True)
    assert squash.describe() == "squashed to 24x20, mean of each pixel subtracted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "1 or 3"),
        ({"mean": (0.5,)}, "3 values"),
        ({"std": (0.5, 0.5)}, "3 values"),
        ({"std": (0.5, 0.5, 0.0)}, "above 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"size_px": (0, 20)}, "greater than 0"),
        ({"pad_px": 10}, "leaves no picture"),
        ({"pad_px": -1}, "leaves no picture"),
        ({"resize_px": None}, "goes with resize=shorter"),
        ({"resize": "squash"}, "goes with resize=shorter"),
        ({"resize_px": 23}, "less than the crop"),
        ({"crop": 3}, "Extra inputs"),
    ],
)
def test_impossible_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        preprocessing(**changes)


def test_it_travels_as_json() -> None:
    card = preprocessing(mean=(0.1, 1 / 3, 0.7))
    assert Preprocessing.model_validate_json(card.model_dump_json()) == card


# Normalization


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_torchvisions(channels: int) -> None:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    card = preprocessing(channels=channels, size_px=(19, 23), mean=mean, std=std)
    images = torch.from_numpy(RNG.integers(0, 256, (7, 19, 23, channels), dtype=np.uint8))
    before = images.clone()
    normalized = card.normalize(images)
    assert normalized.dtype == torch.float32
    assert normalized.shape == (7, channels, 19, 23)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)

    oracle = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    torch.testing.assert_close(normalized, oracle(images.permute(0, 3, 1, 2)).contiguous())
    exact = (images.numpy() / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalized.permute(0, 2, 3, 1).numpy(), exact, rtol=0, atol=1e-6)


def test_normalize_with_a_mean_image() -> None:
    card = preprocessing(size_px=(19, 23), mean_image=True, std=(1.0, 0.5, 0.25))
    images = RNG.integers(0, 256, (5, 19, 23, 3), dtype=np.uint8)
    mean_image = torch.from_numpy(RNG.random((19, 23, 3), dtype=np.float32))
    normalized = card.normalize(torch.from_numpy(images), mean_image)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    exact = (images / 255 - mean_image.double().numpy()) / np.array(card.std)
    np.testing.assert_allclose(normalized.permute(0, 2, 3, 1).numpy(), exact, rtol=0, atol=1e-6)

    with pytest.raises(ValueError, match="mean_image=True"):
        card.normalize(torch.from_numpy(images))
    with pytest.raises(ValueError, match="mean_image=False"):
        preprocessing().normalize(torch.from_numpy(images), mean_image)


def test_normalize_takes_any_strides_and_an_empty_batch() -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (4, 20, 24, 3), dtype=np.uint8))
    turned = images.transpose(1, 2)
    card = preprocessing()
    assert torch.equal(card.normalize(turned), card.normalize(turned.contiguous()))
    assert card.normalize(images[:0]).shape == (0, 3, 20, 24)


class Whole(nn.Module):
    """What is served: uint8 pictures in, logits out."""

    mean_image: Tensor | None

    def __init__(self, card: Preprocessing, network: nn.Module, mean_image: Tensor | None) -> None:
        super().__init__()
        self.card, self.network = card, network
        self.register_buffer("mean_image", mean_image)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.card.normalize(images, self.mean_image))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("with_mean_image", [False, True])
@pytest.mark.parametrize("name", ["lenet5:mnist", "resnet20:cifar10"])
def test_an_export_leaves_nothing_behind(name: str, with_mean_image: bool, strict: bool) -> None:
    """Not in the process, whose later predictions stay right, and the exported graph is right."""
    loaded = load_weights(name)
    card, mean_image = loaded.card.preprocessing, loaded.mean_image
    shape = (*card.size_px, card.channels)
    if with_mean_image:
        mean_image = torch.rand(shape)
        card = card.model_copy(update={"mean_image": True})
    # A deviation that no other test has, so that nothing of this is known to the process yet.
    std = tuple(value * (1.01 + with_mean_image / 64 + strict / 128) for value in card.std)
    card = card.model_copy(update={"std": std, "mean_image": mean_image is not None})
    images = torch.from_numpy(RNG.integers(0, 256, (3, *shape), dtype=np.uint8))
    whole = Whole(card, loaded.model.eval(), mean_image)
    mean = np.array(card.mean) if mean_image is None else mean_image.double().numpy()
    exact = (images.numpy() / 255 - mean) / np.array(card.std)
    with torch.no_grad():
        expected = whole.network(torch.from_numpy(exact).float().permute(0, 3, 1, 2))
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        program = torch.export.export(whole, (images,), dynamic_shapes=(batch,), strict=strict)
        again = torch.export.export(whole, (images,), strict=strict)
        found = whole(images)
        normal = card.normalize(images, mean_image)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(normal.permute(0, 2, 3, 1).numpy(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(program.module()(images), found, rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(program.module()(images[:2]), found[:2], rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(again.module()(images), found, rtol=0, atol=1e-6 * scale)


def test_what_is_normalized_in_passing_leaves_nothing_behind() -> None:
    """Inference mode, a trace with fake tensors, another device as torch's own default."""
    images = torch.from_numpy(RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    for number, mode in enumerate((torch.inference_mode, FakeTensorMode, meta_device)):
        card = preprocessing(size_px=(8, 8), resize_px=8, std=(0.3 + number / 32, 0.2, 0.1))
        with mode() as active:
            fake = isinstance(active, FakeTensorMode)
            card.normalize(active.from_tensor(images) if fake else images)
        normal = card.normalize(images)
        assert type(normal) is Tensor
        assert not normal.is_inference()
        exact = (images.numpy() / 255 - np.array(card.mean)) / np.array(card.std)
        np.testing.assert_allclose(normal.permute(0, 2, 3, 1).numpy(), exact, rtol=0, atol=1e-5)
        factor = torch.ones(1, 3, 1, 1, requires_grad=True)
        (normal * factor).sum().backward()
        assert factor.grad is not None


def meta_device() -> torch.device:
    return torch.device("meta")
