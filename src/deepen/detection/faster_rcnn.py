"""Faster R-CNN: regions that may be objects, then what each of them is and where exactly.

Ren, He, Girshick & Sun 2015, "Faster R-CNN: towards real-time object detection with region proposal
networks"; with the pyramid of Lin et al. 2017, "Feature pyramid networks for object detection"; on
one map (C4) as He et al. 2015, appendix A: all up to conv4_x is shared, regions are pooled from
there, and conv5_x is computed for each. Anchors, losses, sampling and the keys of the weights are
torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from deepen.detection.backbones import Maps, Pyramid, Rest, pyramid, shared_and_rest
from deepen.detection.settings import DetectorSettings, Wanted
from deepen.errors import InputError

Found = list[dict[str, Tensor]]
SAMPLES = 2
"""Points along each side of a bin, RoIAlign's (He et al. 2017, section 3: 4 a bin)."""


class Detector(nn.Module):
    """A backbone, proposals on its maps, and heads for the regions; one of the two may be absent.

    In training mode its forward pass hands out losses, in evaluation mode what it finds.

    Attributes:
        backbone: of pictures (B, C, H, W) a map each, by name; `strides` are theirs.
        rpn: proposes regions; None: they are given with the targets.
        roi_heads: classes and boxes of regions; None: the proposals are all that is found.
        num_classes: without the background.
        in_channels: of the pictures.
        settings: as it was told.
        classifier_names: the layers that depend on the classes.
    """

    def __init__(
        self,
        backbone: Maps,
        rpn: RegionProposalNetwork | None,
        roi_heads: RoIHeads | None,
        num_classes: int,
        settings: DetectorSettings,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        self.num_classes, self.settings = num_classes, settings
        self.in_channels = backbone.body.in_channels

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """The layers that depend on the classes, by path."""
        if self.roi_heads is None:
            return ()
        names = ["box_predictor.cls_score", "box_predictor.bbox_pred"]
        if self.roi_heads.has_mask():
            names.append("mask_predictor.mask_fcn_logits")
        return tuple(f"roi_heads.{name}" for name in names)

    def forward(
        self, images: Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | Found:
        """Losses in training mode; else of each picture boxes, labels and scores.

        Maps may be computed in bfloat16; places in a picture, to whose px it is too coarse, are
        computed in the type of the pictures.

        Args:
            images: (B, C, H, W), all of one size.
            targets: of each picture boxes (n, 4), x1 y1 x2 y2 in px of `images`, and labels (n,),
                from 1 on (0 is the background); with masks (n, H, W) where there is a mask head,
                and proposals (m, 4) where there is no `rpn`.

        Returns:
            In training a scalar for each loss; else for each picture boxes (n, 4) in px of
            `images`, scores (n,), falling, and labels (n,), from 1 on; with `masks`
            (n, 1, 28, 28), each within its box, where there is a mask head.

        Raises:
            InputError: on the meta device: what it computes depends on values.
        """
        if images.is_meta:
            raise InputError("a detector cannot be followed without values")
        height, width = images.shape[2:]
        coarsest = self.backbone.strides[-1] // (2 if isinstance(self.backbone, Pyramid) else 1)
        padded = F.pad(images, (0, -width % coarsest, 0, -height % coarsest))
        maps = self.backbone(padded)
        with torch.autocast(images.device.type, enabled=False):
            maps = OrderedDict((name, each.to(images.dtype)) for name, each in maps.items())
            sizes = [(height, width)] * len(images)
            given = None if targets is None else list(targets)
            if self.rpn is not None:
                pictures = ImageList(padded, sizes)
                proposals, losses = self.rpn(pictures, maps, given if self.training else None)
            else:
                assert given is not None
                proposals, losses = [target["proposals"] for target in given], {}
            if self.roi_heads is None:
                return losses if self.training else [_proposed(boxes) for boxes in proposals]
            found, more = self.roi_heads(maps, proposals, sizes, given if self.training else None)
        return losses | more if self.training else found


def _proposed(boxes: Tensor) -> dict[str, Tensor]:
    """Proposals as things found, of the one class that there is; the likelier come first."""
    ranks = torch.arange(len(boxes), device=boxes.device)
    labels = torch.ones(len(boxes), dtype=torch.int64, device=boxes.device)
    return {"boxes": boxes, "labels": labels, "scores": 1 - ranks / max(1, len(boxes))}


def proposal_network(backbone: Maps, settings: DetectorSettings) -> RegionProposalNetwork:
    """Ren et al. 2015, section 3.1, on one map or on each of a pyramid's.

    Raises:
        InputError: there is not one size of anchor for each level of the pyramid.
    """
    strides = backbone.strides
    if isinstance(backbone, Pyramid):
        sides = settings.anchor_px or tuple(8.0 * stride for stride in strides)
        if len(sides) != len(strides):
            have = ", ".join(map(str, strides))
            raise InputError(
                f"anchor_px: {len(sides)} sizes; the pyramid has {len(strides)} levels, "
                f"with strides of {have} px, and takes one for each"
            )
        sizes = tuple((side,) for side in sides)
    else:
        sizes = (settings.anchor_px or tuple(times * strides[0] for times in (8.0, 16.0, 32.0)),)
    anchors = AnchorGenerator(sizes, (settings.ratios,) * len(sizes))
    background, objects = settings.anchor_ious
    kept: dict[str, int] = dict(zip(("training", "testing"), settings.kept, strict=True))
    left: dict[str, int] = dict(zip(("training", "testing"), settings.proposals, strict=True))
    return RegionProposalNetwork(
        anchors,
        RPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0]),
        objects,
        background,
        settings.anchors,
        settings.anchor_positives,
        kept,
        left,
        settings.proposal_nms,
    )


