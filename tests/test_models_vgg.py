"""VGG against the paper's table, torchvision's networks, and a window slid by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from deepen.errors import InputError
from deepen.layers import LocalResponseNorm
from deepen.models import create_model, list_models
from deepen.models.vgg import init_glorot

# Table 2, millions of parameters as printed; parameters and multiply-accumulates as counted;
# layers with weights (table 1).
COUNTS = {
    "vgg11": ("133", 132_863_336, 7_609_090_048, 11),
    "vgg11_lrn": ("133", 132_863_336, 7_609_090_048, 11),
    "vgg13": ("133", 133_047_848, 11_308_466_176, 13),
    "vgg16_1x1": ("134", 133_638_952, 11_770_888_192, 16),
    "vgg16": ("138", 138_357_544, 15_470_264_320, 16),
    "vgg19": ("144", 143_667_240, 19_632_062_464, 19),
}
TORCHVISIONS = [f"vgg{depth}{form}" for depth in (11, 13, 16, 19) for form in ("", "_bn")]


def narrow(name: str, make: Callable[..., nn.Module] = create_model) -> Any:
    """The network with 16 units for 4096 in its fully connected layers, which hold most weights."""
    with torch.device("meta"):
        net = make(name, num_classes=10)
        net.classifier[0], net.classifier[3] = nn.Linear(512 * 49, 16), nn.Linear(16, 16)
        net.classifier[6], net.num_features = nn.Linear(16, 10), 16
    net.to_empty(device="cpu").apply(init_glorot)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return net


def some(names: list[str], *quick: str) -> list[Any]:
    """All names, those that are not quick marked slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def shake(net: nn.Module) -> None:
    """Biases that matter."""
    for key, parameter in net.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name, count):
    printed, parameters, macs, _ = COUNTS[name]
    assert count(name) == (parameters, macs)
    assert f"{parameters / 1e6:.0f}" == printed


@pytest.mark.parametrize("name", list_models("vgg*"))
def test_layers_are_table_1s(name):
    with torch.device("meta"):
        net = create_model(name)
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == COUNTS[name.removesuffix("_bn")][3]
    assert [layer.out_features for layer in weighted[-3:]] == [4096, 4096, 1000]
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.modules()) == 5


def test_family_is_complete():
    assert set(list_models("vgg*")) == set(COUNTS) | set(TORCHVISIONS)


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_keys_and_head_are_torchvisions(name):
    with torch.device("meta"):
        ours = create_model(name)
        theirs = torchvision.models.get_model(name, init_weights=False)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert str(ours.features) == str(theirs.features)
    assert str(ours.classifier) == str(theirs.classifier)


@pytest.mark.parametrize("name", some(TORCHVISIONS, "vgg11_bn"))
def test_is_torchvisions_with_its_weights(name, assert_twins):
    theirs, ours = narrow(name, torchvision.models.get_model), narrow(name)
    shake(theirs)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_twins(ours, theirs, torch.randn(2, 3, 32, 32))


def test_another_size_than_224_is_averaged_as_torchvision_does():
    theirs, ours = narrow("vgg11", torchvision.models.get_model).eval(), narrow("vgg11").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 97)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_1x1_convolutions_of_c_are_3x3_ones_with_a_lone_centre():
    """Table 1: C is D but for the last convolution of its last three stages."""
    c, d = narrow("vgg16_1x1").double().eval(), narrow("vgg16").double().eval()
    shake(c)
    weights = {
        key: F.pad(value, (1, 1, 1, 1)) if value.shape[2:] == (1, 1) else value
        for key, value in c.state_dict().items()
    }
    changed = [key for key, value in c.state_dict().items() if value.shape[2:] == (1, 1)]
    d.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    torch.testing.assert_close(c(x), d(x), rtol=1e-9, atol=1e-12)
    assert changed == ["features.14.weight", "features.21.weight", "features.28.weight"]


