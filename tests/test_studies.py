"""Studies: stopped and gone on with, failed trials kept, tables that are their results'."""

from __future__ import annotations

import json
import math
import signal
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from deepen import api
from deepen.baselines.encodings import FisherVectors
from deepen.claims import measured
from deepen.errors import Diverged, InputError, Interrupted, Preempted, WorkError
from deepen.models import create_model, get_architecture
from deepen.report.page import write_report
from deepen.studies import activation, blocks, construction, depth, regularization, shallow, width
from deepen.studies.arms import model_of
from deepen.studies.bench import Bench, Fitted, take
from deepen.studies.catalog import STUDIES, find_study
from deepen.studies.conduct import Order, conduct, do_trial
from deepen.studies.networks import net, paper_block
from deepen.studies.page import draw, ledger_entries, markdown, table, write_pages
from deepen.studies.responses import layer_profiles
from deepen.studies.study import (
    Arm,
    Measure,
    Pictures,
    Results,
    Trial,
    compared,
    judged,
    named,
)
from deepen.training.progress import Row, Silent
from deepen.training.request import Here
from deepen.weights import load_weights

OWN = """
title: Larger batches on the digits
data: {name: digits, train: 200, test: 100}
recipe: quick
set: {length.epochs: 3}
nets: {perceptron: perceptron}
recipes: {small: {batch_size: 32}, large: {batch_size: 200}}
seeds: 2
expect:
  - {better: perceptron small, worse: perceptron large, measure: train_error}
  - {better: perceptron large, worse: perceptron small, measure: train_error, by: 50}
"""


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "batches.yaml"
    path.write_text(OWN)
    return path


def order(study: Path | str, folder: Path, seeds: int = 2, threads: int = 1) -> Order:
    return Order(str(study), "small", seeds, None, None, "cpu", folder, threads)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class StopAfter(Silent):
    """Presses Ctrl-C after this many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, row: Row, epochs: int) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def figures(results: Results) -> list[dict]:
    return [trial.model_dump(exclude={"seconds"}) for trial in results.trials]


def test_stopped_and_gone_on_with_gives_the_identical_table(own, tmp_path):
    whole = conduct(order(own, tmp_path / "whole"), Silent())
    for epochs in (1, 2, 4):  # within a trial, within the next, and later
        with pytest.raises(Interrupted, match="the same command"):
            conduct(order(own, tmp_path / "parts"), StopAfter(epochs))
    parts = conduct(order(own, tmp_path / "parts"), Silent())
    assert figures(parts) == figures(whole)
    study = find_study(str(own))
    assert table(study, parts) == table(study, whole)
    assert len(whole.trials) == 4
    assert len({trial.measures["train_error"] for trial in whole.trials}) > 1


def test_several_processes_give_the_same_figures(own, tmp_path):
    one = conduct(order(own, tmp_path / "one"), Silent())
    two = conduct(order(own, tmp_path / "two"), Silent(), jobs=2)
    assert figures(one) == figures(two)


def test_verdicts_of_a_users_own_study_follow_its_figures(own, tmp_path):
    results = conduct(order(own, tmp_path / "run"), Silent())
    small, large = (
        np.mean(
            [t.measures["train_error"] for t in results.trials if t.arm == f"perceptron {size}"]
        )
        for size in ("small", "large")
    )
    assert small < large
    assert [c.verdict for c in results.conclusions] == ["holds", "does not hold"]
    assert results.conclusions[0].found == f"by {large - small:.1f} points"


def test_a_diverged_trial_is_listed_as_failed_and_the_study_goes_on(own, tmp_path):
    own.write_text(OWN.replace("large: {batch_size: 200}", "large: {optimizer.lr: 1.0e+38}"))
    results = conduct(order(own, tmp_path / "run", seeds=1), Silent())
    fine, failed = results.trials
    assert "train_error" in fine.measures
    assert "the loss is" in (failed.failed or "")
    assert not failed.measures
    assert {c.verdict for c in results.conclusions} == {"not measured"}
    page = markdown(find_study(str(own)), results)
    assert "failed: the loss is" in page
    assert "1, 1 failed" in page


def test_a_full_disk_stops_the_study_and_is_no_result(own, tmp_path, monkeypatch):
    def full(*what, **more):
        raise WorkError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Bench, "train", full)
        with pytest.raises(WorkError, match="no space left"):
            conduct(order(own, tmp_path / "run", seeds=1), Silent())
    assert not list((tmp_path / "run" / "trials").glob("*.json"))
    results = conduct(order(own, tmp_path / "run", seeds=1), Silent())
    assert not any(trial.failed for trial in results.trials)


def test_budget_stops_between_trials_and_the_same_command_goes_on(own, tmp_path):
    with pytest.raises(Preempted, match="1 of 4 trials are done"):
        conduct(order(own, tmp_path / "run"), Silent(), budget_s=0)
    assert len(list((tmp_path / "run" / "trials").glob("*.json"))) == 1
    assert len(conduct(order(own, tmp_path / "run"), Silent()).trials) == 4


def test_every_arm_has_a_file_of_its_own(own, tmp_path):
    """Also where only signs differ that no file name has, or the size of letters."""
    names = ["l 1", "l_1", "L 1", "один", "два", "網", "a" * 300, "plain-2"]
    nets = ", ".join(f'"{name}": perceptron' for name in names)
    own.write_text(
        f"{{title: t, data: {{name: digits}}, recipe: quick, nets: {{{nets}}}}}", "utf-8"
    )
    files = [order(own, tmp_path, seeds=12).file(*trial) for trial in order(own, tmp_path).trials()]
    assert len({path.name.lower() for path in files}) == len(files) == 2 * len(names)
    assert all(path.name.isascii() and len(path.name) < 130 for path in files)
    assert files[names.index("plain-2")].name == "plain-2-0.json"  # as it has always been


def test_an_arm_never_takes_anothers_trial(own, tmp_path):
    """`l 1` and `l_1` once had the same file: the second was done in no time, with the first's."""
    own.write_text(
        OWN.partition("nets:")[0].replace("epochs: 3", "epochs: 1")
        + 'nets: {"l 1": perceptron, l_1: mlp}'
    )
    wanted = order(own, tmp_path / "run", seeds=1)
    found = conduct(wanted, Silent())
    assert [trial.arm for trial in found.trials] == ["l 1", "l_1"]
    runs = sorted((tmp_path / "run" / "trials").glob("*/run/data.json"))
    assert {json.loads(run.read_text())["model"] for run in runs} == {"perceptron", "mlp"}
    one, other = (wanted.file(arm, 0) for arm in ("l 1", "l_1"))
    other.write_bytes(one.read_bytes())
    with pytest.raises(InputError, match=rf"{other}: is of 'l 1' with seed 0, not of 'l_1'"):
        conduct(wanted, Silent())
    other.write_bytes(b"\xff{")
    with pytest.raises(InputError, match=rf"{other}: damaged"):
        conduct(wanted, Silent())


