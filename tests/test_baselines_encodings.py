"""Features by hand: what they are against numpy, and that a linear classifier can use them."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.baselines.encodings import FisherVectors, hog_features, linear_svm
from deepen.data.sources import Split, open_source
from deepen.errors import InputError

RNG = np.random.default_rng(0)


def split_of(images: np.ndarray) -> Split:
    count = len(images)
    return Split("train", np.zeros(count, np.int64), tuple(map(str, range(count))), images=images)


@pytest.fixture(scope="module")
def digits() -> tuple[Split, Split]:
    """scikit-learn's, enlarged four times: 300 to learn from and 300 to be tested on."""
    source = open_source("digits")

    def some(split: Split) -> Split:
        few = split.take(list(range(300)))
        assert few.images is not None
        images = few.images.repeat(4, axis=1).repeat(4, axis=2)
        return Split(few.name, few.labels, few.keys, images=images)

    return some(source.splits["train"]), some(source.splits["test"])


def test_hog_of_a_slope_lies_in_the_bin_of_its_direction():
    y, x = np.mgrid[:16, :16]
    for slope, bin_ in ((x, 0), (y, 4), (x + y, 2)):  # gradients at 0, 90 and 45 degrees
        images = (slope * 7)[None, :, :, None].astype(np.uint8)
        found = hog_features(split_of(images)).reshape(3, 3, 2, 2, 9)
        inner = found[1, 1].sum((0, 1))
        assert inner.argmax() == bin_
        assert inner[bin_] > 0.99 * inner.sum()


def test_fisher_vectors_are_the_mixtures_gradients():
    """Against the formulas of Perronnin et al. 2010, section 2, written out."""
    images = RNG.integers(0, 256, (20, 16, 16, 1), dtype=np.uint8)
    encoder = FisherVectors(seed=0)
    encoder.GAUSSIANS, encoder.COMPONENTS = 3, 4
    found = encoder.fit(split_of(images)).encode(split_of(images[:1]))[0]
    x = encoder._placed(encoder._describe(images[0])).astype(np.float64)  # (T, D)
    gmm, (count, size) = encoder.mixture, x.shape
    share = gmm.predict_proba(x)  # (T, K)
    by_weight, by_mean, by_deviation = [], [], []
    for k in range(3):
        weight, mean, deviation = gmm.weights_[k], gmm.means_[k], np.sqrt(gmm.covariances_[k])
        z = (x - mean) / deviation
        root = np.sqrt(weight)
        by_weight.append((share[:, k] - weight).sum() / (count * root))
        by_mean.append((share[:, k, None] * z).sum(0) / (count * root))
        # scikit-image turns the sign of this part, which no linear classifier minds
        by_deviation.append((share[:, k, None] * (1 - z**2)).sum(0) / (count * root * np.sqrt(2)))
    whole = np.concatenate([by_weight, *by_mean, *by_deviation])
    whole = np.sign(whole) * np.sqrt(np.abs(whole))
    assert found.shape == (3 + 2 * 3 * size,)
    np.testing.assert_allclose(found, whole / np.linalg.norm(whole), atol=1e-4)


def test_places_are_rows_and_columns_of_variance_one():
    encoder = FisherVectors(seed=0).fit(split_of(RNG.integers(0, 256, (40, 20, 14, 1), np.uint8)))
    placed = encoder._placed(encoder._describe(np.zeros((20, 14, 1), np.uint8)))[:, -2:]
    rows, columns = encoder.grid
    assert rows > columns
    assert np.allclose(placed[:columns, 0], -np.sqrt(3))
    assert np.allclose(placed[::columns, 1], -np.sqrt(3))
    assert placed.max() == pytest.approx(np.sqrt(3))


@pytest.mark.parametrize("name", ["hog", "fisher"])
def test_a_linear_classifier_reads_digits_from_them(digits, name):
    train, test = digits
    encode = hog_features if name == "hog" else FisherVectors(seed=0).fit(train).encode
    features = encode(train)
    assert features.dtype == np.float32
    classifier = linear_svm(0).fit(features, train.labels)
    assert classifier.score(encode(test), test.labels) > 0.85
    assert (encode(train.take([3]))[0] == features[3]).all()  # a picture is seen by itself


def test_a_folder_of_pictures_is_refused(tmp_path):
    split = Split("train", np.zeros(1, np.int64), ("a.png",), files=(tmp_path / "a.png",))
    with pytest.raises(InputError, match="not of a folder"):
        hog_features(split)
