"""Training with rewards: what it needs, what ends it, and that it leaves the same bytes however it was interrupted."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llm.common import files, profiles
from llm.common.errors import DATA, DIVERGED, USAGE
from stages.reason_rl import mean_of_updates
from stages.schema import AllParams
from tests.forks import Forks
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow

OUTPUTS = ("models/reason_rl", "reports/reason_rl")
EASY = {"clock": {"hours": 7, "moves": 3}, "train": 280, "rl": 400, "validation": 100, "test": 24}
SHORT: dict[str, Any] = {  # a few seconds, with answers that live
    "steps": 6,
    "problems_at_once": 4,
    "group": 8,
    "eval_every": 2,
    "save_every": 3,
    "val_samples": 2,
    "max_new_tokens": 8,
    "max_dead": 0.9,
    "updates": 2,
    "kl": 0.01,
}


def project_of(folder: Path, **changes: Any) -> Project:
    made = Project.create(folder)
    profiles.use(ROOT / "configs/smoke.yaml", AllParams, made.folder / "params.yaml")
    made.set(tracking={"enabled": False}, runtime={"threads": 1, "kernels": "native"})
    made.set(**changes)
    return made


def run(project: Project, forks: Forks, stage: str) -> str:
    ended = forks.run(project.folder, f"stages.{stage}")
    assert ended.code == 0, ended.err
    return ended.err


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Project:
    """A project with a base that solves some problems of a short clock, before the training with rewards."""
    teaching = {
        "epochs": 15,
        "share_with_steps": 1.0,
        "batch_size": 40,
        "eval_every": 1000,
        "lr": 0.004,
        "warmup_steps": 5,
    }
    made = project_of(
        tmp_path_factory.mktemp("rl") / "project",
        reason_problems=EASY,
        reason_model={"context_length": 24},
        reason_sft=teaching,
        reason_rl=SHORT,
    )
    for stage in ("reason_problems", "reason_sft"):
        run(made, forks, stage)
    return made


def refused(project: Project, forks: Forks, code: int) -> str:
    """The one line of an error of the stage, which leaves older outputs as they are."""
    for name in OUTPUTS:
        (project.folder / name).mkdir(parents=True)
        (project.folder / name / "older").write_text("older")
    ended = forks.run(project.folder, "stages.reason_rl")
    assert ended.code == code, ended.err
    assert all([path.name for path in (project.folder / name).iterdir()] == ["older"] for name in OUTPUTS)
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.err
    assert lines == ended.err.splitlines()[-1:]
    return lines[0]


# What it needs


def test_a_base_that_knows_nothing_is_refused(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_sft={"epochs": 1, "lr": 0.00001})
    run(project, forks, "reason_sft")
    told = refused(project, forks, DATA)
    assert re.fullmatch(
        r"error: params.yaml: reason_rl.init_from: 100% of 16 groups are dead before the first update \(0% all right, "
        r"100% all wrong\), more than 90%: there is little to learn from rewards \| fix: teach it longer with "
        r"reason_sft, or take easier problems",
        told,
    )


def test_answers_longer_than_the_context_are_refused(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_rl={"max_new_tokens": 17})
    told = refused(project, forks, USAGE)
    assert told == (
        "error: params.yaml: reason_rl.max_new_tokens: 17 and a prompt of 8 tokens exceed the model's context of 24 "
        "| fix: set it to at most 16"
    )


# What it says


def test_dead_groups_are_explained_once(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_sft={"epochs": 1, "lr": 0.00001}, reason_rl={"max_dead": 1.0, "kl": 0.0})
    run(project, forks, "reason_sft")
    said = run(project, forks, "reason_rl")
    assert said.count("the loss is 0, since all 4 groups are dead (0% all right, 100% all wrong)") == 1
    assert project.metrics("reason_rl")["dead_groups"] == 1


def test_a_short_last_row_counts_less() -> None:
    rows = [{"step": 0, "dead": 1.0}, {"step": 25, "dead": 0.1}, {"step": 30, "dead": 0.7}]
    assert mean_of_updates("dead", rows) == pytest.approx((25 * 0.1 + 5 * 0.7) / 30)


def test_reports(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    run(project, forks, "reason_rl")
    curve = (project.folder / "reports/reason_rl/curve.csv").read_text().splitlines()
    columns = "step,reward,dead,all_right,all_wrong,length,ended,entropy,kl,clipped,norm,val_accuracy,val_sampled"
    assert curve[0] == columns
    assert [int(line.split(",")[0]) for line in curve[1:]] == [0, 4, 8, 12]
    metrics = project.metrics("reason_rl")
    rows = [dict(zip(columns.split(","), line.split(","), strict=True)) for line in curve[1:]]
    best = max(rows, key=lambda row: float(row["val_sampled"]))
    assert (metrics["kept_step"], metrics["val_sampled"]) == (int(best["step"]), float(best["val_sampled"]))
    assert metrics["gain"] == pytest.approx(metrics["val_sampled"] - float(rows[0]["val_sampled"]), abs=1e-5)
    assert 0 < float(rows[-1]["kl"]) < 1
    config = files.read_json(project.folder / "models/reason_rl/config.json")
    assert config["prompt"] == {"text": "{instruction}{input}", "answer": "="}


# What ends it

# From this base, 100 steps at the rate of params.yaml raise the share of right answers
LONG = {**SHORT, "steps": 100, "problems_at_once": 8, "eval_every": 10, "save_every": 10, "updates": 1, "kl": 0.0}


def test_rewards_raise_the_accuracy(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_rl=LONG)
    run(project, forks, "reason_rl")
    assert project.metrics("reason_rl")["gain"] > 0.15


@pytest.mark.parametrize(
    ("changes", "key", "fix"),
    [
        ({"lr": 0.004}, "lr", "lower it, to a half for example"),
        ({"lr": 0.005, "updates": 16, "clip": None}, "clip", "set it to [0.2, 0.2], or updates to 1"),
    ],
)
def test_a_collapse_is_an_error(
    changes: dict[str, Any], key: str, fix: str, taught: Project, forks: Forks, tmp_path: Path
) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_rl={**LONG, **changes})
    told = refused(project, forks, DIVERGED)
    assert told.startswith(f"error: params.yaml: reason_rl.{key}: the model collapsed by step ")
    assert "sampled validation accuracy fell from " in told
    assert re.search(r"\(reward 0\.\d\d -> 0\.\d\d, dead 0\.\d\d -> \d\.\d\d, entropy \d\.\d\d -> \d\.\d\d\) \| ", told)
    assert told.endswith(f" | fix: {fix}")


# Interrupted

KILLS = 6


def make_older(project: Project) -> None:
    shutil.rmtree(project.folder / ".work", ignore_errors=True)
    for name in OUTPUTS:
        shutil.rmtree(project.folder / name, ignore_errors=True)
        (project.folder / name).mkdir(parents=True)
        (project.folder / name / "metrics.json").write_text("older")
    (project.folder / "models/reason_rl/no longer written").write_text("older")


@pytest.mark.long
def test_killed_at_any_rename(taught: Project, forks: Forks, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    run(project, forks, "reason_rl")
    good, kills, resumed = project.bytes(), 0, 0
    while True:
        make_older(project)
        if not forks.run(project.folder, "stages.reason_rl", kill_at=kills + 1).killed:
            break
        kills += 1
        resumed += "resuming after step" in run(project, forks, "reason_rl")
        assert project.bytes() == good, kills
        assert not (project.folder / ".work/reason_rl/states").exists()
    assert kills > 15
    assert resumed > 8


@pytest.mark.long
def test_killed_at_any_time(taught: Project, forks: Forks, tmp_path: Path) -> None:
    """While it samples, updates, evaluates or saves; some runs are killed again and again until one gets through."""
    project = taught.copy(tmp_path / "project")
    project.set(reason_rl={"save_every": 1})
    started = time.monotonic()
    run(project, forks, "reason_rl")
    whole, good = time.monotonic() - started, project.bytes()
    draw, killed = random.Random(1), 0
    for _ in range(KILLS):
        make_older(project)
        while forks.run(project.folder, "stages.reason_rl", kill_after=draw.uniform(0.1, 1) * whole).killed:
            killed += 1
        assert project.bytes() == good
    assert killed >= KILLS / 2


def test_a_signal_waits_for_the_last_update_of_a_set(taught: Project, tmp_path: Path) -> None:
    project = taught.copy(tmp_path / "project")
    project.set(reason_rl={"updates": 3, "steps": 10, "save_every": 10, "eval_every": 1})
    project.run("stages.reason_rl")
    good = project.bytes()
    make_older(project)
    with project.start("stages.reason_rl") as process:
        begun = ""
        while "step 3: " not in begun and (line := process.stderr.readline()):
            begun += line
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    saved = re.search(r"error: terminated: by SIGTERM; step (\d+) is saved", err)
    assert saved, begun + err
    assert int(saved[1]) % 3 == 0
    assert f"resuming after step {saved[1]}" in project.run("stages.reason_rl").stderr
    assert project.bytes() == good