def test_a_name_that_means_another_network_is_another_study(own, tmp_path):
    conduct(order(own, tmp_path / "run", seeds=1), Silent())
    own.write_text(OWN.replace("perceptron: perceptron", "perceptron: mlp"))
    with pytest.raises(InputError, match="another networks; name a new folder"):
        conduct(order(own, tmp_path / "run", seeds=1), Silent())
    path = tmp_path / "run" / "study.json"  # of an older version, which did not say
    about = json.loads(path.read_text())
    del about["networks"]
    path.write_text(json.dumps(about))
    assert len(conduct(order(own, tmp_path / "run", seeds=1), Silent()).trials) == 2


@pytest.mark.parametrize("blob", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_study_file_is_named_in_a_line(own, tmp_path, blob):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.json").write_bytes(blob)
    with pytest.raises(InputError, match=r"run/study.json: damaged") as caught:
        conduct(order(own, tmp_path / "run", seeds=1), Silent())
    assert "\n" not in str(caught.value)


def test_folder_of_another_study_is_refused(own, tmp_path):
    conduct(order(own, tmp_path / "run", seeds=1), Silent())
    own.write_text(OWN.replace("length.epochs: 3", "length.epochs: 2"))
    with pytest.raises(InputError, match="another changes; name a new folder"):
        conduct(order(own, tmp_path / "run", seeds=1), Silent())


def test_more_seeds_keep_those_that_are_done(own, tmp_path):
    first = conduct(order(own, tmp_path / "run", seeds=1), Silent())
    both = conduct(order(own, tmp_path / "run", seeds=2), Silent())
    assert both.trials[:2] == first.trials


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("recipe: quick", "recipe: quik"), "nearest: quick"),
        (OWN.replace("perceptron: perceptron", "p: perceptrn"), "nearest: perceptron"),
        (OWN.replace("nets:", "netz:"), "netz.*nearest: nets"),
        (OWN.replace("better: perceptron small", "better: perceptron smal"), "perceptron small"),
        (OWN.replace("seeds: 2", "seeds: 0"), "seeds"),
        (
            OWN.replace("small: {b", "a b: {b")
            .replace("nets: {", "nets: {perceptron a: mlp, ")
            .replace("recipes: {", "recipes: {b: {batch_size: 8}, "),
            "two arms are called 'perceptron a b'",
        ),
        ("- 1", "no mapping of keys to values"),
        ("a: [", "batches.yaml"),
    ],
)
def test_what_a_file_cannot_say_is_named(own, text, message):
    own.write_text(text)
    with pytest.raises(InputError, match=message):
        find_study(str(own))


