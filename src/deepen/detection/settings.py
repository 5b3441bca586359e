"""What a detector can be told beside its backbone; the usual values are the papers'.

They are part of the network's name, so that its weights' card, a run and a resume all have them:
`faster-rcnn-fpn/resnet18/anchor_px=16,32,64,128,256/norm=group`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from deepen.errors import InputError, first_problem, unknown

Norm = Literal["batch", "frozen", "group"]
"""Of the backbone: batch norm as it is; fixed, as He et al. 2015 (appendix A) fine-tune; or group
norm (Wu & He 2018), which small batches from scratch do not hurt."""


@dataclass(frozen=True)
class DetectorSettings:
    """Sizes, counts and thresholds of a two-stage detector.

    Attributes:
        anchor_px: sides of the square anchors in px of the network's input: of a pyramid one a
            level, from the finest on; of a single map all at each place. None: 8 times the stride
            of each level (Lin et al. 2017, section 4.1: 32 to 512); of a single map 8, 16 and 32
            times its stride (Ren et al. 2015, section 3.1.1: 128 to 512).
        ratios: height over width of the anchors, of the same area.
        norm: of the backbone.
        norm_eps: what its batch norms add to the variance; None: their own.
        maps: channels of the pyramid (Lin et al. 2017, section 3: 256).
        hidden: units of the pyramid's two layers for a region (section 4.2: 1024).
        pool: how a region's features are taken: RoI pooling (Girshick 2015) or RoIAlign (He et al.
            2017, section 3).
        pool_px: height and width of them.
        anchor_ious: an anchor is background below the first, an object from the second on.
        anchors: sampled of a picture for the loss of the proposals.
        anchor_positives: at most this share of them are objects.
        kept: proposals a level before non-maximum suppression, in training and at evaluation.
        proposals: of a picture after it, in training and at evaluation.
        proposal_nms: the overlap (IoU) that it drops proposals from.
        region_iou: a region is an object's from this overlap on.
        regions: sampled of a picture for the loss of the classes and boxes.
        region_positives: at most this share of them are objects.
        least_score: what is less probable is not handed out.
        nms: the overlap that of detections of one class only the likelier stays from.
        detections: of a picture, at most.
    """

    anchor_px: tuple[float, ...] | None = None
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    norm: Norm = "batch"
    norm_eps: float | None = None
    maps: int = 256
    hidden: int = 1024
    pool: Literal["align", "max"] = "align"
    pool_px: int = 7
    anchor_ious: tuple[float, float] = (0.3, 0.7)
    anchors: int = 256
    anchor_positives: float = 0.5
    kept: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_nms: float = 0.7
    region_iou: float = 0.5
    regions: int = 512
    region_positives: float = 0.25
    least_score: float = 0.05
    nms: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        """Refuse what no detector can be.

        Raises:
            InputError: names the field.
        """
        sizes = [*(self.anchor_px or (1.0,)), *self.ratios, self.norm_eps or 1.0]
        counts = [self.maps, self.hidden, self.pool_px, self.anchors, self.regions]
        if not self.ratios or self.anchor_px == () or min(sizes) <= 0:
            raise InputError("anchor_px, ratios and norm_eps are above 0, one at least")
        if min([*counts, *self.kept, *self.proposals, self.detections]) < 1:
            raise InputError("maps, hidden, pool_px and all counts are 1 at least")
        shares = [*self.anchor_ious, self.anchor_positives, self.proposal_nms, self.region_iou]
        shares += [self.region_positives, self.least_score, self.nms]
        if not all(0 <= share <= 1 for share in shares):
            raise InputError("shares and overlaps lie between 0 and 1")
        if self.anchor_ious[0] > self.anchor_ious[1]:
            raise InputError("anchor_ious must rise")


FPN = DetectorSettings()
"""Lin et al. 2017; counts that the paper leaves out are those of its released code (Detectron), as
torchvision has them."""
C4 = DetectorSettings(
    pool="max",
    pool_px=14,
    kept=(12000, 6000),
    proposals=(2000, 300),
    regions=128,
    nms=0.3,
)
"""He et al. 2015, appendix A, by Ren et al. 2015: 2000 proposals in training (section 3.3), 300 at
evaluation (section 4.1); 128 regions a picture, and 0.3 of Girshick 2015 and its released code; the
pooled 14x14 is the released nets' of others: conv5_x halves it to the paper's 7x7."""


def settings_of(words: Iterable[str], usual: DetectorSettings) -> DetectorSettings:
    """The settings that words like `maps=128` and `anchor_px=16,32,64` change.

    Raises:
        InputError: there is no such setting (says the nearest), or it cannot be so.
    """
    fields = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    for word in words:
        name, _, value = word.partition("=")
        if name not in fields:
            raise unknown("setting", name, fields)
        several = isinstance(fields[name], tuple) or name == "anchor_px"
        fields[name] = tuple(value.split(",")) if several else value
    try:
        return _CHECK.validate_python(fields)
    except ValidationError as error:
        raise InputError(f"detector: {first_problem(error, DetectorSettings)}") from error


_CHECK = TypeAdapter(DetectorSettings)
