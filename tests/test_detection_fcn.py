"""FCN: upsampling against torch's interpolation, the whole net against one put together by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepen.data.preprocess import Preprocessing
from deepen.detection.fcn import FCN, Upsampling, bilinear_kernel, scored_stages
from deepen.detection.networks import model_of
from deepen.errors import InputError
from deepen.models import create_model, takes_of
from deepen.models.resnet import BasicBlock, ResNet, Variant
from deepen.models.vgg import VGG, A, init_glorot
from deepen.training.blocks import PaperInit
from deepen.training.initialization import copy_layers
from deepen.weights import Card, load, save_weights


def small_vgg(hidden: int = 6) -> VGG:
    """VGG-A whose two fully connected layers have few units."""
    with torch.device("meta"):  # a hundred million weights that nobody needs
        net = VGG(A, "none", 10, 3)
    net.features.to_empty(device="cpu").apply(init_glorot)
    net.classifier[0], net.classifier[3] = nn.Linear(512 * 49, hidden), nn.Linear(hidden, hidden)
    net.classifier[6], net.num_features = nn.Linear(hidden, 10), hidden
    return net


def small_resnet() -> ResNet:
    return ResNet(Variant(BasicBlock, (1, 1, 1, 1), (8, 8, 16, 16)), 10, 3)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@pytest.mark.parametrize("learned", [True, False])
def test_upsampling_begins_as_bilinear_interpolation_at_the_edge_too(factor, learned):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    layer = Upsampling(3, factor, learned).double()
    wanted = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    ours = layer(x)
    assert torch.allclose(ours, wanted, atol=1e-6)
    up = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * up).sum(), x)[0] for y in (ours, wanted)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_the_kernel_is_the_authors_filler():
    """As Caffe's BilinearFiller is written: 1 - |i / f - c|, c = (2 f - 1 - f % 2) / (2 f)."""
    for factor in (2, 4, 8):
        k, f = 2 * factor, factor
        c = (2 * f - 1 - f % 2) / (2.0 * f)
        caffe = [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(k)] for y in range(k)]
        assert torch.allclose(bilinear_kernel(factor), torch.tensor(caffe))


def test_the_last_upsampling_is_fixed_and_the_others_learn():
    net = FCN(small_resnet(), 8, 5)
    learned = {name for name, _ in net.named_parameters() if "upsampling" in name}
    assert learned == {"upsampling.16.weight", "upsampling.8.weight"}
    assert not any(name.startswith("last") for name in net.state_dict())


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_on_vgg_it_is_the_net_put_together_by_hand(stride):
    """Convolutions of F, in float64, with copied weights; the picture needs filling up."""
    net = FCN(small_vgg(), stride, 5).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 3, 50, 70, dtype=torch.float64)
    weights = net.state_dict()

    def convolved(name: str, x: torch.Tensor, side: int) -> torch.Tensor:
        kernel = weights[f"{name}.weight"].reshape(-1, x.shape[1], side, side)
        return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=side // 2)

    maps, pools = F.pad(x, (0, 96 - 70, 0, 64 - 50)), []
    for layer, part in enumerate(net.backbone.features):
        if isinstance(part, nn.Conv2d):
            maps = F.relu(convolved(f"backbone.features.{layer}", maps, 3))
        elif isinstance(part, nn.MaxPool2d):
            maps = F.max_pool2d(maps, 2)
            pools.append(maps)
    for layer, side in ((0, 7), (3, 1)):
        maps = F.relu(convolved(f"backbone.classifier.{layer}", maps, side))
    total = convolved("scores.32", maps, 1)
    for finer, pool in ((16, pools[3]), (8, pools[2])):
        if finer >= stride:
            edged = F.pad(total, (1, 1, 1, 1), mode="replicate")
            kernel = weights[f"upsampling.{finer}.weight"]
            wide = F.conv_transpose2d(edged, kernel, stride=2)[..., 3:-3, 3:-3]
            total = convolved(f"scores.{finer}", pool, 1) + wide
    total = F.interpolate(total, scale_factor=stride, mode="bilinear", align_corners=False)
    with torch.no_grad():
        found = net(x)
    assert found.shape == (2, 5, 50, 70)
    assert torch.allclose(found, total[..., :50, :70], rtol=1e-6, atol=1e-6)


