"""HOG and a sliding window: windows against crops, and shapes that it is to tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.draw import disk
from skimage.feature import hog
from sklearn.svm import LinearSVC
from torchvision.ops import box_iou

from deepen.baselines.commonest import CommonestBoxes
from deepen.baselines.hard_negatives import EASY, HARD, SVM, Fit, mine
from deepen.baselines.sliding_window import (
    CELL_PX,
    Level,
    SlidingWindow,
    Template,
    _hardest,
    blocks_of,
    objects,
    pyramid,
    template_of,
    windows,
)
from deepen.data.regions import mean_colour, warp
from deepen.data.sources import PictureSet, open_source
from deepen.errors import InputError
from deepen.evaluation.detection import score_detections

RNG = np.random.default_rng(0)


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[int], list[dict[str, np.ndarray]]]:
    """Grey noise with a bright disk (class 0) and a frame of twice its size (class 1) in each."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 130, (count, 128, 192, 3)).astype(np.uint8)
    targets = []
    for image in images:
        left = rng.random() < 0.5
        x, y = rng.integers(2, 50) + (0 if left else 96), rng.integers(2, 90)
        image[disk((y + 16, x + 16), 15.5)] = 250
        u, v = rng.integers(2, 26) + (96 if left else 0), rng.integers(2, 60)
        image[v : v + 64, u : u + 64] = 20
        image[v + 8 : v + 56, u + 8 : u + 56] = 110
        boxes = np.array([[x, y, x + 32, y + 32], [u, v, u + 64, v + 64]], np.float32)
        targets.append({"boxes": boxes, "labels": np.array([0, 1])})
    return images, [0] * count, targets


@pytest.fixture(scope="module")
def source() -> PictureSet:
    return PictureSet.of("shapes", ("disk", "frame"), train=drawn(12, 0), test=drawn(4, 1))


def test_shapes_are_found_where_they_are(source):
    test = source.splits["test"]
    detector = SlidingWindow(2).fit(source.splits["train"])
    found = [detector.detect(np.asarray(test.picture(i, 3))) for i in range(len(test))]
    scores = score_detections(found, test.targets, source.classes, resamples=10)
    assert scores.figures["map50"] > 0.95
    trivial = CommonestBoxes(2).fit(source.splits["train"])
    boxes = [trivial.detect((192, 128)) for _ in found]
    guessed = score_detections(boxes, test.targets, source.classes, resamples=10)
    assert guessed.figures["map50"] < scores.figures["map50"] - 0.2


def test_a_fit_depends_on_the_seed_alone(source):
    some = source.splits["train"].take([0])
    one, same, other = (SlidingWindow(2, seed).fit(some) for seed in (0, 0, 1))
    for label, template in one.templates.items():
        np.testing.assert_array_equal(template.svm.weights, same.templates[label].svm.weights)
        assert (template.svm.weights != other.templates[label].svm.weights).any()


def test_a_windows_score_is_its_crops():
    """Against scikit-image's HOG of the whole picture, cut by hand, and a plain product."""
    image = RNG.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    whole = hog(image, 9, (8, 8), (2, 2), channel_axis=-1, feature_vector=False)  # (7, 9, 2, 2, 9)
    weights = RNG.normal(size=3 * 4 * 36).astype(np.float32)
    template = Template((4, 5), (1.0, 1.0), SVM(weights, 0.25))  # cells, so 3x4 blocks
    boxes, scores = windows(Level(0.5, blocks_of(image)), template)
    assert len(boxes) == 5 * 6
    for place, (row, column) in enumerate((r, c) for r in range(5) for c in range(6)):
        cut = whole[row : row + 3, column : column + 4]
        assert scores[place] == pytest.approx(cut.ravel() @ weights + 0.25, abs=1e-4)
    # The first is the border's: its object, 2x3 cells, begins where the picture does.
    assert boxes[0].tolist() == [0, 0, 48, 32]
    assert boxes[7].tolist() == [16, 16, 64, 48]


def test_hard_negatives_are_the_highest_windows_that_are_not_the_class():
    image = RNG.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    svm = SVM(RNG.normal(size=3 * 4 * 36).astype(np.float32), 0.0)
    template = Template((4, 5), (0.5, 1.0), svm)
    boxes, scores = (
        torch.cat(p)
        for p in zip(
            *(windows(level, template) for level in pyramid(image, [(0.5, 1.0)])), strict=True
        )
    )
    own = boxes[scores.argmax()][None]
    apart = (box_iou(boxes, own) < 0.3).flatten()
    expected = scores[apart].sort(descending=True).values[:20]
    features = _hardest(image, template, own)
    np.testing.assert_allclose(svm.scores(features), expected, rtol=1e-3, atol=1e-3)


def test_levels_are_the_picture_resized():
    image = RNG.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    levels = list(pyramid(image, [(0.5, 1.0), (0.25, 0.5)]))
    assert [level.scale for level in levels] == [2 ** (-i / 4) for i in range(9)]
    half = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR))
    padded = np.pad(half, [(8, 8), (8, 8), (0, 0)], mode="edge")
    expected = hog(padded, 9, (8, 8), (2, 2), channel_axis=-1)
    np.testing.assert_allclose(levels[4].blocks.numpy().ravel(), expected, atol=1e-6)


