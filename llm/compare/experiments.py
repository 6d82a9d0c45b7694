"""The experiments that DVC knows, with what they changed and their headline figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm.common import dvc_exp
from llm.compare import changes
from llm.compare.changes import Change
from llm.compare.headlines import FIGURES, Value, over_other_tokens, value
from llm.compare.snapshot import WORKSPACE, Snapshot


@dataclass(frozen=True)
class Experiment:
    """An experiment, or the commit that experiments started from."""

    name: str
    state: str  # success, queued, running or failed
    changed: list[Change]  # parameters, compared with the commit
    values: list[Value]  # of FIGURES; empty without results
    is_baseline: bool = False


def experiments(every_commit: bool = False) -> list[Experiment]:
    """The experiments on git's HEAD, or on every commit; each commit comes before its experiments.

    Raises UserError if DVC cannot list them, as outside a git repository.
    """
    groups = [group for group in dvc_exp.by_commit(every_commit) if not every_commit or group["experiments"]]
    return [found for group in groups for found in _of_commit(group)]


def _of_commit(group: dict[str, Any]) -> Iterator[Experiment]:
    if group["rev"] == WORKSPACE:
        return
    base = Snapshot(group["name"] or group["rev"][:7], group["rev"])
    yield Experiment(base.title, dvc_exp.DONE, [], _values(base), is_baseline=True)
    for found in dvc_exp.newest(group):
        state, rev = dvc_exp.state(found), dvc_exp.revision(found)
        name = found["name"] or (rev or "?")[:7]
        if rev is None or rev == WORKSPACE:  # failed without a commit, or running in the workspace
            yield Experiment(name, state, [], [])
            continue
        made = Snapshot(name, rev)
        done = _values(made) if state == dvc_exp.DONE else []
        marked = [
            replace(one, other_tokens=one.value is not None and over_other_tokens(figure, base, made))
            for figure, one in zip(FIGURES, done, strict=False)
        ]
        yield Experiment(name, state, changes.parameters(base, made), marked)


def _values(snapshot: Snapshot) -> list[Value]:
    return [value(figure, snapshot) for figure in FIGURES]
