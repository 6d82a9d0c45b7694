"""The stages of appendix F on the smoke profile, as their user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.common import files, params, profiles
from llm.common.errors import UserError
from llm.reason.problems import SPLITS
from stages.schema import AllParams
from stages.sections.reason_problems import ReasonProblemsConfig
from tests.stages.project import ROOT, Project

MODELS = ("base", "control", "student", "alone")
STAGES = ["reason_control", "reason_problems", "reason_sft", *(f"reason_evaluate@{name}" for name in MODELS)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """The project after `dvc repro reason_evaluate`, and the stages that ran."""
    made = Project.create(tmp_path_factory.mktemp("reasoning") / "project")
    profiles.use(ROOT / "configs/smoke.yaml", AllParams, made.folder / "params.yaml")
    made.set(tracking={"enabled": False}, runtime={"threads": 1, "kernels": "native"})
    return made, made.repro("reason_evaluate")


@pytest.mark.long
def test_the_target_builds_appendix_f_alone(built: tuple[Project, list[str]]) -> None:
    assert set(STAGES) <= set(built[1])
    assert {name for name in built[1] if not name.startswith("reason_")} == {"check", "download@reasoning"}


@pytest.mark.slow
def test_reports_are_complete(built: tuple[Project, list[str]]) -> None:
    reports = built[0].folder / "reports"
    found = files.read_json(reports / "reason_problems/metrics.json")
    assert (found["n_train"], found["n_test"], found["n_overlap"]) == (64, 16, 0)
    for name in ("student", "alone"):
        metrics = files.read_json(reports / f"reason_distill/{name}/metrics.json")
        assert (metrics["n_gold"], metrics["n_traces"] > 0) == (64, name == "student")
    for name in MODELS:
        metrics = files.read_json(reports / f"reason_evaluate/{name}/metrics.json")
        assert metrics["accuracy_n"] == 16
        rows = (reports / f"reason_evaluate/{name}/scaling.csv").read_text().splitlines()
        assert len(rows) == 1 + 3 + 2 * 2 * 4  # three greedy forms; two forms, 1 and 2 samples, four methods
        answers = files.read_json(built[0].folder / f"data/reason_answers/{name}/answers.json")
        assert sum(one["right"] for one in answers) / 16 == pytest.approx(metrics["accuracy"])


@pytest.mark.slow
def test_a_second_run_of_the_target_runs_nothing(built: tuple[Project, list[str]]) -> None:
    assert built[0].repro("reason_evaluate") == []


@pytest.mark.slow
def test_problems_of_a_file_and_another_evaluated_model(built: tuple[Project, list[str]], tmp_path: Path) -> None:
    project = built[0].copy(tmp_path / "project")
    project.set(reason_problems={"family": "file", "verifier": "number"}, reason_models={"twice": "models/reason_base"})
    done = project.run("dvc", "repro", "reason_problems").stdout
    assert "Running stage 'reason_problems'" in done
    assert files.read_json(project.folder / "reports/reason_problems/metrics.json")["n_test"] == 50
    done = project.run("dvc", "repro", "reason_sft", ok=False)
    assert "train.jsonl: the split train has no problem | fix: " in done.stderr


def test_no_problems_at_all_is_refused() -> None:
    config = params.load(ROOT / "params.yaml")["reason_problems"] | dict.fromkeys(SPLITS, 0)
    with pytest.raises(UserError, match=r"train: 0, and so are rl, validation, test"):
        params.parse(ReasonProblemsConfig, config)
    assert params.parse(ReasonProblemsConfig, config | {"family": "file"})