def test_wrong_names_get_the_nearest():
    with pytest.raises(InputError, match="nearest: depth"):
        find_study("dept")
    with pytest.raises(InputError, match="no such file"):
        find_study("nothing.yaml")


def test_subsets_are_fixed_and_hold_what_the_set_holds():
    some, more = (take(Pictures("digits", train=n, test=50), None) for n in (100, 200))
    keys = [set(source.splits["train"].keys) for source in (some, more)]
    assert len(keys[0]) == 100
    assert keys[0] < keys[1]
    split = some.splits["train"]
    whole = take(Pictures("digits"), None).splits["train"]
    place = whole.keys.index(split.keys[7])
    assert whole.labels[place] == split.labels[7]
    assert (whole.images[place] == split.images[7]).all()


@pytest.mark.parametrize(("option", "name"), [(None, "plain20"), ("A", "resnet20")])
def test_study_net_of_16_maps_is_the_papers(option, name):
    ours = net(paper_block(option), 20)(10, 3, (32, 32)).double().eval()
    papers = create_model(name).double().eval()
    ours.load_state_dict(papers.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), papers(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("option", "residual"), [(None, False), ("A", True)])
def test_constructed_net_is_deeper_and_the_same_function(option, residual):
    shallow = net(paper_block(option), 20, width=4)(10, 3, (16, 16))
    x = torch.randn(8, 3, 16, 16)
    shallow.train()(x)  # statistics that are not those of a fresh net
    deep = construction.deepened(shallow, residual)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in deep.modules()) == 55
    torch.testing.assert_close(deep.eval()(x), shallow.eval()(x), rtol=1e-4, atol=1e-5)


def test_layer_profiles_are_spread_and_gradient_and_leave_no_trace():
    network = net(paper_block("A"), 20, width=4)(10, 3, (16, 16))
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = layer_profiles(network.eval(), images, labels)
    assert not network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert len(found["response"]) == len(found["gradient"]) == 19
    # The first layer by hand.
    normed = F.batch_norm(
        F.conv2d(images, network.conv1.weight, padding=1),
        None,
        None,
        network.bn1.weight,
        network.bn1.bias,
        training=True,
    )
    assert found["response"][0] == pytest.approx(normed.std().item(), rel=1e-5)
    F.cross_entropy(network.train()(images), labels).backward()
    assert found["gradient"][0] == pytest.approx(network.conv1.weight.grad.norm().item(), rel=1e-4)


def test_crossing_is_between_passes():
    curve = [(79.0, 60.0), (158.0, 30.0), (237.0, 20.0)]
    assert activation._crossing(curve, 25.0) == pytest.approx(2.5)
    assert activation._crossing(curve, 60.0) == pytest.approx(1.0)
    assert activation._crossing(curve, 10.0) is None


def results_of(errors: dict[str, float], measure: str) -> Results:
    profile = {"response": [1.0]}
    trials = [
        Trial(arm=arm, seed=0, measures={measure: value}, profiles=profile)
        for arm, value in errors.items()
    ]
    return Results(study="x", setting="small", about={}, trials=trials)


@pytest.mark.parametrize(
    ("errors", "verdicts"),
    [
        ((58.8, 84.5, 47.3, 51.4), ["holds", "holds", "holds", "does not hold"]),
        ((58.8, 60.0, 47.3, 59.0), ["does not hold"] * 4),
        ((58.8, 84.5, 47.3, 45.0), ["holds"] * 4),
    ],
)
def test_depths_verdicts_follow_the_errors(errors, verdicts):
    arms = ("plain20", "plain56", "resnet20", "resnet56")
    results = results_of(dict(zip(arms, errors, strict=True)), "train_error")
    assert [c.verdict for c in depth.conclude(results)][:4] == verdicts


