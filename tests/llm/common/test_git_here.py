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
