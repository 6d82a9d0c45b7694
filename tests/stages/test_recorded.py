"""A pipeline that DVC ran, as MLflow, `llm plan` and `llm trace` show it."""

import re
import time

import pytest

from llm.tracking import spool
from tests.stages.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project.small(tmp_path_factory.mktemp("recorded") / "project")
    made.set(tracking={"enabled": True})
    made.run("llm", "repro", "tokenize@spam", "pretrain")
    return made


@pytest.fixture
def recorded(project, monkeypatch):
    """How to ask MLflow for the runs of the project, the first one first."""
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    return client, lambda: client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def finished(recorded, stage):
    _, runs = recorded
    (run,) = [one for one in runs() if one.data.tags.get("stage") == stage and one.info.status == "FINISHED"]
    return run


def parents(runs):
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.long
def test_the_expectation_stands_beside_what_it_took(recorded):
    run = finished(recorded, "tokenize@spam")
    assert run.data.metrics["took/seconds"] > 0.1
    assert run.data.metrics["took/megabytes"] > 10
    assert run.data.metrics["expected/seconds"] > 0.1
    outputs = {tag.removeprefix(spool.OUTPUT) for tag in run.data.tags if tag.startswith(spool.OUTPUT)}
    assert outputs == {"data/spam", "reports/tokenize/spam.json"}


def test_nothing_is_planned_when_nothing_changed(project):
    out = project.run("llm", "plan", "pretrain", cold=False).stdout
    assert out == "Nothing to run: all 5 stages are as in dvc.lock.\n"


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


def test_code_that_check_has_seen_is_planned_until_its_stages_have_run(project, tmp_path):
    other = project.copy(tmp_path / "other")
    other.set(tracking={"enabled": False})
    with (other.folder / "llm/data/corpus_split.py").open("a") as code:
        code.write("\nADDED = 1\n")
    planned = re.compile(r"^(\S+) .*\bcode\b", re.MULTILINE)
    assert "tokenize@corpus" in planned.findall(other.run("llm", "plan", "pretrain").stdout)
    other.repro("check")
    found = planned.findall(other.run("llm", "plan", "pretrain").stdout)
    assert found == ["tokenize@corpus"]
    assert [name for name in other.repro("pretrain") if name != "check"] == ["tokenize@corpus"]
    assert other.run("llm", "plan", "pretrain").stdout.startswith("Nothing to run")


def test_a_trace_names_the_run_and_a_run_the_trace(project, recorded):
    run = finished(recorded, "pretrain").info.run_id
    out = project.run("llm", "trace", "models/pretrain", cold=False).stdout
    assert run in out
    again = project.run("llm", "trace", run, cold=False).stdout
    assert again.splitlines()[0] == out.splitlines()[0]
    said = project.run("llm", "trace", "f" * 32, ok=False, cold=False)
    assert said.returncode == 2


def test_repro_logs_its_report_and_adds_no_run_where_nothing_ran(project, recorded):
    client, runs = recorded
    before = runs()
    (parent,) = parents(before)
    assert "report.html" in [artifact.path for artifact in client.list_artifacts(parent.info.run_id)]
    page = (project.folder / "mlartifacts" / parent.info.run_id / "artifacts/report.html").read_text()
    assert "python -m stages.pretrain" in page
    project.run("llm", "repro", "tokenize@spam", "pretrain")
    assert len(runs()) == len(before)


def test_a_run_has_the_figures_of_the_stages_that_did_not_run(project, recorded):
    project.set(tokenize={"spam": {"train_fraction": 0.6}})
    assert project.repro("tokenize@spam", "pretrain") == ["check", "tokenize@spam"]
    deadline = time.monotonic() + 300
    while True:  # the recorder completes the runs after dvc has ended
        runs = recorded[1]()
        first, second = (run.data for run in parents(runs))
        if "pretrain.val_loss" in second.metrics and "made_by.pretrain" in second.tags:
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    differ = {key for key in first.params | second.params if first.params.get(key) != second.params.get(key)}
    assert differ == {"tokenize.spam.train_fraction"}
    assert first.metrics.keys() == second.metrics.keys()
    assert first.metrics["pretrain.val_loss"] == second.metrics["pretrain.val_loss"] > 0
    assert first.metrics != second.metrics
    assert "pretrain" in second.tags["cached"].split(", ")
    assert "tokenize@spam" not in second.tags["cached"].split(", ")
    (maker,) = [run for run in runs if run.info.run_name == "pretrain"]
    assert second.tags["made_by.pretrain"] == maker.info.run_id
