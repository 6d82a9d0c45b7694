"""The command that brings an artifact back."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common import code
from llm.compare.history import LOCK, Artifact, Run
from llm.compare.holders import Holders
from llm.compare.snapshot import WORKSPACE

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Programs:
    """What to type in the user's shell to run them."""

    llm: str
    dvc: str
    python: str  # its absolute path


def command(
    repo: Repo, artifact: Artifact, makers: Sequence[Run], found: Holders, programs: Programs
) -> tuple[str | None, str]:
    """A command for the shell, to be run in the project's folder, and a note on it; None if nothing can do it."""
    commits = [run for run in makers if run.state.commit]
    cached = _outputs(repo).get(artifact.path)  # None: the pipeline has no such output now
    current = any(run.state.title == WORKSPACE for run in makers) and cached is not None
    fetch = _fetch(artifact, found, programs.dvc)
    path = shlex.quote(artifact.path)
    if found.commit:
        return f"git checkout {found.commit[:12]} -- {path}", "git has the file itself"
    if fetch is None and found.disk == artifact.md5:
        return None, "it is on the disk, and nowhere else: copy it before a run or a checkout replaces it"
    if fetch is None:
        return _made_again(makers, commits, programs, current and unchanged(repo, makers[0].stage))
    if cached is False or not (current or commits):
        return _by_pointer(artifact, fetch)
    if current:
        note = "" if found.disk in (None, artifact.md5) else "it overwrites what is there now, which differs"
        return fetch.format(path), note
    files = LOCK if cached else f"{LOCK} dvc.yaml params.yaml"
    rev = str(commits[0].state.commit)[:12]
    note = f"it also puts {files.replace(' ', ', ')} of that commit into the workspace"
    return f"git checkout {rev} -- {files} && {fetch.format(path)}", note


def _made_again(
    makers: Sequence[Run], commits: Sequence[Run], programs: Programs, here: bool
) -> tuple[str | None, str]:
    """Nothing holds it: run its stage, `here` or in a copy of the commit that first recorded it."""
    if here:
        return f"{programs.llm} repro {makers[0].stage}", "nothing holds it: the stage runs again"
    if not commits:
        why = "no commit has its code and parameters" if makers else "no stage makes it"
        return None, f"nothing holds it, and {why}"
    run = commits[-1]
    commit = str(run.state.commit)[:12]
    folder = f".work/trace/{commit}"
    note = "nothing holds it: its stages run again, in a copy of the commit that made it"
    again = f"{shlex.quote(programs.python)} -m llm repro {run.stage}"
    return f"git worktree add {folder} {commit} && cd {folder} && {again}", note


def unchanged(repo: Repo, stage: str) -> bool:
    """Whether the stage and all before it still have the code, the parameters and the data of their last run."""
    from dvc.exceptions import DvcException

    try:
        status: dict[str, Any] = repo.status(targets=[stage], with_deps=True)
        chain = [one for one in repo.stage.collect(stage, with_deps=True) if one.name != "check"]
    except DvcException:
        return False
    deps = [dep for one in chain for dep in one.deps]
    lists = {dep.def_path: dep.hash_info.value for dep in deps if dep.def_path.startswith(code.LISTS)}
    if code.list_md5s(lists, Path.cwd()) != lists:
        return False
    entries = [entry for name, found in status.items() if name != "check" for entry in found]
    return not [change for entry in entries for change in _changes(entry)]


def _changes(entry: Any) -> Iterator[str]:
    """What differs, other than files that are missing: those of the stages before are made again too."""
    if isinstance(entry, str):  # "changed command"
        yield entry
        return
    for kind, found in entry.items():
        if kind != "changed outs":
            flat = [value for one in found.values() for value in (one.values() if isinstance(one, dict) else [one])]
            yield from (value for value in flat if value != "deleted")


def _outputs(repo: Repo) -> dict[str, bool]:
    """The outputs of the pipeline as it stands, and whether DVC caches them; none if DVC cannot read it."""
    from dvc.exceptions import DvcException

    try:
        return {out.def_path: out.use_cache for out in repo.index.outs}
    except DvcException:
        return {}


def _fetch(artifact: Artifact, found: Holders, dvc: str) -> str | None:
    """The command that takes it from the cache or a remote, with {} for its path; None if neither holds it."""
    force = " --force" if found.disk not in (None, artifact.md5) else ""
    if found.cache:
        return f"{dvc} checkout{force} {{}}"
    if found.remote is None:
        return None
    remove = f"rm -f {shlex.join(found.damaged)} && " if found.damaged else ""
    remote = "" if found.remote == found.default_remote else f" -r {shlex.quote(found.remote)}"
    return f"{remove}{dvc} pull{force}{remote} {{}}"


def _by_pointer(artifact: Artifact, fetch: str) -> tuple[str, str]:
    """DVC does not check it out by its path: write a file for DVC that names it, and fetch that."""
    name = f"restored-{Path(artifact.path).name}"
    pointer = f"outs:\\n- md5: {artifact.md5}\\n  hash: md5\\n  path: {name}\\n"
    target = shlex.quote(f"{name}.dvc")
    note = f"DVC does not check out its path, so it goes to {name}, by a file {name}.dvc"
    return f"printf {shlex.quote(pointer)} > {target} && {fetch.replace(' --force', '').format(target)}", note
