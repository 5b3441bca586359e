"""Several processes under a real torchrun, on gloo: they are one training run, whatever befalls."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.sources import open_source
from deepen.errors import WorkError
from deepen.models import create_model
from deepen.training.distributed import _Many, _Pulse
from deepen.weights import load_weights

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and torchrun's gloo of POSIX"),
    # Python 3.12 and newer warn of every fork in a process with threads; torch's loader forks.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

# A user's networks. In training they write down what they see, step by step, and may meet an end.
NETWORKS = """
import hashlib, os, signal
import torch
from torch import nn
from deepen.errors import InputError

RANK, RESTARTS = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
ATTEMPT = os.environ.get("RESUMED", "first") + RESTARTS
if os.environ.get("STOP") == RANK:  # process 0 reads this file while the others wait for hours
    os.kill(os.getpid(), signal.SIGSTOP)


class Net(nn.Module):
    def __init__(self, num_classes, *layers):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1), *layers, nn.ReLU(), nn.Flatten(),
            nn.Linear(96, num_classes),
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            with open(os.environ["SEEN"], "a") as file:
                for one in x:
                    digest = hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest()[:16]
                    file.write(f"{int(self.steps)} {RANK} {ATTEMPT} {digest}\\n")
            self.steps += 1
            rank, step, number, whose = os.environ.get("END", "- - - -").split()
            if ATTEMPT == "first0" and (RANK, str(int(self.steps))) == (rank, step):
                os.kill({"own": os.getpid(), "torchrun's": os.getppid()}[whose], int(number))
        return self.layers(x)


def plain(num_classes):
    return Net(num_classes)


def normalized(num_classes):
    return Net(num_classes, nn.BatchNorm2d(6))


def dropped(num_classes):
    return Net(num_classes, nn.Dropout(0.5))


def refused(num_classes):
    if RANK == "1":
        raise InputError("process 1 has no wish to")
    return Net(num_classes)


