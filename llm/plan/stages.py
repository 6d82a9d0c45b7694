"""Which stages `dvc repro` would run, in their order, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common import code, files, params
from llm.common.dvc_lock import hashes
from llm.common.errors import RUNNING, USAGE, UserError
from llm.compare import changes, holders
from llm.compare.history import History, Run
from llm.compare.terminal import value

if TYPE_CHECKING:
    from dvc.repo import Repo

CIRCLE = "a circle, in which a stage would start from its own output"


@dataclass(frozen=True)
class Planned:
    """A stage that would run, or whose outputs DVC would take from its cache of runs."""

    name: str
    reasons: tuple[str, ...]
    cached: bool
    inputs: tuple[str, ...]  # paths
    keys: tuple[str, ...]  # its parameters, such as `pretrain` or `tokenize.spam`


def planned(repo: Repo, targets: Sequence[str]) -> tuple[list[Planned], int]:
    """The stages that would run of all that `targets` need (none: of all), and the number of all these stages.

    Raises UserError for an unknown target, and (code RUNNING) while DVC runs here.
    """
    from dvc.exceptions import CyclicGraphError, DvcException
    from dvc.lock import LockError
    from dvc.repo.reproduce import plan_repro

    try:
        wanted = [one for target in targets for one in repo.stage.collect(target)]
        order = plan_repro(repo.index.graph, wanted or None)
        with repo.lock:
            status = {one.addressing: one.status().get(one.addressing, []) for one in order}
    except LockError:
        raise UserError(str(repo.root_dir), "DVC is running here", "wait until it has ended", RUNNING) from None
    except CyclicGraphError as error:  # such as init_from: models/instruct, to continue from one's own model
        what = f"{str(error).rpartition(': ')[2].rstrip('.')}: {CIRCLE}"
        fix = "copy that model, such as `cp -r models/instruct own-model`, and name the copy"
        raise UserError("params.yaml", what, fix, USAGE) from None
    except DvcException as error:
        raise UserError("dvc.yaml", " ".join(str(error).split()), "see `dvc status`", USAGE) from None
    plan = _Plan(repo, History(Path(repo.cache.legacy.path, "runs")))
    stages = [stage for stage in order if not stage.is_data_source]
    for stage in stages:
        plan.consider(stage, status[stage.addressing])
    return plan.found, len(stages)


class _Plan:
    """Goes through the stages in their order, and knows what those before will have made."""

    def __init__(self, repo: Repo, history: History) -> None:
        self._repo, self._history = repo, history
        self._locked = history.workspace.stages
        self._now = params.load()
        self._made: dict[str, str | None] = {}  # outputs of stages that run: their md5, or None if not known before
        self._by: dict[str, str] = {}
        self._code_changed = True  # until `check` is known to have seen it
        self.found: list[Planned] = []

    def consider(self, stage: Any, status: Sequence[Any]) -> None:
        """Add the stage to `found` if it would run."""
        name = stage.addressing
        entry = self._locked.get(name) or {}
        before = hashes(entry, "deps")
        told = {
            path: how for one in status if isinstance(one, dict) for path, how in one.get("changed deps", {}).items()
        }
        changed = told.keys()
        if name == changes.CHECK:
            self._code_changed = not entry or any(map(_is_code, changed))
        inputs = {dep.def_path: self._input(dep, before, changed) for dep in stage.deps if not _is_params(dep)}
        reasons = list(_own_reasons(status)) if entry else ["it has not run yet"]
        unrun = changes.unrun(entry, self._now)
        reasons += [f"{one.where} {value(one.first)} → {value(one.second)}" for one in unrun]
        gone = [path for path in inputs if told.get(path) == "deleted"]
        missing = [path for path in gone if not _is_code(path) and not self._maker(path)]
        reasons += [f"{path} is missing" for path in missing]
        for path, md5 in inputs.items() if entry else ():
            if path in missing:
                continue
            if md5 is None:
                reasons.append(f"after {self._by[self._maker(path)]}")
            elif before.get(path) != md5:
                reasons.append("code" if _is_code(path) else f"{path} changed")
        if not reasons:
            return
        run = None if missing else self._cached(stage, inputs)
        keys = tuple(str(key) for dep in stage.deps if _is_params(dep) for key in dep.params)
        outs = hashes(run.entry, "outs") if run else {}
        for out in stage.outs:
            self._made[out.def_path], self._by[out.def_path] = outs.get(out.def_path), name
        self.found.append(Planned(name, tuple(dict.fromkeys(reasons)), run is not None, tuple(inputs), keys))

    def _input(self, dep: Any, before: Mapping[str, str], changed: Collection[str]) -> str | None:
        """The md5 that an input will have; None if a stage before makes it and nobody knows what.

        `before` are the md5s in dvc.lock; `changed` are the inputs that DVC found to have others.
        """
        path = str(dep.def_path)
        if path.startswith(code.LISTS):  # changed: `check` has run since, and the stage has not
            known = not self._code_changed and path in before and path not in changed
            return before[path] if known else code.list_md5s([path], Path.cwd())[path]
        if made := self._maker(path):
            return self._made[made] if made == path else None
        if path in before and path not in changed:
            return before[path]
        return files.dvc_md5(path) if Path(path).exists() else str(dep.hash_info.value)

    def _maker(self, path: str) -> str:
        """The output of a stage that runs which is, or holds, the path, or is in it; empty if there is none."""
        above = (one.as_posix() for one in (Path(path), *Path(path).parents))
        inside = (one for one in self._made if one.startswith(f"{path}/"))
        return next((one for one in above if one in self._made), None) or next(inside, "")

    def _cached(self, stage: Any, inputs: Mapping[str, str | None]) -> Run | None:
        """The run in the cache of runs with this command, these parameters and inputs, and all its outputs."""
        if None in inputs.values():
            return None
        cache = self._repo.cache.local
        word = next(iter(inputs.values()), None) or ""
        for run in self._history.runs(word, self._history.cached):
            if run.stage != stage.cmd or hashes(run.entry, "deps") != inputs or changes.unrun(run.entry, self._now):
                continue
            if all(holders.holds(cache, md5) for md5 in hashes(run.entry, "outs").values()):
                return run
        return None


def _own_reasons(status: Iterable[Any]) -> Iterable[str]:
    """What DVC says of the outputs and the command; parameters and inputs are told from dvc.lock, with values."""
    for one in status:
        if isinstance(one, str):
            yield one.replace("changed command", "the command")
            continue
        for path, how in one.get("changed outs", {}).items():
            if how == "deleted" or not Path(path).exists():
                yield f"{path} is missing"
            else:
                yield f"{path} is not in the cache" if how == "not in cache" else f"{path} is not as recorded"


def _is_params(dep: Any) -> bool:
    return type(dep).__name__ == "ParamsDependency"


def _is_code(path: str) -> bool:
    return path.startswith(code.LISTS) or path in code.PACKAGES
