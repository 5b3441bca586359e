"""The doctor on folders with planted faults, against counts by hand and float64 numpy."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepen.data.decode import open_picture
from deepen.data.doctor import Diagnosis, examine
from deepen.data.sources import open_source
from deepen.errors import InputError


def save(path: Path, seed: int, size: tuple[int, int] = (48, 40), **options: Any) -> np.ndarray:
    """A picture of noise, (height, width) = `size`, under `path`; its pixels come back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """Two classes: 3 ants and 2 bees to train on, one of each to validate on."""
    root = tmp_path / "set"
    for seed, name in enumerate(["ants/1.png", "ants/2.png", "ants/deep/10.png", "bees/1.png"]):
        save(root / "train" / name, seed)
    save(root / "train" / "bees" / "2.png", 4)
    save(root / "val" / "ants" / "1.png", 5)
    save(root / "val" / "bees" / "1.png", 6)
    return root


def found(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in diagnosis.problems]


def test_a_healthy_folder(healthy: Path) -> None:
    diagnosis = examine(healthy)
    assert diagnosis.problems == []
    assert diagnosis.quarantine == []
    assert diagnosis.num_files == 7
    assert diagnosis.counts == {"train": {"ants": 3, "bees": 2}, "val": {"ants": 1, "bees": 1}}
    assert diagnosis.imbalance == 1.5
    assert diagnosis.folder == healthy.as_posix()


def test_statistics_are_those_of_the_training_pixels(healthy: Path) -> None:
    pictures = [np.asarray(Image.open(path)) for path in (healthy / "train").rglob("*.png")]
    pixels = np.stack(pictures).astype(np.float64).reshape(-1, 3) / 255
    diagnosis = examine(healthy)
    np.testing.assert_allclose(diagnosis.mean, pixels.mean(axis=0))  # type: ignore[arg-type]
    np.testing.assert_allclose(diagnosis.std, pixels.std(axis=0))  # type: ignore[arg-type]


