"""What every network of `list_models()` promises, on the smallest pictures that it takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepen.analysis.subject import subject
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError
from deepen.models import create_model, get_architecture, list_models
from deepen.models.architecture import Takes
from deepen.weights import Card, load_weights, save_weights

NUM_CLASSES, BATCH = 5, 4

# On pictures this small it is parameters that cost, to draw, to copy, to double, to write; and each
# tensor of them comes with operations that take as long as 10,000 values.
LARGE = 28_000_000  # beyond it, promises that do so are slow
SMALL = 2_000_000  # up to it, more can be asked

# Where training takes no pictures as small as prediction does.
TRAIN_SIDE_PX = {"inception_v3": 299}  # its auxiliary classifier

# Where one step needs larger pictures to reach every parameter.
STEP_SIDE_PX = {
    **TRAIN_SIDE_PX,
    "lstm": 2,  # recurrent weights want a row before the last
    "lstm_1997": 2,
    "resnet50_nonlocal": 64,  # pooled keys of layer3 leave attention one place to look at in 32 px
    "resnet50_nonlocal5": 64,
}

# Where one step of a fresh network is beyond float32.
STEP_IN_FLOAT64 = {
    "highway_mlp100",  # gates carry at first: what they learn is below the last bit of a weight
    "resnet1202_c",  # each of 600 projections multiplies the gradient: it passes 1e38
}

# What cannot move, "name of the network: kind of layer, name of the parameter": batch norm follows
# with nothing but 1x1 convolutions between, and takes out the mean that a bias is.
TAKEN_OUT = (
    "vgg??_bn: Conv2d features.*.bias",
    "inception_resnet_v2_slim: Conv2d block8.conv2d.bias",
    "resnet50_nonlocal5: BatchNorm2d layer2.3.non_local.bn.bias",
    "resnet50_nonlocal5: BatchNorm2d layer3.5.non_local.bn.bias",
)

# What moves in the second step alone: the block is the identity until its batch norm has a scale.
SECOND_STEP = ("resnet50_nonlocal*: Conv2d *.non_local.*",)

# Where untrained maps have no value: 600 projections amplify the last bit past all numbers, in
# evaluation, where batch norm does not follow them. The plain net of 110 layers comes near.
UNSTABLE = {"resnet1202_c"}


class Case(NamedTuple):
    """A network in evaluation, pictures (B, C, H, W) for it, and what it made of them.

    `trained` is what it handed out in training mode.
    """

    name: str
    takes: Takes
    net: nn.Module
    x: Tensor
    features: Tensor
    logits: Tensor
    trained: Tensor | tuple[Tensor, ...]

    @property
    def num_classes(self) -> int:
        return NUM_CLASSES if self.takes.any_classes else self.takes.num_classes

    @property
    def side_px(self) -> int:
        return self.x.shape[-1]


def smallest_px(name: str) -> int:
    takes = get_architecture(name).takes
    return takes.size_px if takes.sizes == "fixed" else takes.min_px


def measure(name: str) -> int:
    """Values of the network's parameters, and 10,000 for each tensor; none of them is allocated."""
    px = smallest_px(name)
    net = subject(name, (get_architecture(name).takes.channels, px, px)).module
    return sum(p.numel() + 10_000 for p in net.parameters())


SIZES = {name: measure(name) for name in list_models()}


