"""Counts against torch's own counter, the papers' numbers, hooks and counting by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from math import prod

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepen.analysis.complexity import Complexity, complexity
from deepen.analysis.memory import memory
from deepen.analysis.meta import Meta
from deepen.analysis.work import Work
from deepen.errors import InputError
from deepen.models import create_model


class Call(nn.Module):
    """A function as a module, with its own modules."""

    def __init__(self, function: Callable[..., object], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs, *self.parts)


def counted(name: str, size_px: int = 224) -> Complexity:
    """A network of ours, or one of torchvision's, on its usual input."""
    with torch.device("meta"), Meta():
        library, _, name = name.rpartition("/")
        net = torchvision.models.get_model(name) if library else create_model(name)
    return complexity(net, (3, size_px, size_px))


def torchs_macs(net: nn.Module, *inputs: Tensor) -> float:
    """On the meta device too: some of the CPU's own kernels torch's counter does not know."""
    net = copy.deepcopy(net).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() / 2


# LeCun et al. 1998, section II-B: parameters and connections, layer by layer.
LENET = {
    "c1": (156, 122_304),
    "s2": (12, 5_880),
    "c3": (1_516, 151_600),
    "s4": (32, 2_000),
    "c5": (48_120, 48_120),
    "f6": (10_164, 10_164),
    "output": (0, 840),
}


def test_lenet5_has_the_papers_connections_row_by_row():
    costs = complexity(create_model("lenet5"), (1, 32, 32))
    rows = {la.name: (la.parameters, la.work.connections) for la in costs.layers if la.name}
    assert rows == LENET
    assert (costs.parameters, costs.connections) == (60_000, 340_908)
    assert costs.work.convolution == 60 * 25 * 100 + 6 * 25 * 784 + 48_000  # 60 pairs, not 96


# Worked out independently: convolutions and linear layers, no biases (in G where rounded).
@pytest.mark.parametrize(
    ("name", "size_px", "parameters", "macs"),
    [
        ("alexnet", 227, 60_965_224, 724_406_816),
        ("resnet18", 224, 11_689_512, 1.814),
        ("resnet34", 224, 21_797_672, 3.664),
        ("resnet50", 224, 25_557_032, 3.858),
        ("resnet50_v1_5", 224, 25_557_032, 4.089),
        ("resnet20_b", 32, None, 0.041),
        ("torchvision/vgg11", 224, 132_863_336, 7.609),
        ("torchvision/vgg13", 224, 133_047_848, 11.308),
        ("torchvision/vgg16", 224, 138_357_544, 15.470),
        ("torchvision/vgg19", 224, 143_667_240, 19.632),
        ("torchvision/alexnet", 224, 61_100_840, None),
        ("torchvision/resnet101", 224, 44_549_160, 7.801),
        ("torchvision/resnet152", 224, 60_192_808, 11.514),
        ("torchvision/resnext50_32x4d", 224, 25_028_904, 4.230),
        ("torchvision/densenet121", 224, 7_978_856, 2.834),
    ],
)
def test_networks_count_what_they_are_known_to(
    name: str, size_px: int, parameters: int | None, macs: float | None
):
    costs = counted(name, size_px)
    assert parameters in (None, costs.parameters)
    assert macs in (None, costs.macs, round(costs.macs / 1e9, 3))
    assert costs.uncounted == {}


def test_units_and_values_of_alexnet_and_vgg16():
    """Krizhevsky et al. 2012 say 650,000 neurons; lecture 003 counts VGG-16's values row by row."""
    assert counted("alexnet", 227).units == 659_272
    vgg = counted("torchvision/vgg16")
    again = 7 * 7 * 512  # its adaptive pooling copies a map that has the right size already
    assert vgg.values + vgg.input_values - again == 15_237_608


def test_unused_parameters_are_named():
    """Szegedy et al. 2014 drop the auxiliary heads after training."""
    costs = counted("googlenet")
    assert (costs.parameters, costs.unused_parameters) == (13_378_280, 13_378_280 - 6_998_552)
    assert {name.split(".")[0] for name in costs.unused} == {"aux1", "aux2"}
    assert round(costs.macs / 1e9, 3) == 1.583


