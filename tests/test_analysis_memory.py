"""Estimated memory against what torch's allocator hands out, and against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepen.analysis.memory import measured, memory
from deepen.errors import InputError
from deepen.models import create_model

NUMBER = 4  # bytes of a float32


def test_a_chain_by_hand():
    """A prediction holds the weights, and at most two neighbouring maps besides the input."""
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((10, 40), (40, 30), (30, 5))))
    weights = 10 * 40 + 40 * 30 + 30 * 5
    known = memory(net, (10,), batch_size=8)
    assert known.weights == NUMBER * weights
    assert known.inference == NUMBER * (weights + 8 * 10 + 8 * 40 + 8 * 30)
    # Momentum, all maps, the sum and its gradient; then gradients from the last layer backwards.
    forward = 8 * (10 + 40 + 30 + 5) + 2
    first_backward = forward + 30 * 5 + 8 * 30 + 8 * 40  # and the next layer's are still to come
    assert known.training is not None
    assert known.training >= NUMBER * (2 * weights + first_backward)
    assert known.training <= NUMBER * (3 * weights + 2 * forward)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (1, 28, 28)), ("lenet5_relu", (1, 32, 32)), ("resnet20", (3, 32, 32))],
)
def test_estimates_are_what_is_measured(name: str, shape: tuple[int, ...]):
    """Up to what the library of convolutions takes for itself on the way."""
    net = create_model(name)
    known = memory(net, shape, batch_size=8)
    real = measured(known, net, shape)
    assert real.inference == known.inference
    assert real.training == known.training
    assert known.training is not None
    assert real.measured_inference is not None
    assert real.measured_training is not None
    if name == "mlp":
        assert real.measured_inference == known.inference
        assert real.measured_training == known.training
    else:
        assert 0.95 < real.measured_inference / known.inference < 1.5
        assert 0.95 < real.measured_training / known.training < 1.5
    assert all(p.grad is None for p in net.parameters())


def test_memory_grows_with_the_batch_and_in_half_precision_halves():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    one, two, four = (memory(net, (3, 16, 16), batch_size=n) for n in (1, 2, 4))
    assert four.inference - two.inference == 2 * (two.inference - one.inference) > 0
    assert one.training is not None
    assert one.training > one.inference
    assert not net.training
    half = memory(net.to(torch.bfloat16), (3, 16, 16))
    assert half.weights < 0.6 * one.weights
    assert half.inference < 0.6 * one.inference


def test_work_in_place_needs_no_second_map():
    def needs(inplace: bool) -> int:
        return memory(nn.Sequential(nn.ReLU(inplace), nn.ReLU(inplace)), (100,)).inference

    assert (needs(True), needs(False)) == (NUMBER * 100, NUMBER * 300)


def test_what_cannot_be_trained_is_still_predicted_with():
    alone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))  # one value a channel
    assert memory(alone, (3,)).training is None
    assert memory(alone, (3,), batch_size=2).training is not None
    assert memory(nn.ReLU(), (3,)).training is None  # nothing to train
    with pytest.raises(InputError, match="does not run"):
        memory(alone, (4,))


def test_auxiliary_outputs_take_part_in_training():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.extra = nn.Linear(50, 50), nn.Linear(50, 50)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"main": self.main(x), "extra": self.extra(x)}

    one, two = memory(nn.Linear(50, 50), (50,)), memory(Two(), (50,))
    assert one.training is not None
    assert two.training is not None
    assert two.training > one.training + 2 * 2550 * NUMBER


def test_a_network_without_weights_cannot_be_measured():
    with torch.device("meta"):
        net = nn.Linear(3, 4)
    with pytest.raises(InputError, match="no weights"):
        measured(memory(net, (3,)), net, (3,))
