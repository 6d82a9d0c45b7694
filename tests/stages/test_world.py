"""What surrounds a stage: dvc above it, other ranks beside it, and a machine that is another one each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm.common.errors import DATA, UserError, UserErrors, raise_all
from llm.common.ranks import is_first
from llm.data import corpus
from llm.data.tokenizer import fingerprint
from stages import pretrain
from stages.launch import must_start
from stages.run import point_to_source, stage

ROOT = Path(__file__).parents[2]

# Ranks


@pytest.mark.parametrize("started", ["2", "8", "0", "many"])
def test_another_number_of_ranks_is_refused(started, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", started)
    for ranks in (1, 3):
        with pytest.raises(
            UserError, match=f"WORLD_SIZE: {started} processes were started, but this stage has {ranks}"
        ):
            must_start(ranks)


def test_ranks_are_started_unless_they_are_there(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not must_start(1)
    assert must_start(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not must_start(2)


def test_every_rank_has_a_folder_to_work_in(tmp_path, monkeypatch):
    """There it keeps the states of frozen blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stage("finetune_spam", None) as run:
        assert run.work.is_dir()


def test_a_rank_without_a_launcher_is_the_only_process(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_first()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first()


# dvc is killed

# A run of five steps that kills its parent in the third.
CHILD = """
import os, signal, time
from stages.launch import end_with_parent
from tests.llm import tiny_run

kill = os.kill
def kill_parent(_pid, number):
    parent = os.getppid()
    kill(parent, number)
    while os.getppid() == parent:
        time.sleep(0.01)
    time.sleep(1)  # the kernel tells of it right after

end_with_parent()
os.kill = kill_parent
tiny_run.main("spam", "SIGKILL@3")
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def with_a_parent_that_is_killed(folder: Path, **environment: str) -> str:
    """Run CHILD in `folder` below another process; what it said until it ended too."""
    folder.mkdir()
    (folder / "data").write_text("rows")
    inherited = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    with (folder / "stderr").open("w") as err:
        done = subprocess.run(
            [sys.executable, "-c", PARENT, CHILD],
            cwd=folder,
            env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,  # which the child holds open until it ends
            stderr=err,
            check=False,
            timeout=300,
        )
    assert done.returncode == -9
    return (folder / "stderr").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_stage_saves_and_ends_with_its_dvc(tmp_path):
    said = with_a_parent_that_is_killed(tmp_path / "stage", DVC_STAGE="pretrain")
    assert "error: terminated: by SIGTERM; step 3 is saved, nothing was published" in said
    assert not (tmp_path / "stage/published").exists()
    assert "terminated" not in with_a_parent_that_is_killed(tmp_path / "by hand")  # the control: it goes on to its end
    assert (tmp_path / "by hand/published/report.json").exists()


# Another machine

# What of the machine may not reach the outputs; the clock and the host's name are replaced in the process.
WORLD = """
import json, locale, os, socket, sys, time
from tests.llm import tiny_run

shift, host = float(sys.argv[1]), sys.argv[2]
now, now_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: now() + shift, lambda: now_ns() + int(shift * 1e9)
socket.gethostname = lambda: host
mask = os.umask(0)
os.umask(mask)
locale.setlocale(locale.LC_ALL, "")
names = locale.setlocale(locale.LC_ALL)
print(json.dumps([time.gmtime(time.time()).tm_year, time.tzname[0], names, host, os.getcwd(), mask, hash("a")]))
tiny_run.main(sys.argv[3])
"""


def in_world(folder: Path, task: str, shift: float, host: str, mask: int, **environment: str) -> tuple[list, dict]:
    """Facts of a world, and the bytes that a run leaves in it."""
    folder.mkdir()
    (folder / "data").write_text("rows")
    done = subprocess.run(
        [sys.executable, "-c", WORLD, str(shift), host, task],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        umask=mask,
        capture_output=True,
        text=True,
        check=True,
    )
    published = folder / "published"
    found = {str(p.relative_to(published)): p.read_bytes() for p in published.rglob("*") if p.is_file()}
    return json.loads(done.stdout), found


@pytest.mark.slow
def test_nothing_of_the_machine_reaches_the_outputs(tmp_path):
    one = {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}
    two = {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}
    here, expected = in_world(tmp_path / "one", "spam", 0, "here", 0o022, **one)
    there, found = in_world(tmp_path / "the ötherwise", "spam", 1e9, "there", 0o077, **two)
    assert all(a != b for a, b in zip(here, there, strict=True)), (here, there)  # the worlds do differ
    assert len(expected) == 3
    assert found == expected
    _, other = in_world(tmp_path / "other", "instruct", 0, "here", 0o022, **one)
    assert other != expected  # the control: another run leaves other bytes


# Tokens of another tokenizer


def test_tokens_of_another_tokenizer_are_refused(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "CORPUS", tmp_path)
    monkeypatch.setattr(pretrain, "TOKENIZER", vocabulary)
    ids = np.arange(50, dtype=np.uint32)
    corpus.write_shards(tmp_path, "train", ids, 50, corpus.Pins(300, "0" * 64), 1000)
    with pytest.raises(UserError, match=f"{tmp_path}: was not tokenized with ") as caught:
        pretrain.windows("train", 300, 8, 8)
    assert caught.value.code == DATA
    corpus.write_shards(tmp_path, "train", ids, 50, corpus.Pins(300, fingerprint(vocabulary)), 1000)
    assert len(pretrain.windows("train", 300, 8, 8)) > 0


def test_a_fault_in_a_copy_is_mended_where_the_copy_came_from():
    lines = UserError("data/raw/spam/a.tsv:1", "0 tabs", "write one"), UserError("data/tokenizer", "gone", "make it", 6)
    with pytest.raises(UserErrors) as caught, point_to_source():
        raise_all(lines)
    assert [(problem.where, problem.fix, problem.code) for problem in caught.value.problems] == [
        ("data/raw/spam/a.tsv:1", "write one (this is a copy of what download.spam.source names)", 3),
        ("data/tokenizer", "make it", 6),
    ]