T = torch.rand
MODULES: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "linear of a matrix": (nn.Linear(6, 4), (T(5, 6),)),
    "linear of rank four": (nn.Linear(6, 4, bias=False), (T(2, 3, 5, 6),)),
    "linear of a vector": (nn.Linear(6, 4), (T(6),)),
    "matmul": (Call(lambda a, b: a @ b), (T(2, 3, 4), T(2, 4, 5))),
    "broadcast matmul": (Call(lambda a, b: a @ b), (T(7, 2, 3, 4), T(4, 5))),
    "einsum": (Call(lambda a, b: torch.einsum("bhtd,bhsd->bhts", a, b)), (T(2, 3, 4, 5),) * 2),
    "vectors": (Call(lambda a, b: torch.mv(a, b).dot(b)), (T(4, 4), T(4))),
    "attention": (
        Call(F.scaled_dot_product_attention),
        (T(2, 3, 7, 4), T(2, 3, 5, 4), T(2, 3, 5, 6)),
    ),
    "multi-head": (nn.MultiheadAttention(8, 2, batch_first=True), (T(2, 5, 8),) * 3),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16), (T(5, 2, 8),)),
    "lstm": (nn.LSTM(6, 4, 2, bidirectional=True), (T(5, 2, 6),)),
    "gru cell": (nn.GRUCell(6, 4), (T(2, 6),)),
    "baddbmm": (Call(torch.baddbmm), (T(2, 3, 5), T(2, 3, 4), T(2, 4, 5))),
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 1, groups=2), (T(2, 4, 9),)),
    "conv3d": (nn.Conv3d(2, 4, (1, 5, 3), padding="same"), (T(2, 2, 4, 5, 6),)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (T(2, 4, 5, 5),)),
    "functional": (Call(lambda x, w: F.conv2d(x, w, padding=1)), (T(2, 4, 5, 5), T(3, 4, 3, 3))),
    "unbatched": (nn.Conv2d(3, 4, 3), (T(3, 6, 6),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_macs_are_half_of_torchs_flops(name: str):
    net, inputs = MODULES[name]
    costs = complexity(net, *inputs)
    if name == "vectors":  # which torch's counter leaves out
        assert (costs.macs, torchs_macs(net, *inputs)) == (4 * 4 + 4, 0)
    else:
        assert costs.macs == torchs_macs(net, *inputs) > 0
    assert costs.uncounted == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("vit_b_16", "swin_t", "swin_v2_t", "convnext_tiny", "efficientnet_b0", "maxvit_t"),
        *("mobilenet_v3_large", "shufflenet_v2_x1_0", "inception_v3", "googlenet"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_networks_of_torchvision_count_as_torch_counts_them(name: str):
    size_px = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
        x = torch.empty(1, 3, size_px, size_px)
    costs = complexity(net, (3, size_px, size_px))
    # swin_v2 sends a table of positions through a layer, which is no work on the picture.
    assert costs.macs + costs.on_weights.macs == torchs_macs(net, x)
    assert costs.uncounted == {}


def test_lstm_by_hand():
    """Four gates, from the input and from the state, in each direction, for each layer."""
    macs = 5 * 2 * 2 * (4 * 4 * (6 + 4) + 4 * 4 * (8 + 4))
    assert complexity(nn.LSTM(6, 4, 2, bidirectional=True), T(5, 2, 6)).macs == macs


@given(st.data())
def test_any_convolution(data: st.DataObject):
    """Macs, parameters, connections and shape, against torch's counter and a real run."""
    whole = st.integers(1, 3)
    rank, groups = data.draw(whole), data.draw(whole)
    kernel, stride, dilation = (tuple(data.draw(whole) for _ in range(rank)) for _ in range(3))
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(rank))
    kind = data.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    with_bias = data.draw(st.booleans())
    layer = getattr(nn, f"{kind}{rank}d")(
        groups * data.draw(whole),
        groups * data.draw(whole),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=with_bias,
    )
    shape = (layer.in_channels, *(data.draw(st.integers(7, 9)) for _ in range(rank)))
    out = layer(torch.rand(1, *shape))
    costs = complexity(layer, shape)
    (row,) = costs.layers
    assert row.output_shape == tuple(out.shape)
    assert (row.values, row.bytes) == (out.numel(), 4 * out.numel())
    assert row.macs == torchs_macs(layer, torch.rand(1, *shape))
    assert row.work.connections == row.macs + with_bias * out.numel()
    assert costs.parameters == row.parameters == sum(p.numel() for p in layer.parameters())


def test_connections_are_those_that_autograd_finds():
    """Without padding: each unit's inputs, and its bias."""
    net = nn.Conv2d(4, 6, 3, 2, groups=2).double()
    x = torch.rand(1, 4, 7, 7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(net, x)
    units = net(x).numel()
    found = int((jacobian.reshape(units, -1) != 0).sum()) + units
    assert complexity(net, (4, 7, 7)).connections == found


SMALL = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.ReLU(inplace=True),
    nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 4, 1), nn.ReLU()),
    nn.Dropout(),
    nn.LocalResponseNorm(3),
    nn.AdaptiveAvgPool2d(3),
    nn.Flatten(),
    nn.Linear(36, 5),
)


