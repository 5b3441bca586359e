"""Where in its source each picture of a batch lies, so that boxes, points and masks can follow it.

Coordinates are those of edges, as torchvision's boxes have them: a picture w px wide goes from 0 to
w, and its first pixel from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A window of each source picture, resized to a place in the network's input, flipped perhaps.

    Around the place, where it does not fill the input, lies a border. All tensors are on the CPU;
    what follows a picture, on any device, stays there.
    """

    size_px: tuple[int, int]
    """Height and width of the network's input."""
    window: Tensor
    """float32 (B, 4): left, top, right, bottom in px of the upright source picture in full size."""
    place: Tensor
    """float32 (B, 4): where the window lies in the input before it is flipped; a random crop may
    have it stick out, and what does is not seen."""
    flipped: Tensor
    """bool (B,): left and right are changed over."""

    def __len__(self) -> int:
        return len(self.flipped)

    def __getitem__(self, part: slice) -> Geometry:
        """A part of the pictures."""
        return Geometry(self.size_px, self.window[part], self.place[part], self.flipped[part])

    def points(self, index: int, points: Tensor) -> Tensor:
        """Carry points (..., 2), x and y in px of source `index`, to px of the network's input."""
        scale, shift = (numbers.float().to(points.device) for numbers in self._affine(index))
        return points.float() * scale + shift

    def source_points(self, index: int, points: Tensor) -> Tensor:
        """Carry points (..., 2) of the network's input back to px of source `index`."""
        scale, shift = (numbers.float().to(points.device) for numbers in self._affine(index))
        return (points.float() - shift) / scale

    def boxes(self, index: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Carry boxes of source `index` to the network's input, cut to what is seen of it.

        Args:
            index: of the picture in the batch.
            boxes: (n, 4), x1 y1 x2 y2 in px of the source.

        Returns:
            float32 (n, 4), x1 y1 x2 y2 in px of the input, and bool (n,), which have an area left.
        """
        corners = self.points(index, boxes.reshape(-1, 2, 2))
        left, top, right, bottom = self._seen(index)
        least = torch.tensor([left, top], device=boxes.device)
        most = torch.tensor([right, bottom], device=boxes.device).maximum(least)
        corners = corners.maximum(least).minimum(most)
        found = torch.cat([corners.amin(1), corners.amax(1)], 1)
        return found, (found[:, 2:] > found[:, :2]).all(1)

    def mask(self, index: int, mask: Tensor, fill: int = 0) -> Tensor:
        """Carry a mask (..., h, w) of source `index` to the input, (..., H, W), to the nearest.

        What is not of the source is `fill`.
        """
        left, top, right, bottom = self._seen(index)
        pixels, seen = [], []
        for axis, least, most in ((1, top, bottom), (0, left, right)):
            centers = torch.arange(self.size_px[1 - axis], dtype=torch.float64) + 0.5
            scale, shift = (numbers[axis] for numbers in self._affine(index))
            nearest = ((centers - shift) / scale).floor().long()
            pixels.append(nearest.clamp(0, mask.shape[-1 - axis] - 1).to(mask.device))
            seen.append(((centers > least) & (centers < most)).to(mask.device))
        (rows, columns), (down, across) = pixels, seen
        found = mask[..., rows[:, None], columns]
        return found.masked_fill(~(down[:, None] & across), fill)

    def _affine(self, index: int) -> tuple[Tensor, Tensor]:
        """Scale and shift, float64 (2,), of x and y, that bring a source's px to the input's."""
        window, place = self.window[index].double(), self.place[index].double()
        scale = (place[2:] - place[:2]) / (window[2:] - window[:2])
        shift = place[:2] - window[:2] * scale
        if self.flipped[index]:
            scale[0], shift[0] = -scale[0], self.size_px[1] - shift[0]
        return scale, shift

    def _seen(self, index: int) -> Box:
        """Where in the input there are pixels of the source."""
        height, width = self.size_px
        left, top, right, bottom = self.place[index].tolist()
        if self.flipped[index]:
            left, right = width - right, width - left
        return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)


def window_of(
    size: tuple[int, int],
    resized: tuple[int, int],
    corner: tuple[int, int],
    crop_px: tuple[int, int],
) -> Box:
    """A window of a resized picture, in px of the picture as it was before.

    Args:
        size: width and height before.
        resized: width and height after.
        corner: left and top of the window in the resized picture.
        crop_px: height and width of the window there.
    """
    across, down = size[0] / resized[0], size[1] / resized[1]  # source pixels a pixel
    (left, top), (height, width) = corner, crop_px
    return left * across, top * down, (left + width) * across, (top + height) * down
