"""How logits are come by: the one-crop protocol, and its name in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from deepen.errors import InputError

if TYPE_CHECKING:
    from deepen.data.decode import PictureError
    from deepen.data.loader import Batch
    from deepen.data.preprocess import Preprocessing


class Predictions(NamedTuple):
    """Logits of a split, all on the CPU; N counts the pictures that could be decoded.

    Attributes:
        logits: (N, K) float32.
        labels: (N,) int64, or (N, K) of 0 and 1 where a picture may have several classes.
        indices: (N,) int64, places in the split.
        bad: what kept the other pictures out.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[PictureError, ...]


def predict_logits(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | str,
    amp: bool = False,
    progress: Callable[[int], object] | None = None,
    gather: Callable[[Predictions], Predictions] | None = None,
) -> Predictions:
    """One forward pass over each picture, in evaluation mode; the model's own mode is put back.

    Args:
        model: on `device` already.
        batches: one pass over a split, as `Batches.epoch(0)` gives it.
        device: where the forward passes run.
        amp: bfloat16 autocast.
        progress: called after each batch with the number of pictures it had, bad ones too.
        gather: puts the parts of several processes together.

    Raises:
        InputError: not one picture could be decoded.
    """
    device = torch.device(device)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    indices: list[Tensor] = []
    bad: list[PictureError] = []
    with predicting(model, device, amp):
        for batch in batches:
            if len(batch.labels):
                images = batch.images.to(device, non_blocking=True)
                logits.append(model(images).float())  # stays on the device: no wait
                tags = batch.shares  # nothing is mixed here
                labels.append(batch.labels if tags is None else tags.long())
                indices.append(batch.indices)
            bad.extend(batch.bad)
            if progress is not None:
                progress(len(batch.labels) + len(batch.bad))
    found = Predictions(
        torch.cat(logits).cpu() if logits else torch.empty(0, 0),
        torch.cat(labels).cpu() if labels else torch.empty(0, dtype=torch.int64),
        torch.cat(indices).cpu() if indices else torch.empty(0, dtype=torch.int64),
        tuple(bad),
    )
    if gather is not None:
        found = gather(found)
    if not len(found.labels):
        raise none_decoded(bad)
    return found


@contextmanager
def predicting(network: nn.Module, device: torch.device, amp: bool) -> Iterator[None]:
    """Forward passes alone, in evaluation mode; the network's own mode is put back.

    Args:
        network: on `device`.
        device: where it computes.
        amp: bfloat16 autocast.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
            yield
    finally:
        network.train(was_training)


def none_decoded(bad: Sequence[PictureError]) -> InputError:
    """Of a pass over pictures, not one of which could be decoded."""
    first = f"; the first: {bad[0]}" if bad else ""
    return InputError(f"none of {len(bad)} pictures could be decoded{first}")


def describe_one_crop(
    preprocessing: Preprocessing, *, data: str, part: str, num_samples: int
) -> str:
    """The one-crop protocol in words, for `Scores.protocol` and the card.

    Example: `digits, test split, 899 pictures, one crop: zero border to 32x32 px`.
    """
    pictures = f"{num_samples:,} picture{'' if num_samples == 1 else 's'}"
    return f"{data}, {part}, {pictures}, one crop: {preprocessing.describe()}"
