"""Network in Network against counts by hand and a perceptron slid over the maps in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.models import create_model

# The authors' released definitions, layer by layer: kernel, maps in, maps out, pixels out.
CIFAR = (
    *((5, 3, 192, 32), (1, 192, 160, 32), (1, 160, 96, 32)),
    *((5, 96, 192, 16), (1, 192, 192, 16), (1, 192, 192, 16)),
    *((3, 192, 192, 8), (1, 192, 192, 8), (1, 192, 10, 8)),
)
IMAGENET = (
    *((11, 3, 96, 54), (1, 96, 96, 54), (1, 96, 96, 54)),
    *((5, 96, 256, 27), (1, 256, 256, 27), (1, 256, 256, 27)),
    *((3, 256, 384, 13), (1, 384, 384, 13), (1, 384, 384, 13)),
    *((3, 384, 1024, 6), (1, 1024, 1024, 6), (1, 1024, 1000, 6)),
)
DEFINITIONS = {"nin_cifar": CIFAR, "nin_imagenet": IMAGENET}
# Standard deviations of the initial weights in the same files.
STDS = {"nin_cifar": [0.05] * 9, "nin_imagenet": [0.05] * 11 + [0.01]}
STDS["nin_imagenet"][0] = STDS["nin_imagenet"][6] = 0.01


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("nin_cifar", 966_986, 222_486_528), ("nin_imagenet", 7_595_176, 1_100_188_800)],
)
def test_counts(name, parameters, macs, count):
    layers = DEFINITIONS[name]
    assert parameters == sum(k * k * a * b + b for k, a, b, _ in layers)
    assert macs == sum(k * k * a * b * px * px for k, a, b, px in layers)
    assert count(name) == (parameters, macs)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_layers_are_the_released_ones(name):
    with torch.device("meta"):
        net, found, layers = create_model(name), [], DEFINITIONS[name]
        for layer in convolutions(net):
            layer.register_forward_hook(
                lambda m, i, o: found.append(
                    (m.kernel_size[0], m.in_channels, m.out_channels, o.shape[2])
                )
            )
        net(torch.zeros(1, 3, 32, 32) if name == "nin_cifar" else torch.zeros(1, 3, 224, 224))
    assert tuple(found) == layers


def written_out(net: nn.Module, x: Tensor, stride: int, paddings: tuple[int, ...]) -> Tensor:
    """Section 3: a perceptron at each window, with ReLUs; max pooling; means of the class maps."""
    layers = [(m.weight, m.bias) for m in convolutions(net)]
    for stage, padding in enumerate(paddings):
        weight, bias = layers[3 * stage]
        side, step = weight.shape[-1], stride if stage == 0 else 1
        windows = F.pad(x, [padding] * 4).unfold(2, side, step).unfold(3, side, step)
        units = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (B, H, W, inputs of the perceptron)
        units = (units @ weight.flatten(1).T + bias).clamp(0)
        for weight, bias in layers[3 * stage + 1 : 3 * stage + 3]:
            units = (units @ weight[:, :, 0, 0].T + bias).clamp(0)
        x = units.permute(0, 3, 1, 2)
        if stage < len(paddings) - 1:  # sizes are rounded up: a last window may stick out
            border = [(size - 3) % 2 for size in x.shape[:1:-1]]
            x = F.pad(x, (0, border[0], 0, border[1]), value=-torch.inf)
            x = x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "size", "stride", "paddings"),
    [
        ("nin_cifar", (32, 32), 1, (2, 2, 1)),
        ("nin_cifar", (4, 7), 1, (2, 2, 1)),
        ("nin_imagenet", (67, 95), 4, (0, 2, 1, 1)),
    ],
)
def test_forward_and_gradient_agree_with_section_3_written_out(name, size, stride, paddings):
    net = create_model(name, num_classes=10).double().eval()
    for layer in convolutions(net):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(layer.bias, std=0.1)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, expected = net(a), written_out(net, b, stride, paddings)
    assert (expected > 0).any()
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours.square().sum().backward()
    expected.square().sum().backward()
    scale = b.grad.abs().max().item()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_initial_weights_are_the_released_ones(name):
    net = create_model(name)
    for layer, std in zip(convolutions(net), STDS[name], strict=True):
        assert abs(layer.weight.std().item() / std - 1) < 0.06
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(("name", "dropped"), [("nin_cifar", [1, 2]), ("nin_imagenet", [3])])
def test_dropout_is_on_the_outputs_of_these_mlpconvs(name, dropped):
    """Section 4.1: on all but the last; in the release for ImageNet before the last alone."""
    net, seen = create_model(name, num_classes=4).train(), []
    for layer in convolutions(net):
        if layer.kernel_size != (1, 1):
            layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
        nn.init.zeros_(layer.weight)
        nn.init.ones_(layer.bias)
    net(torch.ones(2, 3, 67, 67))
    shares = [(x == 0).float().mean().item() for x in seen]
    for stage, share in enumerate(shares):
        assert abs(share - 0.5 * (stage in dropped)) < 0.06, shares


def test_classifier_is_reset_as_a_convolution():
    net = create_model("nin_cifar").double()
    before = {k: v.clone() for k, v in net.state_dict().items() if not k.startswith("classifier")}
    net.reset_classifier(400)
    assert net.num_classes == 400
    assert isinstance(net.classifier, nn.Conv2d)
    assert abs(net.classifier.weight.std().item() / 0.05 - 1) < 0.02
    assert net(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 400)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize(("name", "size"), [("nin_cifar", 32), ("nin_imagenet", 67)])
def test_serves(name, size, assert_serves):
    net, x = create_model(name, num_classes=10), torch.randn(4, 3, size, size)
    assert_serves(net, x)


@pytest.mark.parametrize(("name", "least"), [("nin_cifar", 4), ("nin_imagenet", 39)])
def test_any_size_from_the_least_up_is_taken(name, least):
    with torch.device("meta"):
        net = create_model(name, in_channels=1)
        for size in (least, least + 1, least + 2, 2 * least + 1):
            net(torch.zeros(2, 1, size, size + 3))
        with pytest.raises(InputError, match=f"pictures of {least} px at least, got {least - 1}x"):
            net(torch.zeros(2, 1, least - 1, 100))
