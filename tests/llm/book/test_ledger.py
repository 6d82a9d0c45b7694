"""The ledger: strict reading, comparison by class, every row reachable, wrong values found."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from llm.book import ledger
from llm.book.ledger import Result, Row
from llm.book.measures import ch05, common
from llm.book.measures.common import MEASURES
from llm.book.measures.sources import Sources
from llm.book.runs import MADE, Run, lookup
from llm.cli import parser
from llm.common import files
from llm.common.errors import UserError
from llm.model.gpt import GPT

ROOT = Path(__file__).parents[3]
LEDGER = ledger.read()
SLOW = ("untrained_text", "toy_loss", "toy_probabilities", "verdict_losses")  # they build 124M
OPEN: set[str] = set()
HERE = [row for row in LEDGER.rows if row.measure and not any(need.startswith(("run", "model")) for need in row.needs)]
CHEAP = [row for row in HERE if row.measure not in SLOW]


def row(**changes) -> Row:
    plain = Row(id="x", section="ch02", source="2.1", kind="exact", values="1", measure="logistic")
    return replace(plain, **changes)


def errors(**changes) -> str:
    return "; ".join(f"{name} {what}" for name, what, _ in row(**changes).problems())


# --- what is in it ---


def test_exercise_5_4_trains_as_section_5_2_for_one_epoch():
    config = ch05.one_epoch(ROOT)
    assert (config.epochs, config.batch_size, config.lr, config.schedule) == (1, 2, 0.0004, "constant")
    assert (config.warmup_steps, config.weight_decay, config.weight_decay_on, config.beta2) == (0, 0.1, "all", 0.999)
    assert (config.clip_norm, config.micro_batch_size, config.save_every, config.keep) == (None, None, None, "last")


def test_values_per_section():
    count = Counter()
    for each in LEDGER.rows:
        count[each.section] += len(each.printed)
    assert count == {"ch02": 51, "ch03": 87, "ch04": 39, "ch05": 95, "ch06": 72, "ch07": 28} | {
        "appA": 23,
        "appD": 7,
        "appE": 6,
    }
    assert count.total() >= 200


def test_only_known_rows_are_open():
    assert {each.id for each in LEDGER.rows if each.open} == OPEN


def test_every_measure_is_used_and_exists():
    assert {each.measure for each in LEDGER.rows if each.measure} == set(MEASURES)


def test_every_run_is_used():
    needed = {need.split()[1] for each in LEDGER.rows for need in each.needs if need.startswith("run ")}
    assert needed == set(LEDGER.runs)


def test_every_row_is_reachable(monkeypatch):
    """With everything there, each row calls its measure with arguments that it takes."""
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
WEIGHTS = [each for each in WEIGHTS if each.measure not in ("", "another_epoch")]  # which trains 124M


@pytest.mark.parametrize("each", WEIGHTS, ids=lambda each: each.id)
def test_rows_of_the_weights_measure_a_small_model_and_find_it_outside(each, mirror, model_config, monkeypatch):
    """OpenAI's weights are not here; what is measured of any other model has the row's form and not its values."""
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
        ({"values": "5.0", "within": 0.3}, [5.25], "within"),
        ({"values": "5.0", "within": 0.3}, [5.35], "outside"),
        ({"values": "5.0", "low": 4.0, "high": 5.5}, [5.4], "within"),
        ({"values": "5.0 1.0", "low": 4.0, "high": 5.5}, [5.4, 1.0], "outside"),
        ({"values": "5.0"}, [float("nan")], "outside"),
        ({"values": "5.0", "within": 0.3}, [float("nan")], "outside"),
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
        ({"low": 1.0}, "low"),
        ({"kind": "band"}, "low"),
        ({"kind": "close"}, "within"),
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
        (lambda given: given["rows"][0].update(values=1), "a whole number, not a text"),
        (lambda given: given["rows"][0].update(kind="sure"), "not one of"),
        (lambda given: given["rows"][0].pop("source"), "missing"),
        (lambda given: given["rows"].append(given["rows"][0]), "2 have the id"),
        (lambda given: given["rows"][0].update(needs=["run away"]), "not among runs"),
        (lambda given: given["runs"]["spam"].update(params=["lr"]), "has no ="),
    ],
)
def test_reading_is_strict(change, said, tmp_path):
    given = yaml.safe_load(ledger.GOLDEN.read_text("utf-8"))
    change(given)
    files.write_text(tmp_path / "golden.yaml", yaml.safe_dump(given))
    with pytest.raises(UserError, match=said):
        ledger.read(tmp_path / "golden.yaml")


# --- what a row needs ---


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A project whose dvc.lock says that chapter 5 was trained with these parameters."""
    monkeypatch.chdir(tmp_path)
    files.write_text(tmp_path / "params.yaml", "seed: 123\n")
    files.write_text(tmp_path / "reports/pretrain/loss.csv", "step,train_loss,val_loss\n0,9.7811,9.9329\n5,8.1,8.2\n")

    def lock(**changes) -> Run:
        given = {"seed": 123, "pretrain": {"mode": "book", "clip_norm": None} | changes}
        report = {"path": "reports/pretrain/loss.csv", "md5": files.dvc_md5("reports/pretrain/loss.csv")}
        entry = {"params": {"params.yaml": given}, "outs": [report]}
        files.write_text("dvc.lock", yaml.safe_dump({"stages": {"pretrain": entry}}))
        words = ("seed=123", "pretrain.mode=book", "pretrain.clip_norm=null")
        return Run("pretrain", words, ("configs/book-digits.yaml",))

    return lock


