"""What the workspace has not run with yet: sources and code that differ from what dvc.lock records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.common import code
from llm.common.dvc_lock import hashes
from llm.common.errors import UserError
from llm.compare import changes
from llm.compare.snapshot import Snapshot

if TYPE_CHECKING:
    from dvc.repo import Repo


def pending(repo: Repo, workspace: Snapshot) -> list[str]:
    """A sentence for each source that has changed since its stages ran, and one for all stages with other code."""
    return [f"{workspace.title}: {text}" for text in (*_sources(repo, workspace), *_code(workspace))]


def _sources(repo: Repo, workspace: Snapshot) -> Iterator[str]:
    """DVC finds those that changed, as for a plan: it does not hash a file again whose time and size are the same."""
    from dvc.exceptions import DvcException

    known, found = changes.sources(workspace), dict[tuple[str, str], list[str]]()
    try:
        for stage in repo.index.stages:
            read = hashes(workspace.stages.get(stage.addressing) or {}, "deps").keys() & known.keys()
            for dep in stage.deps:
                for how in dep.workspace_status().values() if dep.def_path in read else ():
                    found.setdefault((dep.def_path, how), []).append(stage.addressing)
    except (DvcException, OSError):  # it cannot read the pipeline or a file: `llm repro` says why
        return
    for (path, how), stages in found.items():
        what = "is gone" if how == "deleted" else "has changed"
        yield f"{path} {what} since the last run of {', '.join(stages)}"


def _code(workspace: Snapshot) -> Iterator[str]:
    """The stages whose list of code differs. A list without a script is of a stage that is no more."""
    code.recall()
    listed = [
        (name, path, md5)
        for name, stage in workspace.stages.items()
        for path, md5 in hashes(stage, "deps").items()
        if path.startswith(code.LISTS) and Path("stages", f"{path.removeprefix(code.LISTS)}.py").is_file()
    ]
    try:
        now = code.list_md5s({path for _, path, _ in listed}, Path.cwd())
    except UserError as error:
        yield f"not known which stages have run with this code: {error.where} is {error.what}"
        return
    names = [name for name, path, md5 in listed if md5 != now[path]]
    if names and len(names) == len(listed):
        yield "no stage has run with this code yet"
    elif names:
        yield f"not run with this code yet: {', '.join(names)}"
