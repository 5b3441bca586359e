"""Decoding against arrays we saved, EXIF by explicit numpy turns."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import pickle
import re
import struct
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, features

from deepen.data.decode import (
    EXTENSIONS,
    FORMATS,
    MAX_PIXELS,
    PictureError,
    decoder,
    detect_format,
    header_of,
    open_mask,
    open_picture,
    open_pixels,
)
from deepen.errors import InputError

RNG = np.random.default_rng(7)
ROWS, COLUMNS = np.mgrid[:37, :53]
RGB = np.stack([ROWS * 6, COLUMNS * 4, (ROWS * COLUMNS) % 256], axis=-1).astype(np.uint8)
PHOTO = Image.fromarray(RGB)
GREY = Image.fromarray(RGB[..., 0])


def encode(image: Image.Image, picture_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def decode(data: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(open_picture(data, channels=channels))


def png(width: int, height: int, depth: int, colour: int, rows: bytes | None) -> bytes:
    """A PNG written by hand (PNG specification, section 5), without data if `rows` is None."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


PALETTE = PHOTO.quantize(64)
ENCODED = {
    "jpeg": encode(PHOTO, "JPEG"),
    "jpeg progressive": encode(PHOTO, "JPEG", progressive=True),
    "jpeg cmyk": encode(PHOTO.convert("CMYK"), "JPEG"),
    "jpeg grey": encode(GREY, "JPEG"),
    "png": encode(PHOTO, "PNG"),
    "png palette": encode(PALETTE, "PNG", transparency=3),
    "png 16 bit": encode(Image.fromarray(RGB[..., 2].astype(np.uint16) * 257), "PNG"),
    "gif": encode(PALETTE, "GIF"),
    "bmp": encode(PHOTO, "BMP"),
    "webp": encode(PHOTO, "WEBP"),
    "tiff": encode(PHOTO, "TIFF"),
}
"""Not among them is compressed TIFF: when it is cut, libtiff itself writes to the terminal."""

WHOLE = {name: decode(data) for name, data in ENCODED.items()}


# Formats and modes


@pytest.mark.parametrize(
    ("picture_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_give_back_the_pixels(picture_format: str, options: dict) -> None:
    data = encode(PHOTO, picture_format, **options)
    assert detect_format(data) == picture_format
    np.testing.assert_array_equal(decode(data), RGB)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "webp"])
def test_lossy_formats_give_nearly_the_pixels(name: str) -> None:
    smooth = np.stack([ROWS * 6, COLUMNS * 4, 255 - COLUMNS * 4], axis=-1).astype(np.uint8)
    picture_format = "WEBP" if name == "webp" else "JPEG"
    options = {"progressive": True} if name == "jpeg progressive" else {}
    decoded = decode(encode(Image.fromarray(smooth), picture_format, quality=95, **options))
    assert np.abs(decoded.astype(int) - smooth).mean() < 4


def test_first_frame_of_an_animation() -> None:
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    for picture_format in ("GIF", "WEBP", "PNG", "TIFF"):
        lossless = {"lossless": True} if picture_format == "WEBP" else {}
        data = encode(first, picture_format, save_all=True, append_images=[second], **lossless)
        assert (decode(data) == (255, 0, 0)).all(), picture_format


def test_jpeg_of_a_phone_with_several_pictures() -> None:
    data = encode(PHOTO, "MPO", save_all=True, append_images=[GREY])
    assert detect_format(data) == "JPEG"
    assert decode(data).shape == RGB.shape


def test_cmyk() -> None:
    inks = {"red": (0, 255, 255, 0), "black": (0, 0, 0, 255), "white": (0, 0, 0, 0)}
    for colour, ink in inks.items():
        data = encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
        expected = np.asarray(Image.new("RGB", (16, 16), colour)).astype(int)
        assert np.abs(decode(data) - expected).max() <= 3, colour


