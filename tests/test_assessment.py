"""Weights beside each other, together, on worse pictures; what is kept is what would be made."""

from __future__ import annotations

import base64
import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix
from typer.testing import CliRunner

import deepen
from deepen import assessment
from deepen.cli import app
from deepen.data.corruptions import CORRUPTIONS, corrupt
from deepen.errors import InputError
from deepen.evaluation import kept
from deepen.training import scored
from deepen.training.request import Assessing
from deepen.training.scored import Opened
from deepen.weights import load_weights

QUICK = {"length.epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Path]:
    """Three networks on the digits, which differ by their seed alone."""
    place = tmp_path_factory.mktemp("members")
    return [
        deepen.train(
            "digits",
            model="lenet5_relu",
            recipe="quick",
            changes={**QUICK, "seed": seed},
            output=place / f"run-{seed}",
        ).run
        / "best.safetensors"
        for seed in range(3)
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DEEPEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logits"


def asked(file: Path, **words) -> Assessing:
    return Assessing(file, "digits", **words)


def test_members_are_compared_on_the_same_pictures(trained):
    found = assessment.compare_weights(trained, asked(trained[0]))
    seen = [assessment.see(asked(file)) for file in trained]
    labels = seen[0].labels.numpy()
    said = [one.logits.argmax(1).numpy() for one in seen]
    for scores, mine in zip(found.scores, said, strict=True):
        assert scores.top1 == pytest.approx(accuracy_score(labels, mine))
    right = [mine == labels for mine in said]
    for (i, j), pair in found.pairs.items():
        table = confusion_matrix(right[i], right[j], labels=[False, True])
        assert (pair.only_second, pair.only_first) == (table[0, 1], table[1, 0])
        assert pair.difference == pytest.approx(right[j].mean() - right[i].mean())
    unlike = [k for k in range(len(labels)) if len({mine[k] for mine in said}) > 1]
    assert {one.key for one in found.disagreements} == {seen[0].keys[k] for k in unlike}
    shares = [one.logits.double().softmax(1).numpy() for one in seen]

    def surest_contradiction(k: int) -> float:
        sides = [(mine[k], share[k].max()) for mine, share in zip(said, shares, strict=True)]
        return max(min(p, q) for (a, p), (b, q) in combinations(sides, 2) if a != b)

    by_hand = sorted(unlike, key=surest_contradiction, reverse=True)
    assert [one.key for one in found.disagreements] == [seen[0].keys[k] for k in by_hand]
    first = found.disagreements[0]
    assert first.said == [str(mine[by_hand[0]]) for mine in said]
    assert first.confidence == pytest.approx([share[by_hand[0]].max() for share in shares])
    assert first.true == str(labels[by_hand[0]])
    assert found.ensemble is None


def test_an_ensemble_is_chosen_on_validation_pictures_alone(trained, monkeypatch):
    asked_for: list[str | None] = []
    see = assessment.see

    def watched(one: Assessing, opened):
        asked_for.append(one.split)
        return see(one, opened)

    monkeypatch.setattr(assessment, "see", watched)
    chosen_on: list[torch.Tensor] = []
    greedy = assessment.ensembles.greedy

    def spied(members, labels, averaging):
        chosen_on.append(labels)
        return greedy(members, labels, averaging)

    monkeypatch.setattr(assessment.ensembles, "greedy", spied)
    found = assessment.compare_weights(trained, asked(trained[0]), ensemble=True)
    assert asked_for == [None] * 3 + ["val"] * 3
    validation = see(asked(trained[0], split="val"))
    assert torch.equal(chosen_on[0], validation.labels)
    assert found.together is not None
    assert found.together.top1 >= min(scores.top1 for scores in found.scores)
    assert "ensemble of 3, probabilities averaged" in found.together.protocol
    assert 1 <= len(found.chosen) <= 3


def test_kept_logits_are_those_of_weights_pictures_and_protocol(trained, cache):
    split = {"split": "train"}  # of 500 pictures and more
    first = assessment.see(asked(trained[0], **split))
    (kept,) = cache.iterdir()
    again = assessment.see(asked(trained[0], **split))
    assert torch.equal(again.logits, first.logits)
    assert [*cache.iterdir()] == [kept]
    other = assessment.see(asked(trained[1], **split))
    assert not torch.equal(other.logits, first.logits)
    assessment.see(asked(trained[0], crops="10", border=2, **split))
    assert len([*cache.iterdir()]) == 3
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: done without
    assert torch.equal(assessment.see(asked(trained[0], **split)).logits, first.logits)


def test_members_share_what_is_opened_and_kept_logits_need_no_network(trained, monkeypatch):
    words = asked(trained[0], split="train")
    before = assessment.compare_weights(trained, words)
    opened, digested = [], []
    open_source, contents = scored.open_source, assessment.contents_of
    monkeypatch.setattr(
        scored, "open_source", lambda *a, **k: opened.append(a) or open_source(*a, **k)
    )
    monkeypatch.setattr(assessment, "contents_of", lambda s: digested.append(s) or contents(s))
    monkeypatch.setattr(assessment, "load_weights", None)
    again = assessment.compare_weights(trained, words)
    assert (len(opened), len(digested)) == (1, 1)
    assert again.scores == before.scores
    assert again.disagreements == before.disagreements


def test_weights_of_other_splits_are_not_scored_as_one(trained, tmp_path):
    """Members share pictures only where their cards say the same of them."""
    place = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (place / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    files = [
        deepen.train(
            str(place),
            model="lenet5_relu",
            recipe="quick",
            changes={"length.epochs": 1, "seed": 0, "validation": held},
            output=tmp_path / f"run-{held}",
        ).run
        / "best.safetensors"
        for held in (4, 8)
    ]
    alone = [assessment.see(Assessing(file, str(place), split="val")) for file in files]
    opened = Opened()
    shared = [assessment.see(Assessing(file, str(place), split="val"), opened) for file in files]
    assert [len(one.keys) for one in alone] == [4, 8]
    for one, other in zip(alone, shared, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.logits, other.logits)
    with pytest.raises(InputError, match="is scored on"):
        assessment.compare_weights(files, Assessing(files[0], str(place), split="val"))


def test_a_picture_that_changed_in_place_is_looked_at_again(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(kept, "FEWEST_PICTURES", 1)
    for name, level in (("a", 40), ("b", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (level, level + i, level)).save(
                tmp_path / "photos" / name / f"{i}.bmp"
            )
    words = Assessing("resnet20:cifar10", str(tmp_path / "photos"))
    with pytest.raises(InputError, match="classes that"):
        assessment.see(words)
    (tmp_path / "photos" / "a").rename(tmp_path / "photos" / "cat")
    (tmp_path / "photos" / "b").rename(tmp_path / "photos" / "dog")
    file = tmp_path / "net.safetensors"
    file.write_bytes(
        Path(deepen.zoo.__file__).with_name("resnet20-cifar10.safetensors").read_bytes()
    )
    before = assessment.see(Assessing(file, str(tmp_path / "photos"), workers=0))
    assert len([*cache.iterdir()]) == 1
    picture = tmp_path / "photos" / "cat" / "0.bmp"
    size = picture.stat().st_size
    Image.new("RGB", (32, 32), (255, 0, 0)).save(picture)
    assert picture.stat().st_size == size
    after = assessment.see(Assessing(file, str(tmp_path / "photos"), workers=0))
    assert not torch.equal(before.logits[0], after.logits[0])


def test_corrupted_pictures_are_those_that_the_network_is_shown(trained):
    found = assessment.corrupted(asked(trained[0]), most=60, baseline=trained[1])
    assert list(found.errors) == list(CORRUPTIONS)
    loaded = load_weights(trained[0])
    source = deepen.data.sources.open_source("digits")
    split = source.splits["test"]
    places = [i * len(split) // 60 for i in range(60)]
    plain = loaded.card.preprocessing
    fitted = [plain.fit(split.picture(i, 1)) for i in places]
    images = np.stack([corrupt(each, "contrast", 4) for each in fitted])
    with torch.no_grad():
        said = loaded.model(plain.normalize(torch.from_numpy(images))).argmax(1).numpy()
    error = (said != split.labels[places]).mean()
    assert found.errors["contrast"][3] == pytest.approx(error)
    assert found.relative is not None
    assert found.baseline is not None
    fog = sum(found.errors["fog"]) / sum(found.baseline["fog"])
    assert found.relative["fog"] == pytest.approx(fog)


def test_a_temperature_is_kept_in_the_card(trained, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(trained[0].read_bytes())
    temperature = assessment.calibrate(asked(file))
    assert load_weights(file).card.temperature == pytest.approx(temperature)
    seen = assessment.see(asked(file, split="val"))
    losses = {
        t: torch.nn.functional.cross_entropy(seen.logits.double() / t, seen.labels).item()
        for t in (0.9 * temperature, temperature, 1.1 * temperature)
    }
    assert min(losses, key=lambda t: losses[t]) == temperature


def test_one_call_each_in_python(trained, tmp_path):
    """They find what the words of the command find."""
    page = tmp_path / "page.html"
    words = {"data": "digits", "crops": "10", "border": 2}
    found = deepen.compare_weights(trained[:2], **words, ensemble=True, page=page)
    status, out = run(*trained[:2], "--crops", 10, "--border", 2, "--ensemble", "--json")
    assert status == 0, out
    told = json.loads(out)
    assert [scores.model_dump(mode="json") for scores in found.scores] == told["scores"]
    assert found.together is not None
    assert found.together.top1 == told["ensemble"]["scores"]["top1"]
    assert page.is_file()
    file = tmp_path / "net.safetensors"
    file.write_bytes(trained[0].read_bytes())
    assert deepen.calibrate(file, "digits") == load_weights(file).card.temperature
    robust = deepen.corrupted(file, "digits", pictures=5)
    assert robust == assessment.corrupted(asked(file), most=5)
    with pytest.raises(InputError, match="name the weights"):
        deepen.compare_weights([], "digits")


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    return done.exit_code, done.output + str(done.exception or "")


def test_the_words_of_the_command(trained, tmp_path):
    status, out = run(trained[0], "digits", "--crops", "10", "--border", "2")
    assert status == 0, out
    assert "ten crops of" in out
    assert "95% interval" in out
    status, out = run(*trained, "--data", "digits", "--ensemble", "--json")
    assert status == 0, out
    told = json.loads(out)
    assert len(told["pairs"]) == 3
    assert told["ensemble"]["scores"]["num_samples"] == 899
    status, out = run(trained[0], trained[1])  # what they were trained on
    assert status == 0, out
    assert "McNemar" in out
    (tmp_path / "tree.csv").write_text(
        "".join(f"{i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(10))
        + "even,digit\nodd,digit\n"
    )
    status, out = run(trained[0], "digits", "--tree", tmp_path / "tree.csv")
    assert "hierarchical error" in out


def test_the_page_shows_the_pictures_that_they_disagree_on(trained, tmp_path):
    target = tmp_path / "compared.html"
    status, out = run(*trained, "--data", "digits", "--page", target)
    assert status == 0, out
    assert str(target) in out
    found = assessment.compare_weights(trained, asked(trained[0]), pictures=60)
    page = target.read_text("utf-8")
    assert page.count("<img") == min(60, len(found.disagreements))
    test = deepen.data.sources.open_source("digits").splits["test"]
    for one in found.disagreements[:3]:
        assert one.png is not None
        assert f"base64,{one.png}" in page
        shown = Image.open(io.BytesIO(base64.b64decode(one.png)))
        assert shown.tobytes() == test.picture(list(test.keys).index(one.key), 3).tobytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--page", "page.html"], "--page: goes with two"),
        (["--ensemble"], "--ensemble: goes with two"),
        (["--baseline", "x.safetensors"], "--baseline: goes with --corruptions"),
        (["--scales", "big"], "--scales big"),
        (["--tree", "none.csv"], "none.csv"),
    ],
)
def test_words_that_do_not_go_together(trained, words, said):
    status, out = run(trained[0], "digits", *words)
    assert status != 0
    assert said in out


@pytest.mark.parametrize("page", ["page.pdf", "none/page.html"])
def test_a_page_that_cannot_be_is_said_at_once(trained, page, monkeypatch):
    monkeypatch.setattr(assessment, "see", None)
    status, out = run(*trained, "--data", "digits", "--page", page)
    assert status != 0
    assert f"--page {page}" in out