def test_values_are_those_that_hooks_see():
    made: list[int] = []

    def note(part: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        same = out.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr()
        made.append(0 if same else out.numel())

    leaves = [part for part in SMALL.modules() if not [*part.children()]]
    hooks = [part.register_forward_hook(note) for part in leaves]
    SMALL.eval()(torch.rand(1, 3, 8, 8))
    for hook in hooks:
        hook.remove()
    costs = complexity(SMALL, (3, 8, 8))
    assert [layer.values for layer in costs.layers] == made
    assert [layer.bytes for layer in costs.layers] == [4 * n for n in made]
    assert costs.values == sum(made)
    assert [layer.kind for layer in costs.layers] == [type(part).__name__ for part in leaves]
    assert complexity(SMALL.half(), (3, 8, 8)).layers[0].bytes == 2 * made[0]
    SMALL.float()


def test_work_is_kept_apart_by_kind():
    work = {layer.kind: layer.work for layer in complexity(SMALL, (3, 8, 8)).layers}
    assert work["Conv2d"] == Work(convolution=8 * 4 * 16, connections=8 * 4 * 16 + 4 * 16)
    assert work["BatchNorm2d"] == Work(norm=2 * 8 * 64)
    assert work["ReLU"] == Work(elementwise=4 * 16)
    assert work["MaxPool2d"] == Work(pooling=8 * 64, connections=8 * 64)
    assert work["Dropout"] == work["Flatten"] == Work()
    assert work["LocalResponseNorm"].operations == work["LocalResponseNorm"].norm > 0
    bins = 4 * sum(h * w for h, w in product((2, 2, 2), repeat=2))  # 0-1, 1-2, 2-3 of 4 rows
    assert work["AdaptiveAvgPool2d"] == Work(pooling=bins, connections=bins)
    assert work["Linear"] == Work(linear=180, connections=185)
    total = complexity(SMALL, (3, 8, 8))
    assert (
        total.macs
        == total.work.convolution + total.work.linear
        == torchs_macs(SMALL, T(1, 3, 8, 8))
    )
    assert complexity(nn.LayerNorm(8), (4, 8)).work == Work(norm=5 * 32)
    assert complexity(nn.Softmax(-1), (4, 8)).work == Work(elementwise=32)
    assert complexity(nn.Upsample(scale_factor=2), (1, 4, 4)).work == Work()


def test_functional_work_belongs_to_the_module_that_runs_it():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.scale = nn.Parameter(torch.ones(2, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.conv(x)) * self.scale
            return F.adaptive_avg_pool2d(F.max_pool2d(x + y, 2), 1)

    net = nn.Sequential(Block(), nn.Flatten(), nn.Linear(2, 3))
    rows = [
        (la.name, la.kind, la.parameters, la.values) for la in complexity(net, (2, 4, 4)).layers
    ]
    assert rows == [
        ("0.conv", "Conv2d", 38, 32),
        ("0", "relu+mul+add", 2, 32),
        ("0", "max_pool2d", 0, 8),
        ("0", "mean", 0, 2),
        ("1", "Flatten", 0, 0),
        ("2", "Linear", 9, 3),
    ]


def test_shared_weights_count_once_and_their_work_each_time():
    layer = nn.Linear(4, 4)
    costs = complexity(nn.Sequential(layer, nn.ReLU(), layer), (4,))
    assert (costs.parameters, costs.macs) == (20, 32)
    assert [row.parameters for row in costs.layers] == [20, 0, 0]
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert complexity(tied, (4,)).parameters == 16


def test_work_on_weights_alone_is_told_apart():
    net = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    costs = complexity(net, (6,))
    assert costs.macs == 24
    assert costs.on_weights.operations > 0
    assert costs.parameters == sum(row.parameters for row in costs.layers) == 24 + 4 + 4
    assert costs.values == 4


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_summing_up_loses_nothing(depth: int):
    costs = counted("resnet18", 64)
    rows = costs.at_depth(depth)
    for field in ("parameters", "values", "bytes", "macs"):
        total = sum(getattr(layer, field) for layer in costs.layers)
        assert sum(getattr(row, field) for row in rows) == total
    assert sum((row.work for row in rows), Work()) == costs.work
    assert sum(row.parameters for row in rows) == costs.parameters
    assert all(row.name.count(".") < depth for row in rows)
    assert rows[-1] == costs.layers[-1]
    kinds = {row.name: row.kind for row in costs.at_depth(1)}
    assert kinds["layer1"] == "Sequential"


def test_a_layer_may_declare_its_own_costs():
    class Declares(nn.Conv2d):
        def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]:
            return self.own  # type: ignore[return-value]

    net = Declares(2, 3, 3)
    traced = complexity(nn.Conv2d(2, 3, 3), (2, 5, 5)).work
    for own, expected in [
        ({"connections": 7}, Work(convolution=traced.convolution, connections=7)),
        ({"linear": 5}, Work(linear=5, connections=traced.connections)),
        ({"convolution": 1, "connections": 2}, Work(convolution=1, connections=2)),
        ({}, traced),
    ]:
        net.own = own
        assert complexity(net, (2, 5, 5)).work == expected
    net.own = {"flops": 3}
    with pytest.raises(InputError, match="must give a dict with keys of connections, conv"):
        complexity(net, (2, 5, 5))


def test_a_container_that_declares_is_one_row():
    class Pair(nn.Sequential):
        def complexity(self, input: Tensor, output: Tensor) -> dict[str, int]:
            return {"matmul": input.numel() * output.numel()}

    costs = complexity(nn.Sequential(Pair(nn.Linear(4, 5), nn.Linear(5, 3)), nn.ReLU()), (4,))
    assert [(la.name, la.macs, la.parameters) for la in costs.layers] == [
        ("0", 12, 43),
        ("1", 0, 0),
    ]


def test_the_module_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3)).train()
    net[1].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    complexity(net, (3,))
    with pytest.raises(InputError):
        complexity(net, (4,))
    assert [part.training for part in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in net.modules())


