"""Results as a table, a figure and a page of their own; made of the results alone."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deepen import charts
from deepen.data.names import shown
from deepen.files import write_whole
from deepen.studies.study import Published, Results, Study

COLORS = ("#d9480f", "#1c7ed6", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285", "#e8890c", "#5c5f66")
STROKES = ("-", "--", ":")  # once the colors are used up
INK = "#868e96"  # of axes and words: legible on white and on black


def write_pages(study: Study, results: Results, folder: Path) -> tuple[Path, ...]:
    """Write NAME.md with its figure NAME.svg, and report.html, which needs no other file.

    What answers a claim of the ledger is written as CLAIM.json, as `claims/measured/` has it.

    Raises:
        WorkError: one could not be written.
    """
    figure = draw(study, results)
    written = {
        **{f"{name}.json": text for name, text in ledger_entries(study, results).items()},
        f"{study.name}.svg": figure,
        f"{study.name}.md": markdown(study, results),
        "report.html": html(study, results, figure),
    }
    for name, text in written.items():
        write_whole(folder / name, text)
    return tuple(folder / name for name in written)


def ledger_entries(study: Study, results: Results) -> dict[str, str]:
    """What answers claims of the ledger, by the claim: its run, seeds, protocol and data; JSON."""
    about = results.about
    setting = study.settings.get(results.setting)
    departures = setting.departures if setting else ()
    return {
        c.claim: json.dumps(
            {
                "network": "; ".join(results.arms()),
                "quantity": c.quantity,
                "data": about["data"],
                "fingerprint": about["fingerprint"],
                "command": about["command"],
                "protocol": f"{c.verdict} here: {c.found}. " + "; ".join(departures),
                "settings": study.held,
                "machine": f"{about['machine']['cpu']}, {about['machine']['device']}, "
                f"{about['threads']} thread(s) a trial",
                "torch": about["machine"]["torch"],
                "date": about["date"],
                "runs": [{"seed": seed, "value": v} for seed, v in c.figures.items()],
            },
            indent=1,
        )
        + "\n"
        for c in results.conclusions
        if c.claim and c.figures
    }


def table(study: Study, results: Results) -> list[tuple[str, ...]]:
    """Header and a row for each arm: mean ± standard deviation over seeds, beside the paper's."""
    printed = {(p.arm, p.measure): p.value for p in _shown(study, results)}
    columns: list[tuple[str, ...]] = []
    for measure in study.measures:
        cells = (results.cell(arm, measure) for arm in results.arms())
        of = f" of {n:,}" if (n := results.pictures(measure)) else ""
        columns.append((f"{measure.label}{of}", *cells))
        if any(p.measure == measure.name for p in _shown(study, results)):
            paper = (printed.get((arm, measure.name)) for arm in results.arms())
            columns.append(("paper", *("" if v is None else f"{v:g}" for v in paper)))
    seeds = ("seeds", *(_seeds(results, arm) for arm in results.arms()))
    return list(zip(("", *results.arms()), *columns, seeds, strict=True))


def legend(study: Study, results: Results) -> str:
    """What the table's cells hold."""
    words = "Mean ± standard deviation over the seeds"
    if not any(map(results.pictures, study.measures)):
        return f"{words}."
    return (
        f"{words}; in brackets where the mean over all seeds and pictures lies with 95% "
        "confidence, and the deviation that so many pictures alone would bring about."
    )


def beliefs(study: Study, results: Results) -> list[dict[str, Any]]:
    """Of each arm and each share of pictures how far it can be believed; for --json."""
    return [
        {"arm": arm, "measure": measure.name, "of": measure.of, **found._asdict()}
        for arm in results.arms()
        for measure in study.measures
        if (found := results.belief(arm, measure)) is not None
    ]


def _seeds(results: Results, arm: str) -> str:
    trials = [trial for trial in results.trials if trial.arm == arm]
    failed = sum(trial.failed is not None for trial in trials)
    return f"{len(trials)}" + (f", {failed} failed" if failed else "")


def _shown(study: Study, results: Results) -> list[Published]:
    """What the paper prints of these arms at this setting: another setting is another figure."""
    if results.setting != "full":
        return []
    return [p for p in study.published if p.arm in results.arms()]


def markdown(study: Study, results: Results) -> str:
    """The page for docs/: what was asked, done, found, and how to do it again."""
    header, *rows = table(study, results)
    setting = study.settings.get(results.setting)
    lines = [
        f"# {study.title}",
        "",
        f"{study.source}. {study.question}",
        "",
        f"* Varies: {study.varies}.",
        f"* Held: {study.held}.",
        *(f"* Departs from the paper: {line}." for line in (setting.departures if setting else ())),
        "",
        f"    {results.about['command']}",
        "",
        "| " + " | ".join(header) + " |",
        "| --- " * len(header) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        legend(study, results),
        "",
    ]
    if study.curves or study.bars:
        lines += [f"![{study.title}]({study.name}.svg)", ""]
    if results.conclusions:
        lines += ["| statement | source | printed | found here | verdict |", "| --- " * 5 + "|"]
        for c in results.conclusions:
            cells = (c.statement, c.source, c.printed or "–", c.found, f"**{c.verdict}**")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Every trial:", "", *_every_trial(study, results), "", _provenance(results), ""]
    return "\n".join(lines)


