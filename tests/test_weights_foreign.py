"""Checkpoints as people have them: found whole wherever they lie, and never guessed."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import json
import pathlib
import pickle
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import deepen
from deepen import api
from deepen.cli import main
from deepen.errors import InputError
from deepen.evaluation.intervals import interval
from deepen.models import create_model
from deepen.training.blocks import PaperInit
from deepen.training.initialization import build_network, read_start
from deepen.weights import foreign, load_weights, unpickle
from deepen.weights.convert import Assumed, Meant, contents, convert
from deepen.weights.foreign import read_entries
from deepen.zoo import zoo_file


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Pickles are read here, without a limit of memory: a new process takes seconds."""

    def read(path, output, max_bytes):
        answer = unpickle.main(str(path), str(output), max_bytes)
        if "error" in answer:
            raise InputError(f"{path}: {answer['error']}")
        return answer

    monkeypatch.setattr(unpickle, "limit_memory", lambda more_bytes: None)
    monkeypatch.setattr(foreign, "_unpickle", read)
    few = ["resnet20", "resnet18", "resnet34", "vgg11"]  # all of them take seconds
    monkeypatch.setattr("deepen.weights.match._known", lambda: few)
    monkeypatch.setattr("deepen.weights.convert.list_models", lambda: few)


@pytest.fixture(scope="module")
def theirs():
    """torchvision's ResNet-18 of three classes."""
    return torchvision.models.resnet18(num_classes=3).eval()


def assert_is(path, theirs):
    expected, found = theirs.state_dict(), deepen.load(path).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# Whatever lies beside


class Config(dict):
    """A dictionary of a user's own class."""


class Meter:
    """An object of a user's own class."""

    def __init__(self):
        self.value = 3


class Phase(enum.Enum):
    TRAIN = 1


def litter():
    """What training programs put beside the weights."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()
    return {
        "epoch": 90, "arch": "resnet18", "best_acc1": torch.tensor(69.8), "best": np.float64(91.2),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x")), "array": np.arange(3),
        "history": collections.defaultdict(list, {"loss": [1.0]}), "config": Config(a=1),
        "when": datetime.datetime(2020, 1, 1), "phase": Phase.TRAIN, "meter": Meter(),
        "optimizer": optimizer.state_dict(), "criterion": nn.CrossEntropyLoss(torch.ones(3)),
        "set": {1, 2}, "class": Meter, "size": torch.Size([1]), "device": torch.device("cpu"),
        "rng": torch.get_rng_state(), "big": 10**30, "nothing": None,
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("archive", [True, False])
def test_all_that_lies_beside_is_passed_over(archive, protocol, theirs, tmp_path):
    file = tmp_path / "model_best.pth.tar"
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(
        {**litter(), "state_dict": state},
        file,
        _use_new_zipfile_serialization=archive,
        pickle_protocol=protocol,
    )
    path, card, left_out = convert(file, "resnet18", tmp_path / "o.safetensors")
    assert_is(path, theirs)
    assert {"best_acc1", "rng", "args", "optimizer", "criterion (1 tensor)"} <= {*left_out}
    assert "state_dict, below module." in card.source


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_of_all_kinds_are_read_to_the_bit(archive, tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "permuted": base.permute(2, 0, 1)[1:], "shared": base[1], "scalar": torch.tensor(3.0),
        "stretched": base[:1].expand(5, 3, 4), "parameter": nn.Parameter(base.half()),
        "empty": torch.ones(0, 3), "float64": base.double(), "bool": base > 3,
        "bfloat16": base.bfloat16(), "int64": base.long(), "int8": base.char(),
        "uint16": base.to(torch.uint16), "float8": base.to(torch.float8_e4m3fn),
        "channels last": base[None].to(memory_format=torch.channels_last),
    }  # fmt: skip
    torch.save({"model": tensors}, tmp_path / "a", _use_new_zipfile_serialization=archive)
    found = read_entries(tmp_path / "a").tensors["model"]
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert torch.equal(found[name].double(), value.detach().double()), name


class Part:
    """Three values of a place, from the third on, as torch had it before 0.4."""


class OldTensor:
    """Two of these values."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor, (Part(), 1, (2,), (1,))


