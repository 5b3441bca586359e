"""Recipes: those of the package hold what their papers print, wrong ones get one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from deepen.errors import InputError
from deepen.training.blocks import AdamW, Cosine, Map, Plateau, Sgd
from deepen.training.optimizer import Objective, build_optimizer, build_scheduler, lr_factor
from deepen.training.recipe import Recipe, build_recipe, list_recipes, load_recipe
from deepen.training.resume import differences


def test_all_shipped_recipes_are_valid():
    assert {"lenet-1998", "quick", "resnet-cifar"} <= {*list_recipes()}
    for name in list_recipes():
        assert isinstance(load_recipe(name), Recipe)


def test_resnet_cifar_is_the_papers():
    """He et al. 2015, section 4.2."""
    recipe = load_recipe("resnet-cifar")
    factors = {
        step: lr_factor(recipe.schedule, step, 64_000) * recipe.optimizer.lr
        for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    }
    assert factors == pytest.approx(
        {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    )
    assert (recipe.length.steps, recipe.batch_size, recipe.validation) == (64_000, 128, 5_000)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.lrr": 1}, r"unknown key 'optimizer.lrr'; nearest: optimizer.lr"),
        ({"epochs": 3}, r"unknown key 'epochs'"),
        ({"batch_size": "many"}, r"batch_size: .*integer.* got 'many'"),
        ({"optimizer.lr": -1}, r"optimizer.lr: .*greater than 0, got -1"),
        ({"optimizer.lr": float("nan")}, r"optimizer.lr: .*finite"),
        ({"optimizer.name": "sdg"}, r"unknown optimizer.name 'sdg'; nearest: sgd"),
        ({"optimizer.name": "adamw", "optimizer.momentum": 0.9}, r"optimizer.momentum goes with "
         r"name: sgd or rmsprop, not adamw"),
        ({"optimizer.alpha": 0.5}, r"optimizer.alpha goes with name: rmsprop, not sgd"),
        ({"optimizer.name": "adamw", "optimizer.epps": 1}, r"epps'; nearest: optimizer.eps"),
        ({"optimizer.name": "adamw", "optimizer.eps": -1}, r"quick: optimizer.eps: .*, got -1"),
        ({"schedule.name": "steps"}, r"schedule.milestones: Field required"),
        ({"schedule.name": "steps", "schedule.milestones": []}, r"milestones: .*at least 1"),
        ({"schedule.name": "steps", "schedule.milestones": [0.5, "x"]}, r"schedule.milestones.1: "),
        ({"schedule.name": "plateau", "schedule.warmup_steps": 9},
         r"schedule.warmup_steps goes with name: constant or steps or cosine, not plateau"),
        ({"loss.name": "map"}, r"loss.rubbish: Field required"),
        ({"loss.name": "bce", "loss.threshold": 0.2}, r"loss: threshold goes without"),
        (
            {"optimizer.nesterov": True, "optimizer.momentum": 0},
            r"optimizer: nesterov goes with a momentum above 0",
        ),
        ({"input.normalize": "range"}, r"input.range: Field required"),
        ({"input.normalize": "range", "input.range": [0, "x"]}, r"quick: input.range.1: "),
        ({"input.range": [0, 1]}, r"input.range goes with normalize: range, not channel"),
        ({"init.name": "he", "init.std": 0.1}, r"init.std goes with name: normal, not he"),
        ({"validation": 0, "early_stopping": 3}, r"early_stopping needs validation pictures"),
        ({"batch_size.x": 3}, r"batch_size has no fields"),
    ],
)  # fmt: skip
def test_impossible_changes_get_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        load_recipe("quick", changes)
    assert "\n" not in str(caught.value)


# As version 90cf095 dumped them, when every block had the fields of all of its kinds.
DUMPED = json.loads(Path(__file__).with_name("data").joinpath("recipes-90cf095.json").read_text())


def without_none(fields: dict) -> dict:
    """As a run's recipe.yaml has it."""
    blocks = {k: without_none(v) if isinstance(v, dict) else v for k, v in fields.items()}
    return {key: value for key, value in blocks.items() if value is not None}


@pytest.mark.parametrize("name", sorted(DUMPED))
def test_recipes_of_old_runs_are_todays(tmp_path, name):
    """What a run of 90cf095 wrote loads, as what ships today, and a resume finds no difference."""
    recipe = load_recipe(name)
    assert build_recipe(name, copy.deepcopy(DUMPED[name]), None) == recipe
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(without_none(DUMPED[name])))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe
    now = recipe.model_dump(mode="json")
    assert [*differences(DUMPED[name], now)] == []
    have = {(block, key) for block, v in DUMPED[name].items() if isinstance(v, dict) for key in v}
    todays = {(block, key) for block, v in now.items() if isinstance(v, dict) for key in v}
    assert todays <= have | ADDED
    for block, key in todays - have:
        fields = type(getattr(recipe, block)).model_fields
        assert getattr(getattr(recipe, block), key) == fields[key].default


ADDED = {
    *(("loss", "class_weights"), ("augment", "flip_vertical"), ("augment", "rotate")),
    *(("augment", "rotate_fill"), ("augment", "transform"), ("input", "white")),
}
"""Fields of blocks that later versions added; recipes of before leave them at their defaults."""


