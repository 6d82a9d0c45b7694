"""The ledger is read strictly, compares by class, reaches every row, and finds wrong values."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from llm.book import ledger
from llm.book.ledger import Result, Row
from llm.book.measures import ch05, common
from llm.book.measures.common import MEASURES
from llm.book.measures.sources import Sources
from llm.cli import parser
from llm.common import files
from llm.common.errors import DATA, UserError
from llm.model.gpt import GPT

ROOT = Path(__file__).parents[3]
LEDGER = ledger.read()
SLOW = ("untrained_text", "toy_loss", "toy_probabilities", "verdict_losses")  # these build GPT-2 124M
OPEN = {"variant.padding-ignored"}
HERE = [row for row in LEDGER.rows if row.measure and not any(need.startswith(("run", "model")) for need in row.needs)]
CHEAP = [row for row in HERE if row.measure not in SLOW]


def row(**changes) -> Row:
    plain = Row(id="x", section="ch02", source="2.1", kind="exact", values="1", measure="logistic")
    return replace(plain, **changes)


def errors(**changes) -> str:
    return "; ".join(f"{name} {what}" for name, what, _ in row(**changes).problems())


# --- the rows ---


def test_exercise_5_4_trains_as_section_5_2_for_one_epoch():
    config = ch05.one_epoch(ROOT)
    assert (config.epochs, config.batch_size, config.lr, config.schedule) == (1, 2, 0.0004, "constant")
    assert (config.warmup_steps, config.weight_decay, config.weight_decay_on, config.beta2) == (0, 0.1, "all", 0.999)
    assert (config.clip_norm, config.micro_batch_size, config.save_every, config.keep) == (None, None, None, "last")


def test_values_per_section():
    count = Counter()
    for each in LEDGER.rows:
        count[each.section] += len(each.printed)
    assert count == {"ch02": 51, "ch03": 87, "ch04": 39, "ch05": 133, "ch06": 72, "ch07": 57} | {
        "appA": 23,
        "appD": 12,
        "appE": 6,
    }
    assert count.total() >= 200


def test_only_known_rows_are_open():
    assert {each.id for each in LEDGER.rows if each.open} == OPEN


CURVES = [each for each in LEDGER.rows if each.measure == "curve"]


@pytest.mark.parametrize("each", CURVES, ids=lambda each: each.id)
def test_no_flat_curve_is_within_its_bounds(each):
    published = [float(value) for value in each.printed]
    assert each.compare(published) in ("equal", "within")
    flat = {*published, *(sum(pair) / 2 for pair in pairwise(published)), min(published) + 0.1}
    assert [each.compare([value] * len(published)) for value in flat] == ["outside"] * len(flat)


def test_both_editions_are_there_where_they_differ():
    pairs = {each.id.removesuffix(".repository") for each in LEDGER.rows if each.edition == "repository"}
    assert pairs == {each.id for each in LEDGER.rows if each.edition == "print"}
    rows = {each.id: each for each in LEDGER.rows}
    for name in pairs:
        one, other = rows[name], rows[f"{name}.repository"]
        assert (one.needs, one.measure, one.args) == (other.needs, other.measure, other.args)
        assert one.values != other.values


@pytest.mark.parametrize("name", ["chapter5.train-loss", "chapter5.val-loss"])
def test_the_digits_of_the_print_edition_are_within_the_repositorys_tolerance(name):
    rows = {each.id: each for each in LEDGER.rows}
    ours = [float(value) for value in rows[name].printed]  # equal to ours, as docs/book-numbers.md shows
    assert rows[f"{name}.repository"].compare(ours) == "within"


def test_every_measure_is_used_and_exists():
    assert {each.measure for each in LEDGER.rows if each.measure} == set(MEASURES)


def test_every_run_is_used():
    needed = {need.split()[1] for each in LEDGER.rows for need in each.needs if need.startswith("run ")}
    assert needed == set(LEDGER.runs)


@pytest.mark.slow
def test_every_row_is_reachable(monkeypatch):
    """If nothing is missing, each row calls its measure with the arguments of that measure."""
    called = []
    for name, function in MEASURES.items():
        code = function.__code__
        takes = set(code.co_varnames[1 : code.co_argcount])
        monkeypatch.setitem(
            MEASURES, name, lambda _s, _t=takes, _n=name, **given: called.append((_n, _t == set(given))) or ""
        )
    monkeypatch.setattr(Sources, "missing", lambda *_: None)
    results = list(ledger.verify(LEDGER, ROOT))
    assert [name for name, fits in called if not fits] == []
    assert len(called) == len(LEDGER.rows) - len(OPEN)
    assert {result.verdict for result in results} == {"outside", *(["open"] if OPEN else [])}


# --- our values ---


@pytest.mark.parametrize("each", CHEAP, ids=lambda each: each.id)
def test_cheap_rows_are_equal(each, request):
    if each.needs:
        request.getfixturevalue("mirror")
    (result,) = ledger.verify(LEDGER, ROOT, each.id)
    assert result.verdict == "equal", result


@pytest.mark.slow
@pytest.mark.parametrize("each", [each for each in HERE if each.measure in SLOW], ids=lambda each: each.id)
def test_rows_of_the_untrained_124m_are_equal(each, mirror):
    (result,) = ledger.verify(LEDGER, ROOT, each.id)
    assert result.verdict == "equal", result


WEIGHTS = [each for each in LEDGER.rows if any(need.startswith("model") for need in each.needs)]
WEIGHTS = [each for each in WEIGHTS if each.measure not in ("", "another_epoch")]  # this one trains GPT-2 124M


@pytest.mark.parametrize("each", WEIGHTS, ids=lambda each: each.id)
def test_rows_of_the_weights_measure_a_small_model_and_find_it_outside(each, mirror, model_config, monkeypatch):
    """With another model than OpenAI's, a measure gives as many values as the row, but other values."""
    small = model_config(vocab_size=50257, context_length=1024, n_layer=1)
    torch.manual_seed(0)
    monkeypatch.setattr(Sources, "model", lambda _self, _name: GPT(small).eval())
    monkeypatch.setattr(Sources, "missing", lambda *_: None)
    (result,) = ledger.verify(LEDGER, ROOT, each.id)
    assert result.verdict == "outside"
    if each.values:
        assert len(result.ours.split()) == len(each.printed)
    else:
        assert result.ours.startswith("Every effort moves you")


