"""A card is checked as a whole: a good answer comes of it, or one line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import deepen
from deepen import api
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError
from deepen.models import create_model
from deepen.weights import Card, load_weights, read_card, save_weights

PICTURE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small network's weights file."""
    plain = Preprocessing(
        channels=3, size_px=(8, 8), resize="shorter", resize_px=10, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    card = Card(
        architecture="perceptron", num_classes=3, in_channels=3, input_size=(8, 8),
        classes=("a", "b", "c"), preprocessing=plain, score={"top1": 0.5}, recipe={"seed": 0},
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("card") / "w.safetensors"
    save_weights(path, create_model("perceptron", 3, 3, 8), card)
    return path


def with_card(sound, folder, change):
    """A copy whose card is what `change` makes of the text of the sound one."""
    with safetensors.safe_open(sound, "pt") as file:
        metadata = file.metadata()
    path = folder / "changed.safetensors"
    metadata["deepen.card"] = change(metadata["deepen.card"])
    safetensors.torch.save_file(safetensors.torch.load_file(sound), path, metadata)
    return path


def put(*keys, value):
    """A change of one field of a card, at any depth."""

    def change(text):
        document = json.loads(text)
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return json.dumps(document)

    return change


def answer(ask):
    """What is answered, or the one line that says why not."""
    try:
        return ask()
    except InputError as error:
        return str(error)


HUGE = 10**9
CASES = {
    "temperature": [0, -1.0, math.nan, math.inf, 1e-300, "hot", None],
    "num_classes": [0, -3, 2, 4, HUGE],
    "classes": [[], ["a"], ["a", "b", "c", "d"], "abc", [1, 2, 3]],
    "in_channels": [1, 0, HUGE],
    "input_size": [[0, 8], [HUGE, HUGE], [12000, 12000], [8], [-8, 8]],
    "architecture": ["resnet20", "percptron", "os:system", ""],
    "score": [{"top1": math.nan}, {"top1": "good"}],
    "surprise": [1],
    "recipe": [None, [1]],
    "preprocessing": [None, {}],
    "preprocessing.std": [[0.25], [0, 0, 0], [-1, 1, 1], [math.nan] * 3, [1e-300] * 3, [1e300] * 3],
    "preprocessing.mean": [[0.5], [math.inf] * 3, [1e30] * 3, [None] * 3],
    "preprocessing.resize_px": [12000, HUGE, 1, 0, None],
    "preprocessing.size_px": [[12000, 12000], [0, 0], [9, 9], [HUGE, HUGE]],
    "preprocessing.pad_px": [-1, 4, HUGE],
    "preprocessing.mean_image": [True],
    "preprocessing.channels": [1, 2, HUGE],
    "preprocessing.interpolation": ["lanczos"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in CASES.items() for value in values]
)
def test_a_card_that_makes_no_sense_is_refused_in_one_line(field, value, sound, tmp_path):
    path = with_card(sound, tmp_path, put(*field.split("."), value=value))
    with pytest.raises(InputError) as caught:
        list(api.predict(path, PICTURE, device="cpu"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_must_be_as_many_as_there_are_classes(sound, tmp_path):
    """Before the network is built, not when its outputs have no name."""
    path = with_card(sound, tmp_path, put("classes", value=["a", "b"]))
    with pytest.raises(InputError, match="classes: 2 names for num_classes 3"):
        read_card(path)


@pytest.mark.parametrize("depth", [100, 300, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_json_is_refused_or_read(depth, pair, sound, tmp_path):
    deep = ('{"a":' if pair == "{}" else "[") * depth + "1" + pair[1] * depth
    path = with_card(sound, tmp_path, lambda text: text.replace('{"seed":0}', f'{{"a":{deep}}}'))
    assert path.read_bytes() != sound.read_bytes()
    said = answer(lambda: read_card(path))
    if depth > 100 or isinstance(said, str):
        assert isinstance(said, str)
        assert said.startswith(f"{path}: its card is damaged")
        assert "\n" not in said
    for text in ("", "[]", "null", "{", deep):
        with pytest.raises(InputError, match="its card is damaged"):
            read_card(with_card(sound, tmp_path, lambda _, text=text: text))


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([0, 1, 3, 8, 1e-300, 1e300, 2**31, 10**9, "resnet20", "perceptron"])
)  # fmt: skip
VALUES = LEAVES | st.lists(LEAVES, max_size=4) | st.dictionaries(st.text(max_size=3), LEAVES)
FIELDS = [*Card.model_fields, *(f"preprocessing.{field}" for field in Preprocessing.model_fields)]


@given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
def test_any_card_gives_a_good_answer_or_one_line(changes, sound, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")

    def change(text):
        for field, value in sorted(changes.items()):  # preprocessing as a whole comes first
            try:
                text = put(*field.split("."), value=value)(text)
            except TypeError:
                continue
        return text

    path = with_card(sound, folder, change)
    said = answer(lambda: list(api.predict(path, PICTURE, device="cpu")))
    if isinstance(said, str):
        assert said.startswith(f"{path}: ")
        return
    (found,) = said
    shares = [share for _, share in found.top]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert shares == sorted(shares, reverse=True)


def test_what_comes_out_are_numbers_or_nothing(sound, tmp_path):
    """Finite weights of which the network makes infinity."""
    tensors = {k: t.sign() * 3e38 for k, t in safetensors.torch.load_file(sound).items()}
    with safetensors.safe_open(sound, "pt") as file:
        metadata = file.metadata()
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(InputError, match="it makes NaN or infinity of a picture"):
        list(api.predict(path, PICTURE, device="cpu"))
    for name in "abc":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        Image.fromarray(PICTURE).save(tmp_path / "data" / "train" / name / "1.png")
    with pytest.raises(InputError, match="it makes NaN or infinity of a picture"):
        api.evaluate(path, str(tmp_path / "data"), split="train", device="cpu", workers=0)


def test_a_mean_image_must_be_of_the_pictures_size(tmp_path):
    plain = Preprocessing(
        channels=3, size_px=(8, 8), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3,
        mean_image=True,
    )  # fmt: skip
    card = Card(
        architecture="perceptron", num_classes=3, in_channels=3, input_size=(8, 8),
        classes=("a", "b", "c"), preprocessing=plain,
    )  # fmt: skip
    network = create_model("perceptron", 3, 3, 8)
    for mean in (torch.zeros(8, 7, 3), torch.full((8, 8, 3), math.nan)):
        save_weights(tmp_path / "w.safetensors", network, card, mean)
        with pytest.raises(InputError, match=r"preprocessing\.mean_image"):
            load_weights(tmp_path / "w.safetensors")


def test_a_run_folder_names_its_weights(sound, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match="is no weights file"):
        deepen.load(run)
    for name in ("last", "best"):
        (run / f"{name}.safetensors").write_bytes(sound.read_bytes())
        weights = run / f"{name}.safetensors"
        with pytest.raises(InputError, match="is a run folder; its weights are") as caught:
            deepen.load(run)
        assert f"its weights are {weights}" in str(caught.value)
    assert f"(of the last epoch: {run / 'last.safetensors'})" in str(caught.value)