class RegionPooling(nn.Module):
    """Girshick 2015, section 2.1: the largest value of each bin of a region, on one map."""

    def __init__(self, output_px: int, stride: int) -> None:
        super().__init__()
        self.output_px, self.stride = output_px, stride

    def forward(
        self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Regions (n, 4) of each picture to (all n, C, output_px, output_px)."""
        (features,) = maps.values()
        return roi_pool(features, boxes, self.output_px, 1 / self.stride)


def region_heads(
    backbone: Maps, rest: Rest | None, num_classes: int, settings: DetectorSettings
) -> RoIHeads:
    """Classes and boxes of regions: by the rest of a classifier, or by two layers on a pyramid.

    Raises:
        InputError: a pyramid is to be pooled by its maxima.
    """
    if settings.pool == "align":
        names = [str(level) for level in range(len(backbone.names))]
        pooling = MultiScaleRoIAlign(names, settings.pool_px, SAMPLES)
    elif isinstance(backbone, Pyramid):
        raise InputError("pool: max goes with one map; a pyramid takes align")
    else:
        pooling = RegionPooling(settings.pool_px, backbone.strides[0])
    if rest is None:
        head = TwoMLPHead(backbone.out_channels * settings.pool_px**2, settings.hidden)
        width = settings.hidden
    else:
        head, width = rest, rest.out_features
    return RoIHeads(
        pooling,
        head,
        FastRCNNPredictor(width, num_classes + 1),
        settings.region_iou,
        settings.region_iou,
        settings.regions,
        settings.region_positives,
        None,
        settings.least_score,
        settings.nms,
        settings.detections,
    )


def faster_rcnn_fpn(wanted: Wanted) -> Detector:
    """Faster R-CNN on a pyramid (Lin et al. 2017, sections 4.1 and 4.2).

    Raises:
        InputError: the backbone or the settings do not do.
    """
    backbone = pyramid(wanted)
    rpn = proposal_network(backbone, wanted.settings)
    heads = region_heads(backbone, None, wanted.num_classes, wanted.settings)
    return Detector(backbone, rpn, heads, wanted.num_classes, wanted.settings)


def faster_rcnn_c4(wanted: Wanted, *, proposes: bool = True, tells: bool = True) -> Detector:
    """Faster R-CNN on one map (He et al. 2015, appendix A).

    Args:
        wanted: what it is built of.
        proposes: False: proposals come with the targets.
        tells: False: the proposal network alone.

    Raises:
        InputError: the backbone or the settings do not do.
    """
    backbone, rest = shared_and_rest(wanted)
    _, num_classes, *_, settings = wanted
    rpn = proposal_network(backbone, settings) if proposes else None
    heads = region_heads(backbone, rest, num_classes, settings) if tells else None
    return Detector(backbone, rpn, heads, num_classes, settings)