def _every_trial(study: Study, results: Results) -> list[str]:
    lines = [
        "| trial | seed | " + " | ".join(m.label for m in study.measures) + " | seconds |",
        "| --- " * (len(study.measures) + 3) + "|",
    ]
    for t in results.trials:
        cells = [
            f"{t.measures[m.name]:.{m.decimals + 1}f}" if m.name in t.measures else "–"
            for m in study.measures
        ]
        name = f"{t.arm} (failed: {t.failed})" if t.failed else t.arm
        lines.append(f"| {name} | {t.seed} | " + " | ".join(cells) + f" | {t.seconds:.0f} |")
    return lines


def _provenance(results: Results) -> str:
    about = results.about
    machine = about["machine"]
    return (
        f"Data: {about['data']}, {about['train']:,} training and {about['test']:,} test pictures, "
        f"fingerprint `{about['fingerprint'][:16]}`. Recipe `{about['recipe']}` with "
        f"{', '.join(f'`{k}: {v}`' for k, v in about['changes'].items()) or 'no change'}. "
        f"{machine['cpu']}, {about['threads']} thread(s) a trial, {machine['device']}, "
        f"torch {machine['torch']}, deepen {machine['deepen']}, {about['date']}."
    )


def html(study: Study, results: Results, figure: str) -> str:
    """One file, readable at any width, light or dark."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True
    )
    source = resources.files("deepen.studies").joinpath("study.html.j2").read_text("utf-8")
    header, *rows = table(study, results)
    setting = study.settings.get(results.setting)
    return environment.from_string(source).render(
        study=study,
        results=results,
        departures=[line.replace("`", "") for line in (setting.departures if setting else ())],
        header=header,
        rows=rows,
        legend=legend(study, results),
        figure=Markup(figure[figure.index("<svg") :]),
        provenance=_provenance(results).replace("`", ""),
    )


def draw(study: Study, results: Results) -> str:
    """Curves, the mean over the seeds within the range of all, and the profiles of layers; SVG."""
    from matplotlib.figure import Figure  # takes a second

    profiles = list(dict.fromkeys(name for t in results.trials for name in t.profiles))
    panels = [
        *([partial(_draw_bars, study=study, results=results)] if study.bars else []),
        *(partial(_draw_curves, study=study, results=results, panel=name) for name in study.curves),
        *(partial(_draw_profiles, results=results, panel=name) for name in profiles),
    ]
    rows = max(1, (len(panels) + 1) // 2)
    height = max(3.4, 0.26 * len(results.arms())) if study.bars else 3.4
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with charts.plain(study.name, {**dict.fromkeys(inked, INK), "font.size": 9}):
        figure = Figure(figsize=(9, height * rows), layout="constrained")
        grid = figure.subplots(rows, 2 if len(panels) > 1 else 1, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            axes.grid(color=INK, alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            panel(axes)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        legends = (axes.get_legend_handles_labels() for axes in grid)
        handles, labels = max(legends, key=lambda legend: len(legend[1]))
        if handles:
            figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
        text = charts.svg(figure)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _draw_bars(axes, study: Study, results: Results) -> None:
    """A bar for each arm, the mean over the seeds, and every seed as a point."""
    measure = next(m for m in study.measures if m.name == study.bars)
    arms = [arm for arm in results.arms() if results.of(arm, study.bars)]
    for place, (arm, color) in enumerate(zip(arms, cycle(COLORS), strict=False)):
        values = results.of(arm, study.bars)
        axes.barh(place, mean(values), color=color, alpha=0.75, height=0.7)
        axes.plot(values, [place] * len(values), ".", color=INK, markersize=4)
        text, end = f"{mean(values):.{measure.decimals}f}", (max(values), place)
        offset = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(text, end, color=INK, **offset)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    axes.set_xlabel(measure.label)


def _draw_curves(axes, study: Study, results: Results, panel: str) -> None:
    for arm, color, stroke in _styles(results):
        curves = [t.curves[panel] for t in results.trials if t.arm == arm and panel in t.curves]
        if not curves:
            continue
        points = list(zip(*(curve[: min(map(len, curves))] for curve in curves), strict=True))
        steps = [point[0][0] for point in points]
        values = [[y for _, y in point] for point in points]
        axes.plot(steps, list(map(mean, values)), stroke, color=color, label=arm, linewidth=1.6)
        axes.fill_between(
            steps, list(map(min, values)), list(map(max, values)), color=color, alpha=0.18, lw=0
        )
        for p in _shown(study, results):
            if (p.arm, p.measure) == (arm, panel):
                axes.axhline(p.value, color=color, linewidth=0.8, linestyle=":")
    axes.set_xlabel("steps")
    axes.set_ylabel(study.curves[panel])


def _styles(results: Results) -> list[tuple[str, str, str]]:
    """Arm, color and stroke of each line."""
    styles = cycle([(color, stroke) for stroke in STROKES for color in COLORS])
    return [(arm, *style) for arm, style in zip(results.arms(), styles, strict=False)]


def _draw_profiles(axes, results: Results, panel: str) -> None:
    for arm, color, stroke in _styles(results):
        found = [t.profiles[panel] for t in results.trials if t.arm == arm and panel in t.profiles]
        if found:
            layers = [mean(values) for values in zip(*found, strict=True)]
            depth = [i / max(1, len(layers) - 1) for i in range(len(layers))]
            axes.plot(depth, layers, stroke, color=color, label=arm, linewidth=1.4)
    if not panel.endswith("%"):  # norms span powers of ten
        axes.set_yscale("log")
    axes.set_xlabel("layer, from the first (0) to the last (1)")
    axes.set_ylabel(panel)
