"""Pre-activation and wide ResNets against timm (stem and strides put right) and the papers."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import timm.layers
import torch
import torchvision
from timm.models.resnetv2 import ResNetV2
from torch import nn

from deepen.models import create_model
from deepen.models.preresnet import (
    CIFAR,
    WIDE,
    PreResNet,
    ResidualUnit,
    Variant,
    bottleneck,
    two_convolutions,
)
from deepen.models.wide_resnet import wide_bottleneck


def build_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def timms(num_units, maps, basic) -> nn.Module:
    """timm's network with the paper's stem, the paper's first unit and the paper's strides."""
    imagenet = len(maps) == 4
    stem = 64 if imagenet else 16
    net = ResNetV2(
        layers=list(num_units),
        channels=maps,
        basic=basic,
        bottle_ratio=1.0 if basic else 0.25,
        num_classes=7,
        stem_chs=stem,
        conv_layer=timm.layers.create_conv2d,
        norm_layer=timm.layers.BatchNormAct2d,
    )
    conv = (
        nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        if imagenet
        else nn.Conv2d(3, stem, 3, 1, 1, bias=False)
    )
    pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
    net.stem = nn.Sequential(conv, nn.BatchNorm2d(stem), nn.ReLU(), pool)
    net.stages[0].blocks[0].norm1 = nn.Identity()
    for stage in net.stages:
        if not basic:
            stage.blocks[0].conv1.stride = stage.blocks[0].conv2.stride
            stage.blocks[0].conv2.stride = (1, 1)
    pooled = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(maps[-1], 7))
    net.head = nn.Sequential(pooled)
    return net


def rename(key: str) -> str:
    """timm's key to ours."""
    for theirs, ours in (
        (r"^stem\.0\.", "conv1."),
        (r"^stem\.1\.", "act1."),
        (r"^norm\.", "act2."),
        (r"^head\.fc\.", "fc."),
        (r"\.blocks\.", "."),
        (r"\.downsample\.conv\.", ".shortcut."),
        (r"\.norm1\.", ".act."),
        (r"^(stages.*)\.conv1\.", r"\1.residual.0."),
        (r"^(stages.*)\.norm2\.", r"\1.residual.1."),
        (r"^(stages.*)\.conv2\.", r"\1.residual.2."),
        (r"^(stages.*)\.norm3\.", r"\1.residual.3."),
        (r"^(stages.*)\.conv3\.", r"\1.residual.4."),
    ):
        key = re.sub(theirs, ours, key)
    return key


@pytest.mark.parametrize(
    ("residual", "num_units", "maps", "px"),
    [
        (two_convolutions, (2, 1, 2), (32, 64, 128), 10),
        (bottleneck, (2, 1, 2), WIDE, 11),
        (bottleneck, (2, 1, 1, 1), (96, 128, 192, 256), 33),
        pytest.param(bottleneck, (3, 4, 6, 3), (256, 512, 1024, 2048), 33, marks=pytest.mark.slow),
    ],
    ids=["wide", "cifar", "imagenet", "preresnet50"],
)
def test_is_timms_with_the_papers_stem_and_strides(residual, num_units, maps, px, assert_twins):
    stem = 64 if len(maps) == 4 else 16
    ours = PreResNet(Variant(residual, num_units, maps, stem=stem), 7, 3)
    theirs = timms(num_units, maps, basic=residual is two_convolutions)
    assert_twins(ours, theirs, torch.randn(2, 3, px, px + 3), rename)


def test_option_a_carries_the_input_as_it_is():
    """Residuals off: the net is the stem's activation, thinned and padded, activated once more."""
    net = PreResNet(Variant(two_convolutions, (2, 2, 2), CIFAR, "A"), 7, 3).double().eval()
    for m in net.modules():
        if isinstance(m, ResidualUnit):
            nn.init.zeros_(m.residual[2].weight)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    stem = (net.conv1(x) / (1 + 1e-5) ** 0.5).clamp(min=0) / (1 + 1e-5) ** 0.5
    features = net.forward_features(x)
    torch.testing.assert_close(features[:, :16], stem[:, :, ::4, ::4])
    assert features.shape == (2, 64, 3, 3)
    assert (features[:, 16:] == 0).all()


def test_signal_and_gradient_pass_any_number_of_units_unchanged():
    """Equations 4 and 5: with residuals off, the Jacobian of a stack of units is the identity."""
    units = nn.Sequential(
        *(ResidualUnit(nn.BatchNorm2d(4), bottleneck(4, 4, 1), nn.Identity()) for _ in range(20))
    ).eval()
    for unit in units:
        nn.init.zeros_(unit.residual[4].weight)
    x = torch.randn(1, 4, 2, 2)
    jacobian = torch.autograd.functional.jacobian(units, x).reshape(16, 16)
    assert torch.equal(jacobian, torch.eye(16))


