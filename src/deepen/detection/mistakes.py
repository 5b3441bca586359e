"""The worst mistakes of a detector as pictures, for its report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from deepen.data.sources import Split
from deepen.evaluation.detection import WorstMistake
from deepen.visualization.boxes import BLUE, ORANGE, Mark, draw_marks

SHOWN_PX = 480


def draw_worst(
    worst: Sequence[WorstMistake], split: Split, indices: Sequence[int]
) -> list[dict[str, Any]]:
    """For `worst.json`: each mistake with a JPEG of its picture, what was said and what is true.

    Args:
        worst: of `DetectionScores`.
        split: what was scored.
        indices: places in it of the pictures that were scored.
    """
    return [
        each.model_dump() | {"jpeg": _jpeg(each, split, int(indices[each.place]))} for each in worst
    ]


def _jpeg(mistake: WorstMistake, split: Split, index: int) -> str:
    """Base64; the true box is blue and broken, what was said orange."""
    marks = []
    if mistake.true_box is not None:
        marks.append(Mark(mistake.true_box, "" if mistake.box else mistake.true or "", BLUE, True))
    if mistake.box is not None:
        marks.append(Mark(mistake.box, f"{mistake.predicted} {mistake.score:.2f}", ORANGE))
    file = io.BytesIO()
    draw_marks(split.picture(index, 3), marks, SHOWN_PX).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode("ascii")