def test_activations_factor_is_the_ratio():
    found = activation.conclude(results_of({"relu": 5.0, "tanh": 21.0}, "epochs"))
    assert found[0].verdict == "holds"
    assert found[0].found.startswith("4.2 times")
    found = activation.conclude(results_of({"relu": 5.0}, "epochs"))
    assert found[0].verdict == "not measured"


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        (True, "holds"),
        (False, "does not hold"),
        ([True, True], "holds"),
        ([False, False], "does not hold"),
        ([True, False], "seeds disagree"),
        ([], "not measured"),
    ],
)
def test_verdict_is_the_means_or_that_of_all_seeds(holds, verdict):
    assert judged("", "", "", "", holds).verdict == verdict


def test_comparison_is_seed_by_seed():
    results = results_of({"a": 10.0, "b": 20.0}, "train_error")
    results.trials += [
        Trial(arm="a", seed=1, measures={"train_error": 12.0}),
        Trial(arm="b", seed=1, measures={"train_error": 11.0}),
        Trial(arm="a", seed=2, measures={"train_error": 5.0}),
        Trial(arm="b", seed=2, failed="diverged"),
    ]
    assert results.over("a", "b", "train_error") == {0: -10.0, 1: 1.0}
    found = compared(results, "a", "b", "", "")
    assert found.verdict == "seeds disagree"
    assert found.found.endswith("less with 1 of 2 seeds")
    assert compared(results, "a", "c", "", "").verdict == "not measured"


def test_a_cell_is_mean_and_deviation_by_hand():
    """Of 10 and 13: 11.5, and with n - 1 the root of 4.5."""
    results = results_of({"a": 10.0, "b": 0.125, "c": 7.0}, "error")
    results.trials.append(Trial(arm="a", seed=1, measures={"error": 13.0}))
    results.trials.append(Trial(arm="c", seed=1, measures={"error": 7.0}))
    cells = [results.cell(arm, Measure("error", "error, %")) for arm in "abcd"]
    assert cells == ["11.5 ± 2.1", "0.1", "7.0", "–"]
    assert results.cell("b", Measure("error", "error, %", 3)) == "0.125"
    assert results.cell("b", Measure("other", "other")) == "–"
    assert results.arms() == ["a", "b", "c"]
    results.about = {"test": 200}
    measure = Measure("error", "error, %", of="test")
    assert results.cell("a", measure) == "11.5 ± 2.1 (0.0 to 31.2; 2.3)"  # t of two runs: 12.7
    assert results.cell("c", measure) == "7.0 (4.2 to 11.4; 1.8)"  # Wilson's, of 14 in 200
    assert results.pictures(measure) == 200
    assert math.isnan(results.mean("d", "error"))


def test_a_conclusion_feeds_the_ledger_with_four_digits():
    found = judged("", "", "", "", holds=True).feeding("a.b", "error, %", {0: 1.23456, 3: 2.0})
    assert (found.claim, found.quantity, found.figures) == (
        "a.b",
        "error, %",
        {0: 1.2346, 3: 2.0},
    )


def test_an_arm_of_the_registry_takes_what_its_network_does():
    plain = named("a", "resnet20")
    assert (plain.changes, plain.model) == ({}, "resnet20")
    assert plain.takes == get_architecture("resnet20").takes
    changed = named("b", "resnet20", {"optimizer.lr": 0.5})
    assert changed.changes == {"optimizer.lr": 0.5}
    assert named("c", "package.module:factory").takes is None


def test_a_trial_takes_nothing_that_it_does_not_know():
    with pytest.raises(ValidationError, match="lost"):
        Trial.model_validate({"arm": "a", "seed": 0, "lost": 1})


def test_regularization_has_to_close_the_gap_and_lower_the_test_error():
    trials = [
        Trial(arm=arm, seed=0, measures={"train_error": train, "test_error": test})
        for arm, train, test in (
            ("none", 10, 40),
            ("both", 15, 38),
            ("gap alone", 20, 45),
            ("test alone", 5, 38),
        )
    ]
    results = Results(study="x", setting="small", about={}, trials=trials)
    verdicts = [c.verdict for c in regularization.conclude(results)]
    assert verdicts == ["holds", "does not hold", "does not hold"]