def each(largest: float = float("inf"), *, stable: bool = False):
    """Every network; larger ones are slow. `stable`: the others must fail."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        unstable = stable and name in UNSTABLE
        return [pytest.mark.slow] * (SIZES[name] > largest) + [
            pytest.mark.xfail(reason="amplifies the last bit past all numbers")
        ] * unstable

    names = [pytest.param(name, marks=marks(name)) for name in list_models()]
    return pytest.mark.parametrize("case", names, indirect=True, scope="module")


def build(name: str, seed: int = 0, side_px: int | None = None) -> nn.Module:
    torch.manual_seed(seed)
    num_classes = NUM_CLASSES if get_architecture(name).takes.any_classes else None
    return create_model(name, num_classes, input_size=side_px or smallest_px(name))


def draw(name: str, side_px: int | None = None) -> Tensor:
    px = side_px or smallest_px(name)
    shape = (BATCH, get_architecture(name).takes.channels, px, px)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def train(net: nn.Module, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What it hands out in training mode; batch norm keeps the statistics of these pictures alone.

    At those that it starts from, 0 and 1, the maps of a fresh network of 600 blocks overflow.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    out = net.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return out


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On maps this small a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def case(request) -> Case:
    """One for all promises of a network: none may leave it changed."""
    name = request.param
    net, x = build(name), draw(name)
    with torch.no_grad():
        trained = train(net, draw(name, TRAIN_SIDE_PX.get(name)))
        features, logits = net.eval().forward_features(x), net(x)
    return Case(name, get_architecture(name).takes, net, x, features, logits, trained)


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@each(stable=True)
def test_predicts(case):
    assert case.logits.shape == (BATCH, case.num_classes)
    assert case.logits.dtype == torch.float32
    assert torch.isfinite(case.logits).all()
    assert case.net.num_classes == case.num_classes
    assert case.net.in_channels == case.takes.channels


@each()
def test_refuses_other_pictures(case):
    px, channels = case.side_px, case.takes.channels
    for height, width in [(px - 1, px), (px, px - 1)]:
        with pytest.raises(InputError, match=rf"takes pictures of .*{px}.* px.*{height}x{width}"):
            case.net(torch.zeros(1, channels, height, width))
    with pytest.raises(InputError, match=rf"takes {channels} input channels, got {channels + 1}"):
        case.net(torch.zeros(1, channels + 1, px, px))
    with pytest.raises(InputError, match="takes a batch"):
        case.net(case.x[0])
    with pytest.raises(InputError, match=rf"{case.name} takes pictures of {px}"):
        create_model(case.name, input_size=px - 1)


@each()
def test_features_have_the_length_that_it_names(case):
    net = case.net
    assert case.features.ndim in (2, 4)
    with torch.no_grad():
        assert_same_bits(net.forward_head(case.features), case.logits)
        pooled = net.forward_head(case.features, pre_logits=True)
    assert pooled.shape == (BATCH, net.num_features)
    head = net.get_submodule(net.classifier_name)
    if isinstance(head, nn.Linear):
        torch.testing.assert_close(head(pooled), case.logits, equal_nan=True)


@each()
def test_training_hands_out_the_auxiliary_logits_too(case):
    names = case.net.auxiliary_classifier_names
    assert isinstance(case.trained, tuple) == bool(names)
    logits = case.trained if names else (case.trained,)
    assert len(logits) == 1 + len(names)
    for one in logits:
        assert one.shape == (BATCH, case.num_classes)
        assert torch.isfinite(one).all()


@each()
def test_classifier_can_be_reset(case):
    shared = {id(p): p for p in case.net.parameters()}
    net = copy.deepcopy(case.net, shared)  # of its own, on the same parameters
    if not case.takes.any_classes:
        with pytest.raises(InputError, match="fixed output"):
            net.reset_classifier(7)
        with pytest.raises(InputError, match=f"asked for {case.num_classes + 1}"):
            create_model(case.name, num_classes=case.num_classes + 1)
        return
    fresh = (net.classifier_name, *net.auxiliary_classifier_names)
    before = {key: (t.data_ptr(), t._version) for key, t in net.state_dict().items()}
    net.reset_classifier(7)
    assert net.num_classes == 7
    after = net.state_dict()
    assert list(after) == list(before)
    for key, value in after.items():
        if key.startswith(tuple(f"{name}." for name in fresh)):
            assert len(value) == 7
            assert torch.isfinite(value).all()
        else:
            assert (value.data_ptr(), value._version) == before[key], f"{key} was written to"
    with torch.no_grad():
        assert net.forward_head(case.features).shape == (BATCH, 7)


def named(net: nn.Module, name: str, patterns: tuple[str, ...]) -> set[str]:
    """Parameters that a table above names."""

    def kind(key: str) -> str:
        return type(net.get_submodule(key.rpartition(".")[0])).__name__

    keys = [key for key, _ in net.named_parameters()]
    words = {key: f"{name}: {kind(key)} {key}" for key in keys}
    return {key for key in keys if any(fnmatchcase(words[key], p) for p in patterns)}


def take_step(net: nn.Module, x: Tensor) -> set[str]:
    """One step of SGD on the logits and the auxiliary ones; the parameters that it left."""
    labels = torch.arange(len(x))
    out = net(x)
    logits, *auxiliary = out if isinstance(out, tuple) else (out,)
    loss = F.cross_entropy(logits, labels)
    for side in auxiliary:
        loss = loss + net.auxiliary_weight * F.cross_entropy(side, labels)
    net.zero_grad()
    loss.backward()
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    return {key for key, p in net.named_parameters() if torch.equal(p, before[key])}


@each(LARGE)
def test_a_step_moves_every_parameter(case):
    if side_px := STEP_SIDE_PX.get(case.name):
        net, x = build(case.name, side_px=side_px), draw(case.name, side_px)
    else:
        net, x = copy.deepcopy(case.net).train(), case.x
    if case.name in STEP_IN_FLOAT64:
        net, x = net.double(), x.double()
    later = named(net, case.name, SECOND_STEP)
    assert take_step(net, x) == later
    parameters = dict(net.named_parameters())
    assert all(p.requires_grad and p.isfinite().all() for p in parameters.values())
    taken_out = named(net, case.name, TAKEN_OUT)
    for key, p in parameters.items():  # a bias that rounding alone moves has not learned
        weight = parameters.get(f"{key.removesuffix('bias')}weight")
        if key.endswith(".bias") and weight is not None and key not in later:
            learns = p.grad.norm() > 1e-5 * weight.grad.norm()
            assert learns == (key not in taken_out), key
    if later:
        assert not take_step(net, x)
    unchanged = dict(case.net.named_parameters())
    assert all(p.grad is None for p in unchanged.values()), "a copy trains alone"


@each(LARGE)
def test_a_seed_builds_the_same_network(case):
    again = build(case.name).state_dict()
    for key, value in case.net.state_dict().items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, again[key]), key  # but what the case has made it see


@each(LARGE)
def test_state_goes_into_a_network_of_another_seed(case, tmp_path):
    other = build(case.name, seed=1).eval()
    assert not all(map(torch.equal, other.parameters(), case.net.parameters()))
    other.load_state_dict(case.net.state_dict())
    with torch.no_grad():
        assert_same_bits(other(case.x), case.logits)
        if SIZES[case.name] <= SMALL:
            assert_same_bits(through_a_file(case, tmp_path)(case.x), case.logits)


def through_a_file(case: Case, folder: Path) -> nn.Module:
    channels, size = case.takes.channels, (case.side_px, case.side_px)
    preprocessing = Preprocessing(
        channels=channels, size_px=size, resize="squash", mean=(0,) * channels, std=(1,) * channels
    )
    card = Card(
        architecture=case.name,
        num_classes=case.num_classes,
        in_channels=channels,
        input_size=size,
        classes=tuple(map(str, range(case.num_classes))),
        preprocessing=preprocessing,
    )
    save_weights(folder / "weights.safetensors", case.net, card)
    return load_weights(folder / "weights.safetensors", model=case.name).model


class AllDouble(TorchDispatchMode):
    """Refuses an operation that takes or hands out real numbers of any other type than float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, Tensor) and value.is_floating_point():
                assert value.dtype == torch.float64, f"{func} on {value.dtype}"
        return out