def test_palette_with_transparency_is_composited_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])  # turns its mode into P
    data = encode(image, "PNG", transparency=bytes([255, 0, 51]))
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]  # 51 / 255 = one fifth
    np.testing.assert_array_equal(decode(data), expected)
    data = encode(image, "GIF", transparency=1)
    np.testing.assert_array_equal(decode(data)[0, :2], [[255, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize("picture_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(picture_format: str) -> None:
    alpha = RNG.integers(0, 256, (*RGB.shape[:2], 1), dtype=np.uint8)
    image = Image.fromarray(np.concatenate([RGB, alpha], axis=-1))
    options = {"lossless": True, "exact": True} if picture_format == "WEBP" else {}
    expected = 255 + (RGB.astype(float) - 255) * (alpha / 255)
    assert np.abs(decode(encode(image, picture_format, **options)) - expected).max() <= 1


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[0, 255], [0, 0], [100, 255], [0, 51]]], np.uint8))
    assert image.mode == "LA"
    np.testing.assert_array_equal(decode(encode(image, "PNG"), 1), [[0, 255, 100, 204]])
    assert decode(encode(image, "PNG")).tolist() == [[[v] * 3 for v in (0, 255, 100, 204)]]


def test_colour_key_transparency() -> None:
    image = Image.fromarray(np.array([[[9, 9, 9], [8, 9, 9]]], np.uint8))
    data = encode(image, "PNG", transparency=(9, 9, 9))
    np.testing.assert_array_equal(decode(data), [[[255, 255, 255], [8, 9, 9]]])
    grey = encode(Image.fromarray(np.array([[9, 8]], np.uint8)), "PNG", transparency=9)
    np.testing.assert_array_equal(decode(grey, 1), [[255, 8]])


def test_one_bit() -> None:
    bits = RNG.random((9, 13)) < 0.5
    for picture_format in ("PNG", "TIFF", "BMP"):
        data = encode(Image.fromarray(bits), picture_format)
        np.testing.assert_array_equal(decode(data, 1), bits * 255)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    files = [encode(Image.fromarray(values), kind) for kind in ("PNG", "TIFF")]
    files.append(encode(Image.fromarray(values.astype(">u2")), "TIFF"))
    for data in files:
        decoded = decode(data, 1)
        assert np.abs(decoded - values / 257).max() < 1
        np.testing.assert_array_equal(decode(data), np.repeat(decoded[..., None], 3, axis=-1))
    # The same values as 16-bit colour come out the same.
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    np.testing.assert_array_equal(decode(png(256, 256, 16, 2, rows))[..., 0], decode(files[0], 1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_white_are_refused(dtype: type) -> None:
    data = encode(Image.fromarray(np.arange(12, dtype=dtype).reshape(3, 4)), "TIFF")
    with pytest.raises(PictureError, match="no agreed white"):
        open_picture(data)


@pytest.mark.parametrize("name", sorted(ENCODED))
def test_one_channel_is_the_luma_of_three(name: str) -> None:
    luma = WHOLE[name] @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    grey = decode(ENCODED[name], 1)
    assert grey.shape == WHOLE[name].shape[:2]
    assert np.abs(grey - luma).max() <= 1


# Orientation

STORED = {  # EXIF 2.32, section 4.6.4: how an upright array lies in the file
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("picture_format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation(picture_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    options = {"lossless": True} if picture_format == "WEBP" else {}
    data = encode(stored, picture_format, exif=exif, **options)
    if picture_format == "JPEG":
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
    else:
        expected = RGB
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_orientations_that_mean_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(PHOTO, "PNG", exif=exif)), RGB)


def test_a_broken_exif_block_neither_warns_nor_spoils_the_picture() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\xff\x40"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture_format in ("JPEG", "PNG", "WEBP"):
            for exif in (broken, broken[:10], b"Exif\0\0nonsense"):
                assert decode(encode(PHOTO, picture_format, exif=exif)).shape == RGB.shape


def test_warning_filters_survive_many_threads() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [ENCODED["png"]] * 200))
    assert list(warnings.filters) == before


