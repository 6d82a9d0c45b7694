"""The figures of this machine: whether they are those of the last commit, and a commit of its own for them."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.cli.program import open_repo
from llm.cli.repro import chapters
from llm.common import code, dvc_lock, dvc_yaml, files, git_here
from llm.common.dvc_lock import LOCK, Stages, hashes
from llm.common.errors import USAGE, UserError
from llm.common.params import PARAMS
from llm.compare.changes import sources
from llm.compare.snapshot import REPORTS, WORKSPACE, Snapshot

MESSAGE = "Record the baseline of this machine"


def not_computed(stages: tuple[str, ...]) -> list[str]:
    """The stages of these whose outputs are missing here, or whose reports are not those of the last run."""
    locked = dvc_lock.read()
    outs = {name: hashes(locked.get(name, {}), "outs") for name in stages}
    return [name for name, made in outs.items() if not made or not all(map(_is_here, made, made.values()))]


def differing() -> list[str] | None:
    """Outputs with other bytes than in the last commit; None if code, parameters or data differ too, or without git."""
    now, before = dvc_lock.read(), _committed()
    return None if before is None or _sources(before) != _sources(now) else _apart(before, now)


def record() -> list[str]:
    """Commit dvc.lock and reports/, and return the outputs that differ from the last commit: none, if it has them all.

    Raises UserError if something else differs too, or git does not work here.
    """
    found = differing()
    if found is None and (problem := git_here.problem()):
        raise problem
    if found is None and _is_run_of_last_commit():
        found = _apart(_committed() or {}, dvc_lock.read())  # the committed dvc.lock is of other sources
    if found is None:
        what = "the parameters, the code or the data are not those of the last commit, have not run, or there is none"
        fix = "undo or commit your own changes, then run `make repro` first"
        raise UserError(str(LOCK), f"no baseline to record: {what}", fix, USAGE)
    commands = (["add", str(LOCK), REPORTS], ["commit", "-q", "-m", MESSAGE, "--", str(LOCK), REPORTS])
    for words in commands if found else ():
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git {words[0]}", " ".join(done.stderr.split()) or "failed", "see git's message", USAGE)
    return found


def _committed() -> Stages | None:
    """The dvc.lock of the last commit; None if it has none."""
    text = git_here.text("show", f"HEAD:./{LOCK}")
    return None if text is None else dvc_lock.parse(text, f"HEAD: {LOCK}", f"commit a whole {LOCK}")


def _apart(before: Stages, now: Stages) -> list[str]:
    """The outputs that differ."""
    old, new = _outputs(before), _outputs(now)
    return sorted(path for path in {*old, *new} if old.get(path) != new.get(path))


def _is_run_of_last_commit() -> bool:
    """Whether the chapters have run with the sources that are in the workspace, and git has these sources."""
    found = (Path(path) for path in sources(Snapshot(WORKSPACE, None)))
    inside = [str(path) for path in found if not path.is_absolute() and ".." not in path.parts]
    told = git_here.text("status", "--porcelain", "--", str(PARAMS), str(dvc_yaml.PIPELINE), *code.PACKAGES, *inside)
    if told != "":
        return False
    with suppress(UserError), open_repo(Path.cwd()) as repo:
        return not repo.status(chapters())
    return False


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
