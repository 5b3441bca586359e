"""Generated pages are what their generator writes; figures have the intervals of their pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepen.claims.measured import result
from deepen.evaluation.intervals import interval, over_seeds
from deepen.studies.catalog import STUDIES
from deepen.studies.study import Results

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def test_network_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read(name: str):
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def measured() -> set[str]:
    """Each figure of the README as the helper words it, from the committed results."""
    lenet = [run.value / 100 for run in result("lenet5-mnist").runs]
    search, demo = read("search-digits"), read("demo-digits")
    found = [over_seeds(lenet, 10_000)]
    found += [over_seeds([n / 899 for n in right], 899) for right in demo["right"].values()]
    for arm in read("finetune-hymenoptera")["arms"].values():
        right = [round(153 * share / 100) for share in arm["top1_percent"]]
        found.append(over_seeds([n / 153 for n in right], 153))
    found.append(interval(read("resnet20-cifar10")["test_accuracy_percent"] / 100, 10_000))
    found += [interval(search[f"{name} top-1 on validation"], 300) for name in ("default", "best")]
    return {each.in_words for each in found}


def of_study(name: str) -> set[str]:
    """Mean and interval of each share of pictures, as a study's table has them."""
    results = Results.model_validate_json((ROOT / f"docs/studies/{name}.json").read_text("utf-8"))
    shares = set()
    for measure in STUDIES[name].measures:
        for arm in results.arms():
            cell = re.match(r"(\S+)(?: ± \S+)? (\(\S+ to \S+);", results.cell(arm, measure))
            shares |= {f"{cell[1]}% {cell[2]})"} if cell else set()
    return shares


def test_detection_in_the_readme_is_as_measured():
    _, _, text = (ROOT / "README.md").read_text("utf-8").partition("## Measured")
    (row,) = [row for row in text.split("\n") if "mAP" in row]
    cells = read("blood-cells")
    ends = [100 * end for run in cells["runs"] for end in run["map50_interval"]]
    bar = sum(each["map50"] for each in cells["commonest_boxes"]) / len(cells["commonest_boxes"])
    told = [100 * cells[part][name] for name in ("map50", "coco_ap") for part in PARTS]
    assert [
        f"{value:.1f}" for value in (*told[:2], min(ends), max(ends), *told[2:], 100 * bar)
    ] == [number for number in re.findall(r"\d+\.\d", row.split(" | ")[1]) if number != "0.5"]


PARTS = ("mean", "deviation")


def test_accuracies_of_the_readme_have_the_intervals_of_their_pictures():
    _, _, text = (ROOT / "README.md").read_text("utf-8").partition("## Measured")
    rows = [row for row in text.split("\n") if re.match(r"\|[^|]+\|[^|]+%", row)]
    rows = [row for row in rows if "mAP" not in row]  # those have a test of their own
    known, seen = measured(), set()
    for row in rows:
        ours = row.split(" | ")[1]
        words = re.findall(r"[\d.]+(?: ± [\d.]+)?% \(95% interval [^)]+\)", ours)
        assert set(words) <= known
        seen |= set(words)
        short = re.findall(r"[\d.]+% \([\d.]+ to [\d.]+\)", ours)
        study = re.search(r"`deepen study (\w+)", row)
        assert set(short) <= (of_study(study[1]) if study else set())
        assert len(re.findall(r"\d%", ours)) == 3 * len(words) + len(short)  # 95% and the bound
        assert words or short
    assert len(rows) == 10
    assert seen == known


@pytest.mark.parametrize("name", ["belief", "weights"])
def test_tables_of_10_000_pictures_have_wilsons_intervals(name):
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    found = re.findall(r"([\d.]+)% \(([\d.]+) to ([\d.]+)\)", text)
    assert len(found) == {"belief": 8, "weights": 4}[name]
    for share, low, high in found:
        theirs = interval(float(share) / 100, 10_000)
        assert (low, high) == (f"{100 * theirs.low:.1f}", f"{100 * theirs.high:.1f}")
