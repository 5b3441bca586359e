"""Speed: settings by rules and by measurement, steps on the device."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from deepen import api
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split, open_source
from deepen.errors import InputError, Interrupted, WorkError
from deepen.training import speed, tuning
from deepen.training.build import Job
from deepen.training.captured import CapturedStep
from deepen.training.loop import fit
from deepen.training.progress import Silent
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.request import Here
from deepen.training.run import Run
from deepen.training.speed import Settings, amp_warning, rules, settings_of, why_no_graph
from deepen.training.task import Classification

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
PLAIN = {"channels_last": True, "amp": False, "compile": False, "cuda_graph": False}
SHORT = {
    "length.epochs": 2,
    "batch_size": 128,
    "validation": 100,
    "augment.crop": "pad",
    "augment.pad_px": 1,
    **PLAIN,
}


class Small(nn.Module):
    """With batch norm and dropout: buffers and torch's random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
            *(nn.Dropout(0.3), nn.Linear(4 * 36, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def recipe_of(**changes: object) -> Recipe:
    return load_recipe("quick", SHORT | changes)


def job_of(recipe: Recipe, *, seed: int = 0, device: torch.device = CPU, reporter=None) -> Job:
    source = open_source("digits", validation=100)
    plain = Preprocessing(channels=1, size_px=(8, 8), resize="none", mean=(0.5,), std=(0.25,))
    torch.manual_seed(seed)
    network = Small().to(device, memory_format=torch.channels_last)

    def batches(split: str, augmented: bool) -> Batches:
        augmentation = recipe.augment if augmented else Augmentation()
        return Batches(
            source.splits[split],
            plain,
            batch_size=recipe.batch_size,
            augmentation=augmentation,
            shuffle=augmented,
            device=device,
        )

    return Job(
        network=network,
        recipe=recipe,
        task=Classification(recipe, source.classes),
        train=batches("train", True),
        validation=batches("val", False),
        here=Here(device=device.type, reporter=reporter or Silent()),
    )


def run_in(folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder)


def trained(job: Job, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    torch.manual_seed(1)
    state = fit(job, run_in(folder))
    rows = [
        {k: v for k, v in row.items() if "seconds" not in k and k != "images_per_s"}
        for row in state.history
    ]
    return job.network.state_dict(), rows


def assert_same(a, b) -> None:
    assert a[1] == b[1]
    for name, value in a[0].items():
        assert torch.equal(value, b[0][name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment.flip": True, "clip_norm": None},
        {"optimizer.name": "adamw", "optimizer.lr": 0.003},
        {"optimizer.momentum": 0.0, "optimizer.nesterov": False},
        {"amp": True},
        {"length.steps": 9},
        {"schedule.name": "plateau", "schedule.warmup_steps": 0, "schedule.patience": 1},
    ],
    ids=["sgd", "flips", "adamw", "no momentum", "amp", "ends within an epoch", "plateau"],
)
def test_resident_steps_are_the_plain_steps(tmp_path, changes):
    plain = trained(job_of(recipe_of(**changes)), tmp_path / "a")
    static = trained(job_of(recipe_of(**changes, cuda_graph=True)), tmp_path / "b")
    assert_same(static, plain)


class StopAt(Silent):
    def __init__(self, batches: int) -> None:
        self.left = batches

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_run_of_captured_steps_ends_with_the_same_bits(tmp_path, monkeypatch):
    recipe = recipe_of(cuda_graph=True)
    whole = trained(job_of(recipe), tmp_path / "whole")
    taken = 0
    take = CapturedStep.take

    def stop_in_the_second_epoch(self, *words):
        nonlocal taken
        taken += 1
        if taken == 10:  # six full batches an epoch, one of 31
            signal.raise_signal(signal.SIGINT)
        take(self, *words)

    monkeypatch.setattr(CapturedStep, "take", stop_in_the_second_epoch)
    with pytest.raises(Interrupted):
        trained(job_of(recipe), tmp_path / "run")
    monkeypatch.undo()
    state = json.loads(next((tmp_path / "run").glob("checkpoints/*2/state.json")).read_text())
    assert state["state"]["progress"]["batch"] == 3
    assert_same(trained(job_of(recipe), tmp_path / "run"), whole)


def test_a_loss_that_is_no_number_is_named_by_its_step(tmp_path):
    job = job_of(recipe_of(**{"cuda_graph": True, "optimizer.lr": 1e30}))
    with pytest.raises(WorkError, match=r"epoch 1, step \d; .* digits/train/"):
        fit(job, run_in(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_warming_up_leaves_no_trace():
    job = job_of(recipe_of(cuda_graph=True))
    before = {name: value.clone() for name, value in job.network.state_dict().items()}
    random = torch.get_rng_state()
    step = CapturedStep(job)
    next(step.batches(0, start=0))
    assert step.run is not None
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in job.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    momenta = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert momenta
    assert not any(momentum.any() for momentum in momenta)


def test_a_step_that_cannot_be_captured_runs_as_it_is_and_says_so(tmp_path, monkeypatch):
    def refused(self):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA says more")

    plain = trained(job_of(recipe_of()), tmp_path / "a")
    monkeypatch.setattr(CapturedStep, "_captured", refused)
    monkeypatch.setattr(CapturedStep, "on_gpu", property(lambda self: True))
    told = Told()
    job = job_of(recipe_of(cuda_graph=True), reporter=told)
    assert_same((trained(job, tmp_path / "b")[0], []), (plain[0], []))
    assert [line for line in told.lines if "not permitted when stream is capturing):" in line]


@needs_cuda
def test_a_captured_step_is_the_plain_step_on_the_gpu(tmp_path):
    """cuDNN's own choice of kernels may differ between the two: equal to within float32."""
    words = {"device": CUDA}
    plain = trained(job_of(recipe_of(), **words), tmp_path / "a")
    graph = trained(job_of(recipe_of(cuda_graph=True), **words), tmp_path / "b")
    for name, value in plain[0].items():
        torch.testing.assert_close(graph[0][name], value, rtol=1e-3, atol=1e-4)


def digits(count: int = 64, size: int = 32) -> Split:
    """Black pictures of a size."""
    return dataclasses.replace(
        open_source("digits").splits["train"],
        images=np.zeros((count, size, size, 1), np.uint8),
        labels=np.zeros(count, np.int64),
        keys=tuple(map(str, range(count))),
    )


def shown_at(size: int) -> Preprocessing:
    return Preprocessing(channels=1, size_px=(size, size), resize="none", mean=(0.0,), std=(1.0,))


def on(device: torch.device) -> Here:
    """A place of that kind, whether or not there is one."""
    here = Here()
    here.__dict__["place"] = device
    return here


def test_rules_on_the_cpu():
    settled, words = rules(load_recipe("quick"), shown_at(32), digits(), on(CPU))
    assert settled == Settings(channels_last=True)
    assert words.startswith("speed: channels last, float32 (")
    stated = load_recipe("quick", {"channels_last": False, "amp": True, "compile": True})
    settled, _ = rules(stated, shown_at(32), digits(), on(CPU))
    assert settled == Settings(amp=True, compile=True)


@pytest.mark.parametrize(("size", "amp"), [(32, False), (224, True)])
def test_rules_on_a_gpu(monkeypatch, size, amp):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    recipe = load_recipe("quick", {"batch_size": 32, "augment.crop": "pad", "augment.flip": True})
    settled, words = rules(recipe, shown_at(size), digits(size=size), on(CUDA))
    assert settled == Settings(channels_last=True, amp=amp, cuda_graph=True)
    assert "CUDA graph" in words
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert not rules(recipe, shown_at(size), digits(size=size), on(CUDA))[0].amp


def test_what_cannot_be_captured_says_why():
    quick = load_recipe("quick", {"batch_size": 32})
    assert why_no_graph(quick, digits(), 1) is None
    assert "no full batch" in (why_no_graph(quick, digits(31), 1) or "")
    assert "processes" in (why_no_graph(quick, digits(), 2) or "")
    resized = load_recipe("quick", {"batch_size": 32, "augment.crop": "random_resized"})
    assert "on the device" in (why_no_graph(resized, digits(), 1) or "")
    jittered = load_recipe("quick", {"batch_size": 32, "augment.jitter": 0.4})
    assert "shifts and flips" in (why_no_graph(jittered, digits(), 1) or "")
    other = load_recipe("quick", {"batch_size": 32, "task": "package.module:factory"})
    assert "task" in (why_no_graph(other, digits(), 1) or "")


def test_a_field_of_the_recipe_that_a_captured_step_does_not_know_keeps_it_off(monkeypatch):
    monkeypatch.setattr(speed, "_CAPTURED", speed._CAPTURED - {"clip_norm"})
    assert "clip_norm" in (why_no_graph(load_recipe("quick"), digits(), 1) or "")


def test_an_impossible_graph_is_refused_before_anything_is_written(tmp_path):
    changes = {**SHORT, "cuda_graph": True, "augment.jitter": 0.4}
    with pytest.raises(InputError, match="cuda_graph: augmentation"):
        api.train(
            "digits", model="lenet5_relu", recipe="quick", changes=changes, output=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_bfloat16_on_a_cpu_without_it_is_warned_of(monkeypatch):
    for have, warned in (({}, True), ({"avx512_bf16": True}, False), ({"bf16": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda have=have: have)
        assert (amp_warning(Settings(amp=True), CPU) is not None) == warned
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert amp_warning(Settings(), CPU) is None
    assert amp_warning(Settings(amp=True), CUDA) is None


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def quick_turns(monkeypatch):
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "TURN_S", 0.001)


def test_the_settings_are_said_and_kept(tmp_path):
    told = Told()
    open_ones = {k: v for k, v in SHORT.items() if k not in PLAIN}
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": {**open_ones, "amp": True}}
    run = api.train("digits", **words, output=tmp_path / "run", reporter=told).run
    assert [line for line in told.lines if line.startswith("speed: channels last, bfloat16")]
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    expected = {"channels_last": True, "amp": True, "compile": False, "cuda_graph": False}
    assert {key: written[key] for key in expected} == expected
    newest = max((run / "checkpoints").iterdir())
    machine = json.loads((newest / "state.json").read_text())["state"]["machine"]
    assert {key: machine[key] for key in expected} == expected
    again = api.train("digits", **words, resume=str(run))  # said again as it was said first
    assert again.run == run
    with pytest.raises(InputError, match="amp"):
        api.train("digits", model="lenet5_relu", changes={"amp": False}, resume=str(run))


def test_tuning_measures_and_keeps_its_choice(tmp_path, monkeypatch, quick_turns):
    measured = Settings(channels_last=False)
    monkeypatch.setattr(tuning.statistics, "median", {}.get)  # replaced below
    asked: list[Settings] = []

    def turn(trial, device):
        next(trial)
        return [0.001 if next(order) == measured else 0.01]

    def noted(recipe, train, by_rule, device):
        found = [by_rule, measured]
        asked.extend(found)
        return found

    monkeypatch.setattr(tuning, "candidates", noted)
    order = iter([Settings(channels_last=True), measured])
    monkeypatch.setattr(tuning, "_turn", turn)
    monkeypatch.setattr(tuning.statistics, "median", lambda values: values[0])
    told = Told()
    changes = {key: value for key, value in SHORT.items() if key not in PLAIN}
    words = {"model": "lenet5_relu", "recipe": "quick", "changes": changes, "tune": True}
    run = api.train("digits", **words, output=tmp_path / "run", reporter=told).run
    assert asked[0] == Settings(channels_last=True)
    line = next(line for line in told.lines if line.startswith("speed: "))
    assert line.startswith("speed: channels first, float32 (measured, a step: ")
    assert settings_of(Run(run).read_recipe()) == measured
    monkeypatch.setattr(tuning, "candidates", None)  # a resume measures nothing
    api.train(resume=str(run), tune=True)
    plain = {**words, "changes": {**changes, **measured._asdict()}, "tune": False}
    other = api.train("digits", **plain, output=tmp_path / "plain").run
    assert digest(run) == digest(other)  # measuring left no trace


def digest(run: Path) -> bytes:
    return (max((run / "checkpoints").iterdir()) / "tensors.safetensors").read_bytes()


def test_measuring_takes_turns_and_leaves_all_as_it_was(quick_turns):
    job = job_of(load_recipe("quick", {"batch_size": 128, "compile": False, "amp": False}))
    before = {name: value.clone() for name, value in job.network.state_dict().items()}
    random = torch.get_rng_state()
    best, words = tuning.measure(job, Settings(channels_last=True))
    assert best in (Settings(), Settings(channels_last=True))
    assert words.count(" ms") == 2
    assert torch.equal(torch.get_rng_state(), random)
    assert job.network.training
    for name, value in job.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_setting_that_fails_is_left_out_and_noise_changes_nothing(monkeypatch, quick_turns):
    def no_compiler(model, **words):
        raise RuntimeError("no C++ compiler\nlong story")

    job = job_of(load_recipe("quick", {"batch_size": 128, "amp": False}))
    monkeypatch.setattr(torch, "compile", no_compiler)
    times = iter([[0.0100], [0.0098], [0.0099]])
    monkeypatch.setattr(tuning, "_turn", lambda trial, device: next(times))
    best, words = tuning.measure(job, Settings(channels_last=True))
    assert best == Settings(channels_last=True)  # 2% is no gain
    assert "channels last, float32, compiled failed (no C++ compiler)" in words
    stated = load_recipe("quick", {"batch_size": 128, **PLAIN, "compile": True})
    with pytest.raises(WorkError, match=r"no C\+\+ compiler"):
        tuning.measure(job_of(stated), settings_of(stated))


def test_steps_are_timed_one_by_one_and_in_blocks_on_a_gpu(monkeypatch):
    now = 0.0

    def trial():
        nonlocal now
        while True:
            now += 1
            yield

    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now)
    monkeypatch.setattr(tuning, "_wait", lambda device: None)
    monkeypatch.setattr(tuning, "TURN_S", 50)
    assert tuning._turn(trial(), CPU) == [1.0] * 50
    assert tuning._turn(trial(), CUDA) == [1.0] * 3  # of 20 each


def test_candidates_hold_to_what_the_recipe_states(monkeypatch):
    monkeypatch.setattr(tuning, "cpu_has_bfloat16", lambda: True)
    by_rule = Settings(channels_last=True)
    everything = tuning.candidates(load_recipe("quick"), digits(), by_rule, CPU)
    assert everything[0] == by_rule
    assert Settings() in everything  # plain eager torch
    assert len(set(everything)) == len(everything)
    assert any(one.amp for one in everything)
    stated = load_recipe("quick", {"compile": False, "amp": False})
    assert tuning.candidates(stated, digits(), by_rule, CPU) == [by_rule, Settings()]
    monkeypatch.setattr(tuning, "cpu_has_bfloat16", lambda: False)
    found = tuning.candidates(load_recipe("quick"), digits(), by_rule, CPU)
    assert not any(one.amp for one in found)


def test_files_are_measured_on_one_batch_over_and_over(quick_turns):
    changes = {"batch_size": 32, "compile": False, "amp": False, "augment.crop": "random_resized"}
    job = job_of(load_recipe("quick", changes))
    assert not job.train.resident
    assert tuning.measure(job, Settings(channels_last=True))[0] is not None


@pytest.mark.slow  # the compiler takes half a minute
def test_a_compiled_run_goes_on_after_a_stop_with_the_same_bits(tmp_path):
    recipe = recipe_of(compile=True)
    whole = trained(job_of(recipe), tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(job_of(recipe, reporter=StopAt(4)), tmp_path / "run")
    assert_same(trained(job_of(recipe), tmp_path / "run"), whole)
    plain = trained(job_of(recipe_of()), tmp_path / "plain")
    assert whole[1][-1]["train_loss"] == pytest.approx(plain[1][-1]["train_loss"], rel=0.05)
