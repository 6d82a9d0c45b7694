"""The stage in mode book: its reports, and a run that was killed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.stages.forked import build, run
from tests.stages.project import Project


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Project:
    """The smoke project on a part of the sample, pretrained in mode book."""
    made = Project.small(
        tmp_path_factory.mktemp("book") / "project",
        model={"dropout": 0.1, "attention": "eager", "init": "torch"},
        pretrain={"mode": "book", "epochs": 2, "batch_size": 100, "eval_every": 2, "save_every": None}
        | {"sample_after": "epoch"},
    )
    build(made, forks, "check", "download corpus", "tokenizer", "tokenize_corpus", "pretrain")
    return made


def column(project: Project, report: str) -> list[int]:
    with (project.folder / "reports/pretrain" / report).open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_reports_count_steps_as_the_book_does(built: Project) -> None:
    assert built.metrics("pretrain")["train_batches"] == 4
    assert column(built, "loss.csv") == [-1, 0, 2, 4, 6, 7]
    assert column(built, "samples.csv") == [3, 7]


@pytest.mark.slow
def test_exact_mode_counts_updates_and_trains_otherwise(built: Project, forks: Forks, tmp_path: Path) -> None:
    project = built.copy(tmp_path / "project")
    project.set(pretrain={"mode": "exact"})
    assert "saves no states" not in run(project, forks, "pretrain").err
    assert column(project, "loss.csv") == [0, 2, 4, 6, 8]
    assert column(project, "samples.csv") == [4, 8]
    weights = "models/pretrain/model.safetensors"
    trained = project.bytes(weights)
    assert trained != built.bytes(weights)
    project.set(pretrain={"sample_after": "evaluation"})
    run(project, forks, "pretrain")
    assert column(project, "samples.csv") == column(project, "loss.csv") == [0, 2, 4, 6, 8]
    assert project.bytes(weights) == trained


@pytest.mark.slow
def test_killed_while_it_publishes_it_starts_again_and_says_so(built: Project, forks: Forks, tmp_path: Path) -> None:
    project, good = built.copy(tmp_path / "project"), built.bytes()
    shutil.rmtree(project.folder / "models/pretrain")
    assert run(project, forks, "pretrain", kill_at=3).killed
    again = run(project, forks, "pretrain").err
    assert "saves no states: a stopped run starts over" in again
    assert "step -1: " in again
    assert project.bytes() == good
