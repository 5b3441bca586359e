"""The claims ledger: its arithmetic, its file, its verdicts, and that it forgets no number."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from importlib import resources
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from typer.testing import CliRunner

from deepen.claims import lectures, page, worked
from deepen.claims import ledger as ledger_module
from deepen.claims.depth import depth
from deepen.claims.drawing import expand, squeeze
from deepen.claims.formula import evaluate
from deepen.claims.ledger import OF_TABLES, Claim, Ledger, NotClaimed, ledger, read
from deepen.claims.measured import result
from deepen.claims.networks import BLOCKS
from deepen.claims.printed import AGREES, shown
from deepen.claims.printed import read as read_number
from deepen.claims.quantities import (
    QUANTITIES,
    input_values,
    macs,
    parameters,
    values,
    weights,
)
from deepen.claims.verdict import Judged, judge
from deepen.cli import app
from deepen.cli.options import parse_change
from deepen.errors import InputError
from deepen.models import list_models
from deepen.studies.catalog import STUDIES
from deepen.training.recipe import load_recipe

DOCS = Path(__file__).parents[1] / "docs"

# ---------------------------------------------------------------------------------- printed numbers


@pytest.mark.parametrize(
    ("printed", "counted", "relation"),
    [
        ("3.8e9", 3_857_973_248, "truncates"),
        ("3.6e9", 3_644_493_824, "rounds"),
        ("60,000", 60_000, "exact"),
        ("60 million", 60_965_224, "truncates"),
        ("60 million", 61_965_224, "rounds loosely"),
        ("0.46M", 464_154, "rounds"),
        ("25.0e6", 25_028_904, "rounds"),  # a zero behind the point is a digit
        ("25.0e6", 25_160_000, "differs"),
        ("600 K", 589_824, "rounds loosely"),
        ("140M", 138_357_544, "rounds loosely"),
        ("150K", 150_528, "truncates"),
        ("650,000", 659_272, "differs"),  # cut off at place holders is no agreement
        ("1,516", 2_416, "differs"),
        ("0", 1, "differs"),
        ("<1M", 60_000, "within the bound"),
        ("<1M", 1_000_000, "differs"),
        (">40M", 44_549_160, "within the bound"),
        ("1000+", 1000, "within the bound"),
        ("1000+", 999, "differs"),
        ("12x", Fraction(87111, 10000), "differs"),
        ("87.34%", Fraction(2463, 2820) * 100, "rounds"),
        ("1e-4", Fraction(1, 10_000), "exact"),
    ],
)
def test_a_count_against_what_is_printed(printed: str, counted: int, relation: str):
    number = read_number(printed)
    assert number is not None
    assert number.relation(counted) == relation


@pytest.mark.parametrize("text", ["", "3x3", "higher", "28x28x6", "1,00", "1.2.3", "-5", "e9"])
def test_no_number(text: str):
    assert read_number(text) is None


def test_kilo_can_be_1024():
    number = read_number("112K", kilo=1024)
    assert number is not None
    assert number.relation(114_688) == "exact"


@given(st.integers(10, 10**12), st.integers(1, 6))
def test_rounding_and_truncation_are_as_decimal_does_them(counted: int, digits: int):
    exponent = max(len(str(counted)) - digits, 0)
    place = Decimal(1).scaleb(exponent)
    for rounding, allowed in (
        (ROUND_HALF_UP, {"exact", "rounds"}),
        (ROUND_DOWN, {"exact", "rounds", "truncates"}),
    ):
        units = int((counted / place).quantize(Decimal(1), rounding))
        number = read_number(f"{units}e{exponent}")
        assert number is not None
        assert number.relation(counted) in allowed
    off = read_number(f"{units + 2}e{exponent}")  # may end in zeros
    assert off is not None
    assert off.relation(counted) in ("differs", "rounds loosely")


@pytest.mark.parametrize(
    ("counted", "text"),
    [(1234567, "1,234,567"), (Fraction(1, 3), "0.33333"), (Fraction(6, 3), "2"), ("3x3", "3x3")],
)
def test_counts_are_shown_to_the_digit_and_ratios_to_five(counted: int, text: str):
    assert shown(counted) == text


# ---------------------------------------------------------------------------------- formulas


def test_formulas_are_exact():
    assert evaluate("(28.2 - 3.57) / 28.2 * 100", {}) == Fraction(2463, 2820) * 100
    assert evaluate("24 * 24 - -1 + 2 ** 3", {}) == 585
    assert evaluate('twice(21, of="x")', {"twice": lambda n, of: 2 * n}) == 42


@pytest.mark.parametrize(
    "formula",
    [
        "().__class__",
        "[1, 2]",
        "lambda: 1",
        "1 if 2 else 3",
        "f(*a)",
        "f(**a)",
        "f(1)(2)",
        "1 < 2",
        "1 // 2",
        "'%s' % 1",
        "x := 1",
        "1 +",
    ],
)
def test_nothing_but_arithmetic_and_quantities_is_a_formula(formula: str):
    with pytest.raises(InputError, match="formula"):
        evaluate(formula, {"f": lambda *_: 1})


def test_an_unknown_quantity_is_named_with_the_nearest():
    with pytest.raises(InputError, match="unknown quantity 'mac'; nearest: macs"):
        evaluate('mac("lenet5")', QUANTITIES)
    with pytest.raises(InputError, match="formula"):
        evaluate("macs()", QUANTITIES)


# ---------------------------------------------------------------------------------- quantities


@pytest.mark.parametrize("name", ["lenet5_relu", "alexnet", "resnet18_a", "googlenet"])
def test_parameters_and_macs_agree_with_torch(name: str, count):
    assert (parameters(name), macs(name)) == count(name)


def test_depth_is_the_longest_way():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1))
            self.beside = nn.Conv2d(3, 3, 1)
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            x = self.main(x).add_(self.beside(x))
            return self.fc(nn.functional.avg_pool2d(x, 4).flatten(1))

    net = Block().to("meta")
    assert depth(net, (3, 4, 4)) == 3
    assert depth(net, (3, 4, 4), poolings=True) == 4


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(InputError, match="unknown layer of lenet5 'c9'; known: c1"):
        parameters("lenet5", "c9")


def test_drawings_are_compared_in_one_spelling():
    assert expand("a; 3*(b; c); d") == "a; b; c; b; c; b; c; d"
    assert squeeze("conv3-64; FC-4096") == squeeze("3x3 conv, 64 fc 4096")
    assert squeeze("7×7 conv, 64, /2 pool, /2") == squeeze("7x7 conv, 64, /2, pool/2")
    assert squeeze("3x3 conv, 64") != squeeze("3x3 conv, 64, /2")


def test_the_quantities_of_tables_are_those_of_worked():
    assert {name for name in QUANTITIES if hasattr(worked, name)} == OF_TABLES


def test_googlenets_table_fits_no_rule_for_k_but_in_two_modules():
    """Each of the nine, K = 1000 and 1024, with and without biases: whether any agrees."""
    fits = {}
    for claim in ledger().claims:
        if claim.id.startswith("googlenet-table1-parameters.") and claim.id[-2:] in (
            *("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"),
        ):
            module = claim.id[-2:]
            answers = set()
            for kilo in (1000, 1024):
                number = read_number(claim.stated, kilo)
                assert number is not None
                for counted in (parameters, weights):
                    answers.add(number.relation(counted("googlenet", f"inception{module}")))
            fits[module] = answers != {"differs"}
    assert len(fits) == 9
    assert [module for module, fit in fits.items() if fit] == ["3a", "3b"]


def stated(table: str, *ids: str) -> list[str]:
    """What some claims of a table print."""
    claims = {claim.id: claim.stated for claim in ledger().claims}
    return [claims[f"{table}.{id}"] for id in ids]


def test_the_inception_rows_add_up_to_what_the_reason_says():
    """Lecture 003 prints 353M under them, with 264 for 64 and one of two reductions left out."""
    rows = ["macs-1x1", "reduced-1x1", "reduced-pool", "reduced-3x3", "reduced-5x5"]
    printed = [prod(map(int, row.split("x"))) for row in stated("inception-example", *rows)]
    reduction, slip = printed[1], printed[-1]
    assert f"{sum(printed) / 1e6:.1f}M" == "634.8M"
    assert sum(printed) + reduction - slip + slip * 64 // 264 == macs("inception") == 271_351_808
    assert f"{(macs('inception') + printed[3]) / 1e6:.0f}M" == "358M"


def test_the_rows_of_vgg16_that_the_lecture_keeps_add_up_to_what_the_reason_says():
    """Nine convolutions: eight with a row of weights, and one of 3x3x512x512 on 14x14 px."""
    convs = ["conv1-1", "conv1-2", "conv2-1", "conv2-2", "conv3-1", "conv3-2", "conv4-1", "conv4-2"]
    printed = stated("vgg16-weights", *convs, "conv4-2", "fc1", "fc2", "fc3")
    assert sum(int(number.replace(",", "")) for number in printed) == 130_676_416
    convs_and_pools = (0, 2, 4, 5, 7, 9, 10, 12, 16, 17, 19, 23, 24, 30)
    kept = [f"features.{i}" for i in convs_and_pools] + [f"classifier.{i}" for i in (0, 3, 6)]
    assert input_values("vgg16") + values("vgg16", *kept) == 13_832_680


@pytest.mark.parametrize("claim", [c for c in ledger().claims if c.id.startswith("torchvision-")])
def test_torchvisions_figures_are_what_torchvision_prints(claim: Claim):
    name = claim.of.removeprefix("torchvision ")
    meta = next(iter(torchvision.models.get_model_weights(name))).meta
    number = read_number(claim.stated)
    assert number
    if claim.kind == "parameters":
        assert number.value == meta["num_params"]
    else:
        assert float(number.value / 10**9) == meta["_ops"]


# ---------------------------------------------------------------------------------- the ledger


def test_the_ledger_is_as_large_and_as_mixed_as_promised():
    kinds = Counter(claim.kind for claim in ledger().claims)
    assert kinds.total() >= 150
    assert kinds["parameters"] <= kinds.total() / 2


def test_claims_speak_of_networks_that_exist():
    known = {*list_models(), *BLOCKS}
    assert {n for claim in ledger().claims for n in claim.networks} - known == set()


def test_an_accuracy_never_agrees():
    accuracies = [claim for claim in ledger().claims if claim.kind == "accuracy"]
    assert accuracies
    assert {claim.expect for claim in accuracies} <= {"needs data", "measured", "differs"}


def test_commands_that_would_settle_a_claim_can_be_given():
    for command in {claim.needs for claim in ledger().claims if claim.needs}:
        program, verb, data, *words = shlex.split(command.partition("   (")[0])
        if verb == "study":
            assert (program, words) == ("deepen", ["--full", "--data", "VOC2007"])
            assert "full" in STUDIES[data].settings
            continue
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert (program, verb) == ("deepen", "train")
        assert data in ("IMAGENET", "cifar10", "cifar100", "mnist")
        assert options["--model"] in (*list_models(), "MODULE:FACTORY")
        assert options.keys() <= {"--model", "--recipe", "--set", "--batch-size"}
        changes = dict(parse_change(b) for a, b in pairwise(words) if a == "--set")
        assert load_recipe(options.get("--recipe", "quick"), changes)


CLAIM = {
    "id": "a.b",
    "source": "lecture 003",
    "of": "LeNet-5",
    "quantity": "parameters",
    "kind": "parameters",
    "stated": "60,000",
    "measure": 'parameters("lenet5")',
    "expect": "exact",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"needs": "deepen train mnist"}, "one of measure, needs and run"),
        ({"measure": ""}, "one of measure, needs and run"),
        ({"expect": "measured"}, "measure cannot come out as 'measured'"),
        ({"measure": "", "needs": "deepen train mnist"}, "needs cannot come out as 'exact'"),
        ({"expect": "rounds"}, "give counted"),
        ({"counted": "60,000"}, "give counted"),
        ({"expect": "differs", "counted": "61,706"}, "says why"),
        ({"kind": "accuracy"}, "a count cannot confirm it"),
        ({"kind": "size"}, "kind: Input should be"),
        ({"measure": "1 +"}, "formula '1 \\+'"),
        ({"stated": ""}, "stated: String should have at least 1 character"),
        ({"sauce": "lecture 003"}, "unknown key 'sauce'; nearest: source"),
        ({"id": "A B"}, "id: String should match"),
    ],
)
def test_a_claim_that_does_not_hang_together_is_named(changes: dict[str, str], message: str):
    fields = {**CLAIM, **changes, "id": changes.get("id", "b")}
    row = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items() if value != "")
    row += ', stated = ""' if changes.get("stated") == "" else ""
    with pytest.raises(InputError, match=f"claims.toml: a\\..*{message}"):
        read(f'[[table]]\nid = "a"\nclaims = [{{ {row} }}]')


def test_what_a_table_says_of_all_claims_is_each_ones_own_to_change():
    rows = (
        'id = "a", of = "A", network = "lenet5", layer = "c1", stated = "156", expect = "exact"',
        'id = "b", of = "B", stated = "1", measure = "1", kind = "arithmetic", expect = "exact"',
        'id = "c", of = "C", network = "mlp", stated = "1", kind = "accuracy", '
        'needs = "deepen train mnist", expect = "needs data"',
    )
    text = f"""
        [[table]]
        id = "t"
        source = "lecture 003"
        quantity = "parameters"
        kind = "parameters"
        measure = 'parameters("{{network}}", "{{layer}}")'
        claims = [{", ".join(f"{{ {row} }}" for row in rows)}]
        """
    a, b, c = read(text).claims
    assert (a.id, a.measure, a.networks) == ("t.a", 'parameters("lenet5", "c1")', ("lenet5",))
    assert (b.measure, b.kind, b.networks) == ("1", "arithmetic", ())
    assert (c.measure, c.needs, c.networks) == ("", "deepen train mnist", ("mlp",))


def test_a_claim_that_was_read_cannot_be_changed():
    claim = Claim.model_validate(CLAIM)
    with pytest.raises(ValidationError, match="frozen"):
        claim.stated = "61,706"
    assert claim.stated == "60,000"


def test_ids_are_given_once():
    with pytest.raises(ValueError, match=r"given twice: a\.b"):
        Ledger(claims=(Claim.model_validate(CLAIM),) * 2)


def test_no_toml_and_no_claims_are_named():
    with pytest.raises(InputError, match=r"claims\.toml: "):
        read("[[table")
    with pytest.raises(InputError, match=r"claims\.toml: .*table"):
        read("")


# ---------------------------------------------------------------------------------- verdicts


@pytest.fixture(scope="module")
def judged() -> dict[str, Judged]:
    return {claim.id: judge(claim) for claim in ledger().claims}


def test_every_expected_verdict_holds(judged: dict[str, Judged]):
    assert {id: j.wrong for id, j in judged.items() if j.wrong} == {}
    assert {j.verdict for j in judged.values()} == {"agrees", "differs", "needs data", "measured"}


@pytest.mark.parametrize(
    ("id", "how", "found"),
    [  # counted by hand, or independently before deepen was
        ("lenet5-connections.all", "exact", "340,908"),
        ("alexnet.parameters", "truncates", "60,965,224"),
        ("vgg16-memory.total", "differs", "15,237,608"),
        ("inception-example.macs", "rounds", "854,196,224"),
        ("inception-example.reduced-macs", "differs", "271,351,808"),
        ("googlenet-table1-parameters.5a", "differs", "1,043,456"),
        ("googlenet.ratio", "differs", "8.7111"),
        ("resnet-table1-macs.50", "truncates", "3,857,973,248"),
        ("resnet-table1-macs.34", "rounds", "3,644,493,824"),
        ("resnet-bottleneck.bottleneck", "rounds", "69,632"),
        ("lecture-arithmetic.digits", "differs", "576"),
        ("lecture-arithmetic.improvement", "rounds", "87.34"),
        ("densenet-table2.bc-190-40", "rounds", "25,624,430"),
    ],
)
def test_verdicts_known_beforehand(judged: dict[str, Judged], id: str, how: str, found: str):
    assert (judged[id].how, judged[id].found) == (how, found)


def test_a_verdict_that_no_longer_holds_is_wrong():
    claim = Claim.model_validate(CLAIM)
    assert judge(claim) == Judged(claim, "agrees", "exact", "60,000")
    stated = judge(claim.model_copy(update={"stated": "60,001"}))
    assert (stated.verdict, stated.how) == ("differs", "differs")
    assert stated.wrong == "expected exact, is differs: counted 60,000"
    counted = {"stated": "60K", "measure": "60400", "expect": "rounds", "counted": "60,300"}
    assert judge(claim.model_copy(update=counted)).wrong == "expected 60,300, counted 60,400"
    gone = judge(claim.model_copy(update={"measure": 'parameters("lenet6")'}))
    assert (gone.verdict, gone.found) == ("failed", "")
    assert "nearest: lenet5" in gone.wrong


@pytest.mark.parametrize(
    ("stated", "count", "expect", "verdict"),
    [
        ("60,000", 60_000, "exact", "agrees"),
        ("3.6e9", 3_644_493_824, "rounds", "agrees"),
        ("3.8e9", 3_857_973_248, "truncates", "agrees"),
        ("600 K", 589_824, "rounds loosely", "agrees"),
        ("<1M", 60_000, "within the bound", "agrees"),
        ("1,516", 2_416, "differs", "differs"),
    ],
)
def test_how_it_agrees_and_whether(stated: str, count: int, expect: str, verdict: str):
    counted = "" if expect == "exact" else f"{count:,}"
    changes = {"stated": stated, "measure": str(count), "expect": expect, "counted": counted}
    claim = Claim.model_validate({**CLAIM, **changes, "reason": "a slip"})
    assert judge(claim) == Judged(claim, verdict, expect, f"{count:,}")
    assert claim.verdict == verdict


def test_needing_data_is_no_agreement():
    changes = {"kind": "accuracy", "measure": "", "needs": "deepen train mnist"}
    claim = Claim.model_validate({**CLAIM, **changes, "expect": "needs data"})
    assert judge(claim) == Judged(claim, "needs data")
    assert claim.verdict == "needs data"


def test_a_measured_result_shows_every_seed():
    shipped = result("lenet5-mnist")
    assert [run.value for run in shipped.runs] == [0.93, 0.87, 0.85]
    assert str(shipped) == "0.88 (0.85 to 0.93; seeds 0, 1, 2)"
    assert "SEED" in shipped.command
    found = [judge(claim) for claim in ledger().claims if claim.run == "lenet5-mnist"]
    assert {(one.verdict, one.found) for one in found} == {("measured", str(shipped))}
    with pytest.raises(InputError, match="no measured result 'lenet6'"):
        result("lenet6")


def test_measured_results_are_each_used_by_a_claim():
    files = resources.files("deepen.claims.measured").iterdir()
    shipped = {file.name.removesuffix(".json") for file in files if file.name.endswith(".json")}
    assert shipped == {claim.run for claim in ledger().claims if claim.run}


# ---------------------------------------------------------------------------------- the page


def test_the_page_is_what_the_ledger_says():
    written = (DOCS / "claims.md").read_text("utf-8")
    assert written == page.markdown(ledger()), "deepen claims --markdown > docs/claims.md"


def test_the_page_names_every_claim_and_every_number_left_out():
    text = page.markdown(ledger())
    for claim in ledger().claims:
        assert f"| {claim.of}: {claim.quantity}" in text
    assert sum(len(page.said(c)) > 0 for c in ledger().claims) == len(ledger().claims)
    assert all(entry.why in text for entry in ledger().not_claimed)


# ---------------------------------------------------------------------------------- the lectures


@pytest.mark.parametrize(
    ("words", "line", "found"),
    [
        ("96 filters", "with 96 filters", ["96 filters"]),
        ("3. 2 M", "= 3. 2 M and 3.2M", ["3. 2 M", "3.2M"]),
        ("64", "64 and 640 and 164", ["64"]),
        ("1 x 1", "1x1, 11x1", ["1x1"]),
        ("a; b", "a b", ["a b"]),
        ("absent", "nothing", []),
        ("*", "all 12", ["all 12"]),
    ],
)
def test_words_are_found_whole_and_without_spaces(words: str, line: str, found: list[str]):
    assert [line[a:b] for a, b in lectures.find(words, line)] == found


def test_a_number_left_out_is_a_complaint(tmp_path: Path):
    (tmp_path / "003_x.txt").write_text(
        "slide 1\nhas 60,000 parameters\nand two 5x5 layers, 27C²\n"
    )
    claim = Claim.model_validate({**CLAIM, "lectures": {"003:2": "{stated} parameters"}})
    listed = NotClaimed(at="003:1", why="number of a slide")
    left = lectures.complaints(Ledger(claims=(claim,), not_claimed=(listed,)), tmp_path)
    assert [line.partition(" is left out")[0] for line in left] == [
        *("003:3: two", "003:3: 5", "003:3: 5", "003:3: 27", "003:3: ²"),
    ]
    wrong = claim.model_copy(update={"lectures": {"003:1": ("60,000",)}})
    left = lectures.complaints(Ledger(claims=(wrong,), not_claimed=(listed,)), tmp_path)
    assert left[0] == "003:1: a.b: does not say '60,000'"
    with pytest.raises(InputError, match="0 files for lecture 004"):
        lectures.complaints(
            Ledger(claims=(claim,), not_claimed=(NotClaimed(at="004:1", why="no"),)), tmp_path
        )


@pytest.mark.slow
def test_no_number_of_the_lectures_is_forgotten():
    folder = os.environ.get("DEEPEN_LECTURES")
    if not folder:
        pytest.skip("DEEPEN_LECTURES is not set: it names the folder of the lectures' texts")
    assert lectures.complaints(ledger(), Path(folder)) == []
    cited = {place[0] for _, place, _ in lectures.cited(ledger())}
    assert cited == {file.name[:3] for file in Path(folder).glob("[0-9][0-9][0-9]*.txt")}


# ---------------------------------------------------------------------------------- deepen claims


def deepen(*arguments: str):
    return CliRunner().invoke(app, ["claims", *arguments])


def test_json_has_every_claim_of_a_network():
    done = deepen("lenet5", "--json")
    assert done.exit_code == 0
    documents = json.loads(done.stdout)
    assert {d["id"] for d in documents} == {c.id for c in ledger().about(["lenet5"])}
    assert all("lenet5" in d["networks"] for d in documents)
    connections = next(d for d in documents if d["id"] == "lenet5-connections.all")
    assert (connections["verdict"], connections["found"]) == ("agrees", "340,908")


def test_one_verdict_alone_is_shown_and_all_are_summed_up():
    done = deepen("lenet5", "--verdict", "measured")
    assert done.exit_code == 0
    assert "0.88 (0.85 to 0.93; seeds 0, 1, 2)" in done.stdout
    assert "340,908" not in done.stdout
    assert str(len(ledger().about(["lenet5"]))) in done.stdout.splitlines()[-1]


def test_a_wrong_verdict_exits_1_and_says_which(monkeypatch: pytest.MonkeyPatch):
    wrong = Claim.model_validate({**CLAIM, "stated": "60,001"})
    monkeypatch.setattr(ledger_module, "ledger", lambda: Ledger(claims=(wrong,)))
    done = deepen("--verdict", "agrees")  # not shown, but wrong all the same
    assert done.exit_code == 1
    assert "a.b: expected exact, is differs: counted 60,000" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("lenet6",), "nearest: lenet5"), (("--verdict", "agree"), "nearest: agrees")],
)
def test_unknown_words_are_refused(arguments: tuple[str, ...], message: str):
    done = deepen(*arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_markdown_is_the_page():
    assert deepen("--markdown").stdout == (DOCS / "claims.md").read_text("utf-8")


def test_every_answer_of_a_count_has_words():
    assert set(page.HOW) == set(AGREES)