def test_every_planted_fault_is_named(healthy: Path) -> None:
    train = healthy / "train"
    save(train / "ants" / "cut.jpg", 20, quality=95)
    data = (train / "ants" / "cut.jpg").read_bytes()
    (train / "ants" / "cut.jpg").write_bytes(data[: len(data) // 2])
    (train / "ants" / "empty.jpg").touch()
    (train / "bees" / "words.jpg").write_text("just some words")
    save(train / "bees" / "picture.JPG", 21, format="PNG")
    save(train / "bees" / "small.png", 22, (31, 500))
    shutil.copy(train / "ants" / "1.png", train / "ants" / "1 copy.png")
    shutil.copy(healthy / "val" / "bees" / "1.png", train / "bees" / "3.png")
    with Image.open(train / "ants" / "2.png") as image:
        image.save(healthy / "val" / "ants" / "2.bmp")
    shutil.copy(train / "bees" / "1.png", train / "ants" / "bee.png")
    (train / "wasps").mkdir()
    save(healthy / "val" / "flies" / "1.png", 23)
    (train / "ants" / "notes.txt").write_text("ignored")
    (train / "ants" / "README").write_text("ignored")
    (train / "list.csv").write_text("ignored")
    for hidden in ("train/.cache/1.png", "train/ants/.1.png", ".git/1.png"):
        save(healthy / hidden, 0)

    diagnosis = examine(healthy)
    assert set(found(diagnosis)) == {
        ("damaged", "train/ants/cut.jpg"),
        ("damaged", "train/ants/empty.jpg"),
        ("damaged", "train/bees/words.jpg"),
        ("mislabelled", "train/bees/picture.JPG"),
        ("too_small", "train/bees/small.png"),
        ("duplicate", "train/ants/1 copy.png"),
        ("duplicate", "train/bees/3.png"),
        ("duplicate", "train/ants/2.png"),
        ("duplicate", "train/ants/bee.png"),
        ("duplicate", "train/bees/1.png"),
        ("empty_class", "train/wasps"),
        ("unknown_class", "val"),
    }
    assert len(diagnosis.problems) == 12
    details = {problem.path: problem.detail for problem in diagnosis.problems}
    assert "damaged JPEG" in details["train/ants/cut.jpg"]
    assert details["train/ants/empty.jpg"] == "is empty"
    assert details["train/bees/picture.JPG"] == "PNG by its content, .JPG by its name"
    assert "500x31 px" in details["train/bees/small.png"]
    assert details["train/ants/1 copy.png"] == "same file as train/ants/1.png"
    assert details["train/bees/3.png"] == "same file as val/bees/1.png, across train and val"
    assert details["train/ants/2.png"] == "same pixels as val/ants/2.bmp, across train and val"
    assert "different classes: ants, bees" in details["train/ants/bee.png"]
    assert diagnosis.duplicates == [
        ["train/ants/1.png", "train/ants/1 copy.png"],
        ["val/ants/2.bmp", "train/ants/2.png"],
        ["train/bees/1.png", "train/ants/bee.png"],
        ["val/bees/1.png", "train/bees/3.png"],
    ]
    assert diagnosis.ignored == {
        ".csv": 1,
        ".txt": 1,
        "hidden, or of file managers, servers and archives": 3,
        "without ending": 1,
    }
    assert details["val"] == "unknown class of train 'flies'; known: ants, bees, wasps"
    assert diagnosis.counts["train"] == {"ants": 7, "bees": 6, "wasps": 0}
    assert diagnosis.imbalance == pytest.approx(7 / 6)


def test_quarantine_leaves_a_folder_without_bad_files(healthy: Path) -> None:
    shutil.copy(healthy / "train/ants/1.png", healthy / "val/ants/9.png")
    shutil.copy(healthy / "train/ants/1.png", healthy / "val/ants/99.png")
    save(healthy / "train/bees/named.gif", 30, format="PNG")
    (healthy / "val/bees/cut.png").write_bytes((healthy / "val/bees/1.png").read_bytes()[:300])
    quarantine = examine(healthy).quarantine
    assert quarantine == ["val/bees/cut.png", "val/ants/99.png", "train/ants/1.png"]
    for split in open_source(healthy, exclude=quarantine).splits.values():
        assert split.files
        assert all(open_picture(path) for path in split.files)
        assert not set(split.keys) & set(quarantine)
    for path in quarantine:
        (healthy / path).unlink()
    assert found(examine(healthy)) == [("mislabelled", "train/bees/named.gif")]


def test_classes_without_splits(tmp_path: Path) -> None:
    for seed, name in enumerate(["b2/1.png", "b2/2.png", "b10/1.png", "b10/sub/train/1.png"]):
        save(tmp_path / name, seed)
    shutil.copy(tmp_path / "b2" / "1.png", tmp_path / "b2" / "3.png")
    diagnosis = examine(tmp_path)
    assert diagnosis.counts == {"all": {"b2": 3, "b10": 2}}
    assert list(diagnosis.counts["all"]) == ["b2", "b10"]  # natural order
    assert found(diagnosis) == [("duplicate", "b2/3.png")]
    assert diagnosis.mean is not None


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_every_name_of_the_validation_split(healthy: Path, name: str) -> None:
    (healthy / "val").rename(healthy / name)
    assert examine(healthy).counts["val"] == {"ants": 1, "bees": 1}


def test_layouts_that_no_source_takes(tmp_path: Path, healthy: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    diagnosis = examine(empty)
    assert found(diagnosis) == [("layout", ".")]
    assert (diagnosis.num_files, diagnosis.imbalance, diagnosis.mean) == (0, None, None)

    save(tmp_path / "one" / "train" / "ants" / "1.png", 0)
    diagnosis = examine(tmp_path / "one")
    assert found(diagnosis) == [("layout", "train")]
    assert "one class only, ants" in diagnosis.problems[0].detail

    save(healthy / "validation" / "ants" / "1.png", 40)
    assert found(examine(healthy)) == [("layout", "validation")]
    shutil.rmtree(healthy / "train")
    assert ("layout", ".") in found(examine(healthy))


def test_what_a_source_refuses_is_a_problem(tmp_path: Path, healthy: Path) -> None:
    def faulty(name: str) -> Path:
        return shutil.copytree(healthy, tmp_path / name)

    (faulty("empty class") / "train" / "wasps").mkdir()
    save(faulty("unknown class") / "val" / "wasps" / "1.png", 50)
    shutil.rmtree(faulty("one class") / "train" / "bees")
    shutil.rmtree(faulty("no train") / "train")
    faulty("two of them").joinpath("valid").mkdir()
    for name in ("empty class", "unknown class", "one class", "no train", "two of them"):
        kinds = {kind for kind, _ in found(examine(tmp_path / name))}
        assert kinds & {"empty_class", "unknown_class", "layout"}, name
        with pytest.raises(InputError):
            open_source(tmp_path / name)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder"):
        examine(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: not a folder"):
        examine(tmp_path / "file")


def test_limits_are_settable(healthy: Path) -> None:
    assert {kind for kind, _ in found(examine(healthy, min_px=41))} == {"too_small"}
    assert not examine(healthy, min_px=40).problems
    assert {kind for kind, _ in found(examine(healthy, max_pixels=48 * 40 - 1))} == {"damaged"}
    assert not examine(healthy, max_pixels=48 * 40).problems


def test_threads_change_nothing_and_progress_ends_at_all(healthy: Path) -> None:
    (healthy / "train" / "ants" / "empty.jpg").touch()
    steps: list[tuple[int, int]] = []
    one = examine(healthy, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert one == examine(healthy, workers=4)
    assert steps[-1] == (8, 8)


def test_it_travels_as_json(healthy: Path) -> None:
    (healthy / "train" / "ants" / "empty.jpg").touch()
    diagnosis = examine(healthy)
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()) == diagnosis


def test_links_that_lead_nowhere(healthy: Path) -> None:
    try:
        (healthy / "train" / "ants" / "link.jpg").symlink_to("nowhere.jpg")
    except OSError:
        pytest.skip("links need a privilege here")
    assert found(examine(healthy)) == [("damaged", "train/ants/link.jpg")]
    assert examine(healthy).problems[0].detail == "no such file"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_not_utf8(healthy: Path) -> None:
    shutil.copy(healthy / "train/ants/2.png", healthy / "train/ants" / os.fsdecode(b"\xff.png"))
    diagnosis = examine(healthy)
    assert found(diagnosis) == [("duplicate", "train/ants/\\udcff.png")]
    assert diagnosis.model_dump_json()
    kept = open_source(healthy, exclude=diagnosis.quarantine).splits["train"]
    assert len(kept) == len(open_source(healthy).splits["train"]) - 1


def test_real_pictures(real_data: Path) -> None:
    diagnosis = examine(real_data / "hymenoptera")
    assert diagnosis.num_files == 398
    assert {split: sum(c.values()) for split, c in diagnosis.counts.items()} == {
        "train": 245,
        "val": 153,
    }
