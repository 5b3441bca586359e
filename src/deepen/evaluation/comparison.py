"""Several networks on the same pictures: what each is worth, and where they say unlike things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepen.display import Part, Table, displayed
from deepen.evaluation.calibration import Bin
from deepen.evaluation.ensembles import Ensemble
from deepen.evaluation.metrics import Scores
from deepen.evaluation.paired import Paired


class Disagreement(NamedTuple):
    """A picture that not all networks call the same.

    Attributes:
        key: its name.
        true: its class.
        said: what each network says.
        confidence: of each, in 0..1.
        png: the picture made small, base64; None where it was not asked for.
    """

    key: str
    true: str
    said: list[str]
    confidence: list[float]
    png: str | None = None


@displayed
class Comparison(NamedTuple):
    """Several networks on the same pictures.

    Attributes:
        names: of the weights.
        scores: of each.
        pairs: of each two (first, second), how they differ.
        reliability: of each, its diagram.
        ensemble: of all of them, where it was asked for.
        together: its scores.
        chosen: of the members, those that a greedy choice on validation pictures keeps, best first;
            empty where there are none.
        chosen_scores: of these together.
        disagreements: pictures that not all of them call the same, the most confident first.
    """

    names: list[str]
    scores: list[Scores]
    pairs: dict[tuple[int, int], Paired]
    reliability: list[list[Bin]]
    ensemble: Ensemble | None
    together: Scores | None
    chosen: list[int]
    chosen_scores: Scores | None
    disagreements: list[Disagreement]

    def display(self) -> list[Part]:
        """What it shows of itself: each, all together, and how each two differ."""
        rows = [*zip(self.names, self.scores, strict=True)]
        rows += [("all together", self.together)] if self.together is not None else []
        cells = []
        for name, scores in rows:
            _, low, high, n = scores.interval
            reach = f"{100 * low:.1f} to {100 * high:.1f}%"
            shares = f"{100 * scores.top1:.2f}%", reach, f"{n:,}", f"{scores.loss:.4f}"
            cells.append((name, *shares))
        header = ("weights", "accuracy", "95% interval", "pictures", "loss")
        return [
            self.scores[0].protocol,
            Table(header, cells),
            *(
                f"{self.names[j]} against {self.names[i]}: {pair.in_words}"
                for (i, j), pair in self.pairs.items()
            ),
            f"they disagree on {len(self.disagreements):,} pictures",
        ]


def disagreements(
    logits: Sequence[Tensor], labels: Tensor, keys: tuple[str, ...], classes: tuple[str, ...]
) -> list[Disagreement]:
    """Pictures that not all networks call the same, the most confident first.

    That is by the surest network that contradicts the surest of all.

    Args:
        logits: of each network (N, K), divided by its temperature.
        labels: (N,), int64.
        keys: names of the N pictures.
        classes: K names.
    """
    shares = [each.double().softmax(1).max(1) for each in logits]
    confidence = torch.stack([share for share, _ in shares], 1)
    said = torch.stack([place for _, place in shares], 1)
    surest = said.gather(1, confidence.argmax(1, keepdim=True))
    against = torch.where(said == surest, -1.0, confidence).amax(1)
    order = against.argsort(descending=True, stable=True)
    return [
        Disagreement(
            keys[i],
            classes[int(labels[i])],
            [classes[c] for c in said[i].tolist()],
            confidence[i].tolist(),
        )
        for i in order[against[order] >= 0].tolist()
    ]
