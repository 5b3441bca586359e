"""Weights of other programs: bound to their variant, prepared as theirs, read without trust."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import sys
import urllib.error
import zipfile

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import deepen
from deepen.cli import main
from deepen.data.preprocess import Preprocessing
from deepen.errors import InputError, WorkError
from deepen.models import create_model, get_architecture, list_models
from deepen.weights import foreign, from_torchvision, load_weights, read_card, unpickle
from deepen.weights.convert import Assumed, Meant, contents, convert
from deepen.weights.match import fitting, renamed
from deepen.weights.names import TIMM, TORCHVISION, namesake

QUICK = ("alexnet", "vgg11", "googlenet", "resnet18", "resnet50")


def some(table, quick=QUICK):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in table]


@pytest.fixture
def in_this_process(monkeypatch):
    """Pickles are read here, without a limit of memory: a new process takes seconds."""

    def read(path, output, max_bytes):
        answer = unpickle.main(str(path), str(output), max_bytes)
        if "error" in answer:
            raise InputError(f"{path}: {answer['error']}")
        return answer

    monkeypatch.setattr(unpickle, "limit_memory", lambda more_bytes: None)
    monkeypatch.setattr(foreign, "_unpickle", read)


@pytest.fixture
def few_networks(monkeypatch):
    """Networks that an error may name: to go through all of them takes seconds."""
    monkeypatch.setattr("deepen.weights.match._known", lambda: ["resnet20", "resnet18"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's hub without a network: `hub[url]` is the state dict that lies there."""
    there, asked = {}, []

    def download(url, dst, hash_prefix=None, progress=True):
        asked.append((url, hash_prefix))
        if url not in there:
            raise urllib.error.URLError("no network")
        torch.save(there[url], dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    there["asked"] = asked
    return there


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """The Hugging Face hub without a network: a folder for each repository."""
    import huggingface_hub

    def download(repository, name, revision=None):
        file = tmp_path / repository / name
        if not file.is_file():
            error = huggingface_hub.errors.EntryNotFoundError
            if not file.parent.is_dir():
                error = huggingface_hub.errors.LocalEntryNotFoundError
            raise error(f"no {name}")
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), np.uint8)
    return Image.fromarray(pixels).resize((610, 400), Image.Resampling.BICUBIC)


def prepared(photo, preprocessing: Preprocessing):
    return preprocessing.normalize(torch.from_numpy(preprocessing.fit(photo))[None])


AS_HERE = Meant(shortcut="as-here")


def small(name="resnet20", **changes):
    net = create_model(name, **changes)
    net(torch.randn(4, 3, 32, 32))
    return net


# Names


def on_meta(make):
    with torch.device("meta"):
        return {key: value.shape for key, value in make().state_dict().items()}


@pytest.mark.parametrize("theirs", some(TORCHVISION))
def test_torchvisions_names_are_networks_of_the_same_keys_and_shapes(theirs):
    slow = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    expected = on_meta(lambda: torchvision.models.get_model(theirs, **slow))
    assert on_meta(lambda: create_model(TORCHVISION[theirs])) == expected


@pytest.mark.parametrize("theirs", some(TIMM, ("vgg11", "resnet18")))
def test_timms_names_are_networks_of_the_same_keys_and_shapes(theirs):
    with torch.device("meta"):
        net = timm.create_model(theirs)
    assert fitting(net.state_dict(), [TIMM[theirs]])


@pytest.mark.parametrize("name", some(list_models(), ("resnet20", "vgg16", "densenet121")))
def test_our_own_keys_are_left_alone(name):
    with torch.device("meta"):
        keys = list(create_model(name).state_dict())
    assert list(renamed(dict.fromkeys(keys, torch.zeros(1)))) == keys


def test_namesakes_are_networks_of_ours():
    assert namesake("resnet50") == "resnet50_v1_5"
    assert namesake("alexnet") == "alexnet_one_tower"
    assert namesake("resnet18") is None
    assert {*TORCHVISION.values(), *TIMM.values()} <= {*list_models()}


# Key maps


