"""The figures of this machine: whether they are those of the last commit, and a commit of its own for them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from llm.common import code, dvc_lock, files, git_here
from llm.common.dvc_lock import LOCK, Stages, hashes
from llm.common.errors import USAGE, UserError
from llm.compare.snapshot import REPORTS

MESSAGE = "Record the baseline of this machine"


def not_computed(stages: tuple[str, ...]) -> list[str]:
    """The stages of these whose outputs are missing here, or whose reports are not those of the last run."""
    locked = dvc_lock.read()
    outs = {name: hashes(locked.get(name, {}), "outs") for name in stages}
    return [name for name, made in outs.items() if not made or not all(map(_is_here, made, made.values()))]


def differing() -> list[str] | None:
    """Outputs with other bytes than in the last commit; None if code, parameters or data differ too, or without git."""
    now, committed = dvc_lock.read(), git_here.text("show", f"HEAD:./{LOCK}")
    if committed is None:
        return None
    before = dvc_lock.parse(committed, f"HEAD: {LOCK}", f"commit a whole {LOCK}")
    if _sources(before) != _sources(now):
        return None
    old, new = _outputs(before), _outputs(now)
    return sorted(path for path in {*old, *new} if old.get(path) != new.get(path))


def record() -> list[str]:
    """Commit dvc.lock and reports/, and return the outputs that differ from the last commit: none, if it has them all.

    Raises UserError if something else differs too, or git does not work here.
    """
    found = differing()
    if found is None and (problem := git_here.problem()):
        raise problem
    if found is None:
        what = "the parameters, the code or the data are not those of the last commit, or there is none"
        fix = "undo or commit your own changes, then run `make repro` first"
        raise UserError(str(LOCK), f"no baseline to record: {what}", fix, USAGE)
    commands = (["add", str(LOCK), REPORTS], ["commit", "-q", "-m", MESSAGE, "--", str(LOCK), REPORTS])
    for words in commands if found else ():
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git {words[0]}", " ".join(done.stderr.split()) or "failed", "see git's message", USAGE)
    return found


def _is_here(name: str, md5: str) -> bool:
    """Whether an output exists, and if it is a report, has this md5."""
    path = Path(name)
    if path.parts[0] == REPORTS:
        return path.is_file() and files.dvc_md5(path) == md5
    return path.exists()


def _sources(stages: Stages) -> dict[str, Any]:
    """The command and parameters of each stage, its code, and the files it reads that no stage makes."""
    made = {*_outputs(stages), *code.PACKAGES}  # `.check` lists the code of PACKAGES
    found = {}
    for name, stage in stages.items():
        reads = {path: md5 for path, md5 in hashes(stage, "deps").items() if path not in made}
        found[name] = [stage.get("cmd"), stage.get("params"), reads]
    return found


def _outputs(stages: Stages) -> dict[str, str]:
    """The md5 of each output, without the lists of code."""
    return {path: md5 for stage in stages.values() for path, md5 in hashes(stage, "outs").items() if path != ".check"}
