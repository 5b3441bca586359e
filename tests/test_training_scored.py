"""Which pictures weights are scored on, by a folder's own content."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepen
from deepen.data.hold_out import Held, hold_out
from deepen.data.sources import lay_out, open_source
from deepen.errors import InputError
from deepen.weights import load_weights, save_weights

SIZE = 12


def photos(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([seed, label, i]).integers(0, 60, (SIZE, SIZE, 3))
            pixels[..., label % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")
    return root


CHANGES = {"length.epochs": 1, "input.size_px": SIZE}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A folder without splits, and the weights of a run on it."""
    root = photos(tmp_path_factory.mktemp("scored") / "old", {"ant": 40, "bee": 40})
    run = root.parent / "run"
    deepen.train(
        str(root), model="perceptron", recipe="quick", changes=CHANGES, output=run, workers=0
    )
    return root, run / "best.safetensors"


def test_a_new_folder_is_scored_whole(trained, tmp_path):
    new = photos(tmp_path / "new", {"ant": 13, "bee": 17}, seed=1)
    scores = deepen.evaluate(trained[1], str(new), workers=0)
    assert scores.num_samples == 30
    assert [row.support for row in scores.per_class] == [13, 17]
    assert f"{new}, all of it, not trained on, 30 pictures, one crop" in scores.protocol
    assert deepen.evaluate(trained[1], str(new), split="all", workers=0).num_samples == 30
    with pytest.raises(InputError, match=r"--split val: .*new is not the data of training and has"):
        deepen.evaluate(trained[1], str(new), split="val", workers=0)


def test_of_the_folder_of_training_what_was_held_out_is_scored(trained, tmp_path):
    root, weights = trained
    source = open_source(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    for data in (None, str(root), str(moved)):
        scores = deepen.evaluate(weights, data, workers=0)
        assert scores.num_samples == len(source.splits["test"])
        assert ", test split, " in scores.protocol
    for split in ("train", "val", "test"):
        scores = deepen.evaluate(weights, str(moved), split=split, workers=0)
        assert scores.num_samples == len(source.splits[split])
        assert f", {split} split, " in scores.protocol
    assert deepen.evaluate(weights, str(moved), split="all", workers=0).num_samples == 80


def test_a_folder_of_training_that_grew_or_lost_some_is_not_scored_on_what_it_trained(
    trained, tmp_path
):
    grown = shutil.copytree(trained[0], tmp_path / "grown")
    for i in range(100, 120):
        shutil.copy(grown / "bee" / "001.png", grown / "bee" / f"{i}.png")
    (grown / "ant" / "000.png").unlink()
    scores = deepen.evaluate(trained[1], str(grown), workers=0)
    assert scores.num_samples == len(open_source(grown).splits["test"]) < 30
    assert "test split of data that changed since training" in scores.protocol


def test_other_pictures_of_the_same_names_and_sizes_are_not_those_of_training(trained, tmp_path):
    root, weights = trained
    other = shutil.copytree(root, tmp_path / "other")
    for file in other.rglob("*.png"):
        content = file.read_bytes()
        file.write_bytes(content[:-20] + bytes(byte ^ 1 for byte in content[-20:]))
    (other / "ant" / "new.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of 81 pictures could be decoded"):
        deepen.evaluate(weights, str(other), workers=0)


def test_what_training_needs_of_a_folder_scoring_does_not(trained, tmp_path):
    one = photos(tmp_path / "one", {"bee": 1}, seed=2)
    scores = deepen.evaluate(trained[1], str(one), workers=0)
    assert (scores.num_samples, [row.support for row in scores.per_class]) == (1, [0, 1])
    (photos(tmp_path / "test only/test", {"ant": 3}) / "empty").mkdir()
    scores = deepen.evaluate(trained[1], str(tmp_path / "test only"), workers=0)
    assert "its own test split, not trained on, 3 pictures" in scores.protocol


def test_a_new_folder_with_its_own_splits_is_scored_on_its_test_split(trained, tmp_path):
    for split, count in {"train": 5, "val": 4, "test": 3}.items():
        photos(tmp_path / "own" / split, {"ant": count, "bee": count}, seed=count)
    scores = deepen.evaluate(trained[1], str(tmp_path / "own"), workers=0)
    assert scores.num_samples == 6
    assert "its own test split, not trained on, 6 pictures" in scores.protocol
    assert deepen.evaluate(trained[1], str(tmp_path / "own"), split="all").num_samples == 24


def test_classes_that_the_weights_do_not_know_are_named(trained, tmp_path):
    new = photos(tmp_path / "new", {"ant": 2, "cat": 2, "dog": 1}, seed=3)
    with pytest.raises(InputError) as caught:
        deepen.evaluate(trained[1], str(new), workers=0)
    assert "does not know, cat, dog; it knows ant, bee" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_record_no_pictures_say_so(trained, tmp_path):
    root, weights = trained
    loaded = load_weights(weights)
    bare = loaded.card.model_copy(update={"fingerprint": "", "trained_on": (), "data": ""})
    save_weights(tmp_path / "bare.safetensors", loaded.model, bare)
    scores = deepen.evaluate(tmp_path / "bare.safetensors", str(root), workers=0)
    assert scores.num_samples == 80
    assert "all of it, unknown whether trained on, 80 pictures" in scores.protocol


def test_weights_of_before_classes_had_their_due_keep_their_splits(trained, tmp_path):
    root = photos(tmp_path / "small", {"ant": 9, "bee": 9})
    now = open_source(root)
    then = hold_out(lay_out(str(root)), Held(), by_class=False)
    assert {n: list(s.keys) for n, s in then.splits.items()} != {
        n: list(s.keys) for n, s in now.splits.items()
    }
    loaded = load_weights(trained[1])
    old = loaded.card.model_copy(update={"fingerprint": then.fingerprint, "trained_on": ()})
    save_weights(tmp_path / "old.safetensors", loaded.model, old)
    for split, pictures in then.splits.items():
        scores = deepen.evaluate(tmp_path / "old.safetensors", str(root), split=split, workers=0)
        assert scores.num_samples == len(pictures)
