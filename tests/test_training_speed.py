"""Speed: settings by rules and by measurement, steps on the device, several networks at once."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from deepen import api
from deepen.data.augment import Augmentation
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import open_source
from deepen.errors import InputError, Interrupted, WorkError
from deepen.models import create_model
from deepen.training import speed, tuning
from deepen.training.loop import Job, fit
from deepen.training.many import fit_many
from deepen.training.progress import Silent
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.resident import ResidentSteps
from deepen.training.run import Run
from deepen.training.speed import Settings, amp_warning, rules, settings_of, why_no_graph
from deepen.training.state import State

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


def job_of(
    folder: Path, recipe: Recipe, *, seed: int = 0, device: torch.device = CPU, model=None
) -> Job:
    source = open_source("digits", validation=100)
    plain = Preprocessing(channels=1, size_px=(8, 8), resize="none", mean=(0.5,), std=(0.25,))
    torch.manual_seed(seed)
    network = (model or Small)().to(device, memory_format=torch.channels_last)

    def batches(split: str, augmented: bool) -> Batches:
        augmentation = recipe.augment if augmented else None
        return Batches(
            source.splits[split],
            plain,
            batch_size=recipe.batch_size,
            augmentation=augmentation,
            shuffle=augmented,
            device=device,
        )

    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        model=network,
        recipe=recipe,
        train=batches("train", True),
        validation=batches("val", False),
        run=Run(folder),
        device=device,
        save_weights=lambda *words: None,
    )


def trained(job: Job, **words) -> tuple[dict[str, torch.Tensor], list[dict]]:
    torch.manual_seed(1)
    state = fit(job, Silent(), **words)
    rows = [
        {k: v for k, v in row.items() if "seconds" not in k and k != "images_per_s"}
        for row in state.history
    ]
    return job.model.state_dict(), rows


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
    plain = trained(job_of(tmp_path / "a", recipe_of(**changes)))
    static = trained(job_of(tmp_path / "b", recipe_of(**changes, cuda_graph=True)))
    assert_same(static, plain)


class StopAt(Silent):
    def __init__(self, batches: int) -> None:
        self.left = batches

    def batch(self, images: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_run_of_resident_steps_ends_with_the_same_bits(tmp_path, monkeypatch):
    recipe = recipe_of(cuda_graph=True)
    whole = trained(job_of(tmp_path / "whole", recipe))
    taken = 0
    step = ResidentSteps.step

    def stop_in_the_second_epoch(self):
        nonlocal taken
        taken += 1
        if taken == 9:
            signal.raise_signal(signal.SIGINT)
        step(self)

    monkeypatch.setattr(ResidentSteps, "step", stop_in_the_second_epoch)
    with pytest.raises(Interrupted):
        trained(job_of(tmp_path / "run", recipe))
    monkeypatch.undo()
    state = json.loads(next((tmp_path / "run").glob("checkpoints/*2/state.json")).read_text())
    assert state["state"]["progress"]["batch"] == 3  # six full batches an epoch, one of 31
    assert_same(trained(job_of(tmp_path / "run", recipe), resume=True), whole)


def test_a_loss_that_is_no_number_is_named_by_its_step(tmp_path):
    job = job_of(tmp_path, recipe_of(**{"cuda_graph": True, "optimizer.lr": 1e30}))
    with pytest.raises(WorkError, match=r"epoch 1, step \d; .* digits/train/"):
        fit(job, Silent())
    assert not (tmp_path / "checkpoints").exists()


def test_warming_up_leaves_no_trace(tmp_path):
    job = job_of(tmp_path, recipe_of())
    optimizer = torch.optim.SGD(job.model.parameters(), lr=0.1, momentum=0.9, fused=True)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    random = torch.get_rng_state()
    ResidentSteps(
        job.model,
        job.model,
        lambda logits, labels: (logits, nn.functional.cross_entropy(logits, labels)),
        optimizer,
        job.recipe,
        job.train,
    ).begin(0, 0)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in job.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert momenta
    assert not any(momentum.any() for momentum in momenta)


def test_a_step_that_cannot_be_captured_runs_as_it_is_and_says_so(tmp_path, monkeypatch):
    def refused(self):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA says more")

    plain = trained(job_of(tmp_path / "a", recipe_of()))
    monkeypatch.setattr(ResidentSteps, "_captured", refused)
    monkeypatch.setattr(ResidentSteps, "on_gpu", property(lambda self: True))
    told = Told()
    job = job_of(tmp_path / "b", recipe_of(cuda_graph=True))
    torch.manual_seed(1)
    fit(job, told)
    assert_same((job.model.state_dict(), []), (plain[0], []))
    assert [line for line in told.lines if "not permitted when stream is capturing):" in line]


@needs_cuda
def test_a_captured_step_is_the_plain_step_on_the_gpu(tmp_path):
    """cuDNN's own choice of kernels may differ between the two: equal to within float32."""
    words = {"device": CUDA}
    plain = trained(job_of(tmp_path / "a", recipe_of(), **words))
    graph = trained(job_of(tmp_path / "b", recipe_of(cuda_graph=True), **words))
    for name, value in plain[0].items():
        torch.testing.assert_close(graph[0][name], value, rtol=1e-3, atol=1e-4)


