"""Pictures of more than 8 bits a value: what is white, and what is refused rather than black."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepen
from deepen.data.decode import PictureError, depth_of, open_picture
from deepen.data.doctor import examine
from deepen.deployment.predictor import Prediction
from deepen.errors import InputError
from deepen.weights import read_card


def png(colour: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits, written by hand: Pillow writes no such colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + end

    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


RAMP = np.tile(np.linspace(0, 4095, 48).round(), (48, 1)).astype(np.uint16)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_ramp_of_12_bits_keeps_its_levels(tmp_path, ending):
    path = save(tmp_path / f"ramp.{ending}", RAMP)
    found = np.asarray(open_picture(path, channels=1, white=4095))
    assert np.array_equal(found, np.rint(RAMP / 4095 * 255))
    assert len(np.unique(found)) == 48
    depth = depth_of(path)
    assert depth is not None
    assert (depth.peak, depth.bits) == (4095, 12)
    with pytest.raises(PictureError) as caught:
        open_picture(path)
    assert str(caught.value) == (
        f"{path}: 16-bit values that end at 4,095 (12 bits) would be black; say what is white, "
        "input.white=4095 say (65535 where it is meant so dark)"
    )
    dark = np.asarray(open_picture(path, channels=1, white=65535))
    assert np.array_equal(dark, RAMP >> 8)
    with pytest.raises(PictureError, match="values up to 4,095, above the white of 4,000"):
        open_picture(path, white=4000)


def test_16_bits_that_are_used_are_taken_as_ever(tmp_path):
    path = save(tmp_path / "full.png", RAMP * 16)
    for white in (None, 65535):
        found = np.asarray(open_picture(path, channels=1, white=white))
        assert np.array_equal(found, (RAMP * 16) >> 8)
    black = save(tmp_path / "black.png", RAMP * 0)
    assert not np.asarray(open_picture(black)).any()
    for other in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)):
        assert depth_of(save(tmp_path / "8.png", other)) is None


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_and_floats_are_scaled_by_their_white_or_refused(tmp_path, kind):
    path = save(tmp_path / "deep.tif", RAMP.astype(kind))
    with pytest.raises(PictureError, match=r"no agreed white; say it, --set input\.white=4095 say"):
        open_picture(path)
    found = np.asarray(open_picture(path, channels=1, white=4095))
    assert np.array_equal(found, np.rint(RAMP / 4095 * 255))
    for bad in (RAMP.astype(kind) - 1, *([RAMP * np.float32("nan")] if kind == np.float32 else [])):
        with pytest.raises(PictureError, match=r"has values (below 0|up to)"):
            open_picture(save(tmp_path / "bad.tif", bad), white=4095)


@pytest.mark.parametrize("colour", [2, 6])
def test_16_bit_colour_that_would_be_black_is_refused(tmp_path, colour):
    channels = {2: 3, 6: 4}[colour]
    values = np.full((4, 4, channels), 4095)
    values[..., 3:] = 65535
    path = tmp_path / "colour.png"
    path.write_bytes(png(colour, values))
    depth = depth_of(path)
    assert depth is not None
    assert depth.peak == 4095
    with pytest.raises(PictureError, match="16-bit colour whose values end below 4,096 would be"):
        open_picture(path)
    with pytest.raises(PictureError, match="16-bit colour, which cannot be scaled"):
        open_picture(path, white=4095)
    assert np.array_equal(np.asarray(open_picture(path, white=65535)), np.full((4, 4, 3), 15))


def microscope(root: Path, count: int = 12) -> Path:
    for label, name in enumerate("ab"):
        for i in range(count):
            noise = np.random.default_rng([label, i]).integers(0, 12, (16, 16))
            save(root / name / f"{i:02d}.png", (1000 + 900 * label + noise).astype(np.uint16))
    return root


def test_training_asks_for_the_white_and_the_weights_keep_it(tmp_path):
    root = microscope(tmp_path / "cells")
    words = {"model": "perceptron", "recipe": "quick", "output": tmp_path / "run", "workers": 0}
    changes = {"length.epochs": 3, "input.size_px": 16}
    with pytest.raises(InputError) as caught:
        deepen.train(str(root), changes=changes, **words)
    assert "16-bit pictures whose values end at 1,911 (12 bits) would be black; say what is" in str(
        caught.value
    )
    assert "--set input.white=2047" not in str(caught.value)
    assert "--set input.white=4095 " in str(caught.value)
    assert not (tmp_path / "run").exists()
    trained = deepen.train(str(root), changes={**changes, "input.white": 4095}, **words)
    weights = trained.run / "best.safetensors"
    preprocessing = read_card(weights).preprocessing
    assert preprocessing.white == 4095
    assert 1000 / 4095 < preprocessing.mean[0] < 1911 / 4095  # normalized by what it was shown
    again = deepen.evaluate(weights, str(root), split="all", workers=0)
    assert ", white is 4,095" in again.protocol
    assert again.top1 == 1.0
    found = list(deepen.predict(weights, [root / "a" / "00.png", root / "b" / "00.png"]))
    assert [each.top[0][0] for each in found if isinstance(each, Prediction)] == ["a", "b"]


def test_doctor_says_12_bits_and_takes_no_two_pictures_for_one(tmp_path):
    root = microscope(tmp_path / "cells")
    shutil.copy(root / "a" / "03.png", root / "a" / "copy.png")
    diagnosis = examine(root, min_px=1)
    assert [problem.kind for problem in diagnosis.problems] == ["duplicate", "depth"]
    assert diagnosis.quarantine == ["a/copy.png"]
    assert diagnosis.problems[1].detail == (
        "25 16-bit files whose values end at 1,911: 12 bits; say what is white, "
        "--set input.white=4095 (65535 where they are meant so dark)"
    )
    save(root / "b" / "bright.png", np.full((16, 16), 60_000, np.uint16))
    assert [problem.kind for problem in examine(root, min_px=1).problems] == ["duplicate"]


def test_predicting_12_bits_with_weights_that_know_no_white_is_refused(tmp_path):
    root = microscope(tmp_path / "cells")
    (found,) = deepen.predict("lenet5:mnist", [root / "a" / "00.png"])
    assert isinstance(found, PictureError)
    assert "16-bit values that end at 1,011 (10 bits)" in str(found)
