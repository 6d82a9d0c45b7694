"""The figures of this machine: whether they are those of the last commit, and a commit of its own for them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm.common import code, dvc_lock, files
from llm.common.dvc_lock import LOCK, Stages
from llm.common.errors import USAGE, UserError

REPORTS = "reports"
MESSAGE = "Record the baseline of this machine"


def not_computed(stages: tuple[str, ...]) -> list[str]:
    """The stages of these whose outputs are missing here, or whose reports are not those of the last run."""
    locked = dvc_lock.read()
    return [name for name in stages if not all(_is_here(out) for out in locked.get(name, {}).get("outs") or [{}])]


def differing() -> list[str]:
    """Outputs with other bytes than in the last commit, though code, parameters and data are the same.

    Empty if something else differs too, and without git.
    """
    before = _committed()
    now = dvc_lock.read()
    if before is None or _sources(before) != _sources(now):
        return []
    old, new = dict(_outputs(before)), dict(_outputs(now))
    return sorted(path for path, md5 in new.items() if old.get(path) != md5)


def record() -> list[str]:
    """Commit dvc.lock and reports/, and return the outputs that differ from the last commit: none, if it has them all.

    Raises UserError if something else differs too.
    """
    found = differing()
    if not found and _as_committed():
        return []
    if not found:
        what = "the parameters, the code or the data are not those of the last commit, or there is none"
        fix = "undo or commit your own changes, then run `make repro` first"
        raise UserError(str(LOCK), f"no baseline to record: {what}", fix, USAGE)
    for words in (["add", str(LOCK), REPORTS], ["commit", "-q", "-m", MESSAGE, "--", str(LOCK), REPORTS]):
        done = _git(*words)
        if done.returncode:
            raise UserError(f"git {words[0]}", " ".join(done.stderr.split()) or "failed", "see git's message", USAGE)
    return found


def _as_committed() -> bool:
    """Whether sources and outputs are those of the last commit."""
    before, now = _committed(), dvc_lock.read()
    return before is not None and _sources(before) == _sources(now) and dict(_outputs(before)) == dict(_outputs(now))


def _is_here(out: Mapping[str, Any]) -> bool:
    path = Path(str(out.get("path", "")))
    if out and path.parts[0] == REPORTS:
        return path.is_file() and files.dvc_md5(path) == out.get("md5")
    return bool(out) and path.exists()


def _committed() -> Stages | None:
    done = _git("show", f"HEAD:./{LOCK}")
    return None if done.returncode else dvc_lock.parse(done.stdout, f"HEAD: {LOCK}", f"commit a whole {LOCK}")


def _sources(stages: Stages) -> dict[str, Any]:
    """The command and parameters of each stage, its code, and the files it reads that no stage makes."""
    made = {path for path, _ in _outputs(stages)} | set(code.PACKAGES)  # of those `.check` lists the code
    found = {}
    for name, stage in stages.items():
        reads = {dep["path"]: dep.get("md5") for dep in stage.get("deps") or [] if dep["path"] not in made}
        found[name] = [stage.get("cmd"), stage.get("params"), reads]
    return found


def _outputs(stages: Stages) -> Iterator[tuple[str, str]]:
    outs = (out for stage in stages.values() for out in stage.get("outs") or [])
    return ((out["path"], str(out.get("md5"))) for out in outs if out["path"] != ".check")


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    except OSError as error:  # no git
        return subprocess.CompletedProcess(words, 1, "", str(error))
