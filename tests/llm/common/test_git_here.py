"""What is wrong with git is said as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llm.common import git_here


def test_each_problem_has_its_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "larger" / "project").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert "the project is not in a git repository" in str(git_here.problem())
    subprocess.run(["git", "init", "-q", ".."], check=True)
    assert git_here.problem() is None
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container with the user's files
    found = git_here.problem()
    assert found is not None
    assert found.what == f"refuses {str(folder.parent)!r}, because it belongs to another user"
    assert found.fix.startswith(f"`git config --global --add safe.directory '{folder.parent}'`")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git: is not installed" in str(git_here.problem())


def test_git_that_fails_or_takes_too_long_says_nothing(tmp_path: Path) -> None:
    assert git_here.text("rev-parse", "HEAD", folder=tmp_path) is None
    assert git_here.text("hash-object", "--stdin", folder=tmp_path, seconds=0) is None
    assert git_here.output("hash-object", "--stdin", given=b"a", folder=tmp_path, seconds=60) is not None


def test_the_difference_is_that_of_sources_in_this_folder(tmp_path: Path) -> None:
    project = tmp_path / "larger" / "project"
    (project / "reports").mkdir(parents=True)
    changed = ("params.yaml", "dvc.lock", "reports/a.json")
    for name in changed:
        (project / name).write_text("before\n")
    assert git_here.difference(project) == ""  # no commit
    commands = (["init", "-q", ".."], ["add", "-A"])
    commands += (["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a"],)
    for words in commands:
        subprocess.run(["git", *words], cwd=project, check=True)
    for name in changed:
        (project / name).write_text("after\n")
    told = git_here.difference(project)
    assert told.count("diff --git") == 1
    assert "a/params.yaml b/params.yaml" in told  # not project/params.yaml: it can be applied here