@needs_cuda
def test_networks_trained_at_once_on_a_gpu_are_those_trained_alone(tmp_path):
    recipe = recipe_of(cuda_graph=True)
    alone = [trained(job_of(tmp_path / f"a{k}", recipe, seed=k, device=CUDA)) for k in range(3)]
    jobs = [job_of(tmp_path / f"b{k}", recipe, seed=k, device=CUDA) for k in range(3)]
    torch.manual_seed(1)
    fit_many(jobs, [Silent()] * 3)
    for job, (weights, _) in zip(jobs, alone, strict=True):
        for name, value in job.model.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("graph", [False, True])
def test_networks_trained_at_once_are_those_trained_alone(tmp_path, graph):
    recipes = [recipe_of(cuda_graph=graph), recipe_of(batch_size=64, cuda_graph=graph)]
    alone = [trained(job_of(tmp_path / f"a{k}", recipes[k], seed=k)) for k in range(2)]
    jobs = [job_of(tmp_path / f"b{k}", recipes[k], seed=k) for k in range(2)]
    torch.manual_seed(1)
    states = fit_many(jobs, [Silent(), Silent()])
    for job, state, (weights, rows) in zip(jobs, states, alone, strict=True):
        assert [row["train_loss"] for row in state.history] == [row["train_loss"] for row in rows]
        assert_same((job.model.state_dict(), []), (weights, []))


def test_one_that_fails_does_not_stop_the_others_and_a_stop_saves_all(tmp_path):
    recipes = [recipe_of(**{"optimizer.lr": 1e30, "clip_norm": None}), recipe_of()]
    jobs = [job_of(tmp_path / f"{k}", recipe) for k, recipe in enumerate(recipes)]
    with pytest.raises(WorkError, match="the loss is"):
        fit_many(jobs, [Silent(), Silent()])
    assert len((tmp_path / "1" / "metrics.csv").read_text().splitlines()) == 3
    jobs = [job_of(tmp_path / f"s{k}", recipe_of()) for k in range(2)]
    with pytest.raises(Interrupted):
        fit_many(jobs, [Silent(), StopAt(3)])
    for k in range(2):
        assert list((tmp_path / f"s{k}" / "checkpoints").iterdir())


def test_rules_on_the_cpu():
    job_recipe = load_recipe("quick")
    train = batches_of(Augmentation())
    settled, words = rules(job_recipe, train, CPU)
    assert settled == Settings(channels_last=True)
    assert words.startswith("speed: channels last, float32 (")
    stated = load_recipe("quick", {"channels_last": False, "amp": True, "compile": True})
    assert rules(stated, train, CPU)[0] == Settings(amp=True, compile=True)


@pytest.mark.parametrize(("size", "amp"), [(32, False), (224, True)])
def test_rules_on_a_gpu(monkeypatch, size, amp):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    train = batches_of(Augmentation(crop="pad", flip=True), size)
    settled, words = rules(load_recipe("quick"), train, CUDA)
    assert settled == Settings(channels_last=True, amp=amp, cuda_graph=True)
    assert "CUDA graph" in words
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert not rules(load_recipe("quick"), train, CUDA)[0].amp


def batches_of(augmentation: Augmentation, size: int = 32, count: int = 64, **words) -> Batches:
    split = dataclasses.replace(
        open_source("digits").splits["train"],
        images=torch.zeros(count, size, size, 1, dtype=torch.uint8).numpy(),
        labels=torch.zeros(count, dtype=torch.int64).numpy(),
        keys=tuple(map(str, range(count))),
    )
    geometry = Preprocessing(
        channels=1, size_px=(size, size), resize="none", mean=(0.0,), std=(1.0,)
    )
    return Batches(split, geometry, batch_size=32, augmentation=augmentation, **words)


def test_what_cannot_be_captured_says_why():
    quick = load_recipe("quick")
    assert why_no_graph(quick, batches_of(Augmentation())) is None
    assert "no full batch" in (why_no_graph(quick, batches_of(Augmentation(), count=31)) or "")
    assert "processes" in (why_no_graph(quick, batches_of(Augmentation(), world_size=2)) or "")
    resized = Augmentation(crop="random_resized")
    assert "on the device" in (why_no_graph(quick, batches_of(resized)) or "")
    jittered = load_recipe("quick", {"augment.jitter": 0.4})
    assert "shifts and flips" in (why_no_graph(jittered, batches_of(jittered.augment)) or "")


