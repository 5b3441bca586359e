"""GoogLeNet against table 1 written out in float64, the paper's counts, and torchvision's form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepen.errors import InputError
from deepen.models import create_model
from deepen.models.googlenet import GoogLeNet, bottleneck_example, naive_example

# Table 1 by module: maps out, pixels, weights and biases counted by hand, MACs in millions.
TABLE_1 = {
    "3a": (256, 28, 163_696, "128.0"),
    "3b": (480, 28, 388_736, "304.3"),
    "4a": (512, 14, 376_176, "73.6"),
    "4b": (512, 14, 449_160, "87.9"),
    "4c": (512, 14, 510_104, "99.9"),
    "4d": (528, 14, 605_376, "118.5"),
    "4e": (832, 14, 868_352, "170.0"),
    "5a": (832, 7, 1_043_456, "51.1"),
    "5b": (1024, 7, 1_444_080, "70.7"),
}
SIZES = {"googlenet": 79, "googlenet_bn": 64}


def build(name: str, **changes) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(shape, device="meta"))
    return counter.get_total_flops() // 2


def small(name: str, **changes) -> GoogLeNet:
    return create_model(name, num_classes=10, input_size=SIZES[name], **changes)


def pictures(name: str, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, SIZES[name], SIZES[name])


def test_parameters_and_macs_are_the_counted_ones():
    net = build("googlenet")
    auxiliary = count(net.aux1) + count(net.aux2)
    assert (count(net), count(net) - auxiliary) == (13_378_280, 6_998_552)
    assert macs(net, 1, 3, 224, 224) == 1_582_671_872


@pytest.mark.parametrize("module", TABLE_1)
def test_modules_are_table_1s_row_by_row(module):
    _, pixels, parameters, millions = TABLE_1[module]
    block, rows = build("googlenet").get_submodule(f"inception{module}"), list(TABLE_1)
    before = TABLE_1[rows[rows.index(module) - 1]][0] if module != "3a" else 192
    assert count(block) == parameters
    assert f"{macs(block, 1, before, pixels, pixels) / 1e6:.1f}" == millions


def test_maps_have_table_1s_sizes():
    net, shapes = build("googlenet").eval(), {}
    for name, child in net.named_children():
        child.register_forward_hook(lambda m, i, o, n=name: shapes.update({n: tuple(o.shape[1:])}))
    net(torch.zeros(1, 3, 224, 224, device="meta"))
    for module, (maps, pixels, _, _) in TABLE_1.items():
        assert shapes[f"inception{module}"] == (maps, pixels, pixels)
    assert (shapes["conv1"], shapes["conv2"]) == ((64, 112, 112), (64, 56, 56))
    assert (shapes["conv3"], shapes["fc"]) == ((192, 56, 56), (1000,))


def test_it_is_22_layers_deep():
    """Section 5: "22 layers deep when counting only layers with parameters"."""
    net, depth = build("googlenet"), 0
    for name, child in net.named_children():
        if not name.startswith("aux"):
            paths = child.children() if name.startswith("inception") else [child]
            depth += max(
                sum(isinstance(m, nn.Conv2d | nn.Linear) for m in path.modules()) for path in paths
            )
    assert depth == 22


def test_lectures_modules_cost_what_lecture_003_says():
    """854 M and 672 maps; the bottleneck's printed 353 M is 271.35 M by count."""
    for build_module, millions, maps in (
        (naive_example, "854.2", 672),
        (bottleneck_example, "271.4", 480),
    ):
        with torch.device("meta"):
            module = build_module()
        assert f"{macs(module, 1, 256, 28, 28) / 1e6:.1f}" == millions
        assert module(torch.zeros(1, 256, 28, 28, device="meta")).shape == (1, maps, 28, 28)


def test_naive_module_passes_its_pooled_input_on():
    x = torch.randn(1, 256, 5, 5)
    torch.testing.assert_close(naive_example()(x)[:, -256:], F.max_pool2d(x, 3, 1, 1))


