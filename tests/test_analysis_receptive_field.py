"""Receptive fields against what autograd says that a unit depends on, and against known ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepen.analysis.complexity import complexity
from deepen.analysis.meta import Meta
from deepen.analysis.receptive_field import ReceptiveField
from deepen.models import create_model


def positive(net: nn.Module) -> nn.Module:
    """Weights that cannot cancel, so that what is connected has a gradient."""
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.1, 1)
    return net


def seen_by_autograd(net: nn.Module, size: int, index: int) -> tuple[int, int] | None:
    """The first and last row that the units in one row of the output depend on."""
    x = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    out = net(x)
    (gradient,) = torch.autograd.grad(out[:, :, index].sum(), x)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    return (rows[0], rows[-1]) if rows else None


def field_of(net: nn.Module, size: int) -> ReceptiveField:
    found = complexity(net, (1, size, size)).layers[-1].field
    assert found is not None
    return found


def check_exact(net: nn.Module, size: int) -> None:
    net, field = positive(net), field_of(net, size)
    rows = net(torch.zeros(1, 1, size, size, dtype=torch.float64)).shape[2]
    for index in range(rows):
        first = field.start_px[0] + index * field.stride_px[0]
        expected = (max(first, 0), min(first + field.size_px[0] - 1, size - 1))
        assert seen_by_autograd(net, size, index) == expected


def check_holds(net: nn.Module, size: int, slack: float) -> None:
    """Nothing is seen outside the field, and for some unit it is at most `slack` px too large."""
    net, field = positive(net), field_of(net, size)
    rows = net(torch.zeros(1, 1, size, size, dtype=torch.float64)).shape[2]
    largest = 0
    for index in range(rows):
        first = field.start_px[0] + index * field.stride_px[0]
        seen = seen_by_autograd(net, size, index)
        assert seen is not None
        assert first <= seen[0] <= seen[1] <= first + field.size_px[0]
        largest = max(largest, seen[1] - seen[0] + 1)
    assert largest <= field.size_px[0] <= largest + slack


class Call(nn.Module):
    """A function as a module, with its own modules."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