def test_inference_mode_changes_no_count():
    """ResNet-20's convolutions and its classifier by hand."""
    stages = [6 * 16 * 16 * 1024, (16 + 5 * 32) * 32 * 256, (32 + 5 * 64) * 64 * 64]
    expected = 9 * (3 * 16 * 1024 + sum(stages)) + 64 * 10
    with torch.inference_mode():
        counted = complexity(create_model("resnet20"), (3, 32, 32))
        estimated = memory(create_model("resnet20"), (3, 32, 32), batch_size=2)
    assert counted.macs == expected
    assert estimated == memory(create_model("resnet20"), (3, 32, 32), batch_size=2)


def test_nothing_is_allocated():
    """Weights of 4 TB, on an input of 4 TB."""
    with torch.device("meta"):
        net = nn.Linear(1_000_000, 1_000_000, bias=False)
    costs = complexity(net, (1_000_000, 1_000_000))
    assert (costs.parameters, costs.macs) == (10**12, 10**18)


def test_inputs_may_be_many_tensors_of_any_type():
    def look_up(words: Tensor, more: Tensor, table: nn.Module) -> dict[str, Tensor]:
        return {"both": table(words) + more}

    costs = complexity(Call(look_up, nn.Embedding(10, 4)), torch.tensor([[1, 2, 3]]), (3, 4))
    assert costs.input_shapes == ((1, 3), (1, 3, 4))
    assert [(la.kind, la.output_shape, la.values) for la in costs.layers] == [
        ("Embedding", (1, 3, 4), 12),
        ("add", (1, 3, 4), 12),
    ]


def test_a_table_that_is_no_buffer_is_taken_along():
    net = Call(lambda x: x * table)
    table = torch.rand(4, 4)
    assert complexity(net, (2, 4, 4)).work.elementwise == 32


def test_what_there_is_no_rule_for_is_said():
    costs = complexity(Call(lambda x: torch.fft.rfft(x).abs()), (8,))
    assert list(costs.uncounted.values()) == [1]
    assert "fft" in next(iter(costs.uncounted))


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (nn.Linear(4, 2), (5,), "Linear does not run on an input of 1x5"),
        (nn.Conv2d(3, 4, 3), (1, 8, 8), "channel"),
        (Call(lambda x: x if x.sum() > 0 else -x), (4,), "or not without values"),
        (nn.LazyLinear(3), (4,), "lazy"),
        (create_model("lenet5"), (3, 32, 32), "LeNet5 takes 1 input channels, got 3"),
    ],
)
def test_what_cannot_be_counted_is_refused(net: nn.Module, shape: tuple[int, ...], words: str):
    with pytest.raises(InputError, match=words):
        complexity(net, shape)


def test_totals_of_shapes():
    costs = complexity(SMALL, (3, 8, 8))
    assert costs.input_values == prod((3, 8, 8))
    assert costs.trainable == costs.parameters
    assert costs.buffers == 8 + 8 + 1
    assert costs.units == 8 * 64 + 4 * 16 + 5
