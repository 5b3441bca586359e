"""Writes docs/networks: a page a paper, from the networks themselves and the claims ledger.

    python docs/build.py            # writes the pages
    python docs/build.py --check    # exit 1 where a page is not what it would write

Text comes from each architecture file, counts from `deepen.analysis`, claims from the ledger; the
only thing said here is which block of which network is drawn.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path

from deepen.analysis.complexity import Layer, complexity
from deepen.analysis.subject import subject, takes_in_words
from deepen.claims.ledger import ledger
from deepen.claims.page import found, said
from deepen.models import get_architecture, list_models
from deepen.models.architecture import Architecture

PAGES = Path(__file__).parent / "networks"

# The block that a page draws: a network and the path of a module in it ("" for all of it).
BLOCKS = {
    "perceptron": ("mlp", ""),
    "lenet": ("lenet5", ""),
    "alexnet": ("alexnet", ""),
    "cuda_convnet": ("convnet4_relu", ""),
    "zfnet": ("zfnet", ""),
    "nin": ("nin_cifar", ""),
    "vgg": ("vgg16", ""),
    "googlenet": ("googlenet", "inception3a"),
    "inception": ("inception_v3", "Mixed_5b"),
    "inception_v4": ("inception_v4", "features.6"),
    "inception_resnet": ("inception_resnet_v2", ""),
    "resnet": ("resnet50", "layer1.0"),
    "resnet_cifar": ("resnet20", "layer2.0"),
    "preresnet": ("preresnet164", "stages.0.1"),
    "resnext": ("resnext50_32x4d", "layer1.0"),
    "wide_resnet": ("wide_resnet28_10", ""),
    "densenet": ("densenet121", "features.denseblock1.denselayer1"),
    "highway": ("highway19", ""),
    "non_local": ("resnet50_nonlocal", ""),
    "deformable": ("resnet50_deformable", "layer4.1"),
    "lstm": ("lstm", ""),
}
ROWS_DRAWN = 40


def papers() -> dict[str, list[Architecture]]:
    """Architectures by the file that they are written in, in the order of the registry."""
    found: dict[str, list[Architecture]] = {}
    for name in list_models():
        architecture = get_architecture(name)
        found.setdefault(architecture.build.__module__.rpartition(".")[2], []).append(architecture)
    return found


def page(paper: str, architectures: list[Architecture]) -> str:
    module = import_module(f"deepen.models.{paper}")
    title, _, about = inspect.getdoc(module).partition("\n")  # type: ignore[union-attr]
    first = architectures[0]
    parts = [
        f"# {title.rstrip('.')}",
        about.strip(),
        "## Variants",
        table(
            ("name", "paper", "parameters", "MACs", "input"),
            [variant(architecture) for architecture in architectures],
        ),
        "Parameters are those of the whole network, MACs (1 MAC = 2 FLOPs, no biases) those of one "
        f"picture in evaluation. `{first.name}` takes {takes_in_words(first.takes)}.",
        "## What a block does",
        drawing(*BLOCKS[paper]),
        "## Where each detail comes from",
        table(("field", "", "source", "networks"), details(architectures)),
        "## Train it",
        f"    {training(first)}",
        f"Code: [{paper}.py](../../src/deepen/models/{paper}.py).",
    ]
    rows = claims({architecture.name for architecture in architectures})
    if rows:
        parts += ["## Claims", table(("claim", "stated", "ours", "verdict", "source"), rows)]
    return "\n\n".join(parts) + "\n"


def variant(architecture: Architecture) -> tuple[str, ...]:
    counted = subject(architecture.name)
    costs = complexity(counted.module, counted.input_shape)
    size = "x".join(map(str, counted.input_shape))
    name, paper = f"`{architecture.name}`", architecture.paper
    return name, paper, f"{costs.parameters:,}", f"{costs.macs:,}", size


def drawing(name: str, path: str) -> str:
    """The rows of a block, in the order in which they run, with what they hand on."""
    counted = subject(name)
    layers = complexity(counted.module, counted.input_shape).layers
    rows = [layer for layer in layers if not path or within(layer, path)]
    shown = rows[:ROWS_DRAWN]
    parts = [row.name.removeprefix(path).lstrip(".") or "(itself)" for row in shown]
    widths = [max(map(len, parts)), max(len(row.kind) for row in shown)]
    lines = [
        f"    {part:{widths[0]}}  {row.kind:{widths[1]}}  {shape(row):>12}  {row.parameters:>11,}"
        for part, row in zip(parts, shown, strict=True)
    ]
    where = f"`{path}` of `{name}`" if path else f"`{name}`"
    more = f"\n\n... and {len(rows) - len(shown)} more rows." if len(rows) > len(shown) else ""
    head = f"{where}, layer by layer: what it is, what it hands on, its parameters."
    return head + "\n\n" + "\n".join(lines) + more


def within(layer: Layer, path: str) -> bool:
    return layer.name == path or layer.name.startswith(f"{path}.")


def shape(layer: Layer) -> str:
    return "x".join(map(str, layer.output_shape[1:]))


def details(architectures: list[Architecture]) -> list[tuple[str, ...]]:
    """Each detail once, with the networks that declare it."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    for architecture in architectures:
        for detail in architecture.details:
            seen.setdefault((detail.field, detail.kind, detail.source), []).append(
                architecture.name
            )
    every = len(architectures)
    return [
        (*key, "all" if len(names) == every else ", ".join(f"`{name}`" for name in names))
        for key, names in seen.items()
    ]


def training(architecture: Architecture) -> str:
    takes, name = architecture.takes, architecture.name
    if name == "lenet5":
        return "deepen train mnist --data-dir DATA --model lenet5"
    if takes.size_px == 32 and takes.channels == 3:
        return f"deepen train cifar10 --data-dir DATA --model {name} --recipe resnet-cifar"
    if takes.channels == 1:
        return f"deepen train mnist --data-dir DATA --model {name} --recipe quick"
    return f"deepen train PHOTOS --model {name} --recipe quick --size {takes.size_px}"


def claims(names: set[str]) -> list[tuple[str, ...]]:
    return [
        (f"{c.of}: {c.quantity}", f"{c.stated} {c.unit}".strip(), found(c), said(c), c.source)
        for c in ledger().claims
        if names & set(c.networks)
    ]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])


def main() -> int:
    written = {f"{paper}.md": page(paper, found) for paper, found in papers().items()}
    titles = {name: text.partition("\n")[0].removeprefix("# ") for name, text in written.items()}
    index = "\n".join(f"- [{title}]({name})" for name, title in titles.items())
    written["README.md"] = f"# Networks\n\nWritten by `python docs/build.py`.\n\n{index}\n"
    if "--check" in sys.argv:
        stale = [n for n, text in written.items() if not is_(PAGES / n, text)]
        stale += [p.name for p in PAGES.glob("*.md") if p.name not in written]
        print("\n".join(f"stale: docs/networks/{name}" for name in stale) or "all pages are fresh")
        return bool(stale)
    PAGES.mkdir(exist_ok=True)
    for name, text in written.items():
        (PAGES / name).write_text(text, "utf-8")
    return 0


def is_(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
