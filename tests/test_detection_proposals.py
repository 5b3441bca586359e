"""Selective search: the hierarchy, its measures by hand, and drawn shapes, all of them found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2hsv
from skimage.draw import disk, rectangle
from skimage.graph import RAG
from skimage.measure import regionprops
from skimage.segmentation import felzenszwalb

from deepen.detection.proposals import (
    ALL,
    FAST,
    SINGLE,
    Regions,
    SelectiveSearch,
    first_regions,
    group,
    recall,
)

RNG = np.random.default_rng(3)


def shapes() -> tuple[np.ndarray, torch.Tensor]:
    """Six shapes of different colours on grey, apart from each other, and their boxes."""
    image = np.full((120, 180, 3), 128, np.uint8)
    boxes = []
    for place, colour in enumerate(RNG.permutation(np.eye(3, dtype=int).repeat(2, 0) * 100)):
        y, x = 10 + 60 * (place // 3), 10 + 60 * (place % 3)
        if place % 2:
            at = rectangle((y, x), extent=(30, 24))
            boxes.append([x, y, x + 24, y + 30])
        else:
            at = disk((y + 15.5, x + 15.5), 16)
            boxes.append([at[1].min(), at[0].min(), at[1].max() + 1, at[0].max() + 1])
        image[at] = image[at] + colour
    return image, torch.tensor(boxes).float()


@pytest.mark.parametrize("strategies", [SINGLE, FAST])
def test_all_drawn_shapes_are_found_and_boxes_lie_in_the_picture(strategies):
    image, true = shapes()
    found = SelectiveSearch(200, strategies)(image)
    assert recall([found], [true]) == 1
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert (found[:, 2] <= 180).all()
    assert (found[:, 3] <= 120).all()
    assert (found[:, 2:] > found[:, :2]).all()
    assert len(found.unique(dim=0)) == len(found)
    assert torch.equal(found, SelectiveSearch(200, strategies)(image)), "a function of the picture"
    assert torch.equal(found[:5], SelectiveSearch(5, strategies)(image)), "the first are the same"


def test_a_wide_picture_is_searched_small_and_its_boxes_come_back_in_its_px():
    image, true = shapes()
    large = image.repeat(4, 0).repeat(4, 1)
    found = SelectiveSearch(200, SINGLE, width_px=180)(large)
    assert found.max() > 180
    assert recall([found], [4 * true], iou=0.8) == 1


def test_n_regions_make_a_hierarchy_of_2n_less_1_that_ends_in_the_whole_picture():
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    regions = first_regions(image, "lab", 30)
    count = len(regions.sizes)
    assert count > 5
    assert regions.sizes.sum() == regions.area == 2400
    for name, width in (("colour", 75), ("texture", 240)):
        assert regions.histograms[name].shape == (count, width)
        np.testing.assert_allclose(regions.histograms[name].sum(1), 1)
    boxes = group(regions, ALL)
    assert len(boxes) == 2 * count - 1
    assert boxes[-1].tolist() == [0, 0, 60, 40]
    np.testing.assert_array_equal(boxes[:count], regions.boxes)


def test_first_regions_and_who_touches_whom_are_scikit_images():
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = felzenszwalb(rgb2hsv(image), scale=40, sigma=0.8, min_size=40)
    found = first_regions(image, "hsv", 40)
    properties = regionprops(labels + 1)
    assert len(properties) == len(found.sizes) > 5
    for region, box, size in zip(properties, found.boxes, found.sizes, strict=True):
        top, left, bottom, right = region.bbox
        assert box.tolist() == [left, top, right, bottom]
        assert region.area == size
    touching = {tuple(sorted(edge)) for edge in RAG(labels, connectivity=1).edges}
    assert {tuple(pair) for pair in found.pairs.tolist()} == touching
    first = np.histogram(rgb2hsv(image)[labels == 2][:, 1], bins=25, range=(0, 1))[0]
    share = first / (3 * (labels == 2).sum())
    np.testing.assert_allclose(found.histograms["colour"][2, 25:50], share)


def row_of(colours: list[list[float]]) -> Regions:
    """Regions of 10x10 px side by side."""
    count = len(colours)
    boxes = [[10 * i, 0, 10 * i + 10, 10] for i in range(count)]
    pairs = [[i, i + 1] for i in range(count - 1)]
    histograms = {"colour": np.array(colours), "texture": np.array(colours)}
    return Regions(np.full(count, 100.0), np.array(boxes), histograms, np.array(pairs), 100 * count)


def test_the_most_alike_join_first():
    regions = row_of([[1, 0], [0.5, 0.5], [0.4, 0.6], [0, 1]])
    joined = group(regions, ["colour"])[4:].tolist()
    # 0.9 in the middle; then 0.45 to the left and 0.55 to the right; then what is left
    assert joined == [[10, 0, 30, 10], [10, 0, 40, 10], [0, 0, 40, 10]]


def test_a_joined_regions_histogram_is_the_mean_by_size():
    regions = row_of([[1, 0], [0.9, 0.1], [0, 1], [0.95, 0.05]])
    regions = regions._replace(sizes=np.array([300.0, 100, 100, 100]))
    # 0 and 1 join (0.9) to (0.975, 0.025): 0.025 alike with 2, which is 0.05 alike with 3
    assert group(regions, ["colour"])[4:].tolist() == [
        [0, 0, 20, 10],
        [20, 0, 40, 10],
        [0, 0, 40, 10],
    ]


def test_size_joins_small_ones_first_and_fill_what_leaves_no_gap():
    sizes = row_of([[1.0]] * 3)._replace(
        sizes=np.array([10.0, 100, 100]), area=210
    )  # 0 + 1 is smaller than 1 + 2
    assert group(sizes, ["size"])[3].tolist() == [0, 0, 20, 10]
    corner = Regions(  # an L round 1: with it a square; 2 leaves a gap
        np.array([75.0, 25, 50]),
        np.array([[0, 0, 10, 10], [5, 5, 10, 10], [10, 0, 20, 5]]),
        {},
        np.array([[0, 1], [0, 2]]),
        200,
    )
    assert group(corner, ["fill"])[3].tolist() == [0, 0, 10, 10]


def test_a_picture_of_one_colour_is_one_region():
    found = SelectiveSearch()(np.full((20, 30, 3), 7, np.uint8))
    assert found.tolist() == [[0, 0, 30, 20]]


def test_recall_by_hand():
    true = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    half = torch.tensor([[0.0, 0, 5, 10], [20, 20, 30, 24]])  # 0.5 and 0.4
    assert recall([half, torch.zeros(0, 4)], [true, true[:1]]) == pytest.approx(1 / 3)
    assert recall([half], [true], iou=0.4) == 1
    assert recall([], []) == 0
