"""How the stages that one dvc.lock records hang together: who made each input, and who ran before an input changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from llm.common.dvc_lock import hashes

Stages = Mapping[str, Mapping[str, Any]]


class Links:
    """The stages by what they wrote."""

    def __init__(self, stages: Stages) -> None:
        self._wrote: dict[str, dict[str, str]] = {}  # path: stage and md5
        self._within: dict[str, dict[str, None]] = {}  # folder: the stages with an output below it
        for name, entry in stages.items():
            for path, md5 in hashes(entry, "outs").items():
                self._wrote.setdefault(path, {})[name] = md5
                for above in PurePath(path).parents:
                    self._within.setdefault(above.as_posix(), {})[name] = None

    def wrote(self, path: str) -> Mapping[str, str]:
        """The stages with exactly this output, each with the md5 of it."""
        return self._wrote.get(path, {})

    def makers(self, path: str, md5: str = "") -> list[str]:
        """The stages with this output; else those with an output above it or below it. None for a source.

        Of several stages with this output, those count that made this md5, if there are any.
        """
        if exact := self.wrote(path):
            return [stage for stage, made in exact.items() if made == md5] or list(exact)
        above = [stage for folder in PurePath(path).parents for stage in self.wrote(folder.as_posix())]
        return list(dict.fromkeys([*above, *self._within.get(path, {})]))


def needed(stages: Stages, names: Iterable[str]) -> set[str]:
    """These stages, and all that come before them."""
    links, found = Links(stages), set[str]()
    more = set(names) & stages.keys()
    while more:
        found |= more
        deps = [dep for name in more for dep in hashes(stages[name], "deps").items()]
        more = {maker for path, md5 in deps for maker in links.makers(path, md5)} - found
    return found


def stale(stages: Stages, others: Iterable[str] = ()) -> dict[str, list[str]]:
    """The stages that have not run since an input changed, as far as dvc.lock tells, each with these inputs.

    An input has changed if the stage that writes it has made another one. Without inputs are the stages that read what
    a stale stage made, and `others` that are known to be stale. Whether a part of a folder changed cannot be told:
    dvc.lock has one md5 for all of it.
    """
    links = Links(stages)
    changed: dict[str, list[str]] = {}
    before: dict[str, set[str]] = {}
    for name, entry in stages.items():
        changed[name], before[name] = [], set()
        for path, md5 in hashes(entry, "deps").items():
            exact = links.wrote(path)
            if exact and md5 not in exact.values():
                changed[name].append(path)
            before[name].update(links.makers(path, md5))
    found = {name for name, paths in changed.items() if paths}.union(others)
    while more := {name for name in stages if name not in found and before[name] & found}:
        found |= more
    return {name: changed[name] for name in stages if name in found}
