"""The three training stages with keep best and patience: what they report and publish, and one that was killed."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.stages.forked import build, run
from tests.stages.project import Project

pytestmark = pytest.mark.slow

STAGES = ("pretrain", "finetune_spam", "finetune_instruct")
ITEMS = ("corpus", "spam", "instructions")
BEFORE = ["check", *(f"download {item}" for item in ITEMS), "tokenizer", *(f"tokenize_{item}" for item in ITEMS)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Project:
    """The smoke project on a part of the sample; learning rates that are too high end each training early."""
    jumpy = {"keep": "best", "patience": 1, "schedule": "constant", "warmup_steps": 0, "eval_every": 4, "epochs": 4}
    tuned = {**jumpy, "eval_batches": None, "save_every": 3, "init_from": "models/pretrain"}
    made = Project.small(
        tmp_path_factory.mktemp("keep") / "project",
        pretrain={**jumpy, "lr": 0.15},
        finetune_spam={**tuned, "lr": 0.014},
        finetune_instruct={**tuned, "lr": 0.03},
    )
    build(made, forks, *BEFORE, *STAGES)
    return made


def rows(project: Project, report: str) -> list[dict[str, float]]:
    with (project.folder / "reports" / report).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("stage", STAGES)
def test_the_report_is_that_of_the_best_evaluation_of_a_run_that_ended_early(stage: str, built: Project) -> None:
    curve, told = rows(built, f"{stage}/loss.csv"), built.metrics(stage)
    best = min(curve, key=lambda row: row["val_loss"])
    assert 0 < best["step"] == curve[-2]["step"], "one evaluation later the run ends"
    assert told["stopped_early"] is True
    assert told["kept_step"] == best["step"]
    assert told["val_loss"] == told["best_val_loss"] == best["val_loss"] < curve[-1]["val_loss"]
    assert told["train_loss"] == best["train_loss"]
    assert told.get("tokens_seen", best["tokens_seen"]) == best["tokens_seen"]


def test_the_predictions_are_those_of_the_kept_weights(built: Project) -> None:
    with (built.folder / "reports/finetune_spam/predictions.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    spam = [(float(row["p_spam"]), row["actual"] == "spam") for row in found]
    loss = -sum(math.log(p if is_spam else 1 - p) for p, is_spam in spam) / len(spam)
    assert loss == pytest.approx(built.metrics("finetune_spam")["val_loss"], rel=1e-4)
    assert loss < 0.99 * rows(built, "finetune_spam/loss.csv")[-1]["val_loss"]


def test_defaults_report_neither(built: Project, forks: Forks, tmp_path: Path) -> None:
    project = built.copy(tmp_path / "project")
    project.set(finetune_instruct={"keep": "last", "patience": None, "epochs": 1})
    assert run(project, forks, "finetune_instruct").code == 0
    told, curve = project.metrics("finetune_instruct"), rows(project, "finetune_instruct/loss.csv")
    assert not {"kept_step", "stopped_early"} & set(told)
    assert told["val_loss"] == curve[-1]["val_loss"]
    assert math.isclose(told["best_val_loss"], min(row["val_loss"] for row in curve))


def test_killed_after_any_of_its_states_it_ends_with_the_same_bytes(
    built: Project, forks: Forks, tmp_path: Path
) -> None:
    project, good = built.copy(tmp_path / "project"), built.bytes()
    curve = rows(built, "finetune_instruct/loss.csv")
    end, kills = f"resuming after step {curve[-1]['step']:.0f}", 0
    while True:  # a state further each time, until the last is whole
        for name in (".work", "models/instruct", "reports/finetune_instruct"):
            shutil.rmtree(project.folder / name, ignore_errors=True)
        (project.folder / ".work").mkdir()
        kills += 5
        assert run(project, forks, "finetune_instruct", kill_at=kills).killed
        again = run(project, forks, "finetune_instruct").err
        assert project.bytes() == good, kills
        if end in again:
            break
    assert kills > 10
