"""What differs between two states: parameters, stages, code, data, and every figure in the reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm.common import code, dvc_lock
from llm.common.dvc_lock import hashes
from llm.common.params import flat
from llm.compare.snapshot import REPORTS, Snapshot, changed_files
from llm.tracking import links

MISSING = "(missing)"
CHECK = "check"  # it reads all parameters and all code, so it runs at every change
CODE = (*code.PACKAGES, "dvc.yaml")


@dataclass(frozen=True)
class Change:
    """A value that differs."""

    where: str
    first: Any
    second: Any
    apart: bool = False  # two figures whose difference tells nothing


@dataclass(frozen=True)
class StageChange:
    """A stage whose inputs or outputs differ."""

    name: str
    reasons: tuple[str, ...]  # its inputs that differ
    outputs: tuple[str, ...]  # its outputs that differ


def parameters(first: Snapshot, second: Snapshot) -> list[Change]:
    """Parameters with different values, by dotted key."""
    return _differences(flat(first.params), flat(second.params))


def figures(first: Snapshot, second: Snapshot) -> list[Change]:
    """Values in the JSON reports of metrics that differ; `where` is `finetune_spam: test_accuracy`."""
    return _differences(all_figures(first), all_figures(second))


def stages(first: Snapshot, second: Snapshot) -> list[StageChange]:
    """Stages that ran with other inputs or made other outputs, in the order of dvc.lock, without `check`."""
    names = list(dict.fromkeys([*first.stages, *second.stages]))
    return [found for name in names if name != CHECK and (found := _stage(name, first, second))]


def source_files(first: Snapshot, second: Snapshot) -> list[tuple[str, str]]:
    """Files of code that differ, with the number of added and removed lines."""
    return changed_files(first, second, CODE)


def data(first: Snapshot, second: Snapshot) -> list[Change]:
    """Files that stages read and no stage makes, with another md5."""
    short = [{path: md5[:8] for path, md5 in sources(side).items()} for side in (first, second)]
    return _differences(*short)


def sources(snapshot: Snapshot) -> dict[str, str]:
    """Files that stages read and no stage makes, without code: path and md5."""
    made = links.Links(snapshot.stages)
    read = {path: md5 for stage in snapshot.stages.values() for path, md5 in hashes(stage, "deps").items()}
    return {path: md5 for path, md5 in read.items() if not made.makers(path) and path not in code.PACKAGES}


def all_figures(snapshot: Snapshot) -> dict[str, Any]:
    """Every value in the JSON reports of metrics, as `finetune_spam: test_accuracy`."""
    found: dict[str, Any] = {}
    for path in snapshot.reports:
        if path.endswith(".json") and isinstance(values := snapshot.json(path), dict):
            stage = path.removeprefix(f"{REPORTS}/").removesuffix(".json").removesuffix("/metrics")
            found |= {f"{stage}: {key}": value for key, value in flat(values).items()}
    return found


def same_outputs(first: Snapshot, second: Snapshot, *paths: str) -> bool:
    """Whether dvc.lock has the same md5 for each of these outputs in both states."""
    return all(first.hashes(path, "outs") == second.hashes(path, "outs") for path in paths)


def not_run(snapshot: Snapshot, names: Iterable[str]) -> list[str]:
    """Parameters in params.yaml with which their stage has not run, as one sentence for each stage.

    The stages that the named ones do not need are in one sentence: a profile may change many that nobody has asked for.
    """
    asked = links.needed(snapshot.stages, names)
    found, others = [], []
    for name, stage in snapshot.stages.items():
        changed = [change.where for change in unrun(stage, snapshot.params)]
        if changed and name != CHECK and name in asked:
            found.append(f"{snapshot.title}: {name} has not run with these values yet: {', '.join(changed)}")
        elif changed and name != CHECK:
            others.append(name)
    if others:
        found.append(f"{snapshot.title}: not run with the values in params.yaml yet: {', '.join(others)}")
    return found


def not_rerun(snapshot: Snapshot, names: Iterable[str]) -> list[str]:
    """Stages that have not run since another stage made an input of theirs anew, and those after them, as sentences.

    Only those that the named stages need: DPO may well be of an older model, as `llm repro` does not run it.
    """
    asked = links.needed(snapshot.stages, names)
    stale = {name: paths for name, paths in snapshot.stale.items() if name in asked}
    found = [
        f"{snapshot.title}: {name} has not run since its input {', '.join(paths)} changed"
        for name, paths in stale.items()
        if paths
    ]
    if after := [name for name, paths in stale.items() if not paths]:
        found.append(f"{snapshot.title}: not run on this base, as they come after such a stage: {', '.join(after)}")
    return found


def unrun(stage: Mapping[str, Any], params: Mapping[str, Any]) -> list[Change]:
    """The parameters of a stage in dvc.lock that have other values now."""
    recorded = dvc_lock.parameters(stage)
    now = {key: dvc_lock.lookup(params, key, MISSING) for key in recorded}
    return _differences(flat(recorded), flat(now))


def _stage(name: str, first: Snapshot, second: Snapshot) -> StageChange | None:
    before, after = first.stages.get(name), second.stages.get(name)
    if before is None or after is None:
        return StageChange(name, ("only in " + (second if before is None else first).title,), ())
    reasons = ["command"] if before.get("cmd") != after.get("cmd") else []
    reasons += [change.where for change in _differences(*(flat(dvc_lock.parameters(one)) for one in (before, after)))]
    for change in _differences(hashes(before, "deps"), hashes(after, "deps")):
        reasons.append("code" if change.where.startswith(code.LISTS) else change.where)
    outputs = [change.where for change in _differences(hashes(before, "outs"), hashes(after, "outs"))]
    return StageChange(name, tuple(reasons), tuple(outputs)) if reasons or outputs else None


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*first, *second])
    pairs = ((key, first.get(key, MISSING), second.get(key, MISSING)) for key in keys)
    return [Change(key, before, after) for key, before, after in pairs if before != after]
