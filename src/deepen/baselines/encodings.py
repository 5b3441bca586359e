"""What pictures were described by before networks learned to: gradients, and Fisher vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepen.data.sources import Split
from deepen.errors import InputError

HOG_CELL_PX = 4


def hog_features(split: Split) -> np.ndarray:
    """Histograms of oriented gradients (Dalal & Triggs 2005, section 6).

    Nine unsigned orientations, blocks of 2x2 cells at every cell, L2-Hys. Their cells of 8 px are
    for people of 64x128 px; here they are `HOG_CELL_PX`.

    Args:
        split: N pictures in memory.

    Returns:
        (N, D), as many values as the pictures have blocks, times 36.
    """
    from skimage.feature import hog

    cell = (HOG_CELL_PX, HOG_CELL_PX)
    return np.stack(
        [hog(image, 9, cell, (2, 2), channel_axis=-1) for image in _images(split)]
    ).astype(np.float32)


class FisherVectors:
    """Improved Fisher vectors of dense gradient descriptors (Perronnin et al. 2010).

    Descriptors of the gradients around every third pixel (DAISY, Tola et al. 2010, in SIFT's
    place), reduced to 32 principal components, each with its place in the picture (Sánchez et al.
    2012, "Modeling the spatial layout"), are described by how a mixture of 32 Gaussians would have
    to change to fit them; then signed square roots, and length 1.

    Args:
        seed: of the descriptors that are drawn, and of the mixture.
    """

    STEP_PX, RADIUS_PX, COMPONENTS, GAUSSIANS, DRAWN = 3, 6, 32, 32, 50_000

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.reduce: Any = None
        self.mixture: Any = None

    def fit(self, split: Split) -> FisherVectors:
        """Find components and mixture from training pictures in memory; returns itself."""
        from skimage.feature import learn_gmm
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(self.seed)
        found = np.stack([self._describe(image) for image in _images(split)])  # (N, places, D)
        rows = found.reshape(-1, found.shape[-1])
        drawn = rng.permutation(len(rows))[: self.DRAWN]
        self.reduce = PCA(self.COMPONENTS, whiten=True, random_state=self.seed).fit(rows[drawn])
        places = self._places()[drawn % found.shape[1]]
        placed = np.concatenate([self.reduce.transform(rows[drawn]), places], axis=1)
        chosen = {
            "covariance_type": "diag",
            "random_state": self.seed,
            "max_iter": 50,
            "tol": 1e-2,
        }
        self.mixture = learn_gmm(placed, n_modes=self.GAUSSIANS, gm_args=chosen)
        return self

    def encode(self, split: Split) -> np.ndarray:
        """N pictures in memory to (N, D): a weight, and means and deviations, of each Gaussian."""
        from skimage.feature import fisher_vector

        vectors = []
        for image in _images(split):
            placed = self._placed(self._describe(image))
            vectors.append(fisher_vector(placed, self.mixture, improved=True))
        return np.stack(vectors).astype(np.float32)

    def _describe(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) to (places, D)."""
        from skimage.feature import daisy

        gray = np.pad(image.mean(axis=2) / 255, self.RADIUS_PX, mode="edge")
        found: Any = daisy(
            gray, self.STEP_PX, self.RADIUS_PX, rings=2, histograms=6, orientations=8
        )  # (rows, columns, D)
        self.grid = found.shape[:2]
        return found.reshape(-1, found.shape[2]).astype(np.float32)

    def _places(self) -> np.ndarray:
        """Row and column of each place, (places, 2), each of mean 0 and variance about 1."""
        axes = (np.linspace(-1, 1, num=length) for length in self.grid)
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        return places * np.sqrt(3)

    def _placed(self, found: np.ndarray) -> np.ndarray:
        """A picture's descriptors (places, D) to (places, components + 2)."""
        return np.concatenate([self.reduce.transform(found), self._places()], axis=1)


def linear_svm(seed: int) -> Any:
    """A linear support vector machine; C is chosen on a fifth of what it is fitted to."""
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
    from sklearn.svm import LinearSVC

    held_out = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
    strengths = {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}
    return GridSearchCV(LinearSVC(random_state=seed), strengths, cv=held_out)


def pixels(split: Split) -> np.ndarray:
    """N pictures in memory as values of 0 to 1, (N, H W C)."""
    return _images(split).reshape(len(split), -1).astype(np.float32) / 255


def _images(split: Split) -> np.ndarray:
    if split.images is None:
        raise InputError(
            "features by hand are taken of data sets in memory (digits, mnist, cifar10, ...), "
            "not of a folder of pictures"
        )
    return split.images
