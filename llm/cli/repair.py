"""What a dvc that is killed as it writes its own files can leave, and the next one fails on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm.common import params
from llm.common.errors import RUNNING, USAGE, UserError


def repair(root: Path) -> Iterator[str]:
    """Take it out of the way, and say of each thing what was done; nothing where all is well.

    Raises UserError: code RUNNING while a dvc is at work on the project, USAGE where none can work.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import SCHEMA

    try:
        with Repo(str(root)) as repo, repo.lock:
            temporary = Path(str(repo.tmp_dir))
            for path, check in ((root / "dvc.lock", Lockfile.validate), (temporary / "rwlock", SCHEMA)):
                yield from _cut_off(path, temporary / f"{path.name}.broken", check)
            yield from _empty(Path(repo.cache.legacy.path) / "runs")
    except LockError:
        raise UserError(str(root), "a dvc is at work here", "wait for it, or end it", RUNNING) from None
    except DvcException as error:
        raise UserError(str(root), str(error), "run it where `dvc repro` runs", USAGE) from None


def _cut_off(path: Path, aside: Path, check: Callable[[Any], object]) -> Iterator[str]:
    """A file that was cut off as it was written: DVC can do without either, for its cache knows the runs."""
    from dvc.exceptions import DvcException
    from voluptuous import Invalid

    try:
        if path.is_file():
            check(params.load(path))  # JSON is YAML; YAML that is cut off may be YAML, but of another form
    except (UserError, DvcException, Invalid):
        path.replace(aside)
        yield f"{path.name} cannot be read: it is {aside} now"


def _empty(runs: Path) -> Iterator[str]:
    """A folder of the run cache that was made for a run which was never written: DVC fails on it, and on no other."""
    for folder in runs.glob("*/*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            yield f"{folder} is empty: removed"
