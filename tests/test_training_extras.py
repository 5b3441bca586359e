"""What recipes may add: averages, mixing, accumulation, freezing; each resumes bit for bit."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deepen import api
from deepen.data.loader import Batch
from deepen.data.sources import open_source
from deepen.errors import InputError, Interrupted
from deepen.models import create_model
from deepen.training.averages import Averages
from deepen.training.blocks import Bce, RmsProp, Sgd
from deepen.training.checkpoint import load_checkpoint
from deepen.training.finetuning import freeze, stages, train_mode
from deepen.training.optimizer import Objective, build_optimizer
from deepen.training.progress import Silent
from deepen.training.recipe import load_recipe
from deepen.training.step import micro_batches
from deepen.weights import load_weights

SHORT = {"length.epochs": 2, "batch_size": 128, "validation": 100}


class StopAt(Silent):
    """Ctrl-C after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def digest(run: Path) -> dict[str, str]:
    """All that an exact resume must leave equal: weights, optimizer, averages, both files, sums."""
    newest = max((run / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())["state"]
    for row in state["progress"]["history"]:
        del row["seconds"], row["images_per_s"]
    found = {
        "tensors": (newest / "tensors.safetensors").read_bytes(),
        "state": json.dumps(state, sort_keys=True).encode(),
    }
    for name in ("best", "last"):
        model = load_weights(run / f"{name}.safetensors").model
        found[name] = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in found.items()}


def train(tmp_path: Path, name: str, **words: Any) -> Path:
    return api.train(**{"data": "digits", "output": tmp_path / name, **words}).run


FEATURES = {
    "ema": {"ema.decay": 0.9},
    "ema with warm-up": {"ema.decay": 0.999, "ema.warmup": True},
    "mixup": {"mix.mixup": 0.2},
    "cutmix": {"mix.cutmix": 1.0},
    "label smoothing": {"loss.label_smoothing": 0.2},
    "random erasing": {"augment.erase": 0.5},
    "RandAugment": {"augment.rand_augment": 2, "augment.magnitude": 7},
    "accumulation": {"accumulate": 3},
    "freezing": {"finetune.freeze": ["conv1", "bn1", "layer1"]},
    "discriminative rates": {"finetune.lr_decay": 0.75},
    "rmsprop": {"optimizer.name": "rmsprop", "optimizer.lr": 0.001, "optimizer.alpha": 0.9},
    "bce": {"loss.name": "bce", "loss.label_smoothing": 0.0, "loss.threshold": 0.2},
    "all": {
        "ema.decay": 0.9,
        "mix.mixup": 0.1,
        "mix.cutmix": 1.0,
        "augment.erase": 0.3,
        "augment.rand_augment": 1,
        "accumulate": 2,
        "finetune.freeze": ["conv1"],
        "finetune.lr_decay": 0.9,
    },
}


@pytest.fixture(scope="module")
def few() -> dict[str, Any]:
    """Some 140 pictures in seven batches an epoch."""
    digits = open_source("digits").splits["train"]
    changes = {"length.epochs": 2, "batch_size": 21}
    data = digits.images[:180], digits.labels[:180]
    return {"data": data, "model": "resnet20", "recipe": "quick", "changes": changes}


@pytest.fixture(scope="module")
def plain(few, tmp_path_factory) -> dict[str, str]:
    return digest(train(tmp_path_factory.mktemp("plain"), "run", **few))


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
def test_each_resumes_exactly_and_changes_something(few, plain, tmp_path, changes):
    words = {**few, "changes": {**few["changes"], **changes}}
    whole = digest(train(tmp_path, "whole", **words))
    stop = 4 * changes.get("accumulate", 1)
    with pytest.raises(Interrupted):
        train(tmp_path, "run", **words, reporter=StopAt(stop))
    found = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.state["progress"]["batch"] == 4
    assert any(name.startswith("averages.") for name in found.tensors) == ("ema.decay" in changes)
    assert digest(api.train(few["data"], resume=str(tmp_path / "run")).run) == whole
    assert plain["last"] != whole["last"]


def test_an_unused_feature_changes_no_bit(tmp_path):
    """Of a run in which every feature is written out as off."""
    words = {"model": "lenet5_relu", "recipe": "quick"}
    off = {"accumulate": 1, "mix": {"probability": 1.0}, "ema": {}, "finetune": {"freeze": []}}
    plain = train(tmp_path, "plain", **words, changes=SHORT)
    named = train(tmp_path, "named", **words, changes={**SHORT, **off})
    assert digest(plain) == digest(named)


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("warmup", [False, True])
def test_averages_are_timms(warmup):
    """And torch's own, whose first update is a copy."""
    net = small_net()
    ours = Averages(net, 0.95, warmup)
    timms = ModelEmaV3(net, decay=0.95, use_warmup=False, exclude_buffers=True)
    torchs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    torchs.update_parameters(net)
    for step in range(30):
        net(torch.randn(4, 2, 4, 4))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        ours.update(step)
        if warmup:  # TensorFlow's, which timm's own warm-up is not
            timms.decay = min(0.95, (1 + step) / (10 + step))
        timms.update(net)
        torchs.update_parameters(net)
    for name, value in ours.model.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, net.state_dict()[name])
        else:
            torch.testing.assert_close(value, timms.module.state_dict()[name])
            if not warmup:
                torch.testing.assert_close(value, torchs.module.state_dict()[name])
    assert not ours.model.training
    assert not any(p.requires_grad for p in ours.model.parameters())


