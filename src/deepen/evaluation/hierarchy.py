"""How far a mistake is from the truth, in a tree of classes.

The hierarchical error of the ImageNet challenge of 2010 (Deng, Berg, Li & Fei-Fei 2010, "What does
classifying more than 10,000 image categories tell us?", section 5): of the true and the predicted
class the height of the lowest ancestor that they share, a dog taken for another dog costing less
than one taken for a lorry. WordNet's tree is one such; a table of (class, parent) gives any.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from deepen.errors import InputError


class Hierarchy(NamedTuple):
    """A tree of classes.

    Attributes:
        classes: the leaves, in the order of the logits.
        costs: (K, K) int64: height of the lowest common ancestor, 0 of a class with itself.
        height: of the root.
    """

    classes: tuple[str, ...]
    costs: Tensor
    height: int


def read_hierarchy(path: Path, classes: Sequence[str]) -> Hierarchy:
    """A tree from a CSV file of two columns: a class or a group, and its parent.

    A first line `child,parent` (or any two words that no other line has) is taken for a header.

    Raises:
        InputError: it cannot be read; a class is missing or stands twice; there is no one root, or
            a circle.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    parents: dict[str, str] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and [c.lower() for c in cells] == ["child", "parent"]):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(f"{path}: line {number} is no pair of a class and its parent")
        child, parent = cells
        if parents.setdefault(child, parent) != parent:
            raise InputError(f"{path}: line {number}: {child} has two parents")
    return hierarchy(parents, classes, str(path))


def hierarchy(parents: dict[str, str], classes: Sequence[str], source: str) -> Hierarchy:
    """A tree from the parent of each class and group; the root has none."""
    paths = {name: _path_to_root(name, parents, source) for name in classes}
    roots = {path[-1] for path in paths.values()}
    if len(roots) > 1:
        first, second = sorted(roots)[:2]
        raise InputError(f"{source}: has no one root, but {first} and {second}")
    heights: dict[str, int] = {}
    for path in paths.values():
        for height, name in enumerate(path):
            heights[name] = max(height, heights.get(name, 0))
    costs = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for i, one in enumerate(classes):
        above = set(paths[one])
        for j, other in enumerate(classes):
            if i != j:
                costs[i, j] = heights[next(name for name in paths[other] if name in above)]
    return Hierarchy(tuple(classes), costs, heights[next(iter(roots))])


def _path_to_root(name: str, parents: dict[str, str], source: str) -> list[str]:
    if name not in parents:
        raise InputError(f"{source}: has no parent of the class {name}")
    path = [name]
    while path[-1] in parents:
        path.append(parents[path[-1]])
        if path[-1] in path[:-1]:
            raise InputError(f"{source}: {path[-1]} is its own ancestor")
    return path


def hierarchical_error(predicted: Tensor, labels: Tensor, tree: Hierarchy) -> float:
    """The mean cost over the pictures, as a share of the root's height: in 0..1."""
    return tree.costs[labels, predicted].double().mean().item() / tree.height
