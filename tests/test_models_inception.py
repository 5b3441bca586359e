"""Inception-v3 against torchvision's, with its weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepen.errors import InputError
from deepen.models import create_model
from deepen.models.inception import InceptionV3


def randomize(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)


def twins(training: bool) -> tuple[InceptionV3, nn.Module]:
    """Ours and torchvision's in float64, with one set of weights, without dropout."""
    theirs = torchvision.models.inception_v3(num_classes=10, init_weights=False)
    ours = create_model("inception_v3", num_classes=10)
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.dropout_p = theirs.dropout.p = 0.0
    return ours.double().train(training), theirs.double().train(training)


def assert_equal_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        theirs_grad = gradients.get(key)
        assert (parameter.grad is None) == (theirs_grad is None), key
        if theirs_grad is not None:
            torch.testing.assert_close(parameter.grad, theirs_grad, rtol=1e-9, atol=1e-9)


def test_parameters_and_macs_are_torchvisions():
    with torch.device("meta"):
        net = create_model("inception_v3")
    assert sum(p.numel() for p in net.parameters()) == 27_161_264
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 3, 299, 299, device="meta"))
    assert counter.get_total_flops() // 2 == 5_713_216_096


def test_grids_are_the_papers():
    """Table 1: 35x35x288, 17x17x768, 8x8x2048."""
    with torch.device("meta"):
        net, shapes = create_model("inception_v3").eval(), {}
    for name, child in net.named_children():
        child.register_forward_hook(lambda m, i, o, n=name: shapes.update({n: tuple(o.shape[1:])}))
    net(torch.zeros(1, 3, 299, 299, device="meta"))
    assert shapes["Conv2d_2b_3x3"] == (64, 147, 147)
    assert shapes["Mixed_5d"] == (288, 35, 35)
    assert shapes["Mixed_6e"] == (768, 17, 17)
    assert shapes["Mixed_7a"] == (1280, 8, 8)
    assert shapes["Mixed_7c"] == (2048, 8, 8)


@pytest.mark.parametrize("training", [False, True])
def test_it_is_torchvisions_on_small_pictures(training):
    """Without the auxiliary classifier, for which they are too small."""
    ours, theirs = twins(training)
    theirs.AuxLogits, theirs.aux_logits = None, False
    x = torch.randn(2, 3, 107, 107, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    left, right = ours.forward_head(ours.forward_features(a)), theirs(b)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    left.square().sum().backward()
    right.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)
    assert_equal_gradients(ours, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_auxiliary_classifier_is_torchvisions(training):
    ours, theirs = (net.AuxLogits for net in twins(training))
    x = torch.randn(4, 768, 17, 17, dtype=torch.float64)
    left, right = ours(x), theirs(x)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    left.square().sum().backward()
    right.square().sum().backward()
    assert_equal_gradients(ours, theirs)


@pytest.mark.slow
def test_whole_network_trains_as_torchvisions():
    ours, theirs = twins(training=True)
    x = torch.randn(2, 3, 299, 299, dtype=torch.float64)
    left, right = ours(x), theirs(x)
    torch.testing.assert_close(left, (right.logits, right.aux_logits), rtol=1e-9, atol=1e-12)
    torch.cat(left).square().sum().backward()
    torch.cat(right).square().sum().backward()
    assert_equal_gradients(ours, theirs)
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(key), rtol=1e-9, atol=1e-12)


def small() -> tuple[InceptionV3, Tensor]:
    return create_model("inception_v3", num_classes=10).eval(), torch.randn(2, 3, 75, 80)


def test_serves_in_bf16():
    net, x = small()
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x).float(), expected, rtol=0.1, atol=0.3)


@pytest.mark.slow
def test_exports():
    net, x = small()
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), net(x))


def test_small_pictures_are_refused_in_words():
    net, _ = small()
    assert net(torch.zeros(1, 3, 75, 75)).shape == (1, 10)
    with pytest.raises(InputError, match="75 px at least, got 74x75"):
        net(torch.zeros(1, 3, 74, 75))
    with pytest.raises(InputError, match="trains on pictures of 299 px at least"):
        net.train()(torch.zeros(2, 3, 107, 107))


def test_dropout_is_half_and_the_auxiliary_loss_weighs_less():
    net, _ = small()
    assert net.dropout_p == 0.5
    assert net.auxiliary_weight == 0.3
    net.fc = nn.Identity()
    kept = net.train().forward_head(torch.ones(4, 2048, 2, 2))
    assert abs((kept == 0).float().mean() - 0.5) < 0.05
