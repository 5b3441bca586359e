"""The range test against the rate at which a quadratic is known to diverge, and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from deepen.cli import app
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.errors import InputError, WorkError
from deepen.training.build import Job
from deepen.training.lr_finder import sweep
from deepen.training.recipe import build_recipe
from deepen.training.request import Here
from deepen.training.task import Classification

PLAIN = {"length": {"epochs": 1}, "optimizer": {"momentum": 0.0}}


class Steep(nn.Module):
    """Logits whose cross-entropy is a quadratic of a known curvature."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(1.0))
        self.curvature = curvature
        self.auxiliary_weight = 1.0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # log(1 + e^-z) of logits (z, 0) is 1 + a p^2 / 2 for this z, in value and in gradient.
        logit = -torch.log(torch.expm1(1 + 0.5 * self.curvature * self.place**2))
        pair = torch.stack([logit, logit.new_zeros(())]).expand(len(x), 2)
        return torch.tensor([[80.0, 0.0]]).expand(len(x), 2), pair


def job(curvature: float, count: int = 6) -> Job:
    images = np.zeros((count, 2, 2, 1), np.uint8)
    split = Split("train", np.zeros(count, np.int64), tuple(map(str, range(count))), images)
    preprocessing = Preprocessing(
        channels=1, size_px=(2, 2), resize="none", mean=(0.0,), std=(1.0,)
    )
    recipe = build_recipe("plain", {**PLAIN}, {})
    task, batches = Classification(recipe, "ab"), Batches(split, preprocessing, batch_size=2)
    return Job(Steep(curvature), recipe, task, batches, None, Here(device="cpu"))


@pytest.mark.parametrize("curvature", [1.0, 30.0])
def test_it_diverges_beyond_two_over_the_curvature(curvature):
    """Gradient descent on a p^2 / 2 shrinks p below a rate of 2 / a and grows it above."""
    lowest, highest = 0.05 / curvature, 100 / curvature
    found = sweep(job(curvature), lowest=lowest, highest=highest, steps=40)
    assert found.diverged
    assert list(found.rates) == pytest.approx(
        np.geomspace(lowest, highest, 40)[: len(found.rates)].tolist()
    )
    assert 1 / curvature < found.best < 20 / curvature  # it takes steps to grow again
    assert found.rates[-1] > 2 / curvature
    assert found.suggestion == found.best / 10
    assert min(found.losses) < 0.9 * found.losses[0]


def test_it_takes_every_step_where_nothing_diverges():
    found = sweep(job(1.0), lowest=1e-4, highest=1e-2, steps=30)
    assert not found.diverged
    assert len(found.rates) == 30
    assert found.best == pytest.approx(1e-2)  # the loss falls to the end


def test_impossible_words_and_losses():
    for words in ({"lowest": 0.0}, {"lowest": 2.0, "highest": 1.0}, {"steps": 1}):
        with pytest.raises(InputError, match="rates must rise"):
            sweep(job(1.0), **words)
    with pytest.raises(WorkError, match="no finite number from the start"):
        sweep(job(float("nan")))


def test_the_command_prints_a_rate_draws_it_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["find-lr", "digits", "--model", "lenet5_relu", "--recipe", "quick", "--steps", "40"]
    words += ["--highest", "1000"]
    done = CliRunner().invoke(app, [*words, "--output", "rates.svg"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "suggested  --lr" in done.stdout
    assert "it diverged beyond" in done.stdout
    assert [path.name for path in Path().iterdir()] == ["rates.svg"]
    assert "learning rate" in Path("rates.svg").read_text("utf-8")
    again = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    document = json.loads(again.stdout)
    assert f"--lr {document['suggestion']:.2g}" in done.stdout
    assert 1e-4 < document["suggestion"] < 1
    with pytest.raises(InputError, match=r"--output rates.pdf: the chart is an .svg or a .png"):
        CliRunner().invoke(app, [*words, "--output", "rates.pdf"], catch_exceptions=False)
