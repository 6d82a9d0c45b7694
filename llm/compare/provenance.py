"""Where a run came from: commit, changes that are not committed, data, versions."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from llm.common import git_here
from llm.common.dvc_lock import hashes
from llm.compare import changes
from llm.compare.snapshot import Snapshot, changed_files

PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "dvc")
MOST_LINES = 2_000  # of a diff


@dataclass(frozen=True)
class Provenance:
    """What is needed to make a run again."""

    commit: str | None  # None: not in a git repository, or without a commit
    branch: str
    dirty: list[tuple[str, str]]  # files that differ from the commit, without reports
    diff: str
    sources: dict[str, str]  # files that stages read and no stage makes: path and md5
    outputs: list[tuple[str, str, str]]  # stage, path and md5
    versions: dict[str, str]


def provenance(snapshot: Snapshot) -> Provenance:
    """Where the run in the workspace came from."""
    head = git_here.text("rev-parse", "--verify", "--quiet", "HEAD")
    dirty = changed_files(Snapshot("HEAD", head.strip()), snapshot, git_here.SOURCES) if head else []
    lines = git_here.difference().splitlines()
    if (more := len(lines) - MOST_LINES) > 0:
        lines[MOST_LINES:] = [f"... {more} more lines"]
    outputs = [
        (name, path, md5)
        for name, stage in snapshot.stages.items()
        for path, md5 in hashes(stage, "outs").items()
        if name != changes.CHECK
    ]
    return Provenance(
        head.strip() if head else None,
        (git_here.text("branch", "--show-current") or "").strip(),
        dirty,
        "\n".join(lines),
        changes.sources(snapshot),
        outputs,
        {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    )
