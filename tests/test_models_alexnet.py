"""AlexNet against its paper's counts and its two towers written out, against torchvision in one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.layers import LocalResponseNorm
from deepen.models import create_model

# Figure 2: neurons of each layer. The caption prints 253,440 for the first, which is 55x48x96: the
# 55x55 pixels that the figure draws make 290,400.
NEURONS = {
    "conv1": 290_400,
    "conv2": 186_624,
    "conv3": 64_896,
    "conv4": 64_896,
    "conv5": 43_264,
    "fc6": 4_096,
    "fc7": 4_096,
    "fc8": 1_000,
}


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("alexnet", 60_965_224, 724_406_816),
        ("alexnet_one_tower", 61_100_840, 714_188_480),
    ],
)
def test_counts(name, parameters, macs, count):
    assert count(name) == (parameters, macs)


def test_neurons_are_the_papers():
    """Abstract: 60 million parameters and 650,000 neurons; figure 2 gives them layer by layer."""
    with torch.device("meta"):
        net, found = create_model("alexnet"), {}
    for name, layer in net.named_children():
        if name in NEURONS:
            layer.register_forward_hook(lambda m, i, o, n=name: found.update({n: o[0].numel()}))
    net(torch.zeros(1, 3, 227, 227, device="meta"))
    assert found == NEURONS
    assert sum(found.values()) == 659_272


def reference_norm(a: np.ndarray, n: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """Section 3.3, index by index: a (B, N, H, W)."""
    b = np.empty_like(a)
    maps = a.shape[1]
    for image, i, y, x in np.ndindex(*a.shape):
        total = 0.0
        for j in range(max(0, i - n // 2), min(maps - 1, i + n // 2) + 1):
            total += a[image, j, y, x] ** 2
        b[image, i, y, x] = a[image, i, y, x] / (k + alpha * total) ** beta
    return b


@given(
    maps=st.integers(1, 12),
    n=st.integers(1, 9),
    alpha=st.sampled_from([1e-4, 0.5, 2.0]),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
    k=st.sampled_from([1.0, 2.0]),
)
def test_norm_is_the_papers_formula(maps, n, alpha, beta, k):
    a = 3 * torch.randn(2, maps, 2, 3, dtype=torch.float64)
    found = LocalResponseNorm(n, alpha, beta, k)(a)
    expected = reference_norm(a.numpy(), n, alpha, beta, k)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_norm_has_the_papers_constants():
    a = 100 * torch.randn(1, 7, 2, 2, dtype=torch.float64)
    expected = reference_norm(a.numpy(), n=5, alpha=1e-4, beta=0.75, k=2.0)
    np.testing.assert_allclose(LocalResponseNorm()(a).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_norm_is_torchs_with_n_times_alpha_and_so_is_its_gradient(n):
    a = 30 * torch.randn(2, 8, 3, 4, dtype=torch.float64)
    ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    left = LocalResponseNorm(n, alpha=1e-3)(ours)
    right = nn.LocalResponseNorm(n, alpha=1e-3 * n, beta=0.75, k=2.0)(theirs)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)
    grad = torch.randn_like(a)
    left.backward(grad)
    right.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_of_large_half_precision_values_is_not_lost(dtype):
    a = torch.full((1, 6, 2, 2), 1000.0)
    found = LocalResponseNorm()(a.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), LocalResponseNorm()(a), rtol=1e-2, atol=0)


def two_towers(net: nn.Module, x: Tensor) -> Tensor:
    """Figure 2 on two "GPUs", layer by layer; they talk before conv3 and before fc6."""
    weights = dict(net.named_parameters())

    def on(gpu: int, name: str, x: Tensor, padding: int) -> Tensor:
        """The convolution's share of a GPU: half of the kernels, on the maps that it is given."""
        weight, bias = (weights[f"{name}.{kind}"].chunk(2)[gpu] for kind in ("weight", "bias"))
        padded = F.pad(x, [padding] * 4)
        return F.conv2d(padded, weight, bias, stride=4 if name == "conv1" else 1).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))

    def norm(towers: list[Tensor]) -> list[Tensor]:
        x = F.local_response_norm(torch.cat(towers, 1), 5, alpha=5e-4, beta=0.75, k=2.0)
        return list(x.chunk(2, 1))

    towers = norm([on(gpu, "conv1", x, 0) for gpu in (0, 1)])
    towers = norm([on(gpu, "conv2", pool(towers[gpu]), 2) for gpu in (0, 1)])
    both = torch.cat([pool(tower) for tower in towers], 1)
    towers = [on(gpu, "conv3", both, 1) for gpu in (0, 1)]
    towers = [on(gpu, "conv4", towers[gpu], 1) for gpu in (0, 1)]
    towers = [pool(on(gpu, "conv5", towers[gpu], 1)) for gpu in (0, 1)]
    x = torch.cat(towers, 1).flatten(1)
    for name in ("fc6", "fc7"):
        x = (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(min=0)
    return x @ weights["fc8.weight"].T + weights["fc8.bias"]


@pytest.mark.parametrize("size", [67, (99, 131)])
def test_forward_and_gradient_agree_with_two_towers_written_out(size):
    net = create_model("alexnet", num_classes=10, input_size=size).double().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.1)
    x = 100 * torch.randn(2, 3, *net.input_size, dtype=torch.float64)  # large: norm then matters
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, expected = net(a), two_towers(net, b)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours.square().sum().backward()
    expected.square().sum().backward()
    scale = b.grad.abs().max().item()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9 * scale)


