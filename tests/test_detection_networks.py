"""Detectors against torchvision's, with the same weights, pictures and random numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from deepen.detection.networks import model_of
from deepen.models import create_model

SIZE = (64, 96)
CLASSES = 3


def theirs(kind: Callable[..., nn.Module], depth: str, **options: object) -> nn.Module:
    """torchvision's detector on pictures as they are."""
    backbone = _resnet_fpn_extractor(getattr(resnet, depth)(), 5)
    same = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return kind(backbone, CLASSES + 1, SIZE[0], SIZE[1], **same, **options)


def pictures(seed: int = 0, empty: bool = False) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Two pictures in float64, with boxes, labels from 1 on, and masks."""
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, *SIZE, generator=random, dtype=torch.float64)
    targets = []
    for count in (3, 0 if empty else 5):
        corner = torch.rand(count, 2, generator=random, dtype=torch.float64) * 40
        sides = torch.rand(count, 2, generator=random, dtype=torch.float64) * 20 + 3
        masks = torch.rand(count, *SIZE, generator=random) < 0.5
        targets.append(
            {
                "boxes": torch.cat([corner, corner + sides], 1),
                "labels": torch.randint(1, CLASSES + 1, (count,), generator=random),
                "masks": masks.to(torch.uint8),
            }
        )
    return images, targets


def seeded(network: nn.Module) -> nn.Module:
    """The network in float64, whose sampling begins with the same random numbers each time."""
    assert isinstance(network.rpn, nn.Module)
    network.rpn.register_forward_pre_hook(lambda *_: torch.manual_seed(3) and None)
    return network.double()


def check_close(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the greatest value."""
    expected = expected.detach()
    allowed = 1e-5 * float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=allowed)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("kind", "word"), [(FasterRCNN, "faster-rcnn-fpn"), (MaskRCNN, "mask-rcnn-fpn")]
)
def test_losses_gradients_and_boxes_are_torchvisions(
    kind: Callable[..., nn.Module], word: str, empty: bool
) -> None:
    torch.manual_seed(1)
    few = {"box_batch_size_per_image": 64, "rpn_batch_size_per_image": 64}
    reference = seeded(theirs(kind, "resnet18", **few, box_score_thresh=0.0))
    settings = ("regions=64", "anchors=64", "least_score=0")
    ours = seeded(create_model(model_of(word, "resnet18", *settings), CLASSES, 3, SIZE))
    ours.load_state_dict(reference.state_dict())
    images, targets = pictures(empty=empty)
    expected = reference.train()(list(images), targets)
    found = ours.train()(images, targets)
    assert found.keys() == expected.keys()
    for key in expected:
        check_close(found[key], expected[key])
    sum(expected.values()).backward()
    sum(found.values()).backward()
    gradients = {key: p.grad for key, p in reference.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None, key
        check_close(parameter.grad, gradients[key])
    with torch.no_grad():
        expected, found = reference.eval()(list(images)), ours.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 20
        assert one["labels"].tolist() == other["labels"].tolist()
        for key in ("boxes", "scores"):
            check_close(one[key], other[key])
        if "masks" in other:
            check_close(paste_masks_in_image(one["masks"], one["boxes"], SIZE), other["masks"])
