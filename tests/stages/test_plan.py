"""`llm plan` before and after a run, and the run in MLflow, found by `llm trace`."""

import re

import pytest

from llm.tracking import lookup
from tests.stages.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project.small(tmp_path_factory.mktemp("plan") / "project")
    made.set(tracking={"enabled": True})
    made.run("llm", "repro", "tokenize@spam", "pretrain")
    return made


@pytest.mark.long
def test_the_expectation_stands_beside_what_it_took(project, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (run,) = lookup.finished(project.folder, "tokenize@spam")
    assert run.metrics["took/seconds"] > 0.1
    assert run.metrics["took/megabytes"] > 10
    assert run.metrics["expected/seconds"] > 0.1
    assert run.outputs.keys() == {"data/spam", "reports/tokenize/spam.json"}


def test_nothing_is_planned_when_nothing_changed(project):
    assert (
        project.run("llm", "plan", "pretrain", cold=False).stdout
        == "Nothing to run: all 5 stages are as in dvc.lock.\n"
    )


def test_a_longer_training_is_expected_to_take_longer(project):
    other = Project(project.folder)
    epochs = 1
    other.set(pretrain={"epochs": 5})
    try:
        out = other.run("llm", "plan", "pretrain", cold=False).stdout
    finally:
        other.set(pretrain={"epochs": epochs})
    assert "pretrain.epochs 1 → 5" in out
    factor = float(re.search(r"times\s+([0-9.]+)", out).group(1))
    assert 3 < factor < 5.1  # evaluations grow less
    assert re.search(r"2 of 5 stages run; about \d", out)


def test_a_first_run_is_expected_by_the_speed_of_this_machine(project, tmp_path):
    other = project.copy(tmp_path / "other")  # without the record
    other.set(pretrain={"epochs": 3})
    assert "GFLOP/s" in other.run("llm", "plan", "pretrain", cold=False).stdout


def test_a_trace_names_the_run_and_a_run_the_trace(project, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (run,) = lookup.finished(project.folder, "pretrain")
    out = project.run("llm", "trace", "models/pretrain", cold=False).stdout
    assert run.run_id in out
    again = project.run("llm", "trace", run.run_id, cold=False).stdout
    assert again.splitlines()[0] == out.splitlines()[0]
    said = project.run("llm", "trace", "f" * 32, ok=False, cold=False)
    assert said.returncode == 2
