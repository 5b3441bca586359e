"""Mask R-CNN: a third head draws each object's pixels within its box.

He, Gkioxari, Dollar & Girshick 2017, "Mask R-CNN", figure 4, right: on the pyramid four 3x3
convolutions on 14x14 px, a transposed one to 28x28, and a mask for each class, of which the one of
the object's own class counts (section 3). Heads and losses are torchvision's.
"""

from __future__ import annotations

from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from deepen.detection.faster_rcnn import SAMPLES, Detector, faster_rcnn_fpn
from deepen.detection.settings import Wanted

_WIDTH, _LAYERS, _POOL_PX = 256, 4, 14


def mask_rcnn_fpn(wanted: Wanted) -> Detector:
    """Faster R-CNN on a pyramid with a head for masks; errors of `faster_rcnn_fpn`."""
    detector = faster_rcnn_fpn(wanted)
    heads, backbone = detector.roi_heads, detector.backbone
    assert heads is not None
    levels = [str(level) for level in range(len(backbone.names))]
    heads.mask_roi_pool = MultiScaleRoIAlign(levels, _POOL_PX, SAMPLES)
    heads.mask_head = MaskRCNNHeads(backbone.out_channels, [_WIDTH] * _LAYERS, 1)
    heads.mask_predictor = MaskRCNNPredictor(_WIDTH, _WIDTH, wanted.num_classes + 1)
    return detector