def test_no_measure_takes_the_name_of_another(monkeypatch):
    monkeypatch.setattr(common, "MEASURES", {})
    common.measure(MEASURES["curve"])
    with pytest.raises(AssertionError, match="two measures are called curve"):
        common.measure(MEASURES["curve"])


# --- comparison ---


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        ({"values": "0.120"}, [0.12049], "equal"),
        ({"values": "0.120"}, [0.1206], "outside"),
        ({"values": "0.12"}, [0.1206], "equal"),
        ({"values": "1,234 5"}, [1234, 5], "equal"),
        ({"values": "1,234 5"}, [1234], "outside"),
        ({"values": "1,234"}, [1235], "outside"),
        ({"values": "0.0000"}, [-0.00001], "equal"),
        ({"values": "", "text": "a b"}, "a b", "equal"),
        ({"values": "", "text": "a b"}, "a  b", "outside"),
        ({"values": "5.0", "within": "0.3"}, [5.25], "within"),
        ({"values": "5.0", "within": "0.3"}, [5.35], "outside"),
        ({"values": "5.0", "low": "4.0", "high": "5.5"}, [5.4], "within"),
        ({"values": "5.0 1.0", "low": "4.0", "high": "5.5"}, [5.4, 1.0], "outside"),
        ({"values": "5.0 1.0", "low": "4.0 0.5", "high": "5.5 1.5"}, [5.4, 1.0], "within"),
        ({"values": "5.0 1.0", "low": "4.0 0.5", "high": "5.5 1.5"}, [4.0, 4.0], "outside"),
        ({"values": "5.0 1.0", "within": "0.5 0.1"}, [5.4, 1.05], "within"),
        ({"values": "5.0 1.0", "within": "0.5 0.1"}, [5.0, 1.2], "outside"),
        ({"values": "5.0"}, [float("nan")], "outside"),
        ({"values": "5.0", "within": "0.3"}, [float("nan")], "outside"),
    ],
)
def test_comparison(published, ours, verdict):
    assert row(**published).compare(ours) == verdict


