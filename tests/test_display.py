"""What results show of themselves: whole, escaped, and the figures that the commands print."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from deepen.analysis.complexity import complexity
from deepen.api import Searched, Trained
from deepen.baselines.probe import Probe
from deepen.deployment.predictor import Prediction
from deepen.display import Table, columns, to_html
from deepen.evaluation.comparison import Comparison
from deepen.evaluation.metrics import Figures, score
from deepen.evaluation.paired import compare
from deepen.models import create_model
from deepen.training.lr_finder import Sweep
from deepen.training.search import Found, Tried

EVIL = "<b>&"


def scores():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 2.0]])
    return score(logits, torch.tensor([0, 1, 1, 1]), (EVIL, "ant"), protocol="of four")


def results():
    """Each result, with figures that it must show."""
    found = scores()
    pair = compare(torch.tensor([True, False] * 8), torch.tensor([True] * 16))
    both = Comparison(["a", "b"], [found] * 2, {(0, 1): pair}, [[], []], None, None, [], None, [])
    trained = Trained(Path("runs/a"), "test", found)
    tried = Tried(3, "complete", 0.9, 0.5, 2, {"lr": 0.1, "name": EVIL}, "run")
    probe = Probe("fc", 5, "svm", 0.1, 0.8, "test", 0.75, 4, f"of {EVIL}", ())
    return [
        (found, ("75.00% (95% interval 30.1 to 95.4%, n 4)", "0.667", EVIL)),
        (Figures(num_samples=4, num_skipped=0, figures={EVIL: 0.5}, protocol="p"), (EVIL, "0.5")),
        (trained, ("test accuracy 75.00%", "of four", "runs/a/report.html")),
        (both, ("+50.00 points", "30.1 to 95.4%", "shown", "disagree on 0")),
        (
            Searched(Path("s"), Found((tried,), tried, {}, 0, "top-1", 20), trained),
            ("trial 3", "90.00% (95% interval 69.9 to 97.2%, n 20)", EVIL, "s/report.html"),
        ),
        (probe, ("75.00% (95% interval", "80.00%", EVIL)),
        (Sweep((0.1, 0.2), (2.0, 1.5), 0.2, 0.02, False), ("1.5000", "--lr 0.02")),
        (Prediction(f"a{EVIL}.png", ((EVIL, 0.9),)), (f"a{EVIL}.png", "90.0%")),
        (complexity(create_model("lenet5"), (1, 32, 32)), ("60,000 parameters", "122,304")),
    ]


@pytest.mark.parametrize(("result", "figures"), results(), ids=lambda v: type(v).__name__)
def test_results_show_themselves(result, figures):
    page = result._repr_html_()
    tree = ET.fromstring(f"<div>{page}</div>")  # each tag is closed, each < and & escaped
    seen = "\n".join(tree.itertext())
    for words in figures:
        assert words in seen
        assert words in repr(result)
        assert words in str(result)
    assert {each.tag for each in tree.iter()} <= {
        *("div", "p", "table", "thead", "tbody", "tr", "th", "td")
    }
    assert "http" not in page
    assert "color" not in page  # the notebook's own, light or dark


def test_a_table_is_the_same_as_text_and_as_html():
    table = Table(("class", "share"), [("猫", "1"), ("a\x1b[2J", "22")])
    assert columns(*table) == [
        "class     share",
        "猫" + 12 * " " + "1",  # two columns wide
        "a\\x1b[2J     22",
    ]
    tree = ET.fromstring(to_html([table]))
    cells = [[cell.text for cell in row] for row in tree.iter("tr")]
    assert cells == [["class", "share"], ["猫", "1"], ["a\\x1b[2J", "22"]]
    sides = [cell.get("style") for cell in next(tree.iter("tr"))]
    assert sides == ["text-align:left", "text-align:right"]
