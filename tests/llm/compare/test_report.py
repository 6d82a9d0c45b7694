"""The report of a run: complete, offline, and its texts are no markup."""

from pathlib import Path

import pytest

from llm.common import files
from llm.common.errors import UserError
from llm.compare.baselines import baselines, confusion, errors
from llm.compare.curves import read
from llm.compare.provenance import provenance
from llm.compare.report import page
from llm.compare.snapshot import resolve
from tests.llm.compare.conftest import MESSAGES, N, git, write_run
from tests.llm.compare.test_compare import EVIL, Tags


def test_what_the_page_contains(project):
    text = page()
    for part in ("85.0 %", "95 %: 40.0 to 95.0", MESSAGES[1], "question 7", "&lt;b&gt;sample", "pretrain/loss", "<svg"):
        assert part in text, part
    assert git("rev-parse", "HEAD") in text
    assert "nothing uncommitted" in text
    assert "prompt: book" in text  # params.yaml
    assert text == page()


def test_the_page_loads_nothing_and_texts_are_no_markup(project):
    write_run((5, 6), answer=lambda _: EVIL, labels=("<b>ham</b>", "spam"))
    files.write_csv("data/spam/test.csv", ["Label", "Text"], [[0, EVIL]] * N)
    Path("llm/model.py").write_text(EVIL)
    found = Tags()
    found.feed(page())
    assert found.loads == []
    assert not found.tags & {"script", "img", "link", "iframe", "red", "object"}


def test_errors_come_with_text_and_probability(project):
    found = list(errors(resolve("workspace")))
    assert [(one.row, one.text, one.probability) for one in found] == [(n, MESSAGES[n], 0.75) for n in range(3)]


def test_confusion_of_any_classes(project):
    write_run(wrong=(0,), labels=("a", "b", "c"))
    assert confusion(resolve("workspace")) == (["a", "b", "c"], [[6, 1, 0], [0, 7, 0], [0, 0, 6]])


def test_calibration_of_the_test_split(project):
    header = ["split", "confidence_from", "n", "accuracy"]
    files.write_csv("reports/finetune_spam/calibration.csv", header, [["train", 0.5, 77, 1.0], ["test", 0.9, 66, 0.75]])
    text = page()
    assert "confidence_from" in text
    assert ">66<" in text
    assert ">77<" not in text


def test_baselines(project):
    metrics = files.read_json("reports/evaluate_with_judge/metrics.json")
    files.write_json("reports/evaluate_with_judge/metrics.json", metrics | {"backend": "reference"})
    loss, spam, judge = baselines(resolve("workspace"))
    assert (loss.model.value, loss.baseline.value) == (2.0, 5.0)
    assert (spam.model.value, spam.baseline.value) == (0.85, 0.5)
    assert spam.what.startswith("always ham")
    assert judge.baseline.value < 90 < judge.model.value
    assert judge.verdict.text == "better, p < 0.001"


def test_another_judge_has_no_baseline_by_formula(project):
    assert [one.figure.form for one in baselines(resolve("workspace"))] == ["loss", "share"]


def test_provenance_of_uncommitted_changes(project):
    Path("llm/model.py").write_text("two\n")
    Path("reports/pretrain/metrics.json").write_text("{}")  # a result, not a source
    found = provenance(resolve("workspace"))
    assert found.dirty == [("llm/model.py", "+1 -1")]
    assert "-one\n+two" in found.diff
    assert found.sources["data/spam"] == "aa"
    assert found.versions["torch"]


def test_a_project_without_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write_run()
    assert "git tells of no commit" in page()


def test_a_project_in_which_nothing_has_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no stage has run"):
        page()


def test_charts_hold_one_quantity_each_in_the_order_of_the_stages(project):
    header = ["step", "lr", "train_loss", "val_loss", "train_margin", "val_margin"]
    files.write_csv("reports/finetune_spam/curve.csv", header, [[0, 0.1, 2, 3, 0, 0], [1, 0.1, 1, 2, 1, 1]])
    files.write_csv("reports/check/loss.csv", ["step", "val_loss"], [[0, 1], [1, 0]])
    found = {name: [curve.column for curve in drawn] for name, drawn in read(resolve("workspace")).items()}
    assert list(found.items()) == [
        ("check/loss", ["val_loss"]),
        ("finetune_spam/curve: loss", ["train_loss", "val_loss"]),
        ("finetune_spam/curve: margin", ["train_margin", "val_margin"]),
        ("pretrain/loss", ["val_loss"]),  # a report of no stage in dvc.lock comes last
    ]
