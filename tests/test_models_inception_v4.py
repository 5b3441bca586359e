"""Inception-v4 and Inception-ResNet against timm's, and against the figures written out."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepen.errors import InputError
from deepen.models import create_model

TIMM = {"inception_v4": "inception_v4", "inception_resnet_v2_slim": "inception_resnet_v2"}
PAPERS = ["inception_resnet_v1", "inception_resnet_v2"]
NAMES = [*TIMM, *PAPERS]
QUICK_IS_ONE = [
    "inception_resnet_v1",
    *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "inception_resnet_v1"),
]


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def randomize(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("inception_v4", 42_679_816, 12_253_974_624),
        ("inception_resnet_v2_slim", 55_843_464, 13_155_794_016),
        ("inception_resnet_v1", 22_756_328, 6_206_361_696),
        ("inception_resnet_v2", 32_433_928, 9_257_953_632),
    ],
)
def test_parameters_and_macs_are_the_counted_ones(name, parameters, macs):
    net = build(name).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 299, 299, device="meta"))
    assert counter.get_total_flops() // 2 == macs


# Figures 9 and 15: what leaves each part, maps and pixels.
GRIDS = {
    "inception_v4": {
        "features.5": (384, 35),
        "features.9": (384, 35),
        "features.10": (1024, 17),
        "features.17": (1024, 17),
        "features.18": (1536, 8),
        "features.21": (1536, 8),
    },
    "inception_resnet_v1": {
        "conv2d_5a": (256, 35),
        "repeat": (256, 35),
        "mixed_6a": (896, 17),
        "repeat_1": (896, 17),
        "mixed_7a": (1792, 8),
        "repeat_2": (1792, 8),
    },
    "inception_resnet_v2": {
        "stem": (384, 35),
        "repeat": (384, 35),
        "mixed_6a": (1152, 17),
        "repeat_1": (1152, 17),
        "mixed_7a": (2144, 8),
        "repeat_2": (2144, 8),
    },
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_the_figures(name):
    net, shapes = build(name).eval(), {}
    for part in GRIDS[name]:
        net.get_submodule(part).register_forward_hook(
            lambda m, i, o, part=part: shapes.update({part: (o.shape[1], *set(o.shape[2:]))})
        )
    net(torch.zeros(1, 3, 299, 299, device="meta"))
    assert shapes == GRIDS[name]


@pytest.mark.parametrize("name", PAPERS)
def test_number_of_blocks_is_figure_15s(name):
    net = build(name)
    assert [len(part) for part in (net.repeat, net.repeat_1, net.repeat_2)] == [5, 10, 5]


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TIMM)
def test_it_is_timms_with_its_weights(name, training):
    theirs = timm.create_model(TIMM[name], num_classes=10, drop_rate=0.0)
    ours = create_model(name, num_classes=10)
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.dropout_p = 0.0
    ours, theirs = ours.double().train(training), theirs.double().train(training)
    px = 107 if training else 75
    x = torch.randn(2, 3, px, px, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    left, right = ours(a), theirs(b)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    left.square().mean().backward()
    right.square().mean().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-9, atol=1e-9)
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(key), rtol=1e-9, atol=1e-12)


# The figures again, transcribed on their own: "maps height width", "V" valid, "2" stride 2 (and V).
V1 = {
    "repeat": ["32 1 1", "32 1 1, 32 3 3", "32 1 1, 32 3 3, 32 3 3"],
    "mixed_6a": ["384 3 3 2", "192 1 1, 192 3 3, 256 3 3 2"],
    "repeat_1": ["128 1 1", "128 1 1, 128 1 7, 128 7 1"],
    "mixed_7a": ["256 1 1, 384 3 3 2", "256 1 1, 256 3 3 2", "256 1 1, 256 3 3, 256 3 3 2"],
    "repeat_2": ["192 1 1", "192 1 1, 192 1 3, 192 3 1"],
}
V2 = {
    "repeat": ["32 1 1", "32 1 1, 32 3 3", "32 1 1, 48 3 3, 64 3 3"],
    "mixed_6a": ["384 3 3 2", "256 1 1, 256 3 3, 384 3 3 2"],
    "repeat_1": ["192 1 1", "128 1 1, 160 1 7, 192 7 1"],
    "mixed_7a": ["256 1 1, 384 3 3 2", "256 1 1, 288 3 3 2", "256 1 1, 288 3 3, 320 3 3 2"],
    "repeat_2": ["192 1 1", "192 1 1, 224 1 3, 256 3 1"],
}
SCALES = {"repeat": 0.17, "repeat_1": 0.10, "repeat_2": 0.20}


def reference(net: nn.Module, x: Tensor, stem, figures: dict[str, list[str]]) -> Tensor:
    """Figure 15 in eval mode, from the state dict."""
    weights = {key: value.detach() for key, value in net.state_dict().items()}

    def conv(key: str, x: Tensor, words: str) -> Tensor:
        maps, height, width, *mark = words.split()
        weight = weights[f"{key}.conv.weight"]
        assert weight.shape == (int(maps), x.shape[1], int(height), int(width)), key
        stride = 2 if mark == ["2"] else 1
        x = F.conv2d(
            x, weight, stride=stride, padding=0 if mark else (int(height) // 2, int(width) // 2)
        )
        bn = {k: weights[f"{key}.bn.{k}"][:, None, None] for k in ("weight", "bias")}
        mean, var = (weights[f"{key}.bn.running_{k}"][:, None, None] for k in ("mean", "var"))
        return ((x - mean) / (var + 1e-3).sqrt() * bn["weight"] + bn["bias"]).clamp(min=0)

    def path(key: str, x: Tensor, words: str) -> Tensor:
        layers = words.split(", ")
        for i, layer in enumerate(layers):
            x = conv(f"{key}.{i}" if len(layers) > 1 else key, x, layer)
        return x

    def paths(key: str, x: Tensor, rows: list[str]) -> list[Tensor]:
        return [path(f"{key}.branch{i}", x, words) for i, words in enumerate(rows)]

    x = stem(conv, path, x)
    for part, rows in figures.items():
        if part.startswith("mixed"):
            x = torch.cat([*paths(part, x, rows), F.max_pool2d(x, 3, 2)], 1)
            continue
        for i in range(10 if part == "repeat_1" else 5):
            key = f"{part}.{i}"
            weight = weights[f"{key}.conv2d.weight"][:, :, 0, 0]
            residual = torch.einsum("oc,bchw->bohw", weight, torch.cat(paths(key, x, rows), 1))
            residual = residual + weights[f"{key}.conv2d.bias"][:, None, None]
            x = (x + SCALES[part] * residual).clamp(min=0)
    return x.mean((2, 3)) @ weights["classif.weight"].T + weights["classif.bias"]


def figure_14(conv, path, x: Tensor) -> Tensor:
    x = conv("conv2d_2a", conv("conv2d_1a", x, "32 3 3 2"), "32 3 3 V")
    x = F.max_pool2d(conv("conv2d_2b", x, "64 3 3"), 3, 2)
    x = conv("conv2d_4a", conv("conv2d_3b", x, "80 1 1"), "192 3 3 V")
    return conv("conv2d_5a", x, "256 3 3 2")


def figure_3(conv, path, x: Tensor) -> Tensor:
    x = conv("stem.1", conv("stem.0", x, "32 3 3 2"), "32 3 3 V")
    x = conv("stem.2", x, "64 3 3")
    x = torch.cat([F.max_pool2d(x, 3, 2), conv("stem.3.conv", x, "96 3 3 2")], 1)
    short = path("stem.4.branch0", x, "64 1 1, 96 3 3 V")
    x = torch.cat([short, path("stem.4.branch1", x, "64 1 1, 64 1 7, 64 7 1, 96 3 3 V")], 1)
    return torch.cat([conv("stem.5.conv", x, "192 3 3 2"), F.max_pool2d(x, 3, 2)], 1)


@pytest.mark.parametrize(
    ("name", "stem", "figures"),
    [("inception_resnet_v1", figure_14, V1), ("inception_resnet_v2", figure_3, V2)],
)
def test_forward_agrees_with_the_figures_written_out(name, stem, figures):
    net = create_model(name, num_classes=10)
    randomize(net)
    for key, parameter in net.named_parameters():
        if key.endswith("conv2d.bias"):
            nn.init.normal_(parameter)
    net = net.double().eval()
    x = torch.randn(2, 3, 83, 90, dtype=torch.float64)
    torch.testing.assert_close(net(x), reference(net, x, stem, figures), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PAPERS)
def test_scales_are_within_the_papers_range(name):
    """Section 3.3: "scaling factors between 0.1 and 0.3"."""
    net = build(name)
    scales = {part: {block.scale for block in net.get_submodule(part)} for part in SCALES}
    assert scales == {part: {scale} for part, scale in SCALES.items()}
    assert all(0.1 <= scale <= 0.3 for scale in SCALES.values())


def small(name: str, px: int = 75) -> tuple[nn.Module, Tensor]:
    return create_model(name, num_classes=10).eval(), torch.randn(2, 3, px, px)


@pytest.mark.parametrize("name", QUICK_IS_ONE)
def test_serves_in_bf16(name):
    net, x = small(name)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x).float(), expected, rtol=0.1, atol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    net, x = small(name)
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("name", NAMES)
def test_least_size_is_75_px(name):
    net = build(name).eval()
    assert net(torch.zeros(1, 3, 75, 75, device="meta")).shape == (1, 1000)
    with pytest.raises(InputError, match="75 px at least, got 74x75"):
        net(torch.zeros(1, 3, 74, 75, device="meta"))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_keeps_four_fifths(name):
    """Figures 9 and 15."""
    net = create_model(name, num_classes=10) if name == "inception_resnet_v1" else build(name)
    assert net.dropout_p == 0.2
    if name == "inception_resnet_v1":
        net.classif = nn.Identity()
        kept = net.train().forward_head(torch.ones(4, 1792, 2, 2))
        assert abs((kept == 0).float().mean() - 0.2) < 0.05
