"""Where a run came from: commit, changes that are not committed, data, versions."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from llm.common.dvc_lock import hashes
from llm.compare import changes
from llm.compare.snapshot import REPORTS, Snapshot, changed_files, git

PACKAGES = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "dvc")
MOST_LINES = 2_000  # of a diff
NOT_SOURCES = (f":!{REPORTS}", ":!dvc.lock")  # what a run writes itself


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
    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    dirty: list[tuple[str, str]] = []
    diff = ""
    if head is not None:
        dirty = changed_files(Snapshot("HEAD", head.strip()), snapshot, [".", *NOT_SOURCES])
        lines = (
            git("diff", "--no-color", "--no-ext-diff", "--relative", "HEAD", "--", ".", *NOT_SOURCES) or ""
        ).splitlines()
        more = len(lines) - MOST_LINES
        diff = "\n".join([*lines[:MOST_LINES], *([f"... {more} more lines"] if more > 0 else [])])
    outputs = [
        (name, path, md5)
        for name, stage in snapshot.stages.items()
        for path, md5 in hashes(stage, "outs").items()
        if name != changes.CHECK
    ]
    return Provenance(
        head.strip() if head else None,
        (git("branch", "--show-current") or "").strip(),
        dirty,
        diff,
        changes.sources(snapshot),
        outputs,
        {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    )
