"""Batches of a split, epoch after epoch, always the same for the same (seed, epoch, index)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepen.data.augment import (
    Augmentation,
    augment_batch,
    augment_fitted,
    augment_pixels,
    geometry_of,
    pad_images,
    reduction,
)
from deepen.data.cache import DecodedPictures
from deepen.data.decode import (
    PictureError,
    Pixels,
)
from deepen.data.geometry import Geometry
from deepen.data.mixing import Mixing, mix
from deepen.data.preprocess import Preprocessing
from deepen.data.randomness import uniforms
from deepen.data.sampling import balanced_order
from deepen.data.sources import Split
from deepen.data.tags import tags_of
from deepen.data.transform import TransformError
from deepen.data.workers import Workers, share
from deepen.errors import InputError

_ALONE = "is left alone in its batch, and this network needs two pictures at once"


@dataclass(frozen=True)
class Batch:
    """What one step sees; B counts the pictures that could be decoded, and may be 0."""

    images: Tensor
    """float32 (B, C, H, W), channels last, on the device."""
    labels: Tensor
    """int64 (B,), on the device; of mixed pictures the class with the greater share."""
    indices: Tensor
    """int64 (B,), places in the split, on the CPU."""
    bad: tuple[PictureError, ...] = ()
    """Pictures of this batch that could not be decoded: left out, not replaced."""
    shares: Tensor | None = None
    """float32 (B, K): of mixed pictures the shares of the classes; of those that may have several
    classes 1 for each that they have, 0 for others."""
    elsewhere: int = 0
    """How many pictures of this batch other processes have."""
    named_targets: list[dict[str, Tensor]] | None = None
    """Of each picture what its split's `targets` say, on the device, in px of the source."""
    geometry: Geometry | None = None
    """Where the pictures lie in their sources; only where the split has targets."""

    @property
    def targets(self) -> Any:
        """What the loss compares with: labels (B,), or shares (B, K) where there are any.

        Where the split has targets of its own, those: a list of B mappings of name to tensor.
        `geometry` carries their boxes and masks to px of `images`.
        """
        if self.named_targets is not None:
            return self.named_targets
        return self.labels if self.shares is None else self.shares

    def __getitem__(self, place: slice) -> Batch:
        """A part of the pictures, without the bad ones."""

        def part(value: Any) -> Any:
            return None if value is None else value[place]

        return Batch(
            self.images[place],
            self.labels[place],
            self.indices[place],
            shares=part(self.shares),
            named_targets=part(self.named_targets),
            geometry=part(self.geometry),
        )


def _nobody(line: str) -> None:
    """Hears nothing."""