class OldPickler(pickle.Pickler):
    def persistent_id(self, obj):
        whole = ("storage", torch.FloatStorage, "7", "cpu", 6, ("8", 2, 3))
        return whole if isinstance(obj, Part) else None


def test_the_oldest_files_are_read(tmp_path):
    """As torch itself reads them: a mark, a version, the machine, the objects, keys, values."""
    with open(tmp_path / "a.pth", "wb") as file:
        pickle.dump(torch.serialization.MAGIC_NUMBER, file, protocol=2)
        pickle.dump(torch.serialization.PROTOCOL_VERSION, file, protocol=2)
        pickle.dump({"little_endian": True}, file, protocol=2)
        OldPickler(file, protocol=2).dump({"a": OldTensor()})
        pickle.dump(["7"], file, protocol=2)
        file.write(struct.pack("<q6f", 6, *range(6)))
    expected = torch.load(tmp_path / "a.pth", weights_only=False)["a"]
    assert expected.tolist() == [3, 4]
    assert torch.equal(read_entries(tmp_path / "a.pth").tensors[""]["a"], expected)


def test_halves_of_characters_are_told_or_passed_over(tmp_path):
    torch.save({"a": torch.ones(1), "b\ud800": {"c": torch.ones(1)}, "d\ud800": 1}, tmp_path / "a")
    found = read_entries(tmp_path / "a")
    assert list(found.tensors) == ["", "b?"]
    assert found.beside == ("d?",)
    torch.save({"a\ud800": torch.ones(1)}, tmp_path / "b")
    with pytest.raises(InputError, match="truncated or damaged"):
        read_entries(tmp_path / "b")


def test_values_that_are_not_in_the_file_are_not_made_up(tmp_path):
    torch.save({"a": torch.ones(8)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data[:20] if name.endswith("/data/0") else data)
    with pytest.raises(InputError, match="values of a are not there"):
        read_entries(tmp_path / "b.pth")


BLOB = io.BytesIO()
torch.save({**litter(), "net": {"a": torch.ones(3)}}, BLOB, _use_new_zipfile_serialization=False)
HOSTILE = [b"cos\nsystem\n", b"R", b"}", b"(", b"t", b"b", b"2", b"0", b"\x8a\xff", b"Q", b"\x93"]


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, BLOB.tell() - 1),
            st.integers(0, 9),
            st.binary(max_size=3) | st.sampled_from(HOSTILE),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_mutated_pickle_is_read_or_told_in_one_line(edits, tmp_path_factory):
    """Cuts, bytes changed, and operations of a pickle put in."""
    folder = tmp_path_factory.mktemp("mutated")
    blob = bytearray(BLOB.getvalue())
    for place, cut, new in edits:
        blob[place : place + cut] = new
    (folder / "a").write_bytes(blob)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpickle, "limit_memory", lambda more_bytes: None)
        answer = unpickle.main(str(folder / "a"), str(folder / "out"), 10**6)
    if "error" in answer:
        assert "\n" not in answer["error"]
    else:
        assert {*answer} == {"entries", "beside"}
        assert len(load_file(folder / "out")) == sum(map(len, answer["entries"].values()))


# Wherever it lies


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "student.net.", "any_word."])
def test_the_network_is_found_below_any_one_prefix(prefix, theirs, tmp_path):
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    beside = {
        "criterion.weight": torch.ones(3),
        "n_averaged": torch.tensor(3),
        "queue": torch.ones(2),
    }
    torch.save({"state_dict": {**state, **beside}, "epoch": 1}, tmp_path / "a.ckpt")
    path, _, left_out = convert(tmp_path / "a.ckpt", "resnet18")
    assert_is(path, theirs)
    assert {*left_out} == {*beside, "epoch"}


@pytest.mark.parametrize(
    "entry", ["state_dict", "model", "model_state", "net", "weights", "params", "ema/model"]
)
def test_the_network_is_found_in_any_entry(entry, theirs, tmp_path):
    checkpoint = theirs.state_dict()
    for word in reversed(entry.split("/")):
        checkpoint = {word: checkpoint, "epoch": 3}
    torch.save(checkpoint, tmp_path / "a.pth")
    path, card, _ = convert(tmp_path / "a.pth", "resnet18")
    assert_is(path, theirs)
    assert card.source.endswith(f"; {entry}")


