"""A trace in a terminal of at most 100 columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from llm.common import code, dvc_lock
from llm.common.params import flat
from llm.compare.history import Artifact, Run
from llm.compare.lineage import Trace, producers
from llm.compare.snapshot import WORKSPACE
from llm.compare.terminal import grid, plain, value
from llm.tracking.lookup import RunFacts

LISTED = 8  # stages that read the artifact
FIGURES = 8  # metrics of the run in MLflow
MINOR = re.compile(r"/|ci95|_n$|without|^lr$|tokens_per_second")  # metrics that are not shown
SHORT = 12  # digits of an md5
Rows = list[tuple[str, str]]


def show(found: Trace, everything: bool, to: Console) -> None:
    """Print a trace; with `everything`, the inputs of the inputs up to the sources, too."""
    artifact = found.named.artifact
    title = f"{artifact.path}  {artifact.md5}"
    to.print(Text(title, style="bold"), soft_wrap=True)
    to.print(_pairs(_about(found)))
    if found.maker:
        _section(to, "Parameters", _pairs(_parameters(found.maker)))
        tree = Tree(Text(f"{artifact.path}  {artifact.md5[:SHORT]}"), guide_style="dim")
        _add_inputs(tree, found, found.maker, everything, {artifact})
        _section(to, "Made from" if everything else "Made from (--all: up to the sources)", tree)
    if found.readers:
        _section(to, "Used by", grid(["stage", "recorded in", "outputs"], _readers(found)))
    if found.facts:
        _section(to, "MLflow", _pairs(_mlflow(found.facts)))
    _section(to, "Held by", _pairs(_held(found)))
    _section(to, "To bring it back", Text(found.note, style="dim") if found.note else Text())
    if found.restore:
        to.print(Text(f"  {found.restore}"), soft_wrap=True)


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = grid(["", ""], rows)
    table.show_header = False
    return table


def _section(to: Console, title: str, body: Any) -> None:
    to.print()
    to.print(Text(title, style="bold"))
    if body:
        to.print(body)


def _about(found: Trace) -> Rows:
    rows = []
    if found.named.within:
        rows += [("the file", f"{found.named.within}  md5 {found.file_md5 or 'unknown'}")]
    if parts := found.makers_of_parts:
        rows += [("made by", f"stage {_names(found, parts)}: each makes a part of it, or it is a part of the output")]
    elif found.maker is None:
        rows += [("made by", "no stage: a source" if found.readers else "a run that no dvc.lock records")]
    else:
        rows += [("made by", f"stage {found.history.name_of(found.maker)}")]
        rows += [("command", str(found.maker.entry.get("cmd")))]
        rows += list(_recorded(found.makers))
    if found.others:
        rows += [("same bytes", ", ".join(dict.fromkeys(one.path for one in found.others)))]
    return rows


def _recorded(makers: list[Run]) -> Iterator[tuple[str, str]]:
    """The states that record the run: the workspace, the first and the last commit, the cache of runs."""
    commits = [run.state for run in makers if run.state.commit]
    here = any(run.state.title == WORKSPACE for run in makers)
    if here:
        yield "recorded in", "dvc.lock of the workspace" + ("" if commits else ", not in a commit yet")
    if commits:
        first, last = commits[-1], commits[0]
        yield "first commit", f"{first.title} {first.date} {plain(first.subject, 60)}"
        if last is not first:
            yield "last commit", f"{last.title} {last.date} {plain(last.subject, 60)} ({len(commits)} in all)"
    elif not here:
        yield "recorded in", f"DVC's cache of runs ({makers[0].state.date}), in no dvc.lock"


def _parameters(run: Run) -> Rows:
    found = flat(dvc_lock.parameters(run.entry))
    return [(key, plain(value(one), 60)) for key, one in found.items()] or [("none", "")]


def _add_inputs(tree: Tree, found: Trace, run: Run, everything: bool, seen: set[Artifact]) -> None:
    """Add the inputs of a run below `tree`; each artifact is opened once."""
    for one in run.artifacts("deps"):
        label = f"{one.path}  {one.md5[:SHORT]}"
        if one.path.startswith(code.LISTS):
            tree.add(Text(f"{label}  its code", style="dim"))
            continue
        made = producers(found.history, one, run)
        by = f"  by {_names(found, made)}" if made else "  a source"
        again = one in seen
        branch = tree.add(Text(label + by + ("  (above)" if again and everything and made else "")))
        seen.add(one)
        for maker in made if everything and not again else ():
            _add_inputs(branch, found, maker, everything, seen)


def _names(found: Trace, runs: Iterable[Run]) -> str:
    return ", ".join(found.history.name_of(run) for run in runs)


def _readers(found: Trace) -> Iterator[tuple[str, str, str]]:
    """The runs that read it: each stage with the outputs that it made, and the newest record of that."""
    runs: dict[tuple[str, ...], list[Run]] = {}
    for run in found.readers:
        outs = [f"{one.path}  {one.md5[:SHORT]}" for one in run.artifacts("outs")]
        runs.setdefault((found.history.name_of(run), *outs), []).append(run)
    rows = list(runs.items())
    for (name, *outs), records in rows[:LISTED]:
        yield name, f"{records[0].state.title} {records[0].state.date}".strip(), "\n".join(outs)
    if len(rows) > LISTED:
        yield f"... {len(rows) - LISTED} more", "", ""


def _mlflow(facts: RunFacts) -> Iterator[tuple[str, str]]:
    yield "run", facts.run_id
    took = "has not ended" if facts.seconds is None else f"{facts.seconds:,.1f} s"
    yield "started", f"{datetime.fromtimestamp(facts.started):%Y-%m-%d %H:%M} by {facts.user or '?'}, {took}"
    if facts.commit:
        yield "code", facts.commit[:12] + (", with changes that were not committed" if facts.dirty else "")
    plain_ones = [name for name in sorted(facts.metrics) if not MINOR.search(name)]
    for name in plain_ones[:FIGURES]:
        yield name, f"{facts.metrics[name]:.6g}"
    if more := len(facts.metrics) - len(plain_ones[:FIGURES]):
        yield f"{more} more figures", "in MLflow (`llm ui`)"


def _held(found: Trace) -> Iterator[tuple[str, str]]:
    held, md5 = found.holders, found.named.artifact.md5
    disk = {None: "no", md5: "yes"}.get(held.disk, f"no: another content is there, md5 {held.disk}")
    yield "disk", disk
    yield "cache", "yes" if held.cache else f"damaged: {held.damaged[0]}" if held.damaged else "no"
    for name, holds in held.remotes.items():
        yield f"remote {name}", ("yes" if holds else "no") if isinstance(holds, bool) else f"not asked: {holds}"
    if not held.remotes:
        yield "remote", "none is set up (`dvc remote add`)"
    if held.commit:
        yield "git", f"yes, commit {held.commit[:12]}"
