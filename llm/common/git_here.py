"""Git in this folder: what its commands print, whether it holds the project, and why it does not work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from llm.common.errors import USAGE, UserError

SOURCES = (".", ":!dvc.lock", ":!reports")  # without what a run writes itself


def output(*words: str, given: bytes = b"", folder: Path | None = None, seconds: float | None = None) -> bytes | None:
    """What a git command that reads `given` prints; None if it fails, takes longer, or git is not installed."""
    command = ["git", "--no-optional-locks", *words]  # dvc may hold git's lock, or want it
    try:
        done = subprocess.run(command, input=given, cwd=folder, timeout=seconds, capture_output=True, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def text(*words: str, folder: Path | None = None, seconds: float | None = None) -> str | None:
    """The same as text."""
    told = output(*words, folder=folder, seconds=seconds)
    return None if told is None else told.decode("utf-8", "replace")


def difference(folder: Path | None = None, seconds: float | None = None) -> str:
    """How the sources differ from the last commit, as a diff; empty without a commit."""
    words = ("diff", "--no-color", "--no-ext-diff", "--relative", "HEAD", "--", *SOURCES)
    return text(*words, folder=folder, seconds=seconds) or ""


def problem() -> UserError | None:
    """Why git does not work in this folder; None if it does, also without a commit."""
    try:
        environment = dict(os.environ) | {"LC_ALL": "C"}
        asked = ["git", "rev-parse", "--git-dir"]
        done = subprocess.run(asked, capture_output=True, text=True, errors="replace", env=environment, check=False)
    except OSError:
        return UserError("git", "is not installed, or not in PATH", "install git", USAGE)
    if done.returncode == 0:
        return None
    if "dubious ownership" in done.stderr:
        here = Path.cwd()
        folder = next((above for above in (here, *here.parents) if (above / ".git").exists()), here)
        fix = f"`git config --global --add safe.directory '{folder}'`, or work as its owner"
        return UserError("git", f"refuses {str(folder)!r}, because it belongs to another user", fix, USAGE)
    return UserError("git", "the project is not in a git repository", "`git init`, `git add .`, `git commit`", USAGE)


def holds(root: Path) -> bool:
    """Whether the project is a git repository, or a folder of a larger one that does not ignore it."""
    if (root / ".git").exists():
        return True
    if not any((folder / ".git").exists() for folder in root.parents):
        return False
    asked = ["git", "check-ignore", "-q", "."]
    try:
        return subprocess.run(asked, cwd=root, capture_output=True, check=False).returncode == 1
    except OSError:  # no git
        return False