def test_a_lrn_is_a_with_krizhevskys_normalization_after_its_first_layer():
    net, a = narrow("vgg11_lrn").double().eval(), narrow("vgg11").double().eval()
    shake(net)
    for ours, theirs in zip(net.parameters(), a.parameters(), strict=True):
        ours.data = theirs.data
    assert [i for i, m in enumerate(net.features) if isinstance(m, LocalResponseNorm)] == [2]
    x = 100 * torch.randn(2, 3, 32, 32, dtype=torch.float64)
    first, rest = a.features[:2], a.features[2:]
    normed = F.local_response_norm(first(x), 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(net(x), a.forward_head(rest(normed)), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(net(x), a(x), rtol=1e-3)


def test_dense_evaluation_at_224_is_the_plain_forward():
    net = narrow("vgg11").eval()
    shake(net)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert net.score_map(x).shape == (2, 10, 1, 1)
        torch.testing.assert_close(net.forward_dense(x), net(x), rtol=1e-4, atol=1e-5)


def slid_by_hand(net: nn.Module, features: Tensor) -> Tensor:
    """The fully connected layers at each 7x7 window of the maps (1, 512, h, w): (windows, K)."""
    rows = []
    for top in range(features.shape[2] - 6):
        for left in range(features.shape[3] - 6):
            units = features[0, :, top : top + 7, left : left + 7].flatten()
            for index in (0, 3, 6):
                layer = net.classifier[index]
                units = layer.weight @ units + layer.bias
                units = units.clamp(min=0) if index < 6 else units
            rows.append(units)
    return torch.stack(rows)


def test_dense_evaluation_of_a_larger_picture_is_a_window_slid_by_hand():
    """Section 3.2: 256x288 px give maps of 8x9, hence 2x3 windows of 7x7."""
    net = narrow("vgg11").double().eval()
    shake(net)
    x = torch.randn(1, 3, 256, 288, dtype=torch.float64)
    with torch.no_grad():
        scores, logits = net.score_map(x), net.forward_dense(x)
        rows = slid_by_hand(net, net.forward_features(x))
    assert rows.std(0).min() > 0
    assert scores.shape == (1, 10, 2, 3)
    torch.testing.assert_close(scores[0].flatten(1).T, rows, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits[0], rows.mean(0), rtol=1e-9, atol=1e-12)


def test_dense_evaluation_shares_the_weights():
    net = narrow("vgg11").eval()
    net.forward_dense(torch.randn(1, 3, 224, 224)).sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in net.classifier[::3])


def test_dense_evaluation_refuses_pictures_that_hold_no_window():
    net = narrow("vgg11")
    with pytest.raises(InputError, match="score map takes 224 px at least, got 223x300"):
        net.forward_dense(torch.zeros(1, 3, 223, 300))
    with pytest.raises(InputError, match="takes 3 input channels, got 1"):
        net.score_map(torch.zeros(1, 1, 224, 224))


def test_initial_weights_are_glorots():
    """Glorot & Bengio 2010, eq. 16: uniform in +-sqrt(6 / (inputs + outputs))."""
    net = narrow("vgg16")
    for layer, fans in ((net.features[0], 27 + 576), (net.features[28], 2 * 4608)):
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert abs(layer.weight.std().item() * 3**0.5 / bound - 1) < 0.05
        assert (layer.bias == 0).all()


def test_first_two_fully_connected_layers_are_dropped_out_by_half():
    net, seen = narrow("vgg11").train(), []
    for layer in net.classifier[::3]:
        nn.init.zeros_(layer.weight)
        nn.init.ones_(layer.bias)
        layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.forward_head(torch.ones(400, 512, 7, 7))
    shares = [(x == 0).float().mean().item() for x in seen]
    assert shares[0] == 0
    assert abs(shares[1] - 0.5) < 0.05
    assert abs(shares[2] - 0.5) < 0.05


@pytest.mark.parametrize("name", some(list_models("vgg*"), "vgg11_lrn", "vgg11_bn"))
def test_trains_and_serves(name, assert_trains, assert_serves):
    net, x = narrow(name), torch.randn(4, 3, 32, 32)
    assert_trains(net, x)
    assert_serves(net, x)


def test_classifier_can_be_reset_and_small_pictures_are_refused():
    with torch.device("meta"):
        net = create_model("vgg16")
        net.reset_classifier(7)
        assert net(torch.zeros(2, 3, 40, 33)).shape == (2, 7)
        with pytest.raises(InputError, match="takes pictures of 32 px at least, got 31x40"):
            net(torch.zeros(2, 3, 31, 40))
