"""What a path, an md5 or an MLflow run stands for, where it came from, what was made of it, and how to get it back."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm.common import dvc_cache, files
from llm.common.errors import USAGE, UserError, listed
from llm.compare import holders, restore
from llm.compare.history import Artifact, History, Run
from llm.compare.holders import Holders
from llm.compare.restore import Programs
from llm.tracking import lookup
from llm.tracking.links import Links
from llm.tracking.lookup import RunFacts

if TYPE_CHECKING:
    from dvc.repo import Repo

MD5 = re.compile(r"[0-9a-f]{4,32}(\.dir)?")
SHOWN = 6  # names in an error


@dataclass(frozen=True)
class Named:
    """What the user named: an artifact of the pipeline, perhaps one file within it."""

    artifact: Artifact
    within: str = ""  # the file's path in the artifact's folder
    run_id: str | None = None  # if an MLflow run was named


@dataclass(frozen=True)
class Trace:
    """Where an artifact came from, what was made of it, and who holds it."""

    history: History
    named: Named
    makers: list[Run]  # newest first; empty for a source
    readers: list[Run]
    others: list[Artifact]  # the same bytes at other paths
    holders: Holders
    facts: RunFacts | None  # of the run in MLflow
    restore: str | None  # the command that brings it back
    note: str  # on that command
    file_md5: str | None  # of the file within the artifact, if one was named

    @property
    def maker(self) -> Run | None:
        """The newest record of the run that made it."""
        return self.makers[0] if self.makers else None

    @property
    def makers_of_parts(self) -> list[Run]:
        """If no stage made it as it is: those that made parts of it, or what it is a part of; none for a source."""
        if self.makers or not self.readers:
            return []
        return producers(self.history, self.named.artifact, self.readers[0])


def trace(what: str, root: Path, repo: Repo, programs: Programs) -> Trace:
    """Everything that is known of `what`. Raises UserError if it stands for nothing, or for several artifacts."""
    history = History(Path(repo.cache.legacy.path, "runs"))
    named = resolve(what, root, history, repo)
    artifact = named.artifact
    makers, readers = history.makers(artifact), history.readers(artifact)
    commits = dict.fromkeys(run.state.commit for run in [*makers, *readers] if run.state.commit)
    found = holders.look(repo, artifact, list(commits))
    command, note = restore.command(repo, artifact, makers, found, programs)
    same = dict.fromkeys(one for one in _artifacts(history, artifact.md5) if one.md5 == artifact.md5)
    others = [one for one in same if one != artifact]
    run = lookup.run(root, named.run_id) if named.run_id else lookup.maker(root, artifact.path, artifact.md5)
    inside = _file_md5(repo, named)
    return Trace(history, named, makers, readers, others, found, run, command, note, inside)


def resolve(what: str, root: Path, history: History, repo: Repo) -> Named:
    """The artifact that a path, an md5 (also its start) or an MLflow run id stands for."""
    if found := _by_path(what, root, history, repo):
        return found
    if MD5.fullmatch(what):
        if found := _by_md5(what, history, repo):
            return found
        if len(what) == 32 and (run := lookup.run(root, what)):
            return _by_run(run, history)
    known = "no output or input of a stage, no md5 in dvc.lock, git or the cache of runs, and no MLflow run"
    fix = "name a path such as models/spam, or 4 or more digits of an md5"
    raise UserError("command line", f"{what!r} is {known}", fix, USAGE)


def producers(history: History, artifact: Artifact, reader: Run) -> list[Run]:
    """The runs that made an input of `reader`: in the same dvc.lock if that has them, else in any other record.

    There are several if the input is a folder that holds the outputs of several stages.
    """
    makers = history.makers(artifact, [reader.state]) or history.makers(artifact)
    return makers[:1] or _makers_of_parts(history, artifact, reader)


def _makers_of_parts(history: History, artifact: Artifact, reader: Run) -> list[Run]:
    """The runs with an output in the artifact, or with one that it is in, by the first dvc.lock that has any."""
    for run in (reader, *history.readers(artifact)):
        links, stages = Links(run.state.stages), run.state.stages
        names = [] if links.wrote(artifact.path) else links.makers(artifact.path)
        if names:
            return [Run(name, stages[name], run.state) for name in names]
    return []


def _by_path(what: str, root: Path, history: History, repo: Repo) -> Named | None:
    path = Path(os.path.normpath(what))
    if path.is_absolute() and path.is_relative_to(root):
        path = path.relative_to(root)
    name = path.as_posix()
    inside: dict[str, None] = {}
    lacking: dict[Artifact, Sequence[str]] = {}  # folders of this path and their files, of which none has its name
    for state in history.states:
        runs = [Run(stage, entry, state) for stage, entry in state.stages.items()]
        known = {one.path: one for part in ("deps", "outs") for run in runs for one in run.artifacts(part)}
        for above in (path, *path.parents):
            if (artifact := known.get(above.as_posix())) and artifact not in lacking:
                within = path.relative_to(above).as_posix() if above != path else ""
                names = _files_of(artifact, repo) if within else None
                if names is None or any(f"{one}/".startswith(f"{within}/") for one in names):
                    return Named(artifact, within)
                lacking[artifact] = names
        inside |= dict.fromkeys(one for one in known if one.startswith(f"{name}/"))
    if inside:
        raise _several(what, f"holds {len(inside)} artifacts", list(inside))
    for artifact, names in lacking.items():
        near = difflib.get_close_matches(name.removeprefix(f"{artifact.path}/"), names, 1)
        fix = f"did you mean {artifact.path}/{near[0]}?" if near else f"name {artifact.path}"
        raise UserError("command line", f"{what!r} is not in the output {artifact.path}", fix, USAGE)
    return None


def _files_of(artifact: Artifact, repo: Repo) -> Sequence[str] | None:
    """The files in a folder by the cache, or else by the disk; None if neither has it."""
    if (listed := dvc_cache.folder(repo.cache.local, artifact.md5)) is not None:
        return list(listed)
    path = Path(artifact.path)
    if not artifact.md5.endswith(holders.DIR):
        return []
    return [one["relpath"] for one in files.dvc_listing(path)] if path.exists() else None


def _by_md5(what: str, history: History, repo: Repo) -> Named | None:
    found = {Named(one): one.md5 for one in _artifacts(history, f"md5: {what}") if one.md5.startswith(what)}
    if not found:
        folders = dict.fromkeys(one for one in _artifacts(history, holders.DIR) if one.md5.endswith(holders.DIR))
        found = {
            Named(one, name): md5
            for one in folders
            for name, md5 in (dvc_cache.folder(repo.cache.local, one.md5) or {}).items()
            if md5.startswith(what)
        }
    if (number := len(set(found.values()))) > 1:
        names = [f"{md5} ({Path(one.artifact.path, one.within)})" for one, md5 in found.items()]
        raise _several(what, f"begins {number} md5s", names)
    return next(iter(found), None)


def _by_run(run: RunFacts, history: History) -> Named:
    if not run.outputs and run.children:
        what = f"is a whole `dvc repro` of {len(run.children)} stages"
        raise _several(run.run_id, what, [f"{run_id} ({stage})" for stage, run_id in run.children.items()])
    if not run.outputs:
        what = f"the run of {run.stage or 'no stage'} ended as {run.status} and recorded no output"
        raise UserError(f"MLflow run {run.run_id}", what, "name another run, or a path", USAGE)
    first = next((path for path in run.outputs if not path.startswith("reports/")), next(iter(run.outputs)))
    return Named(Artifact(first, run.outputs[first]), run_id=run.run_id)


def _artifacts(history: History, word: str) -> Iterator[Artifact]:
    for run in history.runs(word):
        yield from [*run.artifacts("outs"), *run.artifacts("deps")]


def _several(what: str, why: str, names: Sequence[str]) -> UserError:
    return UserError("command line", f"{what!r} {why}: {listed(names, SHOWN)}", "name one of these", USAGE)


def _file_md5(repo: Repo, named: Named) -> str | None:
    """The md5 of the file within the artifact; None if neither the cache nor the disk tells."""
    if not named.within:
        return None
    inside = dvc_cache.folder(repo.cache.local, named.artifact.md5) or {}
    path = Path(named.artifact.path, named.within)
    return inside.get(named.within) or (files.dvc_md5(path) if path.is_file() else None)
