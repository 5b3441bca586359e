"""Several weights side by side as one HTML file that needs nothing else."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from deepen.evaluation.comparison import Comparison, Disagreement
from deepen.files import write_whole
from deepen.report.page import is_small, template
from deepen.report.reliability import diagram

MAX_PICTURES = 60


def write_comparison(page: Path, found: Comparison) -> None:
    """Write the page of a comparison: scores, pairs, ensemble, calibration, disagreements.

    Raises:
        InputError: `page` is a folder or a device.
        WorkError: it could not be written.
    """
    marks = [_mark(i) for i in range(len(found.names))]
    named = zip(marks, short_names(found.names), found.names, found.scores, strict=True)
    rows = [
        {"mark": mark, "name": name, "file": file, "scores": scores}
        for mark, name, file, scores in named
    ]
    chosen = [marks[i] for i in found.chosen]
    combined = []
    if found.together is not None:
        combined.append({"name": "all together", "scores": found.together})
    if found.chosen_scores is not None:
        combined.append({"name": f"chosen: {', '.join(chosen)}", "scores": found.chosen_scores})
    content = template("comparison.html.j2").render(
        title=f"{len(marks)} networks side by side",
        rows=rows,
        combined=combined,
        same_protocol=len({scores.protocol for scores in found.scores}) == 1,
        pairs=[
            {"first": marks[i], "second": marks[j], "pair": pair}
            for (i, j), pair in found.pairs.items()
        ],
        members=_members(marks, found),
        correlation=[] if found.ensemble is None else found.ensemble.correlation.tolist(),
        chosen=chosen,
        diagrams=[
            {**row, "svg": diagram(f"Reliability of {row['mark']}", bins), "bins": bins}
            for row, bins in zip(rows, found.reliability, strict=True)
        ],
        shots=[_shot(marks, one) for one in found.disagreements if one.png is not None],
        disagreements=len(found.disagreements),
    )
    write_whole(page, content)


def short_names(files: Sequence[str]) -> list[str]:
    """What tells paths apart: `runs/a/best.safetensors` and `runs/b/best.safetensors` are a and b.

    Of names that are not told apart so, the whole.
    """
    parts = [PurePath(file.removesuffix(".safetensors")).parts for file in files]
    shortest = min(map(len, parts))
    ahead = next((i for i in range(shortest) if len({each[i] for each in parts}) > 1), shortest)
    behind = next(
        (i for i in range(shortest - ahead) if len({each[-1 - i] for each in parts}) > 1), 0
    )
    short = ["/".join(each[ahead : len(each) - behind]) for each in parts]
    return short if len({*short, ""}) == len(files) + 1 else list(files)


def _mark(i: int) -> str:
    """A, B, ... Z, AA, AB, ...: names are long."""
    return (_mark(i // 26 - 1) if i >= 26 else "") + string.ascii_uppercase[i % 26]


def _members(marks: list[str], found: Comparison) -> list[dict[str, Any]]:
    """What is lost without each, in 0..1."""
    if found.ensemble is None or found.together is None:
        return []
    return [
        {"mark": mark, "part": found.together.top1 - without, "without": without}
        for mark, without in zip(marks, found.ensemble.without, strict=True)
    ]


def _shot(marks: list[str], one: Disagreement) -> dict[str, Any]:
    assert one.png is not None
    return {
        "key": one.key,
        "true": one.true,
        "png": one.png,
        "small": is_small(one.png),
        "said": [
            {"mark": mark, "said": said, "confidence": confidence, "right": said == one.true}
            for mark, said, confidence in zip(marks, one.said, one.confidence, strict=True)
        ],
    }
