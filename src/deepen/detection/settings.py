"""What a detector can be told beside its backbone; the usual values are the papers'.

They are part of the network's name, so that its weights' card, a run and a resume all have them:
`faster-rcnn-fpn/resnet18/anchor_px=16,32,64,128,256/norm=group`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)

from deepen.errors import InputError, first_problem

Share = Annotated[float, Field(ge=0, le=1)]
Norm = Literal["batch", "frozen", "group"]
"""Of the backbone: batch norm as it is; fixed, as He et al. 2015 (appendix A) fine-tune; or group
norm (Wu & He 2018), which small batches from scratch do not hurt."""


class DetectorSettings(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    anchor_px: tuple[PositiveFloat, ...] | None = Field(default=None, min_length=1)
    ratios: tuple[PositiveFloat, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    norm: Norm = "batch"
    norm_eps: float | None = Field(default=None, ge=0)
    maps: PositiveInt = 256
    hidden: PositiveInt = 1024
    pool: Literal["align", "max"] = "align"
    pool_px: PositiveInt = 7
    anchor_ious: tuple[Share, Share] = (0.3, 0.7)
    anchors: PositiveInt = 256
    anchor_positives: Share = 0.5
    kept: tuple[PositiveInt, PositiveInt] = (2000, 1000)
    proposals: tuple[PositiveInt, PositiveInt] = (2000, 1000)
    proposal_nms: Share = 0.7
    region_iou: Share = 0.5
    regions: PositiveInt = 512
    region_positives: Share = 0.25
    least_score: Share = 0.05
    nms: Share = 0.5
    detections: PositiveInt = 100

    @field_validator("anchor_ious")
    @classmethod
    def _rises(cls, ious: tuple[float, float]) -> tuple[float, float]:
        if ious[0] > ious[1]:
            raise ValueError("must rise")
        return ious


class Wanted(NamedTuple):
    """What a detector is built of and for.

    Attributes:
        backbone: a classifier of `deepen.models`.
        num_classes: without the background.
        in_channels: of the pictures.
        input_size: (height, width) in px.
        settings: of its kind.
    """

    backbone: str
    num_classes: int
    in_channels: int
    input_size: tuple[int, int]
    settings: DetectorSettings


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
    fields: dict[str, Any] = usual.model_dump()
    for word in words:
        name, _, value = word.partition("=")
        several = name == "anchor_px" or isinstance(fields.get(name), tuple)
        fields[name] = tuple(value.split(",")) if several else value
    try:
        return DetectorSettings.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"detector: {first_problem(error, DetectorSettings)}") from error
