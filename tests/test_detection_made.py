"""Made pictures: pure functions of seed, split and number; their boxes are their masks'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from deepen.data.sources import open_source
from deepen.detection import made
from deepen.detection.made import Drawing, made_pictures
from deepen.errors import InputError


def test_a_picture_depends_on_nothing_but_seed_split_and_number():
    some, more = (made_pictures(Drawing(), train=n, val=2, test=0) for n in (3, 5))
    assert np.array_equal(some.splits["train"].images, more.splits["train"].images[:3])
    assert np.array_equal(some.splits["val"].images, more.splits["val"].images)
    assert not np.array_equal(some.splits["val"].images, some.splits["train"].images[:2])
    other = made_pictures(Drawing(seed=1), train=3, val=2, test=0)
    assert other.fingerprint != some.fingerprint
    assert some.fingerprint == made_pictures(Drawing(), train=3, val=2, test=0).fingerprint


def test_boxes_are_torchvisions_of_the_masks_and_no_pixel_is_two_digits():
    drawn = made_pictures(Drawing(digits=(3, 5)), train=40, val=0, test=0).splits["train"]
    counts = set()
    for target in drawn.targets:
        masks = torch.from_numpy(target["masks"])
        counts.add(len(masks))
        boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # its pixels are inclusive
        assert np.array_equal(target["boxes"], boxes)
        assert masks.sum(0).max() == 1
        assert len(masks) == len(target["labels"]) == len(target["difficult"])
    assert max(counts) >= 4


def test_kinds_are_the_same_pictures_with_other_targets():
    boxes = made_pictures(Drawing("detection"), train=6, val=0, test=0)
    classes = made_pictures(Drawing("segmentation"), train=6, val=0, test=0)
    assert np.array_equal(boxes.splits["train"].images, classes.splits["train"].images)
    for one, two in zip(
        boxes.splits["train"].targets, classes.splits["train"].targets, strict=True
    ):
        instances = (one["masks"] * (one["labels"] + 1)[:, None, None]).max(0)
        solid = two["mask"] != 255
        assert np.array_equal(two["mask"][solid], instances[solid])
        assert not instances[~solid].any()
        assert (~solid).any()  # soft edges
    assert classes.classes[0] == "background"
    assert np.array_equal(classes.splits["train"].labels, 1 + boxes.splits["train"].labels)
    alone = made_pictures(Drawing("localization"), train=6, val=0, test=0).splits["train"]
    assert {target["boxes"].shape for target in alone.targets} == {(1, 4)}


def test_no_digit_and_no_background_is_in_two_splits(monkeypatch):
    """Photographs whose red tells the column, so that a window says where it is from."""
    from PIL import Image

    columns = np.linspace(0, 255, 640).round().astype(np.uint8)
    pixels = np.zeros((427, 640, 3), np.uint8)
    pixels[..., 0] = columns
    monkeypatch.setattr(made, "_photographs", lambda: (Image.fromarray(pixels),) * 2)
    reds = {}
    for split, (begin, end) in made.STRIPS.items():
        found = [made._background(np.random.default_rng(i), split, 32) for i in range(30)]
        reds[split] = np.concatenate([picture[..., 0].ravel() for picture in found])
        assert reds[split].min() >= 255 * begin - 1
        assert reds[split].max() <= 255 * end + 1
    named = open_source("digits").splits
    for split, (images, labels) in made._digits().items():
        assert np.array_equal(images, named[split].images[..., 0])
        assert np.array_equal(labels, named[split].labels)


def test_what_cannot_be_made_is_refused():
    for drawing, count in ((Drawing(size_px=8), 1), (Drawing(), 0), (Drawing(digits=(3, 2)), 1)):
        with pytest.raises(InputError, match="16 px, one picture and one digit"):
            made_pictures(drawing, train=count)