def test_a_report_counts_where_dvc_lock_says_what_it_was_made_with(finished, tmp_path):
    assert finished().missing(tmp_path, ROOT) is None
    reason = finished(mode="exact").missing(tmp_path, ROOT)
    assert reason == "the last pretrain had pretrain.mode exact, not book"
    run = finished()
    files.write_text("reports/pretrain/loss.csv", "step,train_loss\n0,9.781\n")
    assert "not the one of dvc.lock" in (run.missing(tmp_path, ROOT) or "")
    assert "dvc.lock has no pretrain" in (run.missing(tmp_path / "empty", ROOT) or "")


@pytest.mark.parametrize(("change", "verdict"), [("", "equal"), ("9.782", "outside")])
def test_the_losses_of_chapter_5_are_read_from_the_report_of_their_run(change, verdict, tmp_path):
    """A report that holds the printed losses, made with the run's parameters, is equal; one digit off is outside."""
    rows = {each.id: each for each in LEDGER.rows}
    both = zip(*(rows[f"chapter5.{split}-loss"].printed for split in ("train", "val")), strict=True)
    lines = ["step,train_loss,val_loss", *(f"{5 * n},{train},{val}" for n, (train, val) in enumerate(both))]
    assert len(lines) == 19
    text = "\n".join(lines) + "\n"
    report = tmp_path / "reports/pretrain/loss.csv"
    files.write_text(report, text.replace("9.781", change) if change else text)
    given: dict = {}
    for word in LEDGER.runs["chapter5"].params:
        key, _, value = word.partition("=")
        section, _, name = key.rpartition(".")
        (given.setdefault(section, {}) if section else given)[name] = yaml.safe_load(value)
    outs = [{"path": "reports/pretrain/loss.csv", "md5": files.dvc_md5(report)}]
    lock = {"stages": {"pretrain": {"params": {"params.yaml": given}, "outs": outs}}}
    files.write_text(tmp_path / "dvc.lock", yaml.safe_dump(lock))
    results = {result.row.id: result for result in ledger.verify(LEDGER, tmp_path, "chapter5.*-loss")}
    assert results["chapter5.train-loss"].verdict == verdict
    assert results["chapter5.val-loss"].verdict == "equal"


@pytest.mark.parametrize("own", [False, True])
def test_the_model_of_a_run_that_was_made_in_a_copy_is_read_there(own, finished, tmp_path, mirror, monkeypatch):
    """And where the project itself has made the run, there, whatever lies in the copy."""
    run = finished()
    made = tmp_path / MADE / "chapter5"
    for name in ("dvc.lock", "reports/pretrain/loss.csv"):
        files.write_text(made / name, (tmp_path / name).read_text())
    files.write_text(tmp_path / "configs/book-offline.yaml", (ROOT / "configs/book-offline.yaml").read_text("utf-8"))
    if not own:
        finished(mode="exact")
    read = []
    monkeypatch.setitem(MEASURES, "continuation", lambda sources, **_: read.append(sources.root) or "")
    greedy = next(each for each in LEDGER.rows if each.id == "chapter5.greedy")
    book = replace(LEDGER, rows=(greedy,), runs={"chapter5": run})
    right, wrong = (tmp_path, made) if own else (made, tmp_path)
    files.write_text(wrong / "models/pretrain/model.safetensors", "")
    (result,) = ledger.verify(book, tmp_path)
    assert (result.verdict, read) == ("skipped", [])
    assert result.reason == "models/pretrain is not here; `dvc checkout models/pretrain`"
    files.write_text(right / "models/pretrain/model.safetensors", "")
    (result,) = ledger.verify(book, tmp_path)
    assert (result.verdict, read) == ("outside", [right])


def test_parameters_are_found_behind_dotted_sections():
    assert lookup({"tokenize.corpus": {"train_fraction": 0.9}}, "tokenize.corpus.train_fraction") == 0.9
    assert lookup({"tokenize.corpus": {"train_fraction": 0.9}}, "tokenize.spam.order") is None


def test_a_curve_is_read_at_its_steps(finished, tmp_path):
    sources = Sources(tmp_path, {})
    curve = MEASURES["curve"]
    assert curve(sources, file="pretrain/loss.csv", column="train_loss", steps="0 last best") == [9.7811, 8.1, 8.1]
    with pytest.raises(UserError, match="no row of step 10"):
        curve(sources, file="pretrain/loss.csv", column="train_loss", steps="0 10")


def test_without_files_a_row_is_skipped_with_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("LLM_MIRROR", raising=False)
    files.write_text(tmp_path / "configs/book-offline.yaml", (ROOT / "configs/book-offline.yaml").read_text("utf-8"))
    sources = Sources(tmp_path, {})
    assert "the-verdict.txt is not here; set LLM_MIRROR" in (sources.missing("mirror") or "")
    assert "dvc repro import_gpt2@gpt2-124M" in (sources.missing("model gpt2-124M") or "")
    (tmp_path / "models/gpt2-124M").mkdir(parents=True)
    files.write_text(tmp_path / "models/gpt2-124M/model.safetensors", "")
    assert sources.missing("model gpt2-124M") is None
    files.write_text(tmp_path / "data/raw/corpus/the-verdict.txt", "another text of the same name")
    with pytest.raises(UserError, match="is another file"):
        Sources(tmp_path, {}).file("the-verdict.txt")


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
