"""deepen evaluate: what weights files are worth on labelled pictures."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepen.cli.console import print_columns, print_csv, print_json, say
from deepen.cli.options import JSON, Words, asks
from deepen.errors import InputError
from deepen.training.request import Assessing

if TYPE_CHECKING:
    from deepen.assessment import Robustness
    from deepen.evaluation.comparison import Comparison
    from deepen.evaluation.metrics import Scores
    from deepen.evaluation.tags import TagScores

EXAMPLE = (
    "Example: deepen evaluate runs/PHOTOS-resnet20-1/best.safetensors PHOTOS --split val   |   "
    "deepen evaluate A.safetensors B.safetensors --data PHOTOS --crops 10 --ensemble"
)
SHOWN = 20  # disagreements

FILES = Annotated[
    list[str],
    typer.Argument(
        metavar="WEIGHTS... [DATA]",
        help="Weights files; after them, or with --data, labelled pictures: by default those that "
        "they were trained on.",
    ),
]
DATA = Annotated[str | None, typer.Option(help="Labelled pictures.")]


@asks(Assessing, weights=FILES, data=DATA)
def evaluate(
    words: Words,
    as_json: JSON = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the classes as CSV.")] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Combine the networks, too.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write the comparison as a page, pictures and all."),
    ] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also on 15 common corruptions of the pictures.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Weights that errors under corruptions are put beside.")
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(min=1, help="Pictures that are corrupted at most.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Fit the temperature on validation pictures; the file keeps it."
        ),
    ] = False,
) -> None:
    """Score weights: accuracy with its interval, each class, confusion; several beside each other.

    Of several files each two are compared by the exact test of McNemar on the same pictures.
    """
    from deepen import assessment  # imports torch

    files, words["data"] = _sorted_out(words["weights"], words.get("data"))
    asked = Assessing(**{**words, "weights": files[0]})
    one = [flag for flag, said in (("corruptions", corruptions), ("calibrate", calibrate)) if said]
    if len(files) > 1 and (one or as_csv):
        raise InputError(f"--{one[0] if one else 'csv'}: goes with one weights file")
    if ensemble and len(files) == 1:
        raise InputError("--ensemble: goes with two weights files or more")
    if page is not None:
        _check_page(page, len(files))
    if (baseline or pictures) and not corruptions:
        raise InputError(f"--{'baseline' if baseline else 'pictures'}: goes with --corruptions")
    if len(files) > 1:
        from deepen.report.comparison import MAX_PICTURES, write_comparison

        shown = MAX_PICTURES if page else 0
        compared = assessment.compare_weights(files, asked, ensemble=ensemble, pictures=shown)
        print_json(_document(compared)) if as_json else _print_comparison(compared)
        if page is not None:
            write_comparison(page, compared)
            asked.reporter.message(f"page {page}")
        return
    if calibrate:
        temperature = assessment.calibrate(asked)
        asked.reporter.message(f"temperature {temperature:.3f}, kept in {files[0]}")
    if corruptions:
        robust = assessment.corrupted(asked, baseline=baseline, most=pictures)
        print_json(_robust_document(robust)) if as_json else _print_robustness(robust)
        return
    _tell(assessment.evaluate(**_words(asked)), as_json, as_csv)


def _check_page(page: Path, files: int) -> None:
    """Before anything is looked at."""
    if files == 1:
        raise InputError("--page: goes with two weights files or more; a run has its report.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--page {page}: the page is an .html")
    if not page.absolute().parent.is_dir():
        raise InputError(f"--page {page}: no such folder {page.parent}")


def _words(asked: Assessing) -> dict[str, Any]:
    return {each.name: getattr(asked, each.name) for each in fields(asked)}


def _sorted_out(words: list[str], data: str | None) -> tuple[list[str], str | None]:
    """Weights files, and the data, which may stand last."""
    if data is None and len(words) > 1 and not _is_weights(words[-1]):
        return words[:-1], words[-1]
    return words, data


def _is_weights(word: str) -> bool:
    path = Path(word)
    return path.suffix == ".safetensors" or (path / "best.safetensors").is_file() or ":" in word


def _tell(scores: Scores | TagScores, as_json: bool, as_csv: bool) -> None:
    from deepen.evaluation.tags import TagScores

    if as_json:
        print_json(scores.model_dump())
    elif as_csv:
        names = [*type(scores.per_class[0]).model_fields]
        header = ["class" if name == "name" else name for name in names]
        print_csv(header, ([*c.model_dump().values()] for c in scores.per_class))
    elif isinstance(scores, TagScores):
        _print_tags(scores)
    else:
        _print(scores)


def _print_tags(scores: TagScores) -> None:
    """Of pictures that may have several classes."""
    say(scores.protocol)
    if scores.num_skipped:
        say(f"{scores.num_skipped} pictures could not be decoded and were left out")
    say(scores.headline)
    rows = []
    for row in scores.per_class:
        values = (row.average_precision, row.threshold, row.precision, row.recall, row.f1)
        shares = ["-" if v is None else f"{v:.3f}" for v in values]
        rows.append((row.name, *shares, str(row.support)))
    say()
    columns = ("class", "average precision", "threshold", "precision", "recall", "F1", "pictures")
    print_columns(columns, rows)


def _print(scores: Scores) -> None:
    say(scores.protocol)
    if scores.num_skipped:
        say(f"{scores.num_skipped} pictures could not be decoded and were left out")
    say(f"accuracy {scores.interval.in_words}")
    top5 = "" if scores.top5 is None else f"top-5 accuracy {100 * scores.top5:.2f}%  "
    say(f"{top5}loss {scores.loss:.4f}  calibration error {100 * scores.calibration_error:.2f}%")
    if scores.balanced_accuracy is not None and scores.macro_f1 is not None:
        say(
            f"balanced accuracy {100 * scores.balanced_accuracy:.2f}%  "
            f"macro F1 {100 * scores.macro_f1:.2f}%"
        )
    if scores.hierarchical_error is not None:
        say(f"hierarchical error {100 * scores.hierarchical_error:.2f}% of the tree's height")
    rows = []
    for row in scores.per_class:
        shares = ["-" if v is None else f"{v:.3f}" for v in (row.precision, row.recall, row.f1)]
        reach = row.recall_interval
        between = "-" if reach is None else f"{reach[0]:.3f} to {reach[1]:.3f}"
        rows.append((row.name, *shares[:2], between, shares[2], str(row.support)))
    say()
    columns = ("class", "precision", "recall", "95% interval", "F1", "pictures")
    print_columns(columns, rows)
    if len(scores.confusion) <= 20:
        names = [row.name for row in scores.per_class]
        counts = [
            (name, *map(str, cells)) for name, cells in zip(names, scores.confusion, strict=True)
        ]
        say()
        print_columns(("true \\ predicted", *names), counts)


def _print_comparison(found: Comparison) -> None:
    say(found.scores[0].protocol)
    rows = [_row(name, scores) for name, scores in zip(found.names, found.scores, strict=True)]
    if found.together is not None:
        rows.append(_row("all together", found.together))
    if found.chosen_scores is not None:
        chosen = " + ".join(found.names[i] for i in found.chosen)
        rows.append(_row(f"chosen on validation pictures: {chosen}", found.chosen_scores))
    print_columns(("weights", "accuracy", "95% interval", "pictures", "loss"), rows)
    say()
    for (i, j), pair in found.pairs.items():
        say(f"{found.names[j]} against {found.names[i]}: {pair.in_words}")
    if found.ensemble is not None:
        say()
        lost = [
            f"{100 * (found.together.top1 - without):+.2f}" if found.together else "-"
            for without in found.ensemble.without
        ]
        correlation = [
            " ".join(f"{value:.2f}" for value in row) for row in found.ensemble.correlation.tolist()
        ]
        print_columns(
            ("member", "its part in points", "correlation of mistakes with each"),
            zip(found.names, lost, correlation, strict=True),
        )
    say()
    say(f"they disagree on {len(found.disagreements):,} pictures")
    shown = [(one.key, one.true, ", ".join(one.said)) for one in found.disagreements[:SHOWN]]
    if shown:
        print_columns(("picture", "true", "said"), shown)


def _row(name: str, scores: Scores) -> tuple[str, ...]:
    _, low, high, n = scores.interval
    reach = f"{100 * low:.1f} to {100 * high:.1f}%"
    return name, f"{100 * scores.top1:.2f}%", reach, f"{n:,}", f"{scores.loss:.4f}"


def _document(found: Comparison) -> dict[str, Any]:
    """For --json."""
    pairs = [
        {"first": found.names[i], "second": found.names[j], **pair._asdict(), "shown": pair.shown}
        for (i, j), pair in found.pairs.items()
    ]
    ensemble = None
    if found.ensemble is not None and found.together is not None:
        ensemble = {
            "scores": found.together.model_dump(),
            "without": dict(zip(found.names, found.ensemble.without, strict=True)),
            "correlation": found.ensemble.correlation.tolist(),
            "chosen": [found.names[i] for i in found.chosen],
            "chosen_scores": found.chosen_scores and found.chosen_scores.model_dump(),
        }
    return {
        "weights": found.names,
        "scores": [scores.model_dump() for scores in found.scores],
        "pairs": pairs,
        "ensemble": ensemble,
        "disagreements": [
            {"picture": key, "true": true, "said": said, "confidence": confidence}
            for key, true, said, confidence, _ in found.disagreements
        ],
    }


def _print_robustness(found: Robustness) -> None:
    say(found.clean.protocol)
    say(f"accuracy {found.clean.interval.in_words}")
    relative = found.relative
    say()
    columns = ("corruption", "1", "2", "3", "4", "5", "mean error", "of the baseline's")
    rows = []
    for kind, errors in found.errors.items():
        cells = [f"{100 * error:.1f}%" for error in (*errors, sum(errors) / len(errors))]
        rows.append((kind, *cells, "-" if relative is None else f"{relative[kind]:.2f}"))
    print_columns(
        columns if relative else columns[:-1], rows if relative else [r[:-1] for r in rows]
    )
    say()
    say(f"mean error over 15 corruptions at 5 severities {100 * found.mean_error:.2f}%")
    if relative is not None:
        share = sum(relative.values()) / len(relative)
        say(f"mean of the kinds' shares of the baseline's errors {share:.3f}")


def _robust_document(found: Robustness) -> dict[str, Any]:
    """For --json."""
    return {
        "clean": found.clean.model_dump(),
        "errors": found.errors,
        "mean_error": found.mean_error,
        "baseline": found.baseline,
        "relative": found.relative,
    }
