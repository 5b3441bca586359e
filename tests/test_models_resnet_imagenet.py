"""The ImageNet family of He et al. 2015 against torchvision, the paper's table and hand counts."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from deepen.models import create_model, list_models
from deepen.models.resnet import Bottleneck, bottleneck, bottleneck_v1_5

# Counted by hand: parameters and G multiply-accumulates on 3x224x224.
COUNTS = {
    "plain18": (11_515_688, "1.795"),
    "plain34": (21_623_848, "3.644"),
    "resnet18": (11_689_512, "1.814"),
    "resnet34": (21_797_672, "3.664"),
    "resnet18_a": (11_515_688, "1.795"),
    "resnet34_a": (21_623_848, "3.644"),
    "resnet50": (25_557_032, "3.858"),
    "resnet101": (44_549_160, "7.570"),
    "resnet152": (60_192_808, "11.282"),
    "resnet50_v1_5": (25_557_032, "4.089"),
    "resnet101_v1_5": (44_549_160, "7.801"),
    "resnet152_v1_5": (60_192_808, "11.514"),
}


def build_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, count):
    parameters, macs = count(name)
    assert (parameters, f"{macs / 1e9:.3f}") == COUNTS[name]


@pytest.mark.parametrize("depth", [18, 34])
def test_option_c_adds_a_projection_to_every_other_block(depth, count):
    """Table 3: beside B, an n x n matrix and a batch norm in each block that keeps its shape."""
    kept = {18: (2, 1, 1, 1), 34: (3, 3, 5, 2)}[depth]
    extra = sum(n * (maps**2 + 2 * maps) for n, maps in zip(kept, (64, 128, 256, 512), strict=True))
    assert count(f"resnet{depth}_c")[0] == count(f"resnet{depth}")[0] + extra


@pytest.mark.parametrize("name", COUNTS)
def test_depth_is_the_number_of_weighted_layers(name):
    layers = [
        m
        for key, m in build_meta(name).named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in key
    ]
    assert name.split("_")[0] in (f"resnet{len(layers)}", f"plain{len(layers)}")


TWINS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50_v1_5": "resnet50",
    "resnet101_v1_5": "resnet101",
    "resnet152_v1_5": "resnet152",
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(o, t, marks=pytest.mark.slow if t not in ("resnet18",) else ())
        for o, t in TWINS.items()
    ],
)
def test_is_torchvisions_with_its_weights(ours, theirs, assert_twins):
    torchvisions = torchvision.models.get_model(theirs, num_classes=7)
    assert_twins(create_model(ours, num_classes=7), torchvisions, torch.randn(2, 3, 33, 40))


@pytest.mark.parametrize(("make", "strided"), [(bottleneck, "conv1"), (bottleneck_v1_5, "conv2")])
def test_bottleneck_is_torchvisions_with_the_stride_in_its_place(make, strided, assert_twins):
    """Theirs has the stride in conv2; moved to conv1, it is the paper's."""
    down = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    theirs = torchvision.models.resnet.Bottleneck(16, 8, 2, down)
    theirs.conv1.stride = theirs.conv2.stride = (1, 1)
    theirs.get_submodule(strided).stride = (2, 2)
    assert_twins(make(16, 32, 2, "B"), theirs, torch.randn(2, 16, 9, 10))


@pytest.mark.slow
def test_original_is_torchvisions_with_its_strides_moved(assert_twins):
    theirs = torchvision.models.resnet50(num_classes=7)
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    assert_twins(create_model("resnet50", num_classes=7), theirs, torch.randn(2, 3, 33, 40))


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_original_and_v1_5_differ_in_strides_alone(depth):
    one, other = build_meta(f"resnet{depth}"), build_meta(f"resnet{depth}_v1_5")
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (one, other)]
    assert shapes[0] == shapes[1]
    strides = [
        {k: m.stride[0] for k, m in net.named_modules() if isinstance(m, nn.Conv2d)}
        for net in (one, other)
    ]
    moved = {k for k in strides[0] if strides[0][k] != strides[1][k]}
    assert moved == {f"layer{s}.0.conv{c}" for s in (2, 3, 4) for c in (1, 2)}
    assert all(strides[0][f"layer{s}.0.conv1"] == 2 for s in (2, 3, 4))


def test_stages_have_table_1s_sizes():
    for name, maps in (("plain18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))):
        net, shapes = build_meta(name).eval(), []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            stage.register_forward_hook(lambda m, i, o, s=shapes: s.append(tuple(o.shape[1:])))
        net(torch.zeros(1, 3, 224, 224, device="meta"))
        sizes = (56, 28, 14, 7)
        assert shapes == [(c, px, px) for c, px in zip(maps, sizes, strict=True)]


@pytest.mark.parametrize(
    ("name", "projections"),
    [("resnet18", 3), ("resnet18_a", 0), ("resnet18_c", 8), ("resnet34_c", 16), ("resnet50", 4)],
)
def test_projections_are_where_the_option_says(name, projections):
    """Section 3.3. In the nets of bottlenecks conv2_x grows from 64 to 256 maps, so B projects."""
    found = [
        key
        for key, m in build_meta(name).named_modules()
        if "downsample" in key and isinstance(m, nn.Conv2d)
    ]
    assert len(found) == projections


def test_plain_net_is_the_residual_net_without_its_shortcuts():
    """Section 4.1: option A has no parameters; with its shortcuts off, it is the plain net."""
    plain, residual = create_model("plain18").double(), create_model("resnet18_a").double()
    residual.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(residual.eval()(x), plain.eval()(x))
    for block in residual.modules():
        if hasattr(block, "downsample"):
            block.downsample = None
    torch.testing.assert_close(residual(x), plain(x), rtol=0, atol=0)


def test_bottleneck_weighs_what_lecture_004_says():
    """256-64-64-256: 69,632 weights ("~70K"); one 3x3 on 256 maps: 589,824 ("600K")."""
    block = Bottleneck(256, 64, 256, (1, 1), "A")
    assert sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d)) == 69_632
    assert nn.Conv2d(256, 256, 3, bias=False).weight.numel() == 589_824


NETS = [n for n in list_models() if n.startswith(("resnet", "plain")) and n in COUNTS] + [
    "resnet18_c",
    "resnet34_c",
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "resnet18_a" else pytest.mark.slow) for n in NETS],
)
def test_serves(name, assert_serves):
    net = create_model(name, num_classes=5)
    assert_serves(net, torch.randn(2, 3, 32, 32))
