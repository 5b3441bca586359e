"""Options are made of records: their names stay, and what they say arrives in the record."""

from __future__ import annotations

import inspect
import shlex
import sys

import pytest
import typer
from typer.testing import CliRunner

import deepen
from deepen import api
from deepen.cli import app, main
from deepen.cli.options import at_home
from deepen.errors import InputError
from deepen.training.request import Here, Request, Training

OPTIONS = {
    "train": """
        --amp --batch-size --cache --choose-by --class-weights --config --data-dir --device
        --download --epochs --exclude --init-from --json --labels --look --lr --model --momentum
        --no-amp --no-look --output --recipe --resume --sampling --seed --set --size --task
        --together --tune --validation --weight-decay --weights --workers -b -j data
    """,
    "search": """
        --batch-size --config --data-dir --device --download --epochs --json --labels
        --model --output --pruner --recipe --resume --seed --set --storage --study-name
        --trials --validation --workers -b -j data
    """,
    "find-lr": """
        --batch-size --config --data-dir --device --download --highest --json --lowest --labels
        --model --output --recipe --set --steps --workers -b -j data
    """,
    "verify-resume": """
        --batch-size --config --data-dir --device --epochs --exclude --json --kills --labels --model
        --pictures --recipe --seed --set --workers -b -j data
    """,
    "evaluate": """
        --averaging --baseline --batch-size --border --calibrate --corruptions --crop-fraction
        --crops --csv --data --data-dir --device --download --ensemble --exclude --interpolation
        --json --labels --model --page --pictures --scales --shorter-side --split --tree --workers
        -b -j weights
    """,
    "probe": """
        --batch-size --classifier --data-dir --device --download --exclude --json --labels --layer
        --model --workers -b -j data weights
    """,
}
"""Written down, so that a renamed field of a record does not rename an option unseen."""


@pytest.mark.parametrize("verb", OPTIONS)
def test_options_have_the_names_that_people_know(verb):
    parameters = typer.main.get_command(app).commands[verb].params
    found = {word for each in parameters for word in (*each.opts, *each.secondary_opts)}
    assert found == set(OPTIONS[verb].split())


def test_what_is_said_arrives(monkeypatch, tmp_path):
    said = []

    def train(**words):
        said.append(Training(**words))
        raise InputError("enough")

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr("sys.argv", ["deepen", "train", "photos"])
    excluded = tmp_path / "bad.txt"
    excluded.write_text("a/1.jpg\n\nb/2.jpg\n")
    line = (
        f"train photos --model vgg11 --config quick --weights w.st --epochs 3 -b 16 --lr 0.5 "
        f"--size 40 --no-amp --set optimizer.nesterov=false --set seed=7 --data-dir d --download "
        f"--exclude {excluded} -j 0 --cache 2K --device cpu --tune --output o --resume auto"
    )
    result = CliRunner().invoke(app, shlex.split(line))
    assert isinstance(result.exception, InputError)
    [asked] = said
    assert (asked.data, asked.model, asked.recipe, asked.weights) == (
        *("photos", "vgg11", "quick", "w.st"),
    )
    assert asked.changes == {
        "length.epochs": 3,
        "batch_size": 16,
        "optimizer.lr": 0.5,
        "input.size_px": 40,
        "amp": False,
        "optimizer.nesterov": False,
        "seed": 7,
    }
    assert asked.exclude == ("a/1.jpg", "b/2.jpg")
    assert (asked.workers, asked.cache_bytes, asked.device) == (0, 2048, "cpu")
    assert asked.tune
    assert asked.download
    assert (str(asked.data_dir), str(asked.output), asked.resume) == ("d", "o", "auto")
    assert asked.command == "deepen train photos"


def test_nothing_said_is_nothing_asked(monkeypatch):
    said = []

    def train(**words):
        said.append(Training(**words))
        raise InputError("enough")

    monkeypatch.setattr(api, "train", train)
    CliRunner().invoke(app, ["train"])
    [asked] = said
    usual = Training(reporter=asked.reporter, command=asked.command, processes=asked.processes)
    assert asked == usual


def test_keywords_of_the_python_face_are_the_records_fields():
    words = inspect.signature(deepen.train).parameters
    assert next(iter(words)) == "data"
    assert words["data"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {"model", "recipe", "changes", "device", "workers", "output", "resume"} <= set(words)
    assert "output: " in (deepen.train.__doc__ or "")
    with pytest.raises(TypeError, match="modle"):
        deepen.train("digits", modle="resnet20")


def test_none_stands_for_the_default():
    here = Here(reporter=None)
    assert here.reporter is not None
    assert Request(changes=None, exclude=None) == Request()


def test_a_tilde_is_the_home_wherever_it_stands(monkeypatch, tmp_path):
    """bash leaves it behind `--option=`; who then has a folder called ~ is soon without a home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    words = ["train", "~/photos", "--output=~/run", "--weights=~", "--exclude=~/bad.txt", "-j", "2"]
    words += ["--set=a=~", "a~b", "--data-dir", "~/data", "./~", "--set", "loss.threshold=~"]
    assert at_home(words) == [
        *("train", f"{home}/photos", f"--output={home}/run", f"--weights={home}"),
        *(f"--exclude={home}/bad.txt", "-j", "2", "--set=a=~", "a~b", "--data-dir"),
        *(f"{home}/data", "./~", "--set", "loss.threshold=~"),
    ]
    with pytest.raises(InputError, match=r"--output=~nobody-here/x: there is no such home; write"):
        at_home(["--output=~nobody-here/x"])


def test_the_whole_command_line_is_read_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said = []
    monkeypatch.setattr(api, "train", lambda **words: said.append(words) or sys.exit(9))
    line = "deepen train digits --output=~/run --init-from=~/w.safetensors --resume=~/old"
    monkeypatch.setattr("sys.argv", line.split())
    with pytest.raises(SystemExit):
        main()
    [words] = said
    assert words["output"] == tmp_path / "run"
    assert words["init_from"] == f"{tmp_path}/w.safetensors"
    assert words["resume"] == f"{tmp_path}/old"