@pytest.mark.parametrize(("convolutions", "field"), [(1, 3), (2, 5), (3, 7)])
def test_three_3x3_see_7x7(convolutions: int, field: int):
    """Lectures 003 and 004; Simonyan & Zisserman 2014, section 2.3."""
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(convolutions)))
    assert field_of(net, 32) == ReceptiveField((field,) * 2, (1, 1), (-(field // 2),) * 2)


LAYERS = st.one_of(
    st.builds(
        lambda k, s, p, d: nn.Conv2d(1, 1, k, s, min(p, k - 1), d),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(0, 2),
        st.integers(1, 2),
    ),
    st.builds(
        lambda k, s, p: nn.AvgPool2d(k, s, min(p, k // 2)),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(0, 1),
    ),
    st.just(nn.BatchNorm2d(1)),
    st.just(nn.ReLU(inplace=False)),
    st.just(Call(lambda x: x[:, :, 1::2, 1::2])),
    st.just(Call(lambda x: F.pad(x, (2, 1, 2, 1)))),
    st.just(nn.Conv2d(1, 1, 3, padding=1, padding_mode="zeros")),
)


@given(st.lists(LAYERS, min_size=1, max_size=4))
def test_fields_of_chains_are_exact(layers: list[nn.Module]):
    net, size = nn.Sequential(*layers), 24
    try:
        net.double().eval()(torch.zeros(1, 1, size, size, dtype=torch.float64))
    except RuntimeError:  # the maps have become too small
        return
    net, field = positive(net), field_of(net, size)
    rows = net(torch.zeros(1, 1, size, size, dtype=torch.float64)).shape[2]
    for index in range(rows):
        first = field.start_px[0] + index * field.stride_px[0]
        last = first + field.size_px[0] - 1
        seen = seen_by_autograd(net, size, index)
        if first >= 0 and last < size:
            assert seen == (first, last)
        elif seen is not None:  # at the rim a dilated kernel may have its outer taps outside
            assert first <= seen[0] <= seen[1] <= last


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_sums_and_concatenations_see_what_any_branch_sees(depth: int):
    def block(x: Tensor, wide: nn.Module, narrow: nn.Module) -> Tensor:
        return torch.cat([wide(x) + x, narrow(x)], 1).sum(1, keepdim=True)

    net = nn.Sequential(
        nn.Conv2d(1, 1, 3, 2, 1),
        *(Call(block, nn.Conv2d(1, 1, 5, 1, 2), nn.Conv2d(1, 1, 1)) for _ in range(depth)),
    )
    assert field_of(net, 40).size_px == (3 + 8 * depth,) * 2
    check_exact(net, 40)


def test_a_maximum_sees_its_whole_window():
    """Which is where the gradient goes for some picture."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(3, 2, 1))
    field = field_of(net, 16)
    assert field == ReceptiveField((5, 5), (2, 2), (-2, -2))
    seen = [seen_by_autograd(positive(net), 16, 3) for _ in range(40)]
    assert (min(s[0] for s in seen if s), max(s[1] for s in seen if s)) == (4, 8)


@pytest.mark.parametrize(
    ("net", "slack"),
    [
        (nn.Upsample(scale_factor=2), 0),
        (nn.ConvTranspose2d(1, 1, 4, 2, 1), 0),
        (nn.ConvTranspose2d(1, 1, 3, 2, 1), 0),
        (nn.ConvTranspose2d(1, 1, 2, 2), 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 1),
        (nn.Upsample(scale_factor=2, mode="bicubic"), 2),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2)), 0),
        (nn.PixelUnshuffle(2), 0),
        (nn.Upsample(8), 1),
        (nn.Upsample(5), 1),
        (nn.Upsample(7, mode="bilinear"), 1),
        (nn.Upsample(17, mode="bilinear", align_corners=True), 1),
        (nn.AdaptiveAvgPool2d(5), 1),
        (nn.AdaptiveAvgPool2d(6), 0),
        (nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Upsample(scale_factor=2)), 2),
        (
            nn.Sequential(
                nn.AvgPool2d(2), nn.ConvTranspose2d(1, 1, 4, 2, 1), nn.Conv2d(1, 1, 3, padding=1)
            ),
            2,
        ),
    ],
)
def test_fields_behind_upsampling_hold_and_are_close(net: nn.Module, slack: float):
    check_holds(net, 12, slack)


def test_a_unit_net_reaches_across_its_skip():
    def unit(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
        return up(down(x)) + x

    net = Call(unit, nn.Conv2d(1, 1, 4, 2, 1), nn.ConvTranspose2d(1, 1, 4, 2, 1))
    check_holds(nn.Sequential(net, nn.Conv2d(1, 1, 3, padding=1)), 16, 2)


def test_views_keep_track_of_rows_and_columns():
    split = Call(lambda x: x.view(1, 1, 6, 2, 12)[:, :, :, 1])  # every second row
    assert field_of(split, 12) == ReceptiveField((1, 1), (2, 1), (1, 0))
    check_exact(split, 12)
    turned = Call(lambda x: x.transpose(2, 3).flip(1).transpose(2, 3).contiguous())
    check_holds(turned, 6, 5)
    shuffled = Call(lambda x, c: c(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2))
    shuffled.parts.append(nn.Conv2d(1, 4, 3))
    check_exact(shuffled, 8)
    halves = Call(lambda x: torch.cat([h.relu() for h in x.chunk(2, 2)], 1))
    assert field_of(halves, 8).size_px == (5, 1)


def test_what_is_written_into_a_part_is_followed():
    """Bed of nails: zeros, then every second place filled."""

    def nails(x: Tensor, smooth: nn.Module) -> Tensor:
        out = x.new_zeros(1, 1, 2 * x.shape[2], 2 * x.shape[3])
        out[:, :, ::2, ::2] = x
        return smooth(out)

    found = field_of(Call(nails, nn.Conv2d(1, 1, 3, padding=1)), 6)
    assert found.size_px[0] >= 6  # all that was written, wherever


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
        nn.AdaptiveAvgPool2d(1),
        nn.InstanceNorm2d(1),
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)),
        Call(lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT),
        Call(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
        Call(lambda x: x.roll(3, 2)),
    ],
)
def test_some_layers_see_everything(net: nn.Module):
    assert field_of(net, 8) == ReceptiveField((8, 8), field_of(net, 8).stride_px, (0, 0))


def test_an_input_without_sides_has_no_field():
    assert complexity(nn.Linear(8, 4), (8,)).layers[-1].field is None


def test_one_and_three_sides():
    sound = complexity(nn.Sequential(nn.Conv1d(1, 2, 5, 2), nn.MaxPool1d(2)), (1, 32)).layers[-1]
    assert sound.field == ReceptiveField((7,), (4,), (0,))
    film = complexity(nn.Conv3d(1, 2, (3, 5, 1), (1, 2, 1), (1, 2, 0)), (1, 8, 8, 8)).layers[-1]
    assert film.field == ReceptiveField((3, 5, 1), (1, 2, 1), (-1, -2, 0))


# Fields that the literature prints: Araujo et al. 2019, table 1 (ResNet-50: 483, its last map);
# Dumoulin & Visin and many others for VGG-16: pool5 212, fc6 404.
@pytest.mark.parametrize(
    ("name", "layer", "size", "stride"),
    [
        ("resnet50", "layer4", 483, 32),
        ("resnet101", "layer4", 1027, 32),
        ("resnet152", "layer4", 1507, 32),
        ("vgg16", "features", 212, 32),
    ],
)
def test_known_fields(name: str, layer: str, size: int, stride: int):
    with torch.device("meta"), Meta():
        net = create_model(name)
    rows = {row.name: row for row in complexity(net, (3, 224, 224)).at_depth(1)}
    assert rows[layer].field is not None
    assert (rows[layer].field.size_px, rows[layer].field.stride_px) == ((size,) * 2, (stride,) * 2)