def test_l1_is_the_gradient_of_the_sum_of_magnitudes():
    torch.manual_seed(0)
    network = regularization.Regularized(0.0, 0.01, 10, 3, (16, 16))
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    F.cross_entropy(network(images), labels).backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    plain = regularization.Regularized(0.0, 0.0, 10, 3, (16, 16))
    plain.load_state_dict(network.state_dict())
    penalty = sum(p.abs().sum() for p in plain.parameters() if p.ndim > 1)
    (F.cross_entropy(plain(images), labels) + 0.01 * penalty).backward()
    for name, p in plain.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=name)


def test_nets_of_a_size_count_alike():
    counts = {}
    for arm in STUDIES["width"].settings["small"].arms:
        network = arm.build(10, 3, (16, 16))
        with FlopCounterMode(display=False) as flops:
            network.eval()(torch.zeros(1, 3, 16, 16))
        parameters = sum(p.numel() for p in network.parameters())
        counts[arm.name] = {"parameters": parameters / 1e3, "MACs": flops.get_total_flops() / 2e6}
    for size, arms in width.GROUPS.items():
        stated, unit = float(size.split()[0]), size.split()[-1]
        for arm in arms:
            assert counts[arm][unit] == pytest.approx(stated, rel=0.06)


def test_widths_verdicts_want_every_wider_net_ahead_of_the_next_deeper_one():
    wide_first = dict(zip(width.SHAPES, (3.0, 2.0, 4.0, 5.0, 1.0, 1.0, 2.0), strict=True))
    found = width.conclude(results_of(wide_first, "train_error"))
    assert [c.verdict for c in found] == ["holds"] * 4
    turned = wide_first | {"56 layers, 5 maps": 2.5, "8 layers, 29 maps": 3.0}
    found = width.conclude(results_of(turned, "train_error"))
    assert [c.verdict for c in found] == ["does not hold"] * 2 + ["holds", "does not hold"]
    del turned["8 layers, 30 maps"]
    assert len(width.conclude(results_of(turned, "train_error"))) == 3


def silenced(block: torch.nn.Module) -> torch.nn.Module:
    """The same with a second convolution of zeros, in evaluation."""
    torch.nn.init.zeros_(block.conv2.weight)
    return block.eval()


def test_blocks_differ_in_what_happens_at_the_addition():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(silenced(blocks.NoReluAfterAddition(8, 8, 1))(x), x)
    normed = silenced(blocks.NormAfterAddition(8, 8, 1))
    normed.bn2.running_mean.fill_(0.5)
    normed.bn2.running_var.fill_(4.0)
    torch.testing.assert_close(normed(x), F.relu((x - 0.5) / (4 + 1e-5) ** 0.5))
    one = silenced(blocks.SkipOne(8, 8, 1))
    torch.testing.assert_close(one(x), F.relu(one.bn1(one.conv1(x)) + x))


def test_gate_shares_between_the_branch_and_the_input():
    x = torch.randn(2, 8, 6, 6)
    for bias, share in ((0.0, 0.5), (-2.0, 1 / (1 + math.exp(2.0)))):
        gate = blocks.gated(bias)(8, 8, 1).eval()
        torch.nn.init.zeros_(gate.gate.weight)
        torch.nn.init.zeros_(gate.gate.bias)
        branch = gate.bn2(gate.conv2(F.relu(gate.bn1(gate.conv1(x)))))
        torch.testing.assert_close(gate(x), F.relu(share * branch + (1 - share) * x))


def test_activation_takes_the_fastest_rate_that_does_not_diverge():
    reached_at = {0.03: 5, 0.01: 3, 0.003: 9}

    class Rates:
        arm = Arm("relu")
        trial = staticmethod(lambda **parts: Trial(arm="relu", seed=0, **parts))

        @staticmethod
        def train(name, changes, until):
            if (rate := changes["optimizer.lr"]) not in reached_at:
                raise Diverged("the loss is nan")
            rows = []
            while not rows or not until(rows[-1]):
                passes = len(rows) + 1
                share = 0.75 if passes >= reached_at[rate] else 0.5
                rows.append({"epoch": passes, "step": 10 * passes, "train_top1": share})
            return Fitted(torch.nn.Identity(), rows)

    found = activation.trial(Rates())
    assert found.measures == {"epochs": 3.0, "rate": 0.01}
    assert len(found.curves["train_error"]) == 3