class coloured(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.layers[0] = nn.Conv2d(3, 6, 3, stride=2, padding=1)


def infinite(num_classes):
    net = Net(num_classes)
    if RANK == "1":
        net.register_forward_hook(lambda net, x, y: y * (float("inf") if net.training else 1))
    return net
"""

# 799 training pictures: seven batches of 114 and one of a single picture; 99 to validate on.
RECIPE = {
    "length.epochs": 3,
    "batch_size": 114,
    "validation": 99,
    "augment.crop": "pad",
    "augment.pad_px": 1,
    "schedule.warmup_steps": 0,
    "optimizer.lr": 0.05,
}


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str

    def said(self) -> list[str]:
        """The lines by which deepen itself says that it failed."""
        return [line for line in self.err.splitlines() if line.startswith("deepen: ")]

    def statuses(self) -> list[int]:
        """Of the processes, as torchrun reports them."""
        return [int(status) for status in re.findall(r"exitcode  : (-?\d+)", self.err)]


class Place:
    """A folder with the networks, where commands run; `seen` is what they wrote of their input."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "ddp_networks.py").write_text(NETWORKS)

    def train(
        self,
        name: str,
        processes: int,
        network: str = "plain",
        data: str = "digits",
        recipe: dict[str, object] = RECIPE,
        torchrun: tuple[str, ...] = (),
        resume: bool = False,
        **environment: str,
    ) -> Ended:
        words = [sys.executable]
        if processes > 1:
            words += ["-m", "torch.distributed.run", "--standalone"]
            words += ["--nproc-per-node", str(processes), *torchrun]
        words += ["-m", "deepen", "train"]
        if resume:
            words += ["--resume", name]
        else:
            words += [data, "--model", f"ddp_networks:{network}", "--recipe", "quick"]
            words += ["--output", name] if name else []
            for key, value in recipe.items():
                words += ["--set", f"{key}={value}"]
        path = os.pathsep.join([str(self.path), os.environ.get("PYTHONPATH", "")])
        environment = {"SEEN": str(self.path / f"{name}.seen"), **environment}
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        if resume:
            environment["RESUMED"] = "resumed"
        done = subprocess.run(
            words,
            cwd=self.path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def seen(self, name: str) -> list[list[str]]:
        """The pictures of each step as the network got them, those of rank 0 first.

        What was seen again after a restart must be what was seen before, as far as that came.
        """
        attempts: dict[str, dict[int, dict[int, list[str]]]] = {}
        for line in (self.path / f"{name}.seen").read_text().splitlines():
            step, rank, attempt, digest = line.split()
            steps = attempts.setdefault(attempt, {})
            steps.setdefault(int(step), {}).setdefault(int(rank), []).append(digest)
        seen: dict[int, list[str]] = {}
        for steps in reversed(attempts.values()):
            for step, ranks in steps.items():
                whole = [digest for rank in sorted(ranks) for digest in ranks[rank]]
                assert set(whole) <= set(seen.setdefault(step, whole))
        assert sorted(seen) == list(range(len(seen)))
        return [seen[step] for step in sorted(seen)]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return safetensors.torch.load_file(self.path / name / "last.safetensors")

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.path / name / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            del row["seconds"], row["images_per_s"]
        return rows

    def digest(self, name: str) -> str:
        """Of weights, optimizer, schedule, random numbers and metrics."""
        newest = max((self.path / name / "checkpoints").iterdir())
        tensors = (newest / "tensors.safetensors").read_bytes()
        rows = json.dumps(self.rows(name)).encode()
        return hashlib.sha256(tensors + rows).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    place = Place(tmp_path_factory.mktemp("processes"))
    for name, processes in (("one", 1), ("two", 2)):
        ended = place.train(name, processes)
        assert ended.status == 0, ended.err
        assert ended.out.count("test accuracy") == 1
        assert ended.err.count("epoch 3/3") == 1
    return place


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_see_what_one_does(place):
    assert [len(step) for step in place.seen("one")] == 3 * ([114] * 7 + [1])
    assert place.seen("two") == place.seen("one")
    lines = (place.path / "two.seen").read_text().splitlines()
    shares = [sum(line.split()[:2] == ["0", rank] for line in lines) for rank in "01"]
    assert shares == [58, 56]  # of the first step


def test_two_processes_agree_with_one(place):
    """To float tolerance, the last batch of one picture, which one of them lacks, included."""
    assert_close(place.tensors("two"), place.tensors("one"))
    for ours, theirs in zip(place.rows("two"), place.rows("one"), strict=True):
        assert ours["train_top1"] == theirs["train_top1"]
        for key in ("step", "lr", "train_loss", "eval_loss", "eval_top1", "eval_top5"):
            assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=1e-4)


@pytest.mark.slow  # two commands
def test_mixed_pictures_in_micro_batches_agree_with_one(place):
    """The last batch, of one picture, is one piece in process 0, and none in the other."""
    modern = {"accumulate": 3, "mix.mixup": 0.4, "mix.cutmix": 1.0, "ema.decay": 0.9}
    for name, processes in (("pieces1", 1), ("pieces2", 2)):
        ended = place.train(name, processes, recipe=RECIPE | modern, DEEPEN_TIMEOUT_S="60")
        assert ended.status == 0, ended.err
    assert_close(place.tensors("pieces2"), place.tensors("pieces1"))
    for ours, theirs in zip(place.rows("pieces2"), place.rows("pieces1"), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-4)


def test_every_test_picture_is_counted_once(place):
    """899 pictures, an odd number, in batches of 114."""
    ours, theirs = (
        safetensors.torch.load_file(place.path / name / "predictions.safetensors")
        for name in ("two", "one")
    )
    source = open_source("digits", validation=99)
    assert ours["indices"].tolist() == list(range(899))
    assert np.array_equal(ours["labels"].numpy(), source.splits["test"].labels)
    torch.testing.assert_close(ours["logits"], theirs["logits"], rtol=1e-3, atol=1e-3)
    scores = [json.loads((place.path / n / "scores.json").read_text()) for n in ("two", "one")]
    assert scores[0]["scores"]["num_samples"] == scores[1]["scores"]["num_samples"] == 899


def test_only_the_first_process_writes(place):
    files = [
        sorted(path.relative_to(place.path / name) for path in (place.path / name).rglob("*.*"))
        for name in ("one", "two")
    ]
    plain = [[path for path in paths if "tfevents" not in path.name] for paths in files]
    assert plain[0] == plain[1]
    assert len(files[0]) == len(files[1])
    environment = json.loads((place.path / "two" / "environment.json").read_text())
    assert environment["processes"] == 2


def test_batch_norm_is_of_the_halves(place, monkeypatch):
    """Against a loop by hand: each half through the network by itself, gradients averaged."""
    by_hand = {
        "length.epochs": 1,
        "optimizer.momentum": 0,
        "optimizer.nesterov": False,
        "optimizer.weight_decay": 0,
        "schedule.name": "constant",
        "loss.label_smoothing": 0,
        "clip_norm": "null",
    }
    ended = place.train("halves", 2, "normalized", recipe=RECIPE | by_hand)
    assert ended.status == 0, ended.err
    monkeypatch.syspath_prepend(place.path)
    loaded = load_weights(
        place.path / "halves" / "last.safetensors", model="ddp_networks:normalized"
    )

    torch.manual_seed(0)
    net = create_model("ddp_networks:normalized", 10)
    batches = Batches(
        open_source("digits", validation=99).splits["train"],
        loaded.card.preprocessing,
        batch_size=114,
        augmentation=Augmentation(crop="pad", pad_px=1),
        shuffle=True,
    )
    for batch in batches.epoch(0):
        remembered = []
        for part in (slice(0, 58), slice(58, 114)):
            if len(labels := batch.labels[part]):
                loss = nn.functional.cross_entropy(net.layers(batch.images[part]), labels)
                (loss * len(labels) / len(batch.labels)).backward()
            remembered.append([buffer.clone() for buffer in net.layers.buffers()])
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
            # Process 0, whose statistics are kept, has seen the first half alone.
            for buffer, value in zip(net.layers.buffers(), remembered[0], strict=True):
                buffer.copy_(value)
    assert_close(loaded.model.layers.state_dict(), net.layers.state_dict())


@pytest.mark.slow  # three commands
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_pictures_are_counted_together(place, workers):
    """Of twelve pictures in batches of four, three cannot be decoded, in both processes' parts."""
    folder = place.path / f"photos{workers}"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name, level in (("dark", 40), ("light", 160)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level, level + 60, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    bad = ["train/dark/1.png", "train/dark/4.png", "train/light/0.png", "val/light/1.png"]
    for path in bad:
        (folder / path).write_bytes(b"no picture")
    recipe = {"length.epochs": 2, "batch_size": 4, "max_bad_pictures": 0.25, "optimizer.lr": 0.01}
    recipe |= {"input.size_px": 8}
    for name, processes in (("bad1", 1), ("bad2", 2)):
        words = {"data": folder.name, "recipe": recipe, "network": "coloured"}
        ended = place.train(f"{name}{workers}", processes, **words)
        assert ended.status == 0, ended.err
        assert sorted(re.findall("left out: ([^:]*)", ended.err)) == bad
        quarantined = (place.path / f"{name}{workers}" / "quarantine.txt").read_text()
        assert [line.split("\t")[0] for line in quarantined.splitlines()] == bad
    assert place.seen(f"bad2{workers}") == place.seen(f"bad1{workers}")
    assert_close(place.tensors(f"bad2{workers}"), place.tensors(f"bad1{workers}"))
    words["recipe"] = recipe | {"max_bad_pictures": 0.2}
    ended = place.train(f"many{workers}", 2, **words)
    assert ended.statuses() == [2, 2]
    assert len(ended.said()) == 1
    assert "3 of 12 training pictures cannot be decoded" in ended.said()[0]


@pytest.mark.slow
def test_an_error_ends_all_processes_alike_and_is_said_once(place):
    ended = place.train("wrong", 2, recipe={"optimizer.rl": 0.1})
    assert ended.statuses() == [2, 2]
    assert len(ended.said()) == 1
    assert "optimizer.rl" in ended.said()[0]
    assert not (place.path / "wrong").exists()


def test_an_error_of_one_process_ends_the_others_before_anything_is_written(place):
    ended = place.train("refused", 2, "refused")
    assert ended.statuses() == [2, 2]
    assert ended.said() == ["deepen: process 1 has no wish to"]
    assert not (place.path / "refused").exists()


@pytest.mark.slow
def test_an_infinite_loss_of_one_process_ends_all(place):
    ended = place.train("infinite", 2, "infinite")
    assert ended.statuses() == [1, 1]
    assert len(ended.said()) == 1
    assert re.search("the loss is (inf|nan) in epoch 1, step 1", ended.said()[0])
    assert not list((place.path / "infinite").glob("*.safetensors"))


@pytest.mark.slow  # two commands or three
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("network", ["plain", "dropped"])
def test_a_signal_to_one_process_stops_all_at_one_step(place, number, status, network):
    """Then as many processes go on with the same bits, dropout's too."""
    whole = "two"
    if network == "dropped":
        whole = f"dropped{status}"
        assert place.train(whole, 2, network).status == 0
    name = f"stopped{status}{network}"
    ended = place.train(name, 2, network, END=f"1 12 {number} own")
    assert ended.statuses() == [status, status]
    assert len(ended.said()) == 1
    assert f"--resume {name}" in ended.said()[0]
    (state,) = (place.path / name / "checkpoints" / "000002").glob("state.json")
    assert json.loads(state.read_text())["state"]["progress"]["step"] == 12
    ended = place.train(name, 2, resume=True)
    assert ended.status == 0, ended.err
    assert "no longer bit-exact" not in ended.err
    assert place.digest(name) == place.digest(whole)


@pytest.mark.slow
def test_a_restart_needs_a_run_to_find(place):
    ended = place.train("", 2, torchrun=("--max-restarts", "1"))
    assert ended.statuses() == [2, 2]
    assert len(ended.said()) == 2  # torchrun has tried again
    assert "--output" in ended.said()[0]


@pytest.mark.slow  # three commands
def test_sigterm_to_torchrun_is_a_preemption(place):
    ended = place.train("preempted", 2, END=f"1 12 {signal.SIGTERM} torchrun's")
    assert ended.status == 1
    assert len(ended.said()) == 1
    assert ended.said()[0].startswith("deepen: stopped by SIGTERM; saved")
    assert place.train("preempted", 2, resume=True).status == 0
    assert place.digest("preempted") == place.digest("two")
    assert place.seen("preempted") == place.seen("two")


@pytest.mark.slow  # a command that starts twice
def test_a_killed_process_is_replaced_and_not_a_bit_changes(place):
    ended = place.train(
        "killed", 2, torchrun=("--max-restarts", "1"), END=f"1 12 {signal.SIGKILL} own"
    )
    assert ended.status == 0, ended.err
    assert "resuming killed" in ended.err
    assert place.digest("killed") == place.digest("two")
    assert place.seen("killed") == place.seen("two")


@pytest.mark.slow  # two commands
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on_with_the_same_samples(place, before, after):
    """Killed in the second epoch: the steps since its beginning are made again."""
    name = f"{before}as{after}"
    ended = place.train(name, before, END=f"{before - 1} 12 {signal.SIGKILL} own")
    assert ended.status != 0
    if before > 1:
        assert sorted(ended.statuses()) == [-signal.SIGKILL, 1]
        assert len(ended.said()) == 1
        assert "--resume" in ended.said()[0]
    ended = place.train(name, after, resume=True)
    assert ended.status == 0, ended.err
    assert f"processes {before} -> {after}: no longer bit-exact" in ended.err
    assert place.seen(name) == place.seen("one")
    assert_close(place.tensors(name), place.tensors("one"))


@pytest.mark.slow  # torchrun gives a process that does not answer 30 seconds to end
def test_a_process_that_hangs_ends_the_job(place):
    ended = place.train("hung", 2, END=f"1 12 {signal.SIGSTOP} own", DEEPEN_TIMEOUT_S="5")
    assert ended.status == 1
    assert len(ended.said()) == 1
    assert "died or hung" in ended.said()[0]
    assert place.train("hung", 2, resume=True).status == 0
    assert place.digest("hung") == place.digest("two")


@pytest.mark.slow  # as above
def test_a_process_that_is_stopped_while_it_works_alone_ends_the_job(place):
    ended = place.train("stopped", 2, STOP="0", DEEPEN_TIMEOUT_S="3")
    assert ended.status == 1
    assert len(ended.said()) == 1
    assert "died or hung (no sign of life for 3 s)" in ended.said()[0]


def test_a_process_alone_is_waited_for_while_it_shows_that_it_lives():
    store = dist.HashStore()
    here = object.__new__(_Many)
    here.rank, here.size, here.store, here.words, here.timeout_s = 0, 2, store, 0, 0.5
    here.pulse, other = _Pulse(store, 0, 0.5), _Pulse(store, 1, 0.5)
    late = threading.Timer(1.5, store.set, ("1/1", '"done"'))
    late.start()
    assert here.gather("mine", 60) == ["mine", "done"]
    other.end()
    with pytest.raises(WorkError, match=r"no sign of life for 0 s"):
        here.gather("mine", 60)
    here.pulse.end()
    assert not other.is_alive()
    assert not here.pulse.is_alive()


@pytest.mark.slow  # two commands of three processes each
def test_sums_of_three_resume_exactly(place):
    """Unlike those of two they depend on how torch lays out its buckets."""
    assert place.train("three", 3).status == 0
    assert place.train("stopped3", 3, END=f"1 12 {signal.SIGTERM} own").status == 1
    assert place.train("stopped3", 3, resume=True).status == 0
    assert place.digest("stopped3") == place.digest("three")
