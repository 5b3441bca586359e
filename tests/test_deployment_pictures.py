"""Pictures in whatever form a user has them: one answer, or one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_tensor

import deepen
from deepen.data.decode import PictureError
from deepen.deployment.pictures import find_pictures
from deepen.deployment.predictor import Prediction
from deepen.errors import InputError

WEIGHTS = "resnet20:cifar10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures in a folder, and one below it."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "below").mkdir()
    rng = np.random.default_rng(0)
    for name in ("2.png", "10.png", "below/1.png"):
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).resize((45, 33)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def top(given):
    (found,) = deepen.predict(WEIGHTS, given, device="cpu", top_k=10)
    assert isinstance(found, Prediction), found
    return found.top


FORMS = {
    "str": str,
    "list": lambda path: [path],
    "tuple of str": lambda path: (str(path),),
    "generator": lambda path: (each for each in [path]),
    "pattern": lambda path: str(path.parent / "1*.png"),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "PIL": Image.open,
    "PIL, with an opaque alpha": lambda path: Image.open(path).convert("RGBA"),
    "array": lambda path: np.array(Image.open(path)),
    "list of arrays": lambda path: [np.array(Image.open(path))],
    "array of arrays": lambda path: np.array(Image.open(path))[None],
    "array, channels first": lambda path: np.array(Image.open(path)).transpose(2, 0, 1),
    "array of 0..1": lambda path: np.array(Image.open(path)) / 255,
    "tensor": lambda path: pil_to_tensor(Image.open(path)),
    "batch": lambda path: pil_to_tensor(Image.open(path))[None],
    "tensor of 0..1": lambda path: to_tensor(Image.open(path)),
    "tensor, channels last": lambda path: torch.from_numpy(np.array(Image.open(path))),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_picture_gets_the_files_answer(form, folder):
    path = folder / "10.png"
    assert top(FORMS[form](path)) == top(path)


def test_grey_and_turned_pictures_too(folder, tmp_path):
    grey = Image.open(folder / "2.png").convert("L")
    grey.save(tmp_path / "grey.png")
    expected = top(tmp_path / "grey.png")
    assert top(np.array(grey)) == top(np.array(grey)[..., None]) == expected
    assert top(torch.from_numpy(np.array(grey))) == expected
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "2.png").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert top(Image.open(tmp_path / "turned.jpg")) == top(tmp_path / "turned.jpg")


def test_numbers_are_rounded_to_the_nearest():
    pixels = np.random.default_rng(0).integers(0, 256, (33, 45, 3), np.uint8)
    near = (pixels + np.where(pixels > 127, -0.4, 0.4)) / 255
    assert top(near) == top(torch.from_numpy(near).permute(2, 0, 1)) == top(pixels)


def test_one_path_is_one_picture_and_a_folder_all_below(folder):
    """Not the letters of its name, of which the first is the root of the disk."""
    found = list(deepen.predict(WEIGHTS, str(folder), device="cpu"))
    names = ["2.png", "10.png", "below/1.png"]
    assert [each.path for each in found] == [str(folder / name) for name in names]
    assert [each.path for each in deepen.predict(WEIGHTS, folder / "2.png")] == [
        str(folder / "2.png")
    ]
    with pytest.raises(InputError, match="matches nothing"):
        list(find_pictures(str(folder / "*.gif")))


@pytest.mark.parametrize("given", [None, 3, 2.5, {"a.jpg": 1}, object()])
def test_what_is_no_picture_is_told_at_once(given):
    with pytest.raises(InputError, match=f"a {type(given).__name__} is no picture"):
        deepen.predict(WEIGHTS, given)


@pytest.mark.parametrize("given", [[3], [None], [("a.png", 1)], [["a.png"]]])
def test_what_is_no_picture_among_others_is_told(given):
    with pytest.raises(InputError, match="is no picture: give paths, bytes"):
        list(deepen.predict(WEIGHTS, given))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((5, 5, 2), np.uint8), "of shape (5, 5, 2); one of its dimensions"),
        (np.zeros(4, np.uint8), "of shape (4,); a picture is"),
        (np.full((4, 4, 3), 2.0), "numbers outside 0..1"),
        (np.full((4, 4, 3), np.nan), "numbers outside 0..1"),
        (np.zeros((4, 4, 3), np.int64), "of int64; uint8, or numbers in 0..1"),
        (np.zeros((0, 4, 3), np.uint8), ""),
        (b"no picture", "not a picture"),
        (torch.zeros(3, 4, 4, dtype=torch.bfloat16), ""),
    ],
)
def test_arrays_that_are_no_pictures_are_told_in_their_place(given, words, folder):
    good = folder / "2.png"
    one, two, three = deepen.predict(WEIGHTS, [good, given, good], device="cpu")
    assert one == three
    assert isinstance(two, PictureError)
    assert two.path == "picture 2"
    assert words in two.reason
    assert two.reason
