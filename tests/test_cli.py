"""The verbs as a user types them: what they print, what they leave, how they end."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from deepen import api
from deepen.cli import main
from deepen.weights import load_weights


@pytest.fixture
def deepen(monkeypatch, capsys):
    """Runs a command in this process: (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run on the digits."""
    changes = {"length.epochs": 4, "batch_size": 64}
    folder = tmp_path_factory.mktemp("cli") / "run"
    return api.train("digits", model="resnet20", recipe="quick", changes=changes, output=folder).run


@pytest.fixture
def digit_files(tmp_path) -> Path:
    """The first six test digits as PNG, in a folder of class folders; named by place and class."""
    from deepen.data.sources import open_source

    test = open_source("digits").splits["test"]
    from PIL import Image

    for i in range(6):
        folder = tmp_path / "digits" / str(test.labels[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[i, :, :, 0]).save(folder / f"{i}.png")
    return tmp_path / "digits"


@pytest.mark.parametrize(
    ("word", "count"),
    [("123", 123), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("8g", 2**33), ("2TB", 2**41)],
)
def test_sizes_of_the_cache(word, count):
    from deepen.cli.options import parse_bytes

    assert parse_bytes(word) == count


def test_no_size_of_a_cache(deepen):
    for word in ("much", "-1G", "8X", "G"):
        status, _, err = deepen("train", "digits", f"--cache={word}")
        assert status == 2
        assert f"--cache {word}: write it as 500M or 8G" in err


def test_train_leaves_a_whole_run_and_says_what_next(deepen, tmp_path):
    out = tmp_path / "run"
    status, shown, told = deepen(
        "train", "digits", "--model", "mlp", "--epochs", 1, "--output", out
    )
    assert status == 0
    assert "test accuracy" in shown
    assert f"deepen predict {out}/best.safetensors" in shown
    assert re.search(r"epoch 1/1  train loss \S+ accuracy \S+%  validation loss \S+ accuracy", told)
    assert "validation: 179 of 898" in told
    assert {p.name for p in out.iterdir()} == {
        "best.safetensors", "last.safetensors", "checkpoints", "tensorboard", "data.json",
        "environment.json", "metrics.csv", "mistakes.json", "predictions.safetensors",
        "recipe.yaml", "report.html", "scores.json",
    }  # fmt: skip


def test_numbers_agree_wherever_they_are_shown(deepen, run):
    status, shown, _ = deepen("evaluate", run / "best.safetensors", "--json")
    evaluated = json.loads(shown)
    stored = json.loads((run / "scores.json").read_text())["scores"]
    assert status == 0
    assert evaluated == stored
    card = load_weights(run / "best.safetensors").card
    assert card.score["top1"] == stored["top1"]
    assert card.protocol == stored["protocol"]
    assert f"{100 * stored['top1']:.2f}%" in (run / "report.html").read_text()
    status, shown, _ = deepen("evaluate", run / "best.safetensors", "--csv")
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert [row["class"] for row in rows] == list("0123456789")
    assert sum(int(row["support"]) for row in rows) == 899
    status, shown, _ = deepen("evaluate", run / "best.safetensors")
    assert f"accuracy {100 * stored['top1']:.2f}% (95% interval" in shown


def test_accuracy_is_what_scikit_learn_counts(run):
    """From the stored logits, against the labels as scikit-learn ships them."""
    import safetensors.torch
    from sklearn.metrics import accuracy_score

    found = safetensors.torch.load_file(run / "predictions.safetensors")
    truth = load_digits().target[898:]
    predicted = found["logits"].argmax(1).numpy()
    stored = json.loads((run / "scores.json").read_text())["scores"]
    assert stored["top1"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert stored["top1"] > 0.8


def test_predict_agrees_with_evaluate_and_names_bad_files(deepen, run, digit_files, tmp_path):
    import safetensors.torch

    logits = safetensors.torch.load_file(run / "predictions.safetensors")["logits"]
    status, shown, _ = deepen("predict", run / "best.safetensors", digit_files, "--json", "-k", 10)
    assert status == 0
    for line in shown.splitlines():
        found = json.loads(line)
        expected = logits[int(Path(found["path"]).stem)].double().softmax(0)
        got = {row["class"]: row["probability"] for row in found["top"]}
        values = torch.tensor([got[str(i)] for i in range(10)])
        torch.testing.assert_close(values, expected.float(), rtol=1e-4, atol=1e-6)
    assert len(shown.splitlines()) == 6

    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff")
    one = next(digit_files.rglob("*.png"))
    status, shown, told = deepen("predict", run / "best.safetensors", bad, one, "--csv", "-k", 2)
    assert status == 1
    assert told.startswith(f"deepen predict: {bad}: damaged JPEG")
    assert [row["path"] for row in csv.DictReader(io.StringIO(shown))] == [str(one)] * 2


def test_final_accuracies_have_pictures_protocol_and_interval(deepen, monkeypatch, tmp_path):
    """Of verbs that others' tests do not read: search and demo, in words and as JSON."""
    words = ["search", "digits", "--model", "mlp", "--recipe", "quick", "--epochs", 1]
    words += ["--trials", 1, "--validation", 200, "--output", tmp_path / "s"]
    status, shown, _ = deepen(*words)
    assert status == 0
    told = re.search(r"validation accuracy (\S+)% \(95% interval .*, n 200\), the best of 1", shown)
    assert told is not None
    assert re.search(r"test accuracy \S+% \(95% interval .*, n 899\)", shown)
    status, shown, _ = deepen("search", "--resume", tmp_path / "s", "--trials", 1, "--json")
    found = json.loads(shown)
    right = round(2 * float(told[1]))
    theirs = binomtest(right, 200).proportion_ci(method="wilson")
    assert found["validation"]["n"] == 200
    assert [found["validation"][key] for key in ("low", "high")] == pytest.approx([*theirs])
    assert found["scores"]["top1_interval"]

    monkeypatch.setattr("deepen.demo.SEEDS", (0, 1))
    quick = ("quick", {"length.epochs": 1})
    monkeypatch.setattr("deepen.demo.NETWORKS", {"mlp": quick})
    status, shown, _ = deepen("demo", "--output", tmp_path / "d")
    assert status == 0
    assert "digits, test split, 899 pictures" in shown
    assert re.search(r"^linear classifier .*% \(95% interval .*, n 899, one seed\)$", shown, re.M)
    assert re.search(r"^mlp .* ± .*% \(95% interval .*, n 899, 2 seeds; by n ± ", shown, re.M)
    status, shown, _ = deepen("demo", "--json", "--output", tmp_path / "e")
    rows = json.loads(shown)["test_accuracy"]
    assert rows[0]["mean"] == pytest.approx(1 - 64 / 899)  # scikit-learn's, as ever
    assert rows[2]["low"] < min(rows[2]["top1"]) < max(rows[2]["top1"]) < rows[2]["high"]


def test_evaluate_on_a_folder_maps_classes_by_name(deepen, run, digit_files):
    """The folder has some of the ten classes, and so other label numbers."""
    for name in ("9", "8"):
        shutil.rmtree(digit_files / name, ignore_errors=True)
    # Every class needs enough pictures to be split: the same ones under other names will do.
    for path in list(digit_files.rglob("*.png")):
        for copy in range(30):
            shutil.copy(path, path.with_name(f"{path.stem}-{copy}.png"))
    status, shown, _ = deepen(
        "evaluate", run / "best.safetensors", digit_files, "--split", "all", "--json"
    )
    scores = json.loads(shown)
    assert status == 0
    assert scores["num_samples"] == 31 * len({p.parent for p in digit_files.rglob("*.png")})
    stored = json.loads((run / "scores.json").read_text())["scores"]
    assert scores["top1"] >= stored["top1"] - 0.35
    assert "all of it, not trained on" in scores["protocol"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train", "name the data to train on"),
        ("train digitz", "unknown data set or folder 'digitz'; nearest: digits"),
        ("train digits --model resnet21", "unknown model 'resnet21'; nearest: "),
        ("train digits --model lenet5 --size 28", "takes pictures of 32x32 px, asked for 28x28"),
        ("train digits --lrr 3", "No such option: --lrr"),
        ("train digits --lr -1", "optimizer.lr: Input should be greater than 0, got -1"),
        ("train digits --set optimizer.lrr=1", "nearest: optimizer.lr"),
        (
            "train digits --momentum 0.9 --set optimizer.name=adamw",
            "optimizer.momentum goes with name: sgd or rmsprop, not adamw",
        ),
        ("train digits --set epochs", "write it as KEY=VALUE"),
        ("train digits --recipe resnet-cifr", "nearest: resnet-cifar"),
        ("train digits --validation 5000", "5,000 held out, but there are 898"),
        ("train digits --device tpu", "--device tpu"),
        ("train digits --exclude none.txt", "--exclude none.txt"),
        ("train cifar10 --data-dir .", "--download"),
        ("train --resume nowhere", "--resume nowhere: no run folder"),
        ("trian digits", "Did you mean 'train'?"),
        ("predict none.safetensors a.jpg", "none.safetensors: no such weights file"),
        ("evaluate none.safetensors", "none.safetensors: no such weights file"),
        ("report nowhere", "nowhere: no finished run"),
        ("doctor nowhere", "nowhere: no such folder"),
        ("models rsnet20", "nearest: "),
    ],
)
def test_wrong_words_get_one_line_and_leave_nothing(deepen, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    status, shown, errors = deepen(*words.split())
    assert status == 2
    assert told in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("deepen")
    assert "Traceback" not in errors
    assert shown == ""
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(monkeypatch):
    from deepen.errors import InputError

    monkeypatch.setattr(sys, "argv", ["deepen", "train", "digitz", "--debug"])
    with pytest.raises(InputError):
        main()


def test_resume_auto_goes_on_or_begins(deepen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "digits", "--model", "mlp", "--epochs", 1, "--resume", "auto")
    assert "a new one" in deepen(*words)[2]
    assert "resuming runs/digits-mlp-1" in deepen(*words)[2]
    assert [p.name for p in Path("runs").iterdir()] == ["digits-mlp-1"]


def test_train_json_is_json_alone(deepen, tmp_path):
    status, shown, _ = deepen(
        "train",
        "digits",
        "--model",
        "perceptron",
        "--epochs",
        1,
        "--json",
        "--output",
        tmp_path / "r",
    )
    assert status == 0
    assert json.loads(shown)["split"] == "test"


def test_doctor_list_is_what_train_excludes(deepen, tmp_path):
    from PIL import Image

    for name, grey in (("a", 60), ("b", 200)):
        for i in range(30):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (grey, grey, i)).save(path)
    bad = tmp_path / "photos" / "a" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    listed = tmp_path / "bad.txt"
    status, shown, _ = deepen("doctor", tmp_path / "photos", "--quarantine", listed)
    assert status == 1
    assert "a/3.png: damaged" in shown
    assert listed.read_text() == "a/3.png\n"
    status, shown, _ = deepen("doctor", tmp_path / "photos", "--json")
    assert [p["path"] for p in json.loads(shown)["problems"]] == ["a/3.png"]
    status, _, told = deepen(
        "train", tmp_path / "photos", "--epochs", 1, "--exclude", listed, "--output", tmp_path / "r"
    )
    assert status == 0
    assert "excluded: 1 pictures" in told
    assert "left out" not in told
    assert not (tmp_path / "r" / "quarantine.txt").exists()


