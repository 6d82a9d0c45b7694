"""A figure whose stage did not run on the new base is not called the same: it was not measured."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from llm.cli import report as printed_report
from llm.common import files
from llm.compare import comparison, pages, report, terminal
from llm.compare.experiments import experiments
from llm.compare.headlines import STALE
from llm.compare.snapshot import resolve
from tests.llm.compare.conftest import experiment, git

NOTE = "finetune_spam has not run since its input models/base changed"


def write_base(made: str, read: str) -> None:
    """Record in dvc.lock which base was made, and which one the fine-tuning read."""
    lock = files.read_json("dvc.lock")
    lock["stages"]["pretrain"] = {"cmd": "p", "outs": [{"path": "models/base", "md5": made}]}
    deps = [one for one in lock["stages"]["finetune_spam"]["deps"] if one["path"] != "models/base"]
    lock["stages"]["finetune_spam"]["deps"] = [*deps, {"path": "models/base", "md5": read}]
    files.write_json("dvc.lock", lock)


@pytest.fixture
def base(project):
    write_base("one", "one")
    git("commit", "-q", "-a", "-m", "two")


def spam(first: str = "HEAD", second: str = "workspace") -> tuple[comparison.Comparison, str]:
    found = comparison.compare(resolve(first), resolve(second))
    return found, found.headlines[1].verdict.text


def test_the_figure_of_another_base_is_not_the_same(base):
    write_base("two", "one")
    found, verdict = spam()
    assert verdict == STALE
    assert found.notes == [f"workspace: {NOTE}"]
    line = found.headlines[1]
    assert (line.difference, line.interval, line.verdict.tone) == (None, None, "neutral")
    assert "in workspace" in line.verdict.how
    assert {one.verdict.text for one in found.headlines if one is not line} == {"the same"}
    assert STALE in pages.comparison(found)
    file = io.StringIO()
    terminal.show(found, Console(file=file, width=100))
    assert STALE in file.getvalue()


def test_after_a_run_on_the_new_base_it_is(base):
    write_base("two", "two")
    assert spam()[1] == "the same"
    assert spam()[0].notes == []


def test_either_side_may_be_the_stale_one(base):
    write_base("two", "one")
    git("commit", "-q", "-a", "-m", "three")
    write_base("two", "two")
    found, verdict = spam()
    assert verdict == STALE
    assert [NOTE in note for note in found.notes] == [True]


def test_no_figure_of_it_is_subtracted(base):
    write_base("two", "one")
    files.write_json("reports/finetune_spam/metrics.json", {"test_accuracy": 0.5, "train_accuracy": 0.5})
    files.write_json("reports/pretrain/metrics.json", {"val_loss": 1.0})
    found = {where: by for where, _, _, by in terminal.moved(spam()[0].figures)}
    assert {by for where, by in found.items() if where.startswith("finetune_spam")} == {"not comparable"}
    assert found["pretrain: val_loss"] == "-1"


def test_what_comes_after_it_is_named(base):
    write_base("two", "one")
    lock = files.read_json("dvc.lock")
    lock["stages"]["evaluate_with_judge"]["deps"] += [lock["stages"]["finetune_spam"]["outs"][0]]
    files.write_json("dvc.lock", lock)
    found, _ = spam()
    assert found.notes[1].endswith("as they come after such a stage: evaluate_with_judge")
    assert found.headlines[4].verdict.text == STALE


def test_a_stage_that_no_figure_needs_is_not_named(base):
    write_base("two", "two")
    lock = files.read_json("dvc.lock")
    lock["stages"]["finetune_dpo"] = {"cmd": "d", "deps": [{"path": "models/base", "md5": "one"}]}
    files.write_json("dvc.lock", lock)
    assert spam()[0].notes == []


def test_the_report_says_it_too(base):
    files.write_text("params.yaml", (Path(__file__).parents[3] / "params.yaml").read_text())
    assert STALE not in report.page()
    write_base("two", "one")
    page = report.page()
    assert NOTE in page
    assert f">{STALE}<" in page
    files.write_json("reports/pretrain/metrics.json", {"train_loss": 1.0, "val_loss": 2.0, "val_bits_per_byte": 1.0})
    for name in ("finetune_spam", "finetune_instruct", "evaluate_with_judge"):
        Path(f"reports/{name}/metrics.json").unlink()
    assert f"note: workspace: {NOTE}" in printed_report.lines()


def test_the_table_of_experiments_marks_it(base):
    from dvc.repo import Repo

    Repo.init(".").close()
    git("add", "-A")
    git("commit", "-q", "-m", "dvc")
    write_base("two", "one")
    experiment("stale")
    file = io.StringIO()
    terminal.show_experiments(experiments(), Console(file=file, width=100))
    said = file.getvalue()
    assert said.count("85.0 %*") == 1
    assert f"* {STALE}" in said