# Reduced decoding


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_smaller(mode: str, factor: int) -> None:
    y, x = np.mgrid[:173, :251]
    smooth = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    data = encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)
    full = open_picture(data)
    image = open_picture(data, reduction=lambda size: factor if size == (251, 173) else 0)
    assert image.mode == "RGB"
    assert image.size == (-(-251 // factor), -(-173 // factor))
    assert (image.info["full_size"], image.info["factor"]) == ((251, 173), factor)
    rows, columns = 173 // factor, 251 // factor
    blocks = np.asarray(full)[: rows * factor, : columns * factor].astype(float)
    means = blocks.reshape(rows, factor, columns, factor, 3).mean((1, 3))
    assert np.abs(np.asarray(image)[:rows, :columns] - means).max() <= 3
    assert np.array_equal(np.asarray(image), np.asarray(full)) == (factor == 1)


@pytest.mark.parametrize("name", sorted(name for name in ENCODED if "jpeg" not in name))
def test_other_formats_are_decoded_in_full(name: str) -> None:
    image = open_picture(ENCODED[name], reduction=lambda size: 4)
    assert "factor" not in image.info
    np.testing.assert_array_equal(np.asarray(image), WHOLE[name])


@pytest.fixture(params=["simplejpeg", "Pillow"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With simplejpeg, and as if it were not installed."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg", reason="simplejpeg, of deepen[fast], is not installed")
        return True
    monkeypatch.setattr("deepen.data.decode._simplejpeg", lambda: None)
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_damage_is_found_alike_however_a_jpeg_is_decoded(
    options: dict[str, Any], fast: bool
) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (80, 64, 3), dtype=np.uint8))
    data = encode(picture, "JPEG", **options)

    def verdict(damaged: bytes, factor: int | None) -> str:
        try:
            if factor is None:
                open_picture(damaged)
            else:
                open_pixels(damaged, reduction=lambda size: factor)
        except PictureError as error:
            # Pillow says how many bytes of its last piece were left, which the factor changes.
            return re.sub(r"\d+", "N", str(error))
        return "whole"

    found = Counter()
    for length in range(0, len(data), 23):
        expected = verdict(data[:length], None)
        found[expected] += 1
        assert [verdict(data[:length], factor) for factor in (1, 2, 4, 8)] == [expected] * 4
    assert found["whole"] == 0
    for place in range(2, len(data), 37):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        expected = verdict(bytes(damaged), None)
        found[expected] += 1
        assert [verdict(bytes(damaged), factor) for factor in (1, 2, 4, 8)] == [expected] * 4
    assert found["whole"] > 0
    assert len(found) > 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(ENCODED))
def test_pixels_for_training_are_those_of_evaluation(name: str, channels: int, fast: bool) -> None:
    pixels = open_pixels(ENCODED[name], channels=channels, reduction=lambda size: 1)
    full = decode(ENCODED[name], channels).reshape(37, 53, channels)
    np.testing.assert_array_equal(pixels.array, full)
    assert (pixels.full_size, pixels.factor) == ((53, 37), 1)
    assert pixels.reducible == ("jpeg" in name)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}])
@pytest.mark.parametrize("size", [(64, 48), (251, 173), (33, 90)])
def test_both_decoders_give_the_same_bits(
    size: tuple[int, int], options: dict[str, Any], factor: int, fast: bool
) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    data = encode(picture, "JPEG", **options)
    asked: list[tuple[int, int]] = []
    pixels = open_pixels(data, reduction=lambda size: asked.append(size) or factor)
    assert asked == [size]  # simplejpeg has decoded it: Pillow was not asked as well
    expected = open_picture(data, reduction=lambda size: factor)
    np.testing.assert_array_equal(pixels.array, np.asarray(expected))
    assert (pixels.full_size, pixels.factor, pixels.reducible) == (size, factor, True)


def test_a_sound_jpeg_is_not_for_pillow_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg, of deepen[fast], is not installed")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("Pillow decoded it"))
    assert open_pixels(ENCODED["jpeg"], reduction=lambda size: 2).array.shape == (19, 27, 3)


def test_limits_hold_for_training_too(fast: bool, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"53x37 px, above the cap of 1,960 pixels"):
        open_pixels(ENCODED["jpeg"], max_pixels=53 * 37 - 1, reduction=lambda size: 8)
    with pytest.raises(PictureError, match="no such file"):
        open_pixels(tmp_path / "gone.jpg", reduction=lambda size: 1)


