"""What every test shares: two threads, a fixed seed, repeatable hypothesis, the real data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Commands that tests start as processes inherit all of this.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["NO_COLOR"] = "1"
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "DEEPEN_DATA_DIR"):
    os.environ.pop(name, None)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# No test may fail because a machine is slow; in CI the same examples are tried each time.
settings.register_profile(
    "deepen",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deepen")


def networks(found: Iterable[pytest.Item | pytest.TestReport]) -> set[str]:
    """Those whose promises were looked at."""
    ids = [one.nodeid for one in found if "test_models_promises.py::" in one.nodeid]
    return {re.split(r"[\[\]]", one)[1] for one in ids}


LEFT_OUT: set[str] = set()
"""Networks of which some promises were not looked at."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    LEFT_OUT.update(networks(items))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist tells the one that reports."""
    if (told := getattr(session.config, "workeroutput", None)) is not None:
        told["left_out"] = sorted(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many networks ran through all promises, by what ran and what was left out."""
    stats, left = terminalreporter.stats, LEFT_OUT
    ran = networks(
        r for key in ("passed", "failed", "xfailed", "error") for r in stats.get(key, ())
    )
    if ran:
        rest = f", {len(ran & left)} to some: make test-all has the rest" if left else ""
        terminalreporter.write_line(
            f"promises: {len(ran - left)} of {len(ran | left)} networks held to all{rest}"
        )


THREADS = torch.get_num_threads()
"""As processes have it that tests start; bits depend on it."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    """No test depends on those before it."""
    torch.manual_seed(0)
    if torch.get_num_threads() != THREADS:  # a study sets them
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (mnist/, cifar10/, ...) that DEEPEN_DATA names, else a skip."""
    named = os.environ.get("DEEPEN_DATA")
    if not named:
        pytest.skip("DEEPEN_DATA is not set: it names the folder of real data sets")
    folder = Path(named)
    assert folder.is_dir(), f"DEEPEN_DATA={named} is no folder"
    return folder


@pytest.fixture(scope="session")
def count() -> Callable[[str], tuple[int, int]]:
    """Parameters and multiply-accumulates of a network by name, on its paper's input, unallocated.

    The multiply-accumulates are torch's own count: convolutions, linear layers, matrix products.
    """
    from deepen.models import create_model, get_architecture

    def count(name: str) -> tuple[int, int]:
        takes = get_architecture(name).takes
        with torch.device("meta"):
            net = create_model(name).eval()
            x = torch.zeros(1, takes.channels, takes.size_px, takes.size_px)
        with FlopCounterMode(display=False) as counter:
            net(x)
        return sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2

    return count


def randomize_batch_norm(net: nn.Module) -> None:
    """Scales, shifts and statistics that no two channels share."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.2)
            m.running_mean.normal_(std=0.2)
            m.running_var.uniform_(0.5, 1.5)


@pytest.fixture(scope="session")
def assert_twins() -> Callable[..., None]:
    """Asserts that two networks are one: with the second's random weights the first agrees with it.

    In float64 to 1e-9, in training and evaluation, forward, backward and in what is remembered.
    `rename` turns the second's keys into the first's, where they differ.
    """

    def close(ours: Tensor, theirs: Tensor, what: str) -> None:
        largest = theirs.detach().abs().max().item()
        torch.testing.assert_close(
            ours, theirs, rtol=1e-9, atol=1e-9 * largest, msg=lambda m: f"{what}: {m}"
        )

    def assert_twins(
        ours: nn.Module,
        theirs: nn.Module,
        x: Tensor,
        rename: Callable[[str], str] = lambda key: key,
    ) -> None:
        randomize_batch_norm(theirs)
        ours.load_state_dict({rename(key): value for key, value in theirs.state_dict().items()})
        ours, theirs = ours.double(), theirs.double()
        for training in (False, True):
            a, b = (x.double().requires_grad_() for _ in range(2))
            left, right = theirs.train(training)(a), ours.train(training)(b)
            close(right, left, "logits")
            theirs.zero_grad()
            ours.zero_grad()
            left.square().sum().backward()
            right.square().sum().backward()
            close(b.grad, a.grad, "gradient of the input")
            found = dict(ours.named_parameters())
            for key, parameter in theirs.named_parameters():
                close(found[rename(key)].grad, parameter.grad, f"gradient of {key}")
        remembered = ours.state_dict()
        for key, value in theirs.state_dict().items():
            close(remembered[rename(key)].double(), value.double(), key)

    return assert_twins


@pytest.fixture(scope="session")
def assert_trains() -> Callable[[nn.Module, Tensor], None]:
    """Asserts that every parameter of a network gets a finite gradient that is not all zero."""

    def assert_trains(net: nn.Module, x: Tensor) -> None:
        logits = net.train()(x)
        nn.functional.cross_entropy(logits, torch.arange(len(x))).backward()
        for key, parameter in net.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().sum() > 0, key
            parameter.grad = None

    return assert_trains


@pytest.fixture(scope="session")
def assert_serves() -> Callable[[nn.Module, Tensor], None]:
    """Asserts that a network in evaluation does in bfloat16 and exported what it does plainly."""

    def assert_serves(net: nn.Module, x: Tensor) -> None:
        net.eval()
        with torch.no_grad():
            expected = net(x)
            scale = expected.abs().max()
            with torch.autocast("cpu", torch.bfloat16):
                half = net(x).float()
            assert (half - expected).norm() < 0.1 * expected.norm()
            exported = torch.export.export(net, (x,)).module()(x)
            torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4 * scale)

    return assert_serves


@pytest.fixture(scope="session")
def assert_autograd() -> Callable[..., None]:
    """Asserts that a block by hand is a function of torch: its value and every gradient.

    In float64 to 1e-10. `backward` takes dE/dy and gives a gradient for each of the arrays.
    """

    def assert_autograd(
        reference: Callable[..., Tensor],
        arrays: Sequence[np.ndarray],
        y: np.ndarray,
        backward: Callable[[np.ndarray], Sequence[np.ndarray]],
    ) -> None:
        leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
        expected = reference(*leaves)
        grad = np.random.default_rng(len(y)).standard_normal(expected.shape)
        expected.backward(torch.from_numpy(grad))
        assert y.dtype == np.float64
        assert y.shape == tuple(expected.shape)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-10)
        for found, leaf in zip(backward(grad), leaves, strict=True):
            assert found.shape == tuple(leaf.shape)
            np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-10, atol=1e-10)

    return assert_autograd