# Weights of convolutions and of the linear layer in millions: the paper's 10.2M for 1001 layers
# leave batch norm out (10,327,706 with it).
@pytest.mark.parametrize(
    ("name", "printed", "parameters"),
    [
        ("preresnet110", "1.7", 1_727_962),
        ("preresnet164", "1.7", 1_703_258),
        ("preresnet1001", "10.2", 10_327_706),
    ],
)
def test_cifar_counts(name, printed, parameters):
    net = build_meta(name)
    main = [
        m
        for key, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key
    ]
    assert len(main) == int(name.removeprefix("preresnet"))
    assert sum(p.numel() for p in net.parameters()) == parameters
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert f"{weights / 1e6:.1f}" == printed


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_imagenet_counts_follow_from_the_original_nets(depth, count):
    """Same convolutions; batch norm of each unit before instead of after, none in projections."""
    (parameters, macs), (original, original_macs) = (
        count(f"preresnet{depth}"),
        count(f"resnet{depth}"),
    )
    assert macs == original_macs
    # Projections' batch norms go (256 ... 2048); each unit normalises its input, not its output:
    # the stem's 64 pass to unit one, the outputs of the last unit to the one after it.
    assert original - parameters == 2 * (256 + 512 + 1024 + 2048)


def test_200_layers_are_152_and_16_units_on_28_px(count):
    unit = 512 * 128 + 9 * 128 * 128 + 128 * 512
    norms = 2 * (512 + 128 + 128)
    assert count("preresnet200")[0] - count("preresnet152")[0] == 16 * (unit + norms)
    assert count("preresnet200")[1] - count("preresnet152")[1] == 16 * unit * 28 * 28
    layers = [
        m
        for key, m in build_meta("preresnet200").named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key
    ]
    assert len(layers) == 200


# Zagoruyko & Komodakis 2016, tables 4 and 5: parameters in millions, as printed.
@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("wide_resnet16_8", "11.0"),
        ("wide_resnet40_4", "8.9"),
        ("wide_resnet28_10", "36.5"),
        ("wide_resnet28_10_dropout", "36.5"),
        ("wide_resnet50_2", "68.9"),
    ],
)
def test_wide_counts(name, printed, count):
    assert f"{count(name)[0] / 1e6:.1f}" == printed


def test_wide_depth_counts_the_projections():
    """Section 3: 6n + 4 layers: WRN-28 has 25 on its path, and three projections."""
    layers = [m for m in build_meta("wide_resnet28_10").modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 28


def test_wide_resnet_is_a_preresnet_of_wide_units():
    net = build_meta("wide_resnet28_10").eval()
    shapes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    net(torch.zeros(1, 3, 32, 32, device="meta"))
    assert shapes == [(160, 32, 32), (320, 16, 16), (640, 8, 8)]


def test_dropout_stands_between_the_convolutions():
    """Section 3: figure 1(d), after the second activation, at 0.3; nothing of it in evaluation."""
    with_dropout, without = create_model("wide_resnet16_8_dropout"), create_model("wide_resnet16_8")
    x = torch.randn(2, 3, 8, 8)
    unit = with_dropout.stages[1][1]
    assert [type(m).__name__ for m in unit.residual] == [
        "Conv2d",
        "Activation",
        "Dropout",
        "Conv2d",
    ]
    assert unit.residual[2].p == 0.3
    ours, theirs = with_dropout.state_dict(), without.state_dict()
    with_dropout.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    torch.testing.assert_close(with_dropout.eval()(x), without.eval()(x))
    assert not torch.allclose(with_dropout.train()(x), without.train()(x))


@pytest.mark.slow
def test_wide_resnet50_2_is_torchvisions_with_its_weights(assert_twins):
    theirs = torchvision.models.wide_resnet50_2(num_classes=7)
    ours = create_model("wide_resnet50_2", num_classes=7)
    assert_twins(ours, theirs, torch.randn(2, 3, 33, 40))


def test_wide_bottleneck_is_torchvisions(assert_twins):
    down = nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    theirs = torchvision.models.resnet.Bottleneck(32, 16, 2, down, base_width=128)
    assert_twins(wide_bottleneck(32, 64, 2, "B"), theirs, torch.randn(2, 32, 9, 10))


NAMES = (
    *("preresnet110", "preresnet164", "preresnet1001"),
    *("preresnet50", "preresnet101", "preresnet152", "preresnet200"),
    *("wide_resnet16_8", "wide_resnet40_4", "wide_resnet28_10", "wide_resnet28_10_dropout"),
    "wide_resnet50_2",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("preresnet110", "wide_resnet16_8") else pytest.mark.slow)
        for n in NAMES
    ],
)
def test_serves(name, assert_serves):
    net = create_model(name, num_classes=5)
    px = net.min_px
    if name == "preresnet1001":  # untrained, the sum of 333 blocks is infinite in float32
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data.mul_(0.3)
    assert_serves(net, torch.randn(2, 3, px, px))
