"""ZFNet against figure 3's sizes, a count by hand and the figure written out in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.models import create_model
from deepen.models.zfnet import VARIANTS

# Figure 3: maps and pixels of each layer.
FIGURE_3 = {
    "conv1": (96, 110),
    "pool1": (96, 55),
    "conv2": (256, 26),
    "pool2": (256, 13),
    "conv3": (384, 13),
    "conv4": (384, 13),
    "conv5": (256, 13),
    "pool5": (256, 6),
}


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("zfnet", 62_357_608, 1_168_032_896),
        ("zfnet_wide", 107_627_624, 2_476_704_896),
    ],
)
def test_counts(name, parameters, macs, count):
    third, fourth, fifth = VARIANTS[name]
    shapes = (  # kernel, maps in, maps out, pixels
        *((7, 3, 96, 110), (5, 96, 256, 26)),
        *((3, 256, third, 13), (3, third, fourth, 13), (3, fourth, fifth, 13)),
        *((6, fifth, 4096, 1), (1, 4096, 4096, 1), (1, 4096, 1000, 1)),
    )
    by_hand = sum(k * k * a * b + b for k, a, b, _ in shapes)
    assert count(name) == (parameters, macs)
    assert (parameters, macs) == (by_hand, sum(k * k * a * b * px * px for k, a, b, px in shapes))


def test_sizes_are_figure_3s():
    with torch.device("meta"):
        net, found = create_model("zfnet"), {}
        for name in FIGURE_3:
            net.get_submodule(name).register_forward_hook(
                lambda m, i, o, n=name: found.update({n: tuple(o.shape[1:])})
            )
        net(torch.zeros(1, 3, 224, 224))
    assert found == {name: (maps, px, px) for name, (maps, px) in FIGURE_3.items()}


def test_wide_has_the_maps_of_model_b():
    """Table 2: "layers 3,4,5: 512,1024,512 maps"."""
    with torch.device("meta"):
        net = create_model("zfnet_wide")
    assert [net.get_submodule(f"conv{i}").out_channels for i in (3, 4, 5)] == [512, 1024, 512]


def written_out(net: nn.Module, x: Tensor) -> Tensor:
    """Figure 3, float64: every convolution a product with the windows it sees."""
    weights = dict(net.named_parameters())

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        side = kernel.shape[-1]
        windows = F.pad(x, [padding] * 4).unfold(2, side, stride).unfold(3, side, stride)
        return (torch.einsum("bihwyx,oiyx->bohw", windows, kernel) + bias[:, None, None]).clamp(0)

    def pool(x: Tensor) -> Tensor:
        """3x3 windows at every second pixel; what is left over at the end makes a last one."""
        border = [(size - 3) % 2 for size in x.shape[:1:-1]]
        x = F.pad(x, (0, border[0], 0, border[1]), value=-torch.inf)
        return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))

    def norm(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    x = norm(pool(conv("conv1", x, 2, 1)))
    x = norm(pool(conv("conv2", x, 2, 0)))
    for name in ("conv3", "conv4", "conv5"):
        x = conv(name, x, 1, 1)
    x = pool(x).flatten(1)
    for name in ("fc6", "fc7"):
        x = (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(0)
    return x @ weights["fc8.weight"].T + weights["fc8.bias"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("zfnet", 47),
        ("zfnet", (76, 81)),
        pytest.param("zfnet_wide", 47, marks=pytest.mark.slow),
    ],
)
def test_forward_and_gradient_agree_with_figure_3_written_out(name, size):
    net = create_model(name, num_classes=10, input_size=size).double().eval()
    for key, parameter in net.named_parameters():
        if key.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.1)
    x = 50 * torch.randn(1, 3, *net.input_size, dtype=torch.float64)  # large: norm then matters
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, expected = net(a), written_out(net, b)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours.square().sum().backward()
    expected.square().sum().backward()
    scale = b.grad.abs().max().item()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9 * scale)


def test_initial_weights_are_section_3s():
    net = create_model("zfnet", num_classes=10, input_size=47)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert abs(parameter.std().item() / 0.01 - 1) < 0.03, name


def test_layers_6_and_7_are_dropped_out_by_half():
    net, seen = create_model("zfnet", num_classes=10, input_size=47).train(), []
    for layer in (net.fc6, net.fc7):
        nn.init.zeros_(layer.weight)
        nn.init.ones_(layer.bias)
    for layer in (net.fc7, net.fc8):
        layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.forward_head(torch.ones(8, 256, 1, 1))
    assert all(abs((x == 0).float().mean() - 0.5) < 0.05 for x in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["zfnet", pytest.param("zfnet_wide", marks=pytest.mark.slow)])
def test_serves(name, assert_serves):
    net, x = create_model(name, num_classes=10, input_size=47), torch.randn(4, 3, 47, 47)
    assert_serves(net, x)


def test_sizes_that_it_is_not_built_for_are_refused():
    with torch.device("meta"):
        with pytest.raises(InputError, match="takes pictures of 47 px at least, asked for 46x46"):
            create_model("zfnet", input_size=46)
        with pytest.raises(InputError, match="takes pictures of 224x224 px, got 227x227"):
            create_model("zfnet")(torch.zeros(1, 3, 227, 227))


@pytest.mark.parametrize("size", [47, 48, 49, 50, 63, 100])
def test_any_size_from_the_least_up_can_be_built(size):
    with torch.device("meta"):
        net = create_model("zfnet", num_classes=3, input_size=(size, size + 5))
        assert net(torch.zeros(2, 3, size, size + 5)).shape == (2, 3)
