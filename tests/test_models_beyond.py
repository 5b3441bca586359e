"""Non-local blocks, deformable convolutions and the row LSTM against their equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepen.models import create_model
from deepen.models.deformable import VARIANTS as DEFORMABLE
from deepen.models.deformable import DeformableConv2d
from deepen.models.lstm import VARIANTS as LSTMS
from deepen.models.lstm import RowLSTM
from deepen.models.non_local import VARIANTS as NON_LOCAL
from deepen.models.non_local import NonLocalBlock


def build_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def block_of(channels: int) -> NonLocalBlock:
    """In float64, its batch norm awake."""
    block = NonLocalBlock(channels).double()
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    for conv in (block.theta, block.phi, block.g, block.w):
        nn.init.normal_(conv.bias)
    return block.eval()


def test_non_local_block_is_equations_1_and_6_in_loops():
    block = block_of(6)
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)

    def embed(conv, column):
        return conv.weight[:, :, 0, 0] @ column + conv.bias

    def pooled(conv):
        """Maxima of 2x2 windows, (C/2, number of windows)."""
        maps = torch.stack([embed(conv, x[0, :, r, c]) for r in range(4) for c in range(5)], 1)
        maps = maps.reshape(3, 4, 5)[:, :, :4]
        windows = [maps[:, r : r + 2, c : c + 2].amax((1, 2)) for r in (0, 2) for c in (0, 2)]
        return torch.stack(windows, 1)

    phi, g = pooled(block.phi), pooled(block.g)
    expected = torch.empty_like(x)
    for r in range(4):
        for c in range(5):
            weights = (embed(block.theta, x[0, :, r, c]) @ phi).exp()
            y = (g * weights).sum(1) / weights.sum()
            z = embed(block.w, y) / (1 + 1e-5) ** 0.5 * block.bn.weight + block.bn.bias
            expected[0, :, r, c] = z + x[0, :, r, c]
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-12)


def test_non_local_block_sees_every_position():
    """No window: the gradient of one output position reaches the far corner."""
    block = block_of(4)
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    block(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().sum(0)[-2:, -2:] > 0).any()


def test_fresh_non_local_network_is_resnet50_v1_5():
    """Section 4.1: the scale of the last batch norm starts at zero."""
    plain, net = create_model("resnet50_v1_5", num_classes=5), create_model("resnet50_nonlocal5", 5)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".non_local." in key for key in missing)
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    net, plain = net.double().eval(), plain.double().eval()
    torch.testing.assert_close(net(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet50_nonlocal", ["layer3.4"]),
        ("resnet50_nonlocal5", ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]),
    ],
)
def test_non_local_blocks_are_where_table_2_says(name, places, count):
    net = build_meta(name)
    found = [k for k, m in net.named_modules() if isinstance(m, NonLocalBlock)]
    assert found == [f"{place}.non_local" for place in places]
    maps = [512 if place.startswith("layer2") else 1024 for place in places]
    extra = sum(3 * (c * c // 2 + c // 2) + c * c // 2 + c + 2 * c for c in maps)
    parameters, macs = count(name)
    assert parameters == 25_557_032 + extra
    positions = [28 * 28 if c == 512 else 14 * 14 for c in maps]
    work = sum(
        n * 2 * c * c + 2 * n * (n // 4) * (c // 2) for n, c in zip(positions, maps, strict=True)
    )
    assert macs == 4_089_184_256 + work


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_fresh_deformable_convolution_is_the_plain_one(stride, modulated):
    """Offsets start at zero; modulation at a half."""
    plain = nn.Conv2d(4, 6, 3, stride, padding=1, bias=False).double()
    layer = DeformableConv2d(plain, modulated).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    expected = plain(x) / 2 if modulated else plain(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def bilinear(image: torch.Tensor, row: float, column: float) -> float:
    """Equation 3 of Dai et al. 2017: pixels weighted by max(0, 1 - distance) both ways; else 0."""
    height, width = image.shape
    return sum(
        max(0.0, 1 - abs(r - row)) * max(0.0, 1 - abs(c - column)) * image[r, c].item()
        for r in range(height)
        for c in range(width)
    )


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_is_equation_2_in_loops(modulated):
    plain = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    layer = DeformableConv2d(plain, modulated).double()
    nn.init.normal_(layer.offset.weight, std=0.3)
    nn.init.normal_(layer.offset.bias, std=0.7)
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        predicted = F.conv2d(x, layer.offset.weight, layer.offset.bias, padding=1)[0]
        expected = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
        for r in range(4):
            for c in range(5):
                for tap in range(9):
                    dy, dx = predicted[2 * tap, r, c].item(), predicted[2 * tap + 1, r, c].item()
                    row, column = r + tap // 3 - 1 + dy, c + tap % 3 - 1 + dx
                    values = [bilinear(x[0, i], row, column) for i in range(2)]
                    weight = layer.weight[:, :, tap // 3, tap % 3]
                    scale = predicted[18 + tap, r, c].sigmoid() if modulated else 1.0
                    expected[0, :, r, c] += scale * (weight @ torch.tensor(values).double())
        torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_fresh_deformable_network_is_resnet50():
    plain, net = create_model("resnet50", num_classes=5), create_model("resnet50_deformable", 5)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {k.rsplit(".", 1)[0] for k in missing} == {f"layer4.{i}.conv2.offset" for i in range(3)}
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    net, plain = net.double().eval(), plain.double().eval()
    torch.testing.assert_close(net(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet50_deformable", 3), ("resnet50_deformable_v2", 13)]
)
def test_deformable_layers_and_what_they_weigh(name, layers):
    net = build_meta(name)
    found = [m for m in net.modules() if isinstance(m, DeformableConv2d)]
    assert len(found) == layers
    channels = 18 if layers == 3 else 27
    extra = sum(9 * m.offset.in_channels * channels + channels for m in found)
    assert sum(p.numel() for p in net.parameters()) == 25_557_032 + extra


def test_deformable_convolution_is_in_float32_under_autocast():
    """The CPU has no bfloat16 kernel; offsets of whole pixels would be coarse in it besides."""
    layer = DeformableConv2d(nn.Conv2d(4, 4, 3, padding=1, bias=False), modulated=True)
    nn.init.normal_(layer.offset.weight)
    x = torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.float()(x))
        assert layer(x.bfloat16()).dtype == torch.float32


def test_lstm_is_torchs_with_its_weights():
    """Theirs has its gates in the order i, f, g, o and two biases; ours i, o, g, f and one."""
    theirs, ours = (
        nn.LSTM(12, 128, batch_first=True).double(),
        RowLSTM(True, 10, 3, (5, 4)).double(),
    )

    def reorder(rows):
        i, f, g, o = rows.chunk(4)
        return torch.cat([i, o, g, f])

    with torch.no_grad():
        ours.lstm.input.weight.copy_(reorder(theirs.weight_ih_l0))
        ours.lstm.input.bias.copy_(reorder(theirs.bias_ih_l0 + theirs.bias_hh_l0))
        ours.lstm.recurrent.weight.copy_(reorder(theirs.weight_hh_l0))
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    rows = torch.stack([x[:, :, row].flatten(1) for row in range(5)], 1)
    a, b = x.clone().requires_grad_(), rows.clone().requires_grad_()
    shown, expected = ours.forward_features(a), theirs(b)[0][:, -1]
    torch.testing.assert_close(shown, expected, rtol=1e-9, atol=1e-12)
    shown.square().sum().backward()
    expected.square().sum().backward()
    grad = b.grad.reshape(2, 5, 3, 4).transpose(1, 2)
    torch.testing.assert_close(a.grad, grad, rtol=1e-9, atol=1e-12)


def test_lstm_1997_is_section_4_written_out():
    net = RowLSTM(False, 10, 1, (6, 3)).double()
    x = torch.randn(1, 1, 6, 3, dtype=torch.float64)
    logistic = lambda a: 1 / (1 + (-a).exp())  # noqa: E731
    shown = content = torch.zeros(128, dtype=torch.float64)
    for row in x[0, 0]:
        nets = net.lstm.input.weight @ row + net.lstm.input.bias + net.lstm.recurrent.weight @ shown
        y_in, y_out = logistic(nets[:128]), logistic(nets[128:256])
        content = content + y_in * (4 * logistic(nets[256:]) - 2)
        shown = y_out * (2 * logistic(content) - 1)
    torch.testing.assert_close(net.forward_features(x)[0], shown, rtol=1e-9, atol=1e-12)


def test_lstm_counts(count):
    """Four gates (three in 1997) see the row of 28 and the 128 values shown, with a bias each."""
    assert count("lstm")[0] == 4 * 128 * (28 + 128 + 1) + 128 * 10 + 10
    assert count("lstm_1997")[0] == 3 * 128 * (28 + 128 + 1) + 128 * 10 + 10


def test_fresh_cells_remember():
    """The forget gates start at logistic(1), all other biases at zero."""
    bias = RowLSTM(True, 10, 1, (28, 28)).lstm.input.bias.reshape(4, 128)
    assert bias.unique(dim=1).flatten().tolist() == [0, 0, 0, 1]


def test_cell_of_1997_keeps_its_content_for_good():
    """Section 4: with its input gate shut, the gradient of a cell through any time is one."""
    net = RowLSTM(False, 10, 1, (28, 28)).double()
    with torch.no_grad():
        net.lstm.input.weight[:128] = net.lstm.recurrent.weight[:128] = 0
        net.lstm.input.bias[:128] = -1e3
    assert (net.forward_features(torch.randn(2, 1, 28, 28).double()) == 0).all()


QUICK = ("resnet50_deformable", "lstm", "lstm_1997")


def wake(net: nn.Module) -> nn.Module:
    """Non-local blocks past their first step: until then they are the identity."""
    for m in net.modules():
        if isinstance(m, NonLocalBlock):
            nn.init.constant_(m.bn.weight, 0.5)
    return net


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
        for n in (*NON_LOCAL, *DEFORMABLE, *LSTMS)
    ],
)
def test_serves(name, assert_serves):
    net = wake(create_model(name, num_classes=5))
    size = net.input_size or (64, 33)
    assert_serves(net, torch.randn(2, net.in_channels, *size))
