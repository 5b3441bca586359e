"""The CIFAR family of He et al. 2015 against the paper's table and torchvision's block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock as TheirBlock

from deepen.models import create_model, list_models
from deepen.models.resnet import BasicBlock, ZeroPadShortcut

# He et al. 2015, table 6: layers and parameters in millions, as printed.
TABLE_6 = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7", 1202: "19.4"}


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def weighted_layers(net: nn.Module) -> int:
    """Convolutions and linear layers on the main path."""
    return sum(
        isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in name
        for name, m in net.named_modules()
    )


@pytest.mark.parametrize(
    ("kind", "depth"),
    [("resnet", d) for d in TABLE_6] + [("plain", d) for d in TABLE_6 if d != 1202],
)
def test_parameters_and_layers_are_the_papers(kind, depth):
    net = build(f"{kind}{depth}")
    printed = TABLE_6[depth]
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert f"{millions:.{len(printed.partition('.')[2])}f}" == printed
    assert weighted_layers(net) == depth


def test_plain_and_residual_have_equal_weights():
    """Section 4.2: option A, "so our residual models have exactly the same ... parameters"."""
    plain, residual = build("plain56").state_dict(), build("resnet56").state_dict()
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in residual.items()}


def test_stages_halve_the_size_and_double_the_maps():
    net, shapes = create_model("resnet20"), []
    for stage in (net.layer1, net.layer2, net.layer3):
        stage.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    net(torch.zeros(1, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize(("option", "stride", "out"), [("B", 2, 32), ("B", 1, 16), ("C", 2, 32)])
def test_block_is_torchvisions_with_its_weights(option, stride, out):
    torch.manual_seed(0)
    down = None
    if stride != 1 or option == "C":
        down = nn.Sequential(nn.Conv2d(16, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    theirs, ours = TheirBlock(16, out, stride, down), BasicBlock(16, out, stride, option)
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    theirs, ours = theirs.double(), ours.double()
    for training in (True, False):
        theirs.train(training)
        ours.train(training)
        x = torch.randn(4, 16, 10, 10, dtype=torch.float64)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        left, right = theirs(a), ours(b)
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-12)
        left.square().sum().backward()
        right.square().sum().backward()
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet20", "plain20"])
def test_network_is_section_4_2_written_out(name):
    net = create_model(name).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_mean.normal_()
    state = net.state_dict()
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    logits = net(x)

    def convolve(key: str, number: int, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        x = F.conv2d(x, state[f"{key}conv{number}.weight"], stride=stride, padding=1)
        named = [
            state[f"{key}bn{number}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        ]
        return F.batch_norm(x, *named)

    x = convolve("", 1, x).clamp(min=0)
    for stage in (1, 2, 3):
        for i in range(3):
            key, stride = f"layer{stage}.{i}.", 2 if stage > 1 and i == 0 else 1
            y = convolve(key, 2, convolve(key, 1, x, stride).clamp(min=0))
            if name == "resnet20":
                y[:, : x.shape[1]] += x[:, :, ::stride, ::stride]
            x = y.clamp(min=0)
    expected = x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)


def test_option_a_drops_every_second_pixel_and_appends_zero_maps():
    x = torch.randn(2, 3, 5, 6)
    y = ZeroPadShortcut(2, 2)(x)
    assert y.shape == (2, 5, 3, 3)
    for r in range(3):
        for c in range(3):
            assert torch.equal(y[:, :3, r, c], x[:, :, 2 * r, 2 * c])
    assert (y[:, 3:] == 0).all()


def test_zeroed_residual_branch_leaves_the_identity():
    """y = ReLU(x) when F(x) = 0, and nothing but ReLU(0) in the plain block."""
    x = torch.randn(2, 16, 4, 4).relu()
    for option, expected in (("A", x), (None, torch.zeros_like(x))):
        block = BasicBlock(16, 16, 1, option)
        nn.init.zeros_(block.bn2.weight)
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("option", "projections"), [("A", 0), ("B", 2), ("C", 9)])
def test_options_project_where_the_paper_says(option, projections):
    """Section 3.3: A nowhere, B where the size changes, C in every block (nine in ResNet-20)."""
    net = build("resnet20" if option == "A" else f"resnet20_{option.lower()}")
    found = [n for n, m in net.named_modules() if "downsample" in n and isinstance(m, nn.Conv2d)]
    assert len(found) == projections


def test_initial_weights_have_hes_spread():
    torch.manual_seed(0)
    net = create_model("resnet110")
    weight = net.layer3[3].conv1.weight
    assert abs(weight.std().item() / (2 / (9 * 64)) ** 0.5 - 1) < 0.02
    assert abs(weight.mean().item()) < 1e-3


def test_family_is_complete():
    depths = (20, 32, 44, 56, 110, 1202)
    wanted = {f"resnet{d}{o}" for d in depths for o in ("", "_b", "_c")}
    wanted |= {f"plain{d}" for d in depths[:-1]}
    assert wanted <= set(list_models())