def test_activations_factor_is_of_each_start_and_seed():
    errors = {"relu": 5.0, "tanh": 5.5}
    errors |= {"relu, released start": 10.0, "tanh, released start": 30.0}
    results = results_of(errors, "epochs")
    for arm, epochs in (("relu, released start", 10.0), ("tanh, released start", 15.0)):
        results.trials.append(Trial(arm=arm, seed=1, measures={"epochs": epochs}))
    suited, released = activation.conclude(results)
    assert (suited.verdict, released.verdict) == ("does not hold", "seeds disagree")
    assert suited.found.startswith("1.1 times")
    assert released.found == "2.2 times: 10.0 passes against 22.5"
    assert suited.claim
    assert not released.claim  # the ledger has one figure, from weights that suit each


def test_released_start_is_as_wide_as_the_file_has_it():
    torch.manual_seed(0)
    network = activation.Released("tanh", 10, 3, (32, 32))
    deviations = [p.std().item() for name, p in network.named_parameters() if "weight" in name]
    assert deviations == pytest.approx([1e-4, 0.01, 0.01, 0.01], rel=0.05)
    assert not any(p.any() for name, p in network.named_parameters() if "bias" in name)
    arm = activation.released("tanh")
    plan = Bench(
        arm,
        model_of("activation", "small", arm.name),
        0,
        STUDIES["activation"].settings["small"],
        take(Pictures("digits"), None),
        Path(),
        Here(device="cpu"),
    ).plan()
    preprocessing, mean = plan.input
    assert mean is not None
    assert preprocessing.std == (1 / 255,) * preprocessing.channels


def test_every_study_names_its_source_and_can_build_what_it_compares():
    for study in STUDIES.values():
        assert study.source
        assert study.question
        for setting in study.settings.values():
            assert setting.minutes
            names = [arm.name for arm in setting.arms]
            assert len(set(names)) == len(names)
            for arm in setting.arms:
                if arm.build is not None:
                    with torch.device("meta"):
                        arm.build(10, 3, (32, 32))(torch.zeros(2, 3, 32, 32))


DOCS = Path(__file__).parents[1] / "docs" / "studies"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_pages_are_those_of_the_committed_results(path, tmp_path):
    results = Results.model_validate_json(path.read_text("utf-8"))
    study = STUDIES[results.study]
    assert [c.model_dump() for c in study.conclude(results)] == [
        c.model_dump() for c in results.conclusions
    ]
    write_pages(study, results, tmp_path)
    assert (DOCS / f"{path.stem}.md").read_text("utf-8") == (
        tmp_path / f"{study.name}.md"
    ).read_text("utf-8")
    for claim, text in ledger_entries(study, results).items():  # and so is what the ledger says
        assert resources.files(measured).joinpath(f"{claim}.json").read_text("utf-8") == text


def test_ledger_entries_hold_each_seed_and_the_data():
    results = results_of({"relu": 5.0, "tanh": 21.0}, "epochs")
    results.trials += [
        Trial(arm="relu", seed=1, measures={"epochs": 4.0}),
        Trial(arm="tanh", seed=1, measures={"epochs": 8.0}),
        Trial(arm="relu", seed=2, measures={"epochs": 4.0}),
        Trial(arm="tanh", seed=2, failed="diverged"),
    ]
    machine = {"cpu": "a CPU", "device": "cpu", "torch": "2.11"}
    about = {"data": "cifar10", "fingerprint": "abc", "command": "deepen study activation"}
    results.about = about | {"machine": machine, "threads": 1, "date": "2026-11-21"}
    study = STUDIES["activation"]
    results.conclusions = study.conclude(results)
    (claim, text), *others = ledger_entries(study, results).items()
    assert (claim, others) == ("six-times", [])
    entry = measured.Result.model_validate_json(text)
    assert [(run.seed, run.value) for run in entry.runs] == [(0, 4.2), (1, 2.0)]
    assert (entry.data, entry.fingerprint) == ("cifar10", "abc")
    assert entry.protocol.startswith("holds here")


@pytest.mark.parametrize("arm", [shallow.PIXELS, shallow.HOG, shallow.FISHER])
def test_shallow_arms_learn_the_digits_alike_each_time(arm, tmp_path, monkeypatch):
    monkeypatch.setattr(FisherVectors, "GAUSSIANS", 6)  # enough for these
    monkeypatch.setattr(FisherVectors, "DRAWN", 5_000)
    found = []
    for name in ("one", "two"):
        whole = Order("shallow", "small", 1, "digits", None, "cpu", tmp_path / name, 1)
        (tmp_path / name / "trials").mkdir(parents=True)
        found.append(do_trial(whole, arm, 0).measures)
    assert found[0] == found[1]
    assert found[0]["layers"] == 1
    assert found[0]["test_error"] < 25


