"""Detectors against torchvision's, with the same weights, pictures and random numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, RoIPool

from deepen.detection.networks import model_of
from deepen.errors import InputError
from deepen.models import create_model

SIZE = (64, 96)
CLASSES = 3
FEW = {"box_batch_size_per_image": 16, "rpn_batch_size_per_image": 64}
OURS = ("regions=16", "anchors=64", "least_score=0")
AS_THEY_ARE: dict[str, Any] = {
    "min_size": SIZE[0],
    "max_size": SIZE[1],
    "image_mean": [0.0] * 3,
    "image_std": [1.0] * 3,
    "box_score_thresh": 0.0,
}


def theirs(kind: Callable[..., nn.Module], depth: str, **options: object) -> nn.Module:
    """torchvision's detector on pictures as they are."""
    backbone = _resnet_fpn_extractor(getattr(resnet, depth)(), 5)
    heads = {
        "box_head": TwoMLPHead(backbone.out_channels * 49, 32),
        "box_predictor": FastRCNNPredictor(32, CLASSES + 1),
    }
    if kind is MaskRCNN:
        heads["mask_predictor"] = MaskRCNNPredictor(256, 256, CLASSES + 1)
    return kind(backbone, **AS_THEY_ARE, **FEW, **heads, **options)


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
    reference = seeded(theirs(kind, "resnet18"))
    ours = seeded(create_model(model_of(word, "resnet18", "hidden=32", *OURS), CLASSES, 3, SIZE))
    ours.load_state_dict(reference.state_dict())
    check_same(ours, reference, empty, lambda name: name)


def check_same(
    ours: nn.Module, reference: nn.Module, empty: bool, named: Callable[[str], str]
) -> None:
    """Losses, gradients (by torchvision's names), and boxes with all scores."""
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
        check_close(parameter.grad, gradients[named(key)])
    with torch.no_grad():
        expected, found = reference.eval()(list(images)), ours.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 20
        assert one["labels"].tolist() == other["labels"].tolist()
        for key in ("boxes", "scores"):
            check_close(one[key], other[key])
        if "masks" in other:
            check_close(paste_masks_in_image(one["masks"], one["boxes"], SIZE), other["masks"])


