"""deepen info and deepen compare: what they print, as text, JSON and CSV, and the chart."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from deepen.analysis import comparison
from deepen.cli import app
from deepen.errors import InputError
from deepen.models import get_architecture, list_models


def deepen(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def refusal(*arguments: str) -> str:
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return str(refused.value)


class Pair(nn.Sequential):
    """A network of the user's own, as --model takes it."""

    in_channels, input_size = 2, (8, 8)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def stubborn() -> nn.Module:
    """A factory that cannot build on the meta device, as it reads a value."""
    net = nn.Linear(4, 2)
    assert isinstance(net.weight.sum().item(), float)
    return net


def test_info_says_where_a_network_comes_from_and_what_it_costs():
    shown = deepen("info", "lenet5")
    assert 'LeCun et al. 1998, "Gradient-based learning' in shown
    assert "takes  pictures of 32x32 px alone; 1 channel; 10 classes" in shown
    words = " ".join(shown.split())
    for detail in get_architecture("lenet5").details:
        assert f"{detail.field} {detail.kind} {detail.source}" in words
    assert "parameters   60,000\n" in shown
    assert "connections  340,908 " in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["c3", "SparseConv2d", "16x10x10", "1,516", "150,000", "151,600"] in [
        r[:6] for r in rows
    ]
    assert ["c5", "Conv2d", "120x1x1"] in [row[:3] for row in rows]


def test_info_as_json_holds_everything():
    document = json.loads(deepen("info", "resnet20", "--json", "-b", "4"))
    assert document["paper"] == "He et al. 2015"
    assert document["input"] == [3, 32, 32]
    assert document["takes"]["min_px"] == 8
    assert {d["kind"] for d in document["details"]} >= {"specified", "inferred"}
    totals, layers = document["totals"], document["layers"]
    assert totals["macs"] == 40_551_040 == sum(layer["macs"] for layer in layers)
    assert totals["parameters"] == sum(layer["parameters"] for layer in layers)
    assert totals["convolution"] + totals["linear"] == totals["macs"]
    assert layers[0]["field"] == {"size_px": [3, 3], "stride_px": [1, 1], "start_px": [-1, -1]}
    memory = document["memory"]
    assert memory["batch_size"] == 4
    assert memory["weights"] < memory["inference"] < memory["training"]
    assert memory["measured_inference"] is None
    assert document["uncounted"] == {}


def test_info_as_csv_is_the_layers():
    rows = list(csv.DictReader(io.StringIO(deepen("info", "resnet20", "--csv", "--depth", "1"))))
    assert [row["layer"] for row in rows][-4:] == ["layer2", "layer3", "", "fc"]
    assert sum(int(row["macs"]) for row in rows) == 40_551_040
    assert rows[0]["output_shape"] == "1x16x32x32"
    assert (rows[0]["field_px"], rows[0]["stride_px"], rows[0]["start_px"]) == (
        "3x3",
        "1x1",
        "-1x-1",
    )


def test_depth_sums_up():
    whole, short = (deepen("info", "resnet20", *more) for more in ([], ["--depth", "1"]))
    assert len(short.splitlines()) < len(whole.splitlines()) - 40
    assert "layer1.0.conv1" in whole
    assert "layer1.0" not in short
    assert "layer1         Sequential" in short


def test_input_may_be_another():
    small = json.loads(deepen("info", "resnet20", "--input", "1x16x24", "--json"))
    assert small["input"] == [1, 16, 24]
    assert small["layers"][0]["output_shape"] == [1, 16, 16, 24]


def test_a_network_of_the_users_own():
    document = json.loads(deepen("info", f"{__name__}:Pair", "--json"))
    assert (document["input"], document["details"]) == ([2, 8, 8], [])
    assert document["totals"]["macs"] == 72 * 36 + 144 * 3
    wide = json.loads(deepen("info", f"{__name__}:stubborn", "--input", "5x4", "--json"))
    assert wide["totals"]["macs"] == 5 * 8
    assert "Linear" in deepen("info", f"{__name__}:stubborn", "--input", "4")


