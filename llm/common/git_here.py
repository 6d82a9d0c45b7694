"""Whether git holds the project, and why it tells nothing of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from llm.common.errors import USAGE, UserError


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
