"""Whether this machine makes other outputs than a commit records, from the same inputs: then not every difference is
the user's change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.common import dvc_lock
from llm.common.dvc_lock import hashes
from llm.common.params import flat
from llm.compare.changes import CHECK
from llm.compare.history import cached_states
from llm.compare.snapshot import Snapshot


def other_outputs(commit: Snapshot, workspace: Snapshot, run_cache: Path) -> list[str]:
    """The stages that ran here with the inputs that the commit records, and never gave the outputs that it records.

    Runs here are those of the workspace's dvc.lock, and those in DVC's cache of runs.
    """
    cached = (entry for state in cached_states(run_cache) for entry in state.stages.values())
    found: dict[Any, list[dict[str, str]]] = {}
    for entry in (*workspace.stages.values(), *cached):
        found.setdefault(_inputs(entry), []).append(hashes(entry, "outs"))
    return [
        name
        for name, entry in commit.stages.items()
        if name != CHECK and (here := found.get(_inputs(entry))) and hashes(entry, "outs") not in here
    ]


def _inputs(entry: Mapping[str, Any]) -> Any:
    """Command, parameters and dependencies of a run, to compare."""
    params = flat(dvc_lock.parameters(entry))
    return str(entry.get("cmd")), repr(sorted(params.items())), repr(sorted(hashes(entry, "deps").items()))
