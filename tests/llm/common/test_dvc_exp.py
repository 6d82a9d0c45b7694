"""DVC's list of experiments, also while experiments start and end, and what is said where it has none."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from llm.common import dvc_exp
from llm.common.errors import USAGE, UserError

STARTS = "ERROR: failed to show experiments - directory '/a/.dvc/tmp/exps/tmpnty2xpnk/.dvc' does not exist"


def test_it_asks_again_while_an_experiment_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [UserError("dvc exp show", STARTS, "", USAGE), UserError("dvc exp show", STARTS, "", USAGE), [{"rev": "a"}]]

    def run(*words: str) -> str:
        assert words == ("exp", "show", "--json")
        if isinstance(found := told.pop(0), UserError):
            raise found
        return json.dumps(found)

    monkeypatch.setattr(dvc_exp, "run", run)
    monkeypatch.setattr(dvc_exp, "WAIT_SECONDS", 0)
    assert dvc_exp.by_commit() == [{"rev": "a"}]
    told += [UserError("dvc exp show", "ERROR: another", "", USAGE)]
    with pytest.raises(UserError, match="another"):
        dvc_exp.by_commit()


def test_the_fix_names_git_only_where_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["git", "show", "HEAD:none"]
    with pytest.raises(UserError, match="fix: `git init`, "):
        dvc_exp.output(words, "none")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "one"]
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(UserError, match="fix: experiments need a commit"):
        dvc_exp.output(words, "none")
    subprocess.run(["git", *commit], check=True)
    with pytest.raises(UserError, match="see its message"):
        dvc_exp.output(words, "none")


def test_the_commits_with_experiments_are_those_of_refs_the_queue_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dvc_exp.bases() == []

    def git(*words: str, at: int = 0) -> str:
        day = f"2026-01-{at + 1:02} 12:00 +0000"
        environment = {**os.environ, "GIT_COMMITTER_DATE": day, "GIT_AUTHOR_DATE": day}
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    made = []
    for at in range(6):
        git("commit", "-q", "--allow-empty", "-m", str(at), at=at)
        made.append(git("rev-parse", "HEAD"))
    git("update-ref", f"refs/exps/{made[1][:2]}/{made[1][2:]}/one", "HEAD")
    git("update-ref", f"refs/exps/00/{'0' * 38}/gone", "HEAD")  # its commit is not in this clone
    for ref, base in ((dvc_exp.QUEUED, made[2]), (dvc_exp.FAILED, made[3])):
        git("update-ref", "--create-reflog", "-m", f"commit: dvc-exp:{made[5]}:{base}:two", ref, "HEAD")
    (run := tmp_path / dvc_exp.RUNS / "a").mkdir(parents=True)
    (run / "a.run").write_text(json.dumps({"baseline_rev": made[4]}))
    assert dvc_exp.bases() == made[:0:-1]