def test_measured_memory_stands_beside_the_estimate():
    shown = deepen("info", "mlp", "--measure", "-b", "2")
    assert "measured: prediction 1.0 MB, training 2.9 MB" in shown
    assert "at batch 2: prediction 1.0 MB, training 2.9 MB" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet6"], "unknown model 'lenet6'; nearest: lenet5"),
        (["resnet20", "--input", "3-32"], "--input 3-32: write it as CxHxW"),
        (["resnet20", "--input", "3x0x32"], "--input 3x0x32"),
        (["resnet20", "--input", "32x32"], "resnet20 takes pictures CxHxW, got 32x32"),
        (["resnet20", "--input", "3x4x4"], "8 px at least"),
        (["lenet5", "--input", "3x32x32"], "lenet5 takes 1 input channels"),
        (["no.such:thing"], "No module named"),
        ([f"{__name__}:Pair", "--input", "3x8x8"], "Pair does not run on an input of 1x3x8x8"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments: list[str], words: str):
    assert words in refusal("info", *arguments)


NETWORKS = ("lenet5", "mlp", "resnet20", "plain20")


def test_compare_prints_costs_and_published_errors():
    shown = deepen("compare", *NETWORKS)
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert "He et al. 2015, Table 6" in rows["resnet20"]
    assert rows["resnet20"].split()[-1] == "8.75"
    assert "40,551,040" in rows["resnet20"]
    assert rows["plain20"].split()[1:3] == ["2015", "3x32x32"]  # no published figure


def test_compare_as_json():
    rows = json.loads(deepen("compare", "resnet2*", "lenet5", "resnet20", "--json"))
    assert [row["name"] for row in rows] == [*list_models("resnet2*"), "lenet5"]
    assert rows[-1]["published"] == {
        "data": "MNIST",
        "protocol": "test, no distortions",
        "source": "LeCun et al. 1998, section III-B and figure 9",
        "top1_error": 0.95,
        "top5_error": None,
    }
    (small,) = json.loads(deepen("compare", "resnet20", "--input", "3x16x16", "--json"))
    assert small["published"] is None  # the error belongs to the paper's own input
    assert small["macs"] < rows[0]["macs"]


def test_compare_measures_on_request(monkeypatch):
    measured = comparison._images_per_second
    monkeypatch.setattr(comparison, "_images_per_second", lambda s, n: measured(s, n, seconds=0.01))
    (row,) = json.loads(deepen("compare", "mlp", "--measure", "-b", "2", "--json"))
    assert row["images_per_s"] > 0
    assert "images/s" in deepen("compare", "mlp", "--measure", "-b", "2")


def test_the_chart_shows_each_network_by_its_data_set(tmp_path: Path):
    chart = tmp_path / "new" / "chart.svg"
    done = CliRunner().invoke(app, ["compare", *NETWORKS, "--output", str(chart)])
    assert done.exit_code == 0
    assert "not in the chart, no published figure of the kind that is drawn: plain20" in done.stderr
    assert str(chart) in done.stdout
    texts = [t.text for t in ElementTree.parse(chart).iter("{http://www.w3.org/2000/svg}text")]
    assert {"lenet5", "mlp", "resnet20"} < set(texts)
    assert "plain20" not in texts
    assert any(text and text.startswith("CIFAR-10; area") for text in texts)
    first = chart.read_bytes()
    CliRunner().invoke(app, ["compare", *NETWORKS, "--output", str(chart)])
    assert chart.read_bytes() == first


def test_the_chart_may_be_a_png(tmp_path: Path):
    chart = tmp_path / "chart.PNG"
    deepen("compare", "resnet20", "resnet32", "resnet44", "--output", str(chart))
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_a_chart_without_anything_in_it_is_refused(tmp_path: Path):
    assert ".svg or a .png" in refusal("compare", "mlp", "--output", str(tmp_path / "chart.gif"))
    words = refusal("compare", "plain20", "--output", str(tmp_path / "chart.svg"))
    assert "published" in words
    assert "unknown model 'vgx*'" in refusal("compare", "vgx*")


def test_every_published_figure_is_of_a_network_that_there_is():
    known = comparison.published()
    assert set(known) <= set(list_models())
    assert len(known) >= 50
    for name, figure in known.items():
        architecture = get_architecture(name)
        assert figure.top1_error is not None or figure.top5_error is not None
        assert figure.data in ("ImageNet", "CIFAR-10", "MNIST")
        classes = {"ImageNet": 1000, "CIFAR-10": 10, "MNIST": 10}[figure.data]
        assert architecture.takes.num_classes == classes
        assert "Table " in figure.source or "figure " in figure.source
        own = {"mlp": "LeCun et al. 1998", "inception_v3": "Szegedy et al. 2016"}
        assert figure.source.startswith(own.get(name, architecture.paper))
        if figure.top1_error and figure.top5_error:
            assert figure.top5_error < figure.top1_error
