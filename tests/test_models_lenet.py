"""LeNet-5 against the paper's own numbers and a reference written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepen.errors import InputError
from deepen.models import create_model
from deepen.models.lenet import C3_TABLE, LeNet5, squash

# LeCun et al. 1998, section II-B: trainable parameters and connections of each layer.
PAPER = {
    "c1": (156, 122_304),
    "s2": (12, 5_880),
    "c3": (1_516, 151_600),
    "s4": (32, 2_000),
    "c5": (48_120, 48_120),
    "f6": (10_164, 10_164),
    "output": (0, 840),
}


def test_parameters_are_the_papers_row_by_row():
    net = LeNet5()
    counted = {name: sum(p.numel() for p in m.parameters()) for name, m in net.named_children()}
    assert counted == {name: parameters for name, (parameters, _) in PAPER.items()}
    assert sum(counted.values()) == 60_000


def count_connections(net: LeNet5) -> dict[str, int]:
    """Inputs (and biases) that reach each unit, found by asking autograd, unit by unit.

    A unit's connections are the inputs that its output depends on, plus one for its bias. Layers
    are linear before the squash: the dependence can be read from a Jacobian at random weights.
    """
    counts = {}
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    net = net.double()
    for name, layer in net.named_children():
        seen = x.flatten(1) if name == "f6" else x
        jacobian = torch.autograd.functional.jacobian(layer, seen)
        out = layer(seen)
        rows = jacobian.reshape(out.numel(), -1)
        biases = 0 if name == "output" else out.numel()
        counts[name] = int((rows != 0).sum()) + biases
        x = squash(out).detach()
    return counts


def test_connections_are_the_papers_row_by_row():
    counted = count_connections(LeNet5())
    assert counted == {name: connections for name, (_, connections) in PAPER.items()}
    assert sum(counted.values()) == 340_908


def test_connection_table_has_the_shape_the_paper_describes():
    """Section II-B: six contiguous triples, six contiguous fours, three other fours, all six."""
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert sum(map(len, C3_TABLE)) == 60
    contiguous = lambda k: {frozenset((i + j) % 6 for j in range(k)) for i in range(6)}  # noqa: E731
    assert set(map(frozenset, C3_TABLE[:6])) == contiguous(3)
    assert set(map(frozenset, C3_TABLE[6:12])) == contiguous(4)
    assert set(map(frozenset, C3_TABLE[12:15])) & contiguous(4) == set()
    seen = np.bincount([i for row in C3_TABLE for i in row], minlength=6)
    assert (seen == 10).all()  # Table I: ten marks in each row


def reference_forward(net: LeNet5, image: np.ndarray) -> np.ndarray:
    """Section II-B in loops, float64; image (32, 32) to ten penalties."""
    p = {name: value.detach().double().numpy() for name, value in net.named_parameters()}
    f = lambda a: 1.7159 * np.tanh(2 / 3 * a)  # noqa: E731

    def correlate(maps, kernels, bias):  # maps (I, H, W), kernels (I, k, k)
        k = kernels.shape[-1]
        size = maps.shape[-1] - k + 1
        out = np.empty((size, size))
        for r in range(size):
            for c in range(size):
                out[r, c] = (maps[:, r : r + k, c : c + k] * kernels).sum() + bias
        return out

    def subsample(maps, coefficient, bias):
        sums = maps[:, ::2, ::2] + maps[:, 1::2, ::2] + maps[:, ::2, 1::2] + maps[:, 1::2, 1::2]
        return sums * coefficient[:, None, None] + bias[:, None, None]

    x = f(
        np.stack(
            [
                correlate(image[None], w, b)
                for w, b in zip(p["c1.weight"], p["c1.bias"], strict=True)
            ]
        )
    )
    x = f(subsample(x, p["s2.coefficient"], p["s2.bias"]))
    maps, first = [], 0
    for out, table in enumerate(C3_TABLE):
        kernels = p["c3.weight"][first : first + len(table)]
        maps.append(correlate(x[list(table)], kernels, p["c3.bias"][out]))
        first += len(table)
    x = f(np.stack(maps))
    x = f(subsample(x, p["s4.coefficient"], p["s4.bias"]))
    x = f(np.array([(x * w).sum() for w in p["c5.weight"]]) + p["c5.bias"])
    x = f(p["f6.weight"] @ x + p["f6.bias"])
    codes = net.output.bitmaps.double().numpy()
    return ((x - codes) ** 2).sum(1)


def test_forward_agrees_with_the_paper_written_out():
    torch.manual_seed(0)
    net = LeNet5().double()
    image = np.random.default_rng(0).uniform(-0.1, 1.175, (32, 32))
    logits = net(torch.from_numpy(image)[None, None])[0].detach().numpy()
    np.testing.assert_allclose(-logits, reference_forward(net, image), rtol=1e-10)


def test_squash_maps_plus_and_minus_one_to_themselves():
    """Appendix A: A and S are chosen so that f(1) = 1 and f(-1) = -1."""
    ones = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(squash(ones), ones, rtol=0, atol=1e-4)


def test_drawings_are_ten_different_ones_of_84_signs():
    codes = LeNet5().output.bitmaps
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    distances = torch.cdist(codes, codes) + 1e9 * torch.eye(10)
    assert distances.min() >= 4  # at least four pixels differ
    one = codes[1].view(12, 7)
    assert (one[9, 1:] == 1).all()  # a foot line
    assert (one[10:] == -1).all()  # then two empty rows


def test_initial_weights_fill_the_papers_range():
    """Appendix A: uniform in +-2.4 / fan-in."""
    torch.manual_seed(0)
    net = LeNet5()
    for weight, fan in ((net.c1.weight, 25), (net.c5.weight, 400), (net.f6.weight, 120)):
        assert weight.abs().max() <= 2.4 / fan
        assert weight.abs().max() > 2.2 / fan
        assert abs(weight.std().item() * fan / 2.4 - 3**-0.5) < 0.05
    assert net.c3.weight[:3].abs().max() <= 2.4 / 75
    assert net.c3.weight[-6:].abs().max() <= 2.4 / 150


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 11}, "lenet5 has 10 classes, asked for 11"),
        ({"in_channels": 3}, "lenet5 takes 1 input channels, asked for 3"),
        ({"input_size": 28}, "lenet5 takes pictures of 32x32 px, asked for 28x28"),
    ],
)
def test_what_it_is_not_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        create_model("lenet5", **changes)


def test_relu_form_counts_what_everyone_counts():
    """61,706 parameters, the number printed wherever the modern form is summarised."""
    assert sum(p.numel() for p in create_model("lenet5_relu").parameters()) == 61_706


def test_relu_form_is_five_layers_written_out():
    net = create_model("lenet5_relu").double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)

    def convolve_and_pool(x, conv):
        windows = x.unfold(2, 5, 1).unfold(3, 5, 1)
        maps = torch.einsum("bihwyx,oiyx->bohw", windows, conv.weight)
        maps = (maps + conv.bias[:, None, None]).clamp(min=0)
        return maps.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))

    y = convolve_and_pool(convolve_and_pool(x, net.conv1), net.conv2).flatten(1)
    assert y.shape == (2, 400)
    for layer in (net.fc1, net.fc2):
        y = (y @ layer.weight.T + layer.bias).clamp(min=0)
    expected = y @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-12)
