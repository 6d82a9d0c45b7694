"""Prepare the project for DVC: repair what a killed DVC left, and set whether it works with git."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm.common import git_here, params
from llm.common.errors import RUNNING, USAGE, UserError


def repair(root: Path) -> Iterator[str]:
    """Repair the project and yield one line for each change.

    Raises UserError: code RUNNING if DVC is running on the project, USAGE if DVC cannot open it.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import SCHEMA

    try:
        yield from _match_git(root)
        with Repo(str(root)) as repo, repo.lock:
            temporary = Path(str(repo.tmp_dir))
            for path, check in ((root / "dvc.lock", Lockfile.validate), (temporary / "rwlock", SCHEMA)):
                yield from _truncated(path, temporary / f"{path.name}.broken", check)
            yield from _empty(Path(repo.cache.legacy.path) / "runs")
    except LockError:
        raise UserError(str(root), "DVC is running here", "wait until it has ended, or end it", RUNNING) from None
    except DvcException as error:
        raise UserError(str(root), str(error), "run it where `dvc repro` runs", USAGE) from None


def _match_git(root: Path) -> Iterator[str]:
    """Set DVC's core.no_scm in a folder without git, where DVC refuses to run otherwise; unset it in one with git."""
    from dvc.config import Config, to_bool

    if not (root / ".dvc").is_dir():  # Repo reports that
        return
    config, without_git = Config(str(root / ".dvc"), validate=False), not git_here.holds(root)
    if to_bool(config.read("local")["core"].get("no_scm", "false")) == without_git:
        return
    with config.edit("local") as local:
        if without_git:
            local["core"]["no_scm"] = "true"
        else:
            del local["core"]["no_scm"]
    yield f"DVC works {'without' if without_git else 'with'} git from now on: .dvc/config.local"


def _truncated(path: Path, aside: Path, check: Callable[[Any], object]) -> Iterator[str]:
    """Move away a file that was truncated while DVC wrote it. DVC can rebuild it from its cache of runs."""
    from dvc.exceptions import DvcException
    from voluptuous import Invalid

    try:
        if path.is_file():
            check(params.load(path))  # JSON is YAML, too; truncated YAML may still be YAML, but of another shape
    except (UserError, DvcException, Invalid):
        path.replace(aside)
        yield f"{path.name} cannot be read: moved to {aside}"


def _empty(runs: Path) -> Iterator[str]:
    """Remove folders of the run cache that were created but never filled: DVC fails on an empty one."""
    for folder in runs.glob("*/*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            yield f"{folder} is empty: removed"