class Pooled(nn.Module):
    """torchvision's RoIPool as its heads call it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = RoIPool(6, 1 / 16)

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: object) -> Tensor:
        return self.pool(maps["0"], boxes)


@pytest.mark.parametrize("pool", ["max", "align"])
def test_one_map_and_conv5_for_each_region(pool: str) -> None:
    torch.manual_seed(2)
    net = resnet.resnet18()
    shared = nn.Sequential(
        OrderedDict((n, m) for n, m in net.named_children() if n not in ("layer4", "avgpool", "fc"))
    )
    shared.out_channels = 256
    reference = FasterRCNN(
        shared,
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 6, 2),
        box_head=nn.Sequential(net.layer4, net.avgpool),
        box_predictor=FastRCNNPredictor(512, CLASSES + 1),
        **AS_THEY_ARE,
        **FEW,
    )
    if pool == "max":
        reference.roi_heads.box_roi_pool = Pooled()
    detectron = ("kept=2000,1000", "proposals=2000,1000", "nms=0.5", "pool_px=6")
    words = (f"pool={pool}", "anchor_px=32,64,128", *detectron, *OURS)
    ours = create_model(model_of("faster-rcnn-c4", "resnet18", *words), CLASSES, 3, SIZE)

    def named(ours: str) -> str:
        ours = ours.replace("roi_heads.box_head.body.layer4", "roi_heads.box_head.0")
        return ours.replace("backbone.body.", "backbone.")

    state = reference.state_dict()
    ours.load_state_dict({name: state.pop(named(name)) for name in ours.state_dict()})
    assert not state
    check_same(seeded(ours), seeded(reference), False, named)


def test_anchors_are_the_papers() -> None:
    """Ren et al. 2015: 9 a place, 128^2 to 512^2; Lin et al. 2017: 3 a level, 32^2 to 512^2."""
    with torch.device("meta"):
        c4 = create_model(model_of("faster-rcnn-c4", "resnet50"), 20, 3, (224, 224))
        fpn = create_model(model_of("faster-rcnn-fpn", "resnet50"), 80, 3, (224, 224))
    assert c4.rpn.anchor_generator.sizes == ((128, 256, 512),)
    assert c4.rpn.anchor_generator.num_anchors_per_location() == [9]
    assert c4.roi_heads.box_predictor.cls_score.in_features == 2048
    assert c4.backbone.strides == [16]
    assert fpn.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert fpn.rpn.anchor_generator.num_anchors_per_location() == [3] * 5
    assert fpn.backbone.strides == [4, 8, 16, 32, 64]
    assert fpn.backbone.names == ["conv2_x", "conv3_x", "conv4_x", "conv5_x"]


@pytest.mark.parametrize("kind", ["faster-rcnn-fpn", "faster-rcnn-c4"])
@pytest.mark.parametrize(
    "backbone", ["vgg11", "densenet121", "resnet18_a", "preresnet50", "resnet20"]
)
def test_any_classifier_is_a_backbone(kind: str, backbone: str) -> None:
    few = ("maps=8", "hidden=8", "regions=4", "kept=20,20", "proposals=8,4", "pool_px=7")
    network = create_model(model_of(kind, backbone, *few), 2, 3, (64, 64))
    losses = network(*pictures_float32())
    assert len(losses) == 4
    sum(losses.values()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle
    found = network.eval()(pictures_float32()[0])
    assert all(len(one["boxes"]) == len(one["scores"]) <= 100 for one in found)


def pictures_float32() -> tuple[Tensor, list[dict[str, Tensor]]]:
    images, targets = pictures()
    for target in targets:
        target["boxes"], target["labels"] = target["boxes"].float(), target["labels"].clamp(max=2)
    return images.float(), targets


def test_batch_norm_can_be_fixed_and_eps_of_others() -> None:
    words = ("norm=frozen", "norm_eps=0")
    network = create_model(model_of("faster-rcnn-fpn", "resnet18", *words), 2, 3, (64, 64))
    norms = [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 20
    assert {norm.eps for norm in norms} == {0.0}
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    grouped = create_model(model_of("faster-rcnn-fpn", "resnet18", "norm=group"), 2, 3, (64, 64))
    assert sum(isinstance(m, nn.GroupNorm) for m in grouped.modules()) == 20 + 8
    assert not [m for m in grouped.modules() if isinstance(m, nn.BatchNorm2d)]


def test_boxes_keep_their_places_in_bfloat16() -> None:
    """bfloat16 has steps of 2 px from 256 px on; only the maps are computed in it."""
    torch.manual_seed(0)
    few = ("maps=8", "hidden=8", "kept=50,50", "proposals=20,20", "least_score=0")
    network = create_model(model_of("faster-rcnn-fpn", "resnet18", *few), 2, 3, (64, 640)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = network(torch.rand(1, 3, 64, 640))
    assert found["boxes"].dtype == torch.float32
    far = found["boxes"][found["boxes"] > 256]
    assert (far.bfloat16().float() != far).any()


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("faster-rcnn-fpm/resnet18", "unknown detector 'faster-rcnn-fpm'.*faster-rcnn-fpn"),
        ("faster-rcnn-fpn/resnet17", "unknown model 'resnet17'"),
        ("faster-rcnn-fpn/resnet18/map=8", "detector: unknown key 'map'.*maps"),
        ("faster-rcnn-fpn/resnet18/maps=wide", "detector: maps: .*integer"),
        ("faster-rcnn-fpn/resnet18/maps=0", "detector: maps: .*greater than 0"),
        ("faster-rcnn-fpn/resnet18/anchor_px=16,-32", "detector: anchor_px.1: .*greater than 0"),
        ("faster-rcnn-fpn/resnet18/anchor_px=16,32", "2 sizes; the pyramid has 5 levels"),
        ("faster-rcnn-fpn/resnet18/anchor_ious=0.7,0.3", "detector: anchor_ious: must rise"),
        ("faster-rcnn-fpn/resnet18/nms=1.5", "detector: nms: .*less than or equal to 1"),
        ("faster-rcnn-fpn/resnet18/pool=max", "a pyramid takes align"),
        ("faster-rcnn-fpn/perceptron", "has no stage"),
        ("faster-rcnn-fpn/resnet18/ratios=", "detector: ratios.0: .*number"),
        ("faster-rcnn-fpn", "no attribute"),
    ],
)
def test_wrong_words_are_refused(word: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        create_model(f"deepen.detection.networks:{word}", 2, 3, (64, 64))


@pytest.mark.parametrize(
    ("theirs", "word"),
    [("fasterrcnn_resnet50_fpn", "faster-rcnn-fpn"), ("maskrcnn_resnet50_fpn", "mask-rcnn-fpn")],
)
def test_keys_and_shapes_are_those_of_torchvisions_weights(theirs: str, word: str) -> None:
    """Theirs for COCO have 91 outputs, the background among them, and batch norm fixed, eps 0."""
    with torch.device("meta"):
        known = get_model(theirs, weights=None, weights_backbone=None).state_dict()
        model = model_of(word, "resnet50_v1_5", "norm=frozen", "norm_eps=0")
        ours = create_model(model, 90, 3, (224, 224)).state_dict()
    counters = {name for name in known if name.endswith("num_batches_tracked")}
    assert {name: t.shape for name, t in ours.items()} == {
        name: t.shape for name, t in known.items() if name not in counters
    }