def test_densenets_of_torchvisions_checkpoints_have_their_dots_taken_out():
    ours = on_meta(lambda: create_model("densenet121"))
    old = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2")
        .replace("conv1", "conv.1").replace("conv2", "conv.2"): torch.empty(shape, device="meta")
        for key, shape in ours.items()
    }  # fmt: skip
    assert old.keys() != ours.keys()
    assert {key: value.shape for key, value in renamed(old).items()} == ours


def test_timms_vgg_slides_its_first_hidden_layer_over_maps_that_it_just_covers():
    slides = torch.nn.Conv2d(2, 5, 7)
    state = {f"pre_logits.fc1.{key}": value for key, value in slides.state_dict().items()}
    layer = renamed({**state, "head.fc.bias": slides.bias})
    assert list(layer) == ["classifier.0.weight", "classifier.0.bias", "classifier.6.bias"]
    maps = torch.randn(3, 2, 7, 7)
    ours = maps.flatten(1) @ layer["classifier.0.weight"].T + layer["classifier.0.bias"]
    torch.testing.assert_close(ours, slides(maps).flatten(1))


@pytest.mark.slow
def test_timms_vgg_gives_its_logits(in_this_process, tmp_path):
    theirs = timm.create_model("vgg11", num_classes=3).eval()
    save_file(theirs.state_dict(), tmp_path / "vgg.safetensors")
    path, *_ = convert(tmp_path / "vgg.safetensors", "vgg11", tmp_path / "o.safetensors")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(deepen.load(path)(x), theirs(x), rtol=1e-4, atol=1e-5)


# torchvision's weights


def test_imagenet_weights_come_with_all_that_torchvision_says(hub, photo, in_this_process):
    enum = torchvision.models.ResNet50_Weights
    theirs = torchvision.models.resnet50()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.1)
    hub[enum.IMAGENET1K_V2.url] = theirs.state_dict()
    model, card, _ = load_weights("imagenet", model="resnet50_v1_5")
    assert hub["asked"] == [(enum.IMAGENET1K_V2.url, "11ad3fa6")]
    assert card.architecture == "resnet50_v1_5"
    assert card.classes == tuple(enum.IMAGENET1K_V2.meta["categories"])
    assert card.score == {"top1": pytest.approx(0.80858), "top5": pytest.approx(0.95434)}
    assert card.preprocessing.resize_px == 232
    x = enum.IMAGENET1K_V2.transforms()(photo)[None]
    torch.testing.assert_close(prepared(photo, card.preprocessing), x, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        expected = theirs.double().eval()(x.double())
        torch.testing.assert_close(model.double()(x.double()), expected, rtol=1e-9, atol=1e-9)


def test_imagenet_weights_are_fetched_once_and_only_when_asked(hub, in_this_process):
    enum = torchvision.models.ResNet18_Weights
    create_model("resnet18")
    assert hub["asked"] == []
    theirs = torchvision.models.resnet18()
    hub[enum.IMAGENET1K_V1.url] = theirs.state_dict()
    net = deepen.create_model("resnet18", weights="imagenet1k_v1")
    assert torch.equal(net.fc.weight, theirs.fc.weight)
    tuned = deepen.create_model("resnet18", num_classes=4, weights="imagenet")
    assert tuned.fc.weight.shape == (4, 512)
    assert torch.equal(tuned.conv1.weight, theirs.conv1.weight)
    assert len(hub["asked"]) == 1


@pytest.mark.parametrize(
    "theirs", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_networks_that_torchvision_feeds_otherwise_are_fed_so(theirs, hub, photo, in_this_process):
    net = torchvision.models.get_model(theirs, init_weights=False, transform_input=True)
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 299, 299))  # so that the input is felt in the logits
    member = torchvision.models.get_model_weights(theirs).DEFAULT
    hub[member.url] = net.state_dict()
    model, card, _ = load_weights("imagenet", model=TORCHVISION[theirs])
    with torch.no_grad():
        x = member.transforms()(photo)[None]
        expected = net.eval()(x)
        ours = model(prepared(photo, card.preprocessing))
        assert (model(x) - expected).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet50", "torchvision's resnet50 is resnet50_v1_5 here"),
        ("alexnet", "torchvision's alexnet is alexnet_one_tower here"),
        ("googlenet", "torchvision's googlenet is googlenet_bn here"),
        ("lenet5", "torchvision has no lenet5"),
        ("resnet51", "unknown model 'resnet51'; nearest: "),
        (None, "for which --model"),
    ],
)
def test_imagenet_weights_are_refused_to_other_networks(model, words, hub):
    with pytest.raises(InputError, match=words):
        load_weights("imagenet", model=model)
    assert hub["asked"] == []