def test_of_several_networks_the_user_chooses(theirs, tmp_path):
    torch.manual_seed(1)  # else it may be the same
    other = torchvision.models.resnet18(num_classes=3)
    torch.save({"model": theirs.state_dict(), "ema": other.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"several .* whole resnet18: model, ema; --entry says"):
        convert(tmp_path / "a.pth", "resnet18")
    path, _, left_out = convert(tmp_path / "a.pth", "resnet18", meant=Meant(entry="ema"))
    assert_is(path, other)
    assert left_out == ("model (122 tensors)",)
    with pytest.raises(InputError, match="--entry emma: no tensors there; it has model, ema"):
        convert(tmp_path / "a.pth", "resnet18", tmp_path / "b", meant=Meant(entry="emma"))
    both = {
        f"{side}.{k}": v for side in ("student", "teacher") for k, v in theirs.state_dict().items()
    }
    torch.save({"state_dict": {**both, "teacher.fc.bias": torch.ones(3)}}, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"state_dict/student, state_dict/teacher; --entry"):
        convert(tmp_path / "b.pth", "resnet18")
    path, *_ = convert(tmp_path / "b.pth", "resnet18", meant=Meant(entry="state_dict/student"))
    assert_is(path, theirs)


def test_one_network_saved_twice_is_one(theirs, tmp_path):
    torch.save({"model": theirs.state_dict(), "ema": theirs.state_dict()}, tmp_path / "a.pth")
    assert_is(convert(tmp_path / "a.pth", "resnet18").path, theirs)


@pytest.mark.parametrize("layer", ["linear", "head", "classifier", "last_linear", "fc.1"])
def test_the_class_layer_may_have_another_name(layer, theirs, tmp_path):
    state = {key.replace("fc.", f"{layer}."): value for key, value in theirs.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    path, card, _ = convert(tmp_path / "a.pth", "resnet18")
    assert_is(path, theirs)
    assert f"{layer} -> fc" in card.source


def test_what_is_more_than_the_network_is_another_network(theirs, tmp_path):
    more = {"layer1.0.se.weight": torch.ones(64, 64), "layer1.0.se.bias": torch.ones(64)}
    torch.save({**theirs.state_dict(), **more}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"unexpected layer1\.0\.se\.bias"):
        convert(tmp_path / "a.pth", "resnet18")
    counts = {"layer1.0.total_ops": torch.zeros(1), "criterion.weight": torch.ones(3)}
    torch.save({**theirs.state_dict(), **counts}, tmp_path / "b.pth")
    path, _, left_out = convert(tmp_path / "b.pth", "resnet18")
    assert_is(path, theirs)
    assert left_out == tuple(counts)


class OtherNames(nn.Module):
    """torchvision's ResNet-18 with every module renamed, in the same order."""

    def __init__(self, theirs):
        super().__init__()
        self.stem = nn.ModuleList([theirs.conv1, theirs.bn1])
        self.body = nn.ModuleList([theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4])
        self.out = theirs.fc


def test_other_names_are_found_by_order_and_shapes(theirs, tmp_path):
    state = OtherNames(theirs).state_dict()
    torch.save(state, tmp_path / "a.pth")
    found = contents(tmp_path / "a.pth")
    assert found.by_order
    assert found.fits == {"": ["resnet18"]}
    path, card, _ = convert(tmp_path / "a.pth", "resnet18")
    assert_is(path, theirs)
    assert "order and shapes, not by names" in card.source
    for one, two in (("conv1.weight", "conv2.weight"), ("bn1.weight", "bn1.bias")):
        keys, (one, two) = list(state), (f"body.0.0.{one}", f"body.0.0.{two}")
        i, j = keys.index(one), keys.index(two)
        keys[i], keys[j] = two, one
        torch.save({key: state[key] for key in keys}, tmp_path / "b.pth")
        with pytest.raises(InputError, match="not a whole resnet18"):
            convert(tmp_path / "b.pth", "resnet18")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_of_other_things_are_told(kind, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    file = tmp_path / "a.pth"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(tmp_path / "a.txt")
    else:
        with tarfile.open(file, "w") as archive:
            archive.add(tmp_path / "a.txt")
    for read in (lambda: convert(file, "resnet18"), lambda: load_weights(file)):
        with pytest.raises(InputError, match=rf"a\.pth: is a {kind} archive"):
            read()


# Option A, padded on both sides


class PadBoth(nn.Module):
    """As akamaster/pytorch_resnet_cifar10 has it: resnet.py, class BasicBlock, option A."""

    def __init__(self, planes):
        super().__init__()
        self.planes = planes

    def forward(self, x):
        quarter = self.planes // 4
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), "constant", 0)


class TheirBlock(nn.Module):
    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        same = stride == 1 and in_planes == planes
        self.shortcut = nn.Sequential() if same else PadBoth(planes)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class TheirResNet(nn.Module):
    """Their ResNet of n blocks a stage."""

    def __init__(self, n):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (before, planes) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            first = TheirBlock(before, planes, 1 if stage == 1 else 2)
            rest = [TheirBlock(planes, planes, 1) for _ in range(n - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(F.avg_pool2d(out, out.size(3)).flatten(1))


def shaken(net):
    """Scales, shifts and statistics that no two channels share."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.2)
            m.running_mean.normal_(std=0.2)
            m.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize(("model", "n"), [("resnet20", 3), ("resnet32", 5), ("resnet110", 18)])
def test_padding_on_both_sides_is_carried_over_by_the_order_of_maps(model, n, tmp_path):
    theirs = shaken(TheirResNet(n))
    file = tmp_path / "resnet.th"
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, file)
    words = rf"as in deepen's {model} \(--shortcut as-here\), or half .* \(--shortcut pad-both\)"
    with pytest.raises(InputError, match=words) as caught:
        convert(file, model, tmp_path / "o")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    found = {}
    for told in ("pad-both", "as-here"):
        path, card, _ = convert(file, model, tmp_path / told, meant=Meant(shortcut=told))
        assert f"--shortcut {told}" in card.source
        with torch.no_grad():
            found[told] = deepen.load(path).double()(x)
    with torch.no_grad():
        expected = theirs.double()(x)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found["pad-both"], expected, rtol=1e-9, atol=1e-9 * scale)
    assert (found["as-here"] - expected).abs().max() > 0.01 * scale
    for key, value in deepen.load(tmp_path / "as-here").state_dict().items():
        assert torch.equal(value, state["module." + key.replace("fc.", "linear.")])


@pytest.mark.parametrize("model", ["resnet18_a", "preresnet110"])
def test_so_it_is_in_every_family_of_option_a(model, tmp_path):
    """The reference is our network with its shortcuts replaced by theirs."""
    theirs = shaken(create_model(model, num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    for name, module in list(theirs.named_modules()):
        parent, _, last = name.rpartition(".")
        if type(module).__name__ == "ZeroPadShortcut":
            setattr(theirs.get_submodule(parent), last, PadBoth(2 * module.new_channels))
    path, *_ = convert(tmp_path / "a.pth", model, meant=Meant(shortcut="pad-both"))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double()(x)
        torch.testing.assert_close(deepen.load(path).double()(x), expected, rtol=1e-8, atol=1e-8)


def test_shortcuts_are_asked_for_where_there_are_some(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="--shortcut pad-both: resnet18 has no shortcut of option"):
        convert(tmp_path / "a.pth", "resnet18", meant=Meant(shortcut="pad-both"))


# The command line


@pytest.fixture
def deepens(monkeypatch, capsys):
    """Runs a command in this process: (exit status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_check_scores_any_file_beside_what_is_stated(deepens, tmp_path):
    """The zoo's weights, and the same as a checkpoint without a card: the same score."""
    loaded = load_weights("resnet20:cifar10")
    preprocessing = loaded.card.preprocessing
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in loaded.card.classes:
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / name / "a.png")
    status, shown, _ = deepens("evaluate", "resnet20:cifar10", folder, "--split", "val", "--json")
    assert status == 0
    error = 100 - 100 * json.loads(shown)["top1"]
    torch.save({"net": loaded.model.state_dict()}, tmp_path / "a.pth")
    numbers = {k: ",".join(map(str, getattr(preprocessing, k))) for k in ("mean", "std")}
    words = [
        "weights",
        "check",
        tmp_path / "a.pth",
        folder,
        "--split",
        "val",
        "--model",
        "resnet20",
    ]
    words += ["--mean", numbers["mean"], "--std", numbers["std"], "--shortcut", "as-here"]
    status, shown, _ = deepens(*words, "--stated", error)
    assert status == 0
    low, high = (100 * each for each in interval(1 - error / 100, 10)[1:3])
    between = f"95% interval {100 - high:.1f} to {100 - low:.1f}%, n 10"
    assert f"top-1 error {error:.2f}% ({between}); stated {error:.2f}%\n" in shown
    assert f"classes taken to be in the order of {folder}: airplane" in shown
    status, shown, _ = deepens(*words, "--stated", error - 10, "--json")
    assert status == 1
    told = json.loads(shown)
    assert told["error"] == pytest.approx(error)
    assert [100 * each for each in told["top1_interval"]] == pytest.approx([low, high])
    assert told["num_samples"] == 10
    status, shown, _ = deepens(*words)
    between = f"95% interval {low:.1f} to {high:.1f}%, n 10"
    assert f"accuracy {100 - error:.2f}% ({between}), balanced" in shown
    assert "; nothing is stated\n" in shown
    status, _, told = deepens("weights", "check", tmp_path / "a.pth", folder)
    assert status == 2
    assert "has no card, so say the data and --model" in told


def test_show_names_entries_and_what_they_fit(deepens, theirs, tmp_path):
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_acc1": torch.tensor(1.0), "epoch": 3}, tmp_path / "a")
    status, shown, _ = deepens("weights", "show", tmp_path / "a")
    assert status == 0
    values = sum(value.numel() for value in state.values())
    assert f"122 tensors, {values:,} values in state_dict\n  fits resnet18\n" in shown
    assert "beside them: epoch" in shown


def test_fine_tuning_needs_no_names_of_classes(deepens, theirs, tmp_path):
    """All but the last layer of a conversion goes on, for a user's own factory too."""
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    for model in ("resnet18", "torchvision.models:resnet18"):
        file = tmp_path / f"{model.partition(':')[0]}.safetensors"
        convert(tmp_path / "a.pth", model, file)
        start = read_start(file, model, whole=True)
        classes = ("ant", "bee", "cat")
        network, words = build_network(model, classes, 3, (224, 224), PaperInit(), start)
        assert "all but fc, which starts afresh for 3 classes" in words
        assert torch.equal(network.conv1.weight, theirs.conv1.weight)
        assert not torch.equal(network.fc.weight, theirs.fc.weight)


def test_verbs_name_the_weights_of_a_run_folder(deepens, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(zoo_file("resnet20:cifar10").read_bytes())
    for words in (
        ("predict", run, "a.jpg"),
        ("evaluate", run, "digits"),
        ("probe", run, "digits", "--layer", "fc"),
        ("weights", "show", run),
        ("weights", "convert", run, "--model", "resnet20", "-o", tmp_path / "o"),
        ("train", "digits", "--weights", run, "--output", tmp_path / "out"),
    ):
        status, _, told = deepens(*words)
        assert status == 2, words
        line = f"{run}: is a run folder; its weights are {run / 'best.safetensors'}"
        assert told.splitlines()[-1].endswith(line), words


# Their real weights


STATED = {"resnet20-12fca82f": 8.27, "resnet32-d509ac18": 7.37, "resnet44-014dd654": 6.90,
          "resnet56-4bfd9763": 6.61}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_public_weights_score_what_their_author_states(name, real_data, tmp_path):
    """akamaster/pytorch_resnet_cifar10, pretrained_models, laid beside the real data."""
    file = real_data / "pytorch_resnet_cifar10" / f"{name}.th"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    found = api.check(
        file,
        "cifar10",
        model=name.split("-")[0],
        foreign={
            "assumed": Assumed(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            "meant": Meant(shortcut="pad-both"),
        },
        data_dir=real_data,
    )
    assert found.scores.num_samples == 10_000
    assert found.error == pytest.approx(STATED[name], abs=0.011)  # a picture: other kernels
