"""A state of the project to read reports from: the workspace, a git revision or a DVC experiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm.common import dvc_lock, files, git_here, yaml_file
from llm.common.errors import DATA, USAGE, UserError, nearest
from llm.tracking import links

WORKSPACE = "workspace"
EXPERIMENTS = "refs/exps"
REPORTS = "reports"
AGAIN = "run its stage again"
Row = dict[str, str]


@dataclass(frozen=True)
class Snapshot:
    """The files of the project in one state. All paths are relative to the project's folder."""

    name: str  # as the user wrote it
    commit: str | None  # None: the workspace

    @property
    def title(self) -> str:
        """The name, with the commit where the name is another one."""
        if self.commit is None or self.commit.startswith(self.name):
            return self.name[:12] if self.commit else self.name
        return f"{self.name} ({self.commit[:7]})"

    def text(self, path: str) -> str | None:
        """The text of a file, or None if it is not there."""
        if self.commit is None:
            return files.read_text(path) if Path(path).is_file() else None
        return git_here.text("show", f"{self.commit}:./{path}")

    def json(self, path: str) -> Any:
        """The content of a JSON file, or None if it is not there. Raises UserError for invalid JSON."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(self.where(path), f"is not JSON: {error}", AGAIN, DATA) from None

    def mapping(self, path: str) -> dict[str, Any] | None:
        """The object in a JSON file, or None if the file is not there. Raises UserError if it holds another value."""
        found = self.json(path)
        if found is not None and not isinstance(found, dict):
            raise UserError(self.where(path), f"holds {yaml_file.show(found)}, not an object", AGAIN, DATA)
        return found

    def records(self, path: str) -> list[dict[str, Any]]:
        """The objects in the list of a JSON file; none if the file is not there. Raises UserError for other values."""
        found = self.json(path)
        if found is not None and not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
            raise UserError(self.where(path), f"holds {yaml_file.show(found)}, not a list of objects", AGAIN, DATA)
        return found or []

    def rows(self, path: str) -> list[Row]:
        """The rows of a CSV file by its header; an empty list if the file is not there."""
        return files.csv_rows(self.text(path) or "")

    def where(self, path: str) -> str:
        """A file of this state for a message: the path, with the name of a state that is not the workspace."""
        return path if self.commit is None else f"{self.name}: {path}"

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml as plain data; empty if it is not there."""
        text = self.text("params.yaml")
        return {} if text is None else yaml_file.parse_plain(text, self.where("params.yaml"))

    @cached_property
    def stages(self) -> dvc_lock.Stages:
        """The stages in dvc.lock: how each of them last ran."""
        if self.commit is None:
            return dvc_lock.read()
        text = self.text("dvc.lock")
        fix = "name another state"
        return {} if text is None else dvc_lock.parse(text, self.where("dvc.lock"), fix)

    @cached_property
    def stale(self) -> dict[str, list[str]]:
        """The stages that have not run since an input changed, by dvc.lock alone, each with these inputs."""
        return links.stale(self.stages)

    @cached_property
    def reports(self) -> list[str]:
        """Paths of all reports, sorted."""
        if self.commit is None:
            return sorted(path.as_posix() for path in Path(REPORTS).rglob("*") if path.is_file())
        listed = git_here.text("ls-tree", "-r", "-z", "--name-only", self.commit, f"{REPORTS}/") or ""
        return sorted(name for name in listed.split("\0") if name)

    def hashes(self, path: str, part: str) -> set[str]:
        """The md5s that dvc.lock has for a path among the `outs` or the `deps` of all stages."""
        found = [dvc_lock.hashes(stage, part) for stage in self.stages.values()]
        return {md5s[path] for md5s in found if path in md5s}

    def data_text(self, path: str) -> str | None:
        """The text of a file in an output, from the disk, DVC's cache or a remote; None if they do not have it."""
        if path not in self._data:
            self._data[path] = self._read_data(path)
        return self._data[path]

    @cached_property
    def _data(self) -> dict[str, str | None]:
        """What was read of outputs: opening DVC's view of a commit takes longer than all else."""
        return {}

    def _read_data(self, path: str) -> str | None:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException
        from dvc_data.index import DataIndexError

        if self.commit is None and Path(path).is_file():
            return files.read_text(path)
        try:
            return str(DVCFileSystem(".", rev=self.commit).read_text(path, encoding="utf-8"))
        except (OSError, DvcException, DataIndexError, UnicodeDecodeError):
            return None


def resolve(name: str) -> Snapshot:
    """The state that a name stands for: `workspace`, a git revision, or an experiment.

    Raises UserError if it is none of them, or outside a git repository.
    """
    if name == WORKSPACE:
        return Snapshot(name, None)
    if problem := git_here.problem():
        raise problem
    found = git_here.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found is not None:
        return Snapshot(name, found.strip())
    known = experiment_commits()
    if name in known:
        return Snapshot(name, known[name])
    if git_here.text("rev-parse", "--verify", "--quiet", "HEAD") is None:
        what = f"{name!r} is no git revision: there is no commit yet"
        raise UserError("command line", what, "`git add . && git commit`", USAGE)
    fix = nearest(name, [*known, WORKSPACE], "see `git log` and `llm experiments`")
    raise UserError("command line", f"{name!r} is no git revision and no experiment with results", fix, USAGE)


def experiment_commits() -> dict[str, str]:
    """The commits of all experiments with results, by name. Of equal names, one on HEAD counts, else the newest."""
    head = (git_here.text("rev-parse", "HEAD") or "").strip()
    form = "--format=%(objectname) %(refname)"
    listed = git_here.text("for-each-ref", "--sort=committerdate", form, EXPERIMENTS) or ""
    found: list[tuple[bool, str, str]] = []
    for line in listed.splitlines():
        commit, _, ref = line.partition(" ")
        parts = ref.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/83/1628d7.../name
            found.append((parts[2] + parts[3] == head, parts[4], commit))
    return {name: commit for _, name, commit in sorted(found, key=lambda one: one[0])}  # the last of a name stays


def changed_files(first: Snapshot, second: Snapshot, paths: Sequence[str]) -> list[tuple[str, str]]:
    """Files below `paths` that differ, as (path, change): `+3 -1`, `binary` or `new`.

    New files that git does not track count for the workspace.
    """
    if first.commit == second.commit:
        return []
    commits = [side.commit for side in (first, second) if side.commit]
    order = ["-R"] if first.commit is None else []  # git compares a commit with the workspace, not the reverse
    words = ("diff", "--numstat", "--no-renames", "--relative", "-z", *order, *commits, "--", *paths)
    found = []
    for entry in filter(None, (git_here.text(*words) or "").split("\0")):
        added, removed, path = entry.split("\t", 2)
        found.append((path, "binary" if added == "-" else f"+{added} -{removed}"))
    if None in (first.commit, second.commit):
        new = git_here.text("ls-files", "--others", "--exclude-standard", "-z", "--", *paths) or ""
        found += [(path, "new" if second.commit is None else "only in workspace") for path in new.split("\0") if path]
    return sorted(found)