def test_a_field_of_the_recipe_that_a_captured_step_does_not_know_keeps_it_off(monkeypatch):
    monkeypatch.setattr(speed, "_CAPTURED", speed._CAPTURED - {"clip_norm"})
    assert "clip_norm" in (why_no_graph(load_recipe("quick"), batches_of(Augmentation())) or "")


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

    def turn(trial, num_batches, device):
        next(trial)
        return [0.001 if next(order) == measured else 0.01]

    def noted(recipe, train, by_rule):
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


def test_measuring_takes_turns_and_leaves_all_as_it_was(tmp_path, quick_turns):
    recipe = load_recipe("quick", {"batch_size": 128, "compile": False, "amp": False})
    job = job_of(tmp_path, recipe)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    random = torch.get_rng_state()
    best, words = tuning.measure(job.model, recipe, job.train, Settings(channels_last=True))
    assert best in (Settings(), Settings(channels_last=True))
    assert words.count(" ms") == 2
    assert torch.equal(torch.get_rng_state(), random)
    assert job.model.training
    for name, value in job.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_setting_that_fails_is_left_out_and_noise_changes_nothing(
    tmp_path, monkeypatch, quick_turns
):
    def no_compiler(model, **words):
        raise RuntimeError("no C++ compiler\nlong story")

    recipe = load_recipe("quick", {"batch_size": 128, "amp": False})
    job = job_of(tmp_path, recipe)
    monkeypatch.setattr(torch, "compile", no_compiler)
    times = iter([[0.0100], [0.0098], [0.0099]])
    monkeypatch.setattr(tuning, "_turn", lambda trial, num_batches, device: next(times))
    best, words = tuning.measure(job.model, recipe, job.train, Settings(channels_last=True))
    assert best == Settings(channels_last=True)  # 2% is no gain
    assert "channels last, float32, compiled failed (no C++ compiler)" in words
    stated = load_recipe("quick", {"batch_size": 128, **PLAIN, "compile": True})
    with pytest.raises(WorkError, match=r"no C\+\+ compiler"):
        tuning.measure(job.model, stated, job.train, settings_of(stated))


def test_ends_of_epochs_are_not_timed(monkeypatch):
    now = 0.0

    def trial(num_batches):
        nonlocal now
        state = State()
        while True:
            for state.batch in range(1, num_batches + 1):
                now += 1
                yield state
            now += 100  # evaluation, a checkpoint

    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now)
    monkeypatch.setattr(tuning, "_wait", lambda device: None)
    monkeypatch.setattr(tuning, "TURN_S", 50)
    assert set(tuning._turn(trial(7), 7, CPU)) == {1.0}
    assert set(tuning._turn(trial(7), 7, CUDA)) == {1.0}
    assert set(tuning._turn(trial(64), 64, CUDA)) == {1.0}
    assert tuning._turn(trial(1), 1, CPU) == [101.0]  # an epoch of one step cannot be parted


def test_candidates_hold_to_what_the_recipe_states(monkeypatch):
    monkeypatch.setattr(tuning, "cpu_has_bfloat16", lambda: True)
    train, by_rule = batches_of(Augmentation()), Settings(channels_last=True)
    everything = tuning.candidates(load_recipe("quick"), train, by_rule)
    assert everything[0] == by_rule
    assert Settings() in everything  # plain eager torch
    assert len(set(everything)) == len(everything)
    assert any(one.amp for one in everything)
    stated = load_recipe("quick", {"compile": False, "amp": False})
    assert tuning.candidates(stated, train, by_rule) == [by_rule, Settings()]
    monkeypatch.setattr(tuning, "cpu_has_bfloat16", lambda: False)
    assert not any(one.amp for one in tuning.candidates(load_recipe("quick"), train, by_rule))


def test_files_are_measured_on_one_batch_over_and_over(tmp_path, quick_turns):
    recipe = load_recipe("quick", {"batch_size": 32, "compile": False, "amp": False})
    train = batches_of(Augmentation(crop="random_resized"), size=16)
    assert not train.resident
    network = create_model("perceptron", 10, 1, 16)
    assert tuning.measure(network, recipe, train, Settings(channels_last=True))[0] is not None


@pytest.mark.slow  # the compiler takes half a minute
def test_a_compiled_run_goes_on_after_a_stop_with_the_same_bits(tmp_path):
    recipe = recipe_of(compile=True)
    whole = trained(job_of(tmp_path / "whole", recipe))
    stopped = job_of(tmp_path / "run", recipe)
    torch.manual_seed(1)  # as `trained` does: dropout's numbers are those of the whole run
    with pytest.raises(Interrupted):
        fit(stopped, StopAt(4))
    assert_same(trained(job_of(tmp_path / "run", recipe), resume=True), whole)
    plain = trained(job_of(tmp_path / "plain", recipe_of()))
    assert whole[1][-1]["train_loss"] == pytest.approx(plain[1][-1]["train_loss"], rel=0.05)