def test_maps_have_the_sizes_of_figure_2():
    with torch.device("meta"):
        net, shapes = create_model("alexnet"), {}
        for name, layer in net.named_children():
            layer.register_forward_hook(lambda m, i, o, n=name: shapes.update({n: o.shape[1:]}))
        net(torch.zeros(1, 3, 227, 227))
    assert [tuple(shapes[f"conv{i}"]) for i in range(1, 6)] == [
        *((96, 55, 55), (256, 27, 27), (384, 13, 13), (384, 13, 13), (256, 13, 13))
    ]
    assert tuple(shapes["pool5"]) == (256, 6, 6)


def test_initial_weights_are_section_5s():
    net = create_model("alexnet", num_classes=10, input_size=67)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name in NEURONS:
        layer = net.get_submodule(name)
        assert abs(layer.weight.std().item() / 0.01 - 1) < 0.03, name
        assert (layer.bias == float(name in ones)).all(), name


def test_half_of_the_outputs_of_fc6_and_fc7_are_dropped():
    """Section 4.2: each with probability 0.5, in training alone."""
    net, seen = create_model("alexnet", num_classes=10, input_size=67).train(), []
    nn.init.zeros_(net.fc7.weight)  # its biases are 1: ReLU then leaves every unit of it alive
    net.fc7.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.fc8.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    features = torch.rand(8, 256, 1, 1)
    net.forward_head(features)
    assert all(abs((x == 0).float().mean() - 0.5) < 0.05 for x in seen)
    net.eval().forward_head(features)
    assert all((x == 0).float().mean() < 0.05 for x in seen[2:])


@pytest.mark.slow
def test_one_tower_is_torchvisions_with_its_weights(assert_twins):
    theirs = torchvision.models.alexnet(num_classes=10, dropout=0.0)
    ours = create_model("alexnet_one_tower", num_classes=10)
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_twins(ours, theirs, torch.randn(2, 3, 63, 127))


def test_one_tower_gives_torchvisions_logits():
    with torch.device("meta"):
        ours = create_model("alexnet_one_tower", num_classes=10).eval()
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    assert str(ours.features) == str(theirs.features)
    assert str(ours.classifier) == str(theirs.classifier)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(1, 3, 63, 300)  # maps of 1x8 px, averaged to 6x6
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_one_tower"])
def test_trains_and_serves(name, assert_trains, assert_serves):
    net, x = create_model(name, num_classes=10, input_size=67), torch.randn(4, 3, 67, 67)
    assert_trains(net, x)
    assert_serves(net, x)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("alexnet", 66, "alexnet takes pictures of 67 px at least, asked for 66x66"),
        ("alexnet_one_tower", 62, "alexnet_one_tower takes pictures of 63 px at least"),
    ],
)
def test_sizes_below_the_least_are_refused(name, size, words):
    with pytest.raises(InputError, match=words), torch.device("meta"):
        create_model(name, input_size=size)


def test_another_size_than_built_for_is_refused():
    with torch.device("meta"):
        net = create_model("alexnet")
        with pytest.raises(InputError, match="takes pictures of 227x227 px, got 224x224"):
            net(torch.zeros(1, 3, 224, 224))