@each(LARGE, stable=True)
def test_same_network_in_double_in_channels_last_and_row_by_row(case):
    """Tight in float64, where the order of sums shows how the network amplifies the last bit.

    A bit of float32 is 2^29 of float64's, so that rounding tells what float32 may differ by: that
    many times it, and 16 for luck. Small networks see twice the side: the smallest pictures may end
    as maps of one pixel, in which all layouts are the same.
    """
    plain, x, logits = case.net, case.x, case.logits
    last = torch.channels_last
    with torch.no_grad():
        if SIZES[case.name] <= SMALL and case.takes.sizes != "fixed":
            side_px = 2 * case.side_px
            plain, x = build(case.name, side_px=side_px), draw(case.name, side_px)
            train(plain, x)
            logits = plain.eval()(x)
        net = copy.deepcopy(plain).to(memory_format=last)
        turned = net(x.to(memory_format=last))
        net, x = copy.deepcopy(plain).double(), x.double()
        with AllDouble():
            exact = net(x)
        scale = exact.abs().max()
        row = net(x[1:2])
        turned_exact = net.to(memory_format=last)(x.to(memory_format=last))
    assert (row - exact[1:2]).abs().max() <= 1e-12 * scale
    rounding = (turned_exact - exact).abs().max()
    assert rounding <= 1e-8 * scale
    atol = (1e-5 * scale + 2**33 * rounding).item()
    torch.testing.assert_close(turned.double(), exact, rtol=0, atol=atol)
    torch.testing.assert_close(logits.double(), exact, rtol=0, atol=atol)