def test_a_template_has_the_shape_of_its_boxes():
    boxes = torch.tensor([[0.0, 0, 40, 80], [0, 0, 60, 120], [10, 10, 90, 170]])
    template = template_of(boxes)
    rows, columns = (count - 2 for count in template.cells)  # without the margin
    assert (rows, columns) == (8, 4)  # 6 cells, times and through the root of 2
    inner = CELL_PX * 32**0.5
    assert template.scales[0] == pytest.approx(inner / (80 * 160) ** 0.5, rel=0.02)
    assert template.scales[1] == pytest.approx(inner / (40 * 80) ** 0.5, rel=0.02)
    assert template_of(torch.tensor([[0.0, 0, 16, 16]])).cells == (5, 5)


def test_a_machine_is_scikit_learns_and_its_bias_is_scaled():
    positives, negatives = RNG.normal(1, 1, (30, 4)), RNG.normal(-1, 1, (50, 4))
    svm = Fit(c=0.1, positive_weight=3.0, bias_scale=10, seed=2)(positives, negatives)
    machine = LinearSVC(
        C=0.1, loss="hinge", class_weight={1: 3.0}, intercept_scaling=10.0, random_state=2
    ).fit(np.concatenate([positives, negatives]), [1] * 30 + [0] * 50)
    both = np.concatenate([positives, negatives]).astype(np.float32)
    np.testing.assert_allclose(svm.scores(both), machine.decision_function(both), rtol=1e-4)


def test_hard_negatives_are_gone_through_once_and_easy_ones_let_go():
    asked, given = [], []

    def fit(positives, negatives):
        given.append(len(negatives))
        return SVM(np.array([1.0], np.float32), 0.0)

    def hard(place, svm):
        asked.append(place)
        return np.full((1500, 1), HARD + 0.5 if place else EASY - 1)

    mine(fit, np.ones((2, 1)), np.full((10, 1), EASY - 1), hard, 5)  # type: ignore[arg-type]
    assert asked == [0, 1, 2, 3, 4]
    # 10 to begin with; + 2 pictures (3,000 of which half are easy); + 2 pictures; + the last
    assert given == [10, 3010, 1500 + 3000, 4500 + 1500]


def test_warped_regions_are_pillows_and_show_the_context():
    image = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    boxes = torch.tensor([[20.0, 10, 52, 42], [-8, 0, 24, 32]])
    plain = warp(image, boxes[:1], (16, 16), 0, (0, 0, 0))
    expected = image[10:42, 20:52].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(plain[0] - expected).max() <= 0.51, "each pixel the mean of four"
    larger = warp(image, boxes[:1], (40, 40), 4, (0, 0, 0))[0]
    np.testing.assert_array_equal(larger, image[6:46, 16:56])
    outside = warp(image, boxes[1:], (32, 32), 0, (9, 8, 7))[0]
    np.testing.assert_array_equal(outside[:, 8:], image[:32, :24])
    assert (outside[:, :7] == (9, 8, 7)).all()
    assert warp(image, boxes[:0], (8, 8), 0, (0, 0, 0)).shape == (0, 8, 8, 3)
    assert mean_colour([image, image // 2]) == pytest.approx(
        np.stack([image, image // 2]).mean((0, 1, 2)), rel=1e-12
    )


def test_crowds_and_boxes_without_an_area_are_not_learnt_from():
    target = {
        "boxes": np.array([[0, 0, 9, 9], [3, 3, 3, 8], [0, 0, 40, 40]], np.float32),
        "labels": np.array([1, 0, 0]),
        "crowd": np.array([False, False, True]),
    }
    images = np.zeros((1, 50, 50, 3), np.uint8)
    source = PictureSet.of("one", ("a", "b"), train=(images, [0], [target]))
    ((boxes, labels),) = objects(source.splits["train"])
    assert boxes.tolist() == [[0, 0, 9, 9]]
    assert labels.tolist() == [1]
    with pytest.raises(InputError, match="no boxes"):
        SlidingWindow(10).fit(open_source("digits").splits["train"])


def test_the_commonest_boxes_are_the_means_of_clusters():
    images = np.zeros((4, 100, 200, 3), np.uint8)
    boxes = [[10, 10, 30, 30], [12, 10, 32, 30], [14, 10, 34, 30], [150, 50, 190, 90]]
    targets = [{"boxes": np.array([box], np.float32), "labels": np.array([1])} for box in boxes]
    source = PictureSet.of("boxes", ("a", "b"), train=(images, [1] * 4, targets))
    found = CommonestBoxes(2, most=2).fit(source.splits["train"]).detect((400, 200))
    assert found.labels.tolist() == [1, 1]
    assert found.scores.tolist() == [0.75, 0.25]
    expected = torch.tensor([[24.0, 20, 64, 60], [300, 100, 380, 180]])
    assert torch.allclose(found.boxes, expected, atol=1e-3), "twice as large as learnt"
    assert (box_iou(found.boxes, expected).diag() > 0.99).all()