def test_the_decoder_is_named() -> None:
    library = features.version_feature("libjpeg_turbo") or "none"
    assert f"Pillow {PIL.__version__}, libjpeg" in decoder()
    assert library in decoder() or not features.check("libjpeg_turbo")
    if importlib.util.find_spec("simplejpeg"):
        assert f", simplejpeg {importlib.metadata.version('simplejpeg')}" in decoder()
    else:
        assert "simplejpeg" not in decoder()


# Damage


@given(st.sampled_from(sorted(ENCODED)), st.floats(0, 1))
def test_a_cut_file_is_refused_or_whole(name: str, share: float) -> None:
    data = ENCODED[name][: int(share * len(ENCODED[name]))]
    with contextlib.suppress(PictureError):
        np.testing.assert_array_equal(decode(data), WHOLE[name])


@pytest.mark.parametrize("name", sorted(ENCODED))
def test_the_reason_is_one_line_that_says_damaged(name: str) -> None:
    with pytest.raises(PictureError, match=r"^half\.jpg: damaged [A-Z]+: \S.*$") as caught:
        open_picture(ENCODED[name][: len(ENCODED[name]) // 2], name="half.jpg")
    assert "0x" not in str(caught.value)


def test_a_large_jpeg_that_is_cut_anywhere_is_refused() -> None:
    data = encode(Image.fromarray(RNG.integers(0, 256, (600, 500, 3), dtype=np.uint8)), "JPEG")
    assert len(data) > 2 * ImageFile.MAXBLOCK  # decoded in several pieces
    for length in range(0, len(data) - 100, 997):
        with pytest.raises(PictureError):
            open_picture(data[:length])


@given(
    st.sampled_from(sorted(set(ENCODED) - {"tiff"})),  # libtiff writes to the terminal
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
def test_flipped_bits_raise_nothing_else(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(ENCODED[name])
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    with contextlib.suppress(PictureError):
        assert open_picture(bytes(data), max_pixels=10**6).mode == "RGB"


@given(st.sampled_from([data[:16] for data in ENCODED.values()]), st.binary(max_size=200))
def test_noise_after_a_signature_raises_nothing_else(signature: bytes, noise: bytes) -> None:
    with pytest.raises(PictureError):
        open_picture(signature + noise, max_pixels=10**6)


@pytest.mark.parametrize("side", [13_378, 20_000, 60_000])  # one row above the cap, and far
def test_a_bomb_is_refused_by_its_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("was decoded"))
    with pytest.raises(PictureError, match=r"picture: (13378x13378 px, above the cap|too large)"):
        open_picture(png(side, side, 8, 2, None))


@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_only_the_decoder_of_its_signature_sees_a_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has forty others, and would ask each of them."""
    asked: list[bytes] = []
    monkeypatch.setattr(Image, "ID", ["SPY", *Image.ID])
    monkeypatch.setitem(Image.OPEN, "SPY", (Image.Image, asked.append))
    Image.open(io.BytesIO(ENCODED[name]))
    assert len(asked) == 1
    open_picture(ENCODED[name])
    assert len(asked) == 1


def test_max_pixels_counts_width_times_height() -> None:
    assert open_picture(ENCODED["png"], max_pixels=37 * 53).size == (53, 37)
    with pytest.raises(PictureError, match="53x37 px, above the cap of 1,960 pixels"):
        open_picture(ENCODED["png"], max_pixels=37 * 53 - 1)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS // 2  # Pillow refuses at twice this


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"just some words", "not a picture"), (b"RIFF1234WAVEfmt ", "not a pic")],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "ant.jpg"
    path.write_bytes(content)
    assert detect_format(path) is None
    with pytest.raises(PictureError, match=reason) as caught:
        open_picture(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}: {caught.value.reason}")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    cases = {
        str(tmp_path): "is a folder",
        str(tmp_path / "none.png"): "no such file",
        "zero\0byte.png": "cannot be read",
        str(tmp_path / ("x" * 5000)): "cannot be read",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        cases[str(tmp_path / "pipe.png")] = "is no file"
    for path, reason in cases.items():
        for call in (open_picture, detect_format):
            with pytest.raises(PictureError) as caught:
                call(path)
            assert caught.value.path == path
            assert reason in caught.value.reason


def test_the_error_is_an_input_error_that_crosses_processes() -> None:
    with pytest.raises(InputError) as caught:
        open_picture(ENCODED["jpeg"][:500], name="ants/1.jpg")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, PictureError)
    assert (copy.path, copy.reason) == ("ants/1.jpg", caught.value.reason)  # type: ignore[attr-defined]
    assert str(copy) == str(caught.value)
    assert copy.exit_status == 2


def test_a_path_and_its_bytes_decode_alike(tmp_path: Path) -> None:
    for name, data in ENCODED.items():
        path = tmp_path / name
        path.write_bytes(data)
        picture = open_picture(path)
        assert picture.mode == "RGB"
        assert picture.info == {"name": str(path)}
        np.testing.assert_array_equal(np.asarray(picture), WHOLE[name])
        assert detect_format(str(path)) == name.split()[0].upper()


def test_endings() -> None:
    known = Image.registered_extensions() | {".jif": "JPEG"}  # as some call it
    assert all(known[e] == kind for kind in FORMATS.keys() - {"HEIF"} for e in FORMATS[kind])
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif"} <= EXTENSIONS
    assert not {".pdf", ".eps", ".psd", ".mpg", ".ico", ".fits", ".h5", ".svg"} & EXTENSIONS


@pytest.mark.parametrize("ending", sorted(EXTENSIONS - FORMATS.get("HEIF", frozenset())))
def test_each_ending_is_read_as_pillow_reads_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"picture{ending}"
    kind = next(kind for kind in FORMATS if ending in FORMATS[kind])
    mode = {".pbm": "1", ".pgm": "L"}.get(ending, "RGB")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    image.convert(mode).save(path, format=kind)
    assert detect_format(path) == kind
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_picture(path)), expected)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match=rf"{kind}|not a picture"):
        open_picture(path)


def test_grey_maps_above_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2048, 4095]], dtype=">u2")
    (tmp_path / "grey.pgm").write_bytes(b"P5 4 1 4095\n" + values.tobytes())
    read = np.asarray(open_picture(tmp_path / "grey.pgm", channels=1))
    np.testing.assert_allclose(read, values * (255 / 4095), atol=1)


def test_what_is_like_a_targa_by_chance_is_none() -> None:
    for data in (b"\0" * 40, b"\0\0\1\0" + b"\x10" * 40, b"\0\0\2\0\1\0" + b"\0" * 40):
        assert detect_format(data) is None  # nothing, an icon, a cursor


def test_telephones_photographs_are_read_where_pillow_heif_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif, of deepen[heic], is missing")
    image = Image.fromarray(np.full((64, 48, 3), (200, 30, 90), np.uint8))
    heif.from_pillow(image).save(tmp_path / "1.heic", quality=100)
    read = np.asarray(open_picture(tmp_path / "1.heic"))
    np.testing.assert_allclose(read, np.asarray(image), atol=4)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_header_says_the_size_that_decoding_gives(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"x.{kind.lower()}"
    Image.new("RGB", (7, 5)).save(path, kind, exif=exif)
    header = header_of(path)
    assert header.size == open_picture(path).size
    assert header.turned == (turn > 1)
    with pytest.raises(PictureError, match=r"none\.png: no such file"):
        header_of(tmp_path / "none.png")
    path.write_bytes(path.read_bytes()[:12])
    with pytest.raises(PictureError):
        header_of(path)


def test_a_mask_is_taken_as_it_is_written(tmp_path):
    values = np.random.default_rng().integers(0, 256, (5, 7)).astype(np.uint8)
    palette = Image.new("P", (7, 5))
    palette.putdata(values.ravel().tolist())
    palette.putpalette([(i * 91) % 256 for i in range(768)])
    colours = np.stack([values, values // 2, 255 - values], -1)
    for name, image, wanted in (
        ("p.png", palette, values),
        ("l.png", Image.fromarray(values), values),
        ("l.bmp", Image.fromarray(values), values),
        ("i.png", Image.fromarray(values.astype(np.uint16) * 200), values.astype(int) * 200),
        ("rgb.png", Image.fromarray(colours), colours),
    ):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(open_mask(tmp_path / name), wanted)
    Image.fromarray(values).save(tmp_path / "x.jpg")
    with pytest.raises(PictureError, match=r"x\.jpg: JPEG changes values"):
        open_mask(tmp_path / "x.jpg")
