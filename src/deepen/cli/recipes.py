"""deepen recipes: how networks are trained, each with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepen.cli.console import print_columns, print_json, say_text
from deepen.files import read_text

EXAMPLE = "Example: deepen recipes   |   deepen recipes vgg-staged > mine.yaml"


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, with the section behind each line.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the recipes that ship with deepen and where they come from, or print one."""
    from deepen.training.recipe import list_recipes, load_recipe, recipe_source, recipe_text

    if name is not None:
        recipe = load_recipe(name)  # refuses what is no recipe
        if as_json:
            print_json(recipe.model_dump(mode="json", exclude_none=True))
        else:
            say_text(recipe_text(name) if name in list_recipes() else read_text(Path(name)))
        return
    rows = [(each, *recipe_source(each)) for each in list_recipes()]
    if as_json:
        print_json([{"name": each, "source": source, "for": use} for each, source, use in rows])
        return
    print_columns(("recipe", "source"), [row[:2] for row in rows], words=2)