def test_a_finer_net_begins_as_the_coarser_one_that_it_goes_on_from():
    """Section 4.2: new score layers begin at 0 and 2x upsampling as bilinear interpolation."""
    torch.manual_seed(0)
    coarse, fine = (FCN(small_resnet(), stride, 5).eval() for stride in (32, 16))
    nn.init.normal_(coarse.scores["32"].weight)
    said = copy_layers(coarse, fine, PaperInit(), "coarse")
    assert "scores.32" in said
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        small = coarse.scores["32"](coarse.backbone.forward_features(x))
        twice = F.interpolate(small, scale_factor=2, mode="bilinear")
        wanted = F.interpolate(twice, scale_factor=16, mode="bilinear")
        assert torch.allclose(fine(x), wanted, atol=1e-4)


def test_a_classifier_gives_its_layers():
    torch.manual_seed(1)
    source, target = small_vgg(), FCN(small_vgg(), 8, 5)
    copy_layers(source, target, PaperInit(), "vgg")
    for name, tensor in source.state_dict().items():
        if not name.startswith("classifier.6"):
            assert torch.equal(tensor, target.state_dict()[f"backbone.{name}"]), name


@pytest.mark.parametrize(
    ("backbone", "size", "names"),
    [
        ("resnet18", 64, ["conv5_x", "conv4_x", "conv3_x"]),
        ("densenet121", 64, ["dense_block4", "dense_block3", "dense_block2"]),
        ("googlenet", 96, ["inception_5b", "inception_4e", "inception_3b"]),
    ],
)
def test_any_backbone_by_its_stages(backbone, size, names):
    net = create_model(model_of("fcn-8s", backbone), 4, 3, (size, size))
    assert isinstance(net, FCN)
    assert [name for _, name in net.stages.values()] == names
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 4, size, size)
    total = net(torch.zeros(2, 3, size, size)).sum()
    total.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_for_other_classes_all_but_the_scores_stays():
    """As `--weights` goes on from a trained network."""
    nets = [FCN(small_resnet(), 8, classes) for classes in (5, 7)]
    ours, theirs = (net.state_dict() for net in nets)
    other = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert {name.rpartition(".")[0] for name in other} == {*nets[0].classifier_names}


def test_vggs_maps_are_the_papers():
    with torch.device("meta"):
        vgg16 = create_model("vgg16")
    stages = scored_stages(vgg16, 8)
    assert stages == {32: (4096, "pool5"), 16: (512, "pool4"), 8: (256, "pool3")}
    takes = takes_of(model_of("fcn-8s", "vgg16"))
    assert takes is not None
    assert (takes.num_classes, takes.channels, takes.min_px) == (21, 3, 32)


def test_what_has_no_such_maps_is_refused():
    with pytest.raises(InputError, match="no maps 32 times smaller"):
        create_model(model_of("fcn-8s", "resnet20"), 4, 3)
    with pytest.raises(InputError, match="resnet18"):
        create_model(model_of("fcn-8s", "resnet81"), 4, 3)
    with pytest.raises(InputError, match="fcn-8s"):
        create_model("deepen.detection.networks:fcn-4s/resnet18", 4, 3)


def test_a_card_of_deepens_own_is_enough_and_imports_nothing_else(tmp_path):
    torch.manual_seed(2)
    net = create_model(model_of("fcn-32s", "resnet18"), 4, 3).eval()
    inputs = Preprocessing(
        channels=3, size_px=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    card = Card(
        architecture=model_of("fcn-32s", "resnet18"),
        num_classes=4,
        in_channels=3,
        input_size=(32, 32),
        classes=tuple("abcd"),
        preprocessing=inputs,
    )
    file = tmp_path / "net.safetensors"
    save_weights(file, net, card)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(file)(x), net(x))
    for name in ("fcn-32s/os:getcwd", "takes_of", "fcn-32s/"):
        odd = card.model_copy(update={"architecture": f"deepen.detection.networks:{name}"})
        save_weights(file, net, odd)
        with pytest.raises(InputError, match="say so to load it"):
            load(file)