def reference(net: GoogLeNet, x: Tensor) -> list[Tensor]:
    """Table 1 and figure 3, float64: logits of the net, of the classifiers on 4a and 4d."""
    weights = {key: value.detach() for key, value in net.state_dict().items()}

    def conv(key: str, x: Tensor, kernel: int, stride: int = 1) -> Tensor:
        weight = weights[f"{key}.0.weight"]
        assert weight.shape[2:] == (kernel, kernel)
        padded = F.pad(x, [kernel // 2] * 4)
        return F.conv2d(padded, weight, weights[f"{key}.0.bias"], stride).clamp(min=0)

    def pool(x: Tensor, stride: int) -> Tensor:
        """3x3; every pixel, or every second and what is left over at the end."""
        ends = (1, 1) if stride == 1 else (0, 1)
        windows = F.pad(x, ends * 2, value=-torch.inf).unfold(2, 3, stride).unfold(3, 3, stride)
        return windows.amax((-1, -2))

    def normalize(x: Tensor) -> Tensor:
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
        return x / (2 + 1e-4 * squares) ** 0.75

    def inception(key: str, x: Tensor) -> Tensor:
        key = f"inception{key}.branch"
        return torch.cat(
            [
                conv(f"{key}1", x, 1),
                conv(f"{key}2.1", conv(f"{key}2.0", x, 1), 3),
                conv(f"{key}3.1", conv(f"{key}3.0", x, 1), 5),
                conv(f"{key}4.1", pool(x, 1), 1),
            ],
            dim=1,
        )

    def linear(key: str, x: Tensor) -> Tensor:
        return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]

    def auxiliary(key: str, x: Tensor) -> Tensor:
        x = x.unfold(2, 5, 3).unfold(3, 5, 3).mean((-1, -2))
        x = linear(f"{key}.fc1", conv(f"{key}.conv", x, 1).flatten(1)).clamp(min=0)
        return linear(f"{key}.fc2", x)

    x = normalize(pool(conv("conv1", x, 7, 2), 2))
    x = pool(normalize(conv("conv3", conv("conv2", x, 1), 3)), 2)
    x = pool(inception("3b", inception("3a", x)), 2)
    first = inception("4a", x)
    second = inception("4d", inception("4c", inception("4b", first)))
    x = inception("5b", inception("5a", pool(inception("4e", second), 2)))
    return [linear("fc", x.mean((2, 3))), auxiliary("aux1", first), auxiliary("aux2", second)]


@pytest.mark.parametrize("px", [79, 128])
def test_forward_agrees_with_table_1_written_out(px):
    net = create_model("googlenet", num_classes=10, input_size=px).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    x = 30 * torch.randn(2, 3, px, px, dtype=torch.float64)  # large: response norm then matters
    silence_dropout(net)
    expected = reference(net, x)
    for ours, theirs in zip(net.train()(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.eval()(x), expected[0], rtol=1e-9, atol=1e-12)


def silence_dropout(net: nn.Module) -> None:
    net.dropout_p = 0.0
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize(("name", "share"), [("googlenet", 0.4), ("googlenet_bn", 0.2)])
def test_dropout_is_the_papers(name, share):
    net = small(name).train()
    assert net.aux1.dropout.p == net.aux2.dropout.p == 0.7
    assert net.dropout_p == share
    with torch.no_grad():
        net.fc = nn.Identity()
        kept = net.forward_head(torch.ones(4, 1024, 2, 2))
    assert abs((kept == 0).float().mean() - share) < 0.05


def randomize(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize("training", [False, True])
def test_bn_form_is_torchvisions_with_its_weights(training):
    theirs = torchvision.models.googlenet(num_classes=10, init_weights=False)
    ours = small("googlenet_bn")
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for net in (ours.double().train(training), theirs.double().train(training)):
        silence_dropout(net)
    x = pictures("googlenet_bn").double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    left, right = ours(a), theirs(b)
    if training:
        right = (right.logits, right.aux_logits1, right.aux_logits2)
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
        left, right = (torch.cat(logits) for logits in (left, right))
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    left.square().sum().backward()
    right.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    gradients = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    for key, parameter in ours.named_parameters():
        if training or not key.startswith("aux"):
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-9, atol=1e-9)
    if training:
        for key, buffer in ours.named_buffers():
            torch.testing.assert_close(buffer, theirs.get_buffer(key), rtol=1e-9, atol=1e-12)


def test_bn_form_counts_what_torchvisions_does():
    net = build("googlenet_bn")
    assert count(net) - count(net.aux1) - count(net.aux2) == 6_624_904
    assert macs(net, 1, 3, 224, 224) == 1_498_376_192


@pytest.mark.parametrize("name", SIZES)
def test_serves_in_bf16(name):
    net, x = small(name).eval(), pictures(name)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x).float(), expected, rtol=0.1, atol=0.3)


@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("googlenet_bn", marks=pytest.mark.slow)]
)
def test_exports(name):
    net, x = small(name).eval(), pictures(name)
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("name", SIZES)
def test_auxiliary_losses_weigh_what_section_5_says(name):
    assert small(name).auxiliary_weight == 0.3


def test_it_is_built_for_one_size():
    with pytest.raises(InputError, match="takes pictures of 79x79 px, got 96x96"):
        small("googlenet")(torch.zeros(1, 3, 96, 96))
    with pytest.raises(InputError, match="googlenet takes pictures of 79 px at least"):
        create_model("googlenet", input_size=78)


def test_least_size_of_the_bn_form():
    net = small("googlenet_bn").eval()
    assert net(torch.zeros(1, 3, 15, 15)).shape == (1, 10)
    with pytest.raises(InputError, match="15 px at least, got 14x15"):
        net(torch.zeros(1, 3, 14, 15))