def test_a_wrong_value_is_found():
    wrong = replace(LEDGER, rows=(row(values="0.0852 -0.0898 -0.0816"), row(id="y", values="0.0852 -0.0898 -0.0817")))
    assert [result.verdict for result in ledger.verify(wrong, ROOT)] == ["outside", "equal"]


# --- reading ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": ""}, "values"),
        ({"text": "both"}, "values"),
        ({"measure": "no_such"}, "'no_such' is no measure"),
        ({"open": "why"}, "measure"),
        ({"low": "1.0"}, "low"),
        ({"kind": "band"}, "low"),
        ({"kind": "close"}, "within"),
        ({"kind": "close", "within": "near"}, "'near' is not one number, or one for each value"),
        ({"kind": "close", "within": "0.1 0.2"}, "'0.1 0.2' is not one number, or one for each value"),
        ({"kind": "band", "low": "2", "high": "3"}, "outside of low and high"),
        ({"kind": "weights"}, "needs"),
        ({"needs": ("luck",)}, "'luck' is unknown"),
    ],
)
def test_contradictions_in_a_row(changes, said):
    assert said in errors(**changes)
    assert errors() == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda given: given["rows"][0].update(vaules="1"), "unknown key"),
        (lambda given: given["rows"][0].update(values=1), "a whole number, not a string"),
        (lambda given: given["rows"][0].update(kind="sure"), "not one of"),
        (lambda given: given["rows"][0].pop("source"), "missing"),
        (lambda given: given["rows"].append(deepcopy(given["rows"][0])), "2 rows have the id"),
        (lambda given: given["rows"][0].update(needs=["run away"]), "not in runs"),
        (lambda given: given["runs"]["spam"].update(params=["lr"]), "has no ="),
    ],
)
def test_reading_is_strict(change, said, tmp_path):
    given = yaml.safe_load(ledger.GOLDEN.read_text("utf-8"))
    change(given)
    files.write_text(tmp_path / "golden.yaml", yaml.safe_dump(given))
    with pytest.raises(UserError, match=said):
        ledger.read(tmp_path / "golden.yaml")


# --- the command ---


def test_verify_prints_and_writes(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    parser.main(["verify", "--only", "logistic", "--write", str(tmp_path / "page.md")])
    out = capsys.readouterr().out
    assert "equal    logistic" in out
    assert out.splitlines()[-1].split() == ["all", "3", "0", "0", "0", "0"]
    assert "| logistic | A.3, A.4 | exact | 0.0852 -0.0898 -0.0817 | 0.0852 -0.0898 -0.0817 | equal |" in (
        tmp_path / "page.md"
    ).read_text("utf-8")


def test_verify_that_cannot_write_its_page_computes_nothing(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(MEASURES, "logistic", lambda _sources: pytest.fail("computed"))
    with pytest.raises(SystemExit) as left:
        parser.main(["verify", "--only", "logistic", "--write", "README.md/page.md"])
    out, err = capsys.readouterr()
    assert left.value.code == DATA
    assert "README.md: File exists" in err
    assert not out


@pytest.mark.parametrize(("words", "code"), [(["--only", "logistic"], 3), (["--only", "no-such-row"], 2)])
def test_verify_ends_with_a_code(words, code, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(MEASURES, "logistic", lambda _sources: [0.0852, -0.0898, 0.0817])
    with pytest.raises(SystemExit) as left:
        parser.main(["verify", *words])
    assert left.value.code == code
    assert capsys.readouterr().err.startswith("error:")


def test_the_table_counts_values_not_rows():
    results = [Result(row(values="1 2 3"), "equal"), Result(row(section="ch03"), "skipped", reason="why")]
    lines = [line.split() for line in ledger.counts(results)]
    assert lines[1:] == [
        ["ch02", "3", "0", "0", "0", "0"],
        ["ch03", "0", "0", "0", "1", "0"],
        ["all", "3", "0", "0", "1", "0"],
    ]
