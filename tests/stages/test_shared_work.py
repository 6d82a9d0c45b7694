"""The stages of preferences, reasoning and answers: two ranks make of the same inputs what one process makes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.stages.project import Project
from tests.stages.test_dpo import BEFORE
from tests.stages.test_reason_rl import EASY, SHORT, project_of

pytestmark = pytest.mark.long
FEW = {"max_new_tokens": 8, "updates": 6, "gold": 40, "traces": 150}


def run(project: Project, stage: str) -> str:
    module, *item = stage.split()
    return project.run(f"stages.{module}", *item).stderr


def written(project: Project, ranks: int, sharding: str, stage: str, *outputs: str) -> dict[str, Any]:
    """The outputs of a stage on so many ranks."""
    for output in outputs:
        shutil.rmtree(project.folder / output, ignore_errors=True)
    project.set(runtime={"ranks": ranks, "sharding": sharding})
    said = run(project, stage)
    work = project.folder / ".work" / stage.replace(" ", "@")
    assert (work / "ranks").is_dir() == (ranks > 1), said
    shutil.rmtree(work)
    return project.bytes(*outputs)


def check_equal(project: Project, stage: str, *outputs: str, sharding: str = "ddp") -> None:
    """The same bytes: answers are computed in the same batches."""
    assert written(project, 1, sharding, stage, *outputs) == written(project, 2, sharding, stage, *outputs)


def check_close(project: Project, stage: str, model: str, report: str, sharding: str = "ddp") -> None:
    """The same numbers up to the order of additions."""
    found = []
    for ranks in (1, 2):
        written(project, ranks, sharding, stage, model)
        found.append(project.metrics(report))
    one, two = found
    assert one == pytest.approx(two, abs=1e-4), stage


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a base that solves some problems, and all settings for a few seconds a stage."""
    made = project_of(
        tmp_path_factory.mktemp("reason") / "project",
        reason_problems=EASY,
        reason_model={"context_length": 24},
        reason_sft={"epochs": 15, "share_with_steps": 1.0, "batch_size": 40, "eval_every": 1000, "lr": 0.004},
        reason_control={"updates": 6},
        reason_rl=SHORT,
        reason_distill={"student": {**FEW, "targets": "soft", "filter": "none"}},
        reason_evaluate={"problems_at_once": 5, "samples": 2, "refine": None},
    )
    run(made, "reason_problems")
    run(made, "reason_sft")
    return made


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_training_with_rewards(taught: Project, tmp_path: Path, sharding: str) -> None:
    project = taught.copy(tmp_path / "project")
    check_close(project, "reason_rl", "models/reason_rl", "reason_rl", sharding)
    assert project.metrics("reason_rl")["updates"] == 12


def test_teaching(taught: Project, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    check_close(project, "reason_control", "models/reason_control", "reason_control")
    check_close(project, "reason_sft", "models/reason_base", "reason_sft")


def test_a_student_learns_from_the_same_traces(taught: Project, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    check_equal(project, "reason_distill student", "data/reason_traces/student")
    assert len((project.folder / "data/reason_traces/student/traces.jsonl").read_text().splitlines()) > 10
    check_close(project, "reason_distill student", "models/reason_student", "reason_distill/student")


def test_problems_are_answered_by_all_ranks(taught: Project, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    outputs = ("data/reason_answers/base", "reports/reason_evaluate/base")
    check_equal(project, "reason_evaluate base", *outputs)


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.small(
        tmp_path_factory.mktemp("respond") / "project",
        finetune_instruct={"init_from": "models/pretrain"},
        preference_base={"batch_size": 16},
        finetune_dpo={"lr": 0.001, "batch_size": 4, "eval_every": 3, "save_every": 3, "keep": "best", "answers": 40},
        respond={"batch_size": 3, "decoding": {"temperature": 1.0, "max_new_tokens": 12}},
    )
    for stage in [*BEFORE, "pretrain", "finetune_instruct", "preferences", "preference_base"]:
        run(made, stage)
    return made


def test_instructions_are_answered_by_all_ranks(instructed: Project, tmp_path: Path) -> None:
    project = instructed.copy(tmp_path / "project")
    check_equal(project, "respond", "data/responses", "reports/respond")


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_preferences(instructed: Project, tmp_path: Path, sharding: str) -> None:
    project = instructed.copy(tmp_path / "project")
    check_close(project, "preference_base", "models/preference_base", "preference_base", sharding)
    check_close(project, "finetune_dpo", "models/dpo", "finetune_dpo", sharding)
