"""Recipes: those of the package hold what their papers print, wrong ones get one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepen.errors import InputError
from deepen.training.optimizer import Objective, build_optimizer, build_scheduler, lr_factor
from deepen.training.recipe import Loss, Optimizer, Recipe, Schedule, list_recipes, load_recipe


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
        ({"schedule.name": "steps"}, r"schedule: milestones go with name: steps"),
        ({"loss.name": "map"}, r"loss: rubbish goes with name: map"),
        (
            {"optimizer.nesterov": True, "optimizer.momentum": 0},
            r"optimizer: nesterov goes with a momentum above 0",
        ),
        ({"input.normalize": "range"}, r"input: range goes with normalize: range"),
        ({"validation": 0, "early_stopping": 3}, r"early_stopping needs validation pictures"),
        ({"batch_size.x": 3}, r"batch_size has no fields"),
    ],
)
def test_impossible_changes_get_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        load_recipe("quick", changes)
    assert "\n" not in str(caught.value)


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
    schedule = Schedule(name="cosine", warmup_steps=5, warmup_factor=0.1, warmup=shape)
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
    scheduler = build_scheduler(optimizer, Schedule(name="plateau", patience=2), 100)
    for value in (0.5, 0.5, 0.5, 0.5):
        scheduler.step(value)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_vectors_are_spared_decay_when_asked():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = build_optimizer(net, Optimizer(weight_decay=0.1, decay_vectors=False))
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
    objective = Objective(Loss(name="map", rubbish=j, temperature=10))
    torch.testing.assert_close(objective(-penalties, labels).double(), expected, rtol=1e-6, atol=0)
