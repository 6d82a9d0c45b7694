"""What the rows of the ledger need: reports of a run, models, the book's files."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llm.book import ledger
from llm.book.measures.common import MEASURES
from llm.book.measures.sources import Sources
from llm.book.runs import MADE, Run
from llm.common import files
from llm.common.errors import UserError

ROOT = Path(__file__).parents[3]
LEDGER = ledger.read()


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A project whose dvc.lock records a training run of chapter 5 with these parameters."""
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
    assert "not the file that dvc.lock records" in (run.missing(tmp_path, ROOT) or "")
    assert "dvc.lock has no pretrain" in (run.missing(tmp_path / "empty", ROOT) or "")


@pytest.mark.parametrize(("change", "verdict"), [("", "equal"), ("9.782", "outside")])
def test_the_losses_of_chapter_5_are_read_from_the_report_of_their_run(change, verdict, tmp_path):
    """A report with the printed losses is equal; a report with one wrong digit is outside."""
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
    """If the project itself made the run, its model is read in the project instead."""
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
    with pytest.raises(UserError, match="is not the book's file"):
        Sources(tmp_path, {}).file("the-verdict.txt")