def test_a_version_that_torchvision_lacks_and_a_failed_download_are_told(hub):
    with pytest.raises(InputError, match="unknown weights of torchvision's resnet18"):
        deepen.create_model("resnet18", weights="imagenet1k_v2")
    with pytest.raises(WorkError, match=r"resnet18-f37072fd\.pth: could not be fetched"):
        deepen.create_model("resnet18", weights="imagenet")


def test_each_version_there_is_can_be_prepared():
    for theirs, variant in TORCHVISION.items():
        for member in torchvision.models.get_model_weights(theirs):
            if member.meta["categories"]:  # vgg16 has one without a classifier
                made = from_torchvision.preprocessing_of(theirs, member)
                assert made.size_px == (get_architecture(variant).takes.size_px,) * 2


# timm's weights


def timms(folder, name="resnet18", tag="a1_in1k", **arguments):
    net = timm.create_model(f"{name}.{tag}", **arguments)
    where = folder / "timm" / f"{name}.{tag}"
    timm.models.save_for_hf(net, where, safe_serialization=True)
    return net.eval(), where


def test_hub_weights_come_with_timms_preprocessing(hugging_face, photo):
    theirs, _ = timms(hugging_face)
    model, card, _ = load_weights("hf-hub:timm/resnet18.a1_in1k")
    assert card.architecture == "resnet18"
    assert card.classes == tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
    config = timm.data.resolve_data_config(pretrained_cfg=theirs.pretrained_cfg)
    assert config["interpolation"] == card.preprocessing.interpolation == "bicubic"
    x = timm.data.create_transform(**config)(photo)[None]
    torch.testing.assert_close(prepared(photo, card.preprocessing), x, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_hub_weights_of_a_users_own_classes(hugging_face):
    _, where = timms(hugging_face, num_classes=3, in_chans=1)
    config = json.loads((where / "config.json").read_text())
    config |= {"label_names": ["n2", "n0", "n1"], "label_descriptions": {"n0": "tench"}}
    (where / "config.json").write_text(json.dumps(config))
    card = load_weights("hf-hub:timm/resnet18.a1_in1k@main", model="resnet18").card
    assert card.classes == ("n2", "tench", "n1")
    assert (card.in_channels, card.num_classes) == (1, 3)
    assert card.preprocessing.mean == tuple(config["pretrained_cfg"]["mean"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet50"}, "weights of resnet50, which is resnet50_v1_5 here"),
        ({"architecture": "resnetv2_50"}, "unknown network of .* 'resnetv2_50'; nearest: resnet50"),
        ({"model_args": {"act_layer": "silu"}}, "another network than resnet18: act_layer=silu"),
        ({"model_args": {"global_pool": "max"}}, "another network than resnet18: global_pool=max"),
        ({"pretrained_cfg": {}}, "does not say how a picture is prepared"),
        ({"architecture": None}, "names no architecture|unknown network"),
    ],
)
def test_hub_weights_of_other_networks_are_refused(change, words, hugging_face):
    folder = hugging_face / "timm" / "x"
    folder.mkdir(parents=True)
    config = {"architecture": "resnet18", "num_classes": 1000, **change}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        load_weights("hf-hub:timm/x", model="resnet50" if "resnet50" in words else None)


def test_what_the_hub_lacks_is_told(hugging_face, monkeypatch):
    folder = hugging_face / "timm" / "x"
    with pytest.raises(WorkError, match=r"hf-hub:timm/x: could not be fetched: no config\.json"):
        load_weights("hf-hub:timm/x")
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no config\.json; only safetensors of timm's"):
        load_weights("hf-hub:timm/x")
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json is not timm's"):
        load_weights("hf-hub:timm/x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'deepen\[hub\]'"):
        load_weights("hf-hub:timm/x")


# Files from elsewhere


def test_a_checkpoint_is_converted_once(tmp_path):
    """In a process of its own; all else that it holds is left behind."""
    net = small(num_classes=3)
    state = {f"module.{key}": value.half() for key, value in net.half().state_dict().items()}
    state = {key: value for key, value in state.items() if "num_batches" not in key}
    file = tmp_path / "a.pth"
    torch.save({"epoch": 3, "optimizer": {"lr": [0.1]}, "state_dict": state}, file)
    path, card, left_out = convert(file, "resnet20", classes=["a", "b", "c"], meant=AS_HERE)
    assert path == tmp_path / "a.safetensors"
    assert left_out == ("epoch", "optimizer")
    assert read_card(path) == card == load_weights(path, model="resnet20").card
    assert card.classes == ("a", "b", "c")
    assert card.preprocessing.resize == "squash"
    assert foreign.sha256_of(file) in card.source
    assert "assumed" in card.protocol
    loaded = deepen.load(path)
    assert loaded.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(
        loaded.layer2[0].bn1.running_var, net.layer2[0].bn1.running_var.float()
    )
    with pytest.raises(InputError, match="there is such a file"):
        convert(file, "resnet20", meant=AS_HERE)
    with pytest.raises(InputError, match="a weights file of deepen's already"):
        convert(path, "resnet20", tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"a pickle is not loaded; .deepen weights convert"):
        deepen.load(file)


def test_what_is_told_goes_before_what_is_usual(tmp_path, in_this_process):
    torch.save(create_model("resnet20", in_channels=1).state_dict(), tmp_path / "a.pth")
    told = Assumed(input_px=28, resize_px=30, mean=(0.1307,), std=(0.3081,))
    made = convert(tmp_path / "a.pth", "resnet20", assumed=told, meant=AS_HERE).card
    assert made.preprocessing == Preprocessing(
        channels=1, size_px=(28, 28), resize="shorter", resize_px=30, mean=(0.1307,), std=(0.3081,)
    )
    assert "as told" in made.protocol
    with pytest.raises(InputError, match="mean and std take 1 values"):
        convert(tmp_path / "a.pth", "resnet20", tmp_path / "b", assumed=Assumed(mean=(0.5,) * 3))
    with pytest.raises(InputError, match="has 10 classes; 2 names were given"):
        convert(tmp_path / "a.pth", "resnet20", tmp_path / "b", classes=["x", "y"])


def test_weights_that_name_no_network_are_not_taken_for_a_namesakes(tmp_path, in_this_process):
    theirs = torchvision.models.resnet50(num_classes=4)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="fits resnet50_v1_5, which is what torchvision and timm"):
        convert(tmp_path / "a.pth", "resnet50")
    right, *_ = convert(tmp_path / "a.pth", "resnet50_v1_5", tmp_path / "right")
    trusted, *_ = convert(
        tmp_path / "a.pth", "resnet50", tmp_path / "wrong", meant=Meant(trust_model=True)
    )
    with pytest.raises(InputError, match="holds resnet50_v1_5, not resnet50"):
        deepen.create_model("resnet50", weights=right)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(deepen.load(right)(x), expected, rtol=1e-4, atol=1e-4)
        assert (deepen.load(trusted)(x) - expected).abs().max() > 0.01