def test_train_alone_chooses_and_says_so(deepen, tmp_path, monkeypatch):
    """`deepen train PHOTOS`: model, size and recipe are chosen, said, and kept in the run."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name, grey in (("a", 60), ("b", 200)):
        for i in range(400):
            path = tmp_path / "photos" / name / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (40, 30), grey + i % 40).save(path)
    status, shown, told = deepen("train", "photos", "--epochs", 1, "-j", 0)
    assert status == 0
    assert "model: resnet20" in told
    assert "recipe: quick, 1 epochs" in told
    assert "shorter side to 73 px, centre crop 64x64" in shown
    assert Path("runs/photos-resnet20-1/report.html").is_file()


def test_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "deepen", "models", "lenet*", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [(m["name"], m["parameters"]) for m in json.loads(done.stdout)] == [
        ("lenet5", 60_000),
        ("lenet5_relu", 61_706),
    ]


def test_models_has_parameters_and_macs_of_each(deepen):
    # As torchvision's documentation has them: 25557032 parameters, 4.09 GFLOPS, which are MACs.
    status, shown, _ = deepen("models", "resnet50_v1_5", "--json")
    (row,) = json.loads(shown)
    assert status == 0
    assert {"name", "paper", "year", "input"} <= row.keys()
    assert (row["parameters"], round(row["macs"] / 1e9, 2)) == (25557032, 4.09)
    table = deepen("models", "resnet50_v1_5")[1].split()
    assert f"{row['macs']:,}" in table
