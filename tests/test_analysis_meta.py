"""Shapes answered without torch's own kernels for the meta device, against those kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepen.analysis import meta
from deepen.analysis.meta import Meta, on_meta
from deepen.errors import InputError


def empty(*shape: int, **options: Any) -> Tensor:
    return torch.empty(shape, device="meta", **options)


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "relu": F.relu,
    "relu_": lambda x: x.clone().relu_(),
    "add": lambda x: x + x[:, :1],
    "add_": lambda x: x.clone().add_(x.mean()),
    "mul": lambda x: x * 2.5,
    "squash": lambda x: 1.7 * torch.tanh(x * 0.6),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "maximum": lambda x: torch.maximum(x, x[:, :, :1]),
    "clamp": lambda x: x.clamp(0, 6),
    "clone": lambda x: x.clone(),
    "conv": lambda x: F.conv2d(x, empty(6, x.shape[1], 3, 2), empty(6), (1, 2), (1, 0), (1, 2)),
    "depthwise": lambda x: F.conv2d(x, empty(2 * x.shape[1], 1, 3, 3), None, 2, 1, 1, x.shape[1]),
    "transpose": lambda x: F.conv_transpose2d(
        x, empty(x.shape[1], 5, 3, 3), empty(5), 2, 1, output_padding=1
    ),
    "batch_norm": lambda x: F.batch_norm(x, empty(x.shape[1]), empty(x.shape[1])),
    "batch_norm in training": lambda x: F.batch_norm(x, None, None, training=True),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[2:], empty(*x.shape[2:])),
    "group_norm": lambda x: F.group_norm(x, 2, empty(x.shape[1])),
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True),
    "dilated pool": lambda x: F.max_pool2d(x, 2, 1, 0, (2, 1)),
    "avg_pool": lambda x: F.avg_pool2d(x, (2, 3), ceil_mode=True, divisor_override=1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "amax": lambda x: x.amax(1, keepdim=True),
    "sum": lambda x: x.sum(),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "softmax": lambda x: x.softmax(1),
    "linear": lambda x: F.linear(x, empty(4, x.shape[-1]), empty(4)),
    "mm": lambda x: x.flatten(1) @ empty(x.flatten(1).shape[1], 3),
    "bmm": lambda x: x @ x.mT,
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "zeros_like": torch.zeros_like,
    "normal_": lambda x: x.clone().normal_(),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "a slice": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "strided": lambda x: torch.cat([x, x], 3)[..., ::2],
    "permuted": lambda x: x.permute(0, 1, 3, 2),
    "repeated": lambda x: x[:, :, :1].expand(x.shape),
    "half": lambda x: x.to(torch.bfloat16),
    "double": lambda x: x.double(),
}


def described(out: Any) -> list[tuple[Any, ...]]:
    return [(t.shape, t.stride(), t.dtype) for t in meta.tensors_in([out])]


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return described(act())
    except (RuntimeError, ValueError, IndexError) as error:
        return type(error)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_those_of_torchs_kernels(name: str, layout: str):
    x = LAYOUTS[layout](empty(2, 4, 6, 6))
    expected = outcome(lambda: OPERATIONS[name](x))
    with Meta():
        assert outcome(lambda: OPERATIONS[name](x)) == expected


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_convolutions_that_do_not_fit_are_refused_as_torch_refuses_them(
    shape: tuple[int, ...], kernel: int, stride: int, padding: int, dilation: int, groups: int
):
    def act() -> Tensor:
        return F.conv2d(
            empty(*shape), empty(6, 2, kernel, kernel), None, stride, padding, dilation, groups
        )

    expected = outcome(act)
    with Meta():
        assert outcome(act) == expected


def test_gradients_have_the_shapes_of_torchs_kernels():
    def gradients() -> list[tuple[Any, ...]]:
        torch.manual_seed(0)
        with torch.device("meta"):
            net = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
                nn.ConvTranspose2d(8, 4, 2, 2),
                nn.Tanh(),
                nn.AvgPool2d(2),
                nn.AdaptiveAvgPool2d(2),
                nn.Sigmoid(),
                nn.Flatten(),
                nn.Dropout(),
                nn.Linear(16, 5),
            )
        x = empty(2, 3, 19, 19, requires_grad=True)
        net(x).sum().backward()
        return described([x.grad, *(p.grad for p in net.parameters())])

    expected = gradients()
    with Meta():
        assert gradients() == expected


def test_ordinary_operations_are_answered_here(monkeypatch):
    """Else the fast road would be lost without a sound."""
    answer, missed = meta._answer, set()

    def watch(name: str, *rest: Any) -> Any:
        out = answer(name, *rest)
        if out is NotImplemented:
            missed.add(name)
        return out

    monkeypatch.setattr(meta, "_answer", watch)
    with Meta():
        for operation in OPERATIONS.values():
            operation(empty(2, 4, 6, 6))
    assert missed == {"_unsafe_view", "bernoulli", "empty"}  # which torch answers quickly


def test_counting_a_network_imports_no_compiler():
    code = (
        "import sys, torch\n"
        "from deepen.analysis.complexity import complexity\n"
        "from deepen.analysis.memory import memory\n"
        "from deepen.analysis.meta import Meta\n"
        "from torch import nn\n"
        "from deepen.layers import init_he\n"
        "with torch.device('meta'), Meta():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True),\n"
        "        nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))\n"
        "    net.apply(init_he)\n"
        "complexity(net, (3, 32, 32))\n"
        "memory(net, (3, 32, 32), batch_size=2)\n"
        "print([m for m in ('sympy', 'torch._dynamo') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensors_elsewhere_are_taken_for_their_shape():
    table = torch.arange(12.0).view(3, 4)
    with Meta():
        assert (empty(3, 4) * table).is_meta
        assert (table * 2).tolist() == (table + table).tolist()  # among themselves they compute


def test_a_module_comes_back_as_it_was():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LSTM(3, 2))
    net[0].weight = nn.Parameter(torch.eye(3))
    net.tied = net[0].weight
    before = {name: (id(t), t.clone()) for name, t in net.state_dict(keep_vars=True).items()}
    with on_meta(net):
        assert all(t.is_meta for t in net.state_dict().values())
        assert net.tied is net[0].weight
    with pytest.raises(RuntimeError, match="same reduction dim"), on_meta(net):
        net[0](torch.empty(4, device="meta"))
    after = net.state_dict(keep_vars=True)
    assert all(id(after[name]) == key for name, (key, _) in before.items())
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    net[:2](torch.ones(2, 3))
    net[2](torch.ones(1, 3))


def test_a_lazy_module_is_refused():
    with pytest.raises(InputError, match="lazy"), on_meta(nn.LazyLinear(3)):
        pass
