"""`deepen byhand`: every example shows, in words and in JSON, and its numbers are torch's."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from deepen.byhand.drawing import rows, side_by_side
from deepen.byhand.worked import WORKED
from deepen.cli import app
from deepen.errors import InputError

# Runs a line of Python, then says on the last line which packages beside the standard library
# and ours it imported.
PROBE = """
import sys
before = set(sys.modules)
{line}
found = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(name for name in found - set(sys.stdlib_module_names) if name[0] != "_"))
"""


def imported(line: str) -> set[str]:
    code = PROBE.format(line=line)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_room_needs_numpy_alone():
    line = (
        "import importlib, pkgutil, deepen.byhand\n"
        "for module in pkgutil.iter_modules(deepen.byhand.__path__, 'deepen.byhand.'):\n"
        "    importlib.import_module(module.name)"
    )
    assert imported(line) == {"deepen", "numpy"}


def test_the_verb_imports_no_torch():
    found = imported("from deepen.cli import app\napp(['byhand', 'conv'], standalone_mode=False)")
    assert "numpy" in found
    assert found & {"torch", "sklearn", "matplotlib", "PIL"} == set()


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["byhand", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def steps(block: str) -> list[dict[str, np.ndarray]]:
    """The arrays of each step, as --json prints them."""
    document = json.loads(shown(block, "--json"))
    return [{k: np.array(v) for k, v in s["values"].items()} for s in document["steps"]]


@pytest.mark.parametrize("block", WORKED)
def test_every_example_says_its_source_and_shows_its_numbers(block):
    text = shown(block)
    assert "Lecture 00" in text
    assert "Backward" in text or block in {"activations", "loss", "sgd", "residual"}
    assert text.isascii()
    assert all(line == line.rstrip() for line in text.splitlines())
    document = json.loads(shown(block, "--json"))
    assert {"title", "source", "steps"} == set(document)
    assert all(step["words"].endswith(".") for step in document["steps"])


def test_list_names_every_example():
    listed = [line.split()[0] for line in shown().splitlines()]
    assert listed == [*WORKED, "lenet"] == list(json.loads(shown("--json")))


def test_unknown_block_is_named_with_the_nearest():
    with pytest.raises(InputError, match="unknown block 'convv'; nearest: conv"):
        CliRunner().invoke(app, ["byhand", "convv"], catch_exceptions=False)


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float64)[None, None].requires_grad_()


def test_convolution_shows_what_torch_computes():
    given, windows, symbolic, matrix, filters, inputs, transposed = steps("conv")
    x, w = leaf(given["input X"]), leaf(given["filter W"])
    y = F.conv2d(x, w)
    y.backward(torch.tensor(filters["dE/dY"])[None, None])
    assert np.array_equal(given["output Y"], y[0, 0].detach())
    assert np.array_equal(windows["W"] @ windows["windows"], windows["Y"])
    assert np.array_equal(windows["Y"], y.flatten().detach())
    assert np.array_equal(matrix["C"] @ given["input X"].ravel(), matrix["C X"].ravel())
    assert np.array_equal(matrix["C X"].ravel(), y.flatten().detach())
    assert np.array_equal(filters["dE/dW"], w.grad[0, 0])
    assert np.array_equal(inputs["dE/dX"], x.grad[0, 0])
    assert np.array_equal(transposed["C^T dE/dY"], x.grad.flatten())
    (symbols,) = symbolic.values()
    numbers = {f"w{u}{v}": given["filter W"][u, v] for u in range(3) for v in range(3)} | {"0": 0}
    assert [[numbers[word] for word in row] for row in symbols] == matrix["C"].tolist()


def test_transpose_convolution_shows_what_torch_computes():
    stamps, total, matrix, back, _ = steps("transpose")
    x, w = leaf(stamps.pop("input")), leaf(stamps.pop("filter W"))
    y = F.conv_transpose2d(x, w)
    y.backward(torch.tensor(back["dE/dY"])[None, None])
    assert np.array_equal(sum(stamps.values()), total["output"])
    assert np.array_equal(total["output"], y[0, 0].detach())
    assert np.array_equal(matrix["C^T x"].ravel(), y.flatten().detach())
    assert np.array_equal(back["dE/dX"], x.grad[0, 0])
    assert np.array_equal(back["dE/dW"], w.grad[0, 0])


def test_pooling_shows_what_torch_computes():
    given, back, _ = steps("pool")
    for name, pool in (("max", F.max_pool2d), ("mean", F.avg_pool2d)):
        x = leaf(given["input"])
        y = pool(x, 2)
        y.backward(torch.tensor(back["dE/dY"])[None, None])
        assert np.array_equal(given[name], y[0, 0].detach())
        assert np.array_equal(back[f"dE/dX, {name}"], x.grad[0, 0])


@pytest.mark.slow
def test_lenet_trains_and_says_its_error():
    assert "Test accuracy on the 899 digits of the second half: " in shown("lenet")


def test_arrays_are_drawn_in_columns():
    assert rows(np.array([[1, -20.5], [1 / 3, -0.0]])) == ["     1  -20.5", "0.3333      0"]
    assert side_by_side({"x": np.array([1, 2]), "tall": np.array([[3], [4]])}).splitlines() == [
        "   x       tall",
        "   1 2     3",
        "           4",
    ]
