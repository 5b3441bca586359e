"""Fast R-CNN: proposals that are given, pooled from the maps of one pass over the picture.

Girshick 2015, "Fast R-CNN". RoI pooling takes the place of the classifier's last pooling (section
2.2), its layers after that see each region, and classes and boxes are learnt together (section
2.3). Sampling and losses are torchvision's, and depart in two ways: background is all that overlaps
an object by less than 0.5 (the paper leaves out what overlaps by less than 0.1), and smooth L1
turns straight at 1/9 (the paper: at 1, of targets of variance 1).
"""

from __future__ import annotations

from torch import nn

from deepen.data.sources import Split
from deepen.detection.backbones import Rest, shared_and_rest
from deepen.detection.faster_rcnn import Detector, region_heads
from deepen.detection.settings import DetectorSettings, Wanted
from deepen.detection.task import Detection
from deepen.errors import InputError

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)
FAST = DetectorSettings(pool="max", pool_px=7, regions=64, nms=0.3)
"""Section 2.3: 64 regions of each picture, a quarter of them objects; 7x7 is VGG-16's (2.1)."""


def fast_rcnn(wanted: Wanted) -> Detector:
    """Fast R-CNN on a classifier; errors of `faster_rcnn_fpn`.

    Its targets have proposals (m, 4), in training and at evaluation.
    """
    backbone, rest = shared_and_rest(wanted)
    _leave_out_pooling(rest)
    heads = region_heads(backbone, rest, wanted.num_classes, wanted.settings)
    return Detector(backbone, None, heads, wanted.num_classes, wanted.settings)


def _leave_out_pooling(rest: Rest) -> None:
    """Drop a stage of pooling alone that would come next: RoI pooling has its place."""
    body = rest.body
    first = next(iter(body.stage_layers), None)
    if first is None:
        return
    layers = body.stage_layers[first]
    if all(
        isinstance(each, str) and isinstance(body.get_submodule(each), POOLINGS) for each in layers
    ):
        body.stage_layers = {k: v for k, v in body.stage_layers.items() if k != first}


class GivenProposals(Detection):
    """What is where, among the regions that the pictures' targets propose."""

    figures = ("class", "box")

    def see(self, train: Split) -> None:
        """See that there are boxes, and proposals.

        Raises:
            InputError: the pictures have none.
        """
        super().see(train)
        assert train.targets is not None
        if "proposals" not in train.targets[0]:
            raise InputError(
                "task fast_rcnn: these pictures have no proposals: "
                "deepen.detection.proposals.with_proposals gives them some"
            )
