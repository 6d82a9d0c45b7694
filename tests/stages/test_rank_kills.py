"""Two ranks that are killed again and again end with the bytes of a run that nothing interrupts; KILLS says how often.

Saved states can also be used by another number of ranks.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.stages.project import Project
from tests.stages.test_ranks import SECONDS, ended, outputs, started, tokenized

__all__ = ["tokenized"]  # a fixture
pytestmark = pytest.mark.long
KILLS = int(os.environ.get("KILLS", "3"))  # for each sharding


def killed(project: Project, draw: random.Random) -> bool:
    """Start the stage, and kill it or a rank at a random time, mostly in training; False if it ended before."""
    before = states(project)
    stage = project.start("stages.pretrain")
    if draw.random() < 0.8:
        end = time.monotonic() + SECONDS
        while states(project) <= before and stage.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
    time.sleep(draw.uniform(0, 4))
    everyone = [psutil.Process(stage.pid)] if stage.poll() is None else []
    everyone += everyone[0].children() if everyone else []
    if everyone:
        draw.choice(everyone).kill()
    _, said = stage.communicate(timeout=SECONDS)
    _, alive = psutil.wait_procs(everyone[1:], timeout=10)
    assert not alive
    if everyone and stage.returncode:
        return True
    assert stage.returncode == 0, said
    return False


def states(project: Project) -> set[Path]:
    return set((project.folder / ".work/pretrain/states").glob("*/step-*/manifest.json"))


def reset(project: Project) -> None:
    for name in (".work", "models", "reports/pretrain"):
        shutil.rmtree(project.folder / name, ignore_errors=True)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_killed_at_random(tokenized: Project, tmp_path: Path, sharding: str) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(runtime={"sharding": sharding})
    made.run("stages.pretrain")
    good, draw, kills, compared = outputs(made), random.Random(sharding), 0, 0
    reset(made)
    while kills < KILLS:
        if killed(made, draw):
            kills += 1
        else:
            assert outputs(made) == good
            compared += 1
            reset(made)
    made.run("stages.pretrain")
    assert outputs(made) == good
    print(f"{sharding}: {kills} kills, {compared + 1} runs compared")


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_saved_on_two_ranks_it_goes_on_with_one_and_with_four(
    tokenized: Project, tmp_path: Path, sharding: str
) -> None:
    made = tokenized.copy(tmp_path / "project")
    made.set(runtime={"sharding": sharding})
    stage, ranks = started(made)
    stage.send_signal(signal.SIGTERM)
    _, line = ended(stage, ranks)
    step = re.search(r"step (\d+) is saved", line)
    assert step
    parts = {"ddp": ["weights"], "fsdp": ["weights-0000-of-0002", "weights-0001-of-0002"]}[sharding]
    (folder,) = (made.folder / ".work/pretrain/states").glob(f"*/step-*{step[1]}")
    assert sorted(path.stem for path in folder.glob("weights*")) == parts
    curves = []
    for number in (2, 1, 4):
        other = made.copy(tmp_path / str(number))
        shutil.copytree(made.folder / ".work", other.folder / ".work")
        other.set(runtime={"ranks": number})
        said = other.run("stages.pretrain").stderr.splitlines()
        assert f"pretrain: resuming after step {step[1]}" in said
        told = f"it was saved on 2 ranks ({sharding}): the weights will not be those of an unbroken run, bit for bit"
        assert said.count(f"pretrain: {told}") == (number != 2)
        with (other.folder / "reports/pretrain/loss.csv").open(newline="") as file:
            curves.append([[float(value) for value in row.values()] for row in csv.DictReader(file)])
    assert len(curves[0]) > 1
    for curve in curves[1:]:
        for row, expected in zip(curve, curves[0], strict=True):
            assert row == pytest.approx(expected, abs=1e-4)
