"""One line for what pydantic finds in a document, in the document's own words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from deepen.errors import first_problem


class Strict(BaseModel, extra="forbid"):
    pass


class Round(Strict):
    shape: Literal["round"] = "round"
    radius: float = Field(default=1.0, gt=0)


class Oblong(Strict):
    shape: Literal["oblong"] = "oblong"
    sides: tuple[float, float] = (1.0, 2.0)


class Plate(Strict):
    form: Annotated[Round | Oblong, Field(discriminator="shape")]
    holes: dict[str, Round] = Field(default_factory=dict)
    spare: list[Oblong] = Field(default_factory=list)
    twin: Round | None = None
    mass: int | float = 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"form": {"shape": "round", "radius": -1}},
         "form.radius: Input should be greater than 0, got -1"),
        ({"form": {"shape": "oblong", "sides": [1, "x"]}}, "form.sides.1: Input should be"),
        ({"form": {"shape": "oblong", "side": 1}}, "unknown key 'form.side'; nearest: form.sides"),
        ({"frm": {"shape": "round"}}, "unknown key 'frm'; nearest: form"),  # not: form is missing
        ({}, "form: Field required"),
        ({"form": {"shape": "round"}, "holes": {"left one": {"radios": 2}}},
         "unknown key 'holes.left one.radios'; nearest: holes.left one.radius"),
        ({"form": {"shape": "round"}, "spare": [{}, {"sides": 3}]}, "spare.1.sides: Input should"),
        ({"form": {"shape": "round"}, "twin": {"radius": "x"}}, "twin.radius: Input should be a"),
        ({"form": {"shape": "round"}, "mass": "heavy"}, "mass: Input should be a valid integer"),
        ([1, 2], "Input should be a valid dictionary or instance of Plate, got [1, 2]"),
    ],
)  # fmt: skip
def test_the_path_is_the_documents(fields: Any, words: str):
    with pytest.raises(ValidationError) as caught:
        Plate.model_validate(fields)
    assert first_problem(caught.value, Plate).startswith(words)


def test_what_was_given_is_cut_short():
    for given in (["x" * 50] * 1000, "many\nlines " * 1000):
        with pytest.raises(ValidationError) as caught:
            Round.model_validate({"radius": given})
        line = first_problem(caught.value, Round)
        assert "\n" not in line
        assert ", got " in line
        assert len(line) < 300
    with pytest.raises(ValidationError) as caught:
        Round.model_validate_json("{" * 5000)
    assert first_problem(caught.value, Round).startswith("Invalid JSON: ")
    assert len(first_problem(caught.value, Round)) < 300