def test_what_an_old_run_did_not_heed_is_left_behind_and_what_a_user_writes_is_not():
    """90cf095 took quick with AdamW, and dumped nesterov: true beside it."""
    old = without_none(DUMPED["quick"])
    old["optimizer"] |= {"name": "adamw", "momentum": 0.5}
    old["schedule"] |= {"gamma": 0.96}
    todays = load_recipe("quick", {"optimizer.name": "adamw"})
    assert build_recipe("old", copy.deepcopy(old), None) == todays
    with pytest.raises(InputError, match=r"momentum goes with name: sgd or rmsprop, not adamw"):
        build_recipe("old", copy.deepcopy(old), {"optimizer.momentum": 0.5})
    for block, words in (("optimizer", "momentum goes with"), ("schedule", "gamma goes with")):
        said = {k: v for k, v in old[block].items() if k not in ("alpha", "patience")}
        mine = {"length": {"epochs": 1}, block: said}
        with pytest.raises(InputError, match=words):
            build_recipe("mine", mine, None)


def test_an_old_search_of_another_kinds_field_is_left_behind():
    """90cf095 took quick with the MAP loss, and dumped its search of label smoothing."""
    old = copy.deepcopy(DUMPED["quick"])
    old["loss"] |= {"name": "map", "rubbish": 1.0, "label_smoothing": 0.0}
    assert list(build_recipe("old", old, None).search) == ["optimizer.lr", "optimizer.weight_decay"]
    changed = load_recipe("quick", {"loss.name": "map", "loss.rubbish": 1})
    assert list(changed.search) == ["optimizer.lr", "optimizer.weight_decay"]
    del old["loss"]["label_smoothing"]
    with pytest.raises(InputError, match=r"search: loss.label_smoothing goes with .* not map"):
        build_recipe("mine", old, None)


def test_another_kind_leaves_the_fields_of_the_first_behind():
    steps = load_recipe("resnet110-cifar")
    cosine = load_recipe("resnet110-cifar", {"schedule.name": "cosine"}).schedule
    assert cosine == Cosine(warmup="constant", warmup_steps=400, warmup_factor=0.1)
    changes = {"schedule.name": "plateau", "schedule.milestones": []}  # [] asks for nothing
    assert build_recipe("of a run", steps.model_dump(), changes).schedule == Plateau()
    adamw = load_recipe("quick", {"optimizer.name": "adamw", "optimizer.nesterov": False}).optimizer
    assert adamw == AdamW(lr=0.1, weight_decay=5e-4, decay_vectors=False)
    assert build_recipe(
        "x", {"length": {"steps": 1}, "optimizer": {"lr": 1}}, None
    ).optimizer == Sgd(lr=1.0)


def test_a_search_may_name_fields_of_every_kind_that_it_tries():
    search = {
        "optimizer.name": {"choices": ["sgd", "rmsprop"]},
        "optimizer.momentum": {"choices": [0.5]},
    }
    assert load_recipe("quick", {"search": search}).search["optimizer.momentum"].choices == (0.5,)
    search["optimizer.name"] = {"choices": ["sgd", "adamw"]}
    with pytest.raises(InputError, match=r"search: optimizer.momentum goes with .*, not adamw"):
        load_recipe("quick", {"search": search})


def test_unknown_and_broken_files_get_one_line(tmp_path):
    with pytest.raises(InputError, match=r"unknown recipe 'resnet-cifr'; nearest: resnet-cifar"):
        load_recipe("resnet-cifr")
    with pytest.raises(InputError, match="no such file"):
        load_recipe(str(tmp_path / "none.yaml"))
    for text, words in (("- 1", "no mapping"), ("a: [", "expected"), ("length: 3", "length")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(InputError, match=words) as caught:
            load_recipe(str(tmp_path / "r.yaml"))
        assert "\n" not in str(caught.value)


def test_epochs_replace_steps():
    assert load_recipe("resnet-cifar", {"length.epochs": 2}).length.epochs == 2


@pytest.mark.parametrize("shape", ["linear", "constant"])
def test_warm_up_then_cosine_is_torchs(shape):
    """Against LinearLR or ConstantLR chained with CosineAnnealingLR."""
    schedule = Cosine(warmup_steps=5, warmup_factor=0.1, warmup=shape)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warm = (
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
        if shape == "linear"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, 0.1, total_iters=5)
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    chained = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [5])
    for step in range(25):
        lr = optimizer.param_groups[0]["lr"]
        assert lr_factor(schedule, step, 25) == pytest.approx(lr, abs=1e-12)
        optimizer.step()
        chained.step()


def test_plateau_falls_after_patience():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, Plateau(patience=2), 100)
    for value in (0.5, 0.5, 0.5, 0.5):
        scheduler.step(value)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_vectors_are_spared_decay_when_asked():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = build_optimizer(net, Sgd(weight_decay=0.1, decay_vectors=False))
    decayed, spared = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)


def test_map_loss_is_equation_9():
    """LeCun et al. 1998, eq. 9, on penalties y = -logits / T: y_D + log(e^-j + sum_i e^-y_i)."""
    torch.manual_seed(0)
    penalties = torch.rand(6, 10, dtype=torch.float64) * 30
    labels = torch.randint(0, 10, (6,))
    y, j = penalties / 10, 1.5
    right = y[torch.arange(6), labels]
    expected = (right + torch.log(torch.exp(torch.tensor(-j)) + torch.exp(-y).sum(1))).mean()
    objective = Objective(Map(rubbish=j, temperature=10))
    torch.testing.assert_close(objective(-penalties, labels).double(), expected, rtol=1e-6, atol=0)
