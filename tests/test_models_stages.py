"""Stages of every network, against torchvision's and timm's own maps and sizes, and by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from deepen.analysis.stages import Stage, stages
from deepen.analysis.subject import subject
from deepen.errors import InputError
from deepen.layers import ImageClassifier, stage_parameters
from deepen.models import create_model, get_architecture, list_models
from deepen.training import finetuning

# Over 2 s to trace or to export on 2 cores, or a sibling in the fast tests does the same.
LARGE = {
    *list_models("resnet1*"), *list_models("resnet[345]*"), *list_models("plain[345]*"),
    *list_models("plain110"), *list_models("preresnet*"), *list_models("densenet*"),
    *list_models("resnext*"), *list_models("wide_resnet*"), *list_models("inception*"),
    *list_models("highway_mlp[25]0"), *list_models("highway_mlp100"), *list_models("vgg1[369]*"),
} - {"resnet18", "wide_resnet16_8", "resnet50_nonlocal", "resnet50_deformable"}  # fmt: skip
ALL = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in list_models()
]
# torch.fx cannot follow a branch on a value, or a loop over an input's rows; says so itself.
UNTRACEABLE = {
    "resnet50_deformable": "cannot be used as inputs to control flow",
    "resnet50_deformable_v2": "cannot be used as inputs to control flow",
    "lstm": "Proxy object cannot be iterated",
    "lstm_1997": "Proxy object cannot be iterated",
}


def smallest(name: str) -> tuple[ImageClassifier, Tensor]:
    """A network without weights, in evaluation mode, and two of the smallest pictures it takes."""
    takes = get_architecture(name).takes
    px = takes.size_px if takes.sizes == "fixed" else takes.min_px
    with torch.device("meta"):
        net = create_model(name, input_size=px).eval()
        x = torch.empty(2, takes.channels, px, px)
    assert isinstance(net, ImageClassifier)
    return net, x


@pytest.mark.parametrize("name", list_models())
def test_stages_go_from_the_picture_to_the_features(name):
    whole = subject(name)
    net, (_, px, _) = whole.module, whole.input_shape
    assert isinstance(net, ImageClassifier)
    found = stages(net, whole.input_shape)
    assert [stage.name for stage in found] == [*net.stage_layers]
    sizes = [(px, px), *((stage.height, stage.width) for stage in found)]
    assert all(a >= b for a, b in pairwise(sizes))
    strides = [1, *(stage.stride for stage in found if stage.stride is not None)]
    assert all(b % a == 0 for a, b in pairwise(strides))
    last = found[-1]
    values = last.channels * (1 if net.averages_maps else last.height * last.width)
    assert values == net.num_features or net.num_features == 4096  # its head has layers of its own
    order = [id(p) for held in stage_parameters(net).values() for p in held]
    inside = {id(p) for p in net.parameters()}
    auxiliary = [net.get_submodule(path) for _, path in net.auxiliary_classifiers]
    late = {id(p) for module in auxiliary for p in module.parameters()}
    assert len(order) == len(inside)
    assert [i for i in order if i not in late] == [
        id(p) for p in net.parameters() if id(p) not in late
    ]


@pytest.mark.parametrize("name", list_models())
def test_least_size_is_true(name):
    """It stands once; the network runs on it, and one pixel less is refused or cannot be built."""
    takes = get_architecture(name).takes
    net, x = smallest(name)
    with torch.no_grad():
        assert net(x).shape == (2, takes.num_classes)
    if takes.sizes == "fixed":
        return
    assert net.min_px == takes.min_px
    less = takes.min_px - 1
    if less == 0:
        return
    with pytest.raises(InputError, match=f"of {takes.min_px} px at least"):
        create_model(name, input_size=less)
    if takes.sizes == "built" and not name.startswith("convnet4"):  # whose last map would be empty
        # A layer of no weights, which torch warns of, or a window larger than what it slides over.
        faults = (RuntimeError, ValueError, UserWarning)
        with pytest.raises(faults), torch.device("meta"):  # noqa: PT012
            build = get_architecture(name).build
            built = build(num_classes=10, in_channels=1, input_size=(less, less))
            built.eval()(torch.empty(1, 1, less, less))


# torchvision's module for each of our stages; the same keys, so the same weights.
RESNET = {"conv1": "relu", "conv2_x": "layer1", "conv3_x": "layer2", "conv4_x": "layer3",
          "conv5_x": "layer4"}  # fmt: skip
DENSENET = {
    "convolution": "features.relu0", "pooling": "features.pool0",
    **{f"dense_block{i}": f"features.denseblock{i}" for i in (1, 2, 3)},
    **{f"transition{i}": f"features.transition{i}" for i in (1, 2, 3)},
}  # fmt: skip
VGG_BN = {"conv1_1": "features.2", "pool1": "features.3", "conv2_1": "features.6",
          "conv3_1": "features.10", "conv3_2": "features.13", "conv5_2": "features.27",
          "pool5": "features.28"}  # fmt: skip
ALEXNET = {"conv1": "features.1", "pool1": "features.2", "conv2": "features.4",
           "conv3": "features.7", "conv4": "features.9", "conv5": "features.11",
           "pool5": "features.12"}  # fmt: skip
GOOGLENET = {
    "conv1": "conv1", "pool1": "maxpool1", "conv2_reduce": "conv2", "conv2": "conv3",
    "pool2": "maxpool2", "inception_3b": "inception3b", "pool3": "maxpool3",
    "inception_4a": "inception4a", "inception_4d": "inception4d", "pool4": "maxpool4",
    "inception_5b": "inception5b",
}  # fmt: skip
INCEPTION = {
    **{name: name for name in ("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3")},
    **{name: name for name in ("Mixed_5b", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7c")},
    "MaxPool_3a_3x3": "maxpool1", "MaxPool_5a_3x3": "maxpool2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "theirs", "modules"),
    [
        ("resnet18", "resnet18", RESNET),
        ("resnet50_v1_5", "resnet50", RESNET),
        ("resnext50_32x4d", "resnext50_32x4d", RESNET),
        ("wide_resnet50_2", "wide_resnet50_2", RESNET),
        ("densenet121", "densenet121", DENSENET),
        ("vgg11_bn", "vgg11_bn", VGG_BN),
        ("alexnet_one_tower", "alexnet", ALEXNET),
        ("googlenet_bn", "googlenet", GOOGLENET),
        ("inception_v3", "inception_v3", INCEPTION),
    ],
)
def test_maps_are_torchvisions(name, theirs, modules):
    ours = create_model(name).eval()
    assert isinstance(ours, ImageClassifier)
    extra = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(theirs, weights=None, **extra).eval()
    net.load_state_dict(ours.state_dict())
    seen: dict[str, Tensor] = {}
    for stage, path in modules.items():
        net.get_submodule(path).register_forward_hook(
            lambda module, x, y, stage=stage: seen.update({stage: y.clone()})
        )
    x = torch.randn(2, 3, 80, 75)
    with torch.no_grad():
        net(x)
        found = ours.forward_intermediates(x, modules)
    assert found.keys() == modules.keys()
    for stage, maps in seen.items():
        torch.testing.assert_close(found[stage], maps, rtol=1e-4, atol=1e-5, msg=stage)


def by_hand(net, x: Tensor) -> dict[str, dict[str, Tensor]]:
    """Stages of small networks, written out from their papers."""
    squash = lambda a: 1.7159 * torch.tanh(2 / 3 * a)  # noqa: E731
    name = type(net).__name__
    if name == "LeNet5":
        c1 = squash(net.c1(x))
        s2 = squash(net.s2(c1))
        s4 = squash(net.s4(squash(net.c3(s2))))
        return {"C1": c1, "S2": s2, "S4": s4, "C5": squash(net.c5(s4))}
    if name == "LeNet5ReLU":
        c1 = net.conv1(x).relu()
        c3 = net.conv2(F.max_pool2d(c1, 2)).relu()
        return {"C1": c1, "C3": c3, "S4": F.max_pool2d(c3, 2)}
    if name == "CifarResNet":
        c1 = net.bn1(net.conv1(x)).relu()
        c2 = net.layer1(c1.clone())
        return {"conv1": c1, "conv2_x": c2, "conv4_x": net.layer3(net.layer2(c2.clone()))}
    if name == "PreResNet":
        c1 = net.act1(net.conv1(x))
        c2 = net.stages[0](c1)
        return {"conv1": c1, "conv2_x": c2, "conv4_x": net.act2(net.stages[2](net.stages[1](c2)))}
    if name == "AlexNet":
        c1 = net.conv1(x).relu()
        p1 = F.max_pool2d(net.norm1(c1), 3, 2)
        c3 = net.conv3(F.max_pool2d(net.norm2(net.conv2(p1).relu()), 3, 2)).relu()
        c5 = net.conv5(net.conv4(c3).relu()).relu()
        return {"conv1": c1, "pool1": p1, "conv3": c3, "conv5": c5, "pool5": F.max_pool2d(c5, 3, 2)}
    if name == "ZFNet":
        p1 = F.max_pool2d(net.conv1(x).relu(), 3, 2, ceil_mode=True)
        return {"pool1": p1, "norm1": net.norm1(p1), "conv2": net.conv2(net.norm1(p1)).relu()}
    if name == "Highway19":
        s1 = F.max_pool2d(net.stage1(x), 2)
        s3 = net.stage3(F.max_pool2d(net.stage2(s1), 2))
        return {"stage1": s1, "stage3": s3, "conv18": net.conv18(s3).relu()}
    if name == "HighwayMnist":
        c1 = net.features[1](x).relu()
        h3 = net.features[4](net.features[3](c1))
        return {"conv1": c1, "highway3": h3, "pool1": F.max_pool2d(h3, 3, 2, ceil_mode=True)}
    if name == "NetworkInNetwork":
        m1 = net.features[0](x)
        p1 = F.max_pool2d(m1, 3, 2, ceil_mode=True)
        return {"mlpconv1": m1, "pool1": p1, "mlpconv2": net.features[3](p1)}
    if name == "CudaConvNet":
        c1 = net.features[0](x)
        p1 = F.max_pool2d(c1, 3, 2, ceil_mode=True).relu()
        return {"conv1": c1, "pool1": p1, "conv2": net.features[3](p1).relu()}
    if name == "InceptionResNet":
        a = net.repeat(net.mixed_5b(F.max_pool2d(net.conv2d_4a(net.conv2d_3b(F.max_pool2d(
            net.conv2d_2b(net.conv2d_2a(net.conv2d_1a(x))), 3, 2))), 3, 2)))  # fmt: skip
        return {"inception_resnet_a": a, "reduction_a": net.mixed_6a(a)}
    if name == "InceptionV4":
        a4 = net.features[:10](x)
        return {"inception_a4": a4, "reduction_b": net.features[10:19](a4)}
    if name == "VGG":
        return {"norm1": net.features[:3](x), "pool1": net.features[:4](x)}
    if name == "GoogLeNet":
        p1 = net.norm(F.max_pool2d(net.conv1(x), 3, 2, ceil_mode=True))
        return {"pool1": p1, "conv2": net.norm(net.conv3(net.conv2(p1)))}
    if name == "Perceptron":
        return {"input": x.flatten(1), "hidden1": net.hidden[0](x.flatten(1)).sigmoid()}
    if name == "HighwayMLP":
        return {"plain": net.fc1(x.flatten(1)).relu()}
    assert name == "RowLSTM"
    return {"lstm": net.lstm(x.transpose(1, 2).flatten(2))}


@pytest.mark.parametrize(
    "name",
    [
        "mlp", "lenet5", "lenet5_relu", "lstm", "highway_mlp10", "highway10_16", "highway19",
        "resnet20", "plain20", "preresnet110", "wide_resnet16_8", "alexnet", "zfnet", "nin_cifar",
        "convnet4_relu", "inception_resnet_v2_slim", "inception_v4", "vgg11_lrn", "googlenet",
    ],
)  # fmt: skip
def test_maps_are_those_by_hand(name):
    takes = get_architecture(name).takes
    px = takes.size_px if takes.sizes == "fixed" else takes.min_px
    px = px if px > 1 else 12
    net = create_model(name, input_size=px).eval()
    assert isinstance(net, ImageClassifier)
    with torch.no_grad():
        x = torch.randn(2, takes.channels, px, px)
        expected = by_hand(net, x)
        found = net.forward_intermediates(x, expected)
        assert [*found] == [*expected]
        for stage, maps in expected.items():
            torch.testing.assert_close(found[stage], maps, msg=stage)  # type: ignore[arg-type]


class InPlace(ImageClassifier):
    """A stage whose output the next one writes over, and one that must not be run."""

    def __init__(self):
        super().__init__()
        self.in_channels, self.features = 3, nn.Sequential()
        self._add_stage("conv", nn.Conv2d(3, 4, 3))
        self._add_stage("relu", nn.ReLU(inplace=True), nn.Identity())
        self.stage_layers["fault"] = (self.fail,)

    @staticmethod
    def fail(x: Tensor) -> Tensor:
        raise AssertionError("run too far")


def test_maps_are_copies_and_no_stage_is_run_in_vain():
    net, x = InPlace(), torch.randn(2, 3, 8, 8)
    found = net.forward_intermediates(x, ["relu", "conv"])
    assert [*found] == ["conv", "relu"]
    assert torch.equal(found["conv"], net.features[0](x))
    assert (found["conv"] < 0).any()
    assert torch.equal(found["relu"], found["conv"].relu())
    found["conv"].sum().backward()  # and the gradient flows through the copy
    assert net.features[0].weight.grad.abs().sum() > 0
    assert net.forward_intermediates(x, []) == {}
    with pytest.raises(AssertionError, match="run too far"):
        net.forward_intermediates(x, ["fault"])


def test_wrong_words_and_inputs_are_refused():
    net = create_model("resnet20")
    assert isinstance(net, ImageClassifier)
    with pytest.raises(InputError, match="unknown stage 'conv5_x'; nearest: conv4_x"):
        net.forward_intermediates(torch.zeros(1, 3, 32, 32), ["conv1", "conv5_x"])
    with pytest.raises(InputError, match="takes 3 input channels, got 1"):
        net.forward_intermediates(torch.zeros(1, 1, 32, 32), ["conv1"])
    with pytest.raises(InputError, match="Linear names no stages"):
        stages(nn.Linear(2, 2), (3, 32, 32))
    with pytest.raises(InputError, match="takes pictures of 8 px at least, got 7x7"):
        stages(net, (3, 7, 7))


TIMM = [
    ("resnet18", "resnet18", ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]),
    ("resnet101_v1_5", "resnet101", ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]),
    ("resnext50_32x4d", "resnext50_32x4d", ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]),
    ("preresnet50", "resnetv2_50", ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]),
    ("densenet121", "densenet121",
     ["convolution", "dense_block1", "dense_block2", "dense_block3", "dense_block4"]),
    ("vgg16", "vgg16", ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", "pool5"]),
    ("inception_v3", "inception_v3",
     ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]),
    ("inception_v4", "inception_v4",
     ["stem3", "stem4", "inception_a4", "inception_b7", "inception_c3"]),
    ("inception_resnet_v2_slim", "inception_resnet_v2",
     ["conv2d_2b", "conv2d_4a", "inception_resnet_a", "inception_resnet_b", "conv2d_7b"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "theirs", "names"), TIMM)
def test_channels_and_strides_are_timms(name, theirs, names):
    with torch.device("meta"):
        info = timm.create_model(theirs, features_only=True).feature_info
    expected = [*zip(info.channels(), info.reduction(), strict=True)]
    whole = subject(name)
    found = {stage.name: stage for stage in stages(whole.module, whole.input_shape)}
    assert [(found[stage].channels, found[stage].stride) for stage in names] == expected


def test_sizes_are_those_of_a_real_run():
    net = create_model("inception_v3").eval()
    assert isinstance(net, ImageClassifier)
    with torch.no_grad():
        found = net.forward_intermediates(torch.zeros(1, 3, 100, 90), net.stage_layers)
    known = stages(net, (3, 100, 90))
    assert [(s.name, s.channels, s.height, s.width) for s in known] == [
        (name, *maps.shape[1:]) for name, maps in found.items()
    ]
    assert not net.training
    assert all(p.device.type == "cpu" for p in net.parameters())


def test_units_have_no_size_and_no_stride():
    whole = subject("lenet5")
    assert stages(whole.module, whole.input_shape)[-2:] == [
        Stage("C5", 120, 1, 1, 4),
        Stage("F6", 84, 1, 1, None),
    ]


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained")  # auxiliary heads: training only
@pytest.mark.parametrize("name", ALL)
def test_torch_fx_traces_it(name):
    net, x = smallest(name)
    path = next(
        path for path, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    )
    if name in UNTRACEABLE:
        with pytest.raises(torch.fx.proxy.TraceError, match=UNTRACEABLE[name]):
            create_feature_extractor(net, [path])
        return
    traced = torch.fx.symbolic_trace(net)
    assert traced(x).shape == net(x).shape
    with pytest.raises(InputError, match="input channels"):
        traced(torch.empty(1, 7, *x.shape[2:], device="meta"))
    shape = create_feature_extractor(net, [path], suppress_diff_warning=True)(x)[path].shape
    seen: list[torch.Size] = []
    net.get_submodule(path).register_forward_hook(lambda m, i, o: seen.append(o.shape))
    net(x)
    assert seen == [shape]


@pytest.mark.parametrize("name", ALL)
def test_torch_export_exports_it(name):
    net, x = smallest(name)
    exported = torch.export.export(net, (x,))
    assert exported.module()(x).shape == net(x).shape
    for node in exported.graph.nodes:  # ONNX has no such argument, and its export drops it
        if "avg_pool" in str(node.target):
            assert len(node.args) < 7, node


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "preresnet110", "alexnet", "convnet4_relu"])
def test_traced_and_exported_it_computes_the_same(name):
    takes = get_architecture(name).takes
    px = takes.size_px if takes.sizes == "fixed" else takes.min_px
    net, x = create_model(name, input_size=px).eval(), torch.randn(2, takes.channels, px, px)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(torch.fx.symbolic_trace(net)(x), expected)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)


def names_of(net: nn.Module) -> list[list[str]]:
    """Which layers learn at one rate, by the first parts of their names."""
    known = {id(p): name.rpartition(".")[0] for name, p in net.named_parameters()}
    return [sorted({known[id(p)] for p in group}) for group in finetuning.stages(net)]


def test_rates_go_by_stages():
    """Groups of He et al.'s table, of VGG's layers, and what has no matrix with what it follows."""
    with torch.device("meta"):
        nets = {n: create_model(n) for n in ("lenet5", "vgg11_bn", "preresnet164", "inception_v3")}
        theirs = torchvision.models.vgg11_bn()
    assert names_of(nets["lenet5"]) == [["c1", "s2"], ["c3", "s4"], ["c5"], ["f6"]]
    firsts = [group[0] for group in names_of(nets["preresnet164"])]
    assert [first.split(".")[:2] for first in firsts] == [
        ["act1"], ["stages", "0"], ["stages", "1"], ["act2"], ["fc"],
    ]  # fmt: skip
    groups = names_of(nets["vgg11_bn"])
    assert groups[:2] == [["features.0", "features.1"], ["features.4", "features.5"]]
    assert groups[-1] == ["classifier.0", "classifier.3", "classifier.6"]
    assert groups == names_of(theirs)  # a network that names no stages: `features` one by one
    auxiliary, last = names_of(nets["inception_v3"])[-2:]
    assert {name.split(".")[0] for name in auxiliary} == {"AuxLogits"}
    assert last == ["fc"]