def test_a_checkpoint_of_torchvisions_is_known_by_its_digest(
    tmp_path, in_this_process, monkeypatch
):
    file = tmp_path / "renamed.pth"
    torch.save(torchvision.models.resnet50().state_dict(), file)
    digests = {"resnet50-0676ba61": foreign.sha256_of(file)[:8]}
    monkeypatch.setattr(
        from_torchvision, "_hash_prefix", lambda url: digests.get(url.split("/")[-1][:-4])
    )
    for trust_model in (False, True):
        with pytest.raises(InputError, match="weights of resnet50, which is resnet50_v1_5 here"):
            convert(file, "resnet50", meant=Meant(trust_model=trust_model))
    assert contents(file).torchvisions == "ResNet50_Weights.IMAGENET1K_V1"
    card = convert(file, "resnet50_v1_5").card
    assert card.classes[0] == "tench"
    assert card.preprocessing.resize_px == 256


def test_digests_are_in_the_names_of_torchvisions_files():
    assert from_torchvision.find_torchvision("0676ba61" + "0" * 56)[0] == "resnet50"
    assert from_torchvision.find_torchvision("0" * 64) is None


def test_auxiliary_classifiers_may_be_left_out(tmp_path, in_this_process, few_networks):
    theirs = torchvision.models.googlenet(
        num_classes=4, aux_logits=False, init_weights=False
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    path, card, _ = convert(tmp_path / "a.pth", "googlenet_bn")
    assert "without aux1, aux2, which starts afresh" in card.source
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(deepen.load(path)(x), theirs(x), rtol=1e-4, atol=1e-5)
    again, *_ = convert(tmp_path / "a.pth", "googlenet_bn", tmp_path / "b")
    one, two = deepen.load(path).state_dict(), deepen.load(again).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    del (state := theirs.state_dict())["conv1.conv.weight"]
    torch.save({**state, "aux1.fc2.bias": torch.zeros(4)}, tmp_path / "half.pth")
    with pytest.raises(InputError, match=r"missing aux1\.conv\.bn\.bias"):  # all of it or nothing
        convert(tmp_path / "half.pth", "googlenet_bn")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("fc.bias"), "missing fc.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"bn1.bias": torch.zeros(3)}), r"bn1.bias is \(3,\), not \(16,\)"),
        (lambda t: t.update({"bn1.bias": torch.zeros(16).int()}), "bn1.bias is int32, not float32"),
        (lambda t: t["fc.bias"].fill_(float("nan")), "NaN or infinite values in fc.bias"),
        (
            lambda t: t.update({"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}),
            "infinite .* fc.bias",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_wrong_tensors_are_named(change, words, kind, tmp_path, in_this_process, few_networks):
    tensors = create_model("resnet20").state_dict()
    change(tensors)
    file = tmp_path / f"a.{kind}"
    if kind == "pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    with pytest.raises(InputError, match=words) as caught:
        convert(file, "resnet20", tmp_path / "out")
    assert str(caught.value).startswith(f"{file}: not a whole resnet20: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_networks_weights_are_told_with_its_name(tmp_path, in_this_process, few_networks):
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"not a whole resnet34: missing .*; it fits resnet18$"):
        convert(tmp_path / "a.pth", "resnet34")
    with pytest.raises(InputError, match="unknown model 'resnet33'"):
        convert(tmp_path / "a.pth", "resnet33")


def test_a_factory_of_the_users_own_needs_no_names_of_classes(tmp_path, in_this_process):
    factory = "torchvision.models:resnet18"
    theirs = torchvision.models.resnet18(num_classes=2)
    torch.save({f"net.{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "a")
    path, *_ = convert(tmp_path / "a", factory, tmp_path / "unnamed")
    assert load_weights(path, model=factory).card.classes == ("0", "1")
    path, *_ = convert(tmp_path / "a", factory, tmp_path / "named", classes=["cat", "dog"])
    loaded = load_weights(path, model=factory)
    assert loaded.card.classes == ("cat", "dog")
    assert torch.equal(loaded.model.fc.weight, theirs.fc.weight)


class Wrapped(torch.nn.Module):
    """A network of a user's own, with names that look like a wrapper's and like timm's."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.model = torch.nn.ModuleDict({"head": torch.nn.ModuleDict()})
        self.model["head"]["fc"] = torch.nn.Linear(4, num_classes)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_of_a_users_own_network_stay(prefix, tmp_path, in_this_process):
    state = {f"{prefix}{key}": value for key, value in Wrapped(3).state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    factory = f"{__name__}:Wrapped"
    path, *_ = convert(tmp_path / "a.pth", factory)
    (weight, _) = state.values()
    loaded = load_weights(path, model=factory)
    assert torch.equal(loaded.model.state_dict()["model.head.fc.weight"], weight)
    assert loaded.card.num_classes == 3


# Pickles that are no weights


class Runs:
    """A pickle that runs a command where it is believed."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return (os.system, (self.command,))


def test_a_pickled_command_is_named_and_never_run(tmp_path, monkeypatch):
    """Not here, where no pickle is read at all, and not in the process that reads it."""
    mark, file = tmp_path / "ran", tmp_path / "a.pth"
    torch.save({"conv1.weight": torch.zeros(1), "payload": Runs(f"touch {mark}")}, file)

    def never(*arguments, **keywords):
        raise AssertionError("a pickle is read in this process")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"a\.pth: carries a pickled (posix|nt)\.system") as caught:
        convert(file, "resnet20", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_pickled_command_is_not_run_in_old_forms(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, file = tmp_path / "ran", tmp_path / "a.pth"
    payload = {"payload": Runs(f"touch {mark}")}
    torch.save(payload, file, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"carries a pickled (posix|nt)\.system"):
        convert(file, "resnet20")
    file.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(InputError, match=r"carries a pickled (posix|nt)\.system"):
        convert(file, "resnet20")
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists(), "believed, it runs"


class Marks(torch.nn.Module):
    """A network that says when it is made."""

    made = 0

    def __init__(self):
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=3)
        self.net.register_buffer("passing", torch.ones(2), persistent=False)

    def __setstate__(self, state):
        type(self).made += 1
        super().__setstate__(state)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_network_is_its_tensors_and_is_not_made(
    archive, tmp_path, in_this_process, monkeypatch
):
    monkeypatch.setattr(Marks, "made", 0)
    file, network = tmp_path / "a.pth", torch.nn.DataParallel(Marks())
    for checkpoint in (network, {"model": network, "epoch": 3}):
        torch.save(checkpoint, file, _use_new_zipfile_serialization=archive)
        (found,) = foreign.read_entries(file).tensors.values()
        expected = network.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    path, *_ = convert(file, "resnet18", tmp_path / "o")
    assert torch.equal(deepen.load(path).fc.weight, network.module.net.fc.weight)
    assert Marks.made == 0
    torch.load(file, weights_only=False)
    assert Marks.made == 1, "believed, it is made"


def test_an_object_that_is_no_network_is_told(tmp_path, in_this_process):
    torch.save(Runs(""), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"carries a pickled (posix|nt)\.system"):
        convert(tmp_path / "a.pth", "resnet20")
    torch.save(torch.Generator, tmp_path / "a.pth")
    with pytest.raises(InputError, match="no tensors by name"):
        convert(tmp_path / "a.pth", "resnet20")
    torch.save(torch.nn.ReLU(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"carries a pickled torch\.nn\.modules\.activation\.ReLU"):
        convert(tmp_path / "a.pth", "resnet20")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_a_small_file_may_not_take_much_memory(tmp_path):
    """An empty dictionary is one byte of a pickle, and 64 bytes of memory."""
    (tmp_path / "a.pth").write_bytes(b"\x80\x02(" + b"}" * 4_000_000 + b"t.")
    with pytest.raises(InputError, match="needs more memory than its size allows"):
        convert(tmp_path / "a.pth", "resnet20")


def test_what_unpacks_above_the_cap_is_refused(tmp_path, in_this_process):
    wide = tmp_path / "wide.pth"
    torch.save({"a": torch.zeros(1).expand(10**9)}, wide)  # one value, a billion times
    with pytest.raises(InputError, match="its tensors take 4,000 MB, above the cap"):
        convert(wide, "resnet20")
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    bomb = tmp_path / "bomb.pth"
    plain = zipfile.ZipFile(tmp_path / "plain.pth")
    with plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert bomb.stat().st_size < 10**5
    with pytest.raises(InputError, match="unpacks to 4 MB, above the cap"):
        convert(bomb, "resnet20", max_bytes=10**6)
    with pytest.raises(InputError, match="4 MB, above the cap of 1 MB"):
        convert(tmp_path / "plain.pth", "resnet20", max_bytes=10**6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!doctype html> 404", r"is a web page \(HTML\), not the weights"),
        (b"  <HTML><body>moved", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d", "is a Git LFS pointer"),
        (b'{"error": "Unauthorized"}', "is a JSON document"),
        (b"Access denied. ", "is text, not the weights"),
        (gzip.compress(b"weights", mtime=0), "is a gzip archive"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\xff\xd8\xff\xe0 and so on", "is a picture"),
        (b"PK\x03\x04 and so on", "truncated: a zip archive without its end"),
        (pickle.dumps([1, 2], protocol=2), "holds a list, no tensors by name"),
        (pickle.dumps([1, 2], protocol=2)[:-1], "truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_told(content, words, tmp_path, in_this_process):
    file = tmp_path / "a.pth"
    file.write_bytes(content)
    with pytest.raises(InputError, match=words):
        convert(file, "resnet20")


def test_checkpoints_without_tensors_by_name_are_told(tmp_path, in_this_process):
    file = tmp_path / "a.pth"
    torch.save([torch.zeros(2)], file)
    with pytest.raises(InputError, match="holds a list, no tensors by name"):
        convert(file, "resnet20")
    torch.save({"epoch": 1, "optimizer": {}}, file)
    with pytest.raises(InputError, match=r"no tensors by name, .* it has epoch, optimizer"):
        convert(file, "resnet20")
    torch.save({"a": torch.eye(2).to_sparse()}, file)
    with pytest.raises(InputError, match="a is sparse"):
        convert(file, "resnet20")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("code/constants.pkl", b"")
    with pytest.raises(InputError, match="a TorchScript program, which is not run"):
        convert(file, "resnet20")


@given(share=st.floats(0, 0.9999), new=st.booleans())
def test_a_cut_checkpoint_is_told_in_one_line(share, new, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    file = folder / "a.pth"
    torch.save({"a": torch.ones(50), "b": torch.ones(7)}, file, _use_new_zipfile_serialization=new)
    blob = file.read_bytes()
    file.write_bytes(blob[: int(share * len(blob))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpickle, "limit_memory", lambda more_bytes: None)
        error = unpickle.main(str(file), str(folder / "out"), 10**6)["error"]
    assert error
    assert "\n" not in error


def test_the_death_of_the_process_that_reads_is_told(tmp_path, monkeypatch):
    file, script = tmp_path / "a.pth", tmp_path / "dies.py"
    file.write_bytes(b"x")
    script.write_text("import os, sys\nprint('no room', file=sys.stderr)\nos._exit(3)\n")
    monkeypatch.setattr(unpickle, "__file__", str(script))
    with pytest.raises(InputError, match="the process that read it died with status 3 no room"):
        convert(file, "resnet20")
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(foreign, "_TIMEOUT_S", 0.2)
    with pytest.raises(InputError, match="not read within"):
        convert(file, "resnet20")


# The command line


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code


def test_commands(tmp_path, monkeypatch, capsys, in_this_process, few_networks):
    file, names = tmp_path / "a.pth", tmp_path / "names.txt"
    torch.save(small(num_classes=2).state_dict(), file)
    names.write_text("cat\ndog\n", encoding="utf-8")
    assert command(monkeypatch, "weights", "show", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["fits"] == ["resnet20"]
    words = ["weights", "convert", file, "--model", "resnet20", "--shortcut", "as-here"]
    words += ["--classes", names]
    assert command(monkeypatch, *words, "--mean", "0.4,0.5,0.6", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["path"] == str(tmp_path / "a.safetensors")
    assert made["card"]["classes"] == ["cat", "dog"]
    assert made["card"]["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert command(monkeypatch, "weights", "show", made["path"]) == 0
    assert "2: cat, dog" in capsys.readouterr().out
    assert command(monkeypatch, *words, "-o", tmp_path / "b", "--mean", "half") == 2
    assert "--mean half: numbers with commas between" in capsys.readouterr().err
    assert command(monkeypatch, *words, "-o", tmp_path / "b", "--max-mb", 1) == 2
    assert "above the cap" in capsys.readouterr().err
    assert command(monkeypatch, *words[:-1], tmp_path / "none") == 2
    assert "--classes" in capsys.readouterr().err
    assert command(monkeypatch, "weights", "names", "--json") == 0
    assert json.loads(capsys.readouterr().out)["timm"]["resnet50"] == "resnet50_v1_5"


def test_imagenet_weights_can_be_kept_as_a_file(
    hub, tmp_path, monkeypatch, capsys, in_this_process
):
    member = torchvision.models.ResNet18_Weights.DEFAULT
    hub[member.url] = torchvision.models.resnet18().state_dict()
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "weights", "convert", "imagenet", "--model", "resnet18") == 0
    assert capsys.readouterr().out.startswith("resnet18-imagenet.safetensors\n")
    card = read_card("resnet18-imagenet.safetensors")
    assert card.data == "ImageNet-1K"
    assert member.url in card.source
