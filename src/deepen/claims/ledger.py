"""Reading `claims.toml`: what a claim must say of itself, checked.

The file holds tables of claims with a common source. What all claims of a table share stands once
above them, and `{network}`, `{layer}` and `{stated}` in it are each claim's own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deepen.claims.formula import calls
from deepen.claims.printed import AGREES, Relation
from deepen.errors import InputError, first_problem, unknown

Kind = Literal[
    "parameters",  # how many, of a network or a layer
    "multiply-accumulates",
    "shape",  # of maps, kernels, tables
    "layers",  # which, in which order, how many
    "depth",
    "memory",  # values, bytes, units
    "connections",
    "receptive field",
    "ratio",
    "arithmetic",  # a sum that can be done without a network
    "setting",  # of training or of a layer: compared with the network or with the paper's words
    "accuracy",
]
Verdict = Literal["agrees", "differs", "needs data", "measured"]

# Quantities of a table of numbers, not of a network.
OF_TABLES = frozenset(
    {"bed_of_nails", "convolution_matrix", "max_pool_gradient", "nearest", "rotated", "values_back"}
)
_WAYS = ("measure", "needs", "run")
Words = Annotated[
    tuple[str, ...], BeforeValidator(lambda words: (words,) if isinstance(words, str) else words)
]


class Block(BaseModel):
    """A part of the ledger: nothing but its own keys, unchangeable once read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(Block):
    """A number that somebody printed.

    Attributes:
        id: of this claim, never given twice.
        source: paper and table or section, or the lecture.
        of: what is spoken of, "ResNet-50".
        quantity: what is said of it, "multiply-accumulates".
        kind: one of a few, for the summary.
        stated: as printed.
        unit: of the stated figure.
        network: by its name in deepen, where the formula does not name it.
        lectures: places in the lectures ("003:87,135", file and lines) that state it, with their
            words, one string or more, spaces aside; "*" stands for all of the line, "{stated}"
            for what is stated.
        measure: the formula that checks it (`deepen.claims.formula`).
        needs: the command that would settle it, where that takes data or days.
        run: the measured result that answers it, a file of `measured/`.
        expect: how it comes out: an answer of `printed.Relation`, "needs data" or "measured".
        counted: what the formula comes to; left out where that is what is stated.
        reason: why it differs, or what else must be known.
        kilo: what K stands for in what is stated.
    """

    id: str = Field(pattern=r"^[a-z0-9.-]+$")
    source: str = Field(min_length=1)
    of: str = Field(min_length=1)
    quantity: str = Field(min_length=1)
    kind: Kind
    stated: str = Field(min_length=1)
    unit: str = ""
    network: str = ""
    lectures: dict[str, Words] = {}
    measure: str = ""
    needs: str = ""
    run: str = ""
    expect: Relation | Literal["needs data", "measured"]
    counted: str = ""
    reason: str = ""
    kilo: int = 1000

    @model_validator(mode="after")
    def _hangs_together(self) -> Claim:
        ways = [way for way in _WAYS if getattr(self, way)]
        answers = {"needs": "needs data", "run": "measured"}
        if len(ways) != 1:
            raise ValueError("give one of measure, needs and run")
        if self.expect != answers.get(ways[0], self.expect) or (
            ways == ["measure"] and self.expect in answers.values()
        ):
            raise ValueError(f"{ways[0]} cannot come out as {self.expect!r}")
        if bool(self.counted) != (ways == ["measure"] and self.expect != "exact"):
            raise ValueError("give counted where a formula gives another figure, only there")
        if self.expect == "differs" and not self.reason:
            raise ValueError("a claim that differs says why, or that nobody knows")
        if self.kind == "accuracy" and self.expect in AGREES:
            raise ValueError("an accuracy is measured or needs data, a count cannot confirm it")
        self.networks  # noqa: B018  reads the formula
        return self

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that it is about."""
        named = [self.network] if self.network else []
        named += [g[0] for name, g in calls(self.measure or "0") if g and name not in OF_TABLES]
        return tuple(dict.fromkeys(str(name) for name in named))

    @property
    def verdict(self) -> Verdict:
        """What is expected of it, in one word or two."""
        return "agrees" if self.expect in AGREES else self.expect  # type: ignore[return-value]


class NotClaimed(Block):
    """Numbers of the lectures that are no claims.

    Attributes:
        at: places, "003:25,27-29 004:7".
        words: what stands there, as a place of a claim has it; "*" for all of the line.
        why: the reason.
    """

    at: str = Field(pattern=r"^\d{3}:[\d,-]+( \d{3}:[\d,-]+)*$")
    words: Words = ("*",)
    why: str = Field(min_length=1)


class Ledger(Block):
    """All claims, and the numbers of the lectures that are none."""

    claims: tuple[Claim, ...]
    not_claimed: tuple[NotClaimed, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Ledger:
        ids = [claim.id for claim in self.claims]
        twice = sorted({id for id in ids if ids.count(id) > 1})
        if twice:
            raise ValueError(f"given twice: {', '.join(twice)}")
        return self

    def about(self, names: Iterable[str]) -> tuple[Claim, ...]:
        """The claims about any of these networks.

        Raises:
            InputError: there is no claim about a network of that name.
        """
        known = {name for claim in self.claims for name in claim.networks}
        wanted = set(names)
        for name in wanted - known:
            raise unknown("network in the ledger", name, known)
        return tuple(claim for claim in self.claims if wanted & {*claim.networks})


@cache
def ledger() -> Ledger:
    """The ledger that comes with deepen."""
    text = resources.files("deepen.claims").joinpath("claims.toml").read_text("utf-8")
    return read(text)


def read(text: str) -> Ledger:
    """A ledger from TOML.

    Raises:
        InputError: it is no TOML, or a claim lacks something; names the claim.
    """
    try:
        document = tomllib.loads(text)
        claims = [_merged(table, row) for table in document["table"] for row in table["claims"]]
        return Ledger(
            claims=tuple(map(_claim, claims)),
            not_claimed=document.get("no_claims", {}).get("entries", ()),
        )
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise InputError(f"claims.toml: {error}") from error
    except ValidationError as error:
        raise InputError(f"claims.toml: {first_problem(error, Ledger)}") from error


def _merged(table: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A claim with what its table says of all."""
    shared = {key: value for key, value in table.items() if key not in ("claims", "id")}
    if not row.keys().isdisjoint(_WAYS):  # a claim's own way is the only one
        shared = {key: value for key, value in shared.items() if key not in _WAYS}
    own = {"layer": row.get("layer", ""), "network": row.get("network", "")}
    filled = {way: shared[way].format(**own) for way in _WAYS if way in shared}
    claim = {key: value for key, value in row.items() if key != "layer"}
    return shared | filled | claim | {"id": f"{table['id']}.{row['id']}"}


def _claim(fields: dict[str, Any]) -> Claim:
    try:
        return Claim.model_validate(fields)
    except ValidationError as error:
        problem = first_problem(error, Claim)
        raise InputError(f"claims.toml: {fields['id']}: {problem}") from error
