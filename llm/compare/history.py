"""Every record of a stage that ran: dvc.lock in the workspace and in git's commits, and DVC's cache of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from llm.common import dvc_lock, git_here
from llm.compare.snapshot import WORKSPACE

LOCK = "dvc.lock"
RUN_CACHE = "run cache"


@dataclass(frozen=True)
class Artifact:
    """A file or a folder with the content that it had: the path, and the md5 that DVC knows it by."""

    path: str
    md5: str


@dataclass(frozen=True)
class State:
    """The stages that one dvc.lock records, or one run in DVC's cache of runs, which dvc.lock may not record."""

    title: str  # workspace, the short commit, or "run cache"
    date: str  # of the commit or of the run; empty for the workspace
    subject: str
    text: str
    commit: str | None = None

    @cached_property
    def stages(self) -> Mapping[str, Any]:
        """The stages by name; those of the cache of runs are named by their command."""
        return _parse(self.text, self.title == RUN_CACHE)


@dataclass(frozen=True)
class Run:
    """A run of a stage as a state records it."""

    stage: str
    entry: Mapping[str, Any]
    state: State

    def artifacts(self, part: str) -> list[Artifact]:
        """Its `deps` or its `outs`."""
        return [Artifact(path, md5) for path, md5 in dvc_lock.hashes(self.entry, part).items()]


class History:
    """All records that are here: first the workspace's, then those of git and of the cache of runs, newest first."""

    def __init__(self, run_cache: Path) -> None:
        here = Path(LOCK)
        self.workspace = State(WORKSPACE, "", "", here.read_text("utf-8", "replace") if here.is_file() else "")
        self.commits = list(_commits())
        self._run_cache = run_cache

    @cached_property
    def states(self) -> list[State]:
        return [self.workspace, *self.commits, *self.cached]

    def runs(self, word: str, states: Sequence[State] | None = None) -> Iterator[Run]:
        """The runs of all states whose text has `word` in it, such as an md5; the others cannot be about it."""
        for state in self.states if states is None else states:
            if word in state.text:
                yield from (Run(name, entry, state) for name, entry in state.stages.items())

    def makers(self, artifact: Artifact, states: Sequence[State] | None = None) -> list[Run]:
        """The runs that wrote the artifact, by these or all states; those in dvc.lock first, newest first."""
        return [run for run in self.runs(artifact.md5, states) if artifact in run.artifacts("outs")]

    def readers(self, artifact: Artifact) -> list[Run]:
        return [run for run in self.runs(artifact.md5) if artifact in run.artifacts("deps")]

    def name_of(self, run: Run) -> str:
        """The stage's name; of the cache of runs, the one that has the same command in dvc.lock now."""
        if run.state.title != RUN_CACHE:
            return run.stage
        stages = self.workspace.stages.items()
        return next((name for name, entry in stages if entry.get("cmd") == run.stage), run.stage.rpartition(".")[2])

    @cached_property
    def cached(self) -> list[State]:
        return cached_states(self._run_cache)


def cached_states(run_cache: Path) -> list[State]:
    """The runs in DVC's cache of runs, newest first."""
    found = [path for path in run_cache.glob("*/*/*") if path.is_file()]
    newest = sorted(((path.stat().st_mtime, path) for path in found), reverse=True)
    return [
        State(RUN_CACHE, date.fromtimestamp(at).isoformat(), "", path.read_text("utf-8", errors="replace"))
        for at, path in newest
    ]


def _commits() -> Iterator[State]:
    """dvc.lock in each commit of any ref that changed it, experiments included, newest first; none without git."""
    form = "--format=%H%x00%cs%x00%s"
    listed = git_here.text("log", "--all", "--full-history", form, "--", LOCK) or ""
    facts = [tuple(line.split("\0", 2)) for line in listed.split("\n") if line]
    prefix = (git_here.text("rev-parse", "--show-prefix") or "").strip()
    asked = "".join(f"{commit}:{prefix}{LOCK}\n" for commit, _, _ in facts).encode()
    told = git_here.output("cat-file", "--batch", given=asked)
    if told is None:
        return
    at = 0
    for commit, day, subject in facts:
        end = told.index(b"\n", at)
        words = told[at:end].split()
        at = end + 1
        if len(words) != 3:  # "... missing": this commit removed the file
            continue
        text = told[at : at + int(words[2])].decode("utf-8", "replace")
        at += int(words[2]) + 1
        yield State(commit[:7], day, subject, text, commit)


@cache
def _parse(text: str, single: bool) -> Mapping[str, Any]:
    """The stages of a lock; none of one that cannot be read. Equal texts of several commits are parsed once."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml

    try:
        found = parse_yaml(text, LOCK) or {}
    except (DvcException, YAMLFileCorruptedError):
        return {}
    if single:
        return {str(found["cmd"]): found} if dvc_lock.is_entry(found) and "cmd" in found else {}
    stages = found.get("stages") if isinstance(found, Mapping) else None
    return stages if isinstance(stages, Mapping) and all(map(dvc_lock.is_entry, stages.values())) else {}
