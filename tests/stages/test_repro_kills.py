"""`dvc repro` of the whole pipeline under random kills and random damage: it ends with the bytes of a quiet rebuild."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm.cli.repro import chapters
from tests.mutations import mutate_bytes
from tests.stages.project import Project

pytestmark = pytest.mark.long

KILLS = 30
HOW = ("stage", "dvc", "group", "SIGTERM", "SIGINT")  # SIGKILL to one or all of them, or a signal to all
ENDLESS = 600.0  # seconds; no rebuild takes so long
TRAINING = ("pretrain", "finetune_spam", "finetune_instruct")
RAN, FAILED = re.compile("Running stage '([^']+)'"), re.compile("failed to reproduce '([^']+)'")
LINK_TRIAL = re.compile(r"(.*/)?\.[\w-]{22}\.tmp")
RESULTS = ("dvc.lock", "data", "models", "reports", ".check")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke profile on a part of the sample, nothing of it built; training long enough to be hit."""
    return Project.small(
        tmp_path_factory.mktemp("kills") / "plain",
        pretrain={"save_every": 10, "epochs": 3},
        finetune_spam={"save_every": 5, "epochs": 4},
        finetune_instruct={"save_every": 5, "epochs": 8},
    )


@pytest.fixture(scope="module")
def built(plain: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = plain.copy(tmp_path_factory.mktemp("kills") / "built")
    project.repro()
    return project


@dataclass(frozen=True)
class Running:
    """A process of the group of a `dvc repro`."""

    pid: int
    words: list[str]

    @property
    def stage(self) -> str | None:
        """The stage that the process runs, if it is one."""
        at = self.words.index("-m") + 1 if "-m" in self.words[:3] else 0
        name = self.words[at] if at else ""
        return name.removeprefix("stages.") if name.startswith("stages.") else None


def running(group: int) -> list[Running]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            if os.getpgid(pid) == group and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(Running(pid, (folder / "cmdline").read_text().split("\0")))
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
    return found


def disturb(project: Project, after: float, chance: random.Random) -> tuple[str, str | None, str]:
    """Start `dvc repro`, strike `after` seconds; how (`none`: it was done), in which stage, and what it said."""
    log = project.folder / ".work-log"
    with log.open("w+") as out:
        words = ["repro", *chapters(project.folder / "dvc.yaml")]
        process = project.start("dvc", *words, start_new_session=True, stdout=out, stderr=out)
        how, end = chance.choice(HOW), time.monotonic() + after
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        there = running(process.pid)
        stage = next((one.stage for one in there if one.stage), None)
        if process.poll() is None:
            if how == "stage" and stage:
                os.kill(next(one.pid for one in there if one.stage), signal.SIGKILL)
            elif how in ("stage", "dvc"):
                os.kill(process.pid, signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL if how == "group" else signal.Signals[how])
        else:
            how = "none"
        process.wait()
        patience = time.monotonic() + 60
        while running(process.pid):  # a stage whose dvc is gone saves and ends
            assert time.monotonic() < patience, [one.words for one in running(process.pid)]
            time.sleep(0.05)
        text = log.read_text()
        if how == "none" and process.returncode and project.run("llm", "repair").stdout:  # dvc was killed as it wrote
            how = "repaired"
        assert how != "none" or process.returncode == 0, text[-2000:]
    log.unlink()
    return how, stage, text


def results(project: Project) -> dict[str, bytes]:
    """What was built; without the files by which dvc tries out a type of link, one of which a kill may leave."""
    found = project.bytes(*RESULTS)
    return {k: v for k, v in found.items() if not (k.startswith("data/sample/") or LINK_TRIAL.fullmatch(k))}


@dataclass
class Toll:
    """What the kills have hit so far."""

    struck: Counter[str] = field(default_factory=Counter)  # by how
    hit: Counter[str | None] = field(default_factory=Counter)  # by stage
    resumed: int = 0

    def is_enough(self) -> bool:
        """At least KILLS, of every kind, with trainings among them that went on where they had been."""
        trainings = sum(self.hit[stage] for stage in TRAINING)
        return self.struck.total() >= KILLS and self.struck.keys() >= set(HOW) and trainings >= 5 and self.resumed >= 3


def test_killed_anywhere_a_repro_ends_with_the_same_bytes(plain, built, tmp_path):
    good, chance, toll = results(built), random.Random(5), Toll()
    while not toll.is_enough():
        assert toll.struck.total() < 3 * KILLS, toll
        project = plain.copy(tmp_path / "project")
        how = ""
        while how != "none":
            after = ENDLESS if toll.is_enough() else chance.uniform(2, 9)
            how, stage, said = disturb(project, after, chance)
            toll.resumed += "resuming after step" in said
            if how not in ("none", "repaired"):
                toll.struck[how] += 1
                toll.hit[stage] += 1
        assert results(project) == good, toll
        shutil.rmtree(project.folder)
    print(toll)


def outputs(lock: dict[str, Any], stages: set[str]) -> tuple[str, ...]:
    return tuple(out["path"] for stage in stages for out in lock[stage]["outs"])


def harmed(good: dict[str, bytes], now: dict[str, bytes], new: tuple[str, ...], gone: tuple[str, ...]) -> list[str]:
    """The files that are other ones though no stage built them anew, or absent though none that failed owns them."""
    changed = [name for name, data in now.items() if good.get(name) != data]
    lost = [name for name in good.keys() - now.keys() if not name.startswith(gone)]
    return [name for name in changed + lost if name != "dvc.lock" and not name.startswith(new)]


def test_damaged_inputs_cost_no_good_output(built, tmp_path):
    """Twenty mutations of params.yaml and the data, one after the other: refused, and what was built is still there."""
    project = built.copy(tmp_path / "project")
    good, refused = results(project), 0
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    pieces = [b"", b"\n", b"\t", b"{", b"]", b": ", b"\xff", b"null", b"-1"]
    inputs = ("params.yaml", "data/sample/spam.tsv", "data/sample/instructions.json", "data/sample/corpus.txt")
    for seed in range(20):
        chance = random.Random(seed)
        path = project.folder / inputs[seed % len(inputs)]
        sound = path.read_bytes()
        path.write_bytes(mutate_bytes(sound, chance, pieces))
        done = project.run("dvc", "repro", "tokenize", ok=False)  # `check` and the readers of all data
        if done.returncode:
            refused += 1
            lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "ERROR: "))]
            assert lines, done.stderr
            assert "Traceback" not in done.stderr
            failed = set(FAILED.findall(done.stderr))
            new, gone = outputs(lock, set(RAN.findall(done.stdout)) - failed), outputs(lock, failed)
            assert harmed(good, results(project), new, gone) == [], done.stderr
            assert harmed(good, {}, new, gone) != []  # the control
        path.write_bytes(sound)
        project.repro("tokenize")
        assert results(project) == good, seed
    assert 8 <= refused <= 19