@dataclass(eq=False)
class Batches:
    """The batches of a split, for any epoch and from any batch on.

    Pictures in memory are kept on the device as uint8 and augmented there in batches. Files are
    decoded and augmented one by one, by `workers` processes (0: in this one); so are pictures in
    memory whose augmentation resizes or is RandAugment. Neither changes a bit of what comes out.

    Where the split has targets, a batch holds them and the geometry that brings their boxes and
    masks to where the pictures lie.

    Several processes share each batch: they see the same pictures, augmented alike, that one
    would. The one of `rank` has a run of neighbours in the batch, with places 2j and 2j+1 never
    parted. All have the same number of batches, of which a short one may be empty on some.

    Attributes:
        split: where the pictures are.
        preprocessing: geometry and normalization.
        batch_size: pictures a batch, in all processes together.
        augmentation: for training; the usual one fits pictures as at evaluation.
        mixing: of the pictures of a batch with each other; the usual one mixes none.
        num_classes: length of the mixed pictures' shares; needed for those alone.
        seed: of order and augmentation.
        shuffle: in an order drawn for each epoch; else as the split has them.
        sampling: of shuffled pictures: each once, or each class as often (`deepen.data.sampling`).
        workers: processes that decode; they live as long as the loader.
        cache_bytes: of decoded pictures of files that are kept from epoch to epoch, in a temporary
            file that the workers share.
        fewest: pictures that a step needs at once, 1 or 2: the last one of an epoch joins the batch
            before it where it would be alone, and no process has one alone. A picture that is alone
            since all others of its batch cannot be decoded is left out with these.
        mean_image: (H, W, C) on the 0..1 scale, exactly when `preprocessing` wants one.
        device: where the batches are wanted.
        rank: which of the processes this is, from 0.
        world_size: how many processes share the split.
        tell: called with a line where the machine takes the workers away.

    Raises:
        InputError: the augmentation does not go with the preprocessing, or it or the mixing with a
            split that has targets.
        WorkError: there is no room for the cache.
    """

    split: Split
    preprocessing: Preprocessing
    _: KW_ONLY
    batch_size: int
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    num_classes: int = 0
    seed: int = 0
    shuffle: bool = False
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    workers: int = 0
    cache_bytes: int = 0
    fewest: int = 1
    mean_image: Tensor | None = None
    device: torch.device | str = "cpu"
    rank: int = 0
    world_size: int = 1
    tell: Callable[[str], None] = _nobody

    def __post_init__(self) -> None:
        preprocessing, seed = self.preprocessing, self.seed
        split = self.split = replace(self.split, white=preprocessing.white)
        self.augmentation = self.augmentation or Augmentation()  # None does for the usual one
        self.mixing = self.mixing or Mixing()
        self.augmentation.check(preprocessing)
        self.device = torch.device(self.device)
        tags = tags_of(split)
        self._tags = None if tags is None else torch.from_numpy(tags).float().to(self.device)
        self._targets = split.targets if tags is None else None
        if self._targets is not None:
            self.augmentation.check_geometry()
        if split.targets is not None and self.mixing.active:
            raise InputError("mixing: pictures with targets beside their class cannot be mixed")
        self.num_images = len(split)
        """Pictures of an epoch, in all processes."""
        self.num_batches = math.ceil((len(split) + 1 - self.fewest) / self.batch_size)
        """Batches of an epoch, the last one perhaps of another size; the same in all processes."""
        self.num_full = self.num_batches - (self.num_batches * self.batch_size != len(split))
        """Those of `batch_size` pictures."""
        width = preprocessing.size_px[1]
        self._normalize = preprocessing.normalization(width, self.device, self.mean_image)
        self._labels = torch.from_numpy(split.labels).to(self.device)
        if not stay_on_device(split, self.augmentation):
            cache = None
            if self.cache_bytes and split.images is None:
                cache = DecodedPictures(self.cache_bytes, len(split), preprocessing.channels)
            seen = replace(split, targets=self._targets)
            self._pictures = _Pictures(seen, preprocessing, self.augmentation, seed, cache)
            self._workers = None
            if self.workers:
                self._workers = Workers(
                    self._pictures,
                    self.workers,
                    self.device,
                    partial(_go_on_alone, self._pictures, self.tell),
                )
        else:
            assert split.images is not None
            images = torch.from_numpy(preprocessing.fit_arrays(split.images)).to(self.device)
            self._images = pad_images(self.augmentation, images)
            self._size = (split.images.shape[2], split.images.shape[1])
            self._pictures = None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0; those before `start` cost nothing.

        With workers one epoch at a time: to begin another is to abandon this one.
        """
        order = self._order(epoch)
        places = [self._place(k) for k in range(start, self.num_batches)]
        if self._pictures is None:
            yield from self._from_memory(epoch, order, places)
        else:
            yield from self._from_pictures(epoch, [order[place] for place in places])

    @property
    def resident(self) -> bool:
        """Whether all lies on the device, so that `layout` and `pick` can be used."""
        return self._pictures is None and self.split.targets is None

    def layout(self, epoch: int) -> tuple[Tensor, Tensor]:
        """An epoch's order, int64 (N,), and uniforms, float32 (N, draws), on the device."""
        samples = self._order(epoch).to(self.device)
        u = uniforms(self.seed, epoch, samples, self.augmentation.draws)
        return samples % len(self.split), u

    def pick(self, indices: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images and labels as in `Batch` of resident samples, with their uniforms.

        Waits for nothing: a CUDA graph can hold it.
        """
        images = augment_batch(self.augmentation, self._images, indices, u)
        return self._normalize(images), self._labels[indices]

    def _order(self, epoch: int) -> Tensor:
        """The samples of an epoch; the picture of sample s is s modulo the number of pictures."""
        if self.shuffle and self.sampling == "balanced":
            return balanced_order(self.split.labels, self.seed, epoch)
        if self.shuffle:
            return self.split.order(self.seed, epoch)
        return torch.arange(len(self.split))

    def _place(self, k: int) -> slice:
        """Where this process's part of batch k lies in the order of the epoch."""
        begin = k * self.batch_size
        end = len(self.split) if k == self.num_batches - 1 else begin + self.batch_size
        pairs = max(1, (end - begin + 2 - self.fewest) // 2)  # the last may be of one or of three

        def edge(rank: int) -> int:
            whole = math.ceil(pairs * rank / self.world_size)
            return end if whole == pairs else begin + 2 * whole

        return slice(edge(self.rank), edge(self.rank + 1))

    def _from_memory(self, epoch: int, order: Tensor, places: list[slice]) -> Iterator[Batch]:
        on_device = order.to(self.device)
        u = uniforms(self.seed, epoch, on_device, self.augmentation.draws)
        for place in places:
            indices = on_device[place] % len(self.split)
            images = augment_batch(self.augmentation, self._images, indices, u[place])
            geometry = None
            if self._targets is not None:
                sizes = [self._size] * len(indices)
                geometry = geometry_of(self.augmentation, self.preprocessing, sizes, u[place])
            labels, kept = self._labels[indices], order[place]
            yield self._batch(epoch, images, labels, kept, kept, geometry=geometry)

    def _from_pictures(self, epoch: int, chunks: list[Tensor]) -> Iterator[Batch]:
        assert self._pictures is not None
        requests = [_Request(epoch, chunk.tolist()) for chunk in chunks]
        if self._workers is None:
            answers = map(self._pictures.__getitem__, requests)
        else:
            answers = self._workers(requests)
        for chunk, (images, kept, bad, geometry, failure) in zip(chunks, answers, strict=True):
            if failure is not None:
                if self._workers is not None:
                    self._workers.close()
                raise InputError(failure)
            if 0 < len(kept) < self.fewest:
                alone = (self.split.key(sample % len(self.split)) for sample in kept)
                bad = (*bad, *(PictureError(key, _ALONE) for key in alone))
                images, kept, geometry = images[:0], [], geometry and geometry[:0]
            images = images.to(self.device, non_blocking=True)
            samples = torch.tensor(kept, dtype=torch.int64)
            labels = self._labels[samples.to(self.device) % len(self.split)]
            yield self._batch(epoch, images, labels, samples, chunk, tuple(bad), geometry)

    def _batch(
        self,
        epoch: int,
        images: Tensor,
        labels: Tensor,
        kept: Tensor,
        asked: Tensor,
        bad: tuple[PictureError, ...] = (),
        geometry: Geometry | None = None,
    ) -> Batch:
        """Normalized and mixed: uint8 images of the samples `kept` of those `asked` for."""
        normal, indices = self._normalize(images), kept % len(self.split)
        if self._tags is not None:
            tags = self._tags[indices.to(self.device)]
            return Batch(normal, labels, indices, bad, tags)
        if self._targets is not None:
            given = [self._targets[index] for index in indices.tolist()]
            named = [
                {name: torch.tensor(value, device=self.device) for name, value in target.items()}
                for target in given
            ]
            return Batch(normal, labels, indices, bad, named_targets=named, geometry=geometry)
        if not (self.mixing.active and len(kept)):
            return Batch(normal, labels, indices, bad)
        normal, labels, shares = mix(
            self.mixing,
            normal,
            labels,
            kept,
            asked,
            num_classes=self.num_classes,
            seed=self.seed,
            epoch=epoch,
        )
        return Batch(normal, labels, indices, bad, shares)


def _go_on_alone(pictures: _Pictures, tell: Callable[[str], None], fault: str) -> None:
    """Go on without workers, and without the cache, whose lock one of them may have held.

    It knows no `Batches`: in a circle with its workers these would outlive it.
    """
    pictures.cache = None
    tell(f"{fault}; pictures are decoded in one process from here on")


def stay_on_device(split: Split, augmentation: Augmentation) -> bool:
    """Whether the pictures of a split are kept on the device and augmented there, in batches."""
    return split.images is not None and not augmentation.one_by_one


class _Request(NamedTuple):
    """One batch to be decoded; it says all that changes, so workers have no state."""

    epoch: int
    samples: list[int]


class _Answer(NamedTuple):
    images: Tensor  # uint8 (B, H, W, C)
    kept: list[int]  # the samples that these images are
    bad: Sequence[PictureError]
    geometry: Geometry | None = None  # of these images, where the split has targets
    failure: str | None = None  # of the user's own transform


class _Pictures(Dataset[_Answer]):
    """Decodes, fits and augments the pictures of a request."""

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
        cache: DecodedPictures | None = None,
    ) -> None:
        self.split = replace(split, targets=None)  # workers have no use for them
        self.has_targets = split.targets is not None
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.cache = cache

    def __getitem__(self, request: _Request) -> _Answer:
        draws = uniforms(
            self.seed,
            request.epoch,
            torch.tensor(request.samples, dtype=torch.int64),
            self.augmentation.draws,
        )
        images, kept, bad = [], [], []
        sizes, places = [], []
        for place, (sample, u) in enumerate(zip(request.samples, draws, strict=True)):
            try:
                image, full_size = self._augmented(sample % len(self.split), u)
            except PictureError as error:
                bad.append(error)
                continue
            except TransformError as error:  # said where it is not wrapped in a worker's words
                key = self.split.key(sample % len(self.split))
                failure = f"augment.transform {self.augmentation.transform}: {key}: {error}"
                return _Answer(torch.empty(0), [], (), failure=failure)
            images.append(image)
            kept.append(sample)
            sizes.append(full_size)
            places.append(place)
        size = (*self.preprocessing.size_px, self.preprocessing.channels)
        stacked = torch.stack(images) if images else torch.empty((0, *size), dtype=torch.uint8)
        geometry = None
        if self.has_targets:
            geometry = geometry_of(self.augmentation, self.preprocessing, sizes, draws[places])
        return _Answer(share(stacked), kept, tuple(bad), geometry)

    def _augmented(self, index: int, u: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """A picture out of the cache, or decoded and put there: uint8 (H, W, C).

        With it come the width and height of its source in full.
        """

        def factor(size: tuple[int, int]) -> int:
            return reduction(self.augmentation, size, self.preprocessing, u)

        pixels = None
        if not self.augmentation.resizes:  # always fitted alike, so it is kept fitted
            if self.cache is not None:
                pixels = self.cache.get(index, 1)
            if pixels is None:
                image = self.split.picture(index, self.preprocessing.channels)
                fitted = self.preprocessing.fit(image)
                pixels = Pixels(fitted, image.size)
                if self.cache is not None:
                    self.cache.put(index, 1, pixels)
            return augment_fitted(self.augmentation, pixels.array, u), pixels.full_size
        if self.cache is not None and (size := self.cache.full_size(index)) is not None:
            pixels = self.cache.get(index, factor(size))
        if pixels is None:
            pixels = self.split.pixels(index, self.preprocessing.channels, factor)
            if self.cache is not None:
                self.cache.put(index, factor(pixels.full_size), pixels)
        augmented = augment_pixels(self.augmentation, pixels, self.preprocessing, u)
        return augmented, pixels.full_size
