"""A stage on two ranks: what fails, and what a second run makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm.common.errors import DIVERGED, INTERRUPTED, RESOURCES, SERVICE, TERMINATED
from tests.stages.project import Project

pytestmark = pytest.mark.slow
SECONDS = 300.0  # far more than any of these takes


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which two ranks can pretrain."""
    made = Project.small(
        tmp_path_factory.mktemp("ranks") / "project",
        runtime={"ranks": 2},
        pretrain={"epochs": 6, "save_every": 5, "eval_every": 50},
    )
    made.repro("tokenize@corpus")
    return made


@pytest.fixture(scope="module")
def unbroken(tokenized: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of a run that nothing interrupts."""
    made = tokenized.copy(tmp_path_factory.mktemp("unbroken") / "project")
    made.run("stages.pretrain")
    return outputs(made)


def outputs(project: Project) -> dict[str, bytes]:
    return project.bytes("models", "reports/pretrain")


def started(project: Project, number: int = 2, **options: Any) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """The stage, in the middle of its training, and its ranks in order."""
    stage = project.start("stages.pretrain", **options)
    end = time.monotonic() + SECONDS
    states = project.folder / ".work/pretrain/states"
    while not list(states.glob("*/step-*/manifest.json")):
        assert stage.poll() is None, stage.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    ranks = [one for one in psutil.Process(stage.pid).children() if "stages.pretrain" in one.cmdline()]
    assert len(ranks) == number
    return stage, sorted(ranks, key=lambda one: one.environ()["RANK"])


def ended(stage: subprocess.Popen[str], ranks: list[psutil.Process]) -> tuple[int, str]:
    """The code and the last line of the stage; no rank is left."""
    _, said = stage.communicate(timeout=SECONDS)
    psutil.wait_procs(ranks, timeout=60)
    assert not any(one.is_running() for one in ranks)
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, said
    return stage.returncode, lines[0]


@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_a_killed_rank_ends_all_and_a_second_run_resumes(
    tokenized: Project, unbroken: dict[str, bytes], tmp_path: Path, sharding: str
) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(runtime={"sharding": sharding})
    stage, ranks = started(made)
    ranks[1].kill()
    code, line = ended(stage, ranks)
    assert code == RESOURCES
    assert "rank 1 of 2: was killed (SIGKILL; perhaps memory ran out), nothing was published" in line
    assert not (made.folder / "models/pretrain").exists()
    again = made.run("stages.pretrain")
    assert "resuming after step" in again.stderr
    if sharding == "ddp":
        assert outputs(made) == unbroken


def test_a_run_goes_on_from_a_state_saved_right_after_an_evaluation(tokenized: Project, tmp_path: Path) -> None:
    """FSDP leaves the weights outside the blocks whole on each rank then."""
    made = tokenized.copy(tmp_path / "project")
    made.set(runtime={"sharding": "fsdp"}, pretrain={"eval_every": 5})
    whole = made.copy(tmp_path / "whole")
    whole.run("stages.pretrain")
    stage, ranks = started(made)
    ranks[1].kill()
    ended(stage, ranks)
    assert "resuming after step" in made.run("stages.pretrain").stderr
    assert outputs(made) == outputs(whole)


@pytest.mark.parametrize(
    ("saved", "other"),
    [
        ("ddp", {"ranks": 1}),
        pytest.param("ddp", {"sharding": "fsdp"}, marks=pytest.mark.long),
        pytest.param("fsdp", {"sharding": "ddp"}, marks=pytest.mark.long),
    ],
)
def test_a_signal_saves_and_other_ranks_go_on(
    tokenized: Project, unbroken: dict[str, bytes], tmp_path: Path, saved: str, other: dict[str, Any]
) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(runtime={"sharding": saved})
    stage, ranks = started(made)
    stage.send_signal(signal.SIGTERM)
    code, line = ended(stage, ranks)
    assert code == TERMINATED
    step = re.search(r"step (\d+) is saved", line)
    assert step
    changed = made.copy(tmp_path / "other")
    (changed.folder / ".work").mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", made.folder / ".work", changed.folder], check=True)
    changed.set(runtime=other)
    said = changed.run("stages.pretrain").stderr
    assert f"resuming after step {step[1]}" in said
    assert f"it was saved on 2 ranks ({saved})" in said
    report = "reports/pretrain/metrics.json"
    losses = [json.loads(found[report])["val_loss"] for found in (outputs(changed), unbroken)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    if saved == "ddp":
        made.run("stages.pretrain")
        assert outputs(made) == unbroken


def test_a_stopped_rank_ends_all_within_the_limit(tokenized: Project, tmp_path: Path) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(launch={"timeout_seconds": 5})
    stage, ranks = started(made)
    ranks[1].suspend()
    before = time.monotonic()
    code, line = ended(stage, ranks)
    assert code == SERVICE
    assert "rank 0 of 2: waited in vain for rank 1" in line
    assert time.monotonic() - before < 60  # the limit, and the launcher's 30 seconds for a rank to end by itself


def test_a_signal_to_one_rank_stops_all(tokenized: Project, tmp_path: Path) -> None:
    stage, ranks = started(tokenized.copy(tmp_path / "project"))
    ranks[1].send_signal(signal.SIGINT)
    code, line = ended(stage, ranks)
    assert code == INTERRUPTED
    assert re.search(r"interrupted: by SIGINT; step \d+ is saved, nothing was published", line)


def test_a_stop_that_a_rank_does_not_follow_is_told(tokenized: Project, tmp_path: Path) -> None:
    made = tokenized.copy(tmp_path / "project")
    stage, ranks = started(made, env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"})
    ranks[1].suspend()
    stage.send_signal(signal.SIGTERM)
    code, line = ended(stage, ranks)
    assert code == TERMINATED
    assert "terminated: by SIGTERM; the ranks were killed before they had saved, nothing was published" in line


def test_a_rank_that_raises_is_the_one_error(tokenized: Project, tmp_path: Path) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(pretrain={"lr": 1e30, "clip_norm": None, "warmup_steps": 0})
    done = made.run("stages.pretrain", ok=False)
    assert done.returncode == DIVERGED
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "pretrain.lr: training diverged" in line


def test_ranks_die_with_their_stage(tokenized: Project, tmp_path: Path) -> None:
    stage, ranks = started(tokenized.copy(tmp_path / "project"))
    os.kill(stage.pid, signal.SIGKILL)
    stage.communicate(timeout=SECONDS)
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


def test_ranks_that_have_just_started_end_with_their_stage(tokenized: Project, tmp_path: Path) -> None:
    made = tokenized.copy(tmp_path / "project")
    stage = made.start("stages.pretrain")
    launcher, end = psutil.Process(stage.pid), time.monotonic() + SECONDS
    while len(ranks := launcher.children()) < 2:
        assert time.monotonic() < end
        time.sleep(0.001)
    launcher.kill()  # before they are so far that the kernel would tell them
    _, alive = psutil.wait_procs(ranks, timeout=SECONDS / 2)
    for one in alive:
        one.kill()
    assert not alive


def test_ranks_that_torchrun_started_are_joined(tokenized: Project, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    made = tokenized.copy(tmp_path / "project")
    words = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    made.run("torch.distributed.run", *words, "-m", "stages.pretrain")
    assert outputs(made) == unbroken