def test_shallows_verdicts_are_steps_of_the_bars():
    errors = (8.0, 3.0, 4.0, 2.0, 1.5, 1.0)
    results = results_of(dict(zip(shallow.LAYERS, errors, strict=True)), "test_error")
    found = shallow.conclude(results)
    assert [c.verdict for c in found] == ["holds"] * 4
    assert found[1].statement == "LeNet-5 errs less than HOG + SVM"
    results = results_of(dict(zip(shallow.LAYERS, reversed(errors), strict=True)), "test_error")
    assert [c.verdict for c in shallow.conclude(results)] == ["does not hold"] * 4


def test_bars_are_as_long_as_the_means():
    errors = dict(zip(shallow.LAYERS, (8.0, 3.0, 4.0, 2.0, 1.5, 1.0), strict=True))
    figure = draw(STUDIES["shallow"], results_of(errors, "test_error"))
    for arm, value in errors.items():
        assert f">{arm}<" in figure
        assert f">{value:.2f}<" in figure


def test_bars_and_curves_of_one_measure_both_stand_in_a_figure():
    results = results_of({"as usual": 30.0, "Nesterov": 20.0}, "train_error")
    for trial in results.trials:
        trial.curves["train_error"] = [(1.0, 90.0), (2.0, trial.measures["train_error"])]
    figure = draw(STUDIES["optimization"], results)
    assert figure.count(">training error, %<") == 2
    assert figure.count(">Nesterov<") == 2  # beside its bar, and in the legend of the curves


def test_every_arm_is_drawn_however_many_there_are():
    results = results_of({f"arm {i}": float(i) for i in range(30)}, "train_error")
    for trial in results.trials:
        trial.curves["train_error"] = [(1.0, 90.0), (2.0, trial.measures["train_error"])]
    figure = draw(STUDIES["optimization"], results)
    assert all(figure.count(f">arm {i}<") == 2 for i in range(30))


def test_study_verb_prints_table_and_json(own, tmp_path, monkeypatch, capsys):
    from deepen.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["deepen", "study", str(own), "--seeds", "1", "--threads", "1"]
    for extra in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", [*words, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        shown = capsys.readouterr().out
        if extra:
            told = json.loads(shown)
            assert told["study"] == "batches"
            [first, *_] = [each for each in told["beliefs"] if each["of"] == "test"]
            assert first["low"] < first["mean"] < first["high"]
            assert first["n"] == told["about"]["test"]
        else:
            assert "perceptron small" in shown
            assert "in brackets where the mean" in shown
    page = (tmp_path / "studies" / "batches-small" / "report.html").read_text("utf-8")
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_a_trial_is_a_run_that_goes_on_and_is_reported_by_itself(own, tmp_path):
    results = conduct(order(own, tmp_path / "run", seeds=1), Silent())
    [folder] = (tmp_path / "run" / "trials").glob("*small-0/run")
    weights = load_weights(folder / "last.safetensors").model.state_dict()
    assert write_report(folder).is_file()
    trained = api.train(resume=folder)  # opens network and pictures by what the folder says
    assert trained.split == "test"
    error = next(t for t in results.trials if t.arm.endswith("small")).measures["test_error"]
    assert 100 - 100 * trained.scores.top1 == pytest.approx(error, abs=1e-4)
    chosen = json.loads((folder / "scores.json").read_text())["choice"]
    assert "no picture was held out" in chosen  # nothing is chosen on test pictures
    again = load_weights(folder / "best.safetensors").model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_an_arm_of_a_studys_own_network_is_built_by_its_name():
    name = model_of("depth", "small", "plain20")
    torch.manual_seed(3)
    ours = create_model(name, 10, 3, (16, 16))
    torch.manual_seed(3)
    arm = next(a for a in STUDIES["depth"].settings["small"].arms if a.name == "plain20")
    theirs = arm.build(10, 3, (16, 16))
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    with pytest.raises(InputError, match="has no arm 'plain21'"):
        create_model(model_of("depth", "small", "plain21"), 10, 3, (16, 16))
