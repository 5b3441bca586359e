"""The papers' recipes: their printed figures, and two steps of each with a network it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.errors import InputError
from deepen.models import create_model, get_architecture, list_models
from deepen.training.build import Job
from deepen.training.initialization import build_network
from deepen.training.optimizer import build_scheduler, lr_factor
from deepen.training.recipe import list_recipes, load_recipe, recipe_source, recipe_text
from deepen.training.record import Record
from deepen.training.request import Here
from deepen.training.state import State
from deepen.training.step import Step
from deepen.training.task import Classification

IMAGENET = 1_281_167  # training pictures of ILSVRC 2012
# As printed: pictures a batch, rate, momentum, weight decay, and passes or steps in all (None where
# the paper does not say one).
PRINTED = {
    "alexnet": (128, 0.01, 0.9, 5e-4, 90),  # section 5
    "vgg": (256, 0.01, 0.9, 5e-4, 74),  # section 3.1
    "vgg-staged": (256, 0.01, 0.9, 5e-4, 74),
    "vgg-he": (256, 0.01, 0.9, 5e-4, 74),
    "googlenet": (32, 0.01, 0.9, 2e-4, 10_000_000),  # section 6, and BVLC's solver
    "resnet-imagenet": (256, 0.1, 0.9, 1e-4, 600_000),  # section 3.4
    "resnet-cifar": (128, 0.1, 0.9, 1e-4, 64_000),  # section 4.2
    "resnet110-cifar": (128, 0.1, 0.9, 1e-4, 64_000),
    "preresnet-cifar": (128, 0.1, 0.9, 1e-4, 64_000),  # appendix
    "preresnet-imagenet": (256, 0.1, 0.9, 1e-4, 90),
    "resnext-imagenet": (256, 0.1, 0.9, 1e-4, 100),  # section 4
    "resnext-cifar": (128, 0.1, 0.9, 5e-4, 300),  # appendix A
    "densenet-imagenet": (256, 0.1, 0.9, 1e-4, 90),  # section 4.2
    "densenet-cifar": (64, 0.1, 0.9, 1e-4, 300),
    "highway-cifar": (100, 0.025, 0.9, 1e-3, 200_000),  # the released solvers
    "highway-mnist": (100, 0.01, 0.9, 1e-3, 180_000),
    "rsb-a2": (2048, 0.002, None, 0.02, 300),  # table 2, but for AdamW's rate
    "rsb-a3": (2048, 0.002, None, 0.02, 100),
}
OURS = {"quick", "finetune", "lenet-1998"}
ELSEWHERE = {"detect", "localize", "segment"}  # trained in the tests of their tasks
# The rate (over the first) from these steps or epochs on.
FALLS = {
    "resnet-cifar": {0: 1, 32_000: 0.1, 48_000: 0.01},
    "resnet110-cifar": {0: 0.1, 399: 0.1, 400: 1, 32_000: 0.1, 48_000: 0.01},
    "preresnet-cifar": {0: 0.1, 399: 0.1, 400: 1, 32_000: 0.1, 48_000: 0.01},
    "preresnet-imagenet": {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01},
    "resnext-imagenet": {0: 1, 29: 1, 30: 0.1, 60: 0.01, 90: 0.001},
    "resnext-cifar": {0: 1, 149: 1, 150: 0.1, 225: 0.01},
    "densenet-imagenet": {0: 1, 29: 1, 30: 0.1, 60: 0.01},
    "densenet-cifar": {0: 1, 149: 1, 150: 0.1, 225: 0.01},
    "highway-cifar": {0: 1, 99_999: 1, 100_000: 0.1, 150_000: 0.01, 175_000: 0.001},
    "highway-mnist": {0: 1, 60_000: 0.1, 120_000: 0.01},
    "googlenet": {0: 1, 319_999: 1, 320_000: 0.96, 640_000: 0.96**2, 9_999_999: 0.96**31},
}
# A small network of the family, its classes and its input; the ImageNet nets as small as they go.
SMALL = {
    "alexnet": ("alexnet", 67),
    "vgg": ("vgg11", 32),
    "vgg-staged": ("vgg11", 32),
    "vgg-he": ("vgg11", 32),
    "googlenet": ("googlenet", 79),
    "resnet-imagenet": ("resnet18", 32),
    "resnet-cifar": ("resnet20", 32),
    "resnet110-cifar": ("resnet20", 32),
    "preresnet-cifar": ("preresnet110", 8),
    "preresnet-imagenet": ("preresnet50", 32),
    "resnext-imagenet": ("resnext50_32x4d", 32),
    "resnext-cifar": ("resnext29_8x64d", 8),
    "densenet-imagenet": ("densenet121", 32),
    "densenet-cifar": ("densenet40_12", 16),
    "highway-cifar": ("highway19", 32),
    "highway-mnist": ("highway10_16", 28),
    "rsb-a2": ("resnet18", 32),
    "rsb-a3": ("resnet18", 32),
    "quick": ("resnet20", 32),
    "finetune": ("resnet20", 32),
    "lenet-1998": ("lenet5", 32),
}


def test_every_recipe_is_looked_at():
    assert set(list_recipes()) == {*PRINTED, *OURS, *ELSEWHERE}
    assert {*PRINTED, *OURS} == {*SMALL}


@pytest.mark.parametrize("name", PRINTED)
def test_figures_are_the_papers(name):
    recipe = load_recipe(name)
    optimizer, length = recipe.optimizer, recipe.length
    assert PRINTED[name] == (
        recipe.batch_size,
        optimizer.lr,
        getattr(optimizer, "momentum", None),
        optimizer.weight_decay,
        length.epochs or length.steps,
    )


@pytest.mark.parametrize("name", FALLS)
def test_rates_fall_when_the_papers_say(name):
    recipe = load_recipe(name)
    total = recipe.length.steps or recipe.length.epochs
    assert total is not None
    found = {at: lr_factor(recipe.schedule, at, total) for at in FALLS[name]}
    assert found == pytest.approx(FALLS[name])


def test_lengths_of_googlenet_and_rsb_are_the_epochs_that_are_said():
    """8 epochs between falls; a warm-up of 5."""
    googlenet, a3 = load_recipe("googlenet"), load_recipe("rsb-a3")
    assert round(320_000 * googlenet.batch_size / IMAGENET, 2) == 7.99
    assert math.ceil(5 * math.ceil(IMAGENET / a3.batch_size)) == a3.schedule.warmup_steps


@pytest.mark.parametrize("name", sorted({*PRINTED}))
def test_sources_name_a_paper_and_networks_of_ours(name):
    source, purpose = recipe_source(name)
    assert " 20" in source
    named = [word.strip(",.;:") for word in purpose.split()]
    assert [word for word in named if word in list_models()], purpose
    paper = get_architecture(SMALL[name][0]).paper.split()[0]
    assert paper in source or name.startswith("rsb")
    assert recipe_text(name).count("#") >= 8


@pytest.mark.parametrize("name", SMALL)
def test_each_takes_two_steps(name):
    """Optimizer, schedule, loss, mixing, averages and augmentation are built and used."""
    model, size = SMALL[name]
    channels = get_architecture(model).takes.channels
    changes = {"batch_size": 4, "accumulate": 1}
    crop = load_recipe(name).augment.crop
    if crop == "scale":  # of pictures as small as the network's input
        changes["augment.scale_px"] = [size, size + 8]
    recipe = load_recipe(name, changes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, size, size, channels), np.uint8)
    keys = tuple(map(str, range(8)))
    split = Split("train", rng.integers(0, 10, 8), keys, images=images)
    prepared = Preprocessing(
        channels=channels,
        size_px=(size, size),
        resize="none",
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    batches = Batches(
        split,
        prepared,
        batch_size=4,
        augmentation=recipe.augment,
        mixing=recipe.mix,
        num_classes=10,
        seed=recipe.seed,
        shuffle=True,
    )
    classes = tuple("0123456789")
    net, _ = build_network(model, classes, channels, (size, size), recipe.init, None)
    task, here = Classification(recipe, classes), Here(device="cpu")
    step = Step(Job(net.train(), recipe, task, batches, None, here))
    scheduler = build_scheduler(step.optimizer, recipe.schedule, 1000)
    record = Record(step.job, State())
    before = [p.detach().clone() for p in net.parameters()]
    for number, batch in enumerate(step.batches(0, start=0)):
        step.take(batch, number, record)  # stops at a loss that is no number
        if recipe.schedule.name != "plateau":
            scheduler.step()
    assert number == 1
    moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert sum(moved) / len(moved) > 0.9
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_scale_takes_the_place_of_the_deviation():
    """AlexNet's input: 0 to 255 minus the mean picture; its first weights are meant for that."""
    from deepen.data.sources import open_source
    from deepen.training.prepare import prepare

    source = open_source("digits")
    images = torch.from_numpy(source.splits["train"].images)
    spec = load_recipe("quick", {"input.normalize": "pixel", "input.scale": 255}).input
    preprocessing, mean = prepare(spec, source, None)
    found = preprocessing.normalize(images, mean)[:, 0]
    expected = images[..., 0].double() - images[..., 0].double().mean(0)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    spec = load_recipe("quick", {"input.scale": 255}).input
    preprocessing, mean = prepare(spec, source, None)
    expected = images[..., 0].double() - images.double().mean()
    found = preprocessing.normalize(images)[:, 0].double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    with pytest.raises(InputError, match=r"scale goes with normalize: channel or pixel, not range"):
        load_recipe("lenet-1998", {"input.scale": 2})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {"optimizer.lrr": {"low": 1, "high": 2}}}, "nearest: optimizer.lr"),
        ({"search": {"optimizer": {"low": 1, "high": 2}}}, "optimizer is a block"),
        ({"search": {"optimizer.lr": {"lo": 1, "high": 2}}}, r"search.optimizer.lr.lo'; nearest"),
        ({"search": {"optimizer.lr": {"low": 1}}}, "give low and high, or choices"),
        ({"search": {"optimizer.lr": {"low": 2, "high": 1}}}, "high must be above low"),
        ({"search": {"optimizer.lr": {"low": 0, "high": 1, "log": True}}}, "low above 0"),
        ({"search": {"seed": {"choices": [1, 2]}}}, "unknown key 'seed'"),
        ({"init.std": 0.1}, "std goes with name: normal"),
        ({"init.first": 4}, "first and last go together"),
    ],
)
def test_impossible_searches_and_starts_get_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        load_recipe("quick", changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "stds"),
    [
        ("vgg-staged", "vgg13", [0.01, 0.01]),
        ("vgg-he", "vgg13", [math.sqrt(2 / (9 * 64)), math.sqrt(2 / 4096)]),  # He et al., eq. 10
        ("vgg", "vgg13", [math.sqrt(2 / (9 * 128)), math.sqrt(2 / 8192)]),  # Glorot, eq. 16
    ],
)
def test_first_weights_of_vgg_are_spread_as_said(name, model, stds):
    net, words = build_network(model, ("a",) * 10, 3, (32, 32), load_recipe(name).init, None)
    layers = [net.features[2], net.classifier[3]]  # 64 to 64 maps of 3x3; 4096 to 4096 units
    assert [layer.weight.std().item() for layer in layers] == pytest.approx(stds, rel=0.02)
    assert all(not layer.bias.any() for layer in layers)
    assert words == ""


def test_without_an_init_block_weights_are_the_networks_own():
    torch.manual_seed(3)
    expected = create_model("resnet20", 10).state_dict()
    torch.manual_seed(3)
    net, _ = build_network("resnet20", ("a",) * 10, 3, (32, 32), load_recipe("quick").init, None)
    assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())
    assert isinstance(net, nn.Module)