def test_averages_are_what_is_scored_and_saved(tmp_path):
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": {**SHORT, "ema.decay": 0.99}}
    run = train(tmp_path, "run", **words)
    found = load_checkpoint(run / "checkpoints")
    assert found is not None
    saved = load_weights(run / "last.safetensors").model.state_dict()
    for name, value in saved.items():
        assert torch.equal(value, found.tensors[f"averages.{name}"])
    assert any(not torch.equal(v, found.tensors[f"model.{name}"]) for name, v in saved.items())
    row = found.state["progress"]["history"][-1]
    scores = api.evaluate(run / "last.safetensors", split="val")
    assert scores.top1 == pytest.approx(row["eval_top1"], abs=1e-6)
    assert scores.loss == pytest.approx(row["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 10, 11])
@pytest.mark.parametrize("mixed", [False, True])
def test_accumulated_gradients_are_the_whole_batchs(parts, mixed):
    """In float64, without batch norm; 10 does not divide by 3 and 4, nor reach 11."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    images, labels = torch.randn(10, 2, 4, 4).double(), torch.arange(10) % 3
    shares = torch.rand(10, 3).double().softmax(1) if mixed else None
    batch = Batch(images, labels, torch.arange(10), shares=shares)
    objective = nn.functional.cross_entropy
    objective(net(images), batch.targets).backward()
    whole = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    seen = []
    for part, share in micro_batches(batch, parts):
        objective(net(part.images), part.targets).backward(share)
        seen += part.indices.tolist()
        assert (part is batch) == (share is None) == (parts == 1)
    assert seen == list(range(10))
    for parameter, expected in zip(net.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_process_without_a_picture_still_has_one_part(count, parts):
    """With its last part each process joins the sum of gradients, once."""
    batch = Batch(torch.zeros(count, 1, 2, 2), torch.zeros(count).long(), torch.arange(count))
    pieces = [part for part, _ in micro_batches(batch, parts)]
    assert 1 <= len(pieces) <= parts
    assert sum(len(part.labels) for part in pieces) == count
    assert all(len(part.labels) for part in pieces) or count == 0


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [(10, 3, [4, 4, 2]), (4, 3, [2, 2]), (3, 2, [2, 1]), (2, 2, [1, 1]), (5, 1, [5])],
)
def test_the_parts_of_a_batch_by_hand(count, parts, sizes):
    batch = Batch(torch.zeros(count, 1, 2, 2), torch.zeros(count).long(), torch.arange(count))
    pieces = [*micro_batches(batch, parts)]
    assert [len(part.labels) for part, _ in pieces] == sizes
    if parts > 1:
        shares = [share.item() for _, share in pieces if share is not None]
        assert shares == pytest.approx([size / count for size in sizes])


def test_an_accumulating_run_is_the_plain_one_within_rounding(tmp_path):
    words = {"model": "lenet5_relu", "recipe": "quick"}
    changes = {**SHORT, "length.epochs": 1}
    plain = train(tmp_path, "plain", **words, changes=changes)
    parts = train(tmp_path, "parts", **words, changes={**changes, "accumulate": 4})
    one, two = (load_weights(run / "last.safetensors").model.state_dict() for run in (plain, parts))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    first, second = (load_checkpoint(run / "checkpoints") for run in (plain, parts))
    assert first is not None
    assert second is not None
    for key in ("step", "epoch"):
        assert first.state["progress"][key] == second.state["progress"][key]


def test_frozen_layers_keep_weights_and_statistics(tmp_path):
    changes = {**SHORT, "finetune.freeze": ["conv1", "bn1", "layer1", "layer2.0"]}
    words = {"model": "resnet20", "recipe": "quick", "changes": changes}
    run = train(tmp_path, "run", **words)
    torch.manual_seed(0)
    source = api.open_source("digits", validation=100)
    before = create_model("resnet20", len(source.classes), 1, 8).state_dict()
    after = load_weights(run / "last.safetensors").model.state_dict()
    for name, value in after.items():
        frozen = name.startswith(("conv1.", "bn1.", "layer1.", "layer2.0."))
        if "num_batches" in name and frozen:
            assert value == 0
        elif frozen:
            assert torch.equal(value, before[name]), name
        elif name.endswith(("weight", "running_mean")):
            assert not torch.equal(value, before[name]), name


def test_a_prefix_ends_at_a_dot():
    net = nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer10": nn.Linear(2, 2)})
    freeze(net, ["layer1"])
    train_mode(net, ["layer1"])
    assert not net["layer1"].weight.requires_grad
    assert net["layer10"].weight.requires_grad
    assert (net["layer1"].training, net["layer10"].training) == (False, True)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["layr1"], r"finetune.freeze: unknown layer 'layr1'; nearest: layer1"),
        (["xyz"], r"unknown layer 'xyz'; known: bn1, conv1, conv2_x, conv3_x"),
        (["conv1", "bn1", "layer1", "layer2", "layer3", "fc"], "nothing is left to train"),
    ],
)
def test_impossible_freezing_is_refused_before_anything_is_written(tmp_path, names, words):
    with pytest.raises(InputError, match=words):
        train(tmp_path, "run", model="resnet20", changes={**SHORT, "finetune.freeze": names})
    assert not (tmp_path / "run").exists()


def test_rates_fall_from_the_head_to_the_stem():
    net = create_model("resnet20")
    optimizer = build_optimizer(net, Sgd(lr=0.1), lr_decay=0.5)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    found = {name.split(".")[0]: rates[id(p)] for name, p in net.named_parameters()}
    assert found == pytest.approx(
        {"fc": 0.1, "layer3": 0.05, "layer2": 0.025, "layer1": 0.0125, "conv1": 1 / 160,
         "bn1": 1 / 160}
    )  # fmt: skip
    spared = build_optimizer(net, Sgd(lr=0.1, weight_decay=0.1, decay_vectors=False), lr_decay=0.5)
    assert sum(len(g["params"]) for g in spared.param_groups) == len(rates)
    for group in spared.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_the_rate_that_metrics_say_is_the_heads(tmp_path):
    changes = {"schedule": {"name": "constant"}, "optimizer.lr": 0.01, "finetune.lr_decay": 0.5}
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": {**SHORT, **changes}}
    with open(train(tmp_path, "run", **words) / "metrics.csv") as file:
        assert {row["lr"] for row in csv.DictReader(file)} == {"0.01"}


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "googlenet", "lenet5", "resnet20"])
def test_every_parameter_is_in_one_stage(name):
    with torch.device("meta"):
        net = create_model(name)
    listed = [id(p) for stage in stages(net) for p in stage]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert len(stages(net)) > 3
    assert stages(net)[-1][-1] is [*net.parameters()][-1]


def test_a_networks_very_own_parameter_is_in_its_first_stage():
    net = nn.Module()
    net.fc = nn.Linear(2, 2)
    net.token = nn.Parameter(torch.zeros(3))
    assert stages(net)[0] == [net.token]


def test_binary_cross_entropy_is_timms():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    shares = torch.rand(6, 5).softmax(1)
    smooth = Objective(Bce(label_smoothing=0.1))
    torch.testing.assert_close(
        smooth(logits, labels), BinaryCrossEntropy(smoothing=0.1)(logits, labels)
    )
    hard = Objective(Bce(threshold=0.2))
    theirs = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2)
    torch.testing.assert_close(hard(logits, shares), theirs(logits, shares))
    plain = Objective(Bce())
    torch.testing.assert_close(plain(logits, shares), BinaryCrossEntropy(0.0)(logits, shares))


def test_rmsprop_is_torchs_with_the_recipes_numbers():
    net = nn.Linear(2, 2)
    spec = RmsProp(lr=0.045, alpha=0.9, eps=1.0, momentum=0.8, weight_decay=4e-5)
    optimizer = build_optimizer(net, spec)
    assert isinstance(optimizer, torch.optim.RMSprop)
    (group,) = optimizer.param_groups
    found = [group[key] for key in ("lr", "alpha", "eps", "momentum", "weight_decay")]
    assert found == [0.045, 0.9, 1.0, 0.8, 4e-5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mix.mixup": 0.2, "loss.name": "map", "loss.rubbish": 1, "loss.label_smoothing": 0},
         "mix does not go with loss.name: map"),
        ({"accumulate": 65}, "accumulate: more parts than the 64 of batch_size"),
        ({"loss.threshold": 0.2}, "loss.threshold goes with name: bce, not cross_entropy"),
        ({"ema.decay": 1.0}, "ema.decay: .*less than 1"),
        ({"finetune.frezze": ["x"]}, "unknown key 'finetune.frezze'; nearest: finetune.freeze"),
        ({"mix.mixupp": 1}, "unknown key 'mix.mixupp'; nearest: mix.mixup"),
        ({"finetune.lr_decay": 0}, "finetune.lr_decay: .*greater than 0"),
    ],
)  # fmt: skip
def test_impossible_changes_get_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        load_recipe("quick", changes)
    assert "\n" not in str(caught.value)
